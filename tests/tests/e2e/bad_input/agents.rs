//! A malicious agent: what it says of itself is shown without harm, and naming another client's things tells it nothing.

use super::{World, changed, faults, harmless, said};
use crate::deltas::{Database, push};
use bytes::Bytes;
use sutler_base::{AttemptId, Digest, Timestamp, delta::Delta, token::TokenString};
use sutler_certs::Envelope;
use sutler_proto::v1::{
    self, ConnectRequest, agent_service_client::AgentServiceClient, connect_request::Message as Up, connect_response::Message as Down,
};
use sutler_tests::api_call;
use sutler_tests::harness::{Api, JobView, PATIENCE, PackageFolder, wait_until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// An agent's stream in the test's hands.
pub(super) struct Stream<'a> {
    api: &'a Api,
    up: mpsc::Sender<ConnectRequest>,
    down: Streaming<v1::ConnectResponse>,
}

impl Stream<'_> {
    /// Opens one with this as its first message.
    fn open(api: &Api, first: Up) -> Result<Stream<'_>, Status> {
        let (up, requests) = mpsc::channel(64);
        up.try_send(ConnectRequest { message: Some(first) }).expect("there is room");
        let down = api.call(|connection, origin| async move {
            AgentServiceClient::with_origin(connection, origin).connect(ReceiverStream::new(requests)).await
        })?;
        Ok(Stream { api, up, down })
    }

    pub(super) fn send(&self, message: Up) {
        self.api.block_on(self.up.send(ConnectRequest { message: Some(message) })).expect("the stream is open");
    }

    /// The next message that `wanted` takes, or the status with which the stream ends.
    fn until<T>(&mut self, mut wanted: impl FnMut(Down) -> Option<T>) -> Result<T, Status> {
        let Stream { api, down, .. } = self;
        api.block_on(async {
            let next = async {
                loop {
                    match down.message().await? {
                        Some(message) => {
                            if let Some(found) = message.message.and_then(&mut wanted) {
                                return Ok(found);
                            }
                        }
                        None => return Err(Status::unknown("the stream ended without a status")),
                    }
                }
            };
            tokio::time::timeout(PATIENCE, next).await.expect("an answer in time")
        })
    }

    /// The end of the stream.
    pub(super) fn end(&mut self) -> Status {
        self.until(|_| None::<()>).expect_err("only an end ends it")
    }
}

fn hello(machine: &str, counter: u64) -> v1::Hello {
    v1::Hello {
        protocol_version: sutler_proto::PROTOCOL_VERSION,
        machine_id: machine.into(),
        boot_id: "boot".into(),
        agent_version: "0".into(),
        session_counter: counter,
        ..Default::default()
    }
}

pub(super) fn welcomed<'a>(api: &'a Api, machine: &str, counter: u64) -> Stream<'a> {
    let mut stream = Stream::open(api, Up::Hello(hello(machine, counter))).expect("it is welcome");
    stream.until(|m| matches!(m, Down::Welcome(_)).then_some(())).expect("it is welcomed");
    stream
}

pub(super) fn token(world: &World) -> TokenString {
    TokenString::parse(&world.cli.ok("token create")).expect("it is a token")
}

#[test]
fn what_a_machine_says_of_itself_is_shown_without_harm() {
    let world = World::new();
    let hostile = [
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{9b}31m\u{85}",
        "\u{202e}gpj.exe\u{2066}\u{61c}",
        "a\u{200b}\u{feff}\u{e0041}\u{2028}b",
        "=cmd|' /C calc'!A0",
        "+1+1,\"@SUM(1)\"",
        "'; DROP TABLE client; --",
        "<script>alert(1)</script>",
        "../../../etc/passwd",
        "a\r\nname b",
    ];
    let mut sessions = Vec::new();
    for (n, text) in hostile.iter().enumerate() {
        let machine = format!("hostile-{n}");
        let (api, client) = Api::client(&token(&world), &machine);
        {
            let mut first = hello(&machine, 1);
            first.agent_version = if text.chars().any(char::is_control) { "0".into() } else { (*text).into() };
            first.site = (*text).into();
            first.capabilities = vec![(*text).into(); 3];
            let mut stream = Stream::open(&api, Up::Hello(first)).expect("it is welcome");
            stream.until(|m| matches!(m, Down::Welcome(_)).then_some(())).expect("it is welcomed");
            let facts = serde_json::json!({
                "hostname": text, "arch": text, "machine_id": text, "boot_id": text, "addresses": [text, text],
                "os": {"family": text, "id": text, "name": text, "version": text, "kernel": text},
                "agent": {"version": text}, "software": [{"name": text, "version": text}], (*text): {(*text): text},
            });
            stream.send(Up::Facts(v1::FactsReport { json: facts.to_string(), ..Default::default() }));
            // Hostile words where a group's name is wanted are refused in words that are harmless.
            for action in [
                v1::group_request::Action::Join(v1::JoinGroup { group: (*text).into(), password: (*text).into() }),
                v1::group_request::Action::Leave((*text).into()),
            ] {
                stream.send(Up::Group(v1::GroupRequest { request_id: (*text).into(), action: Some(action) }));
                let result = stream.until(|m| if let Down::Group(result) = m { Some(result) } else { None }).expect("an answer");
                assert!(!result.error.is_empty() && result.error.len() < 1024, "{result:?}");
                assert!(!result.error.chars().any(sutler_base::is_harmful), "{result:?}");
            }
            stream.send(Up::Choice(v1::Choice { request_id: (*text).into(), job: (*text).into() }));
            let result = stream.until(|m| if let Down::Chosen(result) = m { Some(result) } else { None }).expect("an answer");
            assert!(result.error.contains("not offered") && !result.error.chars().any(sutler_base::is_harmful), "{result:?}");
            // Progress is a text, too; the attempt is nobody's.
            stream.send(Up::Progress(v1::AttemptProgress {
                attempt: AttemptId::new(Timestamp::UNIX_EPOCH, [9; 16]).to_string(),
                state: v1::ExecutionState::Waiting.into(),
                wait_reason: (*text).into(),
                step: (*text).into(),
                ..Default::default()
            }));
            wait_until("the facts to be there", PATIENCE, || {
                !world.cli.json(&format!("client show {client}"))["facts"].as_object().is_none_or(serde_json::Map::is_empty)
            });
        }
        sessions.push((api, client));
    }
    for format in ["table", "csv", "json"] {
        let lists = ["client list --all", "audit list", "group members machines"].map(str::to_owned).into_iter();
        let shows = sessions.iter().flat_map(|(_, client)| [format!("client show {client}"), format!("client explain {client}")]);
        for line in lists.chain(shows) {
            let line = format!("{line} -o {format}");
            let done = world.cli.run(&line);
            assert_eq!(done.code, 0, "{line}: {}", done.stderr);
            harmless(&line, &done.stdout);
            harmless(&line, &done.stderr);
        }
    }
    // What it says can't be lost either: a formula is there, as a text.
    assert!(world.cli.ok("client list --all -o csv").contains("'=cmd|"));
}

#[test]
fn a_machine_can_not_put_words_into_what_an_operator_is_told() {
    let world = World::new();
    let text = "one; keep one with `sutler client approve x --machine two`";
    let (api, client) = Api::client(&token(&world), "real");
    welcomed(&api, "real", 1);
    let before = world.cli.json(&format!("client show {client}"));
    for machine in [text, "a b", "\u{1b}[31m", "é", &"x".repeat(256)] {
        let opened = Stream::open(&api, Up::Hello(hello(machine, 9))).and_then(|mut stream| stream.until(Some));
        let status = opened.expect_err("it is not welcome");
        assert_eq!(status.code(), Code::InvalidArgument, "{machine}: {status:?}");
        assert!(said(&status).contains("hello.machine_id") && faults(&status).is_empty(), "{:?}", faults(&status));
    }
    let after = world.cli.json(&format!("client show {client}"));
    assert_eq!((&after["notice"], &after["machineId"], &after["state"]), (&before["notice"], &before["machineId"], &before["state"]));
}

#[test]
fn what_an_agent_sends_that_is_none_ends_its_stream_with_the_reason() {
    let world = World::new();
    let id = AttemptId::new(Timestamp::UNIX_EPOCH, [9; 16]).to_string();
    let (api, _) = Api::client(&token(&world), "machine-2");
    let with = |change: &dyn Fn(&mut v1::Hello)| {
        let mut hello = hello("machine-2", 1);
        change(&mut hello);
        Up::Hello(hello)
    };
    let open = |attempt: &str, state: i32| v1::OpenAttempt { attempt: attempt.into(), state, ..Default::default() };
    let first: Vec<(&str, Up, Code, &str)> = vec![
        ("no hello", Up::Unenroll(v1::Unenroll {}), Code::InvalidArgument, "hello"),
        ("another protocol", with(&|h| h.protocol_version = 99), Code::FailedPrecondition, "PROTOCOL_VERSION"),
        ("a machine of many words", with(&|h| h.machine_id = "a b".into()), Code::InvalidArgument, "hello.machine_id"),
        ("a boot of controls", with(&|h| h.boot_id = "\u{7}".into()), Code::InvalidArgument, "hello.boot_id"),
        ("a long version", with(&|h| h.agent_version = "x".repeat(65)), Code::InvalidArgument, "hello.agent_version"),
        ("a short digest", with(&|h| h.facts_digest = Bytes::from_static(b"x")), Code::InvalidArgument, "hello.facts_digest"),
        ("a path for an attempt", with(&|h| h.open_attempts = vec![open("../../x", 4)]), Code::InvalidArgument, "hello.open_attempts[0]"),
        ("an unknown state", with(&|h| h.open_attempts = vec![open(&id, 99)]), Code::InvalidArgument, "hello.open_attempts[0]"),
        ("many attempts", with(&|h| h.open_attempts = vec![open(&id, 4); 257]), Code::InvalidArgument, "hello.open_attempts"),
        ("too much", with(&|h| h.capabilities = vec!["x".repeat(2 << 20)]), Code::ResourceExhausted, ""),
    ];
    // From its first use on a certificate is the client's.
    api_call!(api, agent_service_client::AgentServiceClient, renew_certificate(v1::RenewCertificateRequest::default()))
        .expect_err("it asks for nothing");
    let before = world.reader.rows();
    for (what, message, code, names) in first {
        let status = match Stream::open(&api, message) {
            Ok(mut stream) => stream.end(),
            Err(status) => status,
        };
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(said(&status).contains(names), "{what}: {}", said(&status));
        assert_eq!(faults(&status), Vec::<String>::new(), "{what}");
        assert_eq!(changed(&before, &world.reader.rows()), None, "{what}");
    }
    let progress = |attempt: &str, state| v1::AttemptProgress { attempt: attempt.into(), state, ..Default::default() };
    let later: Vec<(&str, Up, Code, &str)> = vec![
        ("a second hello", Up::Hello(hello("machine-2", 9)), Code::InvalidArgument, "hello"),
        (
            "facts that are none",
            Up::Facts(v1::FactsReport { json: "\u{1b}[31m".into(), ..Default::default() }),
            Code::InvalidArgument,
            "facts.json",
        ),
        (
            "facts of another type",
            Up::Facts(v1::FactsReport { json: "[1]".into(), ..Default::default() }),
            Code::InvalidArgument,
            "facts.json",
        ),
        (
            "too many facts",
            Up::Facts(v1::FactsReport { json: "x".repeat(600 << 10), ..Default::default() }),
            Code::InvalidArgument,
            "facts.json",
        ),
        (
            "a patch without what comes out",
            Up::Facts(v1::FactsReport { json: "{}".into(), base: vec![1; 32].into(), ..Default::default() }),
            Code::InvalidArgument,
            "facts.digest",
        ),
        (
            "a patch of a short digest",
            Up::Facts(v1::FactsReport { json: "{}".into(), base: vec![1; 3].into(), ..Default::default() }),
            Code::InvalidArgument,
            "facts.base",
        ),
        ("deep facts", Up::Facts(v1::FactsReport { json: "[".repeat(500_000), ..Default::default() }), Code::InvalidArgument, "facts.json"),
        ("a path for an attempt", Up::Progress(progress("../x", 4)), Code::InvalidArgument, "attempt"),
        ("an unknown state", Up::Progress(progress(&id, 99)), Code::InvalidArgument, "progress.state"),
        (
            "a path for an outcome",
            Up::Outcome(v1::AttemptOutcome { attempt: "/etc/passwd".into(), ..Default::default() }),
            Code::InvalidArgument,
            "attempt",
        ),
        ("a path for the attempt of a log", Up::Log(log("../x", "log", 1)), Code::InvalidArgument, "log.attempt"),
        ("a log without a name", Up::Log(log(&id, "", 1)), Code::InvalidArgument, "log.path"),
        ("a log whose name moves the cursor", Up::Log(log(&id, "\u{1b}[2J", 1)), Code::InvalidArgument, "log.path"),
        ("an empty part of a log", Up::Log(log(&id, "log", 0)), Code::InvalidArgument, "log.data"),
        ("a log of no package", Up::Log(v1::AttemptLog { item: 32, ..log(&id, "log", 1) }), Code::InvalidArgument, "log.item"),
        (
            "a log beyond all files",
            Up::Log(v1::AttemptLog { cut_bytes: u64::MAX, ..log(&id, "log", 1) }),
            Code::InvalidArgument,
            "log.cut_bytes",
        ),
        (
            "a NUL for a cancellation",
            Up::CancelAcknowledged(v1::CancelAcknowledged { attempt: "\0".into(), started: false, nothing_follows: false }),
            Code::InvalidArgument,
            "attempt",
        ),
        ("a NUL for an acceptance", Up::Accepted(v1::AttemptAccepted { attempt: "\0".into() }), Code::InvalidArgument, "attempt"),
    ];
    for (counter, (what, message, code, names)) in later.into_iter().enumerate() {
        let mut stream = welcomed(&api, "machine-2", counter as u64 + 1);
        let before = world.reader.rows();
        stream.send(message);
        let status = stream.end();
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(said(&status).contains(names), "{what}: {}", said(&status));
        assert_eq!(faults(&status), Vec::<String>::new(), "{what}");
        assert_eq!(changed(&before, &world.reader.rows()), None, "{what}");
    }
}

/// Two clients, and the second has an attempt open. Gives back that attempt and the digest of its manifest.
fn offered<'a>(world: &World, other: &'a Api, client: &str, machine: &str) -> (Stream<'a>, AttemptId, Digest) {
    let package = PackageFolder::counting(machine, "1.0");
    world.cli.ok(&format!("package push {}", package.path().display()));
    offered_of(world, other, client, machine, machine)
}

/// The same with a package that is there.
fn offered_of<'a>(world: &World, other: &'a Api, client: &str, machine: &str, package: &str) -> (Stream<'a>, AttemptId, Digest) {
    let mut stream = welcomed(other, machine, 1);
    world.cli.ok(&format!("job run --package {package} --client {client}"));
    let offer = stream.until(|m| if let Down::Offer(offer) = m { Some(offer) } else { None }).expect("an offer");
    let envelope = Envelope::from_json(&offer.items[0].envelope).expect("it is an envelope");
    stream.send(Up::Accepted(v1::AttemptAccepted { attempt: offer.attempt.clone() }));
    (stream, offer.attempt.parse().expect("it is an id"), envelope.digest)
}

/// An attempt that nobody has.
fn nobodys() -> AttemptId {
    AttemptId::new(Timestamp::UNIX_EPOCH, [7; 16])
}

#[test]
fn an_agent_that_reads_by_another_clients_attempt_can_not_tell_what_is_there() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "victim");
    let (mallory_api, mallory) = Api::client(&token(&world), "mallory");
    let (_victims, attempt, manifest) = offered(&world, &api, &client, "victim");
    let (_own, own, _) = offered(&world, &mallory_api, &mallory, "mallory");
    let read = |attempt: &AttemptId, digest: Digest| {
        let request = v1::ReadChunksRequest { attempt: attempt.to_string(), digests: vec![digest.as_bytes().to_vec().into()] };
        let status = api_call!(mallory_api, agent_service_client::AgentServiceClient, read_chunks(request)).expect_err("it is not his");
        (status.code(), status.message().to_owned(), status.details().to_vec())
    };
    let unknown = read(&nobodys(), Digest::of(b"nothing"));
    assert_eq!(unknown.0, Code::NotFound);
    for answer in [read(&attempt, Digest::of(b"x")), read(&own, manifest), read(&own, Digest::of(b"x"))] {
        assert_eq!(answer, unknown, "what is there is told from what isn't");
    }
    // The one that would be answered with bytes if it were his: a stream that only begins is no refusal.
    let request = v1::ReadChunksRequest { attempt: attempt.to_string(), digests: vec![manifest.as_bytes().to_vec().into()] };
    let answer = api_call!(mallory_api, agent_service_client::AgentServiceClient, read_chunks(request));
    assert_eq!(answer.expect_err("it is another's").code(), Code::NotFound);
}

/// Reads whole objects for an attempt.
fn read(api: &Api, attempt: &AttemptId, digests: &[Digest]) -> Result<Vec<Vec<u8>>, Status> {
    let digests = digests.iter().map(|digest| digest.as_bytes().to_vec().into()).collect();
    let request = v1::ReadChunksRequest { attempt: attempt.to_string(), digests };
    let mut stream = api_call!(api, agent_service_client::AgentServiceClient, read_chunks(request))?;
    let mut objects: Vec<(i32, Vec<u8>)> = Vec::new();
    while let Some(message) = api.block_on(stream.message())? {
        for part in message.parts {
            objects.resize(objects.len().max(part.index as usize + 1), (part.encoding, Vec::new()));
            objects[part.index as usize].1.extend_from_slice(&part.data);
        }
    }
    let decoded = objects.into_iter().map(|(encoding, bytes)| {
        let zstd = encoding == v1::Encoding::Zstd as i32;
        let encoding = if zstd { sutler_content::Encoding::Zstd } else { sutler_content::Encoding::Identity };
        sutler_content::encoding::decode(encoding, &bytes.into(), 1 << 26).expect("it can be decoded").to_vec()
    });
    Ok(decoded.collect())
}

#[test]
fn an_agent_finds_and_reads_the_deltas_to_what_it_is_offered_and_no_others() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "machine");
    let (mallory_api, mallory) = Api::client(&token(&world), "mallory");
    push(&world.cli, "tool", "1.0", 0x40_0000);
    push(&world.cli, "tool", "2.0", 0x40_1000);
    let (_stream, attempt, new) = offered_of(&world, &api, &client, "machine", "tool@2.0");
    let (_mallorys, own, others) = offered(&world, &mallory_api, &mallory, "mallory");
    let digest = |version: &str| -> Digest {
        let shown = world.cli.json(&format!("package show {version}"));
        shown["manifestDigest"].as_str().expect("it has a digest").parse().expect("it is one")
    };
    let (old, hello) = (digest("tool@1.0"), digest("hello@1.0"));
    let find = |api: &Api, attempt: &AttemptId, old: &[Digest], new: Digest| {
        let bytes = |digest: &Digest| Bytes::copy_from_slice(digest.as_bytes());
        let old_manifests = old.iter().map(bytes).collect();
        let request = v1::FindDeltaRequest { attempt: attempt.to_string(), old_manifests, new_manifest: bytes(&new) };
        api_call!(api, agent_service_client::AgentServiceClient, find_delta(request))
    };
    wait_until("the delta to be made", PATIENCE, || find(&api, &attempt, &[hello, old], new).is_ok());
    let found = find(&api, &attempt, &[hello, old], new).expect("it is made");
    assert_eq!(Digest::try_from(&found.old_manifest[..]), Ok(old));
    let made = Digest::try_from(&found.digest[..]).expect("it is a digest");
    let index = read(&api, &attempt, &[made]).expect("it is his").remove(0);
    assert_eq!((Digest::of(&index), index.len() as i64), (made, found.length));
    let delta = Delta::decode(&index).expect("it is one");
    let frames: Vec<Digest> = delta.units.iter().map(|unit| unit.frame).collect();
    let came = read(&api, &attempt, &frames).expect("they are his");
    assert!(came.iter().zip(&frames).all(|(bytes, digest)| Digest::of(bytes) == *digest) && came.len() == frames.len());

    // Nobody else can tell whether it is there.
    let said = |status: Status| (status.code(), status.message().to_owned(), status.details().to_vec());
    let absent = said(find(&mallory_api, &nobodys(), &[old], new).expect_err("there is no such attempt"));
    assert_eq!(absent.0, Code::NotFound);
    let another = Digest::of(b"another");
    let asked = [(&attempt, old, new), (&own, old, new), (&own, hello, others), (&own, others, others), (&own, another, others)];
    for (attempt, old, new) in asked {
        assert_eq!(said(find(&mallory_api, attempt, &[old], new).expect_err("it is not his")), absent);
    }
    for [old, new] in [[hello, new], [new, new], [another, new], [new, old], [old, another]] {
        assert_eq!(said(find(&api, &attempt, &[old], new).expect_err("it is no older version")), absent);
    }
    for digest in [made, frames[0]] {
        let status = read(&mallory_api, &own, &[digest]).expect_err("it is not his");
        assert_eq!(said(status), said(read(&mallory_api, &own, &[another]).expect_err("there is none")));
    }
    let many = find(&api, &attempt, &[old; 65], new).expect_err("they are too many");
    assert_eq!(many.code(), Code::InvalidArgument);

    // What nobody has asked for is made because somebody did; not without bounds.
    push(&world.cli, "tool", "1.5", 0x40_2000);
    let between = digest("tool@1.5");
    assert_eq!(said(find(&api, &attempt, &[between], new).expect_err("it is not made yet")), absent);
    wait_until("what was asked for to be made", PATIENCE, || find(&api, &attempt, &[between], new).is_ok());
    push(&world.cli, "tool", "1.6", 0x40_3000);
    let full = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 128) INSERT INTO delta (old_manifest, \
                new_manifest, package, asked_ms, made_ms) SELECT randomblob(32), randomblob(32), p.uid, 1, 1 FROM n JOIN package p \
                WHERE p.name = 'tool'";
    assert_eq!(Database::of(&world.manager).run(full), 128);
    let refused = find(&api, &attempt, &[digest("tool@1.6")], new).expect_err("there are enough");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("128") && refused.message().contains("chunks"), "{refused:?}");
    assert!(find(&api, &attempt, &[between], new).is_ok(), "what is there is found");
    // A version that is pushed has room made for it.
    push(&world.cli, "tool", "3.0", 0x40_4000);
    let count = "UPDATE delta SET tries = tries WHERE package = (SELECT uid FROM package WHERE name = 'tool')";
    assert!(Database::of(&world.manager).run(count) <= 96);
}

#[test]
fn who_reads_for_an_attempt_that_is_over_hears_that_and_no_word_about_the_content() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "machine");
    let (mut stream, attempt, manifest) = offered(&world, &api, &client, "machine");
    let job = world.cli.json("job list")[0]["name"].as_str().unwrap().to_owned();
    world.cli.ok(&format!("job cancel {job} --yes"));
    stream.until(|m| matches!(m, Down::Cancel(_)).then_some(())).expect("it is told to stop");
    stream.send(Up::CancelAcknowledged(v1::CancelAcknowledged { attempt: attempt.to_string(), started: false, nothing_follows: false }));
    // Not what its reason says, which is there from the moment on in which it was ordered.
    JobView::wait_for_row(&world.cli, &job, &client, "CANCELED");
    // As if that had been said a moment too late: NOT_FOUND would be a package that is not there, and so a failure.
    for digest in [manifest, Digest::of(b"x")] {
        let request = v1::ReadChunksRequest { attempt: attempt.to_string(), digests: vec![digest.as_bytes().to_vec().into()] };
        let refused = api_call!(api, agent_service_client::AgentServiceClient, read_chunks(request)).expect_err("it is over");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("is over"), "{refused:?}");
    }
}

#[test]
fn an_outcome_or_a_cancellation_of_another_clients_attempt_is_answered_as_for_one_that_never_was() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "victim");
    let (mallory_api, _) = Api::client(&token(&world), "mallory");
    let (_victims, attempt, _) = offered(&world, &api, &client, "victim");
    let mut stream = welcomed(&mallory_api, "mallory", 1);
    let executions = || world.cli.json(&format!("client explain {client}"))["jobs"].to_string();
    wait_until("the victim's acceptance to be there", PATIENCE, || executions().contains("DOWNLOADING"));
    let before = world.reader.rows();
    let mut outcome = |attempt: &AttemptId| {
        stream.send(Up::CancelAcknowledged(v1::CancelAcknowledged {
            attempt: attempt.to_string(),
            started: false,
            nothing_follows: false,
        }));
        stream.send(Up::Log(log(attempt.as_str(), "log", 100)));
        stream.send(Up::Outcome(v1::AttemptOutcome {
            attempt: attempt.to_string(),
            outcome: Bytes::from_static(b"{}"),
            signature: Bytes::from_static(&[1; 64]),
            ..Default::default()
        }));
        let recorded = stream.until(|m| if let Down::OutcomeRecorded(r) = m { Some(r) } else { None }).expect("an answer");
        assert_eq!(recorded.attempt, attempt.to_string());
        recorded.refused
    };
    let refused = outcome(&nobodys());
    assert!(!refused.is_empty());
    assert_eq!(outcome(&attempt), refused);
    let after = world.reader.rows();
    assert_eq!(changed(&before, &after), None);
    // A hello that names it is told that it is none of his.
    drop(stream);
    let mut first = hello("mallory", 2);
    first.open_attempts =
        [&attempt, &nobodys()].map(|a| v1::OpenAttempt { attempt: a.to_string(), state: 6, ..Default::default() }).to_vec();
    let mut stream = Stream::open(&mallory_api, Up::Hello(first)).expect("it is welcome");
    let welcome = stream.until(|m| if let Down::Welcome(w) = m { Some(w) } else { None }).expect("it is welcomed");
    let mut unwanted = welcome.unknown_attempts;
    unwanted.sort();
    let mut expected = vec![attempt.to_string(), nobodys().to_string()];
    expected.sort();
    assert_eq!(unwanted, expected);
    assert!(executions().contains("DOWNLOADING"), "{}", executions());
}

/// A part of a log with so many bytes.
fn log(attempt: &str, path: &str, bytes: usize) -> v1::AttemptLog {
    v1::AttemptLog { attempt: attempt.into(), path: path.into(), data: vec![b'x'; bytes].into(), ..Default::default() }
}

#[test]
fn logs_are_kept_of_packages_that_an_attempt_has_and_from_their_first_part_on() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "machine");
    let (mut stream, attempt, _) = offered(&world, &api, &client, "machine");
    let log = |path: &str| log(attempt.as_str(), path, 100);
    stream.send(Up::Log(v1::AttemptLog { item: 1, ..log("of-no-package") }));
    stream.send(Up::Log(v1::AttemptLog { part: 1, ..log("without-its-beginning") }));
    stream.send(Up::Log(log("as-it-should-be")));
    // Taken in after those.
    stream.send(Up::Group(v1::GroupRequest { request_id: "r".into(), action: Some(v1::group_request::Action::List(true)) }));
    stream.until(|m| if let Down::Group(result) = m { Some(result) } else { None }).expect("an answer");
    let rows = format!("{:?}", world.reader.rows());
    let kept = ["of-no-package", "without-its-beginning", "as-it-should-be"].map(|path| rows.contains(path));
    assert_eq!(kept, [false, false, true]);
}

#[test]
fn progress_of_another_clients_attempt_changes_nothing_of_it() {
    let world = World::new();
    let (api, client) = Api::client(&token(&world), "victim");
    let (mallory_api, mallory) = Api::client(&token(&world), "mallory");
    let (victims, attempt, _) = offered(&world, &api, &client, "victim");
    let (stream, own, _) = offered(&world, &mallory_api, &mallory, "mallory");
    let progress = |attempt: &AttemptId, state: v1::ExecutionState, step: &str| {
        Up::Progress(v1::AttemptProgress { attempt: attempt.to_string(), state: state.into(), step: step.into(), ..Default::default() })
    };
    let jobs = |client: &str| world.cli.json(&format!("client explain {client}"))["jobs"].to_string();
    victims.send(progress(&attempt, v1::ExecutionState::Waiting, ""));
    wait_until("the victim's progress to be there", PATIENCE, || jobs(&client).contains("WAITING"));
    stream.send(Up::Accepted(v1::AttemptAccepted { attempt: attempt.to_string() }));
    stream.send(progress(&attempt, v1::ExecutionState::Installing, "owned"));
    // Taken in after that, by the same writer.
    stream.send(progress(&own, v1::ExecutionState::Installing, "own"));
    wait_until("his own progress to be there", PATIENCE, || jobs(&mallory).contains("INSTALLING"));
    assert!(jobs(&client).contains("WAITING"), "{}", jobs(&client));
}
