//! Real Debian packages on a machine that has a dpkg database of its own: installed, found, upgraded, put back, uninstalled.

use super::tool;
use std::path::{Path, PathBuf};
use std::process::Command;
use sutler_tests::harness::cleanup::Place;
use sutler_tests::harness::{Agent, Cli, JobView, Manager, PATIENCE, run, wait_until};
use sutler_tests::tools;

/// Gives the machine a dpkg that has installed the C library, as this host's has.
fn with_a_database(agent: &Agent) {
    let folder = agent.root().join("var/lib/dpkg");
    for name in ["info", "updates", "triggers"] {
        fs_err::create_dir_all(folder.join(name)).unwrap();
    }
    let status = fs_err::read_to_string("/var/lib/dpkg/status").unwrap();
    let library = status.split("\n\n").find(|paragraph| paragraph.starts_with("Package: libc6\n")).expect("this host is a Debian");
    fs_err::write(folder.join("status"), format!("{library}\n\n")).unwrap();
    fs_err::write(folder.join("info/libc6:amd64.list"), "/.\n").unwrap();
}

/// The version and the state of a package, as the machine's dpkg says.
fn installed(agent: &Agent, name: &str) -> (String, String) {
    let mut command = Command::new(tools::tool("dpkg-query").unwrap());
    command.args(["--show", "--showformat", "${Version}|${db:Status-Abbrev}", name]);
    command.env("DPKG_ROOT", agent.root()).env("DPKG_ADMINDIR", agent.root().join("var/lib/dpkg"));
    let done = run(command, b"");
    let (version, state) = done.stdout.split_once('|').unwrap_or(("", "not known"));
    (version.into(), state.trim().into())
}

/// The same package in a version that comes after it, whose configuration fails: dpkg leaves it unpacked.
fn that_fails(place: &Path, deb: &Path) -> (PathBuf, String) {
    let folder = place.join("broken");
    tool(place, &format!("dpkg-deb --raw-extract {} {}", deb.display(), folder.display()));
    let control = folder.join("DEBIAN/control");
    let text = fs_err::read_to_string(&control).unwrap();
    let version = format!("{}+broken", text.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap());
    let lines = text.lines().map(|line| if line.starts_with("Version: ") { format!("Version: {version}\n") } else { format!("{line}\n") });
    fs_err::write(&control, lines.collect::<String>()).unwrap();
    // Scripts run inside of the machine's root, which has no shell: a program that needs nothing.
    fs_err::write(place.join("fail.c"), "int main(void) { return 3; }\n").unwrap();
    tool(place, &format!("cc -static -o {} fail.c", folder.join("DEBIAN/postinst").display()));
    let deb = place.join("broken.deb");
    tool(place, &format!("dpkg-deb --root-owner-group --build {} {}", folder.display(), deb.display()));
    (deb, version)
}

fn push(cli: &Cli, deb: &Path) {
    cli.ok(&format!("package push {}", deb.display()));
}

#[test]
fn a_real_deb_is_installed_found_upgraded_put_back_after_a_failed_upgrade_and_uninstalled() {
    if tools::skip_without("upgrade") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        tools::skip("dpkg installs as root only");
        return;
    }
    let [old, new] = tools::two_versions().unwrap();
    let place = Place::new("debian");
    let field = |deb: &Path, field: &str| tool(place.path(), &format!("dpkg-deb --field {} {field}", deb.display())).trim().to_owned();
    let (name, versions) = (field(&old, "Package"), [field(&old, "Version"), field(&new, "Version")]);
    let manager = Manager::start();
    let cli = manager.cli();
    push(&cli, &old);
    let agent = Agent::enrolled("one", &manager);
    let id = agent.id();
    let job = |words: &str| cli.id(&format!("job run {words} --client {id}"));
    let on = |version: &str| format!("--package {name}@{version}");
    let is = |version: &str| assert_eq!(installed(&agent, &name), (version.to_owned(), "ii".to_owned()));

    // A machine without dpkg is not asked to run it.
    let row = JobView::wait_for_row(&cli, &job(&on(&versions[0])), &id, "REJECTED");
    assert!(row.detail.contains("requires dpkg; found: no dpkg on this machine"), "{}", row.detail);

    with_a_database(&agent);
    JobView::wait_for_row(&cli, &job(&on(&versions[0])), &id, "SUCCEEDED");
    is(&versions[0]);
    let library = agent.root().join("usr/share/doc").join(&name);
    assert!(library.is_dir(), "its files are below the machine's root");
    JobView::wait_for_row(&cli, &job(&on(&versions[0])), &id, "ALREADY_INSTALLED");

    push(&cli, &new);
    JobView::wait_for_row(&cli, &job(&on(&versions[1])), &id, "SUCCEEDED");
    is(&versions[1]);

    let (broken, worse) = that_fails(place.path(), &new);
    push(&cli, &broken);
    let row = JobView::wait_for_row(&cli, &job(&on(&worse)), &id, "FAILED");
    let item = &row.json["items"][0];
    assert!(item["output"].as_str().unwrap().contains("post-installation"), "{item:#}");
    assert_eq!(item["restored"], true, "{item:#}");
    is(&versions[1]);

    JobView::wait_for_row(&cli, &job(&format!("--uninstall {name}")), &id, "SUCCEEDED");
    assert_ne!(installed(&agent, &name).1, "ii");
    assert!(!library.is_dir() && !agent.root().join("var/cache/sutler/packages").join(&name).exists());
    JobView::wait_for_row(&cli, &job(&format!("--uninstall {name}")), &id, "ALREADY_ABSENT");

    // It can come back in any version that is allowed, and what dpkg has is what the fleet's inventory shows.
    JobView::wait_for_row(&cli, &job(&on(&versions[1])), &id, "SUCCEEDED");
    is(&versions[1]);
    wait_until("the inventory to show it", PATIENCE, || {
        let software = cli.ok(&format!("software list {name} --manager dpkg"));
        software.lines().any(|line| line.contains(&versions[1]))
    });
}
