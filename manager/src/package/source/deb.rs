//! A Debian package: it becomes a package whose only file is the `.deb` itself, which dpkg installs on the machine.
//!
//! Source: deb(5). The file is kept below [`CACHE`] until another version is there: chunks of it are reused for the next one, and
//! when that fails the exchange of trees brings the old `.deb` back, which the step of the phase `restore` installs again.
//! What is in it is only read here, to refuse what is hostile and to say what it needs; dpkg unpacks it on the machine.
//!
//! dpkg ends with 2 where it could not work at all, nearly always since another program holds its lock, as the machine's own
//! nightly upgrades do: that is tried again. What it refuses for a reason of the package ends with 1.

use super::{
    Draft, Refused, SourceLimits, Wanted, ar,
    control::{Control, Related},
    packed::{Bounded, MAGIC, Packing, fill},
    software::{self, Architecture},
    tar::Tar,
    tree::{Kind, Root, Tree, shown},
};
use crate::package::definition::Definition;
use std::{
    collections::BTreeSet,
    io::{Cursor, Read},
};
use sutler_base::{
    PackageName, Version,
    manifest::{Detection, ExitMeaning, Manager, Phase, Requirement, Step},
    quoted, told,
    version::{Ordering, Range, Relation},
};

/// The file's name in the package.
pub(super) const FILE: &str = "package.deb";
/// The longest `control` (bytes).
const CONTROL_MAX: u64 = 1 << 20;

/// Reads a `.deb` of so many bytes; `called` is the file's own name.
pub(super) fn read(mut file: impl Read, length: u64, wanted: &Wanted, called: &str, bounds: &SourceLimits) -> Result<Draft, Refused> {
    let mut magic = [0; ar::MAGIC.len()];
    fill(&mut file, &mut magic).map_err(|e| Refused::whole(told(&e)))?;
    let mut left = length.saturating_sub(magic.len() as u64);
    let (mut version, mut control, mut payload) = (false, None, None);
    while let Some((name, size)) = ar::member(&mut file)? {
        let odd = size % 2;
        left = left.saturating_sub(60);
        let refuse = |why: &str| Refused { entry: Some(quoted(&name)), why: why.into() };
        if size > left {
            return Err(refuse("says that it is longer than the file"));
        }
        let mut content = (&mut file).take(size);
        match name.as_str() {
            "debian-binary" if !version && control.is_none() => {
                let mut text = [0; 16];
                let n = fill(&mut content, &mut text).map_err(|e| Refused::whole(told(&e)))?;
                if !text[..n].starts_with(b"2.") {
                    return Err(refuse("is not of version 2, which is the only one that dpkg writes"));
                }
                version = true;
            }
            _ if name.starts_with("control.tar") && version && control.is_none() => {
                control = Some(read_control(&mut content, size, bounds)?)
            }
            _ if name.starts_with("data.tar") && control.is_some() && payload.is_none() => {
                let (packed, packing) = unpacking(&mut content)?;
                let mut tar = Tar::new(Bounded::new(packing.undo(packed)?, size, bounds));
                let mut tree = Tree::new(Root::Machine, bounds);
                while let Some(member) = tar.next()? {
                    tree.add(&member)?;
                }
                drop(tar);
                payload = Some(tree);
            }
            _ if name.starts_with('_') && version => {}
            _ => return Err(refuse("has no place there; a Debian package has debian-binary, control.tar and data.tar, each once")),
        }
        std::io::copy(&mut content, &mut std::io::sink()).map_err(|e| Refused::whole(told(&e)))?;
        let padding = std::io::copy(&mut (&mut file).take(odd), &mut std::io::sink()).map_err(|e| Refused::whole(told(&e)))?;
        left = left.saturating_sub(size + padding);
    }
    match (control, payload) {
        (Some(control), Some(payload)) => define(&control, &payload, wanted, called),
        _ => Err(Refused::whole("it is no Debian package: it lacks its control.tar or its data.tar")),
    }
}

/// The bytes again, and how they are packed.
fn unpacking<R: Read>(content: &mut R) -> Result<(impl Read + use<'_, R>, Packing), Refused> {
    let mut head = [0; MAGIC];
    let n = fill(content, &mut head).map_err(|e| Refused::whole(told(&e)))?;
    let packing = Packing::of(&head[..n])?;
    Ok((Cursor::new(head).take(n as u64).chain(content), packing))
}

/// The fields of `control`; the scripts beside it are dpkg's affair.
fn read_control(content: &mut impl Read, size: u64, bounds: &SourceLimits) -> Result<Control, Refused> {
    let (packed, packing) = unpacking(content)?;
    let mut tar = Tar::new(Bounded::new(packing.undo(packed)?, size, bounds));
    let (mut tree, mut control) = (Tree::new(Root::Package, bounds), None);
    while let Some(member) = tar.next()? {
        let path = tree.add(&member)?;
        let refuse = |why: &str| Refused { entry: Some(shown(&member.name)), why: why.into() };
        match (&member.kind, path) {
            (Kind::Folder, None) => {}
            (Kind::File, Some(path)) if path.as_str() == "control" => control = Some(Control::parse(&tar.content(CONTROL_MAX)?)?),
            (Kind::File, Some(path)) if !path.as_str().contains('/') => {}
            _ => return Err(refuse("has no place among a Debian package's own files")),
        }
    }
    control.ok_or_else(|| Refused::whole("it is no Debian package: there is no control in its control.tar"))
}

/// The package that the fields describe.
fn define(control: &Control, payload: &Tree, wanted: &Wanted, called: &str) -> Result<Draft, Refused> {
    let refuse = |field: &str, why: String| Refused { entry: Some(format!("control, field {field}")), why };
    let own = control.need("Package")?;
    let name: PackageName = own.parse().map_err(|e: sutler_base::Invalid| refuse("Package", e.0))?;
    let version: Version = control.need("Version")?.parse().map_err(|e: sutler_base::Invalid| refuse("Version", e.0))?;
    let architecture = control.need("Architecture")?;
    let machine = Architecture::of_debian(architecture)
        .ok_or_else(|| refuse("Architecture", format!("{} is no architecture that an agent runs on", quoted(architecture))))?;
    let mut notes = named_truly(called, own, version.as_str())?;
    let mut requirements = vec![Requirement::PackageManager { manager: Manager::Dpkg }];
    requirements.extend(machine.requirement());
    for field in ["pre-depends", "depends"] {
        for mut group in control.relations(field)? {
            requirements.push(match (group.pop(), group.is_empty()) {
                (Some(only), true) => only.rule(false),
                (Some(last), false) => Requirement::Any { of: group.into_iter().chain([last]).map(|r| r.rule(false)).collect() },
                (None, _) => continue,
            });
        }
    }
    let names = |field| -> Result<BTreeSet<String>, Refused> {
        Ok(control.relations(field)?.into_iter().flatten().map(|related: Related| related.name).collect())
    };
    // That it conflicts with what it provides means: with everybody else who does. Its own older version is not meant, nor is
    // what it takes the place of: dpkg removes that itself.
    let (provided, replaced) = (names("provides")?, names("replaces")?);
    for (field, passed_over) in [("conflicts", Some(&replaced)), ("breaks", None)] {
        for related in control.relations(field)?.into_iter().flatten() {
            let itself = related.name == own || provided.contains(&related.name);
            if !itself && passed_over.is_none_or(|names| !names.contains(&related.name)) {
                requirements.push(related.rule(true));
            }
        }
    }
    let kib = control.get("installed-size").and_then(|size| size.parse::<u64>().ok()).unwrap_or(payload.total() / 1024);
    requirements.extend(software::installed_size(kib.saturating_mul(1024), payload));
    if control.get("essential") == Some("yes") {
        notes.push("dpkg takes it for essential, and will not remove it".into());
    }
    let mut definition = Definition::new(wanted.name.clone().unwrap_or(name), version.clone());
    definition.ordering = Ordering::Dpkg;
    definition.description = super::sentence(control.get("description").unwrap_or_default());
    definition.platform = machine.platform();
    definition.requirements = software::bounded(requirements, &mut notes);
    definition.directory = Some(software::directory(&definition.name).map_err(|e| refuse("Package", e.0))?);
    definition.steps = steps(own);
    definition.detection =
        vec![Detection::Package { manager: Manager::Dpkg, name: own.to_owned(), versions: Range::of(Relation::Exactly, version) }];
    definition.restore = true;
    notes.extend(software::privileged(payload));
    Ok(Draft { definition, at: FILE.to_owned(), mode: 0o644, notes })
}

fn steps(own: &str) -> Vec<Step> {
    let step = |name: &str, phase, arguments: &[&str]| {
        let argv = ["/usr/bin/dpkg"].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
        let mut step = Step::new(name, phase, argv);
        step.environment = [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())].into();
        step.exit_codes = [(0, ExitMeaning::Success), (2, ExitMeaning::Retry)].into();
        step
    };
    vec![
        step("install", Phase::Install, &["--force-confdef", "--force-confold", "--install", FILE]),
        step("uninstall", Phase::Uninstall, &["--remove", own]),
        step("restore", Phase::Restore, &["--force-confdef", "--force-confold", "--force-downgrade", "--install", FILE]),
    ]
}

/// Refuses a file that is named for another package (`NAME_VERSION_ARCHITECTURE.deb`), and tells of another version.
fn named_truly(called: &str, own: &str, version: &str) -> Result<Vec<String>, Refused> {
    let Some(stem) = called.strip_suffix(".deb") else { return Ok(Vec::new()) };
    let parts: Vec<&str> = stem.split('_').collect();
    match parts[..] {
        [name, _, architecture] if Architecture::of_debian(architecture).is_some() && name != own => {
            let why = format!("says that it is {}, but the file is named for {}; rename it if that is right", quoted(own), quoted(name));
            Err(Refused { entry: Some("control, field Package".into()), why })
        }
        [_, said, architecture] if Architecture::of_debian(architecture).is_some() => {
            // The epoch is left out there, or its colon is written as apt writes it.
            let said = said.replace("%3a", ":").replace("%3A", ":");
            let without = version.split_once(':').map_or(version, |(_, rest)| rest);
            let lies = said != version && said != without && said.bytes().next().is_some_and(|b| b.is_ascii_digit());
            Ok(lies.then(|| format!("the file is named for version {}, but it holds {version}", quoted(&said))).into_iter().collect())
        }
        _ => Ok(Vec::new()),
    }
}
