//! What people have, as packages: real files of real tools are linted, pushed, shown, compared; hostile ones are refused.

mod debian;
mod hostile;
mod versions;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use sutler_tests::harness::cleanup::Place;
use sutler_tests::harness::{Agent, Cli, Done, JobView, Manager, PackageFolder, run, words};
use sutler_tests::tools;

/// Runs a tool in `folder` with these words.
fn tool(folder: &Path, line: &str) -> String {
    let words = words(line);
    let mut command = Command::new(tools::tool(&words[0]).unwrap_or_else(|| panic!("{} is there", words[0])));
    command.args(&words[1..]).current_dir(folder).env("SOURCE_DATE_EPOCH", "1700000000");
    run(command, b"").ok()
}

/// Runs `sutler` in `folder`, which has its temporary files, too, in `folder/tmp`.
fn within(cli: &Cli, folder: &Path, line: &str) -> Done {
    let tmp = folder.join("tmp");
    fs_err::create_dir_all(&tmp).unwrap();
    let mut command = cli.command(&words(line));
    command.current_dir(folder).env("TMPDIR", &tmp);
    let done = run(command, b"");
    let left: Vec<_> = fs_err::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{line} left {left:?}");
    done
}

/// The manifest of a version, without its release.
fn manifest(cli: &Cli, package: &str) -> Value {
    let mut manifest = cli.json(&format!("package show {package}"))["manifest"].take();
    assert!(manifest.is_object(), "{package}: {manifest}");
    manifest.as_object_mut().unwrap().remove("release");
    manifest
}

/// The findings of a lint as `SEVERITY: FINDING`.
fn findings(done: &Done) -> Vec<String> {
    let rows: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", done.stdout, done.stderr));
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{}: {}", row["severity"].as_str().unwrap(), row["finding"].as_str().unwrap()))
        .collect()
}

fn debs() -> Vec<PathBuf> {
    tools::debian_packages().expect("they were asked for")
}

#[test]
fn real_debs_are_pushed_as_what_dpkg_says_of_them() {
    if tools::skip_without("clamav") {
        return;
    }
    let place = Place::new("debs");
    let manager = Manager::start();
    let cli = manager.cli();
    for deb in debs() {
        let shown = deb.display();
        let linted = within(&cli, place.path(), &format!("package lint {shown} -o json")).ends_with(0);
        assert!(findings(&linted).iter().all(|f| !f.starts_with("error")), "{linted:?}");
        let field = |name: &str| tool(place.path(), &format!("dpkg-deb --field {shown} {name}")).trim().to_owned();
        if deb.metadata().unwrap().len() > 2 << 20 {
            continue;
        }
        within(&cli, place.path(), &format!("package push {shown}")).ok();
        let (name, version) = (field("Package"), field("Version"));
        let m = manifest(&cli, &format!("{name}@{version}"));
        assert_eq!((m["name"].as_str(), m["version"].as_str()), (Some(name.as_str()), Some(version.as_str())));
        assert_eq!(m["detection"][0]["versions"], format!("={version}"));
        assert_eq!(m["files"].as_array().unwrap().len(), 1);
        let depends = field("Depends");
        let needs = m["requirements"].to_string();
        for depended in depends.split([',', '|']).filter(|text| !text.trim().is_empty()) {
            let depended = depended.trim().split([' ', ':', '(']).next().unwrap();
            assert!(needs.contains(&format!("\"{depended}\"")), "{name} depends on {depended}: {needs}");
        }
        let text = cli.ok(&format!("package show {name}"));
        for line in
            ["needs:", "/usr/bin/dpkg --force-confdef --force-confold --install package.deb", &format!("--remove {name}"), "(restore,"]
        {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }
    // The same again sends nothing, and is the same version.
    let smallest = debs().into_iter().min_by_key(|deb| deb.metadata().unwrap().len()).unwrap();
    let again = within(&cli, place.path(), &format!("package push {}", smallest.display()));
    assert!(again.clone().ok().contains("pushed: 0 of"), "{again:?}");
}

#[test]
fn the_folder_that_init_makes_of_a_deb_is_the_same_package() {
    if tools::skip_without("clamav") {
        return;
    }
    let place = Place::new("init");
    let manager = Manager::start();
    let cli = manager.cli();
    let deb = debs().into_iter().find(|deb| deb.display().to_string().contains("logrotate")).expect("it is among them");
    within(&cli, place.path(), &format!("package push {} --release 1", deb.display())).ok();
    let before = manifest(&cli, "logrotate");
    within(&cli, place.path(), &format!("package init {} ./mine", deb.display())).ok();
    within(&cli, place.path(), "package push ./mine --version 99 --release 2").ok();
    let mut after = manifest(&cli, "logrotate@99");
    assert_eq!(after["version"], "99");
    after["version"] = before["version"].clone();
    assert_eq!(after, before);
    let rows = within(&cli, place.path(), &format!("package diff logrotate@{} ./mine -o json", before["version"].as_str().unwrap())).ok();
    let rows: Value = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert!(rows[0]["detail"].as_str().unwrap().starts_with("0 B of"), "{rows}");
    within(&cli, place.path(), &format!("package init {} ./mine", deb.display())).ends_with(1).says(&["is not empty"]);
}

const SPEC: &str = "Name: Hello_World\nVersion: 1.2\nRelease: 3\nEpoch: 1\nSummary: Says hello\nLicense: MIT\nBuildArch: noarch\n\
    Requires: bash >= 4\nRequires: (bash or dash)\nConflicts: goodbye < 2\nProvides: greeter = 1\n\
    %description\nSays hello.\n%install\nmkdir -p %{buildroot}/usr/bin\necho '#!/bin/sh' > %{buildroot}/usr/bin/hello\n\
    chmod 755 %{buildroot}/usr/bin/hello\nln -s hello %{buildroot}/usr/bin/hi\nln -s /usr/bin/hello %{buildroot}/usr/bin/ho\n\
    %files\n/usr/bin/hello\n/usr/bin/hi\n/usr/bin/ho\n%ghost /var/log/hello.log\n";

/// The package of rpm that [`SPEC`] describes.
fn rpm(folder: &Path, compression: &str) -> PathBuf {
    fs_err::write(folder.join("hello.spec"), SPEC).unwrap();
    tool(
        folder,
        &format!("rpmbuild -bb --quiet --define '_topdir {}' --define '_binary_payload {compression}' hello.spec", folder.display()),
    );
    folder.join("RPMS/noarch/Hello_World-1.2-3.noarch.rpm")
}

#[test]
fn a_real_rpm_is_pushed_as_what_rpm_says_of_it_and_rejected_on_a_machine_without_rpm() {
    if tools::skip_without("rpmbuild") {
        return;
    }
    let place = Place::new("rpm");
    let manager = Manager::start();
    let cli = manager.cli();
    for compression in ["w9.gzdio", "w6.xzdio", "w19.zstdio"] {
        let file = rpm(place.path(), compression);
        let linted = within(&cli, place.path(), &format!("package lint {} -o json", file.display())).ends_with(0);
        let found = findings(&linted);
        assert!(found.iter().any(|f| f.starts_with("fine: hello-world@1:1.2-3 for linux any")), "{compression}: {found:?}");
        assert!(found.iter().any(|f| f.contains("only rpm decides")), "{found:?}");
    }
    within(&cli, place.path(), &format!("package push {}", rpm(place.path(), "w19.zstdio").display())).ok();
    let text = cli.ok("package show hello-world");
    for line in [
        "needs:        rpm\n",
        "bash >=4 of rpm",
        "no goodbye <2 of rpm",
        "/usr/bin/rpm --upgrade --replacepkgs package.rpm",
        "/usr/bin/rpm --erase Hello_World",
        "Hello_World =1:1.2-3 of rpm",
        "Says hello",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    // A machine without rpm says so, and nothing of it is run there.
    let agent = Agent::enrolled("debian", &manager);
    let job = cli.id(&format!("job run --package hello-world --client {}", agent.id()));
    let row = JobView::wait_for_row(&cli, &job, &agent.id(), "REJECTED");
    assert_eq!(row.reason, "REQUIREMENT_NOT_MET");
    assert!(row.detail.contains("requires rpm; found: no rpm on this machine"), "{}", row.detail);
}

#[test]
fn a_static_program_is_pushed_with_two_words_and_arrives() {
    if tools::skip_without("gcc") {
        return;
    }
    let place = Place::new("program");
    let manager = Manager::start();
    let cli = manager.cli();
    fs_err::write(place.path().join("tool.c"), "#include <stdio.h>\nint main(void) { puts(\"tool 1.2.3\"); return 0; }\n").unwrap();
    tool(place.path(), "gcc -static -o tool tool.c");
    tool(place.path(), "gcc -o linked tool.c");
    tool(place.path(), "gcc -c -o object tool.c");
    tool(place.path(), "gcc -static-pie -o anywhere tool.c");
    let lint = |words: &str| within(&cli, place.path(), &format!("package lint {words} -o json"));
    let missing = findings(&lint("tool").ends_with(1));
    assert!(missing[0].contains("give --name, for example --name tool --version 1.2.3"), "{missing:?}");
    let named = "--name tool --version 1.2.3";
    assert_eq!(findings(&lint(&format!("tool {named}")).ends_with(0)).len(), 1);
    assert_eq!(findings(&lint(&format!("anywhere {named}")).ends_with(0)).len(), 1);
    let linked = findings(&lint(&format!("linked {named}")).ends_with(0));
    assert!(linked[0].contains("is not static: it runs only where there is /lib") && linked[0].contains("libc.so.6"), "{linked:?}");
    assert!(findings(&lint(&format!("object {named}")).ends_with(1))[0].contains("it is an object file"));
    within(&cli, place.path(), &format!("package push tool {named}")).ok();
    let agent = Agent::enrolled("one", &manager);
    let job = cli.id(&format!("job run --package tool --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "SUCCEEDED");
    let installed = agent.root().join("opt/tool/bin/tool");
    assert_eq!(run(Command::new(installed), b"").ok(), "tool 1.2.3\n");
    let job = cli.id(&format!("job run --package tool --client {}", agent.id()));
    JobView::wait_for_row(&cli, &job, &agent.id(), "ALREADY_INSTALLED");
}

#[test]
fn an_archive_of_a_folder_is_the_same_package_as_the_folder() {
    if tools::skip_without("tar") || tools::skip_without("zstd") || tools::skip_without("xz") {
        return;
    }
    let place = Place::new("archive");
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    package.noise("large", 1 << 20, 1);
    std::os::unix::fs::symlink("bin/install", package.files().join("link")).unwrap();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    package.file(&long, "a long name");
    within(&cli, place.path(), &format!("package push {}", package.path().display())).ok();
    for (format, name) in
        [("--gzip", "x.tar.gz"), ("--zstd", "x.tar.zst"), ("--xz", "x.tar.xz"), ("--format=pax", "x.tar"), ("--format=gnu", "y.tar")]
    {
        let parent = package.path().parent().unwrap().display();
        let folder = package.path().file_name().unwrap().to_string_lossy();
        tool(place.path(), &format!("tar {format} -cf {name} -C {parent} {folder}"));
        let rows = within(&cli, place.path(), &format!("package diff hello {name} -o json")).ok();
        let rows: Value = serde_json::from_str(&rows).unwrap();
        assert_eq!((rows.as_array().unwrap().len(), rows[0]["change"].as_str()), (1, Some("transfer")), "{name}: {rows}");
        assert!(rows[0]["detail"].as_str().unwrap().starts_with("0 B of"), "{rows}");
        within(&cli, place.path(), &format!("package push {name}")).ok();
    }
    assert_eq!(cli.json("package versions hello").as_array().unwrap().len(), 1);
}

#[test]
fn a_difference_says_what_changed_and_what_it_costs() {
    let place = Place::new("diff");
    let manager = Manager::start();
    let cli = manager.cli();
    let package = PackageFolder::counting("data", "1.9");
    package.noise("large", 2 << 20, 1);
    within(&cli, place.path(), &format!("package push {} --release 1", package.path().display())).ok();
    package.replace("\"1.9\"", "\"1.10\"");
    package.append("[[requirement]]\nmemory = \"1GiB\"\n");
    package.file("more", "1234567890");
    let path = package.path().display();
    let local = within(&cli, place.path(), &format!("package diff data {path} -o json")).ok();
    within(&cli, place.path(), &format!("package push {path} --release 2")).ok();
    let there = within(&cli, place.path(), "package diff data@1.9 data@1.10 -o json").ok();
    assert_eq!(local, there);
    for wanted in ["1.9 → 1.10, newer", "1.0 GiB of memory", "more: 10 B", "10 B of 2.0 MiB, 1 of "] {
        assert!(there.contains(wanted), "{wanted:?} is not in {there}");
    }
    within(&cli, place.path(), "package diff data@1.9 nothing@1").ends_with(1);
    within(&cli, place.path(), "package diff data@1.9 ./nothing").ends_with(2).says(&["is no path here"]);
}

#[test]
fn init_gives_something_to_start_from_that_lint_and_push_take() {
    let place = Place::new("starter");
    let manager = Manager::start();
    let cli = manager.cli();
    within(&cli, place.path(), "package init ./hello").ok();
    within(&cli, place.path(), "package lint ./hello").ends_with(0);
    within(&cli, place.path(), "package push ./hello").ok();
    within(&cli, place.path(), "package init ./hello").ends_with(1).says(&["has a package.toml already"]);
    let own = place.path().join("Vendor Suite");
    fs_err::create_dir(&own).unwrap();
    fs_err::write(own.join("install.sh"), "#!/bin/sh\n").unwrap();
    within(&cli, place.path(), "package init './Vendor Suite'").ok();
    let found = findings(&within(&cli, place.path(), "package lint './Vendor Suite' -o json").ends_with(0));
    for wanted in
        ["has no detection rule", "none with phase = \"uninstall\"", "install.sh is a file that can't be run", "fine: vendor-suite@1.0"]
    {
        assert!(found.iter().any(|f| f.contains(wanted)), "{wanted:?} is not in {found:?}");
    }
    // Without a directory or a step that could, restore is refused.
    let toml = fs_err::read_to_string(own.join("package.toml")).unwrap();
    let lines = toml.lines().filter(|line| !line.starts_with("directory")).map(|line| line.replace("install.sh\"", "/bin/true\""));
    fs_err::write(own.join("package.toml"), format!("restore = true\n{}", lines.collect::<Vec<_>>().join("\n"))).unwrap();
    let found = findings(&within(&cli, place.path(), "package lint './Vendor Suite' -o json").ends_with(1));
    assert!(found[0].contains("restore: nothing can be put back"), "{found:?}");
    within(&cli, place.path(), "package push './Vendor Suite'").ends_with(1).says(&["nothing can be put back"]);
}
