//! Runs one program to its end: exact arguments, clean surroundings, a time limit, the end of what it said.
//!
//! Used by the supervisor for steps and by detection for its commands. No thread and no runtime: one `poll` over the
//! program's end, its output and a timer that also counts while the machine sleeps.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
    time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    fs::File,
    io::{self, PipeReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How much is read from the pipe after the program's end: what its group left there, however much a daemon that
/// escaped the group goes on writing.
const DRAIN_MAX: usize = 1 << 20;

/// How often a program that is open for writing is tried again, and how long after: two seconds together.
const BUSY_TRIES: u32 = 100;
const BETWEEN_BUSY_TRIES: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A program with everything it is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    /// What `execve` is asked to run: an absolute path.
    pub(crate) program: PathBuf,
    /// Its arguments, the zeroth included.
    pub(crate) argv: Vec<String>,
    /// All of its environment, as `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// Its working directory.
    pub(crate) directory: PathBuf,
    /// Whose rights it has, by the numbers of the user and of its group; the agent's own unless given.
    #[serde(default)]
    pub(crate) user: Option<(u32, u32)>,
    /// How long it may run (milliseconds on `CLOCK_BOOTTIME`).
    pub(crate) limit_ms: u64,
    /// How long it has after `SIGTERM` (milliseconds); 0 kills it at once.
    pub(crate) grace_ms: u64,
    /// How much of its output's end is kept (bytes).
    pub(crate) output_max: usize,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub(crate) enum End {
    Exited { code: i32 },
    Signaled { signal: i32 },
    TimedOut,
    NotStarted { why: String },
}

/// What came of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) end: End,
    /// Its process group, if it was started.
    pub(crate) group: Option<Pid>,
    /// The end of its output, both streams in the order they came.
    pub(crate) output: Vec<u8>,
    /// How many bytes came before that.
    pub(crate) output_cut: u64,
    /// How long it took, time asleep included.
    pub(crate) duration: Duration,
}

/// The last bytes of a stream, in bounded memory.
struct Tail {
    bytes: Vec<u8>,
    max: usize,
    /// How many bytes were before these.
    cut: u64,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Moved once per `max` bytes, not once per read.
        if self.bytes.len() > self.max * 2 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..surplus);
        self.cut += surplus as u64;
    }
}

/// Time since the machine started, sleep included.
pub(crate) fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec as u32)
}

/// Runs a program to its end and kills what is then left of its process group. The group's id is written to `group`, as a
/// line, before the program's first instruction.
///
/// Should the calling thread end first, the kernel kills the program's leader with it. What left the group by itself (a
/// service that the installer started as a daemon) is left alone; if it still holds the output, its next write there fails.
pub(crate) fn run(program: &Program, group: Option<&File>) -> Finished {
    let begun = uptime();
    let mut tail = Tail { bytes: Vec::new(), max: program.output_max, cut: 0 };
    let mut leader = None;
    let end = match spawn(program, group) {
        Ok((child, output)) => {
            leader = Some(Pid::from_child(&child));
            watch(program, child, output, &mut tail).unwrap_or_else(|e| End::NotStarted {
                why: format!("{} was started but can't be watched, and was killed: {e}", program.program.display()),
            })
        }
        Err(e) => {
            let at = program.directory.display();
            End::NotStarted { why: format!("{} can't be started in {at}: {e}", program.program.display()) }
        }
    };
    tail.cut();
    Finished { end, group: leader, output: tail.bytes, output_cut: tail.cut, duration: uptime().saturating_sub(begun) }
}

fn spawn(program: &Program, group: Option<&File>) -> io::Result<(Child, PipeReader)> {
    let (output, input) = io::pipe()?;
    rustix::fs::fcntl_setfl(&output, OFlags::NONBLOCK)?;
    let mut command = Command::new(&program.program);
    command.current_dir(&program.directory).env_clear().process_group(0);
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    if let Some((user, group)) = program.user {
        // Before what follows the fork: it goes with no other group, and into the folder with that user's rights.
        command.uid(user).gid(group);
    }
    exactly(&mut command, program, group.map(File::try_clone).transpose()?)?;
    // Another thread may have forked while the program's file was being written: its child holds the file open until it
    // calls exec, and so long this one can't be run.
    for _ in 0..BUSY_TRIES {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                let _ = poll(&mut [], Some(&BETWEEN_BUSY_TRIES));
            }
            spawned => return Ok((spawned?, output)),
        }
    }
    Ok((command.spawn()?, output))
}

/// Makes `command` end in `execve` with the program's own arguments and environment, and in nothing else.
fn exactly(command: &mut Command, program: &Program, group: Option<File>) -> io::Result<()> {
    let text = |s: &str| CString::new(s).map_err(io::Error::from);
    let path = CString::new(program.program.as_os_str().as_encoded_bytes())?;
    let argv = program.argv.iter().map(|a| text(a)).collect::<io::Result<Vec<_>>>()?;
    let environment = program.environment.iter().map(|v| text(v)).collect::<io::Result<Vec<_>>>()?;
    // Addresses of the strings' bytes, which stay where they are when the vectors move into the closure.
    let addresses = |list: &[CString]| list.iter().map(|s| s.as_ptr().expose_provenance()).chain([0]).collect::<Vec<usize>>();
    let (argv_at, environment_at) = (addresses(&argv), addresses(&environment));
    let parent = rustix::process::getpid();
    let child = move || {
        // Whoever watches may be killed at any instant: from here on the program dies with it, and before the program can
        // start others it stands in `group` where they are found.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if let Some(group) = &group {
            let mut line = [0; 16];
            let mut rest = &mut line[..];
            writeln!(rest, "{}", rustix::process::getpid().as_raw_nonzero())?;
            let left = rest.len();
            (&*group).write_all(&line[..line.len() - left])?;
        }
        let _keep = (&argv, &environment);
        rustix::process::umask(Mode::from_raw_mode(0o022));
        // SAFETY: only system calls, which are allowed between fork and exec; the two vectors of addresses are
        // null-terminated and point to strings that live until exec replaces this process.
        #[allow(unsafe_code)]
        unsafe {
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            // Nothing is inherited but the three standard streams, whatever the agent itself was started with.
            if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
                for fd in 3..4096 {
                    libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                }
            }
            libc::execve(path.as_ptr(), argv_at.as_ptr().cast(), environment_at.as_ptr().cast());
        }
        Err(io::Error::last_os_error())
    };
    // SAFETY: see the closure. It is needed since `Command` would run a file without a first line through a shell where
    // the C library's `execvp` does, and passes on which signals are blocked and ignored.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(child);
    }
    Ok(())
}

fn watch(program: &Program, mut child: Child, mut output: PipeReader, tail: &mut Tail) -> io::Result<End> {
    let group = Pid::from_child(&child);
    let ended = watch_until_end(program, group, &mut output, tail);
    // The leader is not reaped yet, so the group's id can't be anybody else's.
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let status = child.wait()?;
    let timed_out = ended?;
    let mut drained = 0;
    let mut buffer = [0; 16 << 10];
    while drained < DRAIN_MAX {
        match output.read(&mut buffer) {
            Ok(n) if n > 0 => {
                drained += n;
                tail.push(&buffer[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    Ok(match (timed_out, status.code(), status.signal()) {
        (true, ..) => End::TimedOut,
        (_, Some(code), _) => End::Exited { code },
        (_, _, signal) => End::Signaled { signal: signal.unwrap_or(0) },
    })
}

/// Waits for the leader's end, reading what the group says. True if the limit had passed.
fn watch_until_end(program: &Program, leader: Pid, output: &mut PipeReader, tail: &mut Tail) -> io::Result<bool> {
    // Kernels before 5.3 can't wait for a process with a descriptor: there we look 20 times a second.
    let pidfd = rustix::process::pidfd_open(leader, PidfdFlags::empty()).ok();
    let look = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    arm(&timer, Duration::from_millis(program.limit_ms))?;
    let (mut timed_out, mut open) = (false, true);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut fds = vec![PollFd::new(&timer, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&*output, PollFlags::IN));
        }
        if let Some(pidfd) = &pidfd {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        match poll(&mut fds, pidfd.is_none().then_some(&look)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let fired = !fds[0].revents().is_empty();
        let said = open && !fds[1].revents().is_empty();
        drop(fds);
        if said {
            match output.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(n) => tail.push(&buffer[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => open = false,
            }
        }
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if rustix::process::waitid(WaitId::Pid(leader), peek)?.is_some() {
            return Ok(timed_out);
        }
        if fired {
            let signal = if timed_out || program.grace_ms == 0 { Signal::KILL } else { Signal::TERM };
            timed_out = true;
            let _ = rustix::process::kill_process_group(leader, signal);
            arm(&timer, Duration::from_millis(program.grace_ms))?;
        }
    }
}

/// Lets the timer fire once, after this long; never if it is zero.
fn arm(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let after = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: after })?;
    Ok(())
}

/// Keeps every signal that can be kept from this process, until it ends. Programs run by [`run`] get an empty mask again.
pub(crate) fn block_signals() {
    // SAFETY: the set is initialised by `sigfillset` before it is used, and both calls only read and write it.
    #[allow(unsafe_code)]
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}
