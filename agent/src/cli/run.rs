//! `enroll` and `run`: the commands that work on the agent's folder themselves.

use super::{
    Enroll, LogFormat, read_secret,
    trial::{self, Program, Tried},
};
use crate::{
    agent::{Agent, Deps, Ended, Trial},
    clock::{Clock, SystemClock},
    config::Config,
    facts, guard,
    identity::{self, IdentityError},
    install::{Layout, Supervisor},
    installer::Machine,
    journal::FolderJournal,
    link, service,
    vault::FolderVault,
};
use rustix::fs::FlockOperation;
use std::{
    fs::File,
    io::IsTerminal,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    task::{Context, Waker},
};
use sutler_base::{state::ClientState, token::TokenString};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

fn random_bytes() -> Result<[u8; 16], String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("the system gives no randomness: {e}"))?;
    Ok(bytes)
}

/// Keeps a second agent out of the folder, for as long as it lives.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(dir: &Path) -> Result<Lock, String> {
        let path = dir.join("lock");
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|e| format!("cannot open {}: {e}", path.display()))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("another agent runs on {}; stop it first (systemctl stop sutler-agent)", dir.display()))?;
        Ok(Lock { _file: file })
    }
}

/// `enroll`.
pub(super) async fn enroll(config: &Config, enroll: Enroll) -> Result<(), String> {
    let text = match (&enroll.token, &enroll.token_file) {
        (Some(token), _) if token != "-" => token.clone(),
        (_, Some(path)) => read_secret(path)?,
        _ => read_secret(Path::new("-"))?,
    };
    let token = TokenString::parse(&text).map_err(|e| e.0)?;
    config.refuse_changeable().map_err(|e| e.to_string())?;
    let layout = Layout::new(&config.root, &config.dir).map_err(|e| e.to_string())?;
    let vault = FolderVault::open(&config.dir).map_err(|e| e.to_string())?;
    let _lock = Lock::take(&config.dir)?;
    guard::refuse_exposed(&config.dir).map_err(|e| e.to_string())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let machine_id = facts::machine_id(&layout, random_bytes()?).map_err(|e| e.to_string())?;
    let time = link::ManagerTime::new(clock.clone());
    let enrolled = identity::enroll(&vault, &token, &facts::hostname(), &machine_id, enroll.force, link::tls_clock(&time))
        .await
        .map_err(|e| e.to_string())?;
    if let Some(path) = enroll.token_file.filter(|_| enroll.remove_token_file) {
        std::fs::remove_file(&path).map_err(|e| format!("enrolled, but cannot remove {}: {e}", path.display()))?;
    }
    println!("enrolled as client {}", enrolled.client);
    if enrolled.state == ClientState::Pending {
        eprintln!("An operator has to approve it: sutler client approve {}", enrolled.client);
    }
    Ok(())
}

fn log(format: LogFormat) {
    let wanted = std::env::var("SUTLER_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let log = tracing_subscriber::registry().with(wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Json => log.with(lines.json()).init(),
        LogFormat::Text => log.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
    }
}

/// `run`; `on_trial` if this is a new agent that has to show that it reaches the manager.
pub(super) async fn run(config: &Config, format: LogFormat, on_trial: bool) -> Result<(), String> {
    log(format);
    let program = Program::current()?;
    // Before anything that takes long: a signal that comes now must end it, too.
    let mut signals = Signals::catch()?;
    let mut known = if on_trial { Trial::Running } else { Trial::Unknown };
    loop {
        match live(config, &program, known, &mut signals).await? {
            Ended::Stopped | Ended::Unenrolled => return Ok(()),
            // Whoever tries it sees whether it lies in the other's place now.
            Ended::Replaced if on_trial => return Ok(()),
            // An exec would forget that it is to end.
            Ended::Replaced if signals.have_come() => return Ok(()),
            Ended::Replaced if program.is_replaced() => return Err(program.exec()),
            // The new one has not taken its place, or had to give it back.
            Ended::Replaced => known = Trial::Unknown,
            Ended::Handover(staged) => {
                let limits = &config.limits;
                match trial::run(&staged, limits.agent_trial, limits.output_tail, signals.any()).await {
                    Tried::Stopped => return Ok(()),
                    // In the moments in which nobody waited for one.
                    Tried::Ended(_) if signals.have_come() => return Ok(()),
                    Tried::Ended(_) if program.is_replaced() => return Err(program.exec()),
                    Tried::Ended(trial) => known = trial,
                }
            }
        }
    }
}

/// What ends the agent from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Signals, String> {
        let catch = |kind| signal(kind).map_err(|e| format!("signals can't be caught: {e}"));
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Whether one has come that nobody has waited for.
    fn have_come(&mut self) -> bool {
        let mut now = Context::from_waker(Waker::noop());
        self.terminate.poll_recv(&mut now).is_ready() || self.interrupt.poll_recv(&mut now).is_ready()
    }

    /// Waits for one.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One life of the agent in its folder, which is free again afterwards.
async fn live(config: &Config, program: &Program, trial: Trial, signals: &mut Signals) -> Result<Ended, String> {
    config.refuse_changeable().map_err(|e| e.to_string())?;
    if !config.dir.join("identity.json").exists() {
        return Err(IdentityError::NotEnrolled.to_string());
    }
    let layout = Layout::new(&config.root, &config.dir).map_err(|e| e.to_string())?;
    let vault = FolderVault::open(&config.dir).map_err(|e| e.to_string())?;
    let _lock = Lock::take(&config.dir)?;
    guard::refuse_exposed(&config.dir).map_err(|e| e.to_string())?;
    let machine = Machine::new(layout, Supervisor::default(), random_bytes()?).within(&config.limits);
    let deps = Deps {
        vault: Arc::new(vault),
        journal: Box::new(FolderJournal::new(&config.dir, random_bytes()?).with_reserve(config.limits.journal_reserve)),
        installer: Arc::new(machine.running(program.path().to_owned())),
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(|| {
            let mut bytes = [0; 8];
            // Without randomness the jitter is none; the connection is still made.
            let _ = getrandom::fill(&mut bytes);
            u64::from_le_bytes(bytes)
        }),
        policy: config.policy.clone(),
        limits: config.limits.clone(),
        programs: config.programs.clone(),
        trial,
    };
    let (agent, handle) = Agent::new(deps).await.map_err(|e| e.to_string())?;
    let listener = service::listen(&config.socket).map_err(|e| e.to_string())?;
    let serve = tokio::spawn(service::serve(listener, handle));
    notify_ready();
    let ended = tokio::select! {
        ended = agent.run() => ended.map_err(|e| e.to_string()),
        // At once: what runs goes on under its supervisor, and the next start picks it up.
        () = signals.any() => Ok(Ended::Stopped),
    };
    if matches!(ended, Ok(Ended::Unenrolled)) {
        // Whoever asked for it over the socket still waits for the answer.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), std::future::pending::<()>()).await;
        tracing::info!("this machine has left its manager");
    }
    serve.abort();
    let _ = std::fs::remove_file(&config.socket);
    ended
}

/// Tells systemd that the agent runs, if systemd wants to know.
fn notify_ready() {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        let socket = std::os::unix::net::UnixDatagram::unbound();
        let _ = socket.and_then(|s| s.send_to(b"READY=1", path));
    }
}
