//! Patterns: regular expressions that a publisher signs, matched in time that grows with the length of the text alone.

use crate::{Invalid, digest::serde_as_text, limits, quoted, told};
use std::{fmt, str::FromStr};

/// A regular expression in the syntax of the crate `regex-lite`: no look-around, no back-references.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `text` matches.
    pub fn fits(&self, text: &str) -> bool {
        compile(&format!(r"\A(?:{})\z", self.0)).is_ok_and(|regex| regex.is_match(text))
    }

    /// What it finds first in `text`: its first group, or the whole match of an expression without one.
    pub fn find<'a>(&self, text: &'a str) -> Option<&'a str> {
        let found = compile(&self.0).ok()?.captures(text)?;
        found.get(1).or_else(|| found.get(0)).map(|m| m.as_str())
    }

    /// Whether it says itself that what it matches may begin with a dash.
    pub fn allows_leading_dash(&self) -> bool {
        self.0.starts_with('-')
    }
}

fn compile(text: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    regex_lite::RegexBuilder::new(text).size_limit(limits::PATTERN_PROGRAM_MAX).nest_limit(32).build()
}

impl FromStr for Pattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > limits::PATTERN_MAX {
            return Err(Invalid::new(format!("a pattern has 1 to {} bytes, not {}", limits::PATTERN_MAX, text.len())));
        }
        // Both ways in which it is used: what can be compiled by itself may be too large with its anchors.
        match compile(text).and_then(|_| compile(&format!(r"\A(?:{text})\z"))) {
            Ok(_) => Ok(Pattern(text.into())),
            Err(e) => Err(Invalid::new(format!("{} is not a regular expression: {}", quoted(text), told(&e)))),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(Pattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_as_a_whole_or_not_at_all() {
        let port: Pattern = "[0-9]{1,5}".parse().unwrap();
        assert!(port.fits("8080"));
        for bad in ["", "80a", "a80", "80\n", "123456", "-1", "80 --evil"] {
            assert!(!port.fits(bad), "{bad:?}");
        }
        // An alternative must not escape the anchors, nor a flag for many lines.
        assert!(!"a|b".parse::<Pattern>().unwrap().fits("ax"));
        assert!(!"(?m)a".parse::<Pattern>().unwrap().fits("a\nb"));
        assert!(!"(?m)^a$".parse::<Pattern>().unwrap().fits("x\na\ny"));
        assert!("a)|(?:b".parse::<Pattern>().is_err());
    }

    #[test]
    fn the_first_group_is_what_is_found() {
        assert_eq!(r"version (\S+)".parse::<Pattern>().unwrap().find("tool version 1.2-3 (x)"), Some("1.2-3"));
        assert_eq!("[0-9.]+".parse::<Pattern>().unwrap().find("v1.2"), Some("1.2"));
        assert_eq!("z".parse::<Pattern>().unwrap().find("abc"), None);
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for bad in ["", "(", "(?=x)x", &"x".repeat(limits::PATTERN_MAX + 1), "(((a{999}){999}){999}){999}"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
    }
}
