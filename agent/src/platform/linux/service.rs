//! Whether a service runs: systemd is asked where it runs, else the service's script.

use super::question::{self, Said};
use crate::{guard, platform::PlatformError};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use sutler_base::quoted;

/// How long it may take until systemd or a script says how a service is.
const LIMIT: Duration = Duration::from_secs(10);
/// How much it may say about it (bytes).
const ANSWER_MAX: usize = 64 << 10;
/// The longest name of a service (bytes).
const NAME_MAX: usize = 128;

/// Whether the service of this name runs on the machine whose root this is. One that is not there does not run.
///
/// Where systemd runs (`run/systemd/system` below the root) `systemctl is-active` below the root is asked; a name without a
/// suffix is that of a `.service`. Elsewhere the script `etc/init.d/NAME` is run with the argument `status`, as LSB has it: exit
/// code 0 means that it runs, 1 to 3 that it doesn't. Takes at most ten seconds.
pub fn service_running(root: &Path, name: &str) -> Result<bool, PlatformError> {
    let proper = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@:-".contains(&b));
    if !proper {
        return Err(PlatformError::ServiceName { name: quoted(name) });
    }
    if root.join("run/systemd/system").is_dir() { systemd(root, name) } else { script(root, name) }
}

fn systemd(root: &Path, name: &str) -> Result<bool, PlatformError> {
    let places = ["usr/bin/systemctl", "bin/systemctl"];
    let program = places.iter().map(|place| root.join(place)).find(|path| path.is_file());
    let program = program.unwrap_or_else(|| root.join(places[0]));
    let said = ask(&program, &["is-active", "--", name])?;
    // The word and not the exit code: of several codes for the same word each version has others.
    match String::from_utf8_lossy(&said.output).trim() {
        "active" | "reloading" | "refreshing" => Ok(true),
        "inactive" | "failed" | "activating" | "deactivating" | "maintenance" | "unknown" => Ok(false),
        _ => Err(unclear(&program, "is-active", &said)),
    }
}

fn script(root: &Path, name: &str) -> Result<bool, PlatformError> {
    let script = root.join("etc/init.d").join(name);
    if !script.is_file() {
        return Ok(false);
    }
    let said = ask(&script, &["status"])?;
    match said.code {
        0 => Ok(true),
        1..=3 => Ok(false),
        _ => Err(unclear(&script, "status", &said)),
    }
}

fn ask(program: &Path, arguments: &[&str]) -> Result<Said, PlatformError> {
    // It runs as root: nobody else may have put it there.
    guard::refuse_changeable(program)?;
    question::ask(program, arguments, LIMIT, ANSWER_MAX)
}

fn unclear(program: &Path, asked: &str, said: &Said) -> PlatformError {
    let output = String::from_utf8_lossy(&said.output);
    let words = if said.errors.is_empty() { output.trim() } else { said.errors.as_str() };
    let program = format!("{} {asked}", PathBuf::from(program).display());
    PlatformError::Program { program, why: format!("exit code {}, {}", said.code, quoted(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn program(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_script_says_whether_its_service_runs_and_one_that_can_t_tell_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(!service_running(root, "cron").unwrap(), "there is none");
        for (code, runs) in [(0, true), (1, false), (2, false), (3, false)] {
            program(root, "etc/init.d/cron", &format!("#!/bin/sh\n[ \"$1\" = status ] || exit 9\nexit {code}\n"));
            assert_eq!(service_running(root, "cron").unwrap(), runs, "exit code {code}");
        }
        program(root, "etc/init.d/cron", "#!/bin/sh\necho no idea >&2\nexit 4\n");
        let error = service_running(root, "cron").unwrap_err().to_string();
        assert!(error.contains("etc/init.d/cron status") && error.contains("exit code 4") && error.contains("no idea"), "{error}");
        fs::set_permissions(root.join("etc/init.d/cron"), PermissionsExt::from_mode(0o757)).unwrap();
        assert!(service_running(root, "cron").unwrap_err().to_string().contains("can be written by others"));
    }

    #[test]
    fn where_systemd_runs_its_word_counts_and_no_script_is_run() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        program(root, "etc/init.d/cron", "#!/bin/sh\nexit 0\n");
        assert!(service_running(root, "cron").unwrap_err().to_string().contains("usr/bin/systemctl is-active -- cron"));
        // Not the real one, which speaks to the machine that the tests run on.
        let text = "#!/bin/sh\ncase $3 in cron) echo active;; at) echo inactive; exit 3;; no) echo inactive; exit 4;; \
                    *) echo Failed to connect to bus >&2; exit 1;; esac\n";
        program(root, "usr/bin/systemctl", text);
        assert!(service_running(root, "cron").unwrap());
        assert!(!service_running(root, "at").unwrap() && !service_running(root, "no").unwrap());
        assert!(service_running(root, "x").unwrap_err().to_string().contains("Failed to connect to bus"));
    }

    #[test]
    fn a_name_with_anything_but_a_name_in_it_is_refused() {
        let root = Path::new("/");
        for name in ["", "../x", "a/b", "-h", ".", "..", "a b", "a\n", "ä", &"x".repeat(129)] {
            let error = service_running(root, name).unwrap_err();
            assert!(matches!(error, PlatformError::ServiceName { .. }), "{name:?}: {error}");
        }
        for name in ["getty@tty1.service", "dbus-org.freedesktop.login1"] {
            assert!(!matches!(service_running(root, name), Err(PlatformError::ServiceName { .. })), "{name}");
        }
    }
}
