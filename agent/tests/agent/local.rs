//! The local socket and the commands, with the real program.

use crate::{
    machine::{Machine, until},
    manager::Manager,
};
use std::process::{Command, Output};
use sutler_agent::service;

fn program(machine: &Machine, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sutler-agent"));
    command.args(arguments).arg("--dir").arg(machine.state()).arg("--root").arg(machine.root()).env_remove("SUTLER_AGENT_CONFIG");
    command.output().unwrap()
}

async fn run(machine: &Machine, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::task::block_in_place(|| program(machine, arguments));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_speak_to_the_running_agent() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let socket = machine.state().join("agent.sock");
    let listener = service::listen(&socket).unwrap();
    let serve = tokio::spawn(service::serve(listener, handle));
    let (code, out, _) = run(&machine, &["status", "-o", "json"]).await;
    assert_eq!(code, Some(0));
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["client"], manager.clients()[0].as_str());
    assert_eq!(status["state"], "ACTIVE");
    let (code, out, _) = run(&machine, &["status"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("connected to 127.0.0.1:"), "{out}");
    let (_, out, _) = run(&machine, &["facts", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["os"]["family"], "linux");
    let (code, _, err) = run(&machine, &["join", "No Group"]).await;
    assert_eq!(code, Some(2), "{err}");
    serve.abort();
    let _ = serve.await;
    let (code, _, err) = run(&machine, &["status"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("is `sutler-agent run` running"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_enrols_from_a_file_and_only_one_agent_runs_on_a_folder() {
    let manager = Manager::start().await;
    let machine = Machine::new();
    let (code, _, err) = run(&machine, &["run"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("sutler-agent enroll TOKEN"), "{err}");
    let file = machine.scratch().join("token");
    std::fs::write(&file, format!("{}\n", manager.token().encode())).unwrap();
    let (code, out, err) = run(&machine, &["enroll", "--token-file", file.to_str().unwrap(), "--remove-token-file"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains(manager.clients()[0].as_str()));
    assert!(!file.exists());
    let mut running = Command::new(env!("CARGO_BIN_EXE_sutler-agent"))
        .args(["run", "--log-format", "json", "--dir"])
        .arg(machine.state())
        .arg("--root")
        .arg(machine.root())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    manager.connected(1).await;
    let (code, _, err) = run(&machine, &["run"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("another agent runs"), "{err}");
    let (code, _, err) = run(&machine, &["status"]).await;
    assert_eq!(code, Some(0), "{err}");
    let pid = rustix::process::Pid::from_raw(running.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || running.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "SIGTERM ends it cleanly: {ended}");
    let socket = machine.state().join("agent.sock");
    until("the socket to go", || !socket.exists()).await;
}
