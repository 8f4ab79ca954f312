//! Publishers: their keys, whom the machines trust, and what was signed and is taken back.

use sutler_tests::harness::{Manager, PackageFolder};

#[test]
fn a_publishers_key_is_encrypted_with_its_passphrase_and_signs_with_it_alone() {
    let manager = Manager::start();
    let cli = manager.cli();
    let key = cli.profile().join("publisher.key");
    let secret = manager.scratch().join("passphrase");
    let wrong = manager.scratch().join("wrong");
    fs_err::write(&secret, "correct horse battery\n").unwrap();
    fs_err::write(&wrong, "correct house battery\n").unwrap();
    let before = cli.json("publisher show");
    cli.ok(&format!("publisher passphrase --new-passphrase-file {}", secret.display()));
    assert!(fs_err::read_to_string(&key).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let package = PackageFolder::counting("hello", "1.0");
    let push = format!("package push {}", package.path().display());
    cli.fails(1, &push).says(&["encrypted", "no terminal", "--passphrase-file"]);
    cli.fails(1, &format!("{push} --passphrase-file {}", wrong.display())).says(&["the passphrase is wrong"]);
    assert_eq!(cli.json("package list"), serde_json::json!([]));
    cli.ok(&format!("{push} --passphrase-file {}", secret.display()));
    assert_eq!(cli.json(&format!("publisher show --passphrase-file {}", secret.display())), before, "it is the same key");
    // Without any again, and a new one beside it that is never overwritten.
    cli.ok(&format!("publisher passphrase --no-passphrase --passphrase-file {}", secret.display()));
    assert_eq!(cli.json("publisher show"), before);
    let second = manager.scratch().join("second.key");
    cli.ok(&format!("publisher new {} --passphrase-file {}", second.display(), secret.display()));
    cli.fails(1, &format!("publisher new {} --no-passphrase", second.display())).says(&["exists already", "never overwritten"]);
    fs_err::write(&wrong, "short\n").unwrap();
    let third = manager.scratch().join("third.key");
    cli.fails(2, &format!("publisher new {} --passphrase-file {}", third.display(), wrong.display())).says(&["too short"]);
    assert!(!third.exists());
    // Where nobody can be asked it is left open, and said so.
    let done = cli.run(&format!("publisher new {}", third.display()));
    assert!(third.exists() && !done.clone().ok().is_empty());
    done.says(&["is not encrypted", "no terminal"]);
}
