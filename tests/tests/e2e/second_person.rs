//! Changes that reach a large share of the fleet: confirmed by their number while nobody could agree to them, and agreed to by a second
//! person once there are two.

use crate::access::callers::Bed;
use prost::Message as _;
use serde_json::Value;
use sutler_base::{
    state::{ApprovalState, ClientState, Role},
    token::TokenString,
};
use sutler_proto::v1;
use sutler_tests::fleet::{self, Database, Machine, Operator, Packages};
use sutler_tests::harness::{Api, Cli, Done, Manager, PATIENCE, PackageFolder, Setup, wait_until};
use tonic::Code;

/// As many clients as need a second person by default, and some.
const CLIENTS: usize = 60;

/// A manager with a package, a group `all` with [`CLIENTS`] members, and a group `few` with three of them.
struct Fleet {
    manager: Manager,
    anna: Cli,
    ids: Vec<String>,
    token: TokenString,
}

impl Fleet {
    fn new() -> Fleet {
        let config = "[limits]\nsecond_person_rest = \"0s\"\n";
        let manager = Manager::start_with(Setup { config: config.into(), ..Setup::default() });
        let anna = manager.cli();
        for name in ["hello", "other"] {
            let package = PackageFolder::counting(name, "1.0");
            anna.ok(&format!("package push {}", package.path().display()));
        }
        anna.ok("group create all");
        anna.ok("group create few");
        let token = anna.ok("token create --uses 1000 --ttl 1h --network 127.0.0.0/8 --group all");
        let token = TokenString::parse(token.trim()).unwrap();
        let mut fleet = Fleet { manager, anna, ids: vec![], token };
        (0..CLIENTS).for_each(|_| fleet.enroll());
        let few = fleet.ids[..3].join(" ");
        fleet.anna.ok(&format!("group add few {few}"));
        fleet
    }

    /// One more client, which never connects.
    fn enroll(&mut self) {
        let (_, id) = Api::client(&self.token, &format!("machine-{}", self.ids.len()));
        self.ids.push(id);
    }

    /// Another operator, with a profile of its own.
    fn operator(&self, name: &str, roles: &str) -> Cli {
        let scratch = self.manager.scratch();
        let cli = Cli::new(&scratch.join(name)).at(self.manager.addresses().operators.to_string());
        let (request, bundle) = (scratch.join(format!("{name}.request")), scratch.join(format!("{name}.bundle")));
        cli.ok(&format!("profile request acme -o {}", request.display()));
        self.anna.ok(&format!("operator create {name} {roles} --request {} -o {}", request.display(), bundle.display()));
        cli.ok(&format!("profile import {}", bundle.display()));
        cli
    }

    /// Two who may agree, and one who orders and may agree to what others order.
    fn crew(&self) -> (Cli, Cli) {
        let dan = self.operator("dan", "--role deployer --role approver");
        let bea = self.operator("bea", "--role approver");
        (dan, bea)
    }

    fn total(&self, job: &str) -> i64 {
        let counters = &self.anna.json(&format!("job show {job}"))["counters"];
        counters["total"].as_str().and_then(|n| n.parse().ok()).unwrap_or_default()
    }

    fn state(&self, job: &str) -> String {
        self.anna.json(&format!("job show {job}"))["state"].as_str().unwrap_or_default().trim_start_matches("JOB_STATE_").to_owned()
    }
}

/// The id in a sentence such as `it waits as approvals/ID until …`.
fn approval(done: &Done) -> String {
    let rest = done.stderr.split("approvals/").nth(1).unwrap_or_else(|| panic!("{}", done.stderr));
    rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
}

fn list(cli: &Cli, line: &str) -> Vec<Value> {
    cli.json(line).as_array().cloned().unwrap()
}

#[test]
fn while_nobody_could_agree_a_change_for_much_of_the_fleet_is_confirmed_by_its_number() {
    let fleet = Fleet::new();
    let anna = &fleet.anna;
    let refused = anna.fails(1, "job run --package hello --group all").says(&["60 of 60 clients", "--confirm 60"]);
    assert!(refused.stderr.contains("CONFIRM_NUMBER") || refused.stderr.contains("confirmed"), "{}", refused.stderr);
    assert_eq!(list(anna, "job list").len(), 0, "a refused job is not there, not even as a draft");
    // A number that was not looked up confirms nothing.
    for wrong in [10, 58, 62, 1_000_000] {
        anna.fails(1, &format!("job run --package hello --group all --confirm {wrong}")).says(&["--confirm 60"]);
    }
    let job = anna.id("job run --package hello --group all --confirm 60");
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("ACTIVE", 60));
    assert!(anna.ok("audit list").contains("confirm_number"));
    // A few clients are nobody else's affair, and neither is a draft.
    anna.ok("job run --package other --group few");
    let draft = anna.id("job create --package other --group all");
    anna.fails(1, &format!("job start {draft}")).says(&["--confirm 60"]);
    assert_eq!(fleet.state(&draft), "DRAFT");

    // What is changed for those who have not begun was never confirmed: 60 wait for it.
    anna.ok(&format!("job update {job} --description x"));
    anna.fails(1, &format!("job update {job} --package other")).says(&["--confirm 60"]);
    anna.ok(&format!("job update {job} --package other --confirm 60"));
}

#[test]
fn what_starts_later_is_counted_when_it_is_ordered_and_when_its_group_grows_or_its_packages_change() {
    let fleet = Fleet::new();
    let anna = &fleet.anna;
    anna.fails(1, "job run --package hello --group all --at 2099-01-31T22:00:00Z").says(&["--confirm 60"]);
    let job = anna.id("job run --package hello --group few --at 2099-01-31T22:00:00Z");
    let everybody = fleet.ids.join(" ");
    anna.fails(1, &format!("group add few {everybody}")).says(&["57 of 60 clients", &job]);
    anna.ok(&format!("group add few {everybody} --confirm 57"));
    anna.fails(1, &format!("job update {job} --package other")).says(&["60 of 60 clients"]);
    anna.ok(&format!("job update {job} --priority 3"));
}

#[test]
fn whom_a_policy_will_bring_to_a_job_is_counted_whichever_of_them_is_there_first_and_nobody_twice() {
    let fleet = Fleet::new();
    let anna = &fleet.anna;
    anna.ok("group create servers");
    // On a group without jobs it brings nobody within reach of anything.
    anna.ok("policy create everybody --group servers --trigger inventory --applies-to all");
    let later = "--at 2099-01-31T22:00:00Z";
    anna.fails(1, "job run --package hello --group servers").says(&["60 of 60 clients", "--confirm 60"]);
    anna.fails(1, &format!("job run --package hello --group servers {later}")).says(&["60 of 60 clients"]);
    anna.fails(1, "job run --package hello --group servers --exclude-group few").says(&["57 of 60 clients"]);
    let draft = anna.id("job create --package hello --group servers");
    anna.fails(1, &format!("job start {draft}")).says(&["60 of 60 clients"]);
    // Three are there already, and come by the policy as well.
    anna.fails(1, "job run --package hello --group servers --group few").says(&["60 of 60 clients"]);
    let job = anna.id("job run --package hello --group servers --confirm 60");
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("ACTIVE", 0), "the policy has looked at nobody yet");
    // What is changed for those who will come was never confirmed, nor that a job that had ended stands again.
    anna.ok(&format!("job update {job} --priority 3"));
    anna.fails(1, &format!("job update {job} --package other")).says(&["60 of 60 clients"]);
    anna.ok(&format!("job cancel {job} --yes"));
    anna.fails(1, &format!("job retry {job} --expires 2099-01-31T22:00:00Z")).says(&["60 of 60 clients"]);
    anna.ok(&format!("job retry {job} --expires 2099-01-31T22:00:00Z --confirm 60"));

    // A job that gets the group is as one that is run on it.
    for when in ["", later] {
        let small = anna.id(&format!("job run --package other --group few {when}"));
        anna.fails(1, &format!("job update {small} --add-group servers")).says(&["57 of 60 clients"]);
        anna.ok(&format!("job cancel {small} --yes"));
    }
    // So is one that loses the exclusion of those who come, and of them alone.
    let small = anna.id("job run --package other --group servers --exclude-group all --exclude-group few");
    anna.ok(&format!("job update {small} --include-group few"));
    anna.fails(1, &format!("job update {small} --include-group all")).says(&["60 of 60 clients"]);
}

#[test]
fn once_two_may_agree_a_job_waits_as_a_draft_and_is_started_once_when_another_operator_agrees() {
    let fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    let said = dan.ok("job run --package hello --group all");
    assert!(said.contains("waits as a draft") && said.contains("60 of 60 clients"), "{said}");
    let job = said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0));
    // A number is no second person.
    dan.ok(&format!("job start {job} --confirm 60"));
    assert_eq!(fleet.state(&job), "DRAFT");
    let waiting = list(&bea, "job list --waiting-for-approval");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0]["approval"]["requester"], "operators/dan");
    assert_eq!(list(&bea, "approval list").len(), 1, "ordered twice it waits once");
    let events = fleet.anna.ok("events --since 1h -o json");
    assert!(events.contains("APPROVAL_NEEDED"), "{events}");

    // Whoever ordered it has agreed already: that counts for nothing.
    dan.fails(1, &format!("job approve {job}")).says(&["another operator"]);
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0));
    bea.ok(&format!("job approve {job}"));
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("ACTIVE", 60));
    bea.fails(1, &format!("job approve {job}")).says(&["nothing about it waits"]);
    let decided = list(&bea, "approval list --decided");
    assert_eq!(
        (decided.len(), &decided[0]["state"], &decided[0]["decider"]),
        (1, &"APPROVAL_STATE_APPROVED".into(), &"operators/bea".into())
    );
    bea.fails(1, &format!("approval approve {}", decided[0]["name"].as_str().unwrap())).says(&["decided once"]);
    let audit = fleet.anna.ok("audit list");
    assert!(["ask_approval", "approve_change", "start_job"].iter().all(|action| audit.contains(action)), "{audit}");

    // Not agreed to: never started, and free to be ordered again.
    let said = dan.ok("job run --package other --group all");
    let job = said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    bea.ok(&format!("job reject {job} --reason 'not today'"));
    assert_eq!(fleet.state(&job), "DRAFT");
    assert!(list(&bea, "job list --waiting-for-approval").is_empty());
    assert!(bea.ok("approval list --decided -o json").contains("not today"));
    dan.ok(&format!("job start {job}"));
    bea.ok(&format!("job approve {job}"));
    assert_eq!(fleet.total(&job), 60);
}

#[test]
fn what_was_changed_since_it_was_ordered_is_not_agreed_to() {
    let mut fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    let run = |package: &str| {
        let said = dan.ok(&format!("job run --package {package} --group all"));
        said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned()
    };
    // Its package.
    let job = run("hello");
    dan.ok(&format!("job update {job} --package other"));
    bea.fails(1, &format!("job approve {job}")).says(&["was changed"]);
    assert_eq!(fleet.state(&job), "DRAFT");
    // It is ordered as it is now, and the fleet grows beyond what was asked for.
    dan.ok(&format!("job start {job}"));
    fleet.enroll();
    fleet.enroll();
    bea.fails(1, &format!("job approve {job}")).says(&["62 clients by now"]);
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0), "nothing of it was done");
    dan.ok(&format!("job start {job}"));
    // One more is no other fleet.
    fleet.enroll();
    // What the one who ordered it may not do any more is not done for it.
    fleet.anna.ok("operator update dan --role deployer:few --role approver");
    bea.fails(1, &format!("job approve {job}")).says(&["was changed"]);
    fleet.anna.ok("operator update dan --role deployer --role approver");
    bea.ok(&format!("job approve {job}"));
    assert_eq!(fleet.total(&job), 63);
    // What is over waits for nobody.
    let job = run("hello");
    dan.ok(&format!("job archive {job}"));
    assert!(list(&bea, "approval list").is_empty());
}

#[test]
fn what_runs_is_what_was_agreed_to_with_its_versions_and_its_plan() {
    let fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    let push = |version: &str| {
        let package = PackageFolder::counting("hello", version);
        fleet.anna.ok(&format!("package push {}", package.path().display()));
    };
    let draft = |line: &str| {
        let said = dan.ok(line);
        assert!(said.contains("waits as a draft"), "{said}");
        said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned()
    };
    let packages = |job: &str| {
        let job = fleet.anna.json(&format!("job show {job}"));
        job["packages"].as_array().unwrap().iter().map(|p| p["package"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let has = |job: &str, version: &str| {
        let found = packages(job);
        assert!(found.iter().all(|p| p.contains(&format!("/versions/{version}"))), "{found:?}");
    };
    // What was the newest when it was ordered is installed, whatever comes meanwhile.
    let job = draft("job run --package hello --group all");
    has(&job, "1.0");
    push("2.0");
    let shown = bea.json(&format!("approval show {}", list(&bea, "approval list")[0]["name"].as_str().unwrap()));
    assert_eq!(shown["packages"], serde_json::json!(["packages/hello/versions/1.0"]));
    bea.ok(&format!("job approve {job}"));
    has(&job, "1.0");
    dan.ok(&format!("job cancel {job} --yes"));
    // What follows the newest would be another one by now.
    let job = draft("job run --package hello@latest --group all");
    push("3.0");
    bea.fails(1, &format!("job approve {job}")).says(&["hello@3.0", "have it ordered again"]);
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0), "nothing of it was done");
    dan.ok(&format!("job start {job}"));
    bea.ok(&format!("job approve {job}"));
    dan.ok(&format!("job cancel {job} --yes"));
    // So would what a job that stands gets.
    let job = draft("job run --package other --group all");
    bea.ok(&format!("job approve {job}"));
    let change = approval(&dan.fails(1, &format!("job update {job} --package hello")));
    push("4.0");
    bea.fails(1, &format!("approval approve {change}")).says(&["hello@4.0"]);
    has(&job, "1.0");
    bea.ok(&format!("approval reject {change}"));
    dan.ok(&format!("job cancel {job} --yes"));

    // Whoever runs a plan runs that, also when it had to wait.
    let planned = || dan.json("job plan --package hello --group all")["name"].as_str().unwrap().trim_start_matches("plans/").to_owned();
    let plan = planned();
    let job = draft(&format!("job run --plan {plan}"));
    assert_eq!(bea.json(&format!("job show {job}"))["approval"]["plan"], format!("plans/{plan}"));
    fleet.anna.ok("policy create everybody --group all");
    bea.fails(1, &format!("job approve {job}")).says(&["policies/everybody is new", "plan it again"]);
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0), "nothing of it was done");
    // To order the draft anew takes nothing of what it is held to.
    dan.ok(&format!("job start {job}"));
    bea.fails(1, &format!("job approve {job}")).says(&["policies/everybody is new"]);
    let job = draft(&format!("job run --plan {}", planned()));
    bea.ok(&format!("job approve {job}"));
    assert_eq!(fleet.total(&job), 60);
}

#[test]
fn the_classic_accident_is_a_policy_or_a_file_of_members_and_waits_for_a_second_person_too() {
    let fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    dan.ok("group create servers");
    let job = dan.id("job run --package hello --group servers");
    let everybody = fleet.manager.scratch().join("everybody");
    fs_err::write(&everybody, fleet.ids.join("\n")).unwrap();

    let add = format!("group add servers --file {}", everybody.display());
    let refused = dan.fails(1, &add).says(&["60 of 60 clients", "another operator"]);
    assert!(!dan.ok("group members servers").contains(&fleet.ids[7]));
    let id = approval(&refused);
    let shown = bea.json(&format!("approval show {id}"));
    assert_eq!((&shown["sentence"], &shown["method"]), (&"add 60 clients to groups/servers".into(), &"GroupService/AddMembers".into()));
    assert_eq!(shown["reaches"][0]["job"], format!("jobs/{job}"));
    assert!(shown["request"].as_str().unwrap().contains(&fleet.ids[7]));
    dan.fails(1, &format!("approval approve {id}")).says(&["another operator"]);
    bea.ok(&format!("approval reject {id}"));

    // A policy that looks at those who are there by what they are, one that is applied, and one that is changed.
    let create = "policy create everybody --group servers --trigger inventory --applies-to all";
    bea.ok(&format!("approval reject {}", approval(&dan.fails(1, create))));
    dan.fails(1, "policy show everybody");
    dan.ok("policy create everybody --group servers");
    let applied = approval(&dan.fails(1, "policy apply everybody").says(&["60 of 60 clients"]));
    dan.ok("policy create none --group servers --trigger inventory --applies-to all --when 'client.name == \"nobody\"'");
    let changed = approval(&dan.fails(1, "policy update none --when 'client.name != \"nobody\"'"));
    bea.ok(&format!("approval reject {changed}"));

    // A configuration is all of it or nothing.
    let file = fleet.manager.scratch().join("fleet.toml");
    let text = "[[group]]\nname = \"new\"\n[[job]]\nname = \"on-all-of-them\"\npackages = [{ package = \"other\" }]\ndestinations = [\"groups/all\"]\n";
    fs_err::write(&file, text).unwrap();
    let files = approval(&dan.fails(1, &format!("apply -f {} --yes", file.display())).says(&["another operator"]));
    dan.fails(1, "group show new");
    bea.ok(&format!("approval approve {files}"));
    dan.ok("group show new");
    assert_eq!(fleet.total("on-all-of-them"), 60);

    // The policy that was applied was agreed to as it was.
    bea.ok(&format!("approval approve {applied}"));
    assert_eq!(fleet.total(&job), 60);
    // Who is in reach already is not brought there.
    dan.ok("policy apply everybody");
    dan.ok(&add);
    // And back: what a job put there goes with whoever is taken out, but nothing was put there yet.
    dan.ok(&format!("group remove servers {}", fleet.ids.join(" ")));
}

#[test]
fn an_approval_carries_no_job_that_came_after_it_and_keeps_its_name_only_while_it_comes_to_the_same() {
    let fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    dan.ok("group create servers");
    let job = dan.id("job run --package hello --group servers");
    let everybody = fleet.manager.scratch().join("everybody");
    fs_err::write(&everybody, fleet.ids.join("\n")).unwrap();
    let id = approval(&dan.fails(1, &format!("group add servers --file {}", everybody.display())));
    // Nobody is there yet, so that it needs nobody to agree.
    let late = dan.id("job run --package other --group servers");
    bea.fails(1, &format!("approval approve {id}")).says(&[&format!("by jobs/{late}"), "have it ordered again"]);
    assert_eq!((fleet.total(&job), fleet.total(&late)), (0, 0), "nothing of it was done");

    // What waits becomes something else: who had looked at it agrees to nothing by its name.
    let draft = dan.ok("job run --package hello --group all");
    let draft = draft.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    let waits = || fleet.anna.json(&format!("job show {draft}"))["approval"]["name"].as_str().unwrap().to_owned();
    let seen = waits();
    dan.ok(&format!("job start {draft}"));
    assert_eq!(waits(), seen, "the same again goes on waiting");
    dan.ok(&format!("job update {draft} --package other"));
    dan.ok(&format!("job start {draft}"));
    assert_ne!(waits(), seen);
    bea.fails(1, &format!("approval approve {}", seen.trim_start_matches("approvals/"))).says(&["decided once"]);
    assert_eq!(fleet.state(&draft), "DRAFT");
    bea.ok(&format!("job approve {draft}"));
    assert_eq!(fleet.total(&draft), 60);
}

#[test]
fn a_second_person_is_needed_from_both_bounds_of_the_configuration_on() {
    let config = "[limits]\nsecond_person_clients = 2\nsecond_person_percent = 60\n";
    let manager = Manager::start_with(Setup { config: config.into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let token = cli.ok("token create --uses 10 --ttl 1h --network 127.0.0.0/8");
    let token = TokenString::parse(token.trim()).unwrap();
    let ids: Vec<String> = (0..4).map(|n| Api::client(&token, &format!("machine-{n}")).1).collect();
    let run = |ids: &[String]| format!("job run --package hello {}", ids.iter().map(|id| format!("--client {id} ")).collect::<String>());
    cli.ok(&run(&ids[..2]));
    cli.fails(1, &run(&ids[..3])).says(&["3 of 4 clients"]);
    ids[2..].iter().for_each(|id| drop(cli.ok(&format!("client remove {id} --yes"))));
    cli.fails(1, &run(&ids[..2])).says(&["2 of 2 clients"]);
}

#[test]
fn an_approval_is_given_once_however_often_it_is_sent_and_by_nobody_out_of_its_scope() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.second_person_clients = 2);
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    for group in ["inside", "outside"] {
        let request = v1::CreateGroupRequest { group_id: group.into(), ..Default::default() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(request).await }).unwrap();
        let clients = vec![bed.client().0.to_string(), bed.client().0.to_string()];
        let request = v1::AddMembersRequest { name: format!("groups/{group}"), clients, ..Default::default() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.add_members(request).await }).unwrap();
    }
    let (bea, cid) = (bed.operator("bea", &[(Role::Approver, &[])]), bed.operator("cid", &[(Role::Approver, &[])]));
    let eve = bed.operator("eve", &[(Role::Approver, &["inside"]), (Role::Deployer, &["inside"])]);
    let caller = |bed: &Bed, who| bed.at_operators(&bed.manager, Some(who)).unwrap();
    let (bea, cid, eve) = (caller(&bed, &bea), caller(&bed, &cid), caller(&bed, &eve));
    let call = |bed: &Bed, who: &_, method: &str, message: Vec<u8>| bed.call(who, &format!("/sutler.v1.{method}"), message.into());
    let run = |bed: &mut Bed, group: &str| {
        let request = v1::RunJobRequest {
            packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
            destinations: vec![format!("groups/{group}")],
            request_id: format!("run-{group}"),
            ..Default::default()
        };
        let again = request.clone();
        let first = bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(request).await }).unwrap();
        assert_eq!(bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(again).await }).unwrap(), first);
        first.job.unwrap()
    };
    let (inside, outside) = (run(&mut bed, "inside"), run(&mut bed, "outside"));
    let of = |job: &v1::Job| job.approval.clone().unwrap();

    // Out of a scope it does not exist.
    let list = |bed: &Bed, who: &_| {
        let bytes = call(bed, who, "ApprovalService/ListApprovals", vec![]).unwrap();
        v1::ListApprovalsResponse::decode(bytes).unwrap().approvals.into_iter().map(|a| a.job).collect::<Vec<_>>()
    };
    assert_eq!((list(&bed, &eve), list(&bed, &bea).len()), (vec![inside.name.clone()], 2));
    let approve = |approval: &v1::Approval, id: &str| {
        v1::ApproveChangeRequest { name: approval.name.clone(), request_id: id.into(), etag: approval.etag.clone() }.encode_to_vec()
    };
    let reject = |approval: v1::Approval| {
        v1::RejectChangeRequest { name: approval.name, request_id: "r".into(), ..Default::default() }.encode_to_vec()
    };
    let get = v1::GetApprovalRequest { name: of(&outside).name }.encode_to_vec();
    for (method, message) in [
        ("ApprovalService/GetApproval", get),
        ("ApprovalService/ApproveChange", approve(&of(&outside), "")),
        ("ApprovalService/RejectChange", reject(of(&outside))),
    ] {
        assert_eq!(call(&bed, &eve, method, message).unwrap_err().code(), Code::NotFound, "{method}");
    }
    // A plan is its maker's, and of those who may order everything.
    let order = v1::CreateJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/outside".into()],
        ..Default::default()
    };
    let plan = v1::PlanJobRequest { order: Some(order.clone()) };
    assert_eq!(call(&bed, &eve, "PlanService/PlanJob", plan.encode_to_vec()).unwrap_err().code(), Code::NotFound);
    let made = bed.admin.plans(&bed.manager, |mut p| async move { p.plan_job(plan).await }).unwrap().plan.unwrap();
    assert_eq!(made.needs, "APPROVAL");
    for (method, message) in [
        ("PlanService/GetPlan", v1::GetPlanRequest { name: made.name.clone() }.encode_to_vec()),
        ("PlanService/ListPlanClients", v1::ListPlanClientsRequest { parent: made.name.clone(), ..Default::default() }.encode_to_vec()),
        ("JobService/RunJob", v1::RunJobRequest { plan: made.name.clone(), ..Default::default() }.encode_to_vec()),
    ] {
        assert_eq!(call(&bed, &eve, method, message).unwrap_err().code(), Code::NotFound, "{method}");
    }

    // The same call is the same answer, and another operator's comes too late.
    let once = call(&bed, &eve, "ApprovalService/ApproveChange", approve(&of(&inside), "a")).unwrap();
    assert_eq!(call(&bed, &eve, "ApprovalService/ApproveChange", approve(&of(&inside), "a")).unwrap(), once);
    assert_eq!(call(&bed, &cid, "ApprovalService/ApproveChange", approve(&of(&inside), "b")).unwrap_err().code(), Code::FailedPrecondition);
    let once = call(&bed, &bea, "ApprovalService/RejectChange", reject(of(&outside))).unwrap();
    assert_eq!(call(&bed, &bea, "ApprovalService/RejectChange", reject(of(&outside))).unwrap(), once);
    assert_eq!(
        call(&bed, &cid, "ApprovalService/ApproveChange", approve(&of(&outside), "c")).unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[test]
fn a_call_that_waits_for_a_second_person_is_done_once_however_often_it_is_sent() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| config.limits.second_person_clients = 2);
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    let request = v1::CreateGroupRequest { group_id: "web".into(), ..Default::default() };
    bed.admin.groups(&bed.manager, |mut c| async move { c.create_group(request).await }).unwrap();
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/web".into()],
        ..Default::default()
    };
    bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(run).await }).unwrap();
    let clients = [bed.client().0.to_string(), bed.client().0.to_string()];
    let bea = bed.operator("bea", &[(Role::Approver, &[])]);
    bed.operator("cid", &[(Role::Approver, &[])]);
    let bea = bed.at_operators(&bed.manager, Some(&bea)).unwrap();
    let add = |bed: &mut Bed, id: &str, skip_bad: bool| {
        let (request_id, clients) = (id.to_owned(), clients.to_vec());
        let request = v1::AddMembersRequest { name: "groups/web".into(), clients, skip_bad, request_id, ..Default::default() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.add_members(request).await }).unwrap_err()
    };
    let members = |bed: &mut Bed| {
        let request = v1::GetGroupRequest { name: "groups/web".into() };
        bed.admin.groups(&bed.manager, |mut c| async move { c.get_group(request).await }).unwrap().group.unwrap().member_count
    };
    let decide = |bed: &Bed, method: &str, name: &str| {
        let name = format!("approvals/{name}");
        let get = v1::GetApprovalRequest { name: name.clone() }.encode_to_vec();
        let seen = bed.call(&bea, "/sutler.v1.ApprovalService/GetApproval", get.into()).unwrap();
        let etag = v1::GetApprovalResponse::decode(seen).unwrap().approval.unwrap().etag;
        let message = v1::ApproveChangeRequest { name, etag, ..Default::default() };
        // A rejection has its reason where an approval has its id.
        let message = if method == "ApproveChange" { message } else { v1::ApproveChangeRequest { etag: String::new(), ..message } };
        bed.call(&bea, &format!("/sutler.v1.ApprovalService/{method}"), message.encode_to_vec().into()).unwrap();
    };
    let name = |refused: &fleet::Refused| {
        let rest = refused.message.split("approvals/").nth(1).unwrap_or_else(|| panic!("{refused:?}"));
        rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()
    };

    let waits = add(&mut bed, "once", false);
    assert_eq!(add(&mut bed, "once", false), waits, "as long as it waits it is the same answer");
    // Another one joins it, and is the same call from then on.
    assert_eq!(name(&add(&mut bed, "twice", false)), name(&waits));
    assert_eq!(add(&mut bed, "once", true).code, Code::InvalidArgument, "another call");
    decide(&bed, "ApproveChange", &name(&waits));
    assert_eq!(members(&mut bed), 2);
    let remove = v1::RemoveMembersRequest {
        name: "groups/web".into(),
        clients: clients.iter().map(|id| format!("clients/{id}")).collect(),
        ..Default::default()
    };
    bed.admin.groups(&bed.manager, |mut c| async move { c.remove_members(remove).await }).unwrap();
    for id in ["once", "twice"] {
        let done = add(&mut bed, id, false);
        assert!(done.code == Code::FailedPrecondition && done.message.contains("is not done again"), "{done:?}");
        assert!(done.message.contains("operators/bea") && name(&done) == name(&waits), "{done:?}");
        assert_eq!(members(&mut bed), 0, "what was taken out since stays out");
    }
    // Nor is it ordered once more after somebody had said no.
    let waits = add(&mut bed, "thrice", false);
    decide(&bed, "RejectChange", &name(&waits));
    let never = add(&mut bed, "thrice", false);
    assert!(never.message.contains("was never done") && name(&never) == name(&waits), "{never:?}");
}

#[test]
fn nobody_makes_a_second_person_of_himself_or_takes_those_away_who_are() {
    const MINUTES: i64 = 60_000;
    let mut bed = Bed::tuned(Database::Sqlite, |config| {
        config.limits.second_person_clients = 2;
        config.limits.second_person_rest = std::time::Duration::from_secs(3600);
    });
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    let clients = [bed.client().0, bed.client().0].map(|id| format!("clients/{id}"));
    let run = |bed: &mut Bed, confirm: i64| {
        let request = v1::RunJobRequest {
            packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
            destinations: clients.to_vec(),
            confirm,
            ..Default::default()
        };
        bed.admin.jobs(&bed.manager, |mut c| async move { c.run_job(request).await }).map(|answer| answer.job.unwrap())
    };
    let waits = |job: &v1::Job| job.approval.clone().expect("it waits");
    let approve = |bed: &Bed, who: &sutler_certs::Credential, seen: &v1::Approval| {
        let caller = bed.at_operators(&bed.manager, Some(who)).unwrap();
        let message = v1::ApproveChangeRequest { name: seen.name.clone(), etag: seen.etag.clone(), ..Default::default() };
        bed.call(&caller, "/sutler.v1.ApprovalService/ApproveChange", message.encode_to_vec().into()).map(drop)
    };
    let too_new = |refused: Result<(), tonic::Status>, word: &str| {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("nobody makes a second person of himself") && refused.message().contains(word), "{refused}");
    };
    let approver: &[(Role, &[&str])] = &[(Role::Approver, &[])];
    let bea = bed.operator("bea", approver);
    bed.operator("cid", approver);
    // They are nobody's second persons yet, and so nobody needs one.
    assert!(run(&mut bed, 0).unwrap_err().message.contains("--confirm 2"));
    bed.manager.step_clock(61 * MINUTES);
    let ordered = run(&mut bed, 2).unwrap();
    let old = waits(&ordered);

    // An operator of one's own, and a certificate in the place of somebody else's, agree to nothing.
    let eve = bed.operator("eve", approver);
    too_new(approve(&bed, &eve, &old), "until");
    let key = sutler_certs::PrivateKey::generate().unwrap();
    let issue = v1::IssueOperatorCertificateRequest { name: "operators/cid".into(), csr: key.csr().unwrap().into(), ..Default::default() };
    let issued = bed.admin.operators(&bed.manager, |mut c| async move { c.issue_operator_certificate(issue).await }).unwrap();
    let cid = sutler_certs::Credential { chain: issued.certificates.into_iter().map(|der| der.to_vec().into()).collect(), key };
    too_new(approve(&bed, &cid, &old), "until");
    // Nor does it help to send those away who are there, or to have them come back.
    let grant = |role: v1::Role| vec![v1::RoleGrant { role: role.into(), ..Default::default() }];
    for role in [v1::Role::Viewer, v1::Role::Approver] {
        let update = v1::UpdateOperatorRequest { name: "operators/bea".into(), roles: grant(role), ..Default::default() };
        bed.admin.operators(&bed.manager, |mut c| async move { c.update_operator(update).await }).unwrap();
        waits(&run(&mut bed, 2).unwrap());
    }
    too_new(approve(&bed, &bea, &old), "until");
    for name in ["operators/bea", "operators/cid"] {
        let revoke = v1::RevokeOperatorRequest { name: name.into(), ..Default::default() };
        bed.admin.operators(&bed.manager, |mut c| async move { c.revoke_operator(revoke).await }).unwrap();
    }
    waits(&run(&mut bed, 2).unwrap());
    // After a while it is as it was made to be; what was ordered before that is nothing for whoever came later.
    bed.manager.step_clock(61 * MINUTES);
    too_new(approve(&bed, &eve, &old), "ordered again");
    let new = run(&mut bed, 2).unwrap();
    assert_eq!((new.state(), new.approval), (v1::JobState::Active, None), "there are no two any more");
    bed.operator("fay", approver);
    bed.manager.step_clock(61 * MINUTES);
    let last = waits(&run(&mut bed, 2).unwrap());
    approve(&bed, &eve, &last).unwrap();
}

#[test]
fn whoever_has_too_much_waiting_has_it_decided_first_and_what_was_not_agreed_to_is_not_kept() {
    let config = "[limits]\nsecond_person_clients = 2\nsecond_person_rest = \"0s\"\npending_approvals = 2\n";
    let manager = Manager::start_with(Setup { config: config.into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    let token = TokenString::parse(cli.ok("token create --uses 10 --ttl 1h --network 127.0.0.0/8").trim()).unwrap();
    let ids: Vec<String> = (0..2).map(|n| Api::client(&token, &format!("machine-{n}")).1).collect();
    let everybody = ids.join(" ");
    for name in ["one", "two", "three"] {
        cli.ok(&format!("group create {name}"));
        cli.ok(&format!("job run --package hello --group {name}"));
    }
    let fleet = Fleet { anna: manager.cli(), manager, ids, token };
    let bea = fleet.operator("bea", "--role approver");
    fleet.operator("cid", "--role approver");
    let order = |fleet: &Fleet, group: &str| fleet.anna.fails(1, &format!("group add {group} {everybody}"));
    let first = approval(&order(&fleet, "one"));
    order(&fleet, "two").says(&["another operator has to agree"]);
    // The same once more is no other.
    assert_eq!(approval(&order(&fleet, "one")), first);
    order(&fleet, "three").says(&["2 changes of operators/admin wait", "limits.pending_approvals"]);
    let sent = |id: &str| bea.json(&format!("approval show {id}"))["request"].as_str().unwrap_or_default().to_owned();
    assert!(sent(&first).contains(&fleet.ids[0]));
    assert!(list(&bea, "approval list").iter().all(|a| a["request"].as_str().unwrap_or_default().is_empty()), "a page is no place for it");
    bea.ok(&format!("approval reject {first}"));
    assert_eq!(sent(&first), "");
    let third = approval(&order(&fleet, "three"));
    bea.ok(&format!("approval approve {third}"));
    assert!(sent(&third).contains(&fleet.ids[0]), "what was done is known");
}

#[test]
fn whoever_agrees_agrees_to_what_he_has_seen() {
    let mut fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    let said = dan.ok("job run --package hello --group all");
    let job = said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    let waits = || bea.json(&format!("job show {job}"))["approval"].clone();
    let (seen, name) =
        (waits()["etag"].as_str().unwrap().to_owned(), waits()["name"].as_str().unwrap().trim_start_matches("approvals/").to_owned());
    // One more client is no other change, and it goes on waiting under its name; but it is not what was seen.
    fleet.enroll();
    dan.ok(&format!("job start {job}"));
    assert_eq!(waits()["name"], format!("approvals/{name}"));
    for verb in ["approve", "reject"] {
        bea.fails(1, &format!("approval {verb} {name} --etag {seen}")).says(&["was changed by somebody else"]);
    }
    assert_eq!((fleet.state(&job).as_str(), fleet.total(&job)), ("DRAFT", 0));
    let api = Api::operator(&fleet.manager);
    let blind = v1::ApproveChangeRequest { name: format!("approvals/{name}"), ..Default::default() };
    let refused = sutler_tests::api_call!(api, approval_service_client::ApprovalServiceClient, approve_change(blind)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let now = waits()["etag"].as_str().unwrap().to_owned();
    assert_ne!(now, seen);
    let said = bea.run(&format!("approval approve {name} --etag {now}"));
    assert!(said.stdout.contains("approved and done") && !said.stderr.contains("wants to"), "{said:?}");
    assert_eq!(fleet.total(&job), 61);
    // Without one the command says what it agrees to.
    let said = dan.ok("job run --package other --group all");
    let job = said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    let done = bea.run(&format!("job approve {job}"));
    assert!(done.stderr.contains("dan wants to start") && done.stderr.contains("other@1.0"), "{done:?}");
}

#[test]
fn clients_that_are_let_in_together_are_counted_where_jobs_wait_for_them() {
    let config = "[limits]\nsecond_person_clients = 3\nsecond_person_rest = \"0s\"\n";
    let manager = Manager::start_with(Setup { config: config.into(), ..Setup::default() });
    let cli = manager.cli();
    let package = PackageFolder::counting("hello", "1.0");
    cli.ok(&format!("package push {}", package.path().display()));
    cli.ok("group create all");
    // From nowhere near here: they wait for approval.
    let token = cli.ok("token create --uses 10 --ttl 1h --network 192.0.2.0/24 --group all");
    let token = TokenString::parse(token.trim()).unwrap();
    let ids: Vec<String> = (0..4).map(|n| Api::client(&token, &format!("machine-{n}")).1).collect();
    let waiting = |fleet: &Fleet| list(&fleet.anna, "client list --filter 'client.state == \"PENDING\"'").len();
    let fleet = Fleet { anna: manager.cli(), manager, ids, token };
    // Where no job waits for them nobody is asked, and a few are nobody else's affair.
    fleet.anna.ok(&format!("client approve {}", fleet.ids[3]));
    fleet.anna.ok("job run --package hello --group all");
    let all = "client approve --filter true";
    fleet.anna.fails(1, all).says(&["3 of 4 clients", "--confirm 3"]);
    fleet.anna.fails(1, &format!("client approve {}", fleet.ids[..3].join(" "))).says(&["3 of 4 clients"]);
    assert_eq!(waiting(&fleet), 3);
    // Whoever lets machines in needs somebody to agree, and no role besides.
    let eve = fleet.operator("eve", "--role enroller");
    let bea = fleet.operator("bea", "--role approver");
    fleet.operator("cid", "--role approver");
    let waits = approval(&eve.fails(1, all).says(&["let all clients in", "another operator has to agree"]));
    assert_eq!(waiting(&fleet), 3);
    // Who comes after it was ordered was seen by nobody.
    let (_, late) = Api::client(&fleet.token, "machine-late");
    bea.ok(&format!("approval approve {waits}"));
    assert_eq!(waiting(&fleet), 1);
    assert!(fleet.anna.ok(&format!("client show {late}")).contains("PENDING"));
}

#[test]
fn a_job_is_what_was_agreed_to_while_it_waits_for_its_time_and_for_those_who_are_to_come() {
    let fleet = Fleet::new();
    let (dan, bea) = fleet.crew();
    // Its stages are a part of it, and so are its terms for those who come.
    let scheduled = dan.id("job run --package hello --group all --at 2099-01-31T22:00:00Z");
    let waits = list(&bea, "approval list")[0]["name"].as_str().unwrap().trim_start_matches("approvals/").to_owned();
    bea.ok(&format!("approval approve {waits}"));
    assert_eq!(fleet.state(&scheduled), "SCHEDULED");
    dan.fails(1, &format!("job update {scheduled} --rollout all-at-once")).says(&["60 of 60 clients", "another operator has to agree"]);
    assert!(!fleet.anna.ok(&format!("job show {scheduled}")).contains("all-at-once"));

    let job = dan.id("job run --package other --group few");
    let everybody = fleet.ids.join(" ");
    let waits = approval(&dan.fails(1, &format!("group add few {everybody}")).says(&["another operator has to agree"]));
    dan.ok(&format!("job update {job} --on-leave uninstall"));
    bea.fails(1, &format!("approval approve {waits}")).says(&["was changed", "have it ordered again"]);
    assert_eq!(fleet.total(&job), 3);
}

#[test]
fn nobody_agrees_to_what_somebody_orders_who_was_made_just_now() {
    let mut bed = Bed::tuned(Database::Sqlite, |config| {
        config.limits.second_person_clients = 2;
        config.limits.second_person_rest = std::time::Duration::from_secs(3600);
    });
    for signed in Packages::new(&["hello"]).sign(&bed.manager.profile()) {
        bed.admin.push(&bed.manager, &signed).unwrap();
    }
    let clients = [bed.client().0, bed.client().0].map(|id| format!("clients/{id}"));
    let bea = bed.operator("bea", &[(Role::Approver, &[]), (Role::Admin, &[])]);
    bed.operator("cid", &[(Role::Approver, &[])]);
    bed.manager.step_clock(61 * 60_000);
    let dan = bed.operator("dan", &[(Role::Deployer, &[])]);
    let request = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: clients.to_vec(),
        ..Default::default()
    };
    let caller = bed.at_operators(&bed.manager, Some(&dan)).unwrap();
    bed.call(&caller, "/sutler.v1.JobService/RunJob", request.encode_to_vec().into()).unwrap();
    let list = v1::ListApprovalsRequest::default();
    let seen = bed.admin.approvals(&bed.manager, |mut c| async move { c.list_approvals(list).await }).unwrap().approvals.remove(0);
    let approve = |bed: &Bed| {
        let caller = bed.at_operators(&bed.manager, Some(&bea)).unwrap();
        let message = v1::ApproveChangeRequest { name: seen.name.clone(), etag: seen.etag.clone(), ..Default::default() };
        bed.call(&caller, "/sutler.v1.ApprovalService/ApproveChange", message.encode_to_vec().into()).map(drop)
    };
    let refused = approve(&bed).unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("operators/dan ordered it"), "{refused}");
    bed.manager.step_clock(61 * 60_000);
    approve(&bed).unwrap();
}

#[test]
fn nobody_agrees_to_what_comes_to_lie_outside_of_his_scope() {
    let fleet = Fleet::new();
    fleet.operator("bea", "--role approver");
    fleet.operator("cid", "--role approver");
    let eve = fleet.operator("eve", "--role approver:all --role deployer:all");
    let dan = fleet.operator("dan", "--role deployer");
    fleet.anna.ok("group create more");
    let said = dan.ok("job run --package hello --group all");
    let job = said.split_whitespace().next().unwrap().trim_start_matches("jobs/").to_owned();
    eve.ok(&format!("job approve {job}"));
    // What is ordered for a job that lies within the scope takes it beyond that.
    let wider = approval(&dan.fails(1, &format!("job update {job} --package other --add-group more")));
    eve.ok(&format!("approval show {wider}"));
    eve.fails(1, &format!("approval approve {wider}")).says(&["there is no approval"]);
    let shown = fleet.anna.json(&format!("job show {job}"));
    assert_eq!(shown["destinations"], serde_json::json!(["groups/all"]), "nothing of it was done");
    // As much of it as lies within is hers to agree to.
    let within = approval(&dan.fails(1, &format!("job update {job} --package other")));
    eve.ok(&format!("approval approve {within}"));
}

/// A manager whose bounds are `clients` and 10 %, with agents on simulated machines that have reported what they are.
struct Small {
    machines: Vec<Machine>,
    operator: Operator,
    manager: fleet::Manager,
    runtime: tokio::runtime::Runtime,
}

impl Small {
    fn of(machines: usize, clients: u32) -> Small {
        let manager = fleet::Manager::tuned(Database::Sqlite, None, |config| config.limits.second_person_clients = clients);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut operator = Operator::new(&manager, runtime.handle());
        let packages = Packages::new(&["hello"]);
        packages.sign(&manager.profile()).iter().for_each(|package| drop(operator.push(&manager, package).unwrap()));
        let request = v1::CreateEnrollmentTokensRequest { uses: 1000, networks: vec!["127.0.0.0/8".into()], ..Default::default() };
        let made = operator.tokens(&manager, |mut t| async move { t.create_enrollment_tokens(request).await }).unwrap();
        let mut small = Small { machines: vec![], operator, manager, runtime };
        for n in 0..machines {
            let mut machine = Machine::enroll(&format!("machine-{n}"), n as u64 + 1, &made.tokens[0].secret, small.runtime.handle());
            machine.start(ClientState::Active);
            small.machines.push(machine);
        }
        for name in ["web", "all"] {
            let request = v1::CreateGroupRequest { group_id: name.into(), ..Default::default() };
            small.operator.groups(&small.manager, |mut g| async move { g.create_group(request).await }).unwrap();
        }
        small
    }

    fn client(&mut self, n: usize) -> v1::Client {
        let request = v1::GetClientRequest { name: format!("clients/{}", self.machines[n].client()) };
        self.operator.clients(&self.manager, |mut c| async move { c.get_client(request).await }).unwrap().client.unwrap()
    }
}

#[test]
fn labels_that_move_many_by_a_policy_are_counted_like_members() {
    let mut small = Small::of(4, 3);
    for n in 0..4 {
        wait_until("facts to be in", PATIENCE, || small.client(n).facts_time.is_some());
    }
    let policy = v1::CreatePolicyRequest {
        policy_id: "web".into(),
        group: "groups/web".into(),
        trigger: v1::Trigger::Inventory.into(),
        applies_to: v1::AppliesTo::All.into(),
        condition: "labels.role == \"web\"".into(),
        ..Default::default()
    };
    small.operator.policies(&small.manager, |mut p| async move { p.create_policy(policy).await }).unwrap();
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/web".into()],
        ..Default::default()
    };
    small.operator.jobs(&small.manager, |mut j| async move { j.run_job(run).await }).unwrap();
    let change = |client: String| v1::LabelChange { client, set: [("role".to_owned(), "web".to_owned())].into(), unset: vec![] };
    let all: Vec<_> = small.machines.iter().map(|m| change(format!("clients/{}", m.client()))).collect();
    let request = v1::SetLabelsRequest { changes: all, ..Default::default() };
    let first = request.clone();
    let refused = small.operator.clients(&small.manager, |mut c| async move { c.set_labels(first).await }).unwrap_err();
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert!(refused.message.contains("4 of 4 clients"), "{}", refused.message);
    assert!(small.client(0).labels.is_empty(), "nothing of it was done");
    let confirmed = v1::SetLabelsRequest { confirm: 4, ..request };
    small.operator.clients(&small.manager, |mut c| async move { c.set_labels(confirmed).await }).unwrap();
    assert_eq!(small.client(3).labels.len(), 1);
}

#[test]
fn what_is_taken_back_from_many_is_counted_like_what_is_installed_on_them() {
    let mut small = Small::of(3, 3);
    for n in 0..3 {
        wait_until("facts to be in", PATIENCE, || small.client(n).facts_time.is_some());
    }
    let clients: Vec<String> = small.machines.iter().map(|m| format!("clients/{}", m.client())).collect();
    let changes = clients.iter().map(|client| v1::LabelChange {
        client: client.clone(),
        set: [("role".to_owned(), "web".to_owned())].into(),
        unset: vec![],
    });
    let labels = v1::SetLabelsRequest { changes: changes.collect(), ..Default::default() };
    small.operator.clients(&small.manager, |mut c| async move { c.set_labels(labels).await }).unwrap();
    let create = |small: &mut Small, name: &str, condition: &str| {
        let request = v1::CreatePolicyRequest {
            policy_id: name.into(),
            group: format!("groups/{name}"),
            trigger: v1::Trigger::Inventory.into(),
            applies_to: v1::AppliesTo::All.into(),
            condition: condition.into(),
            ..Default::default()
        };
        small.operator.policies(&small.manager, |mut p| async move { p.create_policy(request).await })
    };
    create(&mut small, "web", "labels.role == \"web\"").unwrap();
    let apply = v1::ApplyPoliciesRequest { names: vec!["policies/web".into()], ..Default::default() };
    small.operator.policies(&small.manager, |mut p| async move { p.apply_policies(apply).await }).unwrap();
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: vec!["groups/web".into()],
        exclusions: vec!["groups/all".into()],
        confirm: 3,
        ..Default::default()
    };
    let job = small.operator.jobs(&small.manager, |mut j| async move { j.run_job(run).await }).unwrap().job.unwrap().name;
    wait_until("it to be installed", PATIENCE, || {
        let request = v1::GetJobRequest { name: job.clone() };
        let job = small.operator.jobs(&small.manager, |mut j| async move { j.get_job(request).await }).unwrap().job.unwrap();
        job.counters.unwrap().finished == 3
    });
    // Whose facts come in is looked at, and taken out at once, before anybody is asked: what is counted here is what nothing happened to yet.
    small.machines.iter_mut().for_each(Machine::kill);
    for n in 0..3 {
        wait_until("all that it said to be taken in", PATIENCE, || !small.client(n).online);
    }
    let update = |small: &mut Small, condition: Option<&str>, on_mismatch: Option<v1::OnMismatch>, confirm: i64| {
        let request = v1::UpdatePolicyRequest {
            name: "policies/web".into(),
            condition: condition.map(|role| format!("labels.role == \"{role}\"")),
            on_mismatch: on_mismatch.map(Into::into),
            confirm,
            ..Default::default()
        };
        small.operator.policies(&small.manager, |mut p| async move { p.update_policy(request).await })
    };
    let on_leave = |small: &mut Small, uninstall: bool| {
        let on_leave = if uninstall { v1::OnLeave::Uninstall } else { v1::OnLeave::Keep };
        let terms = v1::JobTerms { on_leave: on_leave.into(), ..Default::default() };
        let reset_terms = if uninstall { vec![] } else { vec!["on_leave".into()] };
        let request = v1::UpdateJobRequest { name: job.clone(), terms: uninstall.then_some(terms), reset_terms, ..Default::default() };
        small.operator.jobs(&small.manager, |mut j| async move { j.update_job(request).await })
    };
    let remove = |small: &mut Small| {
        let request = v1::RemoveMembersRequest { name: "groups/web".into(), clients: clients.clone(), ..Default::default() };
        small.operator.groups(&small.manager, |mut g| async move { g.remove_members(request).await })
    };
    let counted = |refused: fleet::Refused| {
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert!(refused.message.contains("3 of 3 clients"), "{}", refused.message);
    };
    // Of a policy that takes out, and a job that takes back: whichever comes last is asked about, in whatever order they come.
    update(&mut small, Some("db"), Some(v1::OnMismatch::Remove), 0).unwrap();
    counted(on_leave(&mut small, true).unwrap_err());
    update(&mut small, Some("web"), None, 0).unwrap();
    on_leave(&mut small, true).unwrap();
    counted(update(&mut small, Some("db"), None, 0).unwrap_err());
    update(&mut small, None, Some(v1::OnMismatch::Keep), 0).unwrap();
    update(&mut small, Some("db"), None, 0).unwrap();
    counted(update(&mut small, None, Some(v1::OnMismatch::Remove), 0).unwrap_err());
    // A policy that brings them into a group that the job excludes takes them from it, too; and so does an operator who takes them out.
    counted(create(&mut small, "all", "").unwrap_err());
    counted(remove(&mut small).unwrap_err());
    on_leave(&mut small, false).unwrap();
    create(&mut small, "all", "").unwrap();
    update(&mut small, None, Some(v1::OnMismatch::Remove), 0).unwrap();
    counted(on_leave(&mut small, true).unwrap_err());
    remove(&mut small).unwrap();
}

#[test]
fn what_is_run_again_on_many_is_counted_like_what_is_run() {
    let mut small = Small::of(0, 3);
    let request = v1::CreateEnrollmentTokensRequest { uses: 3, networks: vec!["127.0.0.0/8".into()], ..Default::default() };
    let made = small.operator.tokens(&small.manager, |mut t| async move { t.create_enrollment_tokens(request).await }).unwrap();
    for n in 0..3 {
        small.machines.push(Machine::enroll(&format!("machine-{n}"), n + 1, &made.tokens[0].secret, small.runtime.handle()));
    }
    let in_seconds = |small: &Small, seconds: i64| {
        Some(prost_types::Timestamp { seconds: small.manager.app().world.now().as_second() + seconds, nanos: 0 })
    };
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: small.machines.iter().map(|m| format!("clients/{}", m.client())).collect(),
        expire_time: in_seconds(&small, 3600),
        confirm: 3,
        ..Default::default()
    };
    let job = small.operator.jobs(&small.manager, |mut j| async move { j.run_job(run).await }).unwrap().job.unwrap().name;
    small.manager.step_clock(3_700_000);
    let get = |small: &mut Small| {
        let request = v1::GetJobRequest { name: job.clone() };
        small.operator.jobs(&small.manager, |mut j| async move { j.get_job(request).await }).unwrap().job.unwrap()
    };
    wait_until("its time to be over", PATIENCE, || get(&mut small).state() == v1::JobState::Expired);
    let retry = v1::RetryJobRequest { name: job.clone(), expire_time: in_seconds(&small, 3600), ..Default::default() };
    let first = retry.clone();
    let refused = small.operator.jobs(&small.manager, |mut j| async move { j.retry_job(first).await }).unwrap_err();
    assert!(refused.code == Code::FailedPrecondition && refused.message.contains("3 of 3 clients"), "{refused:?}");
    assert_eq!(get(&mut small).state(), v1::JobState::Expired, "nothing of a refused retry is done");
    let confirmed = v1::RetryJobRequest { confirm: 3, ..retry };
    assert_eq!(small.operator.jobs(&small.manager, |mut j| async move { j.retry_job(confirmed).await }).unwrap().retried, 3);
}

#[test]
fn nobody_agrees_to_what_is_older_than_a_week() {
    let mut small = Small::of(3, 3);
    for name in ["bea", "cid"] {
        let key = sutler_certs::PrivateKey::generate().unwrap();
        let request = v1::CreateOperatorRequest {
            operator_id: name.into(),
            roles: vec![v1::RoleGrant { role: v1::Role::Approver.into(), ..Default::default() }],
            csr: key.csr().unwrap().into(),
            ..Default::default()
        };
        small.operator.operators(&small.manager, |mut o| async move { o.create_operator(request).await }).unwrap();
    }
    let run = v1::RunJobRequest {
        packages: vec![v1::JobPackage { package: "packages/hello".into(), ..Default::default() }],
        destinations: small.machines.iter().map(|m| format!("clients/{}", m.client())).collect(),
        ..Default::default()
    };
    let job = small.operator.jobs(&small.manager, |mut j| async move { j.run_job(run).await }).unwrap().job.unwrap();
    let approval = job.approval.clone().unwrap();
    assert_eq!((job.state(), approval.state()), (v1::JobState::Draft, v1::ApprovalState::Pending));
    small.manager.step_clock(7 * 24 * 3_600_000 + 1000);
    let app = small.manager.app();
    let states = || {
        let read = app.view("manager", "approvals", (), |tx, env, ()| {
            Box::pin(async move {
                let page = sutler_store::Page { after: None, limit: 10 };
                Ok(sutler::app::approvals::list(tx, env, &page, true).await?.0.into_iter().map(|a| a.state).collect::<Vec<_>>())
            })
        });
        small.runtime.block_on(read).unwrap()
    };
    wait_until("it to wait no longer", PATIENCE, || states() == [ApprovalState::Expired]);
}
