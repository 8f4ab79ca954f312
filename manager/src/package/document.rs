//! Reads a TOML document key by key and collects everything that is wrong with it, with line and key.

use std::{collections::BTreeMap, fmt, str::FromStr};
use sutler_base::manifest::requirement::Scalar;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1; none for what isn't there at all.
    pub line: Option<usize>,
    /// The key with where it lies, such as `step 2: argv`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.key, self.sentence)
    }
}

/// A value and where it is, to be read as some type.
pub(super) struct Value<'a> {
    key: String,
    line: usize,
    value: &'a DeValue<'a>,
}

/// A table whose keys are taken one after another; what is left over at the end is unknown.
pub(super) struct Table<'a> {
    at: String,
    line: Option<usize>,
    entries: BTreeMap<&'a str, &'a Spanned<DeValue<'a>>>,
    known: Vec<&'static str>,
}

/// The document's text, and what was found wrong so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Reader { text, problems: Vec::new() }
    }

    /// In which line the byte `at` is.
    pub(super) fn line(text: &str, at: usize) -> usize {
        text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    pub(super) fn root(&self, table: &'a DeTable<'a>) -> Table<'a> {
        Table { at: String::new(), line: None, entries: entries(table), known: Vec::new() }
    }

    pub(super) fn problem(&mut self, line: Option<usize>, key: impl Into<String>, sentence: impl Into<String>) {
        self.problems.push(Problem { line, key: key.into(), sentence: sentence.into() });
    }

    fn wrong(&mut self, value: &Value<'_>, sentence: impl Into<String>) {
        self.problem(Some(value.line), value.key.clone(), sentence);
    }

    fn not_a(&mut self, value: &Value<'_>, wanted: &str) {
        self.wrong(value, format!("must be {wanted}, not {}", kind_of(value.value)));
    }

    /// The value at `key`, if it is there.
    pub(super) fn take(&mut self, table: &mut Table<'a>, key: &'static str) -> Option<Value<'a>> {
        table.known.push(key);
        let found = table.entries.remove(key)?;
        let line = Self::line(self.text, found.span().start);
        Some(Value { key: format!("{}{key}", table.at), line, value: found.get_ref() })
    }

    /// The value at `key`; a problem if it isn't there, with `hint` saying what it should be.
    pub(super) fn need(&mut self, table: &mut Table<'a>, key: &'static str, hint: &str) -> Option<Value<'a>> {
        let found = self.take(table, key);
        if found.is_none() {
            self.problem(table.line, format!("{}{key}", table.at), format!("is missing; {hint}"));
        }
        found
    }

    /// Ends the reading of a table: whatever was not taken is a problem.
    pub(super) fn finish(&mut self, table: Table<'a>) {
        let allowed = table.known.join(", ");
        for (key, value) in table.entries {
            let line = Self::line(self.text, value.span().start);
            let key = format!("{}{}", table.at, sutler_base::quoted(key));
            self.problem(Some(line), key, format!("is not a key here; allowed are {allowed}"));
        }
    }

    pub(super) fn text(&mut self, value: &Value<'a>) -> Option<&'a str> {
        let text = value.value.as_str();
        if text.is_none() {
            self.not_a(value, "a text in quotes");
        }
        text
    }

    /// A text that is read as a `T`.
    pub(super) fn parsed<T: FromStr<Err = sutler_base::Invalid>>(&mut self, value: &Value<'a>) -> Option<T> {
        match self.text(value)?.parse() {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.wrong(value, why.0);
                None
            }
        }
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&mut self, value: &Value<'a>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(value)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, means)| *means);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.wrong(value, format!("must be one of {}, not {}", words.join(", "), sutler_base::quoted(text)));
        }
        found
    }

    pub(super) fn truth(&mut self, value: &Value<'a>) -> Option<bool> {
        let truth = value.value.as_bool();
        if truth.is_none() {
            self.not_a(value, "true or false");
        }
        truth
    }

    pub(super) fn number<T: TryFrom<i64>>(&mut self, value: &Value<'a>, wanted: &str) -> Option<T> {
        let Some(number) = value.value.as_integer() else {
            self.not_a(value, wanted);
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok().and_then(|n| T::try_from(n).ok());
        if parsed.is_none() {
            self.wrong(value, format!("must be {wanted}, not {number}"));
        }
        parsed
    }

    /// A length of time in whole seconds: a number of them, or a text such as `90s`, `5m`, `1h`.
    pub(super) fn seconds(&mut self, value: &Value<'a>) -> Option<u32> {
        const WANTED: &str = "a length of time: \"90s\", \"5m\", \"1h\" or a number of seconds";
        let Some(text) = value.value.as_str() else { return self.number(value, WANTED) };
        let (digits, factor) = match text.as_bytes().last() {
            Some(b's') => (&text[..text.len() - 1], 1),
            Some(b'm') => (&text[..text.len() - 1], 60),
            Some(b'h') => (&text[..text.len() - 1], 3600),
            _ => (text, 1),
        };
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let seconds = digits.parse::<u32>().ok().filter(|_| all_digits).and_then(|n| n.checked_mul(factor));
        if seconds.is_none() {
            self.wrong(value, format!("must be {WANTED}, not {}", sutler_base::quoted(text)));
        }
        seconds
    }

    /// A moment: a TOML date-time with its offset, or the same as a text.
    pub(super) fn moment(&mut self, value: &Value<'a>) -> Option<sutler_base::Timestamp> {
        let text = match (value.value.as_datetime(), value.value.as_str()) {
            (Some(moment), _) => moment.to_string(),
            (None, Some(text)) => text.to_owned(),
            (None, None) => {
                self.not_a(value, "a moment such as 2099-12-31T00:00:00Z");
                return None;
            }
        };
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(
                value,
                format!("must be a moment with its offset, such as 2099-12-31T00:00:00Z, not {}", sutler_base::quoted(&text)),
            );
        }
        parsed
    }

    /// A list, each element to be read by itself.
    pub(super) fn list(&mut self, value: &Value<'a>, wanted: &str) -> Option<Vec<Value<'a>>> {
        let Some(list) = value.value.as_array() else {
            self.not_a(value, wanted);
            return None;
        };
        let element = |(n, element): (usize, &'a Spanned<DeValue<'a>>)| Value {
            key: format!("{}[{n}]", value.key),
            line: Self::line(self.text, element.span().start),
            value: element.get_ref(),
        };
        Some(list.iter().enumerate().map(element).collect())
    }

    pub(super) fn texts(&mut self, value: &Value<'a>) -> Option<Vec<String>> {
        let list = self.list(value, "a list of texts, such as [\"/bin/true\", \"--now\"]")?;
        let texts: Vec<_> = list.iter().map(|v| self.text(v).map(String::from)).collect();
        texts.into_iter().collect()
    }

    /// A table whose keys are free.
    pub(super) fn pairs(&mut self, value: &Value<'a>, wanted: &str) -> Option<Vec<(&'a str, Value<'a>)>> {
        let Some(table) = value.value.as_table() else {
            self.not_a(value, wanted);
            return None;
        };
        let pair = |(key, found): (&'a str, &'a Spanned<DeValue<'a>>)| {
            let line = Self::line(self.text, found.span().start);
            (key, Value { key: format!("{}.{}", value.key, sutler_base::quoted(key)), line, value: found.get_ref() })
        };
        Some(entries(table).into_iter().map(pair).collect())
    }

    /// A table whose keys are known.
    pub(super) fn table(&mut self, value: &Value<'a>, wanted: &str) -> Option<Table<'a>> {
        let Some(table) = value.value.as_table() else {
            self.not_a(value, wanted);
            return None;
        };
        Some(Table { at: format!("{}.", value.key), line: Some(value.line), entries: entries(table), known: Vec::new() })
    }

    /// The tables of an array such as `[[step]]`, each with a name for messages.
    pub(super) fn tables(&mut self, value: &Value<'a>) -> Vec<Table<'a>> {
        let wanted = format!("tables, each under [[{}]]", value.key);
        let mut out = Vec::new();
        for (n, element) in self.list(value, &wanted).unwrap_or_default().into_iter().enumerate() {
            if let Some(mut table) = self.table(&element, &format!("a table under [[{}]]", value.key)) {
                let name = table.entries.get("name").and_then(|name| name.get_ref().as_str());
                let name = name.map(|name| format!(" ({})", sutler_base::quoted(name))).unwrap_or_default();
                table.at = format!("{} {}{name}: ", value.key, n + 1);
                out.push(table);
            }
        }
        out
    }

    /// Says that `value` is wrong.
    pub(super) fn refuse(&mut self, value: &Value<'a>, sentence: impl Into<String>) {
        self.wrong(value, sentence);
    }
}

impl Value<'_> {
    /// The value if it is a text, a whole number, true or false.
    pub(super) fn scalar(&self) -> Option<Scalar> {
        match self.value {
            DeValue::String(text) => Some(Scalar::Text(text.to_string())),
            DeValue::Boolean(truth) => Some(Scalar::Truth(*truth)),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Scalar::Number),
            _ => None,
        }
    }
}

impl Table<'_> {
    /// Where the table is, for messages about it as a whole.
    pub(super) fn place(&self) -> (Option<usize>, String) {
        (self.line, self.at.trim_end_matches([':', ' ', '.']).to_owned())
    }
}

fn entries<'a>(table: &'a DeTable<'a>) -> BTreeMap<&'a str, &'a Spanned<DeValue<'a>>> {
    table.iter().map(|(key, value)| (key.get_ref().as_ref(), value)).collect()
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
