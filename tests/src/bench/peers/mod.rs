//! Whom we are measured against, each in a room of its own: set up as its makers mean it, on the loopback, with a folder of its
//! own, and ended by process ids.

pub(super) mod cfengine;
pub(super) mod nginx;
pub(super) mod salt;

use crate::harness::wait::PATIENCE;
use crate::harness::wait_until;
use std::{path::Path, process::Command};

/// Runs what is appended to it with a host name of its own and names that are answered from a file alone: who looks itself up
/// where a resolver gives no answer waits 5 s for it. $1 is the folder with `hosts` and `nsswitch`, $2 the name.
const ISOLATED: &str = r#"w=$1; hostname "$2"; shift 2
mount --bind "$w/hosts" /etc/hosts && mount --bind "$w/nsswitch" /etc/nsswitch.conf && exec "$@""#;

/// A machine's worth of a peer: `command` in namespaces of its own.
pub(super) fn isolated(folder: &Path, name: &str, command: &[&str]) -> Command {
    let mut isolated = Command::new("unshare");
    isolated.args(["-u", "-m", "sh", "-c", ISOLATED, "sh"]).arg(folder).arg(name).args(command);
    isolated
}

/// Writes what [`isolated`] needs; false where nobody may make namespaces.
pub(super) fn names(folder: &Path) -> bool {
    let hosts: String = ["lab", "office"].iter().flat_map(|kind| (0..200).map(move |n| format!("127.0.0.1 {kind}-{n}\n"))).collect();
    write(&folder.join("hosts"), &format!("127.0.0.1 localhost hub\n{hosts}"));
    write(&folder.join("nsswitch"), "passwd: files\ngroup: files\nhosts: files\n");
    let there = isolated(folder, "hub", &["true"]).output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("bench: nobody may make namespaces here, so peers that need a host name of their own are not measured");
    }
    there
}

/// Writes a file that nobody else may change.
pub(super) fn write(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs_err::write(file, text).unwrap_or_else(|e| panic!("{e}"));
    fs_err::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap_or_else(|e| panic!("{e}"));
}

/// Asks these processes to end, kills what has not after a while, and waits until all are gone.
pub(super) fn stop(pids: &[u32]) {
    use rustix::process::{Pid, Signal, kill_process};
    let send = |signal: Signal| {
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            let _ = kill_process(pid, signal);
        }
    };
    // What has ended and is waited for by nobody but us counts as gone.
    let gone = || pids.iter().all(|pid| !super::measure::tree(*pid).contains(pid));
    send(Signal::TERM);
    let begin = std::time::Instant::now();
    wait_until("peers to end", PATIENCE, || {
        if begin.elapsed() > std::time::Duration::from_secs(10) {
            send(Signal::KILL);
        }
        gone()
    });
}
