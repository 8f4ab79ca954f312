//! What conditions promise: refused with a place, decided in three ways, and never at the expense of the manager.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};

struct Client {
    facts: serde_json::Value,
    labels: BTreeMap<String, String>,
    answers: BTreeMap<String, String>,
}

impl Client {
    fn new(facts: serde_json::Value) -> Client {
        let labels = BTreeMap::from([("site".to_owned(), "berlin".to_owned()), ("rack".to_owned(), "12".to_owned())]);
        let answers = BTreeMap::from([("owner".to_owned(), "Ada".to_owned())]);
        Client { facts, labels, answers }
    }

    fn debian() -> Client {
        Client::new(json!({
            "os": {"family": "linux", "id": "debian", "version": "12", "name": ""},
            "memory": {"total_bytes": 8_000_000_000_u64},
            "addresses": ["10.0.0.7", "fe80::1"],
            "software": [{"name": "nginx", "version": "1.22"}, {"name": "curl", "version": "7.88"}],
        }))
    }

    fn input(&self) -> Input<'_> {
        let created = "2026-03-01T00:00:00Z".parse().unwrap();
        let contact = Some((Presence::Overdue, "2026-04-01T00:00:00Z".parse().unwrap()));
        let client = ClientFields { id: "c1", name: "web-01", kind: "MACHINE", state: "ACTIVE", created, contact, duplicate: Some(true) };
        Input { facts: &self.facts, labels: &self.labels, answers: &self.answers, client }
    }

    fn decide(&self, text: &str) -> Outcome {
        match Condition::compile(text, &Schema::standard()) {
            Ok(condition) => condition.evaluate(&self.input()),
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

fn refused(text: &str) -> ConditionError {
    match Condition::compile(text, &Schema::standard()) {
        Ok(_) => panic!("{text} compiles"),
        Err(error) => error,
    }
}

fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown(_))
}

#[test]
fn an_answer_has_the_type_of_its_question_and_there_is_none_to_any_other() {
    use sutler_base::question::AnswerRule;
    let rules = [
        ("room", AnswerRule::String { pattern: None }),
        ("desks", AnswerRule::Integer),
        ("shared", AnswerRule::Boolean),
        ("floor", AnswerRule::choice(vec!["1".into(), "2".into()]).unwrap()),
    ];
    let schema = Schema::standard().with_questions(rules.iter().map(|(name, rule)| (*name, rule)));
    let mut client = Client::debian();
    client.answers = [("room", "B7"), ("desks", "12"), ("shared", "true"), ("floor", "2")].map(|(k, v)| (k.into(), v.into())).into();
    let compile = |text: &str| Condition::compile(text, &schema);
    for (text, holds) in [
        ("answers.room.startsWith('B') && answers.floor == '2'", true),
        ("answers.desks > 9 && answers.shared", true),
        ("answers['desks'] == 9", false),
        ("has(answers.room) && !has(answers.room)", false),
    ] {
        assert_eq!(compile(text).unwrap().evaluate(&client.input()).matched(), holds, "{text}");
    }
    for (text, word) in [
        ("answers.rooms == 'B7'", "did you mean room?"),
        ("answers.nothing == 'x'", "there is no question"),
        ("answers.desks == '12'", "can't be compared"),
        ("'room' in answers", "needs a list"),
    ] {
        let error = compile(text).unwrap_err();
        assert!(error.message.contains(word), "{text}: {error}");
    }
    let condition = compile("answers.desks > 9 || facts.arch == answers.room").unwrap();
    assert_eq!(["room", "desks", "shared"].map(|name| condition.uses_question(name)), [true, true, false]);
    assert!(condition.uses(Variable::Answers));
    // What does not fit its question any more is not known.
    client.answers.insert("desks".into(), "many".into());
    assert!(is_unknown(&compile("answers.desks > 9").unwrap().evaluate(&client.input())));
    client.answers.clear();
    assert!(is_unknown(&compile("answers.desks > 9").unwrap().evaluate(&client.input())));
}

#[test]
fn a_filter_asks_for_contact_and_for_duplicates_and_says_so() {
    let client = Client::debian();
    for (text, contact, duplicate) in [
        ("client.presence == 'OVERDUE' && client.last_seen < timestamp('2026-05-01T00:00:00Z')", true, false),
        ("client.duplicate", false, true),
        ("client.state == 'ACTIVE'", false, false),
    ] {
        let condition = Condition::compile(text, &Schema::standard()).unwrap();
        assert_eq!((condition.uses_contact(), condition.uses_duplicate()), (contact, duplicate), "{text}");
        assert!(condition.evaluate(&client.input()).matched(), "{text}");
    }
    let mut input = client.input();
    (input.client.contact, input.client.duplicate) = (None, None);
    for text in ["client.presence == 'ONLINE'", "!client.duplicate"] {
        assert!(is_unknown(&Condition::compile(text, &Schema::standard()).unwrap().evaluate(&input)), "{text}");
    }
}

#[test]
fn an_empty_condition_is_met_by_every_client() {
    for text in ["", "  \n\t", "// everybody\n"] {
        let condition = Condition::compile(text, &Schema::standard()).unwrap();
        assert!(condition.is_empty());
        assert_eq!(condition.evaluate(&Client::new(json!(null)).input()), Outcome::Matched);
        assert!(Variable::ALL.iter().all(|v| !condition.uses(*v)));
    }
}

#[test]
fn what_a_machine_says_of_itself_is_asked_by_name_and_packages_are_noticed() {
    let client = Client::new(json!({
        "own": {"rack": "B7", "slots": "4", "raid.state": "ok"},
        "interfaces": [{"name": "eth0", "mac": "02:aa", "addresses": ["10.0.0.7"], "up": true}],
        "packages": [{"manager": "dpkg", "name": "bash", "version": "5.2", "architecture": "amd64"}],
    }));
    for text in [
        "facts.own.rack == \"B7\" && int(facts.own.slots) == 4 && facts.own[\"raid.state\"] == \"ok\"",
        "facts.own[\"ra\" + \"ck\"] == \"B7\" && \"rack\" in facts.own && !(\"row\" in facts.own) && size(facts.own) == 3",
        "facts.own.exists(name, name.startsWith(\"raid\")) && !has(facts.own.row) && has(facts.own.rack)",
        "facts.interfaces.exists(i, i.up && \"10.0.0.7\" in i.addresses)",
        "facts.packages.exists(p, p.name == \"bash\")",
    ] {
        assert_eq!(client.decide(text), Outcome::Matched, "{text}");
    }
    assert!(is_unknown(&client.decide("facts.own.row == \"1\"")));
    assert_eq!(refused("facts.own.rack == 7").kind, ConditionErrorKind::Type);
    let uses = |text| Condition::compile(text, &Schema::standard()).unwrap().uses_packages();
    assert!(uses("size(facts.packages) > 0") && uses("facts[\"packages\"].exists(p, true)") && uses("has(facts.packages)"));
    assert!(!uses("facts.own.packages == \"1\"") && !uses("size(facts.software) > 0") && !uses(""));
}

#[test]
fn a_condition_is_decided_over_everything_that_is_known() {
    let client = Client::debian();
    for text in [
        "facts.os.family == \"linux\"",
        "facts.os.family == 'linux' && labels.site != 'paris'",
        "facts.os.id in [\"debian\", \"ubuntu\"]",
        "facts['os'][\"id\"].startsWith('deb') && facts.os.id.endsWith('ian') && facts.os.id.contains('bi')",
        "int(facts.os.version) >= 11 && double(facts.os.version) < 12.5",
        "facts.memory.total_bytes >= 4 * 1024 * 1024 * 1024",
        "facts.memory.total_bytes > 7.5e9",
        "\"10.0.0.7\" in facts.addresses",
        "facts.addresses.exists(a, a.startsWith(\"10.\"))",
        "facts.software.exists(s, s.name == \"nginx\" && s.version.startsWith(\"1.\"))",
        "facts.software.all(s, s.name != \"telnetd\")",
        "facts.software.exists_one(s, s.name == \"curl\")",
        "size(facts.software.filter(s, s.name == \"curl\")) == 1",
        "\"curl\" in facts.software.map(s, s.name)",
        "facts.software.filter(s, s.name == 'curl').exists(s, s.version == '7.88')",
        "facts.software[1].name == 'curl' && facts.addresses[0].size() == 8",
        "labels.site == 'berlin' && labels[\"rack\"] == '12' && 'site' in labels && size(labels) == 2",
        "labels[\"ra\" + \"ck\"] == '12'",
        "labels.exists(key, key == 'rack' && labels[key] == '12')",
        "answers.owner.lowerAscii() == 'ada' && answers.owner.upperAscii() == \"ADA\"",
        "client.name.matches('^web-[0-9]+$') && client.kind == 'MACHINE' && client.state == 'ACTIVE' && client.id == 'c1'",
        "client.created > timestamp(\"2026-02-28T00:00:00Z\")",
        "has(facts.os.id) && !has(facts.os.kernel) && !has(facts.hostname) && has(labels.site) && !has(labels.floor)",
        "has(client.name)",
        "facts.os.version == '12' ? labels.site == 'berlin' : false",
        "true || false && false",
        "!(1 > 2) && -1 < 0 && 7 / 2 == 3 && 7 % 2 == 1 && 1.5 * 2.0 == 3.0 && 2 - 3 == -1",
        "r'\\d' == '\\\\d' && \"\"\"a\"b\"\"\" == 'a\"b' && 'é\\u00e9' == 'éé'",
        "string(1) + string(true) == '1true' // joined",
    ] {
        assert_eq!(client.decide(text), Outcome::Matched, "{text}");
        assert_eq!(client.decide(&format!("!({}\n)", text)), Outcome::NotMatched, "not {text}");
    }
}

#[test]
fn what_is_missing_is_unknown_and_so_is_its_negation() {
    let client = Client::debian();
    for text in [
        "facts.os.kernel == '6'",
        "facts.os.kernel != '6'",
        "!(facts.os.kernel == '6')",
        "facts.cpu.count > 2",
        "labels.floor == '1'",
        "labels['fl' + 'oor'] == '1'",
        "answers.colour == 'red'",
        "facts.os.name == ''",
        "facts.addresses[7] == 'x'",
        "facts.addresses[-1] == 'x'",
        "int(labels.site) == 1",
        "double(labels.site) == 1.0",
        "timestamp(labels.site) > client.created",
        "facts.memory.total_bytes / (1 - 1) == 1",
        "facts.memory.total_bytes * 9000000000000 == 1",
        "labels.floor == '1' && true",
        "labels.floor == '1' || false",
        "labels.floor == '1' ? true : true",
        "facts.os.kernel in ['6']",
    ] {
        assert!(is_unknown(&client.decide(text)), "{text} is {:?}", client.decide(text));
        assert!(is_unknown(&client.decide(&format!("!({text})"))), "not {text}");
        assert!(!client.decide(text).matched());
    }
    let reason = |text| match client.decide(text) {
        Outcome::Unknown(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason("facts.os.kernel == '6'"), "facts.os.kernel is not known");
    assert_eq!(reason("labels.floor == '6'"), "labels.floor is not set");
}

#[test]
fn a_side_that_decides_makes_an_unknown_one_unimportant() {
    let client = Client::debian();
    for unknown in ["labels.floor == '1'", "facts.os.kernel.contains('6')", "1 / 0 == 1"] {
        for text in [format!("{unknown} || true"), format!("true || {unknown}")] {
            assert_eq!(client.decide(&text), Outcome::Matched, "{text}");
        }
        for text in [format!("{unknown} && false"), format!("false && {unknown}")] {
            assert_eq!(client.decide(&text), Outcome::NotMatched, "{text}");
        }
    }
    assert_eq!(client.decide("[1, 0].exists(x, 1 / x == 1)"), Outcome::Matched);
    assert_eq!(client.decide("[0, 1].exists(x, 1 / x == 1)"), Outcome::Matched);
    assert_eq!(client.decide("[0, 1].all(x, 1 / x == 2)"), Outcome::NotMatched);
    assert!(is_unknown(&client.decide("[0, 1].all(x, 1 / x == 1)")));
}

#[test]
fn a_client_that_lies_about_the_type_of_a_fact_matches_nothing() {
    for facts in [
        json!(null),
        json!([1]),
        json!({"os": 3}),
        json!({"os": {"family": 3}, "addresses": "10.0.0.1", "software": [3]}),
        json!({"os": {"family": ["linux"]}, "memory": {"total_bytes": 1e300}, "addresses": [[], {}], "software": [{"name": {}}]}),
        json!({"memory": {"total_bytes": u64::MAX}, "addresses": null, "software": [null]}),
    ] {
        let client = Client::new(facts);
        for text in [
            "facts.os.family == 'linux'",
            "facts.os.family != 'linux'",
            "facts.memory.total_bytes >= 0",
            "facts.addresses.exists(a, a.size() >= 0)",
            "'x' in facts.addresses",
            "facts.addresses[0] != 'y'",
            "facts.software.all(s, s.name != 'x')",
            "facts.software.filter(s, s.name != 'x').size() >= 0",
        ] {
            let outcome = client.decide(text);
            assert!(!outcome.matched(), "{text} over {}: {outcome:?}", client.facts);
        }
    }
}

#[test]
fn a_fact_that_is_not_in_the_schema_is_refused_with_its_place() {
    let error = refused("true &&\n  facts.os.famly == 'linux'");
    assert_eq!(error.kind, ConditionErrorKind::UnknownName);
    assert_eq!((error.line, error.column, error.offset), (2, 12, 19));
    assert_eq!(error.to_string(), "line 2, column 12: there is no fact \"facts.os.famly\"; did you mean family?");

    for (text, column, hint) in [
        ("facts.os['famly'] == 'é'", 10, "did you mean family?"),
        ("'é' == facts. hostnam", 15, "did you mean hostname?"),
        ("os.family == 'linux'", 1, "did you mean facts.os?"),
        ("fact.os.family == 'linux'", 1, "did you mean facts?"),
        ("name == 'x'", 1, "did you mean client.name?"),
        ("client.nam == 'x'", 8, "did you mean name?"),
        ("facts.software.exists(s, s.nme == 'x')", 28, "did you mean name?"),
        ("client.name.startWith('x')", 22, "did you mean startsWith?"),
        ("len(facts.software) == 1", 4, "there is no function"),
    ] {
        let error = refused(text);
        assert_eq!(error.kind, ConditionErrorKind::UnknownName, "{text}: {error}");
        assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
        assert!(error.message.contains(hint), "{text}: {error}");
    }
    assert!(!refused("facts.zzzzzzzz == 1").message.contains("did you mean"));
}

#[test]
fn types_that_do_not_fit_are_refused_with_their_place() {
    for (text, column) in [
        ("facts.os.family == 3", 17),
        ("facts.memory.total_bytes == 'x'", 26),
        ("facts.addresses == 'x'", 17),
        ("facts.os.family", 9),
        ("1 + 1", 3),
        ("1", 1),
        ("facts.memory.total_bytes && true", 13),
        ("!labels.site", 8),
        ("labels.site.x == 'y'", 13),
        ("1 + 1.5 == 2.5", 3),
        ("'x' in 'xyz'", 5),
        ("1 in facts.addresses", 3),
        ("true ? 1 : 'x'", 12),
        ("[1, 'x'].exists(x, true)", 5),
        ("facts.addresses.exists(a, a)", 27),
        ("facts.addresses.exists(a, a == 1)", 29),
        ("client == 'x'", 8),
        ("facts.software[0] == 'x'", 19),
        ("facts.software['x'] == 'x'", 15),
        ("client.created > '2026'", 16),
        ("client.created > timestamp('2026')", 28),
        ("'a' * 3 == 'aaa'", 5),
        ("has(facts.os.family, 1)", 4),
        ("has(labels)", 5),
        ("'x'.contains(1)", 14),
        ("true < false", 6),
    ] {
        let error = refused(text);
        assert_eq!(error.kind, ConditionErrorKind::Type, "{text}: {error}");
        assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    for (text, column) in [
        ("facts.os.family = 'linux'", 17),
        ("facts.os.family == 'linux", 20),
        ("facts.os.family == linux'", 25),
        ("(true", 1),
        ("true)", 5),
        ("(true]", 6),
        ("true & false", 6),
        ("true &&", 8),
        ("true true", 6),
        ("1 == == 1", 6),
        ("é == 1", 1),
        ("true ; false", 6),
        ("facts..os", 7),
        ("true\u{0}", 5),
        ("\u{202e}true", 1),
    ] {
        let error = refused(text);
        assert_eq!(error.kind, ConditionErrorKind::Syntax, "{text}: {error}");
        assert_eq!((error.line, error.column), (1, column), "{text}: {error}");
        assert!(!error.message.contains("expecting {"), "{error}");
    }
    for text in ["{1: 2}", "{}", "[] == []", "Foo{a: 1}", "1u == 1u", "b'x' == b'x'", "labels.x == null", "facts.os[labels.x] == 'x'"] {
        assert_eq!(refused(text).kind, ConditionErrorKind::Unsupported, "{text}: {}", refused(text));
    }
}

#[test]
fn a_condition_says_which_variables_it_uses() {
    let uses = |text: &str| {
        let condition = Condition::compile(text, &Schema::standard()).unwrap();
        Variable::ALL.into_iter().filter(|v| condition.uses(*v)).collect::<Vec<_>>()
    };
    assert_eq!(uses("true"), []);
    assert_eq!(uses("labels.site == 'x' && client.kind == 'MACHINE'"), [Variable::Labels, Variable::Client]);
    assert_eq!(uses("false && has(facts.os.id)"), [Variable::Facts]);
    assert_eq!(uses("labels.exists(k, answers[k] == 'x')"), [Variable::Labels, Variable::Answers]);
    // An item can't be named like a variable, so that no name means two things.
    assert_eq!(refused("labels.exists(facts, facts == 'x')").kind, ConditionErrorKind::Syntax);
}

/// Every bomb is refused, by the limit that is named, before it costs anything.
#[test]
fn a_bomb_is_refused_in_bounded_time_and_never_crashes_the_process() {
    use ConditionErrorKind::*;
    let repeat = |text: &str, times: usize| text.repeat(times);
    let bombs = [
        (repeat("1+", 20_000) + "1 == 1", TooLong),
        (repeat("(", 20_000), TooLong),
        (repeat("1+", 150) + "1 == 1", TooManyNodes),
        (repeat("1+", 1000), TooManyNodes),
        (repeat("a", 2048), UnknownName),
        (repeat("a.", 1000) + "a", TooManyNodes),
        (repeat("true && ", 150) + "true", TooManyNodes),
        (format!("labels{} == 'x'", repeat("[labels", 20) + &repeat("]", 20)), TooDeep),
        (repeat("(", 17) + "true" + &repeat(")", 17), TooDeep),
        (repeat("(", 1000), TooDeep),
        (repeat("[", 1000) + &repeat("]", 1000), TooDeep),
        (repeat("{1:", 400) + "1" + &repeat("}", 400), TooDeep),
        (repeat("size(", 100) + "'x'" + &repeat(")", 100), TooDeep),
        (repeat("true?true:", 20) + "true", TooDeep),
        (repeat("[1].exists(x, ", 3) + "true" + &repeat(")", 3), NestedComprehension),
        ("facts.software.all(a, facts.software.all(b, a.name == b.name))".to_owned(), NestedComprehension),
        ("facts.software.exists(a, size(facts.software.filter(b, true)) == 1)".to_owned(), NestedComprehension),
        ("client.name.matches('(a{1000}){1000}')".to_owned(), Pattern),
        (format!("client.name.matches('{}')", repeat("(", 300)), Pattern),
        (format!("client.name.matches('{}a{}')", repeat("(", 100), repeat(")", 100)), Pattern),
        ("client.name.matches('[')".to_owned(), Pattern),
        ("client.name.matches(client.name)".to_owned(), Pattern),
    ];
    let started = Instant::now();
    for (text, kind) in &bombs {
        let error = refused(text);
        assert_eq!(error.kind, *kind, "{}…: {error}", &text[..text.len().min(60)]);
    }
    // What is within the limits but strange is read, or refused, without harm.
    for text in [repeat("!", 2000) + "true", repeat("-", 2000) + "1 == 1", repeat("!", 2048), repeat("(", 16) + "true" + &repeat(")", 16)] {
        let _ = Condition::compile(&text, &Schema::standard());
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn a_condition_may_be_as_large_as_the_limits_say() {
    let client = Client::debian();
    let deep = limits::DEPTH_MAX;
    assert_eq!(client.decide(&("(".repeat(deep) + "true" + &")".repeat(deep))), Outcome::Matched);
    let operands = limits::NODES_MAX / 2;
    assert_eq!(client.decide(&(vec!["true"; operands].join(" && "))), Outcome::Matched);
    assert_eq!(client.decide(&format!("{:<width$}", "true", width = limits::TEXT_MAX)), Outcome::Matched);
    let hosts: Vec<String> = (0..190).map(|n| format!("'h{n}'")).collect();
    assert_eq!(client.decide(&format!("!(client.name in [{}])", hosts.join(","))), Outcome::Matched);
}

/// The largest facts that a client can report, and conditions made to be slow over them.
#[test]
fn an_evaluation_ends_in_bounded_time_and_memory() {
    let software: Vec<_> = (0..20_000).map(|n| json!({"name": format!("{n:0>200}"), "version": "1"})).collect();
    let client = Client::new(json!({"os": {"family": "x".repeat(500_000)}, "software": software}));
    let started = Instant::now();
    for text in [
        format!("facts.software.all(s, {} == '')", vec!["s.name"; 60].join(" + ")),
        format!("facts.software.map(s, {}).size() == 1", vec!["facts.os.family"; 40].join(" + ")),
        format!("facts.software.exists(s, {})", vec!["facts.os.family.contains(s.name)"; 24].join(" || ")),
        "facts.software.exists(s, s.name.matches('(x+x+)+y{1,50}$'))".to_owned(),
        "facts.os.family.matches('(x*)*(x*)*y')".to_owned(),
        format!("facts.software{}.size() == 1", ".map(s, facts.software)".repeat(40)),
        format!("facts.software{}.size() == 1", ".filter(s, true)".repeat(30)),
    ] {
        let outcome = client.decide(&text);
        assert!(!outcome.matched(), "{}: {outcome:?}", &text[..80.min(text.len())]);
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let reason = client.decide("facts.software.map(s, facts.os.family.contains('y')).size() == 1");
    assert_eq!(reason, Outcome::Unknown(format!("it takes more than {} steps", limits::STEPS_MAX)));
    // What is used up is not made good by another side.
    assert!(is_unknown(&client.decide("facts.software.map(s, facts.os.family.contains('y')).size() == 1 || true")));
}

#[test]
fn an_explanation_gives_the_parts_with_their_values() {
    let client = Client::debian();
    let explain = |text: &str| Condition::compile(text, &Schema::standard()).unwrap().explain(&client.input());

    let all = explain("(facts.os.family == \"linux\" &&\n  (labels.site == 'paris' || labels.floor == '1')\n && labels.floor == '1' )");
    assert_eq!(all.joined, Joined::All);
    assert_eq!(all.outcome, Outcome::Unknown("labels.floor is not set".to_owned()));
    assert_eq!(
        all.to_string(),
        "facts.os.family == \"linux\" → true (facts.os.family = \"linux\")\n\
         (labels.site == 'paris' || labels.floor == '1') → unknown: labels.floor is not set (labels.site = \"berlin\")\n\
         labels.floor == '1' → unknown: labels.floor is not set"
    );

    let any = explain("'a || b' == labels.site || client.kind == 'RELAY' || size(facts.software) > 1 && has(facts.os.id)");
    assert_eq!((any.joined, any.terms.len(), any.outcome), (Joined::Any, 3, Outcome::Matched));
    assert_eq!(any.terms[1].values, [("client.kind".to_owned(), "\"MACHINE\"".to_owned())]);
    assert_eq!(any.terms[2].text, "size(facts.software) > 1 && has(facts.os.id)");
    assert_eq!(any.terms[2].values[0], ("facts.software".to_owned(), "a list of 2".to_owned()));

    let alone = explain("facts.software.exists(s, s.name == 'x' || s.name == 'y')");
    assert_eq!((alone.joined, alone.terms.len()), (Joined::Alone, 1));
    assert_eq!(alone.to_string(), "facts.software.exists(s, s.name == 'x' || s.name == 'y') → false (facts.software = a list of 2)");

    assert_eq!(explain("true ? false || true : true").joined, Joined::Alone);
    assert_eq!(explain("(true) && (false)").terms.len(), 2);
    assert_eq!(explain("").terms, []);
}

/// Texts that look like conditions: words of the language in any order.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "facts",
        "labels",
        "answers",
        "client",
        ".",
        ".os",
        ".family",
        ".software",
        "name",
        "x",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "&&",
        "||",
        "?",
        ":",
        ",",
        "in",
        "has",
        "size",
        ".exists(x, ",
        ".all(x, ",
        ".map(x, ",
        ".filter(x, ",
        "true",
        "false",
        "null",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "1.5",
        "1e400",
        "0x1F",
        "1u",
        "'a'",
        "\"\"",
        "r'\\'",
        "'''x'''",
        "b'x'",
        "'\\u00e9'",
        "'\\xff'",
        "'\\'",
        "`a`",
        "\n",
        "// c\n",
        " ",
        "é",
        ";",
        ".matches('",
        "$",
        "package",
        "if",
        "0b",
        "..",
        ".5",
        "timestamp(",
        "int(",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

/// Expressions that are valid, each with its type.
fn valid_bool() -> impl Strategy<Value = String> {
    let string =
        prop::sample::select(vec!["'a'", "facts.os.family", "labels.site", "labels['no']", "answers.owner", "client.name", "string(3)"]);
    let int = prop::sample::select(vec!["1", "-7", "facts.memory.total_bytes", "facts.cpu.count", "size(labels)", "int(labels.rack)"]);
    let pair = |op: Vec<&'static str>| prop::sample::select(op);
    let leaf = prop_oneof![
        (string.clone(), pair(vec!["==", "!=", "<", ">="]), string.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (int.clone(), pair(vec!["+", "-", "*", "/", "%"]), int.clone(), pair(vec!["==", "<=", ">"]), int)
            .prop_map(|(a, o, b, c, d)| format!("{a} {o} {b} {c} {d}")),
        (string.clone(), pair(vec!["contains", "startsWith", "endsWith"]), string.clone()).prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
        (pair(vec!["exists", "all", "exists_one"]), string.clone())
            .prop_map(|(f, s)| format!("facts.software.{f}(s, s.name == {s} || s.version == 'x')")),
        string.prop_map(|s| format!("{s} in facts.addresses")),
        Just("has(facts.os.kernel)".to_owned()),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec!["&&", "||"]), inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

/// A valid expression in which one word was taken out, doubled or replaced: what gets as far as the parser.
fn nearly_valid() -> impl Strategy<Value = String> {
    let sign =
        prop::sample::select(vec!["", "==", "&&", "!", "?", ":", ".", ",", "1", "x", "in", "-", "'a'", "()", "[]", "{}", "{1:", "if"]);
    (valid_bool(), any::<prop::sample::Index>(), sign, any::<bool>()).prop_map(|(text, place, sign, keep)| {
        let Ok(tokens) = scan::scan(&text) else { return text };
        let token = tokens[place.index(tokens.len())];
        let rest = if keep { token.offset } else { token.end() };
        format!("{} {sign} {}", &text[..token.offset], &text[rest..])
    })
}

fn never_harms(text: &str) -> Result<(), TestCaseError> {
    let started = Instant::now();
    match Condition::compile(text, &Schema::standard()) {
        Ok(condition) => {
            let client = Client::debian();
            let explanation = condition.explain(&client.input());
            prop_assert_eq!(&explanation.outcome, &condition.evaluate(&client.input()));
        }
        Err(error) => {
            prop_assert!(text.is_char_boundary(error.offset) && error.line >= 1 && error.column >= 1);
            prop_assert!(!error.message.is_empty());
        }
    }
    prop_assert!(started.elapsed() < Duration::from_secs(20), "{text} took {:?}", started.elapsed());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_panics_and_never_hangs(text in "\\PC{0,80}") {
        never_harms(&text)?;
    }

    #[test]
    fn random_words_never_panic_and_never_hang(text in words()) {
        never_harms(&text)?;
    }

    #[test]
    fn a_slip_of_the_pen_never_panics_and_never_hangs(text in nearly_valid()) {
        never_harms(&text)?;
    }

    #[test]
    fn a_valid_expression_compiles_and_its_negation_is_its_opposite(text in valid_bool()) {
        match Condition::compile(&text, &Schema::standard()) {
            Ok(condition) => {
                let client = Client::debian();
                let outcome = condition.evaluate(&client.input());
                let negated = Condition::compile(&format!("!({text})"), &Schema::standard());
                let opposite = match outcome {
                    Outcome::Matched => Outcome::NotMatched,
                    Outcome::NotMatched => Outcome::Matched,
                    unknown => unknown,
                };
                if let Ok(negated) = negated {
                    prop_assert_eq!(negated.evaluate(&client.input()), opposite);
                }
                // The parts say together what the whole says.
                let explanation = condition.explain(&client.input());
                let all = |wanted: &Outcome| explanation.terms.iter().all(|t| t.outcome == *wanted);
                let any = |wanted: &Outcome| explanation.terms.iter().any(|t| t.outcome == *wanted);
                match explanation.joined {
                    Joined::All => {
                        prop_assert_eq!(explanation.outcome == Outcome::Matched, all(&Outcome::Matched));
                        prop_assert_eq!(explanation.outcome == Outcome::NotMatched, any(&Outcome::NotMatched));
                    }
                    Joined::Any => {
                        prop_assert_eq!(explanation.outcome == Outcome::Matched, any(&Outcome::Matched));
                        prop_assert_eq!(explanation.outcome == Outcome::NotMatched, all(&Outcome::NotMatched));
                    }
                    Joined::Alone => prop_assert_eq!(&explanation.outcome, &explanation.terms[0].outcome),
                }
            }
            Err(error) => prop_assert!(
                matches!(error.kind, ConditionErrorKind::TooLong | ConditionErrorKind::TooManyNodes | ConditionErrorKind::TooDeep),
                "{text}: {error}"
            ),
        }
    }
}
