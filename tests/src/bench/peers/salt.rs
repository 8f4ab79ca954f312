//! Salt from PyPI: a master that accepts every key, and minions that it matches by grain, whose start-up highstate fetches a
//! package and runs its installer.

use super::{isolated, names, stop, write};
use crate::{
    bench::{
        install, measure,
        ours::{self, INSTALL},
        run::Run,
    },
    harness::{PATIENCE, cleanup::Place, wait_for, wait_until},
};
use std::{
    fs::File,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Where the master listens, on ports 4505 and 4506.
const MASTER: &str = "127.0.0.3";

const STATE: &str = r"
{% set d = opts['root_dir'] %}
{{ d }}/pkg/payload:
  file.managed: [{source: salt://pkg/payload}, {makedirs: True}]
{{ d }}/pkg/install.sh:
  file.managed: [{source: salt://pkg/install.sh}, {makedirs: True}, {mode: '0755'}]
install:
  cmd.run:
    - name: {{ d }}/pkg/install.sh {{ d }}/pkg/payload {{ d }}/root
    - onchanges: [{file: {{ d }}/pkg/payload}]
";

/// A master with its minions.
pub(in crate::bench) struct Salt {
    place: Place,
    /// A short way to `place`: Salt binds sockets below its folder, and their paths have at most 107 bytes.
    short: TempDir,
    programs: PathBuf,
    payload: Vec<u8>,
    master: Child,
    minions: usize,
}

/// A minion that runs, until it is dropped.
pub(in crate::bench) struct Minion {
    name: String,
    folder: PathBuf,
    process: Child,
}

impl Salt {
    /// A master that deploys this payload; none where Salt can't be had.
    pub(in crate::bench) fn start(run: &Run, payload: &[u8]) -> Option<Salt> {
        let programs = install::salt(&run.folder, run.small)?;
        let place = Place::new("salt");
        if !names(place.path()) {
            return None;
        }
        let folder = place.path();
        let short = tempfile::Builder::new().prefix("salt-").tempdir_in("/tmp").unwrap_or_else(|e| panic!("{e}"));
        symlink(folder, short.path().join("at")).unwrap_or_else(|e| panic!("{e}"));
        let master = short.path().join("at/master");
        for below in ["etc", "srv/pkg", "pillar"] {
            fs_err::create_dir_all(master.join(below)).unwrap_or_else(|e| panic!("{e}"));
        }
        let at = master.display();
        write(
            &master.join("etc/master"),
            &format!(
                "interface: {MASTER}\nroot_dir: {at}\nuser: root\nauto_accept: True\nfile_roots: {{base: [{at}/srv]}}\n\
                 pillar_roots: {{base: [{at}/pillar]}}\nlog_level: warning\n"
            ),
        );
        write(&master.join("srv/top.sls"), "base:\n  'site:lab':\n    - match: grain\n    - pkg\n");
        write(&master.join("srv/pkg/init.sls"), STATE);
        write(&master.join("srv/pkg/install.sh"), INSTALL);
        fs_err::write(master.join("srv/pkg/payload"), payload).unwrap_or_else(|e| panic!("{e}"));
        // What is started names its place, so that it is found when everything has to end.
        let etc = folder.join("master/etc");
        let command = isolated(folder, "hub", &[&word(&programs, "salt-master"), "-c", &etc.to_string_lossy()]);
        let process = daemon(command, &folder.join("master.log"));
        // Port 4506 is bound last.
        wait_until("the salt-master to listen", PATIENCE, || std::net::TcpStream::connect((MASTER, 4506)).is_ok());
        Some(Salt { place, short, programs, payload: payload.to_vec(), master: process, minions: 0 })
    }

    /// What it is called in a table.
    pub(in crate::bench) fn name(&self) -> String {
        let output = Command::new(self.programs.join("salt-master")).arg("--version").output().expect("it is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find(|word| word.starts_with('3')).map_or("Salt".into(), |version| format!("Salt {version}"))
    }

    /// The master's process.
    pub(in crate::bench) fn master(&self) -> u32 {
        self.master.id()
    }

    /// A minion that was never seen: from its start until the installer ran (seconds).
    pub(in crate::bench) fn new_minion(&mut self) -> (Minion, f64) {
        self.minions += 1;
        let name = format!("lab-{}", self.minions);
        let folder = self.place.path().join(&name);
        fs_err::create_dir_all(folder.join("etc")).unwrap_or_else(|e| panic!("{e}"));
        let root = self.short.path().join("at").join(&name);
        let root = root.display();
        write(
            &folder.join("etc/minion"),
            &format!(
                "master: {MASTER}\nid: {name}\nroot_dir: {root}\nuser: root\nlog_level: warning\nstartup_states: highstate\n\
                 grains: {{site: lab}}\n"
            ),
        );
        let etc = folder.join("etc");
        let command = isolated(self.place.path(), &name, &[&word(&self.programs, "salt-minion"), "-c", &etc.to_string_lossy()]);
        let begin = measure::now();
        let minion = Minion { process: daemon(command, &folder.join("log")), name, folder };
        let end = self.installed(&minion);
        (minion, end - begin)
    }

    /// A push to a minion that is connected and lacks the package: from the command's start until the installer ran (seconds).
    pub(in crate::bench) fn push(&self, minion: &Minion) -> f64 {
        for old in ["pkg", "root", "var/cache/salt/minion/files"] {
            let _ = std::fs::remove_dir_all(minion.folder.join(old));
        }
        let mut command = Command::new(self.programs.join("salt"));
        command.arg("-c").arg(self.place.path().join("master/etc")).args([&minion.name, "state.apply", "pkg"]);
        command.stdout(Stdio::null());
        let begin = measure::now();
        measure::run(command);
        self.installed(minion) - begin
    }

    fn installed(&self, minion: &Minion) -> f64 {
        wait_for("the minion to have run the installer", PATIENCE, || ours::installed(&minion.folder.join("root"), &self.payload))
    }
}

impl Drop for Salt {
    fn drop(&mut self) {
        stop(&measure::tree(self.master.id()));
        let _ = self.master.wait();
    }
}

impl Minion {
    pub(in crate::bench) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Minion {
    fn drop(&mut self) {
        stop(&measure::tree(self.process.id()));
        let _ = self.process.wait();
    }
}

fn word(programs: &Path, program: &str) -> String {
    programs.join(program).to_string_lossy().into_owned()
}

fn daemon(mut command: Command, log: &Path) -> Child {
    let log = File::create(log).unwrap_or_else(|e| panic!("{e}"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has a second handle")).stderr(log);
    command.spawn().expect("it can be started")
}
