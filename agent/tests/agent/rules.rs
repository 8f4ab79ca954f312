//! What a package says about values and about the machine binds whoever offers it, also a manager in somebody else's hands.

use crate::{
    machine::Machine,
    manager::{Manager, Package, attempt},
};
use sutler_base::{
    manifest::{Manager as Software, Parameter, Phase, Requirement},
    state::{ErrorKind, ExecutionState},
    version::Range,
};
use sutler_proto::v1;

#[tokio::test]
async fn no_value_that_the_publisher_does_not_allow_becomes_an_argument() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let log = machine.scratch().join("log");
    let mut package = Package::new("tool", "1.0", 1).file("x", "x").step("run", Phase::Install, "");
    package.steps[0].argv = ["/bin/sh", "-c", &format!("printf '%s|' \"$@\" >>{}", log.display()), "tool", "--port=${port}", "${name}"]
        .map(String::from)
        .into();
    let parameter = |pattern: &str, default: Option<&str>| Parameter {
        pattern: pattern.parse().unwrap(),
        default: default.map(String::from),
        description: String::new(),
    };
    package.parameters =
        [("port".parse().unwrap(), parameter("[0-9]{1,5}", Some("80"))), ("name".parse().unwrap(), parameter(".*", Some("x")))].into();
    let mut n = 0;
    let mut offered = |values: &[(&str, &str)]| {
        n += 1;
        let item = v1::OfferItem {
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            replace: v1::Replace::Always.into(),
            ..manager.publish(&package)
        };
        manager.offer(&attempt(n), vec![item], 600);
        attempt(n)
    };
    for bad in [
        [("port", "80 --user=root")],
        [("port", "")],
        [("port", "123456")],
        [("name", "--config=/tmp/evil")],
        [("name", "a\nb")],
        [("user", "root")],
    ] {
        let outcome = manager.outcome(&offered(&bad)).await;
        assert_eq!(
            (outcome.state, outcome.failure().map(|f| f.kind)),
            (ExecutionState::Failed, Some(ErrorKind::ParameterInvalid)),
            "{bad:?}"
        );
    }
    assert!(!log.exists(), "nothing of it has run");
    assert_eq!(manager.outcome(&offered(&[("name", "$(id) ${port} *")])).await.state, ExecutionState::Succeeded);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "--port=80|$(id) ${port} *|", "one argument, and as it was given");
}

#[tokio::test]
async fn what_a_package_requires_is_asked_again_at_the_moment_at_which_it_may_start() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let database = machine.root().join("var/lib/dpkg");
    std::fs::create_dir_all(&database).unwrap();
    let has = |paragraph: &str| std::fs::write(database.join("status"), paragraph).unwrap();
    let log = machine.scratch().join("log");
    let run = format!("echo run >>{}", log.display());
    let mut package = Package::new("tool", "1.0", 1).file("x", vec![7; 200_000]).step("run", Phase::Install, &run);
    package.requirements = vec![Requirement::Software {
        manager: Software::Dpkg,
        name: "library".into(),
        versions: ">=2".parse::<Range>().unwrap(),
        absent: false,
    }];
    let item = manager.publish(&package);

    has("Package: library\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.9\n");
    manager.offer(&attempt(1), vec![item.clone()], 600);
    let outcome = manager.outcome(&attempt(1)).await;
    assert_eq!((outcome.state, outcome.failure().unwrap().kind), (ExecutionState::Rejected, ErrorKind::RequirementNotMet));
    assert!(outcome.failure().unwrap().message.contains("found: library 1.9"), "{outcome:?}");
    assert!(outcome.items[0].fetched_bytes < 4096, "nothing but the manifest came: {outcome:?}");

    has("Package: library\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.1-1\n");
    machine.set_policy("hold = true\n");
    manager.offer(&attempt(2), vec![item.clone()], 600);
    assert_eq!(manager.state(&attempt(2), ExecutionState::Waiting).await.wait_reason, "LOCAL_HOLD");
    has("Package: library\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 2.1-1\n");
    machine.set_policy("");
    let outcome = manager.outcome(&attempt(2)).await;
    assert_eq!((outcome.state, outcome.failure().unwrap().kind), (ExecutionState::Rejected, ErrorKind::RequirementNotMet));
    assert!(!log.exists(), "it had been fetched, and nothing of it has run");

    has("Package: library\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.1-1\n");
    manager.offer(&attempt(3), vec![item], 600);
    assert_eq!(manager.outcome(&attempt(3)).await.state, ExecutionState::Succeeded);
}

#[tokio::test]
async fn what_has_no_tree_is_uninstalled_by_the_version_that_is_named() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let log = machine.scratch().join("log");
    let version = |version: &'static str, release: u64| {
        let leave = format!("cat data >>{}", log.display());
        let package = Package::new("tool", version, release).file("data", format!("{version}\n")).step("put", Phase::Install, "true");
        Package { directory: None, ..package.step("leave", Phase::Uninstall, &leave) }
    };
    manager.offer(&attempt(1), vec![manager.publish(&version("1.0", 1))], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    let named = manager.publish(&version("2.0", 2));
    let uninstall = v1::OfferItem { uninstall: named.envelope, envelope: Default::default(), ..Default::default() };
    manager.offer(&attempt(2), vec![uninstall.clone()], 600);
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::Succeeded);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "2.0\n");
    manager.offer(&attempt(3), vec![uninstall], 600);
    assert_eq!(manager.outcome(&attempt(3)).await.state, ExecutionState::AlreadyAbsent);
}
