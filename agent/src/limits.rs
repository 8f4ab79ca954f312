//! The agent's own bounds: the table `[limits]` of `agent.toml`. The manager can't change them.

use serde::Deserialize;
use std::time::Duration;
use sutler_base::{
    limits::OUTPUT_TAIL_MAX,
    quantity::{size, span},
};

/// How long the agent waits, and how much of the machine it takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The longest pause after the first connection that could not be made; twice as long with every further one. Pauses are of
    /// any length up to that (full jitter), so that a fleet does not come back in one moment.
    #[serde(deserialize_with = "span")]
    pub reconnect: Duration,
    /// The longest pause of all.
    #[serde(deserialize_with = "span")]
    pub reconnect_most: Duration,
    /// How long the manager may take to accept a connection.
    #[serde(deserialize_with = "span")]
    pub connect: Duration,
    /// How long a TLS handshake may take, and then the first frames of HTTP/2. When a whole fleet comes back its machines are served in
    /// turn, and whoever gives up has lost its turn.
    #[serde(deserialize_with = "span")]
    pub handshake: Duration,
    /// After this time without anything from the manager it is asked whether it is there. Managers ask their agents every half
    /// minute: an agent that hears them hardly ever has to.
    #[serde(deserialize_with = "span")]
    pub keep_alive: Duration,
    /// How long that question waits for its answer before the connection counts as gone: 45 s after something came the last time.
    #[serde(deserialize_with = "span")]
    pub keep_alive_timeout: Duration,
    /// How long the manager may take to welcome the agent.
    #[serde(deserialize_with = "span")]
    pub unary_call: Duration,
    /// A transfer that brings next to nothing for this long is given up, and asked for again later.
    #[serde(deserialize_with = "span")]
    pub stall: Duration,
    /// About how often the machine is measured. Only what changed is sent, and nothing if that is nothing.
    #[serde(deserialize_with = "span")]
    pub facts_interval: Duration,
    /// How long a new agent may take to reach the manager before the old one goes on.
    #[serde(deserialize_with = "span")]
    pub agent_trial: Duration,
    /// Bytes that stay free on the disk when a package is fetched.
    #[serde(deserialize_with = "size")]
    pub disk_reserve: u64,
    /// Besides them stays free so much of what is fetched (per cent).
    pub disk_reserve_percent: u64,
    /// Bytes that are kept in a file of the agent's folder and given free when the disk is full, so that a failure can still be
    /// recorded and reported.
    #[serde(deserialize_with = "size")]
    pub journal_reserve: u64,
    /// How much of the end of a step's output is kept (bytes).
    #[serde(deserialize_with = "size")]
    pub output_tail: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Limits {
            reconnect: seconds(1),
            reconnect_most: seconds(300),
            connect: seconds(10),
            handshake: seconds(30),
            keep_alive: seconds(35),
            keep_alive_timeout: seconds(10),
            unary_call: seconds(30),
            stall: seconds(30),
            facts_interval: seconds(600),
            agent_trial: seconds(600),
            disk_reserve: 16 << 20,
            disk_reserve_percent: 5,
            journal_reserve: 4 << 20,
            output_tail: OUTPUT_TAIL_MAX,
        }
    }
}

impl Limits {
    /// The first rule that these limits break, as a sentence.
    pub fn broken_rule(&self) -> Option<String> {
        // By name and without a rest: a limit that nobody gave a range is no limit.
        let Limits {
            reconnect,
            reconnect_most,
            connect,
            handshake,
            keep_alive,
            keep_alive_timeout,
            unary_call,
            stall,
            facts_interval,
            agent_trial,
            disk_reserve,
            disk_reserve_percent,
            journal_reserve,
            output_tail,
        } = *self;
        let (least, hour) = (Duration::from_millis(10), Duration::from_secs(3600));
        let spans = [
            ("reconnect", reconnect, least, hour),
            ("reconnect_most", reconnect_most, reconnect, hour),
            ("connect", connect, least, hour),
            ("handshake", handshake, least, hour),
            ("keep_alive", keep_alive, least, hour),
            ("keep_alive_timeout", keep_alive_timeout, least, hour),
            ("unary_call", unary_call, least, hour),
            // Shorter, and a line with a long way to go would count as one that stands still.
            ("stall", stall, Duration::from_millis(100), hour),
            // Shorter, and own programs would run all the time.
            ("facts_interval", facts_interval, Duration::from_secs(1), hour * 24),
            ("agent_trial", agent_trial, Duration::from_secs(1), hour),
        ];
        if let Some((name, value, low, high)) = spans.iter().find(|(_, v, low, high)| v < low || v > high) {
            return Some(format!("limits.{name} is {value:?}; give {low:?} to {high:?}"));
        }
        let numbers = [
            ("disk_reserve", disk_reserve, 0, 1 << 40),
            ("disk_reserve_percent", disk_reserve_percent, 0, 1000),
            // Less would not hold the record of an attempt and the report of its failure.
            ("journal_reserve", journal_reserve, 1 << 20, 1 << 30),
            ("output_tail", output_tail as u64, 256, OUTPUT_TAIL_MAX as u64),
        ];
        let broken = numbers.iter().find(|(_, v, low, high)| v < low || v > high);
        broken.map(|(name, value, low, high)| format!("limits.{name} is {value}; give {low} to {high}"))
    }

    /// How long to wait until the machine is measured next: a quarter more or less than the interval, so that a fleet that was started
    /// in one moment does not report in one.
    pub fn next_facts(&self, random: u64) -> Duration {
        let interval = self.facts_interval.as_millis() as u64;
        Duration::from_millis(interval * 3 / 4 + random % (interval / 2).max(1))
    }

    /// How long to wait after so many failures in a row: anything up to twice as long with every one, and next to nothing the
    /// first time.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let most = match failures {
            0 => self.reconnect / 4,
            n => self.reconnect.saturating_mul(1 << n.min(20)).min(self.reconnect_most),
        };
        Duration::from_millis(random % (most.as_millis() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_rules_and_nonsense_is_named() {
        assert_eq!(Limits::default().broken_rule(), None);
        for (text, word) in [
            ("keep_alive = \"0s\"", "limits.keep_alive"),
            ("stall = \"50ms\"", "limits.stall"),
            ("reconnect = \"2s\"\nreconnect_most = \"1s\"", "limits.reconnect_most"),
            ("journal_reserve = \"1KiB\"", "limits.journal_reserve"),
            ("output_tail = \"65KiB\"", "limits.output_tail"),
            ("disk_reserve_percent = 1001", "limits.disk_reserve_percent"),
        ] {
            let rule = toml::from_str::<Limits>(text).unwrap().broken_rule().unwrap_or_default();
            assert!(rule.contains(word), "{text}: {rule}");
        }
        let error = toml::from_str::<Limits>("no_such = 1").unwrap_err().to_string();
        assert!(error.contains("no_such"), "{error}");
    }

    #[test]
    fn the_example_beside_the_unit_shows_every_limit_with_its_default() {
        let text = include_str!("../systemd/agent.toml");
        let (_, limits) = text.split_once("[limits]\n").unwrap();
        let shown: String = limits
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = "))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(toml::from_str::<Limits>(&shown).unwrap(), Limits::default());
        let error = toml::from_str::<Limits>("no_such = 1").unwrap_err().to_string();
        let names = error.split('`').skip(3).step_by(2);
        names.for_each(|name| assert!(shown.contains(&format!("{name} = ")), "{name} is not shown"));
    }

    #[test]
    fn pauses_are_of_any_length_up_to_a_bound_that_doubles_until_the_longest() {
        let limits = Limits::default();
        let longest = |failures| (0..2000).map(|n: u64| limits.pause(failures, n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).max().unwrap();
        assert!(longest(0) <= Duration::from_millis(250));
        for (failures, bound) in [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (30, 300), (u32::MAX, 300)] {
            let longest = longest(failures);
            let bound = Duration::from_secs(bound);
            assert!(longest <= bound && longest > bound * 9 / 10, "{failures}: {longest:?}");
        }
        // Full jitter: a quarter of a fleet comes back in the first quarter of the time, not all of it at its end.
        let early = (0..2000_u64).filter(|n| limits.pause(9, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) < Duration::from_secs(75)).count();
        assert!((300..700).contains(&early), "{early} of 2000");
    }
}
