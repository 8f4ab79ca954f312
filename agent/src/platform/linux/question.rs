//! Asks a program of the machine: what it says on standard output, in bounded time and memory.
//!
//! Not a step of a package: its answer is the standard output alone, whole or not at all, and nobody is given time to end in peace.

use crate::platform::PlatformError;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    process::{Pid, Signal, WaitId, WaitIdOptions},
};
use std::{
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often it is looked whether the program has ended although somebody else holds its output open.
const LOOK: Duration = Duration::from_millis(50);
/// How often a program that is open for writing is tried again, so long after each other.
const BUSY_TRIES: u32 = 40;
/// How much is kept of what a program says on its error output (bytes).
const ERRORS_MAX: usize = 1024;
/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What came of a program.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: i32,
    /// All of its standard output.
    pub(crate) output: Vec<u8>,
    /// The beginning of its error output, in one line.
    pub(crate) errors: String,
}

/// Runs a program with these arguments and a small environment of its own. It, and what it started, is killed when the time is
/// over or it said more than `most` bytes; both are errors, as is an end by a signal.
pub(crate) fn ask(program: &Path, arguments: &[&str], limit: Duration, most: usize) -> Result<Said, PlatformError> {
    let shown = || format!("{} {}", program.display(), arguments.join(" ")).trim_end().to_owned();
    let failed = |why: String| PlatformError::Program { program: shown(), why };
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").env_clear().env("PATH", PATH).env("LC_ALL", "C").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let parent = rustix::process::getpid();
    // SAFETY: two system calls, which are allowed between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            // Whoever asks may be killed at any instant, and nobody would then end the program.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
        });
    }
    let mut child = spawn(&mut command).map_err(|e| failed(format!("it can't be started: {e}")))?;
    let group = Pid::from_child(&child);
    let heard = hear(&mut child, group, limit, most);
    // Not reaped yet, so the group's id can't be anybody else's.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    let (output, errors) = heard.map_err(&failed)?;
    match status.code() {
        Some(code) => Ok(Said { code, output, errors }),
        None => Err(failed(ended_by(status))),
    }
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    // Another thread may have forked while the program's file was written: its child holds it open until it calls exec, and so
    // long this one can't be run.
    let mut tries = 0..BUSY_TRIES;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries.next().is_some() => {
                let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
                let _ = poll(&mut [], Some(&wait));
            }
            spawned => return spawned,
        }
    }
}

fn ended_by(status: ExitStatus) -> String {
    format!("it was ended by signal {}", status.signal().unwrap_or_default())
}

/// Reads both streams until the program has ended.
fn hear(child: &mut Child, leader: Pid, limit: Duration, most: usize) -> Result<(Vec<u8>, String), String> {
    let begun = Instant::now();
    let told = |e: io::Error| e.to_string();
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else { return Err("it has no output".into()) };
    for fd in [stdout.as_fd(), stderr.as_fd()] {
        rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).map_err(|e| told(e.into()))?;
    }
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut open = [true, true];
    loop {
        let ended = rustix::process::waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        let ended = ended.map_err(|e| told(e.into()))?.is_some();
        // After its end once more: what it left in the pipes.
        open[0] = open[0] && take(&mut stdout, &mut output, most + 1).map_err(told)?;
        open[1] = open[1] && take(&mut stderr, &mut errors, ERRORS_MAX).map_err(told)?;
        if output.len() > most {
            return Err(format!("it said more than {most} bytes"));
        }
        if ended {
            let errors = String::from_utf8_lossy(&errors).split_whitespace().collect::<Vec<_>>().join(" ");
            return Ok((output, errors));
        }
        let Some(left) = limit.checked_sub(begun.elapsed()) else { return Err(format!("it did not end within {limit:?}")) };
        let wait = left.min(LOOK);
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds = Vec::with_capacity(2);
        if open[0] {
            fds.push(PollFd::new(&stdout, PollFlags::IN));
        }
        if open[1] {
            fds.push(PollFd::new(&stderr, PollFlags::IN));
        }
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(told(e.into())),
        }
    }
}

/// Takes what is there and keeps the first `most` bytes of all. False at the stream's end.
fn take(stream: &mut impl Read, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    // A program that says more than that without a pause is looked at in between.
    for _ in 0..64 {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => into.extend_from_slice(&buffer[..n.min(most - into.len())]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, most: usize) -> Result<Said, PlatformError> {
        ask(Path::new("/bin/sh"), &["-c", script], limit, most)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_answer_is_the_standard_output_alone_and_whole() {
        let said = shell("echo a; echo warning >&2; head -c 300000 /dev/zero; echo $HOME; exit 3", LONG, 1 << 20).unwrap();
        assert_eq!((said.code, said.output.len(), said.errors.as_str()), (3, 300_003, "warning"));
        assert_eq!(&said.output[..2], b"a\n");
    }

    #[test]
    fn what_says_too_much_takes_too_long_or_leaves_others_behind_is_ended() {
        let error = |script: &str, limit, most| shell(script, limit, most).unwrap_err().to_string();
        assert!(error("yes", LONG, 1000).contains("more than 1000 bytes"));
        let slow = error("sleep 1000", Duration::from_millis(50), 10);
        assert!(slow.contains("/bin/sh -c sleep 1000 did not answer") && slow.contains("within 50ms"), "{slow}");
        assert!(error("kill -9 $$", LONG, 10).contains("signal 9"));
        assert!(ask(Path::new("/no/such"), &[], LONG, 1).unwrap_err().to_string().contains("can't be started"));
        // It holds the output open; the program's own end is what counts.
        let said = shell("sleep 1000 & echo $!", LONG, 100).unwrap();
        let left = std::path::PathBuf::from(format!("/proc/{}/stat", String::from_utf8(said.output).unwrap().trim()));
        let gone = || std::fs::read_to_string(&left).map_or(true, |stat| stat.contains(") Z "));
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < LONG, "what it started still runs");
            std::thread::yield_now();
        }
    }
}
