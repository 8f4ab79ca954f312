//! Leaves nothing behind: every process and folder that tests make is gone when they end, in whatever way they end.
//!
//! All folders lie below one that carries this process's id. What was started for a test names a folder there in its
//! arguments, or works in one: the manager and agents, the supervisors of their steps (which are made to outlive an agent)
//! and whatever a step has started. So they are found without a list of them, also by the janitor: a shell that waits
//! for the end of its standard input, which this process holds and the kernel closes with it.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A temporary folder; when it is dropped, every process that names it or works in it is killed, and it is removed.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// A new folder, for whatever `name` says.
    pub fn new(name: &str) -> Place {
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(top()).expect("a temporary folder can be made");
        Place { folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        kill_below(self.path());
        // `SUTLER_KEEP=1` leaves the folder of a test that failed for whoever looks for the reason.
        if std::thread::panicking() && std::env::var_os("SUTLER_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.path().display());
        }
    }
}

/// Kills every process that names `folder` (or what is in it) in its arguments, or works below it; until there are none.
pub fn kill_below(folder: &Path) {
    loop {
        let found = processes_below(folder);
        if found.is_empty() {
            return;
        }
        for pid in found {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::thread::yield_now();
    }
}

/// The processes that name `folder` or work below it, zombies left out.
pub fn processes_below(folder: &Path) -> Vec<i32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    pids.filter(|pid| belongs(*pid, folder)).filter_map(|pid| i32::try_from(pid).ok()).collect()
}

fn belongs(pid: u32, folder: &Path) -> bool {
    let names = |bytes: &[u8]| bytes.windows(folder.as_os_str().len()).any(|part| part == folder.as_os_str().as_bytes());
    // A zombie has neither arguments nor a working directory. The janitor names the top folder, which no place is.
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    names(&arguments) || works_in.starts_with(folder)
}

/// What the janitor does: $1 is the folder.
const JANITOR: &str = r#"
folder=$1
while read -r line; do :; done
while :; do
  found=
  # The lists are made before what searches them is started, so that nobody finds himself.
  set -- /proc/[0-9]*/cmdline
  named=$(grep -slaF -- "$folder" "$@")
  set -- /proc/[0-9]*/cwd
  working=$(ls -l "$@" 2>/dev/null | grep -F -- "-> $folder" | sed 's|.* \(/proc/[0-9]*/cwd\) -> .*|\1|')
  for entry in $named $working; do
    pid=${entry#/proc/}
    pid=${pid%%/*}
    [ "$pid" = "$$" ] && continue
    kill -KILL "$pid" 2>/dev/null && found=yes
  done
  [ -n "$found" ] || break
done
if [ -e "$folder/namespaces" ]; then
  while read -r name; do ip netns delete "$name" 2>/dev/null; done <"$folder/namespaces"
fi
if [ -e "$folder/mounts" ]; then
  while read -r mount; do umount -l "$mount" 2>/dev/null; done <"$folder/mounts"
fi
rm -rf --one-file-system "$folder"
"#;

/// Has the janitor delete a network namespace, too.
pub(super) fn remember_namespace(name: &str) {
    remember("namespaces", name);
}

/// Has the janitor unmount what is mounted there, too.
pub(super) fn remember_mount(folder: &Path) {
    remember("mounts", &folder.to_string_lossy());
}

fn remember(list: &str, line: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(top().join(list)).expect("a file can be written");
    // One write, so that two tests don't mix their lines.
    file.write_all(format!("{line}\n").as_bytes()).expect("a file can be written");
}

/// The folder that all of this process's places lie in.
fn top() -> &'static Path {
    static TOP: OnceLock<(PathBuf, Child)> = OnceLock::new();
    &TOP.get_or_init(|| {
        // A short path: sockets lie in these folders, and the path of one has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix(&format!("sutler-{}-", std::process::id()))
            .tempdir()
            .expect("a temporary folder can be made")
            .keep();
        // Not the janitor's path itself: `belongs` must not find it for a place.
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Not ended by the Ctrl-C that ends the tests.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        (folder, janitor)
    })
    .0
}
