//! The rules of a `package.toml` about a machine: `[[detection]]` and `[[requirement]]`.

use super::{
    super::document::{Reader, Table, Value},
    steps::read_environment,
};
use sutler_base::{
    Digest, Invalid, limits,
    manifest::{Detection, Manager, Requirement, VersionRule, requirement::Scalar},
    path::InstallPath,
    quantity::parse_size,
    version::{Ordering, Range},
};

/// The kinds of detection rules, each named by the key that it is about.
const DETECTIONS: &str = "file = \"bin/hello\", command = [\"bin/hello\", \"--version\"], package = \"hello\" and service = \"hello\"";

pub(super) fn read_detection<'a>(r: &mut Reader<'a>, mut table: Table<'a>) -> Option<Detection> {
    let (line, place) = table.place();
    let asked = ["file", "command", "package", "service"].map(|key| r.take(&mut table, key));
    let rule = match asked {
        [Some(file), None, None, None] => {
            let path = r.text(&file);
            let blake3 = r.take(&mut table, "blake3").and_then(|v| r.parsed::<Digest>(&v));
            let sha256 = r.take(&mut table, "sha256").and_then(|v| r.parsed::<Digest>(&v));
            let version = read_version(r, &mut table);
            path.map(|path| Detection::File { path: path.to_owned(), blake3, sha256, version })
        }
        [None, Some(command), None, None] => {
            let argv = r.texts(&command);
            let environment = read_environment(r, &mut table);
            let exit_codes = r.take(&mut table, "exit_codes").and_then(|v| {
                let list = r.list(&v, "a list of exit codes, such as [0]")?;
                Some(list.iter().filter_map(|v| r.number(v, "an exit code")).collect())
            });
            let exit_codes = exit_codes.unwrap_or_else(|| vec![0]);
            let output = r.take(&mut table, "output").and_then(|v| r.text(&v)).map(String::from);
            let version = read_version(r, &mut table);
            let time_limit = r.take(&mut table, "time_limit").and_then(|v| r.seconds(&v)).unwrap_or(limits::DETECTION_SECONDS_DEFAULT);
            argv.map(|argv| Detection::Command { argv, environment, exit_codes, output, version, time_limit })
        }
        [None, None, Some(package), None] => {
            let name = r.text(&package).map(String::from);
            let manager = r.need(&mut table, "manager", "\"dpkg\" or \"rpm\"").and_then(|v| r.word(&v, &Manager::ALL));
            let versions = read_versions(r, &mut table);
            name.zip(manager).map(|(name, manager)| Detection::Package { manager, name, versions })
        }
        [None, None, None, Some(service)] => r.text(&service).map(|name| Detection::Service { name: name.to_owned() }),
        _ => {
            r.problem(line, place, format!("needs one of {DETECTIONS}"));
            return None;
        }
    };
    r.finish(table);
    rule
}

/// `version = { pattern = "…", versions = ">=1.2" }`
fn read_version<'a>(r: &mut Reader<'a>, table: &mut Table<'a>) -> Option<VersionRule> {
    let value = r.take(table, "version")?;
    let mut table = r.table(&value, "a table such as { pattern = 'version (\\S+)', versions = \">=1.2\" }")?;
    let pattern = r.need(&mut table, "pattern", "where the version stands").and_then(|v| r.parsed(&v));
    let versions = r.need(&mut table, "versions", "such as \">=1.2\"").and_then(|v| r.parsed(&v));
    let ordering = r.take(&mut table, "ordering").and_then(|v| r.word(&v, &Ordering::ALL)).unwrap_or_default();
    r.finish(table);
    Some(VersionRule { pattern: pattern?, versions: versions?, ordering })
}

pub(super) fn read_versions<'a>(r: &mut Reader<'a>, table: &mut Table<'a>) -> Range {
    r.take(table, "versions").and_then(|v| r.parsed(&v)).unwrap_or_default()
}

/// The requirements under `key`, if it is there; all of them must hold.
pub(super) fn read_requirements<'a>(r: &mut Reader<'a>, table: &mut Table<'a>, key: &'static str) -> Option<Vec<Requirement>> {
    let value = r.take(table, key)?;
    Some(read_all(r, &value, 0))
}

fn read_all<'a>(r: &mut Reader<'a>, value: &Value<'a>, depth: usize) -> Vec<Requirement> {
    if depth > limits::REQUIREMENTS_DEPTH_MAX {
        r.refuse(value, format!("requirements are nested at most {} deep", limits::REQUIREMENTS_DEPTH_MAX));
        return Vec::new();
    }
    r.tables(value).into_iter().filter_map(|table| read_requirement(r, table, depth)).collect()
}

/// The kinds of requirements, each named by the key that it is about.
const REQUIREMENTS: &str = "os = [\"debian\"], arch = [\"x86_64\"], memory = \"2GiB\", free_disk = \"1GiB\", package_manager = \"dpkg\", \
                            software = \"libc6\", fact = \"cpu.count\", any = [{…}, {…}] and all = [{…}, {…}]";

fn read_requirement<'a>(r: &mut Reader<'a>, mut table: Table<'a>, depth: usize) -> Option<Requirement> {
    let (line, place) = table.place();
    let keys = ["os", "arch", "memory", "free_disk", "package_manager", "software", "fact", "any", "all"];
    let mut asked: Vec<(&str, Value<'a>)> = keys.iter().filter_map(|key| Some((*key, r.take(&mut table, key)?))).collect();
    let (Some((key, value)), true) = (asked.pop(), asked.is_empty()) else {
        r.problem(line, place, format!("needs one of {REQUIREMENTS}"));
        return None;
    };
    let rule = match key {
        "os" => {
            let versions = read_versions(r, &mut table);
            r.texts(&value).map(|ids| Requirement::Os { ids, versions })
        }
        "arch" => r.texts(&value).map(|any_of| Requirement::Arch { any_of }),
        "memory" => read_size(r, &value).map(|at_least| Requirement::Memory { at_least }),
        "free_disk" => {
            let path = r.take(&mut table, "path").and_then(|v| r.parsed::<InstallPath>(&v));
            read_size(r, &value).map(|at_least| Requirement::FreeDisk { at_least, path })
        }
        "package_manager" => r.word(&value, &Manager::ALL).map(|manager| Requirement::PackageManager { manager }),
        "software" => {
            let name = r.text(&value).map(String::from);
            let manager = r.need(&mut table, "manager", "\"dpkg\", \"rpm\" or \"sutler\"").and_then(|v| r.word(&v, &Manager::ALL));
            let versions = read_versions(r, &mut table);
            let absent = r.take(&mut table, "absent").and_then(|v| r.truth(&v)).unwrap_or_default();
            name.zip(manager).map(|(name, manager)| Requirement::Software { manager, name, versions, absent })
        }
        "fact" => {
            let fact = r.text(&value).map(String::from);
            let one_of = r.take(&mut table, "one_of").and_then(|v| {
                let list = r.list(&v, "a list of values, such as [\"berlin\", \"paris\"]")?;
                Some(list.iter().filter_map(|v| read_scalar(r, v)).collect())
            });
            let at_least = r.take(&mut table, "at_least").and_then(|v| r.number(&v, "a whole number"));
            let at_most = r.take(&mut table, "at_most").and_then(|v| r.number(&v, "a whole number"));
            let matches = r.take(&mut table, "matches").and_then(|v| r.parsed(&v));
            fact.map(|fact| Requirement::Fact { fact, one_of: one_of.unwrap_or_default(), at_least, at_most, matches })
        }
        "any" => Some(Requirement::Any { of: read_all(r, &value, depth + 1) }),
        _ => Some(Requirement::All { of: read_all(r, &value, depth + 1) }),
    };
    r.finish(table);
    rule
}

fn read_size<'a>(r: &mut Reader<'a>, value: &Value<'a>) -> Option<u64> {
    match parse_size(r.text(value)?) {
        Ok(size) => Some(size),
        Err(Invalid(why)) => {
            r.refuse(value, why);
            None
        }
    }
}

fn read_scalar<'a>(r: &mut Reader<'a>, value: &Value<'a>) -> Option<Scalar> {
    let scalar = value.scalar();
    if scalar.is_none() {
        r.refuse(value, "must be a text, a whole number, true or false");
    }
    scalar
}
