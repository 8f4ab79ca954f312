//! What another user of a client machine can read, ask for and change: next to nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use sutler_tests::harness::{Agent, Done, JobView, Manager, PATIENCE, PackageFolder, run, wait_until};
use sutler_tests::tools;

/// Tells everything that a step can see of the agent, and waits until it is let go.
const LOOKS: &str = "#!/bin/sh
{ /usr/bin/env; tr '\\0' ' ' </proc/self/cmdline; echo; ls -l /proc/self/fd; tr '\\0' ' ' </proc/$PPID/cmdline; echo; } >\"$(pwd -P).seen\" 2>&1
";

fn mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether this test can become another user.
fn cannot_change_users() -> bool {
    let changes = tools::tool("setpriv").is_some_and(|setpriv| {
        Command::new(setpriv).args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"]).status().is_ok_and(|s| s.success())
    });
    !changes && tools::skip("needs root and setpriv, to be another user")
}

/// Runs a program as a user who is nobody.
fn as_nobody(program: &Path, arguments: &[&str]) -> Done {
    let mut command = Command::new(tools::tool("setpriv").expect("it was asked for"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments).current_dir("/");
    run(command, b"")
}

#[test]
fn another_user_of_the_machine_reads_and_joins_and_does_nothing_else() {
    if cannot_change_users() {
        return;
    }
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create volunteers --join open");
    let agent = Agent::enrolled("one", &manager);
    // Everything above the agent's folder lets others through, as on a real machine.
    agent.scratch().ancestors().take(2).for_each(|folder| mode(folder, 0o755));
    let program = agent.scratch().join("sutler-agent");
    fs_err::copy(sutler_tests::harness::programs::sutler_agent(), &program).unwrap();
    mode(&program, 0o755);
    let socket = agent.socket();
    let call = |words: &[&str]| as_nobody(&program, &[words, &["--socket", socket.to_str().unwrap(), "--dir", "/nonexistent"]].concat());

    assert!(call(&["status"]).ok().contains(&agent.id()));
    call(&["facts", "-o", "json"]).ok();
    call(&["join", "volunteers"]).ok();
    assert!(call(&["groups"]).ok().contains("volunteers"));
    call(&["leave", "volunteers"]).ok();
    cli.ok("question create room --prompt 'Which room is it in?'");
    wait_until("the question", PATIENCE, || call(&["questions"]).ok().contains("room"));
    call(&["answer", "room", "B7"]).ok();
    call(&["announcements"]).ok();
    call(&["available"]).ok();
    for forbidden in ["run-now", "shutdown", "unenroll"] {
        call(&[forbidden]).ends_with(1).says(&["root"]);
    }
    assert!(cli.ok("client list").contains(&agent.id()), "it is still a client");

    // Nothing of what the agent keeps can be listed, read or written.
    let state = agent.state();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    for file in ["", "credential.pem", "pins.json", "identity.json", "session", "attempts", "answers", "steps", "lock"] {
        let path = state.join(file);
        assert!(path.exists(), "{file}");
        let program = if path.is_dir() { "/bin/ls" } else { "/bin/cat" };
        let refused = as_nobody(Path::new(program), &[path.to_str().unwrap()]);
        assert!(refused.code != 0 && refused.stdout.is_empty() && refused.stderr.contains("Permission denied"), "{file}: {refused:?}");
        as_nobody(Path::new("/bin/sh"), &["-c", "echo x >>\"$0\"/x", path.to_str().unwrap()]).says(&["Permission denied"]);
    }
    // And were the folder open for a moment, still nothing: each file is closed, too.
    mode(&state, 0o755);
    for file in ["credential.pem", "pins.json", "identity.json", "session", "generation", "lock"] {
        as_nobody(Path::new("/bin/cat"), &[state.join(file).to_str().unwrap()]).ends_with(1).says(&["Permission denied"]);
    }
}

/// Connects as often as it can and says nothing; after a line on its input it says whether its first connection still waits.
const CROWDS: &str = "use Socket; my @all; for (1..64) { socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
    connect($s, pack_sockaddr_un($ARGV[0])) or die; push @all, $s } $| = 1; print \"ready\\n\"; <STDIN>; my $in = ''; \
    vec($in, fileno($all[0]), 1) = 1; print select($in, undef, undef, 0) ? \"answered\\n\" : \"waits\\n\"";

#[test]
fn root_is_heard_however_many_calls_another_user_of_the_machine_makes() {
    if cannot_change_users() {
        return;
    }
    let Some(perl) = tools::tool("perl") else {
        tools::skip("needs perl, to be many callers");
        return;
    };
    let manager = Manager::start();
    let agent = Agent::enrolled("one", &manager);
    agent.scratch().ancestors().take(2).for_each(|folder| mode(folder, 0o755));
    // Where root has to wait for the others it is never served before the first of them.
    wait_until("root to be heard while others say nothing", PATIENCE, || {
        let mut command = Command::new(tools::tool("setpriv").expect("it was asked for"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&perl).args(["-e", CROWDS]).arg(agent.socket());
        let mut crowd = command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(crowd.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        agent.ok("shutdown --within 1");
        crowd.stdin.take().unwrap().write_all(b"\n").unwrap();
        let waits = said.next().unwrap().unwrap() == "waits";
        assert!(crowd.wait().unwrap().success());
        waits
    });
}

#[test]
fn an_agent_refuses_a_folder_in_which_others_could_have_put_something() {
    let manager = Manager::start();
    let mut agent = Agent::new("one");
    agent.enroll(manager.cli().ok("token create").trim());
    let state = agent.state();
    let mut refuses = |word: &str| {
        agent.start();
        wait_until("the agent to have ended", PATIENCE, || !agent.is_running() || agent.log().contains("connected"));
        assert!(!agent.is_running(), "it runs: {}", agent.log());
        assert!(agent.log().contains(word), "{word:?} is not in {}", agent.log());
        agent.kill();
    };
    for (file, bad, good) in [("", 0o711, 0o700), ("credential.pem", 0o640, 0o600), ("pins.json", 0o606, 0o600)] {
        mode(&state.join(file), bad);
        refuses(if file.is_empty() { "mode 0711" } else { file });
        mode(&state.join(file), good);
    }
    for file in ["credential.pem", "attempts"] {
        let aside = state.parent().unwrap().join("aside");
        let _ = fs_err::rename(state.join(file), &aside);
        std::os::unix::fs::symlink(&aside, state.join(file)).unwrap();
        refuses("is a link");
        fs_err::remove_file(state.join(file)).unwrap();
        let _ = fs_err::rename(&aside, state.join(file));
    }
    if rustix::process::geteuid().is_root() {
        for file in ["identity.json", ""] {
            std::os::unix::fs::chown(state.join(file), Some(65534), None).unwrap();
            refuses("belongs to user 65534");
            std::os::unix::fs::chown(state.join(file), Some(0), None).unwrap();
        }
    }
    agent.start();
    wait_until("the agent to be connected", PATIENCE, || agent.status()["connected"].is_string());
}

#[test]
fn an_agent_refuses_a_configuration_or_rules_that_others_may_write() {
    let manager = Manager::start();
    let mut agent = Agent::new("one");
    agent.configure("");
    let (config, policy) = (agent.scratch().join("agent.toml"), agent.scratch().join("policy.toml"));
    fs_err::write(&policy, "").unwrap();
    mode(&policy, 0o644);
    let token = manager.cli().ok("token create");
    mode(&config, 0o664);
    agent.try_enroll(token.trim()).ends_with(1).says(&["mode 0664", &format!("chmod go-w {}", config.display())]);
    mode(&config, 0o644);
    agent.enroll(token.trim());
    let mut refuses = |check: &str, words: &[&str]| {
        agent.start();
        wait_until("the agent to have ended", PATIENCE, || !agent.is_running());
        words.iter().for_each(|word| assert!(agent.log().contains(word), "{word:?} is not in {}", agent.log()));
        agent.kill();
        // The doctor says the same, once.
        let doctor = agent.run("doctor").ends_with(30).stdout;
        let named: Vec<_> = doctor.lines().filter(|line| line.contains("the agent refuses to start")).collect();
        assert!(matches!(&named[..], [line] if line.starts_with(check)), "{doctor}");
        words.iter().for_each(|word| assert!(doctor.contains(word), "{word:?} is not in {doctor}"));
    };
    for (check, file) in [("configuration", &config), ("policy", &policy)] {
        let shown = file.display().to_string();
        for bad in [0o646, 0o664] {
            mode(file, bad);
            refuses(check, &[&format!("can be written by others (mode {bad:04o})"), &format!("run chmod go-w {shown}")]);
            mode(file, 0o644);
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(file, Some(65534), None).unwrap();
            refuses(check, &["belongs to user 65534", &format!("run chown root {shown}")]);
            std::os::unix::fs::chown(file, Some(0), None).unwrap();
        }
    }
    // Whoever may write the folder may put other files there, and be it that there are none yet.
    fs_err::remove_file(&policy).unwrap();
    mode(config.parent().unwrap(), 0o770);
    refuses("configuration", &["can be written by others (mode 0770)", &format!("run chmod go-w {}", config.parent().unwrap().display())]);
    mode(config.parent().unwrap(), 0o700);
    agent.start();
    wait_until("the agent to be connected", PATIENCE, || agent.status()["connected"].is_string());
}

#[test]
fn a_step_sees_nothing_of_the_agent_and_no_secret_is_in_arguments_or_environments() {
    let manager = Manager::start();
    let cli = manager.cli();
    let token = cli.ok("token create");
    let mut agent = Agent::new("one");
    agent.enroll(token.trim());
    agent.within(&["env", "SUTLER_SECRET=agents-own-secret", "HTTP_PROXY=http://u:p@proxy"]);
    agent.start();
    let package = PackageFolder::counting("looks", "1.0");
    package.file("bin/install", LOOKS);
    cli.ok(&format!("package push {}", package.path().display()));
    let job = cli.id(&format!("job run --package looks --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    let seen = agent.read("opt/looks.seen").unwrap();
    assert!(seen.contains("SUTLER_ATTEMPT="), "{seen}");
    for secret in ["agents-own-secret", "HTTP_PROXY", "PRIVATE KEY", "credential", "sutler1.", "journal", "socket:"] {
        assert!(!seen.contains(secret), "{secret} is in {seen}");
    }
    // The agent itself.
    let arguments = fs_err::read(format!("/proc/{}/cmdline", agent.pid())).unwrap();
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    assert!(arguments.contains("run") && !arguments.contains("sutler1.") && !arguments.contains(token.trim()), "{arguments}");
}
