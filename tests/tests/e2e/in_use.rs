//! What is changed or deleted while it is used, and programs of different versions that meet.

use sutler_proto::{
    PROTOCOL_VERSION,
    v1::{self, connect_response::Message as Down},
};
use sutler_tests::harness::{Agent, JobView, Line, Manager, PATIENCE, PackageFolder, Proxy, Session, Setup, wait_until};
use tonic::{Code, Status};

/// Counts its run, then waits for whoever opens a pipe of the machine.
const WAITS: &str = "#!/bin/sh\necho run >>\"$(pwd -P).runs\"\nread -r line <../../etc/go\necho \"$line\" >>\"$(pwd -P).runs\"\n";

#[test]
fn a_package_that_a_job_refers_to_is_not_deleted_and_its_uid_never_comes_back() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let uid = cli.json("package show hello@1.0")["uid"].clone();
    cli.ok("group create machines");
    let job = cli.id("job run --package hello --group machines");
    for what in ["hello@1.0", "hello"] {
        cli.fails(1, &format!("package delete {what}")).says(&["refers to it", &job]);
    }
    // Also while nobody runs it any more: who looks at the job wants to know what it was.
    cli.ok(&format!("job cancel {job} --yes"));
    cli.fails(1, "package delete hello@1.0");
    let agent = Agent::enrolled("one", &manager);
    let other = cli.id(&format!("job run --package hello --client {}", agent.id()));
    JobView::wait_for_row(&cli, &other, &agent.id(), "SUCCEEDED");
    for job in [&job, &other] {
        cli.ok(&format!("job archive {job}"));
    }
    cli.ok("package delete hello");
    cli.fails(1, "package show hello");
    // The name is free; what has it now is something else, and the old jobs do not refer to it.
    cli.ok(&format!("package push {}", package.path().display()));
    assert_ne!(cli.json("package show hello@1.0")["uid"], uid);
    assert_eq!(JobView::of(&cli, &other).counters(), "total=1 finished=1");
    cli.ok("package delete hello@1.0");
}

#[test]
fn an_attempt_keeps_the_revision_that_it_was_offered_and_others_get_the_new_one() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.file("bin/install", WAITS);
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create machines");
    let works = Agent::enrolled("works", &manager);
    let pipe = works.root().join("etc/go");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, 0).unwrap();
    cli.ok(&format!("group add machines {}", works.id()));
    let job = cli.id("job run --package hello@latest --group machines");
    JobView::wait_for_row(&cli, &job, &works.id(), "INSTALLING");
    wait_until("the step to run", PATIENCE, || works.read("opt/hello.runs").is_some());

    let next = PackageFolder::counting("hello", "2.0");
    cli.ok(&format!("package push {}", next.path().display()));
    let later = Agent::enrolled("later", &manager);
    cli.ok(&format!("group add machines {}", later.id()));
    let row = JobView::wait_for_row(&cli, &job, &later.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/2.0", "{row:#?}");
    fs_err::write(&pipe, "went on\n").unwrap();
    let row = JobView::wait_for_row(&cli, &job, &works.id(), "SUCCEEDED");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/1.0", "{row:#?}");
    assert_eq!((row.attempts, works.read("opt/hello.runs").as_deref()), (1, Some("run\nwent on\n")));
}

#[test]
fn a_download_that_was_cut_off_goes_on_with_the_revision_that_was_offered() {
    let line = Proxy::new();
    let manager = Manager::start_with(Setup { advertise: vec![line.address()], ..Setup::default() });
    line.leads_to(manager.addresses().agents);
    let cli = manager.cli();
    let push = |version: &str, seed: u64| {
        let package = PackageFolder::counting("hello", version);
        package.noise("noise", 4 << 20, seed);
        cli.ok(&format!("package push {}", package.path().display()));
        package
    };
    let _first = push("1.0", 1);
    let mut agent = Agent::enrolled("one", &manager);
    wait_until("the machine to be connected", PATIENCE, || agent.status()["connected"].is_string());
    line.now(Line::StopsAfter(1 << 20));
    cli.ok("group create machines");
    cli.ok(&format!("group add machines {}", agent.id()));
    let job = cli.id("job run --package hello@latest --group machines");
    wait_until("the line to stand still", PATIENCE, || line.stands_still());
    agent.kill();
    let _next = push("2.0", 2);
    wait_until("the job to follow", PATIENCE, || JobView::of(&cli, &job).json["packages"].to_string().contains("2.0"));
    line.now(Line::Open);
    agent.start();
    let row = JobView::wait_for_end(&cli, &job, &agent.id());
    assert_eq!((row.state.as_str(), row.attempts), ("SUCCEEDED", 1), "{row:#?}");
    assert_eq!(row.json["items"][0]["package"], "packages/hello/versions/1.0", "{row:#?}");
}

/// Connects with an agent's key and says this first; gives back the first answer, and whether an offer follows it.
fn greet(agent: &Agent, hello: impl FnOnce(&mut v1::Hello), wait_for_offer: bool) -> Result<(v1::Welcome, Option<v1::Offer>), Status> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let open = Session::open(agent, |first| {
            first.agent_version = "0.0.1".into();
            hello(first);
        });
        let mut session = open.await?;
        let Down::Welcome(welcome) = session.next().await? else { panic!("the first answer is a welcome") };
        if !wait_for_offer {
            return Ok((welcome, None));
        }
        loop {
            if let Down::Offer(offer) = session.next().await? {
                return Ok((welcome, Some(offer)));
            }
        }
    })
}

#[test]
fn an_agent_of_another_protocol_is_told_what_to_update_and_an_older_one_works() {
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let mut agent = Agent::enrolled("one", &manager);
    agent.stop();
    let job = cli.id(&format!("job run --package hello --client {}", agent.id()));
    // A newer and an older protocol: no session, no offer, and a sentence that says who is behind.
    for (version, older) in [(PROTOCOL_VERSION + 1, "update the manager"), (0, "update the agent")] {
        let refused = greet(&agent, |hello| hello.protocol_version = version, false).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(older) && refused.message().contains("0.0.1"), "{refused:?}");
        assert_eq!(JobView::of(&cli, &job).row(&agent.id()).unwrap().state, "QUEUED", "nothing was offered");
    }
    // One that can do less than this manager knows of gets what it can do; what it never heard of is not asked of it.
    let (welcome, offer) = greet(&agent, |hello| hello.capabilities.clear(), true).unwrap();
    assert!(welcome.report_from.is_empty(), "{welcome:?}");
    assert_eq!(offer.unwrap().job, format!("jobs/{job}"));
    // One that can do more than this manager knows of is a client like any other.
    let (_, offer) = greet(&agent, |hello| hello.capabilities = vec!["what-nobody-knows-yet".into()], true).unwrap();
    assert_eq!(offer.unwrap().job, format!("jobs/{job}"));
    agent.start();
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
}

#[test]
fn an_older_agent_is_offered_nothing_that_it_does_not_know() {
    let manager = Manager::start();
    let cli = manager.cli();
    for name in ["first", "second", "third", "plain"] {
        let package = PackageFolder::counting(name, "1.0");
        cli.ok(&format!("package push {}", package.path().display()));
    }
    let mut agent = Agent::enrolled("one", &manager);
    agent.stop();
    let run =
        |package: &str, more: &str| cli.id(&format!("job run --package {package} --client {} --rollout all-at-once {more}", agent.id()));
    let newer = [run("first", "--announce soon"), run("second", "--timing at-boot"), run("third", "--reboot-in-window")];
    let plain = run("plain", "");
    let (_, offer) = greet(&agent, |_| {}, true).unwrap();
    assert_eq!(offer.expect("it was waited for").job, format!("jobs/{plain}"), "the first that it is offered");
    for job in &newer {
        let row = JobView::of(&cli, job).row(&agent.id()).cloned().unwrap();
        assert_eq!((row.state.as_str(), row.attempts), ("QUEUED", 0), "{row:#?}");
        assert!(row.detail.contains("its agent") && row.detail.contains("update it"), "{row:#?}");
    }
    // The newer one is offered all of it.
    agent.start();
    JobView::wait(&cli, &newer[0], "it to be announced", PATIENCE, |view| view.row(&agent.id()).unwrap().state == "WAITING");
    JobView::wait_for_row(&cli, &newer[2], &agent.id(), "SUCCEEDED");
}
