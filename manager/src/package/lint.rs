//! Says what is wrong with a package before anything of it is sent: what `push` would refuse, and what one would regret.

use super::{
    definition::DefinitionError,
    source::{Source, SourceError, Wanted},
};
use std::{collections::BTreeMap, path::Path};
use sutler_base::{
    Timestamp,
    manifest::{EntryKind, Manifest, Phase},
    quoted,
};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is a package, and this is which.
    Fine,
    /// It can be pushed, but should perhaps not be as it is.
    Warning,
    /// It can't be pushed.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Fine => "fine",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that is to be said about a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What.
    pub sentence: String,
}

/// Everything that is to be said about what is at `path`, the errors first. It is read and built exactly as `push` does.
pub fn lint(path: &Path, wanted: &Wanted, now: Timestamp) -> Vec<Finding> {
    let built = Source::open(path, wanted).and_then(|source| {
        let built = source.build(now, &mut |_| {})?;
        Ok((source, built))
    });
    match built {
        Err(e) => sentences(&e).into_iter().map(|sentence| Finding { severity: Severity::Error, sentence }).collect(),
        Ok((source, built)) => {
            let m = &built.manifest;
            let files = if m.files.len() == 1 { "1 path".to_owned() } else { format!("{} paths", m.files.len()) };
            let fine = format!("{}@{} for {} {}: {files}", m.name, m.version, m.platform.os, m.platform.arch);
            let warnings = source.notes.iter().cloned().chain(advice(m, now));
            let warnings = warnings.map(|sentence| Finding { severity: Severity::Warning, sentence });
            warnings.chain([Finding { severity: Severity::Fine, sentence: fine }]).collect()
        }
    }
}

/// The sentences of an error: of a definition one for each thing to mend.
fn sentences(error: &SourceError) -> Vec<String> {
    match error {
        SourceError::Definition(DefinitionError::Problems(problems)) => problems.list.iter().map(ToString::to_string).collect(),
        SourceError::Refused { entry, why, .. } => {
            vec![format!("{}{why}", entry.as_ref().map(|entry| format!("{entry} ")).unwrap_or_default())]
        }
        other => vec![other.to_string()],
    }
}

/// What is allowed, but likely not meant.
fn advice(manifest: &Manifest, now: Timestamp) -> Vec<String> {
    let mut all = Vec::new();
    let mut say = |sentence: String| all.push(sentence);
    let has = |phase: Phase| manifest.steps.iter().any(|step| step.phase == phase);
    if manifest.detection.is_empty() {
        say("has no detection rule: nothing is verified after the installation, and what is there already is installed again".into());
    }
    if (has(Phase::Install) || has(Phase::After)) && !has(Phase::Uninstall) && manifest.agent.is_none() {
        say("has steps that install, but none with phase = \"uninstall\": it can't be taken off a machine again".into());
    }
    if manifest.expires.is_some_and(|expires| expires <= now) {
        say("has expired already: no machine will install it".into());
    }
    let files: BTreeMap<&str, &EntryKind> = manifest.files.iter().map(|entry| (entry.path.as_str(), &entry.kind)).collect();
    for step in &manifest.steps {
        let program = step.argv[0].trim_start_matches("./");
        match files.get(program) {
            _ if program.starts_with('/') => {}
            Some(EntryKind::File { mode, .. }) if mode & 0o111 == 0 => {
                say(format!("step {}: {program} is a file that can't be run; chmod +x it", quoted(&step.name)));
            }
            Some(EntryKind::Directory { .. }) => say(format!("step {}: {program} is a folder", quoted(&step.name))),
            None if step.phase != Phase::Uninstall => say(format!("step {}: {program} is not among the files", quoted(&step.name))),
            _ => {}
        }
    }
    if manifest.files.is_empty() && manifest.directory.is_some() && manifest.steps.is_empty() {
        say("installs nothing: it has neither files nor steps".into());
    }
    all
}
