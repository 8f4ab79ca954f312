//! What came of a measurement: a figure of ours, and what it is measured against.

use serde::Serialize;

/// What was measured in each round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// One more round.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle one of all rounds; none without rounds.
    pub(super) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }

    fn least(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    fn most(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }
}

impl From<f64> for Samples {
    fn from(value: f64) -> Samples {
        Samples(vec![value])
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

/// What has to be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reach {
    /// Nothing: the figure is there to be known.
    Nothing,
    /// Ours is at most so many times the baseline.
    Times(f64),
    /// Ours is at most so many times the baseline, and so much.
    TimesAnd(f64, f64),
    /// Ours is at least so many times the baseline.
    AtLeastTimes(f64),
    /// Ours is at most this.
    AtMost(f64),
}

/// One figure.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) scenario: &'static str,
    pub(super) metric: String,
    pub(super) unit: &'static str,
    pub(super) ours: Samples,
    pub(super) baseline: Samples,
    /// Who or what the baseline is; empty without one.
    pub(super) peer: String,
    pub(super) reach: Reach,
    /// Whether the figures mean something: not those of a small run.
    pub(super) counts: bool,
}

impl Line {
    /// How many times the baseline ours is: the middle of the ratios of the rounds where both have as many, since neighbouring
    /// rounds saw the same machine; else that of both medians.
    pub(super) fn ratio(&self) -> Option<f64> {
        if self.ours.0.len() == self.baseline.0.len() {
            let ratios: Samples = self.ours.0.iter().zip(&self.baseline.0).map(|(ours, baseline)| ours / baseline).collect();
            return ratios.median();
        }
        Some(self.ours.median()? / self.baseline.median()?)
    }

    /// How many times what it may be at the most ours is: 1 is just enough, and less is better. None where nothing has to be reached,
    /// or nothing can be said.
    pub(super) fn share(&self) -> Option<f64> {
        if !self.counts {
            return None;
        }
        match self.reach {
            Reach::Nothing => None,
            Reach::Times(most) => Some(self.ratio()? / most),
            Reach::TimesAnd(most, more) => Some(self.ours.median()? / (self.baseline.median()? * most + more)),
            Reach::AtLeastTimes(least) => Some(least / self.ratio()?),
            Reach::AtMost(most) => Some(self.ours.median()? / most),
        }
    }

    /// Whether what has to be reached is.
    pub(super) fn ok(&self) -> Option<bool> {
        self.share().map(|share| share <= 1.0)
    }

    /// What has to be reached, for people.
    pub(super) fn reach(&self) -> String {
        match self.reach {
            Reach::Nothing => String::new(),
            Reach::Times(most) => format!("≤ {most} ×"),
            Reach::TimesAnd(most, more) => format!("≤ {most} × + {} {}", number(more), self.unit),
            Reach::AtLeastTimes(least) => format!("≥ {least} ×"),
            Reach::AtMost(most) => format!("≤ {} {}", number(most), self.unit),
        }
    }

    /// One JSON object, its members in the order in which everybody reads them.
    pub(super) fn json(&self) -> String {
        let word = |text: String| (!text.is_empty()).then_some(text);
        let spread = |samples: &Samples| Spread { min: samples.least(), max: samples.most(), rounds: samples.0.len() };
        let object = Object {
            scenario: self.scenario,
            metric: &self.metric,
            unit: self.unit,
            ours: self.ours.median(),
            baseline: self.baseline.median(),
            peer: word(self.peer.clone()),
            ratio: self.ratio(),
            reach: word(self.reach()),
            ok: self.ok(),
            ours_spread: spread(&self.ours),
            baseline_spread: spread(&self.baseline),
        };
        serde_json::to_string(&object).expect("it is plain data")
    }

    /// The columns of a table.
    pub(super) fn columns(&self) -> [String; 9] {
        let ok = match self.ok() {
            None => "",
            Some(true) => "yes",
            Some(false) => "no",
        };
        let ratio = self.ratio().map(|ratio| format!("{} ×", number(ratio))).unwrap_or_default();
        [
            self.scenario.to_owned(),
            self.metric.clone(),
            self.unit.to_owned(),
            shown(&self.ours),
            shown(&self.baseline),
            self.peer.clone(),
            ratio,
            self.reach(),
            ok.to_owned(),
        ]
    }
}

#[derive(Serialize)]
struct Object<'a> {
    scenario: &'a str,
    metric: &'a str,
    unit: &'a str,
    ours: Option<f64>,
    baseline: Option<f64>,
    peer: Option<String>,
    ratio: Option<f64>,
    reach: Option<String>,
    ok: Option<bool>,
    ours_spread: Spread,
    baseline_spread: Spread,
}

#[derive(Serialize)]
struct Spread {
    min: Option<f64>,
    max: Option<f64>,
    rounds: usize,
}

/// The heads of those columns.
pub(super) const COLUMNS: [&str; 9] = ["scenario", "metric", "unit", "ours", "baseline", "peer", "ratio", "reach", "ok"];

/// The middle with the spread, where there is one.
fn shown(samples: &Samples) -> String {
    let (Some(median), Some(least), Some(most)) = (samples.median(), samples.least(), samples.most()) else { return String::new() };
    if samples.0.len() == 1 {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(least), number(most))
}

/// Three digits that say something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        v if v >= 0.1 => 3,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ours: &[f64], baseline: &[f64], reach: Reach) -> Line {
        Line {
            scenario: "fetch",
            metric: "throughput".into(),
            unit: "MB/s",
            ours: ours.iter().copied().collect(),
            baseline: baseline.iter().copied().collect(),
            peer: "nginx".into(),
            reach,
            counts: true,
        }
    }

    #[test]
    fn the_ratio_is_that_of_neighbouring_rounds() {
        // The machine was twice as slow in the second round, for both.
        let line = line(&[200.0, 100.0, 200.0], &[100.0, 50.0, 100.0], Reach::AtLeastTimes(1.3));
        assert_eq!((line.ratio(), line.ok()), (Some(2.0), Some(true)));
        let begin = r#"{"scenario":"fetch","metric":"throughput","unit":"MB/s","ours":200.0,"baseline":100.0,"peer":"nginx","ratio":2.0,"#;
        assert!(line.json().starts_with(&format!(r#"{begin}"reach":"≥ 1.3 ×","ok":true"#)), "{}", line.json());
    }

    #[test]
    fn what_has_nothing_to_be_measured_against_is_judged_by_itself_or_not_at_all() {
        assert_eq!(line(&[5.0], &[], Reach::AtMost(6.0)).ok(), Some(true));
        assert_eq!(line(&[7.0], &[], Reach::AtMost(6.0)).ok(), Some(false));
        assert_eq!(line(&[7.0], &[], Reach::Times(6.0)).ok(), None);
        assert_eq!(line(&[7.0], &[6.0], Reach::TimesAnd(1.1, 0.5)).ok(), Some(true));
        let small = Line { counts: false, ..line(&[7.0], &[], Reach::AtMost(6.0)) };
        assert_eq!(small.ok(), None);
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(Samples::from_iter([4.0, 1.0, 3.0, 2.0]).median(), Some(2.5));
        assert_eq!(Samples::default().median(), None);
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        for (value, text) in [(0.0, "0"), (0.01234, "0.0123"), (0.5, "0.5"), (2.34567, "2.35"), (474.4, "474"), (15000.0, "15000")] {
            assert_eq!(number(value), text);
        }
    }
}
