//! `cargo demo`, with the example and with a folder that was never meant to be a package.

use std::path::Path;
use std::process::Command;
use sutler_tests::harness::cleanup::{Place, processes_below};
use sutler_tests::harness::{Done, PATIENCE, programs, run, wait_until};

/// Runs the demo with a temporary folder of its own, and shows that it leaves nothing there.
fn demo(arguments: &[&Path]) -> Done {
    let place = Place::new("tmp");
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments).env("TMPDIR", place.path()).env(programs::BINARIES, programs::folder());
    let done = run(command, b"");
    wait_until("the demo's folders and processes to be gone", PATIENCE, || {
        fs_err::read_dir(place.path()).unwrap().next().is_none() && processes_below(place.path()).is_empty()
    });
    done
}

#[test]
fn the_demo_installs_the_example_on_three_machines_and_leaves_nothing() {
    let out = demo(&[]).ok();
    for word in ["group create new-clients", "alpha", "beta", "gamma", "total=3 finished=3", "opt/hello"] {
        assert!(out.contains(word), "{word} is not in\n{out}");
    }
}

#[test]
fn the_demo_takes_any_folder() {
    let folder = Place::new("Any Folder");
    fs_err::create_dir(folder.path().join("deep")).unwrap();
    fs_err::write(folder.path().join("deep/file"), "x").unwrap();
    let before = fs_err::read_dir(folder.path()).unwrap().count();
    let out = demo(&[folder.path()]).ok();
    assert!(out.contains("opt/any-folder"), "{out}");
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), before, "the folder is as it was");
    demo(&[Path::new("/nonsense")]).ends_with(2);
}
