//! Runs a hook's program: no shell, a clean environment, the event on its standard input, a bounded part of its output.

use super::{SAID_MAX, said};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// How long a program's output is waited for after its end: something that it left behind may hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ends a program and what it started, if nobody waited for its end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs a program to its end. When this is dropped before, the program is killed.
pub(super) async fn run(argv: &[String], input: &[u8]) -> Result<String, String> {
    let program = &argv[0];
    let mut command = Command::new(program);
    command.args(&argv[1..]).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("cannot start {program}: {e}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is told may still be content.
            let _ = stdin.write_all(input).await;
        }
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let outputs = async { tokio::join!(feed, keep(stdout, &mut out), keep(stderr, &mut err)) };
        tokio::pin!(outputs);
        let mut closed = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut outputs, if !closed => closed = true,
            }
        };
        if !closed {
            let _ = tokio::time::timeout(LAST_WORDS, outputs).await;
        }
        status
    };
    let status = status.map_err(|e| format!("cannot wait for {program}: {e}"))?;
    group.0 = None;
    out.extend(err);
    let said = said(&out);
    if status.success() {
        return Ok(said);
    }
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(format!("{program} ended with {status}{said}"))
}

/// Keeps the beginning of what is said, and reads the rest, so that nobody waits to say it.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let room = SAID_MAX.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_a_clean_environment_and_its_output_is_bounded() {
        assert_eq!(run(&sh("cat; pwd; echo \"$HOME$CARGO\""), b"event\n").await.unwrap(), "event\\n/");
        let loud = run(&sh("head -c 1000000 /dev/zero | tr '\\0' x; echo no >&2; exit 3"), b"").await.unwrap_err();
        assert!(loud.contains("exit status: 3: xxxx") && loud.len() < 2 * SAID_MAX, "{}", loud.len());
        assert!(run(&["/no/such/program".to_owned()], b"").await.unwrap_err().contains("cannot start"));
        // It closes its input before it has been told, and leaves something behind that holds its output.
        run(&sh("exec <&-; sleep 60 & exit 0"), &vec![b'x'; 1 << 20]).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        // Given up as its time limit would, once it has started the other one.
        let started = async {
            loop {
                match std::fs::read_to_string(&file).map(|text| text.trim().parse::<i32>()) {
                    Ok(Ok(pid)) => return pid,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let (argv, event) = (sh(&script), b"");
        let pid = tokio::select! {
            told = run(&argv, event) => panic!("it ended: {told:?}"),
            pid = started => pid,
        };
        let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z")).then_some(()).is_none();
        for _ in 0..1000 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("what the program started still runs");
    }
}
