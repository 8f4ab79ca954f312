//! What a package depends on and takes the place of is signed, and an agent goes by it whatever a manager orders or leaves out.

use crate::{
    machine::{Machine, until},
    manager::{Manager, Package, attempt},
};
use sutler_base::{
    manifest::{Dependency, Phase, Supersedes},
    outcome::Outcome,
    state::{ErrorKind, ExecutionState},
};
use sutler_proto::v1;

fn on(package: &str, versions: &str) -> Vec<Dependency> {
    vec![Dependency { package: package.parse().unwrap(), versions: versions.parse().unwrap() }]
}

fn instead_of(package: &str, versions: &str, uninstall: bool) -> Vec<Supersedes> {
    vec![Supersedes { package: package.parse().unwrap(), versions: versions.parse().unwrap(), uninstall }]
}

/// A package without a tree, whose step writes its name and version into the log.
fn package(machine: &Machine, name: &'static str, version: &'static str, release: u64) -> Package {
    let install = format!("echo install {name} {version} >>{}", machine.scratch().join("log").display());
    Package { directory: None, ..Package::new(name, version, release).step("put", Phase::Install, &install) }
}

/// The lines that steps wrote.
fn log(machine: &Machine) -> Vec<String> {
    let text = std::fs::read_to_string(machine.scratch().join("log")).unwrap_or_default();
    text.lines().map(String::from).collect()
}

fn ended(outcome: &Outcome) -> (ExecutionState, Option<ErrorKind>) {
    (outcome.state, outcome.failure().map(|f| f.kind))
}

#[tokio::test]
async fn what_a_package_depends_on_is_required_whatever_a_manager_orders() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let app = Package { depends_on: on("lib", ">=2"), ..package(&machine, "app", "1", 1) };
    let offered = async |n: u8, item: v1::OfferItem| {
        manager.offer(&attempt(n), vec![item], 600);
        manager.outcome(&attempt(n)).await
    };
    let refused = (ExecutionState::Rejected, Some(ErrorKind::RequirementNotMet));
    assert_eq!(ended(&offered(1, manager.publish(&app)).await), refused);
    assert_eq!(offered(2, manager.publish(&package(&machine, "lib", "1", 1))).await.state, ExecutionState::Succeeded);
    assert_eq!(ended(&offered(3, manager.publish(&app)).await), refused, "another version is there");
    // What takes the place of one in the range will do; the old one is remembered no longer.
    let next = Package { supersedes: instead_of("lib", "<3", false), ..package(&machine, "next", "7", 1) };
    assert_eq!(offered(4, manager.publish(&next)).await.state, ExecutionState::Succeeded);
    assert_eq!(offered(5, manager.publish(&app)).await.state, ExecutionState::Succeeded);
    let gone = v1::OfferItem { uninstall: manager.publish(&next).envelope, envelope: Default::default(), ..Default::default() };
    assert_eq!(ended(&offered(6, gone).await), refused, "app needs it");
    assert_eq!(log(&machine), ["install lib 1", "install next 7", "install app 1"]);
}

#[tokio::test]
async fn what_is_only_needed_is_skipped_where_something_will_do_and_what_is_asked_for_is_not() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    manager.offer(&attempt(1), vec![manager.publish(&package(&machine, "lib", "1.0", 1))], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    let newer = manager.publish(&package(&machine, "lib", "1.1", 2));
    let needed = |versions: &str| vec![v1::Dependency { package: "lib".into(), versions: versions.into() }];
    let item = |versions: &str| v1::OfferItem { needed: needed(versions), ..newer.clone() };
    manager.offer(&attempt(2), vec![item(">=1")], 600);
    let outcome = manager.outcome(&attempt(2)).await;
    assert_eq!((outcome.state, outcome.items[0].version.as_str()), (ExecutionState::AlreadyInstalled, "1.0"), "what is there");
    // One of those that need it wants another version.
    let both = v1::OfferItem { needed: [needed(">=1"), needed(">1.0")].concat(), ..newer.clone() };
    manager.offer(&attempt(3), vec![both], 600);
    assert_eq!(manager.outcome(&attempt(3)).await.state, ExecutionState::Succeeded);
    manager.offer(&attempt(4), vec![manager.publish(&package(&machine, "lib", "1.2", 3))], 600);
    assert_eq!(manager.outcome(&attempt(4)).await.state, ExecutionState::Succeeded);
    assert_eq!(log(&machine), ["install lib 1.0", "install lib 1.1", "install lib 1.2"]);
}

#[tokio::test]
async fn what_goes_without_a_tree_brings_its_files_and_only_in_the_versions_that_are_meant() {
    let manager = Manager::start().await;
    let (machine, _handle) = Machine::connected(&manager).await;
    let old = |version: &'static str, release: u64| {
        let leave = format!("read word <word; echo $word old {version} >>{}", machine.scratch().join("log").display());
        package(&machine, "old", version, release).file("word", "goodbye\n").step("leave", Phase::Uninstall, &leave)
    };
    let new = |version: &'static str, versions: &str| {
        let supersedes = instead_of("old", versions, true);
        manager.publish(&Package { supersedes, ..package(&machine, "new", version, 1) })
    };
    manager.offer(&attempt(1), vec![manager.publish(&old("1.5", 1))], 600);
    assert_eq!(manager.outcome(&attempt(1)).await.state, ExecutionState::Succeeded);
    manager.offer(&attempt(2), vec![new("1", ">=2")], 600);
    assert_eq!(manager.outcome(&attempt(2)).await.state, ExecutionState::Succeeded);
    manager.offer(&attempt(3), vec![new("2", "<2")], 600);
    assert_eq!(manager.outcome(&attempt(3)).await.state, ExecutionState::Succeeded);
    assert_eq!(log(&machine), ["install old 1.5", "install new 1", "goodbye old 1.5", "install new 2"]);
    // Once: it is not there any more.
    manager.offer(&attempt(4), vec![new("3", "<2")], 600);
    assert_eq!(manager.outcome(&attempt(4)).await.state, ExecutionState::Succeeded);
    assert_eq!(log(&machine)[4..], ["install new 3"]);
    (1..=4).for_each(|n| manager.recorded(&attempt(n)));
    let left = || std::fs::read_dir(machine.state().join("staging")).map_or(0, |all| all.count());
    until("what was staged for it to be gone", || left() == 0).await;
}
