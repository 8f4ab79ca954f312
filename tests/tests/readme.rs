//! Runs the very lines of README.md, and holds the rest of it to what is there.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use sutler_tests::harness::cleanup::Place;
use sutler_tests::harness::{Port, noise, programs, run};
use sutler_tests::tools;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme() -> String {
    fs_err::read_to_string(root().join("README.md")).unwrap()
}

/// A fenced block of commands.
struct Block {
    /// What runs until the end in a terminal of its own, if the block is that.
    background: Option<String>,
    text: String,
}

/// The blocks that are marked `sh STORY`, in their order.
fn blocks(story: &str) -> Vec<Block> {
    let (mut blocks, mut current) = (Vec::new(), None);
    for line in readme().lines() {
        match (&mut current, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let words: Vec<_> = info.split(' ').collect();
                let is_ours = words.first() == Some(&"sh") && words.get(1) == Some(&story);
                current = Some((is_ours, Block { background: words.get(2).map(|word| (*word).to_owned()), text: String::new() }));
            }
            (Some(_), Some("")) => blocks.extend(current.take().filter(|(is_ours, _)| *is_ours).map(|(_, block)| block)),
            (Some((_, block)), _) => {
                let _ = writeln!(block.text, "{line}");
            }
            (None, None) => {}
        }
    }
    assert!(!blocks.is_empty(), "README.md has no block `sh {story}`");
    blocks
}

/// A newcomer's machine: both programs on the path, a home, and a package in the folder. The programs are told to keep to
/// the sandbox and to free ports, which on a real machine are the defaults.
struct Sandbox {
    place: Place,
    ports: [Port; 3],
}

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox { place: Place::new("readme"), ports: [Port::new(), Port::new(), Port::new()] };
        let at = |path: &str| sandbox.place.path().join(path);
        let [agents, operators, telemetry] = sandbox.ports.each_ref().map(Port::number);
        sandbox.program(
            "sutler",
            &format!(
                "case $1 in init) set -- \"$@\" --agents 127.0.0.1:{agents} --operators 127.0.0.1:{operators} --telemetry 127.0.0.1:{telemetry} ;; esac\n\
                 exec '{}' \"$@\"",
                programs::sutler().display()
            ),
        );
        sandbox.program(
            "sutler-agent",
            &format!(
                "exec '{}' \"$@\" --dir '{}' --root '{}'",
                programs::sutler_agent().display(),
                at("state").display(),
                at("root").display()
            ),
        );
        let files = at("clamav/files");
        fs_err::create_dir_all(files.join("bin")).unwrap();
        fs_err::create_dir_all(at("root")).unwrap();
        fs_err::write(files.join("signatures"), noise(1 << 20, 1)).unwrap();
        fs_err::write(files.join("bin/clamscan"), "#!/bin/sh\necho ClamAV 1.4\n").unwrap();
        fs_err::set_permissions(files.join("bin/clamscan"), PermissionsExt::from_mode(0o755)).unwrap();
        fs_err::write(
            at("clamav/package.toml"),
            "name = \"clamav\"\nversion = \"1.4\"\ndirectory = \"/opt/clamav\"\n\n[[detection]]\ncommand = [\"bin/clamscan\", \"--version\"]\noutput = \"ClamAV 1.\"\n",
        )
        .unwrap();
        sandbox
    }

    fn program(&self, name: &str, text: &str) {
        let bin = self.place.path().join("bin");
        fs_err::create_dir_all(&bin).unwrap();
        fs_err::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs_err::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Runs blocks in their order in one shell, which ends with the first command that fails.
    fn run(&self, blocks: &[Block]) -> String {
        let folder = self.place.path();
        let mut script = String::from("set -euo pipefail\n");
        for block in blocks {
            match block.background.as_deref() {
                None => script.push_str(&block.text),
                Some(name) => {
                    let _ = writeln!(script, "( {} ) >{name}.log 2>&1 &", block.text.trim_end());
                    if name == "manager" {
                        let _ = writeln!(
                            script,
                            "until (exec 3<>/dev/tcp/127.0.0.1/{}) 2>/dev/null; do kill -0 $!; done",
                            self.ports[1].number()
                        );
                    }
                }
            }
        }
        let mut command = Command::new("bash");
        let path = std::env::join_paths(
            [folder.join("bin"), tools::folder().join("bin")]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )
        .unwrap();
        command.args(["-c", &script]).current_dir(folder).env_clear();
        command.env("PATH", path).env("HOME", folder).env("USER", "newcomer");
        command.env("HOST", "127.0.0.1").env("D", folder.join("manager")).env("MANAGER", self.ports[1].address().to_string());
        let done = run(command, b"");
        let log = |name: &str| fs_err::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(
            done.code,
            0,
            "the lines of README.md failed\n--- stdout\n{}--- stderr\n{}--- manager\n{}--- agent\n{}",
            done.stdout,
            done.stderr,
            log("manager.log"),
            log("agent.log")
        );
        done.stdout
    }

    fn is_installed(&self) -> bool {
        self.place.path().join("root/opt/clamav/bin/clamscan").exists()
    }
}

fn skip() -> bool {
    tools::skip_without("bash")
}

#[test]
fn the_lines_of_the_story_work_as_they_stand() {
    if skip() {
        return;
    }
    let sandbox = Sandbox::new();
    let out = sandbox.run(&blocks("story"));
    assert!(sandbox.is_installed(), "{out}");
    assert!(out.contains("SUCCEEDED"), "{out}");
}

#[test]
fn the_lines_of_the_story_with_grpcurl_work_as_they_stand() {
    if skip() || tools::skip_without("grpcurl") {
        return;
    }
    let sandbox = Sandbox::new();
    // The manager is made and served as in the story; everything else is grpcurl's.
    let manager: Vec<Block> = blocks("story").into_iter().take_while(|block| !block.text.contains("group create")).collect();
    assert!(manager.iter().any(|block| block.background.as_deref() == Some("manager")));
    let out = sandbox.run(&manager.into_iter().chain(blocks("grpcurl")).collect::<Vec<_>>());
    assert!(sandbox.is_installed(), "{out}");
    assert!(out.contains("EXECUTION_STATE_SUCCEEDED"), "{out}");
}

#[test]
fn the_lines_about_machines_work_as_they_stand() {
    if skip() {
        return;
    }
    let sandbox = Sandbox::new();
    let out = sandbox.run(&blocks("story").into_iter().chain(blocks("clients")).collect::<Vec<_>>());
    for wanted in ["FACTS.OS.PRETTY NAME", "id,facts.cpu.count,facts.own.rack,labels.site\n", "What is this machine for? (office, lab)"] {
        assert!(out.contains(wanted), "{wanted:?} is not in {out}");
    }
    let answered = out.lines().filter(|line| line.ends_with("  lab")).count();
    assert_eq!(answered, 1, "the client is in the group by its answer: {out}");
}

#[test]
fn the_lines_about_packaging_work_as_they_stand() {
    if skip() || tools::skip_without("dpkg-deb") || tools::skip_without("gcc") {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |path: &str| sandbox.place.path().join(path);
    let write = |path: &str, text: &str| {
        fs_err::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs_err::write(at(path), text).unwrap();
        fs_err::set_permissions(at(path), PermissionsExt::from_mode(0o755)).unwrap();
    };
    write(
        "deb/DEBIAN/control",
        "Package: vendor\nVersion: 1.2-1\nArchitecture: all\nMaintainer: V <v@example.org>\nDescription: Theirs.\n",
    );
    write("deb/usr/bin/vendor", "#!/bin/sh\n");
    write("suite/install.sh", "#!/bin/sh\n");
    write("suite/uninstall.sh", "#!/bin/sh\n");
    write("tool.c", "int main(void) { return 0; }\n");
    for line in ["dpkg-deb --root-owner-group --build deb vendor_1.2-1_all.deb", "gcc -static -o tool tool.c"] {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(sandbox.place.path());
        run(command, b"").ok();
    }
    let manager: Vec<Block> = blocks("story").into_iter().take_while(|block| !block.text.contains("group create")).collect();
    let out = sandbox.run(&manager.into_iter().chain(blocks("packaging")).collect::<Vec<_>>());
    for wanted in
        ["fine", "vendor@1.2-1", "/usr/bin/dpkg --force-confdef", "0 B of", "has no detection rule", "packages/tool/versions/1.2.3"]
    {
        assert!(out.contains(wanted), "{wanted:?} is not in {out}");
    }
}

#[test]
fn the_lines_about_a_package_that_needs_another_work_as_they_stand() {
    if skip() {
        return;
    }
    let sandbox = Sandbox::new();
    let out = sandbox.run(&blocks("story").into_iter().chain(blocks("relations")).collect::<Vec<_>>());
    assert!(sandbox.place.path().join("root/opt/scanner/nightly").exists(), "{out}");
    for wanted in ["scanner needs it >=1.4, <2", "asked for", "clamav@1.4 (for scanner) scanner@1.0"] {
        assert!(out.contains(wanted), "{wanted:?} is not in {out}");
    }
}

/// The words between back-quotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_note_names_tests_that_there_are() {
    let readme = readme();
    let notes = readme.split("\n## ").find(|section| section.starts_with("Notes\n")).expect("there is a section Notes");
    let mut sources = String::new();
    sources_below(&root().join("tests/tests"), &mut sources);
    sources_below(&root().join("agent/tests"), &mut sources);
    let notes: Vec<&str> = notes.split("\n- ").skip(1).collect();
    assert!(notes.len() >= 6);
    for note in notes {
        let tests: Vec<_> = quoted(note)
            .into_iter()
            .filter(|word| word.matches('_').count() >= 3 && !word.contains(' ') && !word.starts_with("sutler_"))
            .collect();
        assert!(!tests.is_empty(), "no test keeps this note: {note}");
        for test in tests {
            let there = sources.contains(&format!("#[test]\nfn {test}()")) || sources.contains(&format!("test]\nasync fn {test}()"));
            assert!(there, "there is no test {test}");
        }
    }
}

fn sources_below(folder: &Path, text: &mut String) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_below(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.push_str(&fs_err::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_file_that_it_links_to_is_there() {
    let readme = readme();
    for part in readme.split("](").skip(1) {
        let target = part.split(')').next().unwrap();
        if !target.contains("://") && !target.starts_with('#') {
            assert!(root().join(target).exists(), "README.md links to {target}");
        }
    }
}

#[test]
fn the_agents_unit_gives_installers_nothing_to_inherit_and_the_managers_is_hardened() {
    let settings = |path: &str| -> Vec<(String, String)> {
        let text = fs_err::read_to_string(root().join(path)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let has = |unit: &[(String, String)], key: &str, value: &str| unit.iter().any(|(k, v)| k == key && v == value);
    let agent = settings("agent/systemd/sutler-agent.service");
    assert!(has(&agent, "KillMode", "process"));
    for (key, _) in &agent {
        let inherited = [
            "Protect",
            "Private",
            "Restrict",
            "Limit",
            "NoNew",
            "Nice",
            "Environment",
            "SystemCall",
            "CPU",
            "Memory",
            "IO",
            "OOM",
            "Read",
            "UMask",
            "User",
        ];
        assert!(!inherited.iter().any(|start| key.starts_with(start)), "an installer would inherit {key}");
    }
    let manager = settings("manager/systemd/sutler.service");
    for (key, value) in
        [("NoNewPrivileges", "yes"), ("ProtectSystem", "strict"), ("ProtectHome", "yes"), ("CapabilityBoundingSet", ""), ("User", "sutler")]
    {
        assert!(has(&manager, key, value), "{key}={value} is missing");
    }
    let enrolment = settings("agent/systemd/sutler-agent-enroll.service");
    assert!(enrolment.iter().any(|(key, value)| key == "ExecStart" && value.contains("--remove-token-file")));
}
