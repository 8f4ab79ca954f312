//! A manager in somebody else's hands: its database and its stored content are edited, and then it serves again, with everything
//! that it has. The manager and the agent are the real programs; a manager that does not even keep to the protocol is in the
//! agent's own tests.

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sutler_base::{
    Digest, Timestamp,
    manifest::{EntryKind, Manifest},
};
use sutler_certs::{Envelope, PublisherKey, SignedTrustDocument, TrustDocument};
use sutler_content::{Content, Kind};
use sutler_tests::harness::{Agent, COUNTING, JobView, Manager, PATIENCE, PackageFolder, noise, wait_for_value, wait_until};

/// What is run if the intruder has it their way.
const EVIL: &str = "#!/bin/sh\necho evil >>\"$(pwd -P).runs\"\n";

/// Whoever has the manager's folder, and a key of their own. Of the publisher they have what was once signed, and no more.
struct Intruder {
    runtime: tokio::runtime::Runtime,
    database: SqlitePool,
    content: Content,
    objects: std::path::PathBuf,
    key: PublisherKey,
    /// Signed by the publisher long ago, and over.
    over: (Vec<u8>, Envelope),
    client: String,
}

impl Intruder {
    fn new(manager: &Manager, agent: &Agent, over: (Vec<u8>, Envelope)) -> Intruder {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = SqliteConnectOptions::new().filename(manager.folder().join("manager.db"));
        let database = runtime.block_on(SqlitePool::connect_with(options)).unwrap();
        let content = Content::open_folder(&manager.folder().join("content")).unwrap();
        let objects = manager.folder().join("content/objects");
        Intruder { runtime, database, content, objects, key: PublisherKey::generate().unwrap(), over, client: agent.id() }
    }

    /// Edits the database. An edit that finds nothing to edit would show nothing.
    fn sql(&self, sql: &str, values: &[&[u8]]) {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
        for value in values {
            query = query.bind(value.to_vec());
        }
        let edited = self.runtime.block_on(query.execute(&self.database)).unwrap().rows_affected();
        assert!(edited > 0, "{sql}: no row is edited");
    }

    fn envelope(&self, package: &str, version: &str) -> Envelope {
        let sql = "SELECT v.envelope FROM package_version v JOIN package p ON p.uid = v.package WHERE p.name = ?1 AND v.version = ?2";
        let query = sqlx::query_scalar::<_, Vec<u8>>(sql).bind(package.to_owned()).bind(version.to_owned());
        Envelope::from_json(&self.runtime.block_on(query.fetch_one(&self.database)).unwrap()).unwrap()
    }

    fn manifest(&self, package: &str) -> Manifest {
        let digest = self.envelope(package, "1.0").digest;
        Manifest::parse(&self.runtime.block_on(self.content.get(digest, Kind::Document)).unwrap()).unwrap()
    }

    /// The same package with another argument.
    fn with_an_argument(&self, package: &str) -> Vec<u8> {
        let mut manifest = self.manifest(package);
        manifest.steps[0].argv = ["/bin/sh", "-c", EVIL].map(String::from).into();
        manifest.to_bytes()
    }

    /// Puts an object into the store, where there is none of its digest.
    fn add(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.runtime.block_on(self.content.put(digest, Kind::Document, bytes.to_vec().into())).unwrap();
        digest
    }

    /// Puts other bytes in the place of an object that is there, under its digest.
    fn exchange(&self, digest: Digest, bytes: &[u8]) {
        let name = digest.to_string();
        let file = self.objects.join(&name[..2]).join(&name[2..]);
        assert!(file.exists(), "{digest} is not stored");
        // The first byte says that the others are as they are, not compressed.
        fs_err::write(file, [&[0], bytes].concat()).unwrap();
    }

    /// From now on a version is this.
    fn point(&self, package: &str, version: &str, manifest: &[u8], envelope: &Envelope) {
        self.add(manifest);
        let sql = format!(
            "UPDATE package_version SET envelope = ?1, manifest = ?2, manifest_length = {}, expires_ms = NULL
             WHERE version = '{version}' AND package = (SELECT uid FROM package WHERE name = '{package}')",
            envelope.length
        );
        self.sql(&sql, &[&envelope.to_json(), envelope.digest.as_bytes()]);
    }

    /// The digest by which a file of a package is stored: of its only chunk, or of its list of chunks.
    fn object_of(&self, package: &str, path: &str) -> Digest {
        let manifest = self.manifest(package);
        let entry = manifest.files.iter().find(|entry| entry.path.as_str() == path).unwrap();
        let EntryKind::File { blake3, chunks, .. } = &entry.kind else { panic!("{path} is no file") };
        chunks.unwrap_or(*blake3)
    }
}

/// What is edited (of which package), and what the agent makes of it: the execution's state, the word for why, and what has run.
struct Row {
    edited: &'static str,
    package: &'static str,
    edit: fn(&Intruder, &str),
    answer: (&'static str, &'static str),
    ran: Option<&'static str>,
}

const ROWS: &[Row] = &[
    Row { edited: "nothing", package: "control", edit: |_, _| {}, answer: ("SUCCEEDED", ""), ran: Some("run\n") },
    Row {
        edited: "the bytes of a chunk",
        package: "chunk",
        edit: |i, p| i.exchange(i.object_of(p, "bin/install"), EVIL.as_bytes()),
        answer: ("WAITING", "DATA_LOSS"),
        ran: None,
    },
    Row {
        edited: "a list of chunks",
        package: "list",
        edit: |i, p| i.exchange(i.object_of(p, "noise"), &noise(72, 9)),
        answer: ("WAITING", "DATA_LOSS"),
        ran: None,
    },
    Row {
        edited: "the bytes of a manifest, under its digest",
        package: "manifest",
        edit: |i, p| i.exchange(i.envelope(p, "1.0").digest, &i.with_an_argument(p)),
        answer: ("WAITING", "DATA_LOSS"),
        ran: None,
    },
    Row {
        edited: "a file, and the manifest that names it, under the old signature",
        package: "file",
        edit: |i, p| {
            let (mut manifest, envelope) = (i.manifest(p), i.envelope(p, "1.0"));
            let entry = manifest.files.iter_mut().find(|entry| entry.path.as_str() == "bin/install").unwrap();
            let EntryKind::File { size, blake3, .. } = &mut entry.kind else { panic!("it is a file") };
            (*size, *blake3) = (EVIL.len() as u64, i.add(EVIL.as_bytes()));
            let bytes = manifest.to_bytes();
            i.point(p, "1.0", &bytes, &Envelope { digest: Digest::of(&bytes), length: bytes.len() as u64, ..envelope });
        },
        answer: ("FAILED", "SIGNATURE_INVALID"),
        ran: None,
    },
    Row {
        edited: "an argument, under the old signature",
        package: "argument",
        edit: |i, p| {
            let (bytes, envelope) = (i.with_an_argument(p), i.envelope(p, "1.0"));
            i.point(p, "1.0", &bytes, &Envelope { digest: Digest::of(&bytes), length: bytes.len() as u64, ..envelope });
        },
        answer: ("FAILED", "SIGNATURE_INVALID"),
        ran: None,
    },
    Row {
        edited: "an argument, signed by a key of their own under the name of the publisher's",
        package: "named",
        edit: |i, p| {
            let (bytes, publisher) = (i.with_an_argument(p), i.envelope(p, "1.0").signatures[0].key_id.clone());
            let mut envelope = Envelope::sign(&bytes, &[&i.key]);
            envelope.signatures[0].key_id = publisher;
            i.point(p, "1.0", &bytes, &envelope);
        },
        answer: ("FAILED", "SIGNATURE_INVALID"),
        ran: None,
    },
    Row {
        edited: "an argument, signed by nobody",
        package: "unsigned",
        edit: |i, p| {
            let bytes = i.with_an_argument(p);
            i.point(p, "1.0", &bytes, &Envelope::sign(&bytes, &[]));
        },
        answer: ("FAILED", "SIGNATURE_INVALID"),
        ran: None,
    },
    Row {
        edited: "whom machines trust, and an argument that is signed by that key",
        package: "trusted",
        edit: |i, p| {
            let until = Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1000)).unwrap();
            let theirs = TrustDocument::new(1, 2, &[i.key.public_key()], 1, &[""], until).unwrap().sign(&[&i.key]);
            i.sql("UPDATE trust_document SET version = 2, document = ?1", &[&theirs.to_json()]);
            let bytes = i.with_an_argument(p);
            i.point(p, "1.0", &bytes, &Envelope::sign(&bytes, &[&i.key]));
        },
        answer: ("FAILED", "SIGNATURE_INVALID"),
        ran: None,
    },
    Row {
        edited: "which version the job installs: one below the machine's mark",
        package: "back",
        edit: |i, p| {
            let sql = "SELECT v.uid FROM package_version v JOIN package p ON p.uid = v.package WHERE p.name = ?1 AND v.version = '1.0'";
            let query = sqlx::query_scalar::<_, String>(sql).bind(p.to_owned());
            let first = i.runtime.block_on(query.fetch_one(&i.database)).unwrap();
            i.sql(&format!("UPDATE job_package SET version = '{first}' WHERE package = '{p}' AND version_text = '4.0'"), &[]);
        },
        answer: ("FAILED", "RELEASE_TOO_OLD"),
        ran: Some("run\nrun\nrun\n"),
    },
    Row {
        edited: "what the newest version is: one below the machine's mark, as a new release",
        package: "relabeled",
        edit: |i, p| {
            let (bytes, first) = (i.manifest(p).to_bytes(), i.envelope(p, "1.0"));
            i.point(p, "4.0", &bytes, &first);
        },
        answer: ("FAILED", "RELEASE_TOO_OLD"),
        ran: Some("run\nrun\nrun\n"),
    },
    Row {
        edited: "what publishers took back: it is gone",
        package: "revoked",
        edit: |i, _| i.sql("DELETE FROM revocation_list", &[]),
        answer: ("FAILED", "PACKAGE_REVOKED"),
        ran: None,
    },
    Row {
        edited: "when a package ends that is over: never",
        package: "over",
        edit: |i, p| i.point(p, "1.0", &i.over.0, &i.over.1),
        answer: ("FAILED", "PACKAGE_EXPIRED"),
        ran: None,
    },
    Row {
        edited: "who is in a group and what is to be installed there: what the machine's own rules don't allow",
        package: "unwanted",
        edit: |i, p| {
            let group = "(SELECT uid FROM client_group WHERE name = 'theirs')";
            i.sql(
                &format!(
                    "INSERT INTO membership (group_uid, client, source, source_name, since_ms) VALUES ({group}, '{}', 'OPERATOR', '', 0)",
                    i.client
                ),
                &[],
            );
            let job = format!("(SELECT job FROM job_package WHERE package = '{p}')");
            let columns = "client, owner_site, epoch, state, reason, detail, entered_ms, attempt, attempts, revision, item, bytes_done,
                bytes_total, step, cancel_reason, cancel_deadline_ms, change";
            let other = "(SELECT job FROM job_package WHERE package = 'control')";
            i.sql(&format!("INSERT INTO execution (job, {columns}) SELECT {job}, {columns} FROM execution WHERE job = {other}"), &[]);
            i.sql(&format!("INSERT INTO job_counter SELECT {job}, site, state, n FROM job_counter WHERE job = {other}"), &[]);
        },
        answer: ("REJECTED", "LOCAL_POLICY"),
        ran: None,
    },
    Row {
        edited: "how an attempt ended: it has not",
        package: "again",
        edit: |i, p| {
            let job = format!("(SELECT job FROM job_package WHERE package = '{p}')");
            i.sql(&format!("UPDATE attempt SET state = 'OFFERED', ended_ms = NULL, outcome = x'', signature = x'' WHERE job = {job}"), &[]);
            i.sql(&format!("UPDATE execution SET state = 'OFFERED' WHERE job = {job}"), &[]);
            i.sql(&format!("UPDATE job_counter SET n = (state = 'OFFERED') WHERE job = {job}"), &[]);
        },
        answer: ("SUCCEEDED", ""),
        ran: Some("run\n"),
    },
    // What is left to it: to choose among what is signed, and to withhold.
    Row {
        edited: "what a version is: another signed package",
        package: "swapped",
        edit: |i, p| i.point(p, "1.0", &i.manifest("chosen").to_bytes(), &i.envelope("chosen", "1.0")),
        answer: ("SUCCEEDED", ""),
        ran: None,
    },
];

/// Packages that are there three times, and the releases that the third has replaced.
const UPDATED: [&str; 2] = ["back", "relabeled"];

fn package(name: &str, version: &str) -> PackageFolder {
    let package = PackageFolder::counting(name, version);
    // No two have a chunk in common: what is edited is one row's alone.
    package.file("bin/install", format!("{COUNTING}# {name}\n"));
    if name == "list" {
        package.noise("noise", 1 << 20, 5);
    }
    package
}

#[test]
fn whatever_is_edited_in_a_managers_database_and_content_nothing_runs_that_is_not_signed_and_allowed() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    let push = |name: &str, version: &str| {
        let package = package(name, version);
        let release = version.trim_end_matches(".0");
        cli.ok(&format!("package push {} --release {release}", package.path().display()));
    };
    let mut agent = Agent::new("one");
    agent.configure("[limits]\nreconnect = \"100ms\"\nreconnect_most = \"1s\"\n");
    let allowed: Vec<&str> = ROWS.iter().map(|row| row.package).chain(["chosen"]).filter(|name| *name != "unwanted").collect();
    fs_err::write(agent.scratch().join("policy.toml"), format!("packages = {allowed:?}\n")).unwrap();
    agent.enroll(cli.ok("token create").trim());
    agent.start();
    let later = cli.ok("token create");
    let client = agent.id();
    let order = |package: &str| cli.id(&format!("job run --package {package} --client {client}"));

    // All that the machine has been through before: what it installed, and what it heard from the publishers.
    for name in UPDATED {
        for version in ["1.0", "2.0", "3.0"] {
            push(name, version);
            let job = order(&format!("{name}@{version}"));
            JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
        }
        push(name, "4.0");
    }
    ROWS.iter().filter(|row| !UPDATED.contains(&row.package)).for_each(|row| push(row.package, "1.0"));
    push("chosen", "1.0");
    let again = order("again@1.0");
    JobView::wait_for_row(&cli, &again, &agent.id(), "SUCCEEDED");
    let list = manager.scratch().join("revocations.json").display().to_string();
    cli.ok(&format!("publisher revoke --package revoked@1.0 --reason 'CVE 1' -o {list}"));
    cli.ok(&format!("publisher publish {list}"));
    wait_until("the agent to take the list", PATIENCE, || agent.ok("status").contains("revocation list 1"));

    // The orders, which it has not seen yet.
    agent.stop();
    let jobs: Vec<String> = ROWS
        .iter()
        .map(|row| match row.package {
            "again" => again.clone(),
            "unwanted" => {
                cli.ok("group create theirs");
                cli.id("job run --package unwanted --group theirs")
            }
            name if UPDATED.contains(&name) => order(&format!("{name}@4.0")),
            name => order(&format!("{name}@1.0")),
        })
        .collect();
    let before = Held::of(&agent);

    manager.stop();
    let publisher = PublisherKey::load(&cli.profile().join("publisher.key")).unwrap();
    let over = {
        let intruder = Intruder::new(&manager, &agent, (vec![], Envelope::sign(b"", &[])));
        let mut manifest = intruder.manifest("over");
        manifest.expires = Some("2020-01-01T00:00:00Z".parse().unwrap());
        let bytes = manifest.to_bytes();
        let envelope = Envelope::sign(&bytes, &[&publisher]);
        (bytes, envelope)
    };
    let intruder = Intruder::new(&manager, &agent, over);
    ROWS.iter().for_each(|row| (row.edit)(&intruder, row.package));
    drop(intruder);
    manager.serve();
    agent.start();

    let wrong = || -> Vec<String> {
        let wrong = |(row, job): (&Row, &String)| {
            let (state, why) = row.answer;
            let (view, ran) = (JobView::of(&cli, job), agent.read(&format!("opt/{}.runs", row.package)));
            let answered = |r: &sutler_tests::harness::Row| r.state == state && r.attempts == 1 && r.json.to_string().contains(why);
            let as_wanted = view.row(&client).is_some_and(answered) && ran.as_deref() == row.ran;
            (!as_wanted).then(|| format!("edited: {}: not {state} {why}, ran {ran:?}: {:#?}", row.edited, view.rows))
        };
        ROWS.iter().zip(&jobs).filter_map(wrong).collect()
    };
    wait_for_value("the machine's answers", PATIENCE, wrong, Vec::is_empty);
    assert_eq!(agent.read("opt/chosen.runs").as_deref(), Some("run\n"));

    // What the machine holds is as it was, but for what it has installed since.
    let mut after = Held::of(&agent);
    for name in ["control", "chosen"] {
        assert!(after.marks.remove(name).is_some(), "{name} was installed: {after:?}");
    }
    assert_eq!(after, before);
    wait_until("the agent to say what it refused", PATIENCE, || agent.log().contains("trust document from the manager is refused"));

    // A newcomer trusts whom its token names, whatever the manager says by now.
    let newcomer = Agent::new("two");
    newcomer.try_enroll(later.trim()).ends_with(1).says(&["pinned"]);
}

/// What a machine holds that no manager may change.
#[derive(Debug, PartialEq)]
struct Held {
    identity: serde_json::Value,
    trust: serde_json::Value,
    document: serde_json::Value,
    revocations: serde_json::Value,
    marks: serde_json::Map<String, serde_json::Value>,
    policy: String,
}

impl Held {
    fn of(agent: &Agent) -> Held {
        let json = |name: &str| -> serde_json::Value { serde_json::from_slice(&fs_err::read(agent.state().join(name)).unwrap()).unwrap() };
        let (identity, mut pins) = (json("identity.json"), json("pins.json"));
        let trusted = identity["trust_document"].as_str().expect("it trusts publishers");
        let digest = SignedTrustDocument::from_json(trusted.as_bytes()).unwrap().digest();
        assert_eq!(pins["trust"], digest.to_string(), "it trusts whom its token named");
        let [trust, document, revocations] = ["trust", "document", "revocations"].map(|key| pins[key].take());
        let marks = pins["marks"].as_object().cloned().unwrap_or_default();
        let policy = fs_err::read_to_string(agent.scratch().join("policy.toml")).unwrap();
        Held { identity, trust, document, revocations, marks, policy }
    }
}
