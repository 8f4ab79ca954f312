//! `cargo demo [DIR]`: the main job on embedded defaults, from an empty folder to three machines with their software.
//!
//! Starts a manager, makes group, package, job and policy as an administrator would, and then three agents, one after
//! another, each a process of its own with a root of its own. Shows the table that an administrator would watch. Needs no
//! root, opens ports on the loopback alone, and removes everything that it has made.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sutler_tests::harness::cleanup::Place;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, programs, wait_until};

/// How long everything after the build may take.
const LIMIT: Duration = Duration::from_secs(60);

const USAGE: &str = "usage: cargo demo [DIR]

Installs the package in the folder DIR on three agents of this machine, each below a temporary folder, and shows it.
A folder without a package.toml is installed as it is, below /opt. Without DIR, an example says hello.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let folder = match &arguments[..] {
        [] => None,
        [word] if word == "--help" || word == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [folder] if Path::new(folder).is_dir() => Some(PathBuf::from(folder)),
        [other] => {
            eprintln!("error: {} is not a folder\n\n{USAGE}", Path::new(other).display());
            return ExitCode::from(2);
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let place = Place::new("demo");
    let package = match package(folder.as_deref(), place.path()) {
        Ok(package) => package,
        Err(e) => {
            eprintln!("error: cannot prepare the package: {e}");
            return ExitCode::FAILURE;
        }
    };
    say("The manager and the agent are being brought up to date (the first time this takes a while)");
    let programs = programs::folder();
    say(&format!("  {}", programs.display()));
    run(&package, Instant::now())
}

/// A folder with a `package.toml`: the one given, a copy of the one given with one added, or the example.
fn package(given: Option<&Path>, place: &Path) -> std::io::Result<PathBuf> {
    let Some(given) = given else {
        let folder = place.join("hello");
        fs_err::create_dir_all(&folder)?;
        sutler::package::write_example(&folder)?;
        return Ok(folder);
    };
    if given.join("package.toml").is_file() {
        return Ok(given.to_owned());
    }
    let whole = fs_err::canonicalize(given)?;
    let name: String = whole.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // What a package may be called: a-z 0-9 + . -
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "+.-".contains(c) { c } else { '-' }).collect();
    let name = match name.trim_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "" => "folder",
        name => name,
    };
    let folder = place.join(name);
    copy(&whole, &folder.join("files"))?;
    fs_err::write(
        folder.join("package.toml"),
        format!(
            "name = \"{name}\"\nversion = \"1.0\"\ndescription = \"The folder {name}\"\ndirectory = \"/opt/{name}\"\nfiles = \"files\"\n"
        ),
    )?;
    Ok(folder)
}

/// Copies a folder with its links as links.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs_err::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs_err::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn say(text: &str) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}

/// Shows a command as it would be typed, runs it, and shows what it prints.
fn administrator(cli: &Cli, line: &str) -> String {
    say(&format!("\n$ sutler {line}"));
    let output = cli.ok(line);
    output.lines().for_each(|line| say(&format!("  {line}")));
    output
}

struct Machine {
    agent: Agent,
    started: Instant,
    took: Option<Duration>,
}

fn run(package: &Path, started: Instant) -> ExitCode {
    say("\n$ sutler init --dir D --trust-domain acme.example --host 127.0.0.1\n$ sutler serve --dir D");
    let manager = Manager::start();
    let addresses = manager.addresses();
    say(&format!("  agents connect to {}, operators to {}", addresses.agents, addresses.operators));
    let cli = manager.cli();
    administrator(&cli, "group create new-clients");
    administrator(&cli, &format!("package push '{}'", package.display()));
    let newest = cli.json("package list");
    let name = newest[0]["name"].as_str().unwrap_or_default().trim_start_matches("packages/").to_owned();
    let line = format!("job run --package {name} --group new-clients");
    let output = administrator(&cli, &line);
    let job = output.split_whitespace().next().unwrap_or_default().trim_start_matches("jobs/").to_owned();
    administrator(&cli, "policy create all-linux --group new-clients --trigger new-client --when 'facts.os.family == \"linux\"'");

    say("\nNow three machines that were never seen before, one after another. On each, and nothing else by anybody:");
    say("$ sutler-agent enroll --token-file F\n$ sutler-agent run\n");
    say(&format!("$ sutler job status {job} --watch"));
    let mut screen = Screen::new();
    let mut machines: Vec<Machine> = Vec::new();
    for name in ["alpha", "beta", "gamma"] {
        let token = cli.ok("token create");
        let begun = Instant::now();
        let mut agent = Agent::new(name);
        agent.enroll(token.trim());
        agent.start();
        machines.push(Machine { agent, started: begun, took: None });
        wait_until("the machine to get its software", LIMIT, || look(&cli, &job, &mut machines, &mut screen));
    }
    screen.end();

    let view = JobView::of(&cli, &job);
    say(&format!("\n{name} was installed below each machine's own root:"));
    let mut all_well = true;
    for machine in &machines {
        let id = machine.agent.id();
        let row = view.row(&id);
        let state = row.map_or("nowhere", |row| row.state.as_str());
        let took = machine.took.unwrap_or_default();
        let well = matches!(state, "SUCCEEDED" | "ALREADY_INSTALLED");
        all_well &= well;
        say(&format!("  {:6} {id}  {state}  {:.2} s from enrolment to the verified end", machine.agent.name(), took.as_secs_f64()));
        installed(&machine.agent.root()).iter().for_each(|line| say(&format!("         {line}")));
        if let Some(row) = row.filter(|_| !well) {
            say(&format!("         {} {}", row.reason, row.detail));
        }
    }
    let status = cli.run(&format!("job status {job}"));
    say(&format!(
        "\nAll of it took {:.1} s; `sutler job status` ends with {}. Everything is being removed again.",
        started.elapsed().as_secs_f64(),
        status.code
    ));
    drop(machines);
    if all_well && status.code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Shows the table if it has changed; true if every machine has come to an end.
fn look(cli: &Cli, job: &str, machines: &mut [Machine], screen: &mut Screen) -> bool {
    let view = JobView::of(cli, job);
    let mut lines = vec![format!("{:<8} {:<18} {:<18} {:>4}  {}", "MACHINE", "CLIENT", "STATE", "%", "DETAIL")];
    let mut ended = 0;
    for machine in machines.iter_mut() {
        let id = machine.agent.id();
        let Some(row) = view.row(&id) else {
            lines.push(format!("{:<8} {id:<18} {:<18}", machine.agent.name(), "enrolled"));
            continue;
        };
        if matches!(row.state.as_str(), "SUCCEEDED" | "ALREADY_INSTALLED" | "FAILED" | "REJECTED" | "CANCELED" | "EXPIRED" | "INTERRUPTED")
        {
            ended += 1;
            machine.took.get_or_insert_with(|| machine.started.elapsed());
        }
        let percent = row.json["progressPercent"].as_i64().unwrap_or_default();
        let line = format!("{:<8} {id:<18} {:<18} {percent:>4}  {}", machine.agent.name(), row.state, row.detail);
        lines.push(line.trim_end().to_owned());
    }
    lines.push(format!("job {job}: {}", view.counters()));
    screen.show(lines);
    // The counters are asked for before the rows, and may be older.
    ended == machines.len()
        && view.count("total") == view.count("finished") + view.count("error") + view.count("rejected") + view.count("canceled")
        && view.count("total") == ended as i64
}

/// What the agent has put below its root, folders that packages live in only.
fn installed(root: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(root.join("opt")) else { return Vec::new() };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    folders.map(|folder| format!("{} ({} files)", folder.display(), count(&folder))).collect()
}

fn count(folder: &Path) -> usize {
    let Ok(entries) = fs_err::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .map(|path| if path.is_dir() && !path.is_symlink() { count(&path) } else { 1 })
        .sum()
}

/// The live table: drawn over itself on a terminal, else printed whenever it has changed.
struct Screen {
    last: Vec<String>,
    terminal: bool,
}

impl Screen {
    fn new() -> Screen {
        Screen { last: Vec::new(), terminal: std::io::stdout().is_terminal() }
    }

    fn show(&mut self, lines: Vec<String>) {
        if lines == self.last {
            return;
        }
        if self.terminal && !self.last.is_empty() {
            print!("\x1b[{}A\x1b[J", self.last.len());
        } else if !self.last.is_empty() {
            println!();
        }
        lines.iter().for_each(|line| println!("  {line}"));
        let _ = std::io::stdout().flush();
        self.last = lines;
    }

    fn end(&mut self) {
        self.last.clear();
    }
}
