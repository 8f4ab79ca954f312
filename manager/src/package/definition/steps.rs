//! The steps of a `package.toml`: `[[step]]`.

use super::super::document::{Reader, Table};
use std::collections::BTreeMap;
use sutler_base::{
    limits,
    manifest::{ExitMeaning, Phase, Step},
    path::RelPath,
};

pub(super) fn read<'a>(r: &mut Reader<'a>, mut table: Table<'a>) -> Option<Step> {
    let name = r.need(&mut table, "name", "what people call the step").and_then(|v| r.text(&v));
    let phase = r.take(&mut table, "phase").and_then(|v| r.word(&v, &Phase::ALL));
    let argv = r.need(&mut table, "argv", "the program and its arguments, such as [\"bin/setup\", \"--quiet\"]").and_then(|v| r.texts(&v));
    let environment = read_environment(r, &mut table);
    let user = r.take(&mut table, "user").and_then(|v| r.text(&v)).map(String::from);
    let directory = r.take(&mut table, "directory").and_then(|v| r.parsed::<RelPath>(&v));
    let time_limit = r.take(&mut table, "time_limit").and_then(|v| r.seconds(&v));
    let exit_codes = r.take(&mut table, "exit_codes").and_then(|v| {
        let mut codes = BTreeMap::new();
        for (code, meaning) in r.pairs(&v, "a table such as { 0 = \"success\", 75 = \"retry\" }")? {
            match code.parse::<i32>() {
                Ok(code) => {
                    codes.extend(r.word(&meaning, &ExitMeaning::ALL).map(|meaning| (code, meaning)));
                }
                Err(_) => r.refuse(&meaning, "an exit code is a whole number"),
            }
        }
        Some(codes)
    });
    let continue_on_failure = r.take(&mut table, "continue_on_failure").and_then(|v| r.truth(&v));
    r.finish(table);
    Some(Step {
        name: name?.to_owned(),
        phase: phase.unwrap_or_default(),
        argv: argv?,
        environment,
        user,
        directory,
        time_limit: time_limit.unwrap_or(limits::STEP_SECONDS_DEFAULT),
        exit_codes: exit_codes.unwrap_or_default(),
        continue_on_failure: continue_on_failure.unwrap_or_default(),
    })
}

pub(super) fn read_environment<'a>(r: &mut Reader<'a>, table: &mut Table<'a>) -> BTreeMap<String, String> {
    let Some(value) = r.take(table, "environment") else { return BTreeMap::new() };
    let pairs = r.pairs(&value, "a table such as { LANG = \"C\" }").unwrap_or_default();
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), r.text(&value)?.to_owned()))).collect()
}
