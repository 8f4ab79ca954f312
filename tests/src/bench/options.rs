//! What the command line asks for.

use super::scenarios::{self, Scenario};

pub(super) const USAGE: &str = "usage: cargo run --release -p sutler-tests --bin bench -- SCENARIO… [OPTIONS]

  list          the scenarios, one a line
  all           every scenario, in that order

  --json        one JSON object a line instead of a table
  --small       a few seconds each: shows that it works, not how long it takes
  --rounds N    so many rounds of ours and of the peer's, in turns (5; with --small 1)
  --write       puts the table, and a picture of it, into README.md's section Performance

Builds the manager (release) and the agent (profile agent, static musl) first, or takes those of $SUTLER_BINARIES. Installs
peers that are not there with apt, and Salt with pip below target/bench: root is needed for that. Listens on the loopback.";

/// What is to be run, and how.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) scenarios: Vec<&'static Scenario>,
    pub(super) json: bool,
    pub(super) small: bool,
    pub(super) write: bool,
    pub(super) rounds: Option<usize>,
}

impl Options {
    pub(super) fn read(words: &[String]) -> Result<Options, String> {
        let mut options = Options { scenarios: Vec::new(), json: false, small: false, write: false, rounds: None };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--json" => options.json = true,
                "--small" => options.small = true,
                "--write" => options.write = true,
                "--rounds" => {
                    let n = words.next().and_then(|n| n.parse().ok()).filter(|n| (1..=100).contains(n));
                    options.rounds = Some(n.ok_or("--rounds takes a number from 1 to 100")?);
                }
                "all" => options.scenarios.extend(scenarios::ALL),
                name => match scenarios::ALL.iter().find(|scenario| scenario.name == name) {
                    Some(scenario) => options.scenarios.push(scenario),
                    None => return Err(format!("there is no scenario {name}; see `list`")),
                },
            }
        }
        if options.scenarios.is_empty() {
            return Err("say which scenario".into());
        }
        if options.write && options.small {
            return Err("what a small run shows does not belong into README.md: give --small or --write".into());
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn scenarios_and_options_come_in_any_order_and_nothing_unknown_passes() {
        let options = read("--json footprint --rounds 7").unwrap();
        assert!(options.json && !options.small && options.rounds == Some(7) && options.scenarios[0].name == "footprint");
        assert_eq!(read("all").unwrap().scenarios.len(), scenarios::ALL.len());
        for bad in ["", "--small", "nothing", "footprint --rounds", "footprint --rounds 0", "footprint --small --write"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
