//! Runs a program and hurts it at its N-th system call of a kind: `inject [OPTIONS] -- PROGRAM ARGUMENTS…`.
//!
//! What `strace -f -e inject=CALL:…:when=N` does, but for the one thing that a sweep needs and strace lacks: strace counts
//! for each thread by itself (its counters are per tracee), and programs with a pool of threads make their N-th call in
//! whichever thread is free. Here one count goes over all threads and children of the program, so that N from 1 to the
//! number of a clean run goes through every one of them. A filter in the kernel (seccomp) stops the program at the calls of
//! that kind alone; else it runs at full speed.
//!
//! Counted are calls on files below the folders that `--below` names, and every `execve`, of the program itself and of
//! children that still are the same program (its supervisors, a fork before its exec): what it installs is left alone.
//! Each counted call is a line of the log: its number, the process, the call, the path. A call that was hurt is told by
//! `hurt PID`, and the end of such a process, and of the program itself, by `exit PID STATUS`. The first line is `start PID`.
//! Ends with the program's own code; killed itself, it takes the program and its children with it.
//!
//! - `--call fsync|fdatasync|rename|openat|write|execve`: the kind (`rename` is any of the three, `write` also `pwrite64` and `pwritev`).
//! - `--nth N`: which one; 0 hurts none.
//! - `--fault kill|cut|EIO|ENOSPC`: SIGKILL for the process, SIGKILL for all of them (the power goes), or the call is not made and
//!   fails with this error. With `--all`, every call from the N-th on fails.
//! - `--only TEXT`: counts only calls on paths that contain this.
//! - `--log FILE`, `--below FOLDER` (any number).

use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The kinds of calls, and the calls of each.
const KINDS: [(&str, &[i64]); 6] = [
    ("fsync", &[libc::SYS_fsync]),
    ("fdatasync", &[libc::SYS_fdatasync]),
    ("rename", &[libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2]),
    ("openat", &[libc::SYS_openat]),
    ("write", &[libc::SYS_write, libc::SYS_pwrite64, libc::SYS_pwritev]),
    ("execve", &[libc::SYS_execve]),
];

/// What happens at the call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Cut,
    Error(i32),
}

struct Order {
    calls: &'static [i64],
    nth: u64,
    fault: Fault,
    all: bool,
    only: Option<String>,
    below: Vec<PathBuf>,
    log: std::fs::File,
    program: Vec<OsString>,
}

fn parse() -> Result<Order, String> {
    let mut words = std::env::args_os().skip(1);
    let (mut calls, mut nth, mut fault, mut all, mut only, mut below, mut log) = (None, 0, Fault::Kill, false, None, vec![], None);
    while let Some(word) = words.next() {
        let option = word.to_str().unwrap_or_default().to_owned();
        if option == "--" {
            break;
        }
        if option == "--all" {
            all = true;
            continue;
        }
        let value = words.next().ok_or(format!("{option} needs a value"))?;
        let text = value.to_str().unwrap_or_default();
        match option.as_str() {
            "--call" => calls = KINDS.iter().find(|(name, _)| *name == text).map(|(_, calls)| *calls),
            "--nth" => nth = text.parse().map_err(|e| format!("--nth {text}: {e}"))?,
            "--only" => only = Some(text.to_owned()),
            "--fault" => {
                fault = match text {
                    "kill" => Fault::Kill,
                    "cut" => Fault::Cut,
                    "EIO" => Fault::Error(libc::EIO),
                    "ENOSPC" => Fault::Error(libc::ENOSPC),
                    _ => return Err(format!("{text} is no fault")),
                }
            }
            "--below" => below.push(PathBuf::from(value)),
            "--log" => log = Some(std::fs::File::create(&value).map_err(|e| format!("{text}: {e}"))?),
            _ => return Err(format!("{option} is no option")),
        }
    }
    let program: Vec<OsString> = words.collect();
    if program.is_empty() {
        return Err("there is no program to run".into());
    }
    let calls = calls.ok_or("--call names no kind of call")?;
    Ok(Order { calls, nth, fault, all, only, below, log: log.ok_or("--log is missing")?, program })
}

fn main() -> ExitCode {
    let order = match parse() {
        Ok(order) => order,
        Err(why) => {
            eprintln!("inject: {why}");
            return ExitCode::from(2);
        }
    };
    match Tracer::start(order).and_then(Tracer::run) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("inject: this machine lets nobody trace: {e}");
            ExitCode::from(125)
        }
    }
}

struct Tracer {
    order: Order,
    child: i32,
    exe: PathBuf,
    seen: HashSet<i32>,
    /// Processes that were hurt.
    hurt: HashSet<i32>,
    count: u64,
    /// How the program ended, once it has: what it left behind (supervisors outlive the agent) is followed to its end, for
    /// without a tracer the calls that the filter stops would fail.
    ended: Option<u8>,
}

fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

#[allow(unsafe_code)]
fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> std::io::Result<i64> {
    // SAFETY: the requests used here read or write memory of this process only through `data`, which callers point at a
    // value of the right type that lives through the call.
    check(unsafe { libc::ptrace(request, pid, address, data) })
}

/// Stops the calling process and everything that it starts at these calls.
#[allow(unsafe_code)]
fn install_filter(calls: &[i64]) -> std::io::Result<()> {
    let stop = calls.len() as u8;
    let mut filter = vec![libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 }];
    for (n, call) in (0u8..).zip(calls) {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { code, jt: stop - n, jf: 0, k: *call as u32 });
    }
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    filter.push(libc::sock_filter { code: ret, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW });
    filter.push(libc::sock_filter { code: ret, jt: 0, jf: 0, k: libc::SECCOMP_RET_TRACE });
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the filter that it points to live through the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program))?;
    }
    Ok(())
}

impl Tracer {
    #[allow(unsafe_code)]
    fn start(order: Order) -> std::io::Result<Tracer> {
        let text = |word: &OsString| CString::new(word.as_bytes()).map_err(std::io::Error::from);
        let words = order.program.iter().map(text).collect::<std::io::Result<Vec<_>>>()?;
        let arguments: Vec<_> = words.iter().map(|w| w.as_ptr()).chain([std::ptr::null()]).collect();
        let exe = std::fs::canonicalize(&order.program[0])?;
        // SAFETY: this process has one thread, so the child may do what it likes before exec.
        let child = check(unsafe { libc::fork() }.into())? as i32;
        if child == 0 {
            let run = || -> std::io::Result<()> {
                ptrace(libc::PTRACE_TRACEME, 0, 0, 0)?;
                // Waits here until the parent has said what it wants to be told.
                // SAFETY: a signal to itself.
                unsafe { libc::raise(libc::SIGSTOP) };
                install_filter(order.calls)?;
                // SAFETY: the arguments are null-terminated strings in a null-terminated list.
                unsafe { libc::execv(words[0].as_ptr(), arguments.as_ptr()) };
                Err(std::io::Error::last_os_error())
            };
            let e = run().expect_err("exec does not return");
            eprintln!("inject: {e}");
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(125) };
        }
        Ok(Tracer { order, child, exe, seen: HashSet::new(), hurt: HashSet::new(), count: 0, ended: None })
    }

    #[allow(unsafe_code)]
    fn run(mut self) -> std::io::Result<ExitCode> {
        writeln!(self.order.log, "start {}", self.child)?;
        loop {
            let mut status = 0;
            // SAFETY: `status` lives through the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
            if pid < 0 {
                // There is nobody left.
                return self.ended.map(ExitCode::from).ok_or_else(std::io::Error::last_os_error);
            }
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                self.gone(pid, status)?;
                continue;
            }
            let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
            let first = self.seen.insert(pid);
            if pid == self.child && first {
                let options = libc::PTRACE_O_TRACESECCOMP
                    | libc::PTRACE_O_TRACECLONE
                    | libc::PTRACE_O_TRACEFORK
                    | libc::PTRACE_O_TRACEVFORK
                    | libc::PTRACE_O_TRACEEXEC
                    | libc::PTRACE_O_EXITKILL;
                ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options as usize)?;
                ptrace(libc::PTRACE_CONT, pid, 0, 0)?;
                continue;
            }
            if event == libc::PTRACE_EVENT_SECCOMP && self.ended.is_none() {
                // A thread that was killed meanwhile can't be asked.
                match self.call(pid) {
                    Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e),
                    _ => {}
                }
            }
            // What is not a signal for the program, or the stop with which a new one begins, is not passed on.
            let deliver = if event != 0 || (first && signal == libc::SIGSTOP) { 0 } else { signal };
            let _ = ptrace(libc::PTRACE_CONT, pid, 0, deliver as usize);
        }
    }

    fn gone(&mut self, pid: i32, status: i32) -> std::io::Result<()> {
        self.seen.remove(&pid);
        let (code, how) = if libc::WIFEXITED(status) {
            let code = libc::WEXITSTATUS(status);
            (code as u8, code.to_string())
        } else {
            let signal = libc::WTERMSIG(status);
            (128 + signal as u8, format!("signal {signal}"))
        };
        if pid == self.child || self.hurt.contains(&pid) {
            writeln!(self.order.log, "exit {pid} {how}")?;
        }
        if pid == self.child {
            self.ended = Some(code);
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn call(&mut self, pid: i32) -> std::io::Result<()> {
        // SAFETY: plain numbers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, pid, 0, (&raw mut registers).expose_provenance())?;
        let number = registers.orig_rax as i64;
        if std::fs::read_link(format!("/proc/{pid}/exe")).ok().as_deref() != Some(&self.exe) {
            // The first one of all is the program's own start.
            if number != libc::SYS_execve || pid != self.child {
                return Ok(());
            }
        }
        let path = self.path(pid, number, &registers);
        let counts = number == libc::SYS_execve || self.order.below.iter().any(|below| path.starts_with(below));
        if !counts || self.order.only.as_ref().is_some_and(|only| !path.to_string_lossy().contains(only)) {
            return Ok(());
        }
        self.count += 1;
        let group = group_of(pid);
        writeln!(self.order.log, "{} {group} {} {}", self.count, name(number), path.display())?;
        if self.order.nth == 0 || self.count < self.order.nth || (self.count > self.order.nth && !self.order.all) {
            return Ok(());
        }
        self.hurt.insert(group);
        writeln!(self.order.log, "hurt {group}")?;
        match self.order.fault {
            // SAFETY: signals to processes that this one traces.
            Fault::Kill => drop(check(unsafe { libc::kill(group, libc::SIGKILL) }.into())),
            Fault::Cut => {
                let all: HashSet<i32> = self.seen.iter().map(|pid| group_of(*pid)).filter(|group| *group > 0).collect();
                for group in all {
                    // SAFETY: as above.
                    let _ = check(unsafe { libc::kill(group, libc::SIGKILL) }.into());
                }
            }
            Fault::Error(error) => {
                registers.orig_rax = u64::MAX;
                registers.rax = (-i64::from(error)) as u64;
                ptrace(libc::PTRACE_SETREGS, pid, 0, (&raw const registers).expose_provenance())?;
            }
        }
        Ok(())
    }

    /// The file that the call is about; empty if it is none.
    fn path(&self, pid: i32, number: i64, registers: &libc::user_regs_struct) -> PathBuf {
        let descriptor = |fd: u64| std::fs::read_link(format!("/proc/{pid}/fd/{}", fd as i32)).unwrap_or_default();
        let at = |fd: u64, address: u64| {
            let name = PathBuf::from(OsString::from_vec(text(pid, address)));
            let from = if fd as i32 == libc::AT_FDCWD {
                std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default()
            } else {
                descriptor(fd)
            };
            from.join(name)
        };
        match number {
            libc::SYS_openat => at(registers.rdi, registers.rsi),
            libc::SYS_rename => at(libc::AT_FDCWD as u64, registers.rsi),
            libc::SYS_renameat | libc::SYS_renameat2 => at(registers.rdx, registers.r10),
            libc::SYS_execve => at(libc::AT_FDCWD as u64, registers.rdi),
            _ => descriptor(registers.rdi),
        }
    }
}

fn name(number: i64) -> &'static str {
    KINDS.iter().find(|(_, calls)| calls.contains(&number)).map_or("?", |(name, _)| name)
}

/// The process that a thread belongs to; 0 if it is gone.
fn group_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok()).unwrap_or(0)
}

/// The text at an address of another process, up to its zero.
fn text(pid: i32, address: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; libc::PATH_MAX as usize];
    let read = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("mem")).map(|memory| {
        let mut read = 0;
        // A page may follow that is not there.
        while read < bytes.len() && !bytes[..read].contains(&0) {
            let next = (4096 - (address as usize + read) % 4096).min(bytes.len() - read);
            match memory.read_at(&mut bytes[read..read + next], address + read as u64) {
                Ok(0) | Err(_) => break,
                Ok(n) => read += n,
            }
        }
        read
    });
    bytes.truncate(read.unwrap_or(0));
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}
