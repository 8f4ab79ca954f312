//! What the reading of `package.toml` promises.

use super::*;
use sutler_base::manifest::ExitMeaning;

fn parse(text: &str) -> Result<Definition, DefinitionError> {
    Definition::parse(Path::new("x/package.toml"), text)
}

fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Err(DefinitionError::Problems(problems)) => problems.list.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_examples_are_definitions_and_mean_what_they_say() {
    let example = parse(crate::package::EXAMPLE).unwrap();
    assert_eq!(example.platform, Platform { os: "linux".into(), arch: "any".into() });
    assert_eq!((example.files.unwrap().as_str(), example.exclude.len()), ("files", 2));
    let step = &example.steps[1];
    assert_eq!(
        (step.time_limit, step.phase, step.meaning(75), step.meaning(9)),
        (120, Phase::Install, ExitMeaning::Retry, ExitMeaning::Failure)
    );
    assert_eq!(step.environment["HELLO_GREETING"], "${greeting}");
    assert_eq!(example.parameters.values().next().unwrap().default.as_deref(), Some("Hello"));
    assert_eq!((example.requirements.len(), example.logs.len(), example.restore, example.duration), (3, 1, true, Some(300)));
    assert!(example.steps[2].continue_on_failure && example.steps[2].phase == Phase::After);
    assert!(matches!(&example.detection[1], Detection::Command { time_limit: 10, exit_codes, .. } if exit_codes == &[0]));
    assert_eq!(parse(MINIMAL).unwrap().steps[0].time_limit, limits::STEP_SECONDS_DEFAULT);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_line_and_what_is_allowed() {
    let text = r#"
name = "Upper Case"
releas = 3
directory = "/usr"
expires = "tomorrow"
[platform]
arch = 64
[[step]]
phase = "later"
time_limit = "5 minutes"
exit_codes = { 0 = "fine", x = "retry" }
[[step]]
name = "two"
argv = "/bin/true --now"
[[detection]]
[[detection]]
file = "a"
output = "b"
"#;
    let found = problems(text);
    for wanted in [
        "line 2: name: a package's name has",
        "version: is missing; for example",
        "line 3: \"releas\": is not a key here; allowed are name, version, release,",
        "line 4: directory: /usr belongs to the system",
        "line 5: expires: must be a moment",
        "line 7: platform.arch: must be a text in quotes, not a whole number",
        "line 8: step 1: name: is missing",
        "line 9: step 1: phase: must be one of \"before\", \"install\", \"after\", \"onerror\", \"uninstall\", \"restore\", not \"later\"",
        "line 8: step 1: argv: is missing",
        "line 10: step 1: time_limit: must be a length of time",
        "line 11: step 1: exit_codes.\"0\": must be one of \"success\", \"reboot_soft\", \"reboot_hard\", \"retry\", \"failure\", not \"fine\"",
        "line 11: step 1: exit_codes.\"x\": an exit code is a whole number",
        "line 14: step 2 (\"two\"): argv: must be a list of texts",
        "line 15: detection 1: needs one of file",
        "line 18: detection 2: \"output\": is not a key here; allowed are file, command, package, service, blake3",
    ] {
        assert!(found.iter().any(|p| p.starts_with(wanted)), "{wanted:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), 15, "{found:#?}");
    let said = parse(text).unwrap_err().to_string();
    assert!(said.starts_with("x/package.toml: 15 things to mend:\n  version: is missing"), "{said}");
}

#[test]
fn an_empty_definition_names_all_that_it_needs() {
    let found = problems("");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("name: is missing") && found[1].starts_with("version: is missing") && found[2].starts_with("directory: "));
}

#[test]
fn rules_that_span_keys_are_checked_before_any_file_is_read() {
    let base = "name = \"a\"\nversion = \"1\"\n";
    let twice = "[[step]]\nname = \"s\"\nargv = [\"/x\"]\n".repeat(2);
    assert!(problems(&format!("{base}{twice}"))[0].contains("two steps are called"));
    let long = "[[step]]\nname = \"s\"\nargv = [\"/x\"]\ntime_limit = \"25h\"\n";
    assert!(problems(&format!("{base}{long}"))[0].contains("time limit"));
    let relative = "[[step]]\nname = \"s\"\nargv = [\"/x\"]\n[[detection]]\nfile = \"a\"\n";
    assert!(problems(&format!("{base}{relative}"))[0].contains("has no directory"));
}

#[test]
fn lengths_of_time_are_read_in_three_units_and_as_seconds() {
    let with = |limit: &str| {
        parse(&format!("name=\"a\"\nversion=\"1\"\n[[step]]\nname=\"s\"\nargv=[\"/x\"]\ntime_limit={limit}\n"))
            .map(|d| d.steps[0].time_limit)
    };
    for (text, seconds) in [("\"90s\"", 90), ("\"5m\"", 300), ("\"1h\"", 3600), ("\"7\"", 7), ("45", 45), ("0x10", 16)] {
        assert_eq!(with(text).unwrap(), seconds, "{text}");
    }
    for bad in ["\"\"", "\"h\"", "\"-5s\"", "\"+5s\"", "-1", "1.5", "\"99999999h\"", "\"é\"", "0"] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    let said = parse("name = \"a\"\nversion = \n").unwrap_err().to_string();
    assert!(said.starts_with("x/package.toml, line 2: "), "{said}");
}

#[test]
fn a_folder_without_a_definition_is_told_how_to_write_one() {
    let dir = tempfile::tempdir().unwrap();
    let said = Definition::load(dir.path()).unwrap_err().to_string();
    assert!(said.contains("has no package.toml") && said.contains(MINIMAL), "{said}");
    assert!(matches!(Definition::load(&dir.path().join("no")), Err(DefinitionError::NoFolder(_))));
}

#[test]
fn rules_relations_and_parameters_are_read_and_what_is_wrong_with_them_is_named() {
    let head = "name = \"x\"\nversion = \"1\"\ndirectory = \"/opt/x\"\n";
    let read = |tail: &str| parse(&format!("{head}{tail}")).unwrap();
    let definition = read(
        r#"
[[requirement]]
any = [{ software = "libc6", manager = "dpkg", versions = ">=2.36" }, { all = [{ memory = "2GiB" }, { fact = "own.site", one_of = ["a", 1, true] }] }]
[[depends_on]]
package = "y"
versions = ">=1, <2"
[[supersedes]]
package = "z"
uninstall = true
[parameters.port]
pattern = "[0-9]+"
[[detection]]
package = "x"
manager = "dpkg"
[[detection]]
service = "x"
[[step]]
name = "run"
argv = ["bin/x", "--port=${port}"]
user = "nobody"
phase = "uninstall"
"#,
    );
    assert_eq!(definition.requirements[0].to_string(), "libc6 >=2.36 of dpkg or (2.0 GiB of memory and own.site \"a\" or 1 or true)");
    assert_eq!(definition.depends_on[0].versions.to_string(), ">=1, <2");
    assert_eq!(definition.steps[0].phase, Phase::Uninstall);
    assert_eq!(definition.detection.len(), 2);
    // An agent that knows none of these would install what is not to be: it must refuse the package.
    assert_eq!(definition.manifest(1, Vec::new()).critical, ["requirements", "depends_on", "supersedes", "parameters"]);
    for (tail, wanted) in [
        ("[[requirement]]\nmemory = \"1GiB\"\narch = [\"x\"]\n", "requirement 1: needs one of os"),
        ("[[requirement]]\nmemory = \"much\"\n", "requirement 1: memory: a size is a whole number"),
        ("[[requirement]]\nsoftware = \"a\"\n", "requirement 1: manager: is missing; \"dpkg\", \"rpm\" or \"sutler\""),
        ("[[depends_on]]\npackage = \"x\"\n", "the package: the package depends on itself"),
        ("[[depends_on]]\npackage = \"y\"\nversions = \"2\"\n", "depends_on 1: versions: a range of versions is like"),
        ("[parameters.Port]\npattern = \"x\"\n", "a parameter's name has"),
        ("[parameters.port]\npattern = \"(\"\n", "is not a regular expression"),
        ("[parameters.port]\npattern = \"[0-9]\"\ndefault = \"80\"\n", "does not match the publisher's pattern"),
        ("[parameters.port]\npattern = \"x\"\n[[step]]\nname = \"a\"\nargv = [\"/bin/${port}\"]\n", "must not be a parameter's value"),
        ("[[detection]]\nservice = \"../x\"\n", "a service's name has"),
        ("[[supersedes]]\npackage = \"x\"\n", "the package supersedes itself"),
        ("[[depends_on]]\npackage = \"y\"\n[[supersedes]]\npackage = \"y\"\n", "depends on y and supersedes it"),
    ] {
        let found = problems(&format!("{head}{tail}"));
        assert!(found.iter().any(|p| p.contains(wanted)), "{wanted:?} is not in {found:#?}");
    }
    let no_way_back = "name = \"x\"\nversion = \"1\"\nrestore = true\n[[step]]\nname = \"a\"\nargv = [\"/bin/true\"]\n";
    assert!(problems(no_way_back)[0].contains("restore: nothing can be put back"));
    assert!(parse(&format!("{no_way_back}[[step]]\nname = \"b\"\nphase = \"restore\"\nargv = [\"/bin/true\"]\n")).is_ok());
}

#[test]
fn what_is_written_reads_back_as_itself() {
    let more = r#"
release = 7
expires = 2099-12-31T00:00:00Z
exclude = ["**/x", "*.o"]
[[depends_on]]
package = "y"
versions = ">=1, <2"
[[requirement]]
fact = "own.site"
one_of = ["a\"b", 1, true]
at_least = -3
at_most = 9
matches = '\d+'
[[requirement]]
all = [{ arch = ["x86_64"] }, { os = ["debian"], versions = ">=12" }]
[[requirement]]
free_disk = "1GiB"
path = "/srv/x"
[[step]]
name = "quote \" and \\ and é"
phase = "onerror"
argv = ["/bin/echo", "", "a\tb\u0007"]
environment = { LANG = "C" }
user = "nobody"
exit_codes = { 0 = "success", 3 = "reboot_hard" }
[[detection]]
file = "/etc/x"
sha256 = "0000000000000000000000000000000000000000000000000000000000000001"
version = { pattern = "v(.+)", versions = ">1", ordering = "semver" }
[[detection]]
service = "x"
[[detection]]
command = ["/bin/x"]
exit_codes = [0, 3]
time_limit = "10s"
[[detection]]
package = "x"
manager = "rpm"
"#;
    let head = "name = \"x\"\nversion = \"1\"\ndirectory = \"/opt/x\"\n";
    for text in [crate::package::EXAMPLE.to_owned(), format!("{head}{more}")] {
        let definition = parse(&text).unwrap();
        let written = definition.to_toml();
        assert_eq!(parse(&written).unwrap(), definition, "{written}");
    }
}
