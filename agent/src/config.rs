//! Where the agent's things are. What is allowed on this machine is in [`crate::policy`].

use crate::{agent::Programs, guard, limits::Limits, policy::Policy};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the configuration is looked for unless the command line says otherwise.
pub const DEFAULT_FILE: &str = "/etc/sutler/agent.toml";
/// The file of the machine's own rules, beside the configuration.
const POLICY: &str = "policy.toml";
/// Where the agent keeps its things unless told otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/sutler-agent";

/// The configuration of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from, whether there was one or not.
    pub file: PathBuf,
    /// The state folder, mode 0700.
    pub dir: PathBuf,
    /// Below which packages are installed: `/` on a real machine.
    pub root: PathBuf,
    /// The socket on which the commands speak to the running agent.
    pub socket: PathBuf,
    /// The machine's own rules: `policy.toml` beside the configuration.
    pub policy: Policy,
    /// What it calls to show something to whoever is logged in, and to restart the machine.
    pub programs: Programs,
    /// How long it waits, and how much of the machine it takes.
    pub limits: Limits,
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's text is no configuration.
    #[error("{path}: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        why: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    dir: Option<PathBuf>,
    root: Option<PathBuf>,
    socket: Option<PathBuf>,
    announce: Option<Vec<String>>,
    reboot: Vec<String>,
    limits: Limits,
}

/// What the command line says; it goes before the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--dir`
    pub dir: Option<PathBuf>,
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
}

impl Config {
    /// The configuration in the file, with what the command line says in place of it. A default file that is not there is
    /// empty; one that was named must be there.
    pub fn load(overrides: Overrides) -> Result<Config, ConfigError> {
        let (path, named) = match overrides.config {
            Some(path) => (path, true),
            None => (PathBuf::from(DEFAULT_FILE), false),
        };
        let policy = Policy::File(path.with_file_name(POLICY));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let file = match toml::from_str::<File>(&text).map(|file| (file.limits.broken_rule(), file)) {
            Ok((None, file)) => file,
            Ok((Some(why), _)) => return Err(ConfigError::Parse { path, why }),
            Err(e) => return Err(ConfigError::Parse { path, why: e.to_string() }),
        };
        let dir = overrides.dir.or(file.dir).unwrap_or_else(|| DEFAULT_DIR.into());
        let root = overrides.root.or(file.root).unwrap_or_else(|| "/".into());
        let socket = overrides.socket.or(file.socket).unwrap_or_else(|| default_socket(&dir));
        // Who is logged in at a machine of which this one sees only a part is nobody here.
        let announce = file.announce.unwrap_or_else(|| if root == Path::new("/") { vec!["wall".into()] } else { vec![] });
        let programs = Programs { announce, reboot: file.reboot };
        Ok(Config { file: path, dir, root, socket, policy, programs, limits: file.limits })
    }

    /// Refuses a configuration, or rules of the machine, that somebody else may write or put another one in the place of: the
    /// first says where the agent keeps its things, the second what may run.
    pub fn refuse_changeable(&self) -> Result<(), guard::Exposed> {
        guard::refuse_changeable(&self.file)?;
        self.policy.file().map_or(Ok(()), guard::refuse_changeable)
    }
}

/// The state folder lets nobody in but its owner, and any user may read and join: so the socket of the machine's own agent
/// is elsewhere. An agent with another folder keeps it there.
fn default_socket(dir: &Path) -> PathBuf {
    if dir == Path::new(DEFAULT_DIR) { "/run/sutler-agent/agent.sock".into() } else { dir.join("agent.sock") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_file_and_a_wrong_file_is_refused_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, "dir = \"/a\"\n").unwrap();
        let load =
            |dir: Option<&str>| Config::load(Overrides { config: Some(path.clone()), dir: dir.map(Into::into), ..Overrides::default() });
        let config = load(None).unwrap();
        assert_eq!((config.dir.as_path(), config.root.as_path()), (Path::new("/a"), Path::new("/")));
        assert!(matches!(config.policy, Policy::File(file) if file == folder.path().join("policy.toml")));
        assert_eq!(config.socket, Path::new("/a/agent.sock"));
        assert_eq!(load(Some("/b")).unwrap().dir, Path::new("/b"));
        std::fs::write(&path, "allow_everything = true\n").unwrap();
        assert!(load(None).unwrap_err().to_string().contains("allow_everything"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(load(None), Err(ConfigError::Read { .. })), "a file that was named must be there");
    }
}
