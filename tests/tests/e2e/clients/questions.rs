//! What operators ask the users of machines, and what they answer.

use serde_json::{Value, json};
use sutler_base::limits;
use sutler_proto::QUESTIONS;
use sutler_proto::v1::{self, connect_request::Message as Up, connect_response::Message as Down};
use sutler_tests::api_call;
use sutler_tests::harness::{Agent, Api, Cli, Manager, PATIENCE, Session, wait_for_value, wait_until};
use tonic::Code;

/// What the machine shows of a question.
fn shown(agent: &Agent, name: &str) -> Value {
    let questions: Value = serde_json::from_str(&agent.ok("questions -o json")).unwrap();
    questions.as_array().unwrap().iter().find(|question| question["name"] == name).cloned().unwrap_or_default()
}

/// Waits until the machine shows a question.
fn wait_for_question(agent: &Agent, name: &str) {
    wait_until(&format!("the question {name}"), PATIENCE, || !shown(agent, name).is_null());
}

fn answers(cli: &Cli, agent: &Agent) -> Value {
    cli.json(&format!("client show {}", agent.id()))["answers"].clone()
}

fn is_in(cli: &Cli, agent: &Agent, group: &str) -> bool {
    let groups = cli.json(&format!("client show {}", agent.id()))["groups"].clone();
    groups.as_array().unwrap().contains(&json!(format!("groups/{group}")))
}

#[test]
fn what_the_user_answers_moves_the_client_as_a_fact_does_and_waits_while_the_manager_is_away() {
    let mut manager = Manager::start();
    let cli = manager.cli();
    cli.ok("group create big");
    cli.ok("question create room --prompt 'Which room is it in?' --pattern '[A-Z][0-9]+'");
    cli.ok("question create seats --prompt 'How many people use it?' --type integer");
    // What nobody asks, and a type that does not fit, are found when the policy is made.
    let policy = "policy create big --group big --trigger inventory --applies-to all --on-mismatch remove --when";
    cli.fails(1, &format!("{policy} 'answers.seat > 3'")).says(&["there is no question", "did you mean seats?"]);
    cli.fails(1, &format!("{policy} 'answers.seats > \"3\"'")).says(&["can't be compared"]);
    cli.ok(&format!("{policy} 'answers.seats > 3 && answers.room.startsWith(\"B\")'"));

    let mut agent = Agent::enrolled("one", &manager);
    wait_for_question(&agent, "seats");
    assert_eq!((&shown(&agent, "seats")["answer"], &shown(&agent, "seats")["type"]), (&Value::Null, &json!("INTEGER")));
    assert!(agent.ok("questions").contains("room: Which room is it in? (a text that matches [A-Z][0-9]+)\n    not answered yet\n"));
    agent.run("answer seats many").ends_with(1).says(&["a whole number", "many"]);
    agent.run("answer desks 4").ends_with(1).says(&["nobody asks", "room, seats"]);
    agent.ok("answer seats 004");
    assert_eq!(answers(&cli, &agent), json!({"seats": "4"}));
    assert!(!is_in(&cli, &agent, "big"), "what is not answered is not known");
    agent.ok("answer room B7");
    wait_until("the group", PATIENCE, || is_in(&cli, &agent, "big"));
    assert_eq!(shown(&agent, "room")["answer"], "B7");
    let entries = cli.json("audit list");
    let noted = |e: &Value| e["action"] == "answer" && e["actor"] == format!("clients/{}", agent.id());
    assert_eq!(entries.as_array().unwrap().iter().filter(|e| noted(e)).count(), 2, "{entries}");
    let found = cli.json("client list --filter 'answers.seats == 4' --columns id,answers.room");
    assert_eq!(found, json!([{"id": agent.id(), "answers.room": "B7"}]));

    // Away: the answer is checked here, waits on the disk, and the last one counts.
    manager.stop();
    agent.run("answer room nowhere").ends_with(1).says(&["[A-Z][0-9]+"]);
    for room in ["B9", "C1"] {
        agent.run(&format!("answer room {room}")).ends_with(0).says(&["queued"]);
    }
    agent.kill_and_start();
    wait_for_value("the agent", PATIENCE, || shown(&agent, "room"), |room| room["answer"] == "B7" && room["queued"] == "C1");
    manager.serve();
    wait_until("the answer", PATIENCE, || answers(&cli, &agent) == json!({"room": "C1", "seats": "4"}));
    wait_until("the client to leave the group", PATIENCE, || !is_in(&cli, &agent, "big"));
    // What is asked from now on is told at once.
    cli.ok("question create use --prompt 'What is it for?' --choice office --choice lab");
    wait_for_question(&agent, "use");
    agent.run("answer use kiosk").ends_with(1).says(&["office, lab"]);
    agent.ok("answer use lab");
    assert_eq!(answers(&cli, &agent)["use"], "lab");
}

#[test]
fn a_question_that_policies_go_by_is_changed_or_deleted_only_by_force_and_answers_that_do_not_fit_are_dropped() {
    let manager = Manager::start();
    let cli = manager.cli();
    let agent = Agent::enrolled("one", &manager);
    for group in ["labs", "kiosks", "all"] {
        cli.ok(&format!("group create {group}"));
    }
    cli.ok("question create use --prompt 'What is it for?' --choice office --choice lab");
    cli.ok("question create owner --prompt 'Whose is it?'");
    let policy = |name: &str, group: &str, when: &str| {
        cli.ok(&format!("policy create {name} --group {group} --trigger inventory --applies-to all --when '{when}'"));
    };
    policy("labs", "labs", "answers.use == \"lab\"");
    policy("everybody", "all", "labels.site == \"berlin\"");
    wait_for_question(&agent, "owner");
    agent.ok("answer use lab");
    agent.ok("answer owner Ada");
    wait_until("the group", PATIENCE, || is_in(&cli, &agent, "labs"));

    // Who goes by it is named; the text of the question is free, and one that nobody goes by, too.
    for command in ["update use --choice office", "update use --type string", "delete use"] {
        cli.fails(1, &format!("question {command}")).says(&["policies/labs", "--force"]);
    }
    let said = cli.run("question show use").ends_with(0).says(&["labs"]);
    assert!(said.stdout.contains("one of: office, lab"), "{}", said.stdout);
    cli.ok("question update use --prompt 'What do you use it for?'");
    wait_until("the new text", PATIENCE, || shown(&agent, "use")["prompt"] == "What do you use it for?");
    assert_eq!(shown(&agent, "use")["answer"], "lab");
    let changed = cli.ok("question update owner --type integer");
    assert!(changed.contains("1 answer was dropped"), "{changed}");
    wait_until("the answer to be gone", PATIENCE, || shown(&agent, "owner")["answer"].is_null());

    // By force: what fits stays, what doesn't goes, and it is said.
    let changed = cli.ok("question update use --choice lab --choice kiosk --force");
    assert!(!changed.contains("dropped") && changed.contains("labs"), "{changed}");
    assert_eq!(answers(&cli, &agent), json!({"use": "lab"}));
    let changed = cli.ok("question update use --choice kiosk --force");
    assert!(changed.contains("1 answer was dropped"), "{changed}");
    assert_eq!(answers(&cli, &agent), json!({}));
    wait_until("the new choices", PATIENCE, || shown(&agent, "use")["choices"] == json!(["kiosk"]));
    // One that goes by what is asked no more looks at nobody, and keeps no other policy from looking.
    cli.ok("question delete use --force");
    wait_until("the question to be gone", PATIENCE, || shown(&agent, "use").is_null());
    cli.ok(&format!("client label set {} site=berlin", agent.id()));
    assert!(is_in(&cli, &agent, "all"));
    assert!(is_in(&cli, &agent, "labs"), "members stay");
    assert!(cli.ok(&format!("client explain {}", agent.id())).contains("it looks at nobody"));
    agent.run("answer use kiosk").ends_with(1).says(&["nobody asks"]);
    // What a user says can't place a machine in a restricted group.
    cli.ok("group create secure --restricted");
    cli.fails(1, "policy create s --group secure --when 'answers.owner > 1'").says(&["restricted"]);
}

/// What comes on an agent's stream after this hello and this answer, up to the result of the answer.
fn said(agent: &Agent, capabilities: &[&str], digest: &[u8], question: &str, answer: &str) -> (Vec<v1::Questions>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let open = Session::open(agent, |hello| {
            hello.capabilities = capabilities.iter().map(|c| (*c).to_owned()).collect();
            hello.questions_digest = digest.to_vec().into();
        });
        let (mut session, mut told) = (open.await.unwrap(), Vec::new());
        let request = v1::AnswerRequest { request_id: "1".into(), question: question.into(), answer: answer.into() };
        session.say(Up::Answer(request)).await;
        loop {
            match session.next().await.unwrap() {
                Down::Questions(questions) => told.push(questions),
                Down::Answered(result) => return (told, result.error),
                _ => {}
            }
        }
    })
}

#[test]
fn an_agent_is_told_what_is_asked_only_when_it_changed_and_what_it_says_is_checked_again() {
    let manager = Manager::start();
    let cli = manager.cli();
    cli.ok("question create seats --prompt 'How many people use it?' --type integer");
    let mut agent = Agent::enrolled("one", &manager);
    wait_for_question(&agent, "seats");
    agent.stop();
    wait_until("it to be gone", PATIENCE, || cli.json(&format!("client show {}", agent.id()))["online"] == false);
    // The second message of each is what follows from its answer, good or bad.
    let long = "9".repeat(5000);
    let (told, error) = said(&agent, &[QUESTIONS], &[], "seats", "many");
    assert!(told.len() == 2 && error.contains("a whole number"), "{error}");
    let digest = told[0].digest.clone();
    for (question, answer, word) in [
        ("seats", long.as_str(), "bytes"),
        ("seats", "\u{1b}[2J", "control"),
        ("../seats", "1", "nobody asks"),
        ("owner", "1", "nobody asks"),
    ] {
        let (told, error) = said(&agent, &[QUESTIONS], &digest, question, answer);
        assert!(error.contains(word), "{answer:.20}: {error}");
        assert_eq!(told.len(), 1, "it has what is asked, and is told nothing when it connects");
        assert_eq!(told[0].digest, digest);
    }
    assert_eq!(answers(&cli, &agent), json!({}));
    // One that shows no questions is not bothered with them.
    assert_eq!(said(&agent, &[], &[], "seats", "many").0.len(), 1);
    let (told, error) = said(&agent, &[QUESTIONS], &digest, "seats", "5");
    assert_eq!((told.len(), error.as_str()), (1, ""));
    assert_ne!(told[0].digest, digest, "its own answer is a change");
    assert_eq!(answers(&cli, &agent), json!({"seats": "5"}));
}

#[test]
fn as_many_questions_as_there_may_be_reach_an_agent_whole_and_one_more_is_refused() {
    let manager = Manager::start();
    let api = Api::operator(&manager);
    let agent = Agent::enrolled("one", &manager);
    let choices = |n: usize| format!("{n:0>width$}", width = limits::CHOICE_MAX);
    let rule = v1::AnswerRule {
        r#type: v1::AnswerType::Choice.into(),
        choices: (0..limits::CHOICES_MAX).map(choices).collect(),
        pattern: String::new(),
    };
    let create = |n: usize| v1::CreateQuestionRequest {
        question_id: format!("q{n}"),
        prompt: "?".repeat(limits::PROMPT_MAX),
        rule: Some(rule.clone()),
        ..Default::default()
    };
    for n in 0..limits::QUESTIONS_MAX {
        api_call!(api, question_service_client::QuestionServiceClient, create_question(create(n))).unwrap();
    }
    let more = api_call!(api, question_service_client::QuestionServiceClient, create_question(create(limits::QUESTIONS_MAX)));
    let refused = more.expect_err("one more");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("at most 100"), "{refused:?}");
    let count = || serde_json::from_str::<Value>(&agent.ok("questions -o json")).unwrap().as_array().unwrap().len();
    wait_until("all of them", PATIENCE, || count() == limits::QUESTIONS_MAX);
    agent.ok(&format!("answer q99 {}", choices(7)));
    assert_eq!(answers(&manager.cli(), &agent)["q99"], choices(7));
}
