//! What processes take of the machine, as the kernel counts it.

use rustix::process::{Pid, WaitId, WaitIdOptions};
use std::{
    collections::HashMap,
    ops::{Add, Sub},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// Ticks of a second in `/proc/PID/stat`: part of the kernel's interface on this architecture, whatever its own clock is.
const TICKS: f64 = 100.0;

pub(super) const MIB: f64 = (1 << 20) as f64;
pub(super) const GIB: f64 = (1 << 30) as f64;

struct Stat {
    parent: u32,
    running: bool,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have anything in it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    // Of itself, and of its children that it waited for.
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat { parent: number(1)? as u32, running: !matches!(*fields.first()?, "Z" | "X"), ticks })
}

/// A process and everything that descends from it and runs.
pub(super) fn tree(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut running = Vec::new();
    for pid in processes() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
            if stat.running {
                running.push(pid);
            }
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![of]);
    while let Some(pid) = next.pop() {
        if running.contains(&pid) {
            found.push(pid);
        }
        next.extend(children.remove(&pid).into_iter().flatten());
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").expect("there is /proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The trees of several processes.
pub(super) fn trees(of: &[u32]) -> Vec<u32> {
    of.iter().flat_map(|pid| tree(*pid)).collect()
}

/// Processor time of these processes and of those that they waited for (seconds, to a hundredth).
pub(super) fn cpu(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.ticks).sum::<u64>() as f64 / TICKS
}

/// Waits until this process takes hardly any processor any more: what was done before is over.
pub(super) fn until_at_rest(pid: u32, limit: Duration) {
    let span = Duration::from_millis(500);
    until("the process to be at rest", limit, || {
        let before = cpu_of_threads(&[pid]);
        pass(span);
        cpu_of_threads(&[pid]) - before < span.as_secs_f64() / 10.0
    });
}

/// Processor time of the threads that these processes have now (seconds, exactly): for what hardly takes any.
pub(super) fn cpu_of_threads(pids: &[u32]) -> f64 {
    let nanos = |file: &Path| std::fs::read_to_string(file).ok()?.split_whitespace().next()?.parse::<u64>().ok();
    threads(pids).iter().filter_map(|thread| nanos(&thread.join("schedstat"))).sum::<u64>() as f64 / 1e9
}

/// How often the threads of these processes went to sleep, and so were woken up.
pub(super) fn wake_ups(pids: &[u32]) -> u64 {
    let of = |thread: &Path| {
        let text = std::fs::read_to_string(thread.join("status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
    };
    threads(pids).iter().filter_map(|thread| of(thread)).sum()
}

fn threads(pids: &[u32]) -> Vec<std::path::PathBuf> {
    let of = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/task")).ok();
    pids.iter().filter_map(of).flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Memory (bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Memory {
    /// What is in it of these processes; what two of them share counts twice.
    pub(super) rss: f64,
    /// The same, what is shared divided among all that share it.
    pub(super) pss: f64,
}

impl Add for Memory {
    type Output = Memory;

    fn add(self, other: Memory) -> Memory {
        Memory { rss: self.rss + other.rss, pss: self.pss + other.pss }
    }
}

impl Sub for Memory {
    type Output = Memory;

    fn sub(self, other: Memory) -> Memory {
        Memory { rss: self.rss - other.rss, pss: self.pss - other.pss }
    }
}

/// The memory of these processes now.
pub(super) fn memory(pids: &[u32]) -> Memory {
    pids.iter().fold(Memory::default(), |sum, pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum + Memory { rss: kib(&text, "Rss:"), pss: kib(&text, "Pss:") }
    })
}

/// The most memory that a process had since it was started, or since [`forget_peak`] (bytes).
pub(super) fn peak(pid: u32) -> f64 {
    kib(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "VmHWM:")
}

/// From now on the peak is counted anew.
pub(super) fn forget_peak(pid: u32) {
    fs_err::write(format!("/proc/{pid}/clear_refs"), "5").unwrap_or_else(|e| panic!("{e}"));
}

/// Bytes of a line in KiB; 0 without it.
fn kib(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    line.unwrap_or_default() * 1024.0
}

/// Runs a program to its end: what it took of the processor, with what it waited for (seconds).
///
/// # Panics
///
/// When it can't be started or doesn't end well.
pub(super) fn run(mut command: Command) -> f64 {
    let shown = format!("{command:?}");
    let mut child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("`{shown}` can't be started: {e}"));
    let pid = Pid::from_raw(child.id() as i32).expect("a process has an id");
    // It has ended and was not waited for: so the kernel still has its figures.
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("it is our child");
    let cpu = cpu(&[child.id()]);
    let status = child.wait().expect("it is our child");
    assert!(status.success(), "`{shown}` ended with {status}");
    cpu
}

/// Lets this much time pass, for figures of what goes on meanwhile.
pub(super) fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until a process has left the processor alone for this long, or used less than a twentieth of it; how long it was busy.
///
/// # Panics
///
/// When it is busy still after `patience`.
pub(super) fn at_rest(pid: u32, rest: Duration, patience: Duration) -> Duration {
    let begin = Instant::now();
    loop {
        let (before, since) = (cpu(&[pid]), begin.elapsed());
        pass(rest);
        if cpu(&[pid]) - before < rest.as_secs_f64() / 20.0 {
            return since;
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} for process {pid} to come to rest");
    }
}

/// Asks every two milliseconds until something holds; the moment at which it did. For what is timed by its being there: the tests'
/// way of waiting rests up to 150 ms between two questions.
///
/// # Panics
///
/// When it doesn't hold after `patience`.
pub(super) fn until(what: &str, patience: Duration, holds: impl FnMut() -> bool) -> Instant {
    until_every(Duration::from_millis(2), what, patience, holds)
}

/// The same with so much time between two questions: for those that cost whoever is measured something.
pub(super) fn until_every(rest: Duration, what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Instant {
    let begin = Instant::now();
    loop {
        if holds() {
            return Instant::now();
        }
        assert!(begin.elapsed() < patience, "waited {patience:?} for {what}");
        pass(rest);
    }
}

/// Seconds since 1970 now, as `date +%s.%N` prints them.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_secs_f64()
}

/// How much the machine had to do in the last minute.
pub(super) fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The machine in a sentence.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = kib(&read("/proc/meminfo"), "MemTotal:") / GIB;
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = read("/etc/os-release");
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    format!("{count} cores ({}), {memory:.0} GiB, {system}, Linux {}", model.unwrap_or("unknown".into()), kernel.trim())
}

/// Bytes that came in on the established TCP connections to this port of the loopback, and that went out on them.
///
/// # Panics
///
/// Without `ss`.
pub(super) fn wire(port: u16) -> (u64, u64) {
    let output = Command::new(crate::tools::tool("ss").expect("ss is installed (iproute2)"))
        .args(["-tinH", "state", "established", "dport", "=", &format!(":{port}")])
        .output()
        .expect("ss can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = |name: &str| text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).sum();
    (sum("bytes_received:"), sum("bytes_sent:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_computes_takes_processor_time_and_one_that_ends_takes_none() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command)
        };
        // In a child that it waits for, as curl is one of a shell's.
        let busy = shell("sh -c 'n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done'");
        assert!(busy >= 0.02, "{busy}");
        assert!(shell("exit 0") < busy);
    }

    #[test]
    fn this_process_is_in_its_tree_and_has_memory_and_wakes_up() {
        let own = [std::process::id()];
        assert!(tree(own[0]).contains(&own[0]));
        let memory = memory(&own);
        assert!(memory.rss >= memory.pss && memory.pss > MIB / 4.0, "{memory:?}");
        assert!(peak(own[0]) >= memory.rss / 2.0);
        let before = wake_ups(&own);
        pass(Duration::from_millis(5));
        assert!(wake_ups(&own) > before && cpu_of_threads(&own) > 0.0);
    }
}
