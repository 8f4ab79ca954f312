//! The table of bad calls.

use super::{World, changed, faults, said, table, word};

#[test]
fn every_bad_call_of_the_table_gets_its_code_and_changes_nothing() {
    let world = World::new();
    let before = world.reader.rows();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for cells in table(include_str!("calls.txt")) {
        let [method, code, names, message] = cells[..] else { panic!("four cells are wanted: {cells:?}") };
        count += 1;
        let mut say = |what: String| wrong.push(format!("{method} {message:.200}: {what}"));
        match world.api.send_json(method, &world.filled(message)) {
            Ok(answer) => say(format!("it was answered: {answer:?}")),
            Err(status) => {
                let text = said(&status);
                if word(status.code()) != code {
                    say(format!("{} instead of {code}: {text}", word(status.code())));
                } else if names != "-" && !text.contains(&world.filled(names)) {
                    say(format!("{names:?} is not named in {text}"));
                }
                faults(&status).into_iter().for_each(&mut say);
            }
        }
        changed(&before, &world.reader.rows()).into_iter().for_each(&mut say);
    }
    assert!(wrong.is_empty(), "{} of {count} calls:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 150, "the table has {count} calls");
    // The same manager takes a good call.
    world.cli.ok("group create good");
}
