//! What the entries of an archive make together, and whether any of them would be written where it must not be.
//!
//! The rules are those of [`sutler_base::path`]: no entry is absolute, climbs with `..`, lies below something that is not a
//! folder, or comes twice; links stay inside; there are no devices. They are asked entry by entry while the archive is read, so
//! that nothing of a refused one has been followed.

use super::{Refused, SourceLimits};
use std::collections::{BTreeMap, HashMap};
use sutler_base::{
    limits::PATH_MAX,
    path::{RelPath, link_stays_inside},
    quoted,
};

/// What an archive says that an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A symbolic link and what it points to.
    Link(Vec<u8>),
    /// Another name of the file with this name.
    HardLink(Vec<u8>),
    /// Something that no package may have, by its name.
    Other(&'static str),
}

/// One entry of an archive, as the archive describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) size: u64,
}

/// What the paths of an archive are relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// A package's own folder, which nothing may leave.
    Package,
    /// The machine's `/`: links may be absolute, as they mostly are there.
    Machine,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder { said: bool },
    File,
    Link,
}

/// Everything that was read of an archive so far.
#[derive(Debug)]
pub(super) struct Tree {
    root: Root,
    limits: SourceLimits,
    nodes: HashMap<String, Node>,
    /// What was read, and the folders that it only implies.
    entries: usize,
    /// Bytes of its files below each of the top folders.
    pub(super) bytes: BTreeMap<String, u64>,
    /// The files that would run as their owner, whoever starts them.
    pub(super) privileged: Vec<String>,
}

impl Tree {
    pub(super) fn new(root: Root, limits: &SourceLimits) -> Tree {
        Tree { root, limits: *limits, nodes: HashMap::new(), entries: 0, bytes: BTreeMap::new(), privileged: Vec::new() }
    }

    /// Takes one more entry: its path, or none for the root itself.
    pub(super) fn add(&mut self, member: &Member) -> Result<Option<RelPath>, Refused> {
        let shown = shown(&member.name);
        let refuse = |why: String| Err(Refused { entry: Some(shown.clone()), why });
        self.entries += 1;
        if self.entries > self.limits.entries {
            return refuse(format!("is one entry too many; at most {} are read", self.limits.entries));
        }
        let Some(path) = self.path(&member.name, &member.kind).map_err(|why| Refused { entry: Some(shown.clone()), why })? else {
            return Ok(None);
        };
        for parent in path.parents() {
            match self.nodes.get(parent) {
                Some(Node::Folder { .. }) => {}
                None => {
                    self.entries += 1;
                    self.nodes.insert(parent.to_owned(), Node::Folder { said: false });
                }
                Some(Node::Link) => {
                    return refuse(format!("lies below the link {}, and would be written wherever that points to", quoted(parent)));
                }
                Some(Node::File) => return refuse(format!("lies below {}, which is a file", quoted(parent))),
            }
        }
        let node = match &member.kind {
            Kind::Folder => Node::Folder { said: true },
            Kind::File => Node::File,
            Kind::Link(target) => {
                self.check_link(&path, target).map_err(|why| Refused { entry: Some(shown.clone()), why })?;
                Node::Link
            }
            Kind::HardLink(target) => {
                self.hard_link(target).map_err(|why| Refused { entry: Some(shown.clone()), why })?;
                Node::File
            }
            Kind::Other(what) => return refuse(format!("is {what}; a package has files, folders and links only")),
        };
        match (self.nodes.get(path.as_str()), node) {
            (None | Some(Node::Folder { said: false }), Node::Folder { .. }) | (None, _) => {}
            (Some(_), _) => return refuse("comes twice".into()),
        }
        if node == Node::File {
            let top = path.as_str().split('/').next().unwrap_or_default().to_owned();
            let bytes = self.bytes.entry(top).or_default();
            *bytes = bytes.saturating_add(member.size);
            if member.mode & 0o6000 != 0 {
                self.privileged.push(path.to_string());
            }
        }
        self.nodes.insert(path.to_string(), node);
        Ok(Some(path))
    }

    /// The path that a name stands for; none for the root.
    fn path(&self, name: &[u8], kind: &Kind) -> Result<Option<RelPath>, String> {
        let Ok(text) = std::str::from_utf8(name) else { return Err("has a name that is not UTF-8".into()) };
        // Archives name the root `.`, and what is below it `./bin/x`; folders may end with a slash.
        let text = if text == "." { "" } else { text.strip_prefix("./").unwrap_or(text) };
        let text = if *kind == Kind::Folder { text.strip_suffix('/').unwrap_or(text) } else { text };
        if text.is_empty() && *kind == Kind::Folder {
            return Ok(None);
        }
        if text.starts_with('/') {
            return Err("has an absolute path, and would be written outside".into());
        }
        if text.split('/').any(|part| part == "..") {
            return Err("climbs with \"..\", and would be written outside".into());
        }
        if text.split('/').count() > self.limits.depth {
            return Err(format!("lies more than {} folders deep", self.limits.depth));
        }
        text.parse().map(Some).map_err(|why: sutler_base::Invalid| why.0)
    }

    fn check_link(&self, at: &RelPath, target: &[u8]) -> Result<(), String> {
        let Ok(text) = std::str::from_utf8(target) else { return Err("points to a name that is not UTF-8".into()) };
        let leaves = || format!("is a link to {}, which leaves the package", quoted(text));
        let stays = match self.root {
            Root::Package => link_stays_inside(at, text),
            Root::Machine => {
                let plain = !text.is_empty() && text.len() <= PATH_MAX && !text.chars().any(char::is_control);
                let mut depth = if text.starts_with('/') { 0 } else { at.parents().count() as i64 };
                plain
                    && text.split('/').all(|part| {
                        depth += match part {
                            "" | "." => 0,
                            ".." => -1,
                            _ => 1,
                        };
                        depth >= 0
                    })
            }
        };
        if stays { Ok(()) } else { Err(leaves()) }
    }

    /// A hard link is another name of a file that came before: then it can lead nowhere else.
    fn hard_link(&self, target: &[u8]) -> Result<(), String> {
        let found = self.path(target, &Kind::File).ok().flatten();
        match found.and_then(|path| self.nodes.get(path.as_str()).copied()) {
            Some(Node::File) => Ok(()),
            _ => Err(format!("is a hard link to {}, which is no file that came before it", shown(target))),
        }
    }

    /// The single folder at the top with everything in it, if there is one.
    pub(super) fn single_top(&self) -> Option<&str> {
        let mut tops = self.nodes.iter().filter(|(path, _)| !path.contains('/'));
        match (tops.next(), tops.next()) {
            (Some((path, Node::Folder { .. })), None) => Some(path),
            _ => None,
        }
    }

    /// Every file with whatever it may be below, for who asks whether one is there.
    pub(super) fn has_file(&self, path: &str) -> bool {
        matches!(self.nodes.get(path), Some(Node::File | Node::Link))
    }

    /// How many bytes its files have together.
    pub(super) fn total(&self) -> u64 {
        self.bytes.values().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// A name of an archive for messages.
pub(super) fn shown(name: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(name))
}
