//! A manager in somebody else's hands: it has the keys of the CAs, the database and the content, and speaks the protocol. The
//! agent is the real program, a process of its own.

use crate::{
    manager::{Manager, Package, attempt},
    trust::{document, following, later, list},
};
use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};
use sutler_base::{
    Digest,
    manifest::Phase,
    state::{ErrorKind, ExecutionState},
};
use sutler_certs::{
    Envelope, PublisherKey, RevocationList, TrustDocument,
    revocations::{Revoked, Target},
    trust::Change,
};
use sutler_proto::v1;

/// The real agent on a machine of its own.
struct Machine {
    folder: tempfile::TempDir,
    running: Option<Child>,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("root/etc")).unwrap();
        std::fs::write(folder.path().join("root/etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        std::fs::write(folder.path().join("agent.toml"), "").unwrap();
        Machine { folder, running: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sutler-agent"));
        command.args(arguments).arg("--config").arg(self.path("agent.toml"));
        command.arg("--dir").arg(self.path("state")).arg("--root").arg(self.path("root")).stdin(Stdio::null());
        command
    }

    async fn enroll(&self, manager: &Manager) -> Output {
        let token = self.path("token");
        std::fs::write(&token, manager.token().encode()).unwrap();
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
        let mut command = self.command(&["enroll", "--token-file", token.to_str().unwrap()]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn start(&mut self, manager: &Manager) {
        let sessions = manager.sessions().len();
        let log = std::fs::File::create(self.path("agent.log")).unwrap();
        let mut command = self.command(&["run"]);
        self.running = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        manager.connected(sessions + 1).await;
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }

    fn tool(&self, version: &'static str, release: u64) -> Package {
        let log = self.path("log");
        let script = format!("echo {version} >> {}", log.display());
        Package::new("tool", version, release).file("data", version).step("run", Phase::Install, &script)
    }

    fn ran(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn tried(manager: &Manager, n: u8, item: v1::OfferItem) -> (ExecutionState, Option<ErrorKind>) {
    manager.offer(&attempt(n), vec![item], 600);
    let outcome = manager.outcome(&attempt(n)).await;
    (outcome.state, outcome.failure().map(|f| f.kind))
}

fn refused(kind: ErrorKind) -> (ExecutionState, Option<ErrorKind>) {
    (ExecutionState::Failed, Some(kind))
}

const GOOD: (ExecutionState, Option<ErrorKind>) = (ExecutionState::Succeeded, None);

#[tokio::test]
async fn a_taken_over_manager_runs_nothing_but_what_the_publisher_signed_and_the_machine_allows() {
    let manager = Manager::start().await;
    let thief = PublisherKey::generate().unwrap();
    // What a newcomer is to trust is in the token, not in the manager's answer.
    let theirs = TrustDocument::new(1, 1, &[thief.public_key()], 1, &[""], later()).unwrap().sign(&[&thief]);
    let ours = manager.trust().sign(&[manager.publisher()]).to_json();
    manager.hand_out_trust(theirs.to_json());
    let mut machine = Machine::new();
    let fooled = machine.enroll(&manager).await;
    assert!(!fooled.status.success() && String::from_utf8_lossy(&fooled.stderr).contains("pinned"), "{fooled:?}");
    manager.hand_out_trust(ours);
    let enrolled = machine.enroll(&manager).await;
    assert!(enrolled.status.success(), "{enrolled:?}");
    machine.start(&manager).await;

    // A byte of a file, in the chunk store.
    let item = manager.publish(&machine.tool("1.0", 10));
    manager.exchange_object(Digest::of(b"1.0"), b"666".to_vec());
    assert_eq!(tried(&manager, 1, item.clone()).await, refused(ErrorKind::ContentMismatch));
    manager.exchange_object(Digest::of(b"1.0"), b"1.0".to_vec());
    // An argument: the manifest in the database, under its old name, and under a new one with the old signature.
    let envelope = Envelope::from_json(&item.envelope).unwrap();
    let evil = manager.publish_as(&machine.tool("evil", 11), &[&thief]);
    let evil_envelope = Envelope::from_json(&evil.envelope).unwrap();
    let (digest, length) = (evil_envelope.digest, evil_envelope.length);
    let grafted = Envelope { digest, length, ..envelope.clone() };
    let of = |envelope: &Envelope| v1::OfferItem { envelope: envelope.to_json().into(), ..item.clone() };
    assert_eq!(tried(&manager, 2, of(&grafted)).await, refused(ErrorKind::SignatureInvalid));
    assert_eq!(tried(&manager, 3, evil.clone()).await, refused(ErrorKind::SignatureInvalid));
    let mut named = evil_envelope.clone();
    named.signatures[0].key_id = manager.publisher().key_id();
    assert_eq!(tried(&manager, 4, of(&named)).await, refused(ErrorKind::SignatureInvalid), "the thief's signature under the key's name");
    named.signatures.clear();
    assert_eq!(tried(&manager, 5, of(&named)).await, refused(ErrorKind::SignatureInvalid), "unsigned");

    // A key of its own: signed by itself, by nobody, and as if it were the first.
    let add = |keys: &[&PublisherKey]| manager.trust().follow(following(&manager, keys)).unwrap();
    for forged in [add(&[&thief]).sign(&[&thief]), add(&[&thief, manager.publisher()]).sign(&[&thief]), theirs.clone()] {
        manager.send(document(&forged));
    }
    assert_eq!(tried(&manager, 6, evil.clone()).await, refused(ErrorKind::SignatureInvalid));

    // An older release than the one that the highest had replaced.
    for (n, version, release) in [(7, "1.0", 10), (8, "2.0", 20), (9, "3.0", 30)] {
        assert_eq!(tried(&manager, n, manager.publish(&machine.tool(version, release))).await, GOOD, "{version}");
    }
    assert_eq!(tried(&manager, 10, item.clone()).await, refused(ErrorKind::ReleaseTooOld));
    // What publishers took back: by an older list, by a list of its own, and by silence.
    let publisher = [manager.publisher()];
    let target = Target::Version { package: "tool".parse().unwrap(), version: "4.0".parse().unwrap() };
    let revoked = vec![Revoked { target, reason: String::new() }];
    manager.send(list(&RevocationList::new(1, 2, revoked, vec![], later()).unwrap(), &publisher));
    let taken_back = manager.publish(&machine.tool("4.0", 40));
    assert_eq!(tried(&manager, 11, taken_back.clone()).await, refused(ErrorKind::PackageRevoked));
    manager.send(list(&RevocationList::new(1, 1, vec![], vec![], later()).unwrap(), &publisher));
    manager.send(list(&RevocationList::new(1, 3, vec![], vec![], later()).unwrap(), &[&thief]));
    let next_epoch = RevocationList::new(2, 1, vec![], vec![], later()).unwrap();
    manager.send(list(&next_epoch, &publisher));
    assert_eq!(tried(&manager, 12, taken_back.clone()).await, refused(ErrorKind::PackageRevoked));
    // The owners begin a new epoch, and the manager keeps its first list back: what was revoked stays revoked.
    let two = manager.trust().follow(Change { new_epoch: true, ..following(&manager, &publisher) }).unwrap();
    manager.send(document(&two.sign(&publisher)));
    assert_eq!(tried(&manager, 13, taken_back.clone()).await, refused(ErrorKind::PackageRevoked));

    // The machine's own rules.
    let policy = machine.path("policy.toml");
    std::fs::write(&policy, "packages = [\"clam\"]\n").unwrap();
    let fifth = manager.publish(&machine.tool("5.0", 50));
    assert_eq!(tried(&manager, 14, fifth.clone()).await, (ExecutionState::Rejected, Some(ErrorKind::LocalPolicy)));
    std::fs::write(&policy, "hold = true\n").unwrap();
    manager.offer(&attempt(15), vec![fifth.clone()], 600);
    assert_eq!(manager.state(&attempt(15), ExecutionState::Waiting).await.wait_reason, "LOCAL_HOLD");

    // Nothing of that is forgotten with a restart.
    machine.stop();
    std::fs::write(&policy, "").unwrap();
    machine.start(&manager).await;
    assert_eq!(manager.sessions().last().unwrap().trust_version, 2);
    for (n, item, kind) in
        [(16, item, ErrorKind::ReleaseTooOld), (17, taken_back, ErrorKind::PackageRevoked), (18, evil, ErrorKind::SignatureInvalid)]
    {
        assert_eq!(tried(&manager, n, item).await, refused(kind));
    }
    assert_eq!(manager.outcome(&attempt(15)).await.state, ExecutionState::Succeeded, "what is signed, new and allowed is installed");
    assert_eq!(machine.ran(), ["1.0", "2.0", "3.0", "5.0"]);
}
