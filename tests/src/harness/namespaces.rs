//! Two hosts: network namespaces with a cable between them, in which real packets are dropped and real lines are slow.
//!
//! A test runs itself once more inside of the first host ([`Namespaces::run`]), with the manager; machines are put into the second.
//! Nothing leaves the two. They are gone with the test, however that ends: the janitor knows their names (see
//! [`cleanup`](super::cleanup)).

use super::cleanup;
use crate::tools;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Set in the process that runs inside: the names of both hosts.
const INSIDE: &str = "SUTLER_TEST_HOSTS";
/// The end of the cable in the manager's host, and in the machines'.
const CABLE: (&str, &str) = ("cable-m", "cable-a");

/// The two hosts, as seen from inside of the first.
#[derive(Debug)]
pub struct Namespaces {
    machines: String,
}

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn ok(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program} can't be run: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Namespaces {
    /// The address of the manager's host, for machines.
    pub const MANAGER: &'static str = "10.77.0.1";

    /// Runs the test `name` (with its module) once more inside of two new hosts, or, when it is there already, `test` itself. Skipped
    /// where hosts can't be made.
    ///
    /// # Panics
    ///
    /// When the test inside fails.
    pub fn run(name: &str, test: impl FnOnce(&Namespaces)) {
        if let Ok(hosts) = std::env::var(INSIDE) {
            return test(&Namespaces { machines: hosts });
        }
        for tool in ["ip", "nft", "tc", "ss", "setpriv"] {
            if tools::skip_without(tool) {
                return;
            }
        }
        static HOSTS: AtomicU32 = AtomicU32::new(1);
        let hosts = format!("sutler-{}-{}", std::process::id(), HOSTS.fetch_add(1, Ordering::Relaxed));
        let (manager, machines) = (format!("{hosts}-m"), format!("{hosts}-a"));
        if !works("ip", &["netns", "add", &manager]) {
            tools::skip("needs root, to make network namespaces (ip netns add)");
            return;
        }
        let _gone = [Gone::with_the_test(&manager), Gone::with_the_test(&machines)];
        ok("ip", &["netns", "add", &machines]);
        ok("ip", &["link", "add", CABLE.0, "netns", &manager, "type", "veth", "peer", "name", CABLE.1, "netns", &machines]);
        for (host, end, address) in [(&manager, CABLE.0, "10.77.0.1/24"), (&machines, CABLE.1, "10.77.0.2/24")] {
            ok("ip", &["-n", host, "address", "add", address, "dev", end]);
            ok("ip", &["-n", host, "link", "set", end, "up"]);
            ok("ip", &["-n", host, "link", "set", "lo", "up"]);
        }
        // The programs are built here, where there is more than a cable.
        super::programs::folder();
        let own = std::env::current_exe().expect("a program knows where it is");
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", &manager])
            .arg(own)
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, &machines)
            .env(super::programs::BINARIES, super::programs::folder())
            .stdin(Stdio::null())
            .status()
            .expect("it can be started");
        assert!(status.success(), "{name} failed between two hosts; see above");
    }

    /// What a machine's commands are run through, to be in the second host.
    pub fn machine(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.machines]
    }

    /// From now on packets are dropped that match: `to` the manager's host or `from` it, or both. Nobody is told.
    pub fn drop(&self, chains: &[Chain]) {
        self.mend();
        for chain in chains {
            let (hook, side) = match chain {
                Chain::ToManager => ("input", "iifname"),
                Chain::FromManager => ("output", "oifname"),
            };
            let rules = format!(
                "add table inet sutler; add chain inet sutler {hook} {{ type filter hook {hook} priority 0 ; policy accept ; }}; \
                 add rule inet sutler {hook} {side} {} drop",
                CABLE.0
            );
            ok("nft", &[&rules]);
        }
    }

    /// Every packet passes again.
    pub fn mend(&self) {
        let _ = works("nft", &["delete", "table", "inet", "sutler"]);
    }

    /// From now on the line carries so many kilobits a second from the manager.
    pub fn slow(&self, kilobits: u32) {
        let rate = format!("{kilobits}kbit");
        ok("tc", &["qdisc", "replace", "dev", CABLE.0, "root", "tbf", "rate", &rate, "burst", "32kb", "latency", "200ms"]);
    }

    /// Destroys every TCP connection of the manager with machines, at its own end alone if nothing passes.
    pub fn destroy_connections(&self) {
        ok("ss", &["-K", "dst", "10.77.0.2"]);
    }

    /// The cable is pulled out, or in again.
    pub fn cable(&self, up: bool) {
        ok("ip", &["link", "set", CABLE.0, if up { "up" } else { "down" }]);
    }
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// From machines to the manager.
    ToManager,
    /// From the manager to machines.
    FromManager,
}

/// A namespace that is gone with this value, and with the process.
struct Gone(String);

impl Gone {
    fn with_the_test(name: &str) -> Gone {
        cleanup::remember_namespace(name);
        Gone(name.to_owned())
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = works("ip", &["netns", "delete", &self.0]);
    }
}
