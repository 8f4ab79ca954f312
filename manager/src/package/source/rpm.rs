//! A package of rpm: it becomes a package whose only file is the `.rpm` itself, which rpm installs on the machine.
//!
//! The file is kept on the machine as a `.deb` is, for the same reasons. Its header lists what its payload holds; here the
//! payload is read, too, and both must agree. rpm waits for its lock by itself, so its steps need no meaning for that.

use super::{
    Draft, Refused, SourceLimits, Wanted,
    cpio::Cpio,
    packed::{Bounded, MAGIC, Packing, fill},
    rpm_header::{self, Header},
    software::{self, Architecture},
    tree::{Root, Tree, shown},
};
use crate::package::definition::Definition;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Read},
};
use sutler_base::{
    Invalid, PackageName, Version,
    limits::PATH_MAX,
    manifest::{Detection, Manager, Phase, Requirement, Step, requirement},
    quoted, told,
    version::{Ordering, Range, Relation},
};

/// The file's name in the package.
pub(super) const FILE: &str = "package.rpm";

/// The numbers of the tags.
mod tag {
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const EPOCH: u32 = 1003;
    pub(super) const SUMMARY: u32 = 1004;
    pub(super) const SIZE: u32 = 1009;
    pub(super) const LONG_SIZE: u32 = 5009;
    pub(super) const OS: u32 = 1021;
    pub(super) const ARCH: u32 = 1022;
    pub(super) const PAYLOAD_FORMAT: u32 = 1124;
    pub(super) const PROVIDES: u32 = 1047;
    /// Names, flags and versions.
    pub(super) const REQUIRES: [u32; 3] = [1049, 1048, 1050];
    pub(super) const CONFLICTS: [u32; 3] = [1054, 1053, 1055];
    pub(super) const FOLDER_OF_FILE: u32 = 1116;
    pub(super) const BASE_NAMES: u32 = 1117;
    pub(super) const FOLDERS: u32 = 1118;
    pub(super) const FILE_FLAGS: u32 = 1037;
}

/// A file that the package owns but does not hold.
const GHOST: u64 = 1 << 6;
/// What a relation's flags say.
const LESS: u64 = 1 << 1;
const GREATER: u64 = 1 << 2;
const EQUAL: u64 = 1 << 3;
const MISSING_IS_FINE: u64 = 1 << 19;
const RPM_ITSELF: u64 = 1 << 24;
const CONFIGURATION: u64 = 1 << 28;

fn in_header(what: &str, why: impl Into<String>) -> Refused {
    Refused { entry: Some(format!("header, {what}")), why: why.into() }
}

/// Reads an `.rpm` of so many bytes; `called` is the file's own name.
pub(super) fn read(mut file: impl Read, length: u64, wanted: &Wanted, called: &str, bounds: &SourceLimits) -> Result<Draft, Refused> {
    let header = rpm_header::read(&mut file)?;
    if header.text(tag::PAYLOAD_FORMAT)?.is_some_and(|format| format != "cpio") {
        return Err(in_header("payload format", "only a payload in cpio is read; is it a delta package?"));
    }
    let mut listed = listed(&header)?;
    let mut head = [0; MAGIC];
    let n = fill(&mut file, &mut head).map_err(|e| Refused::whole(told(&e)))?;
    let packing = Packing::of(&head[..n])?;
    let packed = Cursor::new(head).take(n as u64).chain(file);
    let mut cpio = Cpio::new(Bounded::new(packing.undo(packed)?, length.saturating_sub(header.length), bounds));
    let mut payload = Tree::new(Root::Machine, bounds);
    while let Some(member) = cpio.next()? {
        let Some(path) = payload.add(&member)? else { continue };
        if listed.remove(path.as_str()).is_none() {
            return Err(Refused { entry: Some(shown(&member.name)), why: "is in the payload, but the header does not list it".into() });
        }
    }
    if let Some((path, _)) = listed.iter().find(|(_, ghost)| !**ghost) {
        return Err(Refused { entry: Some(quoted(path)), why: "is listed in the header, but is not in the payload".into() });
    }
    define(&header, &payload, wanted, called)
}

/// The paths that the header lists, below the root, and whether the package only owns them.
fn listed(header: &Header) -> Result<BTreeMap<String, bool>, Refused> {
    let (names, folders) = (header.texts(tag::BASE_NAMES)?, header.texts(tag::FOLDERS)?);
    let (of_file, flags) = (header.numbers(tag::FOLDER_OF_FILE)?, header.numbers(tag::FILE_FLAGS)?);
    if names.len() != of_file.len() {
        return Err(in_header("files", "not every file has a folder"));
    }
    let mut all = BTreeMap::new();
    for (n, (name, folder)) in names.iter().zip(of_file).enumerate() {
        let folder = usize::try_from(folder).ok().and_then(|folder| folders.get(folder));
        let folder = folder.ok_or_else(|| in_header("files", format!("{} is in a folder that is not listed", quoted(name))))?;
        if folder.len() + name.len() > PATH_MAX {
            return Err(in_header("files", format!("{} has a longer path than one can be", quoted(name))));
        }
        let path = format!("{folder}{name}");
        let Some(path) = path.strip_prefix('/') else { return Err(in_header("files", format!("{} is not absolute", quoted(&path)))) };
        all.insert(path.trim_end_matches('/').to_owned(), flags.get(n).is_some_and(|flags| flags & GHOST != 0));
    }
    Ok(all)
}

/// A name with the versions of it that are meant.
struct Related {
    name: String,
    flags: u64,
    versions: Option<Range>,
}

fn relations(header: &Header, [names, flags, versions]: [u32; 3]) -> Result<Vec<Related>, Refused> {
    let (flags, versions) = (header.numbers(flags)?, header.texts(versions)?);
    let related = |(n, name): (usize, String)| {
        let flags = flags.get(n).copied().unwrap_or_default();
        let sign = match (flags & LESS != 0, flags & GREATER != 0, flags & EQUAL != 0) {
            (true, false, false) => Some(Relation::Before),
            (true, false, true) => Some(Relation::AtMost),
            (false, true, false) => Some(Relation::After),
            (false, true, true) => Some(Relation::AtLeast),
            (false, false, true) => Some(Relation::Exactly),
            _ => None,
        };
        let versions = match (sign, versions.get(n).filter(|v| !v.is_empty())) {
            (Some(sign), Some(version)) => version.parse().ok().map(|version| Range::of(sign, version)),
            _ => Some(Range::any()),
        };
        Related { name, flags, versions }
    };
    Ok(header.texts(names)?.into_iter().enumerate().map(related).collect())
}

/// The package that the header describes.
fn define(header: &Header, payload: &Tree, wanted: &Wanted, called: &str) -> Result<Draft, Refused> {
    let need = |what: &str, tag| header.text(tag)?.filter(|text| !text.is_empty()).ok_or_else(|| in_header(what, "is missing"));
    let (own, version, release) = (need("name", tag::NAME)?, need("version", tag::VERSION)?, need("release", tag::RELEASE)?);
    let epoch = header.numbers(tag::EPOCH)?.first().map(|epoch| format!("{epoch}:")).unwrap_or_default();
    let full: Version = format!("{epoch}{version}-{release}").parse().map_err(|e: Invalid| in_header("version", e.0))?;
    if header.text(tag::OS)?.is_some_and(|os| os != "linux") {
        return Err(in_header("os", "it is for another operating system than Linux"));
    }
    let architecture = need("architecture", tag::ARCH)?;
    let machine = Architecture::of_rpm(&architecture)
        .ok_or_else(|| in_header("architecture", format!("{} is no architecture that an agent runs on", quoted(&architecture))))?;
    let mut notes: Vec<String> = Vec::new();
    named_truly(called, &own, &architecture)?;
    // Sutler's names are lower case and have no underscore; rpm's own name stays in the commands.
    let ours = own.to_lowercase().replace('_', "-");
    let name: PackageName = match &wanted.name {
        Some(name) => name.clone(),
        None => ours.parse().map_err(|e: Invalid| in_header("name", e.0))?,
    };
    let mut definition = Definition::new(name, full.clone());
    if wanted.name.is_none() && ours != own {
        notes.push(format!("is called {ours} here: {} has characters that no package's name has", quoted(&own)));
    }
    let detection = Detection::Package { manager: Manager::Rpm, name: own.clone(), versions: Range::of(Relation::Exactly, full) };
    let rpm = Requirement::Software { manager: Manager::Rpm, name: own.clone(), versions: Range::any(), absent: false };
    // The name is put into command lines: by the rule for all names of software.
    requirement::check(std::slice::from_ref(&rpm)).map_err(|e| in_header("name", e.0))?;
    definition.requirements = requirements(header, payload, machine, &own, &mut notes)?;
    definition.ordering = Ordering::Rpm;
    definition.description = super::sentence(&header.text(tag::SUMMARY)?.unwrap_or_default());
    definition.platform = machine.platform();
    definition.directory = Some(software::directory(&definition.name).map_err(|e| in_header("name", e.0))?);
    definition.steps = steps(&own);
    definition.detection = vec![detection];
    definition.restore = true;
    notes.extend(software::privileged(payload));
    Ok(Draft { definition, at: FILE.to_owned(), mode: 0o644, notes })
}

fn requirements(
    header: &Header,
    payload: &Tree,
    machine: Architecture,
    own: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Requirement>, Refused> {
    let provided: BTreeSet<String> = header.texts(tag::PROVIDES)?.into_iter().collect();
    let itself = |name: &str| name == own || provided.contains(name) || name.strip_prefix('/').is_some_and(|path| payload.has_file(path));
    let mut all = vec![Requirement::PackageManager { manager: Manager::Rpm }];
    all.extend(machine.requirement());
    let mut left_to_rpm = 0;
    for (tags, absent) in [(tag::REQUIRES, false), (tag::CONFLICTS, true)] {
        for Related { name, flags, versions } in relations(header, tags)? {
            if flags & (MISSING_IS_FINE | RPM_ITSELF | CONFIGURATION) != 0 || name.starts_with("rpmlib(") || name.starts_with("config(") {
                continue;
            }
            if itself(&name) {
                continue;
            }
            let rule = versions.map(|versions| Requirement::Software { manager: Manager::Rpm, name, versions, absent });
            match rule {
                Some(rule) if requirement::check(std::slice::from_ref(&rule)).is_ok() => all.push(rule),
                _ => left_to_rpm += 1,
            }
        }
    }
    if left_to_rpm > 0 {
        notes.push(format!("{left_to_rpm} of its dependencies are such that only rpm decides them, when it installs (as \"(A if B)\")"));
    }
    let size = [header.numbers(tag::LONG_SIZE)?, header.numbers(tag::SIZE)?].concat().first().copied().unwrap_or_else(|| payload.total());
    all.extend(software::installed_size(size, payload));
    Ok(software::bounded(all, notes))
}

fn steps(own: &str) -> Vec<Step> {
    let step = |name: &str, phase, arguments: &[&str]| {
        Step::new(name, phase, ["/usr/bin/rpm"].iter().chain(arguments).map(|word| (*word).to_owned()).collect())
    };
    vec![
        step("install", Phase::Install, &["--upgrade", "--replacepkgs", FILE]),
        step("uninstall", Phase::Uninstall, &["--erase", own]),
        step("restore", Phase::Restore, &["--upgrade", "--oldpackage", "--replacepkgs", FILE]),
    ]
}

/// Refuses a file that is named for another package (`NAME-VERSION-RELEASE.ARCHITECTURE.rpm`).
fn named_truly(called: &str, own: &str, architecture: &str) -> Result<(), Refused> {
    let stem = called.strip_suffix(".rpm").and_then(|stem| stem.strip_suffix(architecture)?.strip_suffix('.'));
    let mut parts = stem.unwrap_or_default().rsplitn(3, '-');
    let (Some(_), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next()) else { return Ok(()) };
    if name == own || !version.starts_with(|c: char| c.is_ascii_digit()) || own.starts_with(&format!("{name}-")) {
        return Ok(());
    }
    Err(in_header(
        "name",
        format!("it says that it is {}, but the file is named for {}; rename it if that is right", quoted(own), quoted(name)),
    ))
}
