//! Whom to tell of events: the tables `[[hook]]` of `manager.toml`.

use crate::folder::Folder;
use serde::Deserialize;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use sutler_base::{quantity::span, quoted, state::EventKind};

/// How many hooks there are at the most.
const HOOKS_MAX: usize = 32;
/// How many words a program is started with, and how long each is at the most.
const ARGV_MAX: usize = 64;
const WORD_MAX: usize = 4096;

/// A table as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    name: String,
    events: Vec<EventKind>,
    argv: Option<Vec<String>>,
    url: Option<String>,
    secret_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    #[serde(default = "time_limit", deserialize_with = "span")]
    time_limit: Duration,
    #[serde(default = "retry_for", deserialize_with = "span")]
    retry_for: Duration,
}

fn time_limit() -> Duration {
    Duration::from_secs(30)
}

fn retry_for() -> Duration {
    Duration::from_secs(86_400)
}

/// A hook.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// Its name, by which the database knows how far it is.
    pub name: String,
    /// The kinds of events that it gets.
    pub events: Vec<EventKind>,
    /// How it gets them.
    pub way: Way,
    /// How long one delivery may take.
    pub time_limit: Duration,
    /// For how long one event is tried again.
    pub retry_for: Duration,
}

/// How a hook gets events.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// On the standard input of a program: what is run, without a shell.
    Program(Vec<String>),
    /// Posted to an address.
    Post {
        /// `https://…`, or `http://…` on this machine.
        url: http::Uri,
        /// A file whose content signs what is posted.
        secret_file: Option<PathBuf>,
        /// The CAs to trust, in place of this machine's.
        ca: Option<PathBuf>,
    },
}

/// The hooks as they are written; an error is a sentence. Files are relative to the manager's folder.
pub(super) fn read(written: Vec<Written>, folder: &Folder) -> Result<Vec<Hook>, String> {
    if written.len() > HOOKS_MAX {
        return Err(format!("there are {} hooks; at most {HOOKS_MAX} are told", written.len()));
    }
    let mut hooks: Vec<Hook> = Vec::new();
    for hook in written {
        let name = hook.name.clone();
        let read = read_one(hook, folder.path()).map_err(|why| format!("the hook {}: {why}", quoted(&name)))?;
        if hooks.iter().any(|other| other.name == read.name) {
            return Err(format!("the hook {}: another one has this name", quoted(&name)));
        }
        hooks.push(read);
    }
    Ok(hooks)
}

fn read_one(hook: Written, folder: &Path) -> Result<Hook, String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if hook.name.is_empty() || hook.name.len() > 63 || !hook.name.chars().all(fine) {
        return Err("name is 1 to 63 of a-z, 0-9 and -".into());
    }
    if hook.events.is_empty() {
        let all: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        return Err(format!("events is empty; name at least one of {}", all.join(", ")));
    }
    if hook.time_limit < Duration::from_millis(100) || hook.time_limit > Duration::from_secs(3600) {
        return Err("time_limit is 100ms to 1h".into());
    }
    if hook.retry_for > Duration::from_secs(30 * 86_400) {
        return Err("retry_for is at most 30d".into());
    }
    let way = match (hook.argv, hook.url) {
        (Some(argv), None) => {
            if hook.secret_file.is_some() || hook.ca.is_some() {
                return Err("secret_file and ca belong to an url, and there is an argv".into());
            }
            if argv.is_empty() || argv.len() > ARGV_MAX || argv.iter().any(|word| word.len() > WORD_MAX || word.contains('\0')) {
                return Err(format!("argv has 1 to {ARGV_MAX} words of at most {WORD_MAX} bytes without NUL"));
            }
            if !Path::new(&argv[0]).is_absolute() {
                return Err(format!("argv starts with the absolute path of a program, not with {}", quoted(&argv[0])));
            }
            Way::Program(argv)
        }
        (None, Some(url)) => {
            let file = |path: PathBuf| folder.join(path);
            Way::Post { url: address(&url)?, secret_file: hook.secret_file.map(file), ca: hook.ca.map(file) }
        }
        _ => return Err("give either argv or url".into()),
    };
    Ok(Hook { name: hook.name, events: hook.events, way, time_limit: hook.time_limit, retry_for: hook.retry_for })
}

/// An address that may be posted to: nothing goes over a network that others can read. The text may hold a secret and is not
/// repeated.
fn address(text: &str) -> Result<http::Uri, String> {
    let rule = "url is https://HOST[:PORT]/PATH, or http:// with a loopback address (127.0.0.1, [::1])";
    let url: http::Uri = text.parse().map_err(|_| rule.to_owned())?;
    let host = url.host().ok_or(rule)?.trim_matches(['[', ']']);
    let authority = url.authority().map(|a| a.as_str()).unwrap_or_default();
    if authority.contains('@') {
        return Err("url has a name or a password in it; the receiver is to check Sutler-Signature instead (secret_file)".into());
    }
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => Ok(url),
        _ => Err(rule.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Hook>, String> {
        #[derive(Deserialize)]
        struct File {
            hook: Vec<Written>,
        }
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        read(file.hook, &Folder::new("/srv/sutler"))
    }

    #[test]
    fn a_hook_is_a_program_or_an_address() {
        let hooks = parse(
            "[[hook]]\nname = \"a\"\nevents = [\"JOB_ENDED\"]\nargv = [\"/bin/x\", \"y\"]\n\
             [[hook]]\nname = \"b\"\nevents = [\"JOB_HALTED\"]\nurl = \"http://[::1]:8080/x\"\nsecret_file = \"s\"\nretry_for = \"1h\"",
        )
        .unwrap();
        assert_eq!(hooks[0].way, Way::Program(vec!["/bin/x".into(), "y".into()]));
        assert_eq!((hooks[0].time_limit, hooks[0].retry_for), (Duration::from_secs(30), Duration::from_secs(86_400)));
        assert!(matches!(&hooks[1].way, Way::Post { secret_file: Some(file), ca: None, .. } if file == Path::new("/srv/sutler/s")));
    }

    #[test]
    fn a_mistake_in_a_hook_is_named() {
        let fine = "name = \"a\"\nevents = [\"JOB_ENDED\"]\n";
        for (bad, word) in [
            ("name = \"A b\"\nevents = [\"JOB_ENDED\"]\nargv = [\"/x\"]".to_owned(), "name is"),
            ("name = \"a\"\nevents = []\nargv = [\"/x\"]".to_owned(), "JOB_STARTED"),
            ("name = \"a\"\nevents = [\"JOB_EATEN\"]\nargv = [\"/x\"]".to_owned(), "JOB_EATEN"),
            (fine.to_owned(), "either argv or url"),
            (format!("{fine}argv = [\"/x\"]\nurl = \"https://a\""), "either argv or url"),
            (format!("{fine}argv = []"), "argv has"),
            (format!("{fine}argv = [\"sh\"]"), "absolute path"),
            (format!("{fine}argv = [\"/x\"]\nca = \"a\""), "belong to an url"),
            (format!("{fine}url = \"http://hooks.example/\""), "loopback"),
            (format!("{fine}url = \"ftp://127.0.0.1/\""), "loopback"),
            (format!("{fine}url = \"https://user:secret@hooks.example/\""), "password"),
            (format!("{fine}argv = [\"/x\"]\ntime_limit = \"2h\""), "time_limit"),
            (format!("{fine}argv = [\"/x\"]\nretry_for = \"31d\""), "retry_for"),
            (format!("{fine}argv = [\"/x\"]\nretries = 3"), "retries"),
            (format!("{fine}argv = [\"/x\"]\n[[hook]]\n{fine}argv = [\"/y\"]"), "another one"),
        ] {
            let error = parse(&format!("[[hook]]\n{bad}\n")).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret@"), "{bad}: {error}");
        }
    }
}
