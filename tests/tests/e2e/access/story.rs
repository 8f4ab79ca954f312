//! A second operator as people make one: the key never leaves the machine on which it was made.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use sutler_tests::harness::{Cli, Manager, PATIENCE, Setup, programs, run, wait_for, wait_until, words};
use sutler_tests::tools;

#[test]
fn a_second_operator_is_made_of_a_request_and_its_key_stays_where_it_was_made() {
    let manager = Manager::start();
    let (anna, place) = (manager.cli(), manager.scratch().join("bea"));
    let bea = Cli::new(&place).at(manager.addresses().operators.to_string());
    anna.ok("group create inside");
    anna.ok("group create outside");
    let (request, bundle) = (manager.scratch().join("bea.request"), manager.scratch().join("bea.bundle"));
    let (request, bundle) = (request.display(), bundle.display());

    bea.ok(&format!("profile request acme -o {request}"));
    let first = fs_err::read_to_string(request.to_string()).unwrap();
    assert!(first.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{first}");
    assert_eq!(bea.ok("profile request acme"), first, "the same request again");
    assert_eq!(bea.json("profile list"), serde_json::json!([]), "not a profile yet");

    anna.ok(&format!("operator create bea --role deployer:inside --role viewer --request {request} -o {bundle}"));
    let given = fs_err::read_to_string(bundle.to_string()).unwrap();
    assert!(!given.contains("PRIVATE"), "{given}");
    bea.ok(&format!("profile import {bundle}"));
    let own = bea.json("operator show");
    assert_eq!(own["name"], "operators/bea", "{own}");
    assert!(!place.join("profiles/acme/request.key").exists());

    // What its roles allow, and what not.
    bea.ok("client list");
    bea.fails(1, "group create another").says(&["without a scope"]);
    bea.fails(1, "audit list").says(&["AUDITOR"]);
    bea.fails(1, "operator list").says(&["AUDITOR"]);
    let listed = anna.ok("operator list -o csv");
    assert!(listed.contains("bea,deployer:inside viewer"), "{listed}");

    // Somebody else's bundle is of no use, nor the same one once more.
    Cli::new(&manager.scratch().join("cid")).fails(1, &format!("profile import {bundle}")).says(&["has asked for this certificate"]);
    bea.fails(1, &format!("profile import {bundle}"));

    // A lost key: another one for the same operator, and the old one is of no use any more.
    let lost = Cli::new(&manager.scratch().join("new")).at(manager.addresses().operators.to_string());
    lost.ok(&format!("profile request acme -o {request}"));
    anna.ok(&format!("operator issue bea --request {request} -o {bundle}"));
    lost.ok(&format!("profile import {bundle}"));
    assert_eq!(lost.json("operator show")["name"], "operators/bea");
    bea.fails(1, "operator show").says(&["revoked"]);

    anna.fails(2, "operator revoke bea");
    anna.ok("operator update bea --role viewer");
    let roles = lost.json("operator show")["roles"].clone();
    assert_eq!((roles.as_array().map(Vec::len), &roles[0]["role"]), (Some(1), &serde_json::json!("ROLE_VIEWER")));
    anna.ok("operator revoke bea --yes");
    lost.fails(1, "operator show").says(&["revoked"]);
    anna.fails(1, &format!("operator create bea --role viewer --request {request}")).says(&["never used again"]);
}

#[test]
fn an_operator_without_a_key_is_helped_on_the_managers_host_whether_it_runs_or_not() {
    let mut manager = Manager::start();
    let place = manager.scratch().join("bea");
    let (request, bundle) = (manager.scratch().join("request"), manager.scratch().join("bundle"));
    let (request, bundle) = (request.display().to_string(), bundle.display().to_string());
    let issue = format!("operator issue anna --dir {} --request {request} -o {bundle}", manager.folder().display());
    let name = manager.cli().json("operator show")["name"].as_str().unwrap().trim_start_matches("operators/").to_owned();
    let issue = issue.replace("issue anna", &format!("issue {name}"));

    use std::os::unix::fs::PermissionsExt as _;
    let socket = fs_err::metadata(manager.folder().join("local.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    for serving in [true, false] {
        let at = Cli::new(&place).at(manager.addresses().operators.to_string());
        at.ok(&format!("profile request acme -o {request}"));
        if !serving {
            manager.stop();
        }
        // Somebody with no profile at all, who can use the folder.
        Cli::new(&manager.scratch().join("none")).ok(&issue);
        if !serving {
            manager.serve();
        }
        at.ok(&format!("profile import {bundle}"));
        assert_eq!(at.json("operator show")["name"], format!("operators/{name}"));
    }
    manager.cli().fails(1, "operator show").says(&["revoked"]);
    // Nobody is made this way.
    Cli::new(&place).ok(&format!("profile request other -o {request}"));
    Cli::new(&place).fails(1, &issue.replace(&format!("issue {name}"), "issue nobody")).says(&["no operator nobody"]);
}

#[test]
fn the_key_of_a_profile_is_encrypted_and_stays_so_when_it_is_renewed() {
    let manager = Manager::start();
    let (place, anna) = (manager.scratch().join("bea"), manager.cli());
    let bea = Cli::new(&place).at(manager.addresses().operators.to_string());
    let file = |name: &str, text: &str| {
        let path = manager.scratch().join(name);
        fs_err::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "correct horse battery\n"), file("wrong", "something else entirely\n"));
    let (request, bundle) = (manager.scratch().join("request"), manager.scratch().join("bundle"));
    bea.ok(&format!("profile request acme -o {} --passphrase-file {right}", request.display()));
    anna.ok(&format!("operator create bea --role viewer --request {} -o {}", request.display(), bundle.display()));
    // What needs no key needs no passphrase.
    bea.ok(&format!("profile import {}", bundle.display()));
    bea.ok("profile list");
    let key = || fs_err::read_to_string(place.join("profiles/acme/operator.key")).unwrap();
    let first = key();
    assert!(first.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{first}");
    bea.fails(1, "client list").says(&["encrypted", "--passphrase-file"]);
    bea.fails(1, &format!("client list --passphrase-file {wrong}")).says(&["passphrase"]);
    bea.ok(&format!("client list --passphrase-file {right}"));
    bea.ok(&format!("profile renew --passphrase-file {right}"));
    assert!(key() != first && key().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{}", key());
    bea.ok(&format!("client list --passphrase-file {right}"));
}

#[test]
fn a_renewal_asks_for_the_passphrase_once() {
    if tools::skip_without("script") {
        return;
    }
    let manager = Manager::start();
    let anna = manager.cli();
    let bea = Cli::new(&manager.scratch().join("bea")).at(manager.addresses().operators.to_string());
    let (request, bundle, file) =
        (manager.scratch().join("request"), manager.scratch().join("bundle"), manager.scratch().join("passphrase"));
    fs_err::write(&file, "correct horse battery\n").unwrap();
    bea.ok(&format!("profile request acme -o {} --passphrase-file {}", request.display(), file.display()));
    anna.ok(&format!("operator create bea --role viewer --request {} -o {}", request.display(), bundle.display()));
    bea.ok(&format!("profile import {}", bundle.display()));
    let certificate = || fs_err::read(manager.scratch().join("bea/profiles/acme/operator.pem")).unwrap();
    let first = certificate();

    // A terminal, at which somebody types when it asks.
    let plain = bea.command(&["profile", "renew"]);
    let line: Vec<String> =
        std::iter::once(plain.get_program()).chain(plain.get_args()).map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut command = Command::new(tools::tool("script").expect("it was asked for"));
    command.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]).env("SUTLER_CONFIG_DIR", bea.config());
    command.env_remove("SUTLER_PASSPHRASE_FILE").env_remove("SUTLER_PROFILE");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let shown = Arc::new(Mutex::new(Vec::new()));
    let copy = shown.clone();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut bytes) {
            copy.lock().unwrap().extend_from_slice(&bytes[..n]);
        }
    });
    let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
    let questions = || text().matches("the profile acme").count();
    wait_until("the passphrase to be asked for", PATIENCE, || questions() > 0);
    keyboard.write_all(b"correct horse battery\n").unwrap();
    let ended = wait_for("the command to end, or to ask again", PATIENCE, || match child.try_wait().unwrap() {
        Some(status) => Some(Some(status)),
        None => (questions() > 1).then_some(None),
    });
    drop(keyboard);
    let _ = child.kill();
    let _ = child.wait();
    reader.join().unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{}", text());
    assert_ne!(certificate(), first);
}

#[test]
fn an_operators_certificate_renews_itself_up_to_thirty_days_after_it_ended() {
    if tools::skip_without("faketime") {
        return;
    }
    // It lasts 12 hours, so that the thirty days after that are over half a day later.
    for (later, renews) in [("+30d", true), ("+31d", false)] {
        let wrapper = programs::by_clock(later);
        let mut manager = Manager::init(Setup::default());
        manager.within(&wrapper);
        manager.serve();
        let cli = manager.cli();
        let then = |line: &str| run(programs::within(&wrapper, cli.command(&words(line))), b"");
        let certificate = || fs_err::read(cli.profile().join("operator.pem")).unwrap();
        let first = certificate();
        if renews {
            then("profile renew").ok();
            assert_ne!(certificate(), first);
            then("group create machines").ok();
        } else {
            for line in ["profile renew", "group create machines"] {
                then(line).ends_with(1).says(&["ended", "operator issue"]);
            }
            assert_eq!(certificate(), first);
        }
    }
}
