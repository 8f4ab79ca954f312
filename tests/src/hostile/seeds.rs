//! The good ones of each corpus: what our own programs write. The rest of a corpus was found by the fuzzer.

use sutler_agent::journal;
use sutler_agent::machine::{Installing, Lease, Offer, OfferedItem, Plan, PlannedStep, Record, Stage};
use sutler_base::token::TokenString;
use sutler_base::{AttemptId, Digest, Timestamp, TokenId};
use sutler_base::{
    manifest::{
        Dependency, Detection, Entry, EntryKind, ExitMeaning, Manager, Manifest, Parameter, Phase, Requirement, Step, Supersedes,
        VersionRule, requirement::Scalar,
    },
    state::Timing,
    version::{Ordering, Range},
};
use sutler_certs::revocations::{Minimum, Revoked, Target};
use sutler_certs::{Envelope, PrivateKey, PublisherKey, RevocationList, TrustDocument};

/// A good input of one target.
#[derive(Debug)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The name of the file in the target's corpus.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A good manifest with one of everything that there is.
fn manifest() -> Manifest {
    let file = EntryKind::File { mode: 0o755, size: 1, blake3: Digest::of(b"x"), sha256: Digest::of(b"y"), chunks: Some(Digest::of(b"z")) };
    let entry = |path: &str, kind| Entry { path: path.parse().expect("it is a path"), kind };
    Manifest {
        critical: vec!["steps".into()],
        description: "finds viruses".into(),
        requirements: vec![
            Requirement::Os { ids: vec!["debian".into()], versions: ">=11, <13".parse().expect("it is a range") },
            Requirement::Any {
                of: vec![
                    Requirement::PackageManager { manager: Manager::Rpm },
                    Requirement::Software {
                        manager: Manager::Dpkg,
                        name: "libc6".into(),
                        versions: ">=2.36".parse().expect("it is a range"),
                        absent: false,
                    },
                    Requirement::Fact {
                        fact: "own.site".into(),
                        one_of: vec![Scalar::Text("berlin".into())],
                        at_least: None,
                        at_most: Some(3),
                        matches: Some("b.*".parse().expect("it is a pattern")),
                    },
                ],
            },
        ],
        depends_on: vec![Dependency { package: "libclamav".parse().expect("it is a name"), versions: Range::any() }],
        supersedes: vec![Supersedes { package: "scan".parse().expect("it is a name"), versions: Range::any(), uninstall: true }],
        parameters: [(
            "port".parse().expect("it is a name"),
            Parameter { pattern: "[0-9]+".parse().expect("it is a pattern"), default: Some("80".into()), description: String::new() },
        )]
        .into(),
        directory: Some("/opt/clamav".parse().expect("it is a path")),
        files: vec![
            entry("bin", EntryKind::Directory { mode: 0o755 }),
            entry("bin/scan", file),
            entry("link", EntryKind::Link { target: "bin/scan".into() }),
        ],
        detection: vec![
            Detection::File {
                path: "bin/scan".into(),
                blake3: Some(Digest::of(b"x")),
                sha256: Some(Digest::of(b"y")),
                version: Some(VersionRule {
                    pattern: r"version (\S+)".parse().expect("it is a pattern"),
                    versions: ">=1".parse().expect("it is a range"),
                    ordering: Ordering::Semver,
                }),
            },
            Detection::Package { manager: Manager::Dpkg, name: "clamav".into(), versions: Range::any() },
            Detection::Service { name: "clamav-daemon".into() },
            Detection::Command {
                argv: vec!["bin/scan".into()],
                environment: [("LANG".into(), "C".into())].into(),
                exit_codes: vec![0],
                output: Some("1.0".into()),
                version: None,
                time_limit: 60,
            },
        ],
        steps: vec![Step {
            name: "set up".into(),
            phase: Phase::After,
            argv: vec!["bin/scan".into(), "--port=${port}".into()],
            environment: [("LANG".into(), "C".into())].into(),
            user: Some("nobody".into()),
            directory: Some("bin".parse().expect("it is a path")),
            time_limit: 90,
            exit_codes: [(75, ExitMeaning::Retry)].into(),
            continue_on_failure: true,
        }],
        logs: vec!["/var/log/clamav.log".into()],
        expires: Some(Timestamp::MAX),
        ..Manifest::new("clamav".parse().expect("it is a name"), "1.0".parse().expect("it is a version"), 7)
    }
}

fn record(stage: Stage) -> Record {
    let offer = Offer {
        inventory: false,
        attempt: AttemptId::new(Timestamp::UNIX_EPOCH, [1; 16]),
        job: "jobs/0123456789abcdef".into(),
        revision: 1,
        items: vec![OfferedItem::install(b"{}".to_vec())],
        expire: Some(Timestamp::MAX),
        continue_on_failure: true,
        priority: 5,
        times: None,
        announcement: None,
        timing: Timing::Now,
        restart: false,
        purpose: "LEAVE".into(),
    };
    let lease = Lease { until: std::time::Duration::from_secs(600), boot_id: "boot".into(), wall: None };
    Record { lease: Some(lease), stage, ..Record::new(offer, Timestamp::UNIX_EPOCH) }
}

fn records() -> [(&'static str, Record); 4] {
    let step = |name: &str, phase| PlannedStep { name: name.into(), phase, continue_on_failure: false };
    let plan = Plan {
        before: None,
        intent: sutler_base::state::Intent::Install,
        package: "clamav".parse().expect("it is a name"),
        version: "1.0".parse().expect("it is a version"),
        manifest: Digest::of(b"m"),
        release: 7,
        steps: vec![step("before", Phase::Before), step("undo", Phase::OnError)],
        displaced: vec![],
        supersedes: vec![],
        directory: true,
        agent: false,
        logs: true,
        detection: true,
        detected_before: false,
        total_bytes: 10,
        fetched_bytes: 5,
        prepared_ms: 3,
    };
    let installing = Installing { begun: true, ..Installing::new(plan.clone(), Timestamp::UNIX_EPOCH) };
    [
        ("offered", record(Stage::Offered)),
        ("fetched", record(Stage::Fetched(plan))),
        ("installing", record(Stage::Installing(installing))),
        ("finished", record(Stage::Finished { outcome: b"{}".to_vec(), signature: vec![1; 64] })),
    ]
}

const CONDITIONS: [(&str, &str); 6] = [
    ("family", "facts.os.family == \"linux\" && labels.site != 'paris'"),
    ("memory", "facts.memory.total_bytes / 1024 > 4096 || !(facts.cpu.count <= 2)"),
    ("software", "facts.software.exists(s, s.name == 'clamav' && s.version.startsWith('1.'))"),
    ("pattern", "client.name.matches('^pc-[0-9]{1,3}$') ? has(labels.site) : 'x' in facts.addresses"),
    ("lists", "[1, 2, 3].filter(x, x % 2 == 1).map(x, x * 2).all(x, x > -1) && size(facts.addresses.filter(a, a.contains(':'))) >= 1"),
    ("time", "client.created > timestamp(\"2026-01-31T00:00:00Z\") && string(int('7')) + 'x' == \"7x\" && double(1) < 1.5"),
];

/// Good inputs, each accepted by the target that it is for.
pub fn seeds() -> Vec<Seed> {
    let key = PublisherKey::generate().expect("the system has randomness");
    let bytes = manifest().to_bytes();
    let trust = TrustDocument::new(1, 2, &[key.public_key()], 1, &["clam", ""], Timestamp::MAX).expect("it keeps the rules");
    let clam: sutler_base::PackageName = "clamav".parse().expect("it is a package's name");
    let version = Target::Version { package: clam.clone(), version: "1.0".parse().expect("it is a version") };
    let revoked =
        [version, Target::Manifest { manifest: Digest::of(b"manifest") }].map(|target| Revoked { target, reason: "a hole".into() });
    let lowest = vec![Minimum { package: clam, release: 3 }];
    let revocations = RevocationList::new(1, 2, revoked.to_vec(), lowest, Timestamp::MAX).expect("it keeps the rules");
    let token = TokenString {
        trust_domain: "acme.example".into(),
        addresses: vec!["manager.acme.example:7443".into(), "[fd00::1]:7443".into()],
        root_pin: [1; 32],
        trust_pin: Some(Digest::of(b"trust")),
        id: TokenId::from_random([3; 16]),
        secret: [4; 32],
    };
    let csr = PrivateKey::generate().and_then(|k| k.csr()).expect("the system has randomness");
    let mut seeds = vec![
        Seed { target: "envelope", name: "good", bytes: Envelope::sign(&bytes, &[&key]).to_json() },
        Seed { target: "manifest", name: "good", bytes },
        Seed { target: "revocations", name: "good", bytes: revocations.sign(&[&key]).to_json() },
        Seed { target: "trust", name: "good", bytes: trust.sign(&[&key]).to_json() },
        Seed { target: "token", name: "good", bytes: token.encode().into_bytes() },
        Seed { target: "csr", name: "good", bytes: csr },
    ];
    seeds.extend(CONDITIONS.map(|(name, text)| Seed { target: "condition", name, bytes: text.into() }));
    // Without its checksum: the target makes a good one for any content.
    seeds.extend(records().map(|(name, record)| Seed { target: "journal", name, bytes: journal::encode(&record)[65..].to_vec() }));
    seeds
}
