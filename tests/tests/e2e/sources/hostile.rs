//! Hostile files, made by the tools that make honest ones: refused by lint and by push, with the entry named, and nothing is left.

use super::{findings, tool, within};
use std::path::Path;
use sutler_tests::harness::cleanup::Place;
use sutler_tests::harness::{Cli, Manager};
use sutler_tests::tools;

/// Both commands refuse `file` with these words, and neither leaves anything here or there.
fn refused(cli: &Cli, folder: &Path, file: &str, wanted: &str) {
    let linted = within(cli, folder, &format!("package lint {file} --name x --version 1 -o json")).ends_with(1);
    let found = findings(&linted);
    assert!(found.len() == 1 && found[0].starts_with("error: ") && found[0].contains(wanted), "{wanted:?} is not in {found:?}");
    within(cli, folder, &format!("package push {file} --name x --version 1")).ends_with(1).says(&[wanted, file]);
    assert_eq!(cli.json("package list").as_array().unwrap().len(), 0);
}

#[test]
fn hostile_archives_and_packages_are_refused_with_the_entry_named_and_nothing_is_written() {
    if ["tar", "ar", "gzip", "mkfifo"].into_iter().any(tools::skip_without) {
        return;
    }
    let place = Place::new("hostile");
    let folder = place.path();
    let manager = Manager::start();
    let cli = manager.cli();
    let at = |path: &str| folder.join(path);
    fs_err::create_dir_all(at("in/d")).unwrap();
    fs_err::write(at("in/file"), "evil").unwrap();
    fs_err::write(at("in/d/inner"), "evil").unwrap();
    std::os::unix::fs::symlink("/etc", at("in/away")).unwrap();
    std::os::unix::fs::symlink("d", at("in/link")).unwrap();
    tool(folder, "mkfifo in/pipe");
    fs_err::File::create(at("in/zeros")).unwrap().set_len(400 << 20).unwrap();
    let control = "Package: x\nVersion: 1\nArchitecture: all\nDescription: x\n";
    fs_err::write(at("control"), control).unwrap();
    fs_err::write(at("debian-binary"), "2.0\n").unwrap();
    tool(folder, "tar -czf control.tar.gz ./control");
    let below = "in/link in/d --transform 's,^in/d,in/link,S'";
    for (members, wanted, of_deb) in [
        ("in/file -P --transform 's,^in,../../up,'", "\"../../up/file\" climbs with \\\"..\\\"", true),
        ("in/file -P --transform 's,^in,/etc,'", "\"/etc/file\" has an absolute path", true),
        ("in/away", "\"in/away\" is a link to \"/etc\", which leaves the package", false),
        (below, "\"in/link", true),
        ("in/pipe", "\"in/pipe\" is a named pipe", true),
        ("/dev/null", "\"dev/null\" is a character device", true),
        ("in/file in/file --hard-dereference", "\"in/file\" comes twice", true),
        ("in/zeros", "\"in/zeros\" ", true),
    ] {
        let wanted = wanted.replace("\\\"", "\"");
        tool(folder, &format!("tar -czf data.tar.gz {members}"));
        refused(&cli, folder, "data.tar.gz", &wanted);
        if of_deb {
            let _ = fs_err::remove_file(at("x.deb"));
            tool(folder, "ar rc x.deb debian-binary control.tar.gz data.tar.gz");
            refused(&cli, folder, "x.deb", &wanted);
        }
    }
    // Names that lie.
    tool(folder, "tar -czf data.tar.gz in/file");
    let _ = fs_err::remove_file(at("clamav_1_all.deb"));
    tool(folder, "ar rc clamav_1_all.deb debian-binary control.tar.gz data.tar.gz");
    refused(&cli, folder, "clamav_1_all.deb", "the file is named for \"clamav\"");
    fs_err::write(at("control"), control.replace("Package: x", "Package: --force-all")).unwrap();
    tool(folder, "tar -czf control.tar.gz ./control");
    tool(folder, "ar rc y.deb debian-binary control.tar.gz data.tar.gz");
    refused(&cli, folder, "y.deb", "control, field Package");
}

#[test]
fn an_rpm_whose_header_lies_about_its_payload_is_refused() {
    if tools::skip_without("rpmbuild") {
        return;
    }
    let place = Place::new("lying-rpm");
    let folder = place.path();
    let manager = Manager::start();
    let cli = manager.cli();
    let bytes = fs_err::read(super::rpm(folder, "w.ufdio")).unwrap();
    let change = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to);
        fs_err::write(folder.join("x.rpm"), changed).unwrap();
    };
    change(b"./usr/bin/hi\0", b"./../bin/hi.\0");
    refused(&cli, folder, "x.rpm", "\"./../bin/hi.\" climbs");
    change(b"./usr/bin/hi\0", b"./usr/bin/ha\0");
    refused(&cli, folder, "x.rpm", "\"./usr/bin/ha\" is in the payload, but the header does not list it");
    change(b"./usr/bin/hi\0", b"/usr/bin//hi\0");
    refused(&cli, folder, "x.rpm", "has an absolute path");
    fs_err::write(folder.join("x.rpm"), &bytes[..bytes.len() - 200]).unwrap();
    refused(&cli, folder, "x.rpm", "cut off");
}
