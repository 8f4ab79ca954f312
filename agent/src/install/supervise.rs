//! The process that runs one step, outlives the agent, and makes the step's end durable.
//!
//! It is the agent's own program, started as `sutler-agent supervise DIR` in a session of its own. It has one thread and
//! no runtime. What it is given and what it leaves in `DIR`:
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | agent, before it starts the supervisor | what to run |
//! | `lock` | agent; locked, and handed over as standard input | while it is locked, the supervisor lives |
//! | `started` | supervisor, durable before `execve` | the step may have run. Not there: it has not |
//! | `group` | supervisor and the step's process, before `execve` | what to kill should the supervisor die first |
//! | `output` | supervisor, durable before `exit.json` | the end of what the step said |
//! | `exit.json` | supervisor, at the end | how it ended |
//!
//! Whoever waits locks `lock` and reads `exit.json`: no polling, and no difference between the agent that started the
//! step and one that was started later. The room for both results is taken before the step runs, so that a step that
//! fills the disk can still be reported.

use super::{
    child::{self, End, Program},
    durable,
    error::{Error, io, sync},
};
use rustix::{
    event::{Timespec, poll},
    fs::FallocateFlags,
    io::Errno,
    process::{Pid, WaitOptions},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::ExitCode,
};
use sutler_base::{Timestamp, state::ErrorKind};

/// The room that is taken for `exit.json` before the step runs (bytes).
const EXIT_MAX: usize = 8 << 10;

/// The supervisor's exit code when the disk had no room for something it has to write, of which it may not have been able to speak
/// either: the number of ENOSPC.
pub(crate) const NO_SPACE: u8 = 28;

/// How often the record of the end is tried while the disk is full, and how long it waits in between: ten minutes.
const TRIES: u32 = 120;
const BETWEEN_TRIES: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

pub(crate) const SPEC: &str = "spec.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const STARTED: &str = "started";
pub(crate) const GROUP: &str = "group";
pub(crate) const OUTPUT: &str = "output";
pub(crate) const EXIT: &str = "exit.json";
const EXIT_NEW: &str = "exit.json.new";

/// What `exit.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exit {
    #[serde(flatten)]
    pub(crate) end: End,
    /// By the machine's clock, milliseconds since 1970.
    pub(crate) started_ms: i64,
    pub(crate) ended_ms: i64,
    /// By a clock that does not step.
    pub(crate) duration_ms: u64,
    /// How many bytes the step said before what is in `output`.
    #[serde(default)]
    pub(crate) output_cut: u64,
}

/// What `group` says: enough to find what is left of the step, and never anybody else.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) boot: String,
    pub(crate) session: i32,
    pub(crate) group: i32,
}

impl Group {
    /// None if the step's process did not come as far as to write its part: then it has not become the step.
    pub(crate) fn read(text: &str) -> Option<Group> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        Some(Group { boot: words.next()?.to_owned(), session: words.next()?.parse().ok()?, group: words.next()?.parse().ok()? })
    }
}

/// The hidden subcommand `supervise DIR`: runs the step in `DIR/spec.json` and records how it ended.
///
/// Call it first thing in `main`, before there is a runtime or a thread. What goes wrong is said on standard error.
pub fn supervise(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Not even this may find room, and then it is no reason to end otherwise.
            let _ = writeln!(std::io::stderr(), "{e}");
            if e.kind() == ErrorKind::NoSpace { ExitCode::from(NO_SPACE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(dir: &Path) -> Result<(), Error> {
    // A shutdown of the machine ends the step with SIGTERM; we stay to record that.
    child::block_signals();
    // What the step leaves behind becomes our child, and can be waited for.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let path = dir.join(SPEC);
    let spec = durable::read(&path)?.ok_or_else(|| io("find", &path)(Errno::NOENT))?;
    let program: Program = serde_json::from_slice(&spec).map_err(|e| io("understand", &path)(std::io::Error::from(e)))?;
    let exit = reserve(&dir.join(EXIT_NEW), EXIT_MAX)?;
    let output = reserve(&dir.join(OUTPUT), program.output_max)?;
    let group = begin_group(&dir.join(GROUP))?;
    durable::write(dir, STARTED, b"")?;

    let started = Timestamp::now();
    let finished = child::run(&program, Some(&group));
    if let Some(group) = finished.group {
        reap(group);
    }
    let end = match finished.end {
        End::NotStarted { why } => End::NotStarted { why: why.chars().take(1000).collect() },
        end => end,
    };
    let duration_ms = finished.duration.as_millis() as u64;
    let (started_ms, ended_ms, output_cut) = (started.as_millisecond(), Timestamp::now().as_millisecond(), finished.output_cut);
    let exit_json = serde_json::to_vec(&Exit { end, started_ms, ended_ms, duration_ms, output_cut }).unwrap_or_default();
    record(&output, &dir.join(OUTPUT), &finished.output)?;
    record(&exit, &dir.join(EXIT_NEW), &exit_json)?;
    for _ in 0..TRIES {
        match std::fs::rename(dir.join(EXIT_NEW), dir.join(EXIT)) {
            Err(e) if full(&e) => wait_for_room(),
            renamed => {
                renamed.map_err(io("rename a file to", dir.join(EXIT)))?;
                break;
            }
        }
    }
    durable::sync_folder(dir)
}

/// The file that says what to kill should this process be killed: the boot, our session, and, written by the step's own
/// process before it is the step, its group. Not durable: after a power cut there is nothing left to be killed.
fn begin_group(path: &Path) -> Result<File, Error> {
    let session = rustix::process::getsid(None).map_err(io("find the session for", path))?;
    let mut file = File::create(path).map_err(io("make", path))?;
    write!(file, "{} {} ", boot_id(), session.as_raw_nonzero()).map_err(io("write", path))?;
    Ok(file)
}

/// A file with this much room taken for it.
fn reserve(path: &Path, bytes: usize) -> Result<File, Error> {
    const DOING: &str = "take room for";
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(io(DOING, path))?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64) {
        // Some file systems can't; writing zeros takes the room there.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.write_all_at(&vec![0; bytes], 0).map_err(io(DOING, path))?,
        taken => taken.map_err(io(DOING, path))?,
    }
    Ok(file)
}

/// Writes a result into the room that was taken for it.
fn record(file: &File, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    for left in (0..TRIES).rev() {
        match file.write_all_at(bytes, 0).and_then(|()| file.set_len(bytes.len() as u64)) {
            // A file system that copies on write may still say so.
            Err(e) if full(&e) && left > 0 => wait_for_room(),
            written => {
                written.map_err(io("write", path))?;
                break;
            }
        }
    }
    // Never tried again: what a failed `fsync` was about may be gone. Without `exit.json` the step counts as interrupted.
    file.sync_all().map_err(sync(path))
}

fn full(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Nothing tells when a disk has room again.
fn wait_for_room() {
    let _ = poll(&mut [], Some(&BETWEEN_TRIES));
}

/// Waits until nothing of the step's group is left, for at most ten seconds: a process that the kernel holds can't be killed.
fn reap(group: Pid) {
    for _ in 0..1000 {
        match rustix::process::waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 }));
            }
            Err(_) => return,
        }
    }
}

/// Changes with every start of the machine.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}
