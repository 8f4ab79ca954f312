//! Packages are installed once, verified, and put back when they fail.

use crate::{
    machine::{Machine, until},
    manager::{Manager, Package, attempt},
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use sutler_agent::{
    journal::{Answered, FolderJournal, Journal, JournalError, Loaded},
    machine::Record,
};
use sutler_base::{
    AttemptId,
    manifest::{ExitMeaning, Phase},
    state::{ErrorKind, ExecutionState},
};
use sutler_proto::v1::{self, connect_request::Message as Up, connect_response::Message as Down};

fn large(seed: u32) -> Vec<u8> {
    (0..700_000u32).flat_map(|n| (n.wrapping_mul(seed) >> 5).to_le_bytes()).collect()
}

fn tool(machine: &Machine, version: &'static str, release: u64) -> Package {
    let log = machine.scratch().join("log");
    Package::new("tool", version, release)
        .file("bin/tool", format!("#!/bin/sh\necho {version}\n"))
        .file("data", large(release as u32))
        .step("install", Phase::Install, &format!("echo install >> {}", log.display()))
        .detected_by("bin/tool")
}

#[tokio::test]
async fn what_is_offered_is_fetched_verified_installed_and_reported() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![item], 600);
    let outcome = manager.outcome(&attempt(1)).await;
    assert_eq!(outcome.state, ExecutionState::Succeeded, "{outcome:?}");
    assert_eq!(outcome.items[0].package.as_str(), "tool");
    assert!(outcome.items[0].fetched_bytes > 0);
    assert_eq!(std::fs::read(machine.root().join("opt/tool/data")).unwrap(), large(1));
    assert_eq!(machine.lines("log"), 1);
    for state in [ExecutionState::Downloading, ExecutionState::Installing] {
        manager.state(&attempt(1), state).await;
    }
    manager.recorded(&attempt(1));
    let status = handle.status().await.unwrap();
    assert_eq!(status.installed[0].package, "tool");
    let journal = machine.state().join("attempts").join(attempt(1).as_str());
    until("the attempt to be forgotten", || !journal.exists()).await;
    // The facts have it.
    let software = |m: &Up| matches!(m, Up::Facts(f) if f.json.contains(r#"{"name":"tool","version":"1.0"}"#));
    manager.hears("the software among the facts", |all| all.iter().any(software).then_some(())).await;
}

#[tokio::test]
async fn the_same_attempt_again_gives_its_outcome_and_runs_nothing() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![item.clone()], 600);
    manager.outcome(&attempt(1)).await;
    manager.recorded(&attempt(1));
    let journal = machine.state().join("attempts").join(attempt(1).as_str());
    until("the attempt to be forgotten", || !journal.exists()).await;
    let before = manager.outcomes(&attempt(1));
    manager.offer(&attempt(1), vec![item], 600);
    manager.hears("the outcome again", |_| (manager.outcomes(&attempt(1)) > before).then_some(())).await;
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn an_update_fetches_only_what_is_new_and_a_second_offer_of_what_is_there_is_skipped() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let first = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![first.clone()], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    manager.offer(&attempt(2), vec![first], 600);
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::AlreadyInstalled);
    assert_eq!(machine.lines("log"), 1);
    let mut update = tool(&machine, "2.0", 2);
    update.files.insert("data", large(1));
    let item = manager.publish(&update);
    let asked = manager.asked().len();
    manager.offer(&attempt(3), vec![item], 600);
    let outcome = manager.outcome(&attempt(3)).await;
    assert_eq!(outcome.state, ExecutionState::Succeeded, "the rules hold already, but for another version: {outcome:?}");
    assert_eq!(manager.asked().len() - asked, 2, "the manifest and the one file that changed");
    let program = std::fs::read_to_string(machine.root().join("opt/tool/bin/tool")).unwrap();
    assert!(program.contains("2.0"));
}

#[tokio::test]
async fn a_chunk_list_that_a_power_cut_has_taken_or_spoiled_is_fetched_again() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = v1::OfferItem { replace: v1::Replace::Always as i32, ..manager.publish(&tool(&machine, "1.0", 1)) };
    manager.offer(&attempt(1), vec![item.clone()], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    let manifest = sutler_certs::Envelope::from_json(&item.envelope).unwrap().digest;
    let kept = std::fs::read_dir(machine.state().join("content")).unwrap().map(|entry| entry.unwrap().path());
    let lists: Vec<_> = kept.filter(|path| !path.ends_with(manifest.to_string())).collect();
    let [file] = &lists[..] else { panic!("one file of the package has a list: {lists:?}") };
    let whole = std::fs::read(file).unwrap();
    let digest = sutler_base::Digest::of(&whole);
    let mut spoiled = whole.clone();
    spoiled[0] ^= 1;
    for (n, left) in [(2, None), (3, Some(Vec::new())), (4, Some(vec![0; whole.len()])), (5, Some(spoiled))] {
        match &left {
            Some(bytes) => std::fs::write(file, bytes).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
        let asked = manager.asked().len();
        manager.offer(&attempt(n), vec![item.clone()], 600);
        assert_eq!(manager.outcome(&attempt(n)).await.state, ExecutionState::Succeeded, "{left:?}");
        assert_eq!(manager.asked()[asked..], [digest], "the list and nothing else");
        assert_eq!(std::fs::read(file).unwrap(), whole);
    }
}

#[tokio::test]
async fn nothing_starts_without_a_lease_and_a_canceled_attempt_never_starts() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    for n in [1, 2] {
        manager.offer(&attempt(n), vec![item.clone()], 0);
        let waiting = manager.state(&attempt(n), ExecutionState::Waiting).await;
        assert_eq!(waiting.wait_reason, "LEASE");
    }
    manager.send(Down::Cancel(v1::CancelAttempt { attempt: attempt(1).to_string(), reason: "JOB_CANCELED".into() }));
    let acknowledged = |all: &[Up]| {
        all.iter().find_map(|m| match m {
            Up::CancelAcknowledged(c) if c.attempt == attempt(1).as_str() => Some(c.started),
            _ => None,
        })
    };
    assert!(!manager.hears("the acknowledgement", acknowledged).await);
    // A late lease, or the offer again, does not bring it back.
    let lease = v1::Lease { attempts: vec![attempt(1).to_string(), attempt(2).to_string()], seconds: 600 };
    manager.offer(&attempt(1), vec![item], 600);
    manager.send(Down::Lease(lease));
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::Succeeded);
    assert_eq!(machine.lines("log"), 1);
    assert_eq!(manager.outcomes(&attempt(1)), 0);
}

#[tokio::test]
async fn a_step_that_outlives_its_agent_is_picked_up_and_never_run_again() {
    let manager = Manager::start().await;
    let (mut machine, _handle) = Machine::connected(&manager).await;
    let (log, go) = (machine.scratch().join("log"), machine.scratch().join("go"));
    let script = format!("echo run >> {}; while [ ! -e {} ]; do sleep 0.05; done; echo said", log.display(), go.display());
    let package = Package::new("tool", "1.0", 1).file("x", "x").step("slow", Phase::Install, &script).detected_by("x");
    let item = manager.publish(&package);
    manager.offer(&attempt(1), vec![item], 600);
    until("the step to run", || machine.lines("log") == 1).await;
    machine.kill().await;
    let _handle = machine.start().await;
    manager.connected(2).await;
    assert_eq!(manager.sessions()[1].open_attempts[0].attempt, attempt(1).as_str());
    assert!(manager.sessions()[1].session_counter > manager.sessions()[0].session_counter);
    std::fs::write(&go, "").unwrap();
    let outcome = manager.outcome(&attempt(1)).await;
    assert_eq!(outcome.state, ExecutionState::Succeeded, "{outcome:?}");
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn a_failing_step_is_reported_with_its_output_and_what_was_there_is_put_back() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let good = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![good], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    let sad = machine.scratch().join("sad");
    let bad = Package::new("tool", "2.0", 2)
        .file("bin/tool", "#!/bin/sh\necho 2.0\n")
        .step("break", Phase::Install, "echo it does not fit; exit 7")
        .step("clean", Phase::OnError, &format!("echo cleaned >> {}", sad.display()))
        .detected_by("bin/tool");
    let bad = manager.publish(&bad);
    let after =
        manager.publish(&Package::new("other", "1.0", 1).step("never", Phase::Install, &format!("echo never >> {}", sad.display())));
    manager.offer(&attempt(2), vec![bad, after], 600);
    let outcome = manager.outcome(&attempt(2)).await;
    assert_eq!((outcome.state, outcome.items.len()), (ExecutionState::Failed, 1), "the second package is not reached: {outcome:?}");
    let failure = outcome.failure().unwrap();
    assert_eq!((failure.kind, failure.exit_code, failure.step.as_deref()), (ErrorKind::StepFailed, Some(7), Some("break")));
    assert_eq!(failure.output, "it does not fit\n");
    assert_eq!(failure.restored, Some(true));
    assert!(std::fs::read_to_string(machine.root().join("opt/tool/bin/tool")).unwrap().contains("1.0"));
    assert_eq!(machine.lines("sad"), 1);
}

#[tokio::test]
async fn an_exit_code_that_means_later_is_run_again_and_one_that_means_reboot_is_told() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let log = machine.scratch().join("log");
    let script = format!("echo run >> {0}; [ $(wc -l < {0}) -ge 2 ] && exit 10; exit 75", log.display());
    let mut package = Package::new("tool", "1.0", 1).file("x", "x").step("busy", Phase::Install, &script);
    package.steps[0].exit_codes = [(75, ExitMeaning::Retry), (10, ExitMeaning::RebootSoft)].into();
    let item = manager.publish(&package);
    manager.offer(&attempt(1), vec![item], 600);
    let waiting = manager.state(&attempt(1), ExecutionState::Waiting).await;
    assert_eq!(waiting.wait_reason, "RETRY");
    handle.run_now().await.unwrap();
    let outcome = manager.outcome(&attempt(1)).await;
    assert_eq!((outcome.state, outcome.items[0].reboot), (ExecutionState::Succeeded, true), "{outcome:?}");
    assert_eq!(machine.lines("log"), 2);
}

#[tokio::test]
async fn what_is_not_signed_changed_too_old_or_for_other_machines_is_refused() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let refused = async |n: u8, item: v1::OfferItem| {
        manager.offer(&attempt(n), vec![item], 600);
        let outcome = manager.outcome(&attempt(n)).await;
        (outcome.state, outcome.failure().map(|f| f.kind).expect("a reason"))
    };
    // Another publisher's signature.
    let stranger = Manager::start().await;
    let foreign = stranger.publish(&tool(&machine, "1.0", 5));
    manager.publish(&tool(&machine, "1.0", 5));
    assert_eq!(refused(1, foreign).await, (ExecutionState::Failed, ErrorKind::SignatureInvalid));
    // Bytes that changed after they were signed.
    let mut changed = manager.publish(&tool(&machine, "1.0", 5));
    let text = String::from_utf8(changed.envelope.to_vec()).unwrap();
    let other = manager.publish(&tool(&machine, "9.9", 9));
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let mut mixed = json(text.as_bytes());
    for member in ["digest", "length"] {
        mixed[member] = json(&other.envelope)[member].clone();
    }
    changed.envelope = mixed.to_string().into();
    assert_eq!(refused(2, changed).await, (ExecutionState::Failed, ErrorKind::SignatureInvalid));
    // Not for this machine.
    let mut foreign = tool(&machine, "1.0", 5);
    foreign.platform.os = "plan9".into();
    let foreign = manager.publish(&foreign);
    assert_eq!(refused(3, foreign).await, (ExecutionState::Rejected, ErrorKind::PlatformMismatch));
    // One step back, no more.
    for (n, release) in [(4, 5), (5, 6), (6, 7), (7, 6)] {
        let versions = ["5", "6", "7"];
        let item = manager.publish(&tool(&machine, versions[release as usize - 5], release));
        manager.offer(&attempt(n), vec![item], 600);
        assert_eq!(manager.outcome(&attempt(n)).await.state, ExecutionState::Succeeded, "release {release}");
    }
    let old = manager.publish(&tool(&machine, "5", 5));
    assert_eq!(refused(8, old).await, (ExecutionState::Failed, ErrorKind::ReleaseTooOld));
    assert_eq!(machine.lines("log"), 4);
}

#[tokio::test]
async fn a_transfer_that_fails_is_tried_again_within_the_attempt() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.fail_chunks(Some(tonic::Status::unavailable("starting")));
    manager.offer(&attempt(1), vec![item.clone()], 600);
    let waiting = manager.state(&attempt(1), ExecutionState::Waiting).await;
    assert_eq!(waiting.wait_reason, "RETRY");
    manager.fail_chunks(None);
    handle.run_now().await.unwrap();
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    // Bytes that are damaged where they are stored are no end either: it goes on when they are whole again.
    manager.fail_chunks(Some(tonic::Status::data_loss("a chunk is damaged")));
    let other = manager.publish(&tool(&machine, "2.0", 2));
    manager.offer(&attempt(2), vec![other], 600);
    manager.state(&attempt(2), ExecutionState::Waiting).await;
    manager.fail_chunks(None);
    handle.run_now().await.unwrap();
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::Succeeded);
}

#[tokio::test]
async fn a_local_hold_keeps_what_was_fetched_waiting() {
    let manager = Manager::start().await;
    let mut machine = Machine::new();
    machine.set_policy("hold = true\n");
    machine.enroll(&manager).await.unwrap();
    machine.start().await;
    manager.connected(1).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![item], 600);
    let waiting = manager.state(&attempt(1), ExecutionState::Waiting).await;
    assert_eq!(waiting.wait_reason, "LOCAL_HOLD");
    machine.kill().await;
    machine.set_policy("");
    machine.start().await;
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded, "what was fetched is there after a restart");
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn a_client_that_may_not_read_for_a_while_fails_nothing_and_goes_on_when_it_may() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.fail_chunks(Some(tonic::Status::failed_precondition("this client is QUARANTINED")));
    manager.offer(&attempt(1), vec![item], 600);
    manager.state(&attempt(1), ExecutionState::Waiting).await;
    manager.fail_chunks(None);
    manager.send(Down::StateChanged(v1::StateChanged { state: v1::ClientState::Active.into() }));
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn a_damaged_journal_entry_ends_as_interrupted_and_a_lost_journal_is_told() {
    let manager = Manager::start().await;
    let (mut machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.offer(&attempt(1), vec![item], 0);
    manager.state(&attempt(1), ExecutionState::Waiting).await;
    machine.kill().await;
    let file = machine.state().join("attempts").join(attempt(1).as_str());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    machine.start().await;
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Interrupted);
    assert!(!manager.sessions().last().unwrap().journal_lost);
    machine.kill().await;
    std::fs::remove_dir_all(machine.state().join("attempts")).unwrap();
    let sessions = manager.sessions().len();
    machine.start().await;
    manager.connected(sessions + 1).await;
    assert!(manager.sessions().last().unwrap().journal_lost);
    let marker = machine.state().join("attempts/.generation");
    until("the journal to be a new one", || marker.exists()).await;
    machine.kill().await;
    machine.start().await;
    manager.connected(sessions + 2).await;
    assert!(!manager.sessions().last().unwrap().journal_lost, "it is told once");
    assert_eq!(machine.lines("log"), 0);
}

/// A journal on a disk that is full for as long as a test says.
struct Full {
    journal: FolderJournal,
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Disk {
    is_full: AtomicBool,
    refused: AtomicUsize,
}

impl Journal for Full {
    fn load(&mut self) -> Result<Loaded, JournalError> {
        self.journal.load()
    }

    fn settle(&mut self) -> Result<(), JournalError> {
        self.journal.settle()
    }

    fn write(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.disk.is_full.load(Ordering::Relaxed) {
            self.disk.refused.fetch_add(1, Ordering::Relaxed);
            return Err(JournalError::Full { path: "attempts".into() });
        }
        self.journal.write(record)
    }

    fn retire(&mut self, record: &Record) -> Result<(), JournalError> {
        self.journal.retire(record)
    }

    fn discard(&mut self, attempt: &AttemptId) -> Result<(), JournalError> {
        self.journal.discard(attempt)
    }

    fn make_room(&mut self) {
        self.journal.make_room();
    }

    fn keep_room(&mut self) -> bool {
        !self.disk.is_full.load(Ordering::Relaxed)
    }

    fn answer(&self, attempt: &AttemptId) -> Answered {
        self.journal.answer(attempt)
    }

    fn answers_from(&self, first: &AttemptId) -> Vec<Record> {
        self.journal.answers_from(first)
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn that_the_disk_is_full_is_said_once_and_that_it_has_room_again_once() {
    let log = Log::default();
    let writer = log.clone();
    // The agent runs on this thread, as this test does.
    let _said = tracing::subscriber::set_default(tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish());
    let manager = Manager::start().await;
    let mut machine = Machine::new();
    machine.enroll(&manager).await.unwrap();
    let disk = Arc::new(Disk::default());
    let journal = Full { journal: FolderJournal::new(&machine.state(), [3; 16]), disk: disk.clone() };
    let (agent, handle) = machine.try_agent_with(Box::new(journal)).await.unwrap();
    machine.run(agent);
    manager.connected(1).await;
    for (n, version) in [(1u8, "1.0"), (2, "2.0")] {
        let before = disk.refused.load(Ordering::Relaxed);
        disk.is_full.store(true, Ordering::Relaxed);
        manager.offer(&attempt(n), vec![manager.publish(&tool(&machine, version, n.into()))], 600);
        until("the write to be refused again and again", || disk.refused.load(Ordering::Relaxed) >= before + 3).await;
        assert_eq!(log.text().matches("the disk is full").count(), usize::from(n), "{}", log.text());
        assert!(handle.status().await.unwrap().problem.is_some_and(|problem| problem.contains("the disk is full")));
        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(manager.outcome(&attempt(n)).await.state, ExecutionState::Succeeded);
        until("it to be said that there is room", || log.text().matches("the disk has room again").count() == usize::from(n)).await;
        assert_eq!(handle.status().await.unwrap().problem, None);
    }
    assert_eq!(machine.lines("log"), 2);
}
