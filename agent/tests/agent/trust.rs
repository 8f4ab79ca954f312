//! Whom a machine trusts: documents follow each other, what was taken back stays so, and its own rules come first.

use crate::{
    machine::{Machine, until},
    manager::{Manager, Package, attempt},
};
use sutler_agent::{Handle, agent::Status};
use sutler_base::{
    Digest, Timestamp,
    manifest::Phase,
    state::{ErrorKind, ExecutionState},
};
use sutler_certs::{
    Envelope, PublisherKey, RevocationList, SignedTrustDocument,
    revocations::{Minimum, Revoked, Target},
    trust::Change,
};
use sutler_proto::v1::{self, connect_response::Message as Down, trust_update::Update};

fn tool(machine: &Machine, version: &'static str, release: u64) -> Package {
    let log = machine.scratch().join("log");
    let say = |word: &str| format!("echo {word} >> {}", log.display());
    Package::new("tool", version, release).file("data", version).step("run", Phase::Install, &say("run")).step(
        "undo",
        Phase::OnError,
        &say("undo"),
    )
}

pub(crate) fn later() -> Timestamp {
    Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1000)).unwrap()
}

/// The document after the pinned one, with these keys.
pub(crate) fn following(manager: &Manager, keys: &[&PublisherKey]) -> Change {
    Change {
        keys: keys.iter().map(|k| k.public_key()).collect(),
        threshold: 1,
        prefixes: manager.trust().prefixes().to_vec(),
        publishers: vec![],
        expires: later(),
        new_epoch: false,
    }
}

pub(crate) fn document(signed: &SignedTrustDocument) -> Down {
    Down::Trust(v1::TrustUpdate { update: Some(Update::Document(signed.to_json().into())) })
}

pub(crate) fn list(list: &RevocationList, keys: &[&PublisherKey]) -> Down {
    Down::Trust(v1::TrustUpdate { update: Some(Update::Revocations(list.sign(keys).to_json().into())) })
}

/// Waits until the status has a sentence about trust with these words.
pub(crate) async fn trust_says(handle: &Handle, words: &str) -> Status {
    let waited = tokio::time::timeout(crate::manager::PATIENCE, async {
        loop {
            let status = handle.status().await.expect("it runs");
            if status.trust.iter().any(|s| s.contains(words)) {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("nothing about trust says {words:?}"))
}

async fn tried(manager: &Manager, n: u8, item: v1::OfferItem) -> (ExecutionState, Option<ErrorKind>) {
    manager.offer(&attempt(n), vec![item], 600);
    let outcome = manager.outcome(&attempt(n)).await;
    (outcome.state, outcome.failure().map(|f| f.kind))
}

#[tokio::test]
async fn a_rotated_key_counts_from_the_next_document_on_and_the_old_one_no_more_also_after_a_restart() {
    let manager = Manager::start().await;
    let (mut machine, handle) = Machine::connected(&manager).await;
    assert_eq!(manager.sessions()[0].trust_version, 1);
    let [second, third] = std::array::from_fn(|_| PublisherKey::generate().unwrap());
    let two = manager.trust().follow(following(&manager, &[&second])).unwrap();
    let three = two.follow(Change { threshold: 2, ..following(&manager, &[&second, &third]) }).unwrap();
    // Two versions behind: each step is signed by the keys before and after it.
    manager.send(document(&two.sign(&[manager.publisher(), &second])));
    manager.send(document(&three.sign(&[&second, &third])));
    trust_says(&handle, "trust document 3").await;
    let refused = (ExecutionState::Failed, Some(ErrorKind::SignatureInvalid));
    assert_eq!(tried(&manager, 1, manager.publish(&tool(&machine, "1.0", 1))).await, refused, "the old key counts no more");
    assert_eq!(tried(&manager, 2, manager.publish_as(&tool(&machine, "1.0", 1), &[&second])).await, refused, "one of two");
    let good = manager.publish_as(&tool(&machine, "1.0", 1), &[&second, &third]);
    assert_eq!(tried(&manager, 3, good).await, (ExecutionState::Succeeded, None));
    machine.kill().await;
    let sessions = manager.sessions().len();
    let handle = machine.start().await;
    manager.connected(sessions + 1).await;
    assert_eq!(manager.sessions().last().unwrap().trust_version, 3);
    assert_eq!(tried(&manager, 4, manager.publish(&tool(&machine, "2.0", 2))).await, refused, "nor after a restart");
    // Back to the document before, and a jump ahead.
    manager.send(document(&two.sign(&[manager.publisher(), &second])));
    trust_says(&handle, "refused").await;
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn a_trust_document_or_a_revocation_list_that_has_ended_stops_every_installation_and_says_so() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let past: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    let item = manager.publish(&tool(&machine, "1.0", 1));
    manager.send(list(&RevocationList::new(1, 1, vec![], vec![], past).unwrap(), &[manager.publisher()]));
    trust_says(&handle, "revocation list 1 until 2020-01-01 00:00 UTC, which is over").await;
    assert_eq!(tried(&manager, 1, item.clone()).await, (ExecutionState::Failed, Some(ErrorKind::TrustExpired)));
    manager.send(list(&RevocationList::new(1, 2, vec![], vec![], later()).unwrap(), &[manager.publisher()]));
    trust_says(&handle, "revocation list 2").await;
    let ended = manager.trust().follow(Change { expires: past, ..following(&manager, &[manager.publisher()]) }).unwrap();
    manager.send(document(&ended.sign(&[manager.publisher()])));
    trust_says(&handle, "trust document 2 until 2020-01-01 00:00 UTC, which is over").await;
    assert_eq!(tried(&manager, 2, item.clone()).await, (ExecutionState::Failed, Some(ErrorKind::TrustExpired)));
    // Mended by the next one, which the ended one's keys may sign.
    let mended = ended.follow(following(&manager, &[manager.publisher()])).unwrap();
    manager.send(document(&mended.sign(&[manager.publisher()])));
    trust_says(&handle, "trust document 3").await;
    assert_eq!(tried(&manager, 3, item).await, (ExecutionState::Succeeded, None));
}

#[tokio::test]
async fn what_publishers_took_back_is_refused_also_when_it_was_staged_before() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let publisher = [manager.publisher()];
    let staged = manager.publish(&tool(&machine, "1.0", 10));
    let digest = Envelope::from_json(&staged.envelope).unwrap().digest;
    // No lease: it is fetched, verified, and waits.
    manager.offer(&attempt(1), vec![staged.clone()], 0);
    manager.state(&attempt(1), ExecutionState::Waiting).await;
    let revoked = vec![Revoked { target: Target::Manifest { manifest: digest }, reason: "CVE-1".into() }];
    manager.send(list(&RevocationList::new(1, 1, revoked, vec![], later()).unwrap(), &publisher));
    trust_says(&handle, "revocation list 1").await;
    manager.send(Down::Lease(v1::Lease { attempts: vec![attempt(1).to_string()], seconds: 600 }));
    let outcome = manager.outcome(&attempt(1)).await;
    let failure = outcome.failure().expect("it failed");
    assert_eq!((outcome.state, failure.kind), (ExecutionState::Failed, ErrorKind::PackageRevoked), "{failure:?}");
    assert!(failure.message.contains("CVE-1"), "{failure:?}");
    assert_eq!(tried(&manager, 2, staged).await, (ExecutionState::Failed, Some(ErrorKind::PackageRevoked)));
    // A version, whatever was signed as it; and a minimum.
    let version = vec![Revoked {
        target: Target::Version { package: "tool".parse().unwrap(), version: "2.0".parse().unwrap() },
        reason: String::new(),
    }];
    let minimum = vec![Minimum { package: "tool".parse().unwrap(), release: 30 }];
    manager.send(list(&RevocationList::new(1, 2, version, minimum, later()).unwrap(), &publisher));
    trust_says(&handle, "revocation list 2").await;
    let of = |version, release| manager.publish(&tool(&machine, version, release));
    assert_eq!(tried(&manager, 3, of("2.0", 40)).await, (ExecutionState::Failed, Some(ErrorKind::PackageRevoked)));
    assert_eq!(tried(&manager, 4, of("3.0", 29)).await, (ExecutionState::Failed, Some(ErrorKind::ReleaseTooOld)));
    assert_eq!(tried(&manager, 5, of("3.0", 30)).await, (ExecutionState::Succeeded, None));
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn of_what_was_taken_back_while_it_waited_nothing_runs_although_its_first_step_may_fail() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let publisher = [manager.publisher()];
    let say = format!("echo before >> {}", machine.scratch().join("log").display());
    let mut package = tool(&machine, "1.0", 1).step("before", Phase::Before, &say);
    package.steps.last_mut().unwrap().continue_on_failure = true;
    let item = manager.publish(&package);
    let digest = Envelope::from_json(&item.envelope).unwrap().digest;
    manager.offer(&attempt(1), vec![item], 0);
    manager.state(&attempt(1), ExecutionState::Waiting).await;
    let revoked = vec![Revoked { target: Target::Manifest { manifest: digest }, reason: "CVE-1".into() }];
    manager.send(list(&RevocationList::new(1, 1, revoked, vec![], later()).unwrap(), &publisher));
    trust_says(&handle, "revocation list 1").await;
    manager.send(Down::Lease(v1::Lease { attempts: vec![attempt(1).to_string()], seconds: 600 }));
    let outcome = manager.outcome(&attempt(1)).await;
    assert_eq!(
        (outcome.state, outcome.failure().map(|f| f.kind)),
        (ExecutionState::Failed, Some(ErrorKind::PackageRevoked)),
        "{outcome:?}"
    );
    assert_eq!(machine.lines("log"), 0);
    assert!(!machine.root().join("opt/tool").exists());
}

#[tokio::test]
async fn what_waits_is_installed_by_the_rules_of_the_moment_at_which_it_may_start() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let lease = |n| Down::Lease(v1::Lease { attempts: vec![attempt(n).to_string()], seconds: 600 });
    // It is over while it waits.
    let soon = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(4)).unwrap();
    let over = manager.publish(&Package { name: "over", directory: Some("/opt/over"), expires: Some(soon), ..tool(&machine, "1.0", 1) });
    // Newer ones are installed while it waits.
    let older = v1::OfferItem { replace: v1::Replace::Always as i32, ..manager.publish(&tool(&machine, "1.0", 1)) };
    // The machine's own administrator decides otherwise while it waits.
    let unwanted = manager.publish(&Package { name: "unwanted", directory: Some("/opt/unwanted"), ..tool(&machine, "1.0", 1) });
    for (n, item) in [(1, over), (2, older), (3, unwanted)] {
        manager.offer(&attempt(n), vec![item], 0);
        manager.state(&attempt(n), ExecutionState::Waiting).await;
    }
    for (n, version, release) in [(4, "2.0", 2), (5, "3.0", 3), (6, "4.0", 4)] {
        let newer = manager.publish(&tool(&machine, version, release));
        assert_eq!(tried(&manager, n, newer).await, (ExecutionState::Succeeded, None));
    }
    machine.set_policy("packages = [\"tool\", \"over\"]\n");
    until("the first one to be over", || Timestamp::now() >= soon).await;
    let answers = [
        (1, (ExecutionState::Failed, Some(ErrorKind::PackageExpired))),
        (2, (ExecutionState::Failed, Some(ErrorKind::ReleaseTooOld))),
        (3, (ExecutionState::Rejected, Some(ErrorKind::LocalPolicy))),
    ];
    let mut got = Vec::new();
    for (n, _) in answers {
        manager.send(lease(n));
        let outcome = manager.outcome(&attempt(n)).await;
        got.push((n, (outcome.state, outcome.failure().map(|f| f.kind))));
    }
    assert_eq!(got, answers);
    assert_eq!(machine.lines("log"), 3);
}

#[tokio::test]
async fn a_manifest_that_the_disk_does_not_give_back_is_an_error_of_the_disk_and_nothing_of_it_runs() {
    use std::os::unix::fs::DirBuilderExt;
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let item = manager.publish(&tool(&machine, "1.0", 1));
    let digest = Envelope::from_json(&item.envelope).unwrap().digest;
    let file = machine.state().join("content").join(digest.to_string());
    let replace = |item: &v1::OfferItem| v1::OfferItem { replace: v1::Replace::Always as i32, ..item.clone() };
    assert_eq!(tried(&manager, 1, item.clone()).await, (ExecutionState::Succeeded, None));
    // Staged and verified it waits; then its manifest can't be read, or is another's.
    for (n, harm) in [(2, "unreadable"), (3, "gone"), (4, "damaged")] {
        manager.offer(&attempt(n), vec![replace(&item)], 0);
        manager.state(&attempt(n), ExecutionState::Waiting).await;
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        match harm {
            "unreadable" => std::fs::DirBuilder::new().mode(0o700).create(&file).unwrap(),
            "gone" => {}
            _ => sutler_certs::durable::write(&file, b"{}", sutler_certs::durable::Readers::Owner).unwrap(),
        }
        manager.send(Down::Lease(v1::Lease { attempts: vec![attempt(n).to_string()], seconds: 600 }));
        let outcome = manager.outcome(&attempt(n)).await;
        let failure = outcome.failure().expect("it failed");
        assert_eq!((outcome.state, failure.kind), (ExecutionState::Failed, ErrorKind::ClientIo), "{harm}: {failure:?}");
        assert!(failure.message.contains(&digest.to_string()), "{harm}: {failure:?}");
        if file.is_dir() {
            std::fs::remove_dir(&file).unwrap();
        }
        sutler_certs::durable::write(&file, &bytes, sutler_certs::durable::Readers::Owner).unwrap();
    }
    assert_eq!(machine.lines("log"), 1, "nothing ran, so nothing had to be undone");
    assert_eq!(tried(&manager, 5, replace(&item)).await, (ExecutionState::Succeeded, None));
}

#[tokio::test]
async fn a_package_is_installed_from_the_first_moment_that_its_publisher_named_to_the_last_and_not_otherwise() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let past: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    let none = (ExecutionState::Failed, Some(ErrorKind::PackageExpired));
    let cases = [(Some(later()), None, none), (None, Some(past), none), (Some(past), Some(later()), (ExecutionState::Succeeded, None))];
    for (n, (not_before, expires, answer)) in (1..).zip(cases) {
        let package = Package { not_before, expires, ..tool(&machine, "1.0", 1) };
        assert_eq!(tried(&manager, n, manager.publish(&package)).await, answer, "from {not_before:?} to {expires:?}");
    }
    assert_eq!(machine.lines("log"), 1);
}

#[tokio::test]
async fn an_agent_at_rest_shows_the_machines_own_rules_as_they_are_now() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    for (rules, hold) in [("hold = true\n", true), ("hold = false\n", false)] {
        machine.set_policy(rules);
        assert_eq!(handle.status().await.unwrap().hold, hold, "{rules}");
    }
}

#[tokio::test]
async fn the_machines_own_rules_come_first_and_are_read_again_without_a_restart() {
    let manager = Manager::start().await;
    let (machine, handle) = Machine::connected(&manager).await;
    let rejected = (ExecutionState::Rejected, Some(ErrorKind::LocalPolicy));
    let of = |version, release| manager.publish(&tool(&machine, version, release));
    machine.set_policy("max_bytes = 2\n");
    assert_eq!(tried(&manager, 1, of("1.0", 1)).await, rejected);
    machine.set_policy("packages = [\"clam\"]\n");
    assert_eq!(tried(&manager, 2, of("1.0", 1)).await, rejected);
    machine.set_policy("publishers = [\"00000000000000000000000000000000\"]\n");
    assert_eq!(tried(&manager, 3, of("1.0", 1)).await, rejected);
    // Broken: nothing is installed, and it says why.
    machine.set_policy("hold = perhaps\n");
    manager.offer(&attempt(4), vec![of("1.0", 1)], 600);
    manager.state(&attempt(4), ExecutionState::Waiting).await;
    let status = handle.status().await.unwrap();
    assert!(status.hold && status.hold_reason.contains("policy.toml"), "{status:?}");
    machine.set_policy(&format!("publishers = [\"{}\"]\npackages = [\"to\"]\nmax_bytes = 1000\n", manager.publisher().key_id()));
    handle.run_now().await.unwrap();
    assert_eq!(manager.outcome(&attempt(4)).await.state, ExecutionState::Succeeded);
    machine.set_policy("hold = true\n");
    manager.offer(&attempt(5), vec![of("2.0", 2)], 600);
    assert_eq!(manager.state(&attempt(5), ExecutionState::Waiting).await.wait_reason, "LOCAL_HOLD");
    assert_eq!(machine.lines("log"), 1);
    machine.set_policy("");
    assert_eq!(manager.outcome(&attempt(5)).await.state, ExecutionState::Succeeded);
    // Nobody signed it: not without the machine's own word.
    let unsigned = || manager.publish_as(&tool(&machine, "3.0", 3), &[]);
    assert_eq!(tried(&manager, 6, unsigned()).await, (ExecutionState::Failed, Some(ErrorKind::SignatureInvalid)));
    machine.set_policy("allow_unsigned = true\n");
    assert_eq!(tried(&manager, 7, unsigned()).await, (ExecutionState::Succeeded, None));
    until("the third run", || machine.lines("log") == 3).await;
}

#[tokio::test]
async fn a_manifest_that_comes_with_its_offer_is_not_asked_for_and_is_believed_no_more_than_one_that_is() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let with = |item: v1::OfferItem, manifest: &[u8]| v1::OfferItem { manifest: manifest.to_vec().into(), ..item };
    let first = tool(&machine, "1.0", 1);
    let manifest = first.build().0;
    manager.offer(&attempt(1), vec![with(manager.publish(&first), &manifest)], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    assert!(!manager.asked().contains(&Digest::of(&manifest)), "it was there");

    // What comes with it is another one: it is asked for, as if nothing had come.
    let second = tool(&machine, "2.0", 2);
    manager.offer(&attempt(2), vec![with(manager.publish(&second), &manifest)], 600);
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::Succeeded);
    assert!(manager.asked().contains(&Digest::of(&second.build().0)));

    // One that is too large to travel is asked for as well.
    let mut large = tool(&machine, "2.1", 3);
    large.steps[0].argv = ["/bin/true".to_owned(), "x".repeat(16 << 10)].into();
    manager.offer(&attempt(4), vec![with(manager.publish(&large), &large.build().0)], 600);
    assert_eq!(manager.outcome(&attempt(4)).await.state, ExecutionState::Succeeded);
    assert!(manager.asked().contains(&Digest::of(&large.build().0)));

    // And a signature that nobody trusts is none.
    let (third, stranger) = (tool(&machine, "3.0", 4), PublisherKey::generate().unwrap());
    manager.offer(&attempt(3), vec![with(manager.publish_as(&third, &[&stranger]), &third.build().0)], 600);
    let outcome = manager.outcome(&attempt(3)).await;
    assert_eq!((outcome.state, outcome.failure().unwrap().kind), (ExecutionState::Failed, ErrorKind::SignatureInvalid));
}
