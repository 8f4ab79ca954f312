//! `sutler package diff`: what another version brings, on the manager or still on this machine.
//!
//! Of what is on this machine the chunks are known, of a version on the manager those that it says. What is to be transferred to a
//! client that has A is what B consists of and A does not, before compression.

use super::{
    describe,
    error::CliError,
    names,
    output::{self, Format},
    push,
    session::{Session, call},
    when::bytes,
};
use crate::package::Wanted;
use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};
use sutler_base::{
    Digest,
    manifest::{EntryKind, Manifest},
};
use sutler_proto::{convert::json_struct, v1};

/// A package that is compared.
struct Side {
    manifest: Manifest,
    /// Each chunk once, with its length; none if they are too many to be asked for.
    chunks: Option<Vec<(Digest, u64)>>,
}

impl Side {
    /// What it consists of: its chunks, or as if each file were one.
    fn parts(&self, by_file: bool) -> Vec<(Digest, u64)> {
        match &self.chunks {
            Some(chunks) if !by_file => chunks.clone(),
            _ => {
                let files = self.manifest.files.iter().filter_map(|e| match e.kind {
                    EntryKind::File { size, blake3, .. } => Some((blake3, size)),
                    _ => None,
                });
                files.collect::<BTreeMap<_, _>>().into_iter().collect()
            }
        }
    }
}

/// One line of the comparison: what happened, to what, and how it is.
type Row = [String; 3];

/// `sutler package diff`
pub async fn diff(session: &Session, a: &str, b: &str, wanted: &Wanted, format: Format) -> Result<(), CliError> {
    let (a, b) = (side(session, a, wanted).await?, side(session, b, wanted).await?);
    let rows: Vec<Vec<String>> = compare(&a, &b).into_iter().map(Vec::from).collect();
    output::rows(&["change", "what", "detail"], &rows, format)
}

/// What a word of the command line means: something on this machine if there is such a path, else a version on the manager.
async fn side(session: &Session, word: &str, wanted: &Wanted) -> Result<Side, CliError> {
    if Path::new(word).exists() {
        let built = push::read(session, Path::new(word), wanted, session.now())?;
        let chunks = built.chunks.iter().map(|chunk| (chunk.digest, u64::from(chunk.length))).collect();
        return Ok(Side { manifest: built.manifest.clone(), chunks: Some(chunks) });
    }
    let name = names::package(word).map_err(|why| {
        CliError::usage_hint(format!("{word} is no path here, and no package: {why}"), "name a file, a folder, NAME or NAME@VERSION")
    })?;
    let name = if name.contains("/versions/") { name } else { format!("{name}/versions/latest") };
    let tried = format!("compare with the package {}", names::package_word(&name));
    let request = v1::GetPackageVersionRequest { name, with_chunks: true };
    let answer = call!(session, packages.get_package_version(request), "{tried}")?;
    let unusable = |why: String| CliError::Local { tried: tried.clone(), why, hint: None };
    let manifest = answer.version.and_then(|version| version.manifest).ok_or_else(|| unusable("the manager gave no manifest".into()))?;
    let manifest = serde_json::from_value(json_struct(&manifest)).map_err(|e| unusable(sutler_base::told(&e)))?;
    let chunk = |chunk: &v1::Chunk| Ok((chunk.digest.parse()?, u64::try_from(chunk.length).unwrap_or_default()));
    let chunks = answer.chunks.iter().map(chunk).collect::<Result<_, sutler_base::Invalid>>().map_err(|e| unusable(e.0))?;
    Ok(Side { manifest, chunks: (!answer.chunks_left_out).then_some(chunks) })
}

fn compare(a: &Side, b: &Side) -> Vec<Row> {
    let row = |change: &str, what: &str, detail: String| [change.to_owned(), what.to_owned(), detail];
    let (old, new) = (&a.manifest, &b.manifest);
    let mut rows = Vec::new();
    if old.name != new.name {
        rows.push(row("changed", "name", format!("{} → {}", old.name, new.name)));
    }
    if old.version != new.version {
        let direction = if old.ordering == new.ordering {
            match new.ordering.compare(old.version.as_str(), new.version.as_str()) {
                std::cmp::Ordering::Less => ", newer",
                std::cmp::Ordering::Equal => ", the same by its ordering",
                std::cmp::Ordering::Greater => ", OLDER",
            }
        } else {
            ""
        };
        rows.push(row("changed", "version", format!("{} → {}{direction}", old.version, new.version)));
    }
    let (before, after) = (describe::lines(old), describe::lines(new));
    rows.extend(before.iter().filter(|line| !after.contains(line)).map(|(what, line)| row("removed", what, line.clone())));
    rows.extend(after.iter().filter(|line| !before.contains(line)).map(|(what, line)| row("added", what, line.clone())));
    let order = |manifest: &Manifest| manifest.steps.iter().map(|step| step.name.clone()).collect::<Vec<_>>();
    let (old_order, new_order) = (order(old), order(new));
    let both = |names: &[String], other: &[String]| names.iter().filter(|name| other.contains(name)).cloned().collect::<Vec<_>>();
    let (was, is) = (both(&old_order, &new_order), both(&new_order, &old_order));
    if was != is {
        rows.push(row("changed", "order of steps", format!("{} → {}", was.join(", "), is.join(", "))));
    }
    let of = |manifest: &Manifest| manifest.files.iter().map(|e| (e.path.to_string(), e.kind.clone())).collect::<BTreeMap<_, _>>();
    let (old_files, new_files) = (of(old), of(new));
    for (path, kind) in &old_files {
        match new_files.get(path) {
            None => rows.push(row("removed", "file", format!("{path}: {}", entry(kind)))),
            Some(other) if other != kind => rows.push(row("changed", "file", format!("{path}: {} → {}", entry(kind), entry(other)))),
            Some(_) => {}
        }
    }
    let added = new_files.iter().filter(|(path, _)| !old_files.contains_key(*path));
    rows.extend(added.map(|(path, kind)| row("added", "file", format!("{path}: {}", entry(kind)))));
    let by_file = a.chunks.is_none() || b.chunks.is_none();
    let there: HashSet<Digest> = a.parts(by_file).into_iter().map(|(digest, _)| digest).collect();
    let parts = b.parts(by_file);
    let missing: Vec<u64> = parts.iter().filter(|(digest, _)| !there.contains(digest)).map(|(_, length)| *length).collect();
    let all: u64 = parts.iter().map(|(_, length)| length).sum();
    let (most, unit) = if by_file { ("at most ", "files") } else { ("", "chunks") };
    let detail = format!("{most}{} of {}, {} of {} {unit}", bytes(missing.iter().sum()), bytes(all), missing.len(), parts.len());
    rows.push(row("transfer", "bytes", detail));
    rows
}

fn entry(kind: &EntryKind) -> String {
    match kind {
        EntryKind::File { mode, size, blake3, .. } => format!("{} {mode:03o} {}", bytes(*size), &blake3.to_string()[..8]),
        EntryKind::Link { target } => format!("a link to {target}"),
        EntryKind::Directory { mode } => format!("a folder {mode:03o}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sutler_base::manifest::{Entry, Phase, Step};

    fn side(version: &str, files: &[(&str, &str)], argv: &str) -> Side {
        let mut manifest = Manifest::new("x".parse().unwrap(), version.parse().unwrap(), 1);
        let file = |(path, text): &(&str, &str)| {
            let digest = Digest::of(text.as_bytes());
            let kind = EntryKind::File { mode: 0o644, size: text.len() as u64, blake3: digest, sha256: digest, chunks: None };
            Entry { path: path.parse().unwrap(), kind }
        };
        manifest.files = files.iter().map(file).collect();
        manifest.steps = vec![Step::new("run", Phase::Install, vec![argv.into()])];
        Side { manifest, chunks: Some(files.iter().map(|(_, text)| (Digest::of(text.as_bytes()), text.len() as u64)).collect()) }
    }

    #[test]
    fn a_comparison_names_files_steps_and_what_is_to_be_transferred() {
        let a = side("1.9", &[("gone", "1"), ("same", "22"), ("text", "333")], "/bin/a");
        let b = side("1.10", &[("new", "4444"), ("same", "22"), ("text", "55555")], "/bin/b");
        let rows: Vec<String> = compare(&a, &b).iter().map(|row| row.join("|")).collect();
        assert_eq!(rows[0], "changed|version|1.9 → 1.10, newer");
        assert_eq!(rows[1], "removed|step|run (install, at most 3600 s): /bin/a");
        assert_eq!(rows[2], "added|step|run (install, at most 3600 s): /bin/b");
        assert!(rows[3].starts_with("removed|file|gone: 1 B 644 "), "{rows:?}");
        assert!(rows[4].starts_with("changed|file|text: 3 B 644 ") && rows[5].starts_with("added|file|new: 4 B 644 "), "{rows:?}");
        assert_eq!(rows[6..], ["transfer|bytes|9 B of 11 B, 2 of 3 chunks"]);
        assert_eq!(compare(&a, &a).len(), 1);
    }
}
