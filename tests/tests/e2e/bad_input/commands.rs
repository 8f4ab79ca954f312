//! The tables of bad command lines, bad packages and bad files of rows.

use super::{World, changed, harmless, table};
use sutler_tests::harness::{PackageFolder, run, words};

#[test]
fn every_bad_command_line_of_the_table_ends_with_its_code_and_changes_nothing() {
    let world = World::new();
    let before = world.reader.rows();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for cells in table(include_str!("commands.txt")) {
        let [code, names, line] = cells[..] else { panic!("three cells are wanted: {cells:?}") };
        let line = world.filled(line).replace("$ESC", "\u{1b}").replace("$RLO", "\u{202e}");
        count += 1;
        let done = run(world.cli.command(&words(&line)), b"");
        let mut say = |what: String| wrong.push(format!("{line:?}: {what}"));
        if done.code != code.parse::<i32>().expect("a code is a number") {
            say(format!("{} instead of {code}: {}{}", done.code, done.stdout, done.stderr));
        } else if names != "-" && !done.stderr.contains(names) {
            say(format!("{names:?} is not named in {}", done.stderr));
        }
        if done.stderr.is_empty() || done.stderr.len() > 16 << 10 {
            say(format!("it says {} bytes", done.stderr.len()));
        }
        if let Some(c) = done.stderr.chars().find(|c| *c != '\n' && sutler_base::is_harmful(*c)) {
            say(format!("it says {c:?}: {:?}", done.stderr));
        }
        changed(&before, &world.reader.rows()).into_iter().for_each(&mut say);
    }
    assert!(wrong.is_empty(), "{} of {count} command lines:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_bad_package_of_the_table_is_refused_with_its_place_and_nothing_of_it_stays() {
    let world = World::new();
    let before = world.reader.rows();
    let mut wrong = Vec::new();
    for cells in table(include_str!("packages.txt")) {
        let [names, text] = cells[..] else { panic!("two cells are wanted: {cells:?}") };
        let package = PackageFolder::with("bad", "1.0", "");
        package.file("bin/x", "x");
        // A NUL may stand in a file but not in a table.
        let toml = text.replace("\\n", "\n");
        match toml.strip_prefix('^') {
            Some(whole) => fs_err::write(package.toml(), whole.replace("\\u0000", "\0")).expect("it can be written"),
            None => package.append(&toml),
        }
        let done = world.cli.run(&format!("package push {}", package.path().display()));
        let mut say = |what: String| wrong.push(format!("{text:?}: {what}"));
        if done.code != 1 {
            say(format!("{} instead of 1: {}{}", done.code, done.stdout, done.stderr));
        } else if !done.stderr.contains(names) {
            say(format!("{names:?} is not named in {}", done.stderr));
        }
        if let Some(c) = done.stderr.chars().find(|c| *c != '\n' && sutler_base::is_harmful(*c)) {
            say(format!("it says {c:?}: {:?}", done.stderr));
        }
        changed(&before, &world.reader.rows()).into_iter().for_each(&mut say);
    }
    assert!(wrong.is_empty(), "{} packages:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_bad_file_of_rows_is_refused_whole_and_its_lines_are_named() {
    let world = World::new();
    let before = world.reader.rows();
    let file = world.manager.scratch().join("rows");
    let good = &world.client;
    let files: [(&str, Vec<u8>, &[&str]); 10] = [
        ("group add machines --file", b"".to_vec(), &["0 rows"]),
        ("group add machines --file", b"\xff\xfe\x00".to_vec(), &["UTF-8"]),
        ("group add machines --file", format!("{good}\n\n# note\nnobody-knows-it\n").into(), &["line 4"]),
        ("group add machines --file", format!("{good}\n=cmd()\nnobody\n").into(), &["line 2", "line 3"]),
        ("group add machines --file", format!("{good}\n\u{1b}[31m\n").into(), &["line 2"]),
        ("group add machines --file", "label:site\n".into(), &["line 1"]),
        ("client label import", format!("{good},A B,x\n").into(), &["line 1"]),
        ("client label import", format!("{good},site,berlin\nnobody,site,x\n").into(), &["line 2"]),
        ("client label import", format!("{good},site,berlin\n{good},site,paris\n").into(), &["line 2"]),
        ("client label import", format!("{good}\n").into(), &["line 1"]),
    ];
    for (command, content, names) in files {
        fs_err::write(&file, &content).unwrap();
        let done = world.cli.run(&format!("{command} {}", file.display()));
        assert!(done.code == 1 || done.code == 2, "`{command}` with {:?} ended with {}", String::from_utf8_lossy(&content), done.code);
        harmless(command, &done.stderr);
        done.says(names);
        assert_eq!(changed(&before, &world.reader.rows()), None, "`{command}` with {:?}", String::from_utf8_lossy(&content));
    }
    // More bad rows than an answer can name: some of them are, and how many more there are.
    let many: String = (0..5000).map(|n| format!("nobody-{n}\n")).collect();
    fs_err::write(&file, many).unwrap();
    let done = world.cli.fails(1, &format!("group add machines --file {}", file.display())).says(&["line 1", "more"]);
    assert!(done.stderr.len() < 16 << 10, "{} bytes", done.stderr.len());
    assert_eq!(changed(&before, &world.reader.rows()), None);
}
