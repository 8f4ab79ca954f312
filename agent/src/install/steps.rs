//! Starts a step, at most once, and finds out how it ended, whoever started it.
//!
//! The folder `state/steps/<attempt>/<item>/<n>` is the gate: `mkdir` succeeds once. What comes after it (the
//! specification, the lock, the supervisor) can be cut off anywhere; then the step has not run, or it has and its end is
//! known, or it is [`StepEnd::Interrupted`]. In no case is it started again.

use super::{
    child::{End, Program},
    durable,
    error::{Error, io},
    layout::{Layout, Missing},
    supervise::{EXIT, Exit, GROUP, Group, LOCK, NO_SPACE, OUTPUT, SPEC, STARTED, boot_id},
};
use crate::platform;
use rustix::{fs::FlockOperation, io::Errno, process::Signal};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use sutler_base::{
    AttemptId, Timestamp, limits,
    manifest::{Manifest, Step},
};

/// What the supervisor said itself; empty unless something went wrong with it.
const LOG: &str = "log";

/// How long a step has after `SIGTERM`.
const GRACE_MS: u64 = 5000;

/// Which step: the `step`th of the `item`th package of an attempt, counted from 0 in the manifest's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepId {
    /// The attempt.
    pub attempt: AttemptId,
    /// The package's place in the job.
    pub item: usize,
    /// The step's place in the manifest.
    pub step: usize,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.attempt, self.item, self.step)
    }
}

impl StepId {
    fn folder(&self, layout: &Layout) -> PathBuf {
        layout.item_folder(&self.attempt, self.item).join(self.step.to_string())
    }
}

/// Which tree a step sees as the package's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The staged one; always that for a package without a directory.
    Staged,
    /// The installed one.
    Installed,
}

/// A step as it will be run.
#[derive(Debug, Clone)]
pub struct StepSpec {
    id: StepId,
    program: Program,
}

impl StepSpec {
    /// The step `step` of `manifest`, to be run where `place` says.
    ///
    /// A relative program is looked for below the working directory, as `execve` would. [`Error::Program`] if it is not
    /// there or leaves the package's directory: nothing was started then, and nothing is recorded.
    pub fn new(layout: &Layout, id: StepId, manifest: &Manifest, step: &Step, place: Place) -> Result<StepSpec, Error> {
        let staged = layout.staging(manifest.directory.as_ref(), &id.attempt, id.item, Missing::Leave)?.map(|spot| spot.path());
        let installed = match &manifest.directory {
            Some(directory) => layout.installed(directory)?,
            None => staged.clone(),
        };
        let tree = if place == Place::Staged { staged } else { installed.clone() };
        let refuse = |why: &str| Error::Program { program: step.argv.first().cloned().unwrap_or_default(), why: why.into() };
        let tree = tree.ok_or_else(|| refuse("the package's directory is not there"))?;
        let directory = step.directory.as_ref().map_or_else(|| tree.clone(), |below| tree.join(below.as_str()));
        let program = resolve(&tree, &directory, &step.argv).map_err(|why| refuse(&why))?;
        let home = installed.unwrap_or_else(|| tree.clone());
        let mut environment = environment(layout, manifest, &home, &step.environment);
        let user = match &step.user {
            Some(name) => {
                let user =
                    platform::user(layout.root(), name)?.ok_or_else(|| refuse(&format!("there is no user {name} on this machine")))?;
                for (variable, value) in [("USER", name.as_str()), ("LOGNAME", name.as_str()), ("HOME", &user.home.to_string_lossy())] {
                    if !step.environment.contains_key(variable) {
                        environment.retain(|set| !set.starts_with(&format!("{variable}=")));
                        environment.push(format!("{variable}={value}"));
                    }
                }
                // Nothing to change where it is the agent's own.
                Some(user).filter(|user| user.uid != rustix::process::geteuid().as_raw())
            }
            None => None,
        };
        environment.push(format!("SUTLER_ATTEMPT={}", id.attempt));
        let program = Program {
            program,
            argv: step.argv.clone(),
            environment,
            directory,
            user: user.map(|user| (user.uid, user.gid)),
            limit_ms: u64::from(step.time_limit) * 1000,
            grace_ms: GRACE_MS,
            output_max: limits::OUTPUT_TAIL_MAX,
        };
        Ok(StepSpec { id, program })
    }

    /// The same, of whose output no more than the last `most` bytes are kept.
    pub fn keeping(mut self, most: usize) -> StepSpec {
        self.program.output_max = most;
        self
    }
}

/// What to run for `argv` in `directory`; a relative program must lie inside `tree`, links resolved.
pub(crate) fn resolve(tree: &Path, directory: &Path, argv: &[String]) -> Result<PathBuf, String> {
    let program = argv.first().ok_or("it has no program")?;
    let inside = |path: &Path| match (path.canonicalize(), tree.canonicalize()) {
        (Ok(real), Ok(tree)) if real.starts_with(&tree) => Ok(()),
        (Ok(_), Ok(_)) => Err(format!("{} lies outside of the package's directory", path.display())),
        (Err(e), _) | (_, Err(e)) => Err(format!("{}: {e}", path.display())),
    };
    inside(directory)?;
    if program.starts_with('/') {
        return Ok(program.into());
    }
    let path = directory.join(program);
    inside(&path)?;
    Ok(path)
}

/// What every program of a package gets: a few variables of its own, those of its manifest, and where it is. The manifest
/// may set `PATH`, `HOME` and `LANG`, but not the ones that name the package.
pub(crate) fn environment(layout: &Layout, manifest: &Manifest, directory: &Path, given: &BTreeMap<String, String>) -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let home = if root { "/root".into() } else { std::env::var("HOME").unwrap_or_else(|_| "/".into()) };
    let mut all = BTreeMap::from([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()), ("HOME", home), ("LANG", "C.UTF-8".to_owned())]);
    all.extend(given.iter().filter(|(name, _)| !name.starts_with("SUTLER_")).map(|(name, value)| (name.as_str(), value.clone())));
    // A root of its own has a database of packages of its own.
    all.extend(platform::environment_below(layout.root()));
    all.insert("SUTLER_PACKAGE", manifest.name.to_string());
    all.insert("SUTLER_VERSION", manifest.version.to_string());
    all.insert("SUTLER_DIRECTORY", directory.display().to_string());
    all.insert("SUTLER_ROOT", layout.root().display().to_string());
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The program that supervises: this one, unless a test says otherwise.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// Which program is started.
    pub program: PathBuf,
    /// Its arguments before the step's folder.
    pub leading_args: Vec<OsString>,
}

impl Default for Supervisor {
    /// `/proc/self/exe supervise`: this very program, also when its file was replaced by an update since it was started.
    fn default() -> Self {
        Supervisor { program: "/proc/self/exe".into(), leading_args: vec!["supervise".into()] }
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// It ended by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// Which.
        signal: i32,
    },
    /// It ran longer than its limit and was killed, with its process group.
    TimedOut,
    /// It has not run.
    NotStarted(String),
    /// It has not run, since the disk had no room for what is kept of it.
    NoSpace(String),
    /// It had started, and nobody can tell how it ended: the machine lost power, or the supervisor was killed. Nothing of
    /// its process group runs any more.
    Interrupted,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub end: StepEnd,
    /// The end of its output, at most [`limits::OUTPUT_TAIL_MAX`] bytes of it; what is not UTF-8 is replaced.
    pub output: String,
    /// How many bytes of output came before that and were not kept.
    pub output_cut: u64,
    /// How long it ran; zero if that isn't known.
    pub duration: Duration,
    /// When it ended, by the machine's clock; none if that isn't known.
    pub finished: Option<Timestamp>,
}

/// A step that was started, by this process or by an earlier one.
#[derive(Debug)]
pub struct Running {
    folder: PathBuf,
    supervisor: Option<Child>,
}

/// Starts a step. Its folder is on disk before anything runs; [`Error::AlreadyStarted`] if it had been there.
///
/// After any other error the step counts as started all the same: asked again it is refused, and [`pick_up`] tells what
/// became of it.
pub fn start(layout: &Layout, supervisor: &Supervisor, spec: &StepSpec) -> Result<Running, Error> {
    let above = layout.make_item_folder(&spec.id.attempt, spec.id.item)?;
    let folder = spec.id.folder(layout);
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::AlreadyStarted { step: spec.id.to_string(), path: folder });
        }
        made => made.map_err(io("make the folder", &folder))?,
    }
    durable::sync_folder(&above)?;
    let json = serde_json::to_vec(&spec.program).map_err(|e| io("describe the step in", &folder)(std::io::Error::from(e)))?;
    // Not durable: it is read by the supervisor that is started now, and after a power cut by nobody.
    std::fs::write(folder.join(SPEC), &json).map_err(io("write", folder.join(SPEC)))?;
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK));
    let lock = lock.map_err(io("make", folder.join(LOCK)))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(io("lock", folder.join(LOCK)))?;
    let log = File::create(folder.join(LOG)).map_err(io("make", folder.join(LOG)))?;
    let mut command = Command::new(&supervisor.program);
    command.arg0("sutler-agent").args(&supervisor.leading_args).arg(&folder).env_clear().current_dir("/");
    // The lock goes along as standard input: the only descriptor that is inherited without being open to every other
    // program that another thread starts at this moment.
    command.stdin(lock).stdout(Stdio::null()).stderr(log);
    // SAFETY: `setsid` is a system call and nothing else, which is allowed between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
    let child = command.spawn().map_err(|source| Error::Spawn { program: supervisor.program.clone(), source })?;
    Ok(Running { folder, supervisor: Some(child) })
}

/// A step that was started earlier; none if it never was.
pub fn pick_up(layout: &Layout, id: &StepId) -> Result<Option<Running>, Error> {
    let folder = id.folder(layout);
    match std::fs::symlink_metadata(&folder) {
        Ok(_) => Ok(Some(Running { folder, supervisor: None })),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("look at", folder)(e)),
    }
}

impl Running {
    /// Waits for the end. Dropping the future does not end the step, nor the blocking thread that waits for it: end the
    /// runtime with `shutdown_background`, or it waits as long as the step runs.
    pub async fn wait(self) -> Result<Ended, Error> {
        let folder = self.folder.clone();
        match tokio::task::spawn_blocking(move || self.wait_blocking()).await {
            Ok(ended) => ended,
            Err(e) => Err(io("wait for the step in", folder)(std::io::Error::other(e))),
        }
    }

    /// The same on the calling thread.
    pub fn wait_blocking(self) -> Result<Ended, Error> {
        let path = self.folder.join(LOCK);
        match File::open(&path) {
            Ok(lock) => loop {
                match rustix::fs::flock(&lock, FlockOperation::LockShared) {
                    Err(Errno::INTR) => {}
                    locked => break locked.map_err(io("wait for the lock", &path))?,
                }
            },
            // The agent had not come as far as to start the supervisor.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io("open", path)(e)),
        }
        let mut had_room = true;
        if let Some(mut supervisor) = self.supervisor {
            let status = supervisor.wait().map_err(io("wait for the supervisor of", &self.folder))?;
            had_room = status.code() != Some(NO_SPACE.into());
        }
        ended(&self.folder, had_room)
    }
}

/// What the folder of a step tells after its supervisor has ended; `had_room` unless that ended over a full disk.
fn ended(folder: &Path, had_room: bool) -> Result<Ended, Error> {
    let exit = durable::read(&folder.join(EXIT))?.and_then(|bytes| serde_json::from_slice::<Exit>(&bytes).ok());
    let Some(exit) = exit else {
        let log = durable::read(&folder.join(LOG))?.unwrap_or_default();
        let log = String::from_utf8_lossy(&log[..log.len().min(4096)]).trim().to_owned();
        let or = |why: &str| if log.is_empty() { why.to_owned() } else { log.clone() };
        let end = match (durable::read(&folder.join(STARTED))?, had_room) {
            (Some(_), _) => {
                kill_rest(folder)?;
                StepEnd::Interrupted
            }
            (None, true) => StepEnd::NotStarted(or("the agent ended before its supervisor had started it")),
            (None, false) => StepEnd::NoSpace(or("the disk has no room for what is kept of it")),
        };
        return Ok(Ended { end, output: log, output_cut: 0, duration: Duration::ZERO, finished: None });
    };
    let output = durable::read(&folder.join(OUTPUT))?.unwrap_or_default();
    let end = match exit.end {
        End::Exited { code } => StepEnd::Exited { code },
        End::Signaled { signal } => StepEnd::Signaled { signal },
        End::TimedOut => StepEnd::TimedOut,
        End::NotStarted { why } => StepEnd::NotStarted(why),
    };
    Ok(Ended {
        end,
        output: String::from_utf8_lossy(&output).into_owned(),
        output_cut: exit.output_cut,
        duration: Duration::from_millis(exit.duration_ms),
        finished: Timestamp::from_millisecond(exit.ended_ms).ok(),
    })
}

/// Kills what a supervisor that died has left: without a limit and without a report, beside whatever a new attempt starts.
fn kill_rest(folder: &Path) -> Result<(), Error> {
    let Some(group) = durable::read(&folder.join(GROUP))?.and_then(|bytes| Group::read(std::str::from_utf8(&bytes).ok()?)) else {
        return Ok(());
    };
    if group.boot != boot_id() || group.group <= 1 {
        return Ok(());
    }
    let processes = std::fs::read_dir("/proc").map_err(io("read the folder", "/proc"))?;
    for process in processes.flatten() {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // "PID (NAME) STATE PARENT GROUP SESSION …", and the name may hold anything.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(2);
        let mut next = || fields.next().and_then(|f| f.parse::<i32>().ok());
        // Group *and* session: both ids are only free for others when nobody has them any more.
        if (next(), next()) == (Some(group.group), Some(group.session)) {
            let found = rustix::process::Pid::from_raw(group.group);
            let _ = found.map(|group| rustix::process::kill_process_group(group, Signal::KILL));
            return Ok(());
        }
    }
    Ok(())
}

/// Removes what is kept of an attempt's steps and exchanges, once its outcome is recorded above.
///
/// [`Error::StillRunning`] while a supervisor lives, and nothing is removed then. For a package without a directory its
/// staged files go as well.
pub fn forget(layout: &Layout, attempt: &AttemptId) -> Result<(), Error> {
    let folder = layout.state().join("steps").join(attempt.as_str());
    let names = |folder: &Path| -> Result<Vec<PathBuf>, Error> {
        match std::fs::read_dir(folder) {
            Ok(entries) => Ok(entries.flatten().map(|e| e.path()).collect()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
            Err(e) => Err(io("read the folder", folder)(e)),
        }
    };
    for item in names(&folder)? {
        for step in names(&item)?.into_iter().filter(|path| path.is_dir()) {
            let Ok(lock) = File::open(step.join(LOCK)) else { continue };
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
                return Err(Error::StillRunning { path: step });
            }
        }
    }
    let prefix = format!("{attempt}-");
    for staged in names(&layout.state().join("staging"))? {
        let item = staged.file_name().and_then(|name| name.to_str()?.strip_prefix(&prefix)?.split('.').next()?.parse().ok());
        if let Some(item) = item {
            super::exchange::discard_staging(layout, attempt, item)?;
        }
    }
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", folder)(e)),
        _ => Ok(()),
    }
}
