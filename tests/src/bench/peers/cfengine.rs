//! CFEngine 3 as Debian has it: a hub, and hosts that bootstrap from it, land in a group by their class, copy a package, run its
//! installer. The wait for a host's next scheduled run (five minutes by default) is in none of the figures.

use super::{isolated, names, stop, write};
use crate::{
    bench::{
        install, measure,
        ours::{self, INSTALL},
    },
    harness::{PATIENCE, cleanup::Place, wait_for, wait_until},
};
use std::{
    fs::File,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where the hub listens: on an address of its own, since hosts listen, too.
const HUB: &str = "127.0.0.2";

/// What hosts do. Their daemons run nothing by themselves: one that is started in a minute that divides by five runs the agent at
/// once, beside the run of its bootstrap, and of two runs each finds promises of the other's locked, and leaves them out.
const POLICY: &str = r#"
body common control { bundlesequence => { "groups", "deploy" }; }
body executor control { schedule => { "never" }; }
bundle common groups
{
classes:
  "group_lab"    expression => regcmp("lab-\d+", "$(sys.uqhost)");
  "group_office" expression => regcmp("office-\d+", "$(sys.uqhost)");
}
body copy_from dcp(f)
{
  servers => { "$(sys.policy_hub)" }; source => "$(f)"; compare => "digest"; trustkey => "false";
}
body perms x { mode => "700"; rxdirs => "false"; }
bundle agent deploy
{
vars:
  "d" string => "$(sys.workdir)/pkg";
files:
  group_lab::
    "$(d)/."           create => "true";
    "$(d)/payload"     copy_from => dcp("packages/payload"), classes => got;
    "$(d)/install.sh"  copy_from => dcp("packages/install.sh"), perms => x;
commands:
  group_lab.pkg_new::
    "$(d)/install.sh" args => "$(d)/payload $(sys.workdir)/root", classes => done;
reports:
  pkg_installed:: "package installed on $(sys.uqhost)";
}
body classes got  { promise_repaired => { "pkg_new" }; }
body classes done { promise_repaired => { "pkg_installed" }; }
"#;

const UPDATE: &str = r#"
body common control { bundlesequence => { "update" }; }
body copy_from mf { servers => { "$(sys.policy_hub)" }; source => "masterfiles"; compare => "digest"; }
body depth_search all { depth => "inf"; }
bundle agent update { files: "$(sys.inputdir)/" copy_from => mf, depth_search => all; }
"#;

const SERVER: &str = r#"
body common control { bundlesequence => { "x" }; }
bundle agent x { }
body server control {
  bindtointerface => "@HUB@"; allowconnects => { "127.0.0.0/8" }; allowallconnects => { "127.0.0.0/8" };
  trustkeysfrom => { "127.0.0.0/8" }; maxconnections => "200"; allowlegacyconnects => { };
}
bundle server access_rules
{
access:
  "@FOLDER@/hub/masterfiles" shortcut => "masterfiles", admit => { "127.0.0.0/8" };
  "@FOLDER@/hub/modules" shortcut => "modules", admit => { "127.0.0.0/8" };
  "@FOLDER@/packages" shortcut => "packages", admit => { "127.0.0.0/8" };
}
"#;

/// A hub with its hosts.
pub(in crate::bench) struct Cfengine {
    place: Place,
    payload: Vec<u8>,
    server: Child,
    hosts: usize,
}

/// What a host took.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Host {
    /// From its start until the installer ran (seconds).
    pub(in crate::bench) seconds: f64,
    /// Processor time of all that ran on it (seconds).
    pub(in crate::bench) cpu: f64,
}

impl Cfengine {
    /// A hub that deploys this payload; none where CFEngine can't be had.
    pub(in crate::bench) fn start(payload: &[u8]) -> Option<Cfengine> {
        if !install::debian("cf-agent", "cfengine3") {
            return None;
        }
        let place = Place::new("cfengine");
        if !names(place.path()) {
            return None;
        }
        let folder = place.path();
        let packages = folder.join("packages");
        fs_err::create_dir(&packages).unwrap_or_else(|e| panic!("{e}"));
        fs_err::write(packages.join("payload"), payload).unwrap_or_else(|e| panic!("{e}"));
        fs_err::write(packages.join("install.sh"), INSTALL).unwrap_or_else(|e| panic!("{e}"));
        fs_err::set_permissions(packages.join("install.sh"), PermissionsExt::from_mode(0o755)).unwrap_or_else(|e| panic!("{e}"));
        let hub = host(folder, "hub");
        write(&hub.join("masterfiles/promises.cf"), POLICY);
        write(&hub.join("masterfiles/update.cf"), UPDATE);
        write(&hub.join("server.cf"), &SERVER.replace("@HUB@", HUB).replace("@FOLDER@", &folder.to_string_lossy()));
        key(&hub);
        let log = folder.join("serverd.log");
        let file = hub.join("server.cf");
        let mut command = isolated(folder, "hub", &["cf-serverd", "-F", "-I", "-f", &file.to_string_lossy()]);
        let output = File::create(&log).unwrap_or_else(|e| panic!("{e}"));
        command.env("CFENGINE_TEST_OVERRIDE_WORKDIR", &hub).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a file has a second handle")).stderr(output);
        let server = command.spawn().expect("it can be started");
        wait_until("cf-serverd to listen", PATIENCE, || std::net::TcpStream::connect((HUB, 5308)).is_ok());
        Some(Cfengine { place, payload: payload.to_vec(), server, hosts: 0 })
    }

    /// What it is called in a table.
    pub(in crate::bench) fn name() -> String {
        let output = Command::new("cf-agent").arg("--version").output().expect("it is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find(|word| word.starts_with('3')).map_or("CFEngine".into(), |version| format!("CFEngine {version}"))
    }

    /// The hub's process.
    pub(in crate::bench) fn server(&self) -> u32 {
        self.server.id()
    }

    fn next(&mut self) -> (PathBuf, String) {
        self.hosts += 1;
        let name = format!("lab-{}", self.hosts);
        (host(self.place.path(), &name), name)
    }

    /// A host that was never seen: makes its key, bootstraps, and has the package. Gives back its name, too.
    pub(in crate::bench) fn new_host(&mut self) -> (String, Host) {
        let (folder, name) = self.next();
        let begin = measure::now();
        let made = measure::run(key_command(&folder));
        let booted = measure::run(self.bootstrap(&folder, &name));
        let end = self.installed(&folder);
        stop(&execd(&[folder]));
        (name, Host { seconds: end - begin, cpu: made + booted })
    }

    /// So many hosts that were never seen, at once: how long until the last one has the package (seconds). Their keys are made
    /// before, one after another: RSA keys of fifty hosts at once say more of one machine's two cores than of CFEngine.
    pub(in crate::bench) fn new_hosts(&mut self, count: usize) -> f64 {
        let hosts: Vec<_> = (0..count).map(|_| self.next()).collect();
        hosts.iter().for_each(|(folder, _)| key(folder));
        let begin = measure::now();
        std::thread::scope(|scope| {
            for (folder, name) in &hosts {
                let command = self.bootstrap(folder, name);
                scope.spawn(move || measure::run(command));
            }
        });
        let ends: Vec<f64> = hosts.iter().map(|(folder, _)| self.installed(folder)).collect();
        stop(&execd(&hosts.into_iter().map(|(folder, _)| folder).collect::<Vec<_>>()));
        ends.into_iter().fold(begin, f64::max) - begin
    }

    /// A run on a host that knows its hub and lacks the package.
    pub(in crate::bench) fn local_run(&self, name: &str) -> Host {
        let folder = self.place.path().join(name);
        for old in ["pkg", "root"] {
            fs_err::remove_dir_all(folder.join(old)).unwrap_or_else(|e| panic!("{e}"));
        }
        let mut command = isolated(self.place.path(), name, &["cf-agent", "-KI"]);
        command.env("CFENGINE_TEST_OVERRIDE_WORKDIR", &folder).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = measure::now();
        let cpu = measure::run(command);
        Host { seconds: self.installed(&folder) - begin, cpu }
    }

    /// The daemons that a bootstrapped host keeps running, until they are dropped.
    pub(in crate::bench) fn daemons(&self, name: &str) -> Daemons {
        let folder = self.place.path().join(name);
        let start = |program: &str| {
            let mut command = isolated(self.place.path(), name, &[program, "-F"]);
            command.env("CFENGINE_TEST_OVERRIDE_WORKDIR", &folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("it can be started")
        };
        Daemons(vec![start("cf-execd"), start("cf-monitord")])
    }

    fn bootstrap(&self, folder: &Path, name: &str) -> Command {
        let mut command = isolated(self.place.path(), name, &["cf-agent", "-I", "--bootstrap", HUB]);
        let log = File::create(folder.join("log")).unwrap_or_else(|e| panic!("{e}"));
        command.env("CFENGINE_TEST_OVERRIDE_WORKDIR", folder);
        command.stdout(log.try_clone().expect("a file has a second handle")).stderr(log);
        command
    }

    fn installed(&self, folder: &Path) -> f64 {
        ours::installed(&folder.join("root"), &self.payload).unwrap_or_else(|| {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            panic!("CFEngine did not run the installer on {}:\n{log}", folder.display())
        })
    }
}

impl Drop for Cfengine {
    fn drop(&mut self) {
        stop(&measure::tree(self.server.id()));
        let _ = self.server.wait();
    }
}

/// Processes of a host.
pub(in crate::bench) struct Daemons(Vec<Child>);

impl Daemons {
    pub(in crate::bench) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        stop(&measure::trees(&self.pids()));
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn host(folder: &Path, name: &str) -> PathBuf {
    let host = folder.join(name);
    for below in ["", "inputs", "masterfiles", "ppkeys", "outputs", "state", "modules", "lastseen", "reports"] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(host.join(below)).unwrap_or_else(|e| panic!("{e}"));
    }
    symlink("/usr/bin", host.join("bin")).unwrap_or_else(|e| panic!("{e}"));
    host
}

fn key_command(host: &Path) -> Command {
    let mut command = Command::new("cf-key");
    command.env("CFENGINE_TEST_OVERRIDE_WORKDIR", host).stdout(Stdio::null());
    command
}

fn key(host: &Path) {
    measure::run(key_command(host));
}

/// The daemons that bootstraps of these hosts have started: later hosts would take them for theirs.
fn execd(hosts: &[PathBuf]) -> Vec<u32> {
    // Their files come a moment after the bootstrap's end; where one does not, nothing was started.
    let begin = std::time::Instant::now();
    let pid = |host: &PathBuf| std::fs::read_to_string(host.join("cf-execd.pid")).ok().and_then(|text| text.trim().parse().ok());
    wait_for("bootstraps to have started their daemons", PATIENCE, || {
        let pids: Vec<u32> = hosts.iter().filter_map(pid).collect();
        (pids.len() == hosts.len() || begin.elapsed().as_secs() >= 2).then_some(pids)
    })
}
