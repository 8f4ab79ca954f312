//! How versions compare: as the package's own system compares them, and not as texts.
//!
//! Sources: Debian Policy 5.6.12 and deb-version(7) for [`Ordering::Dpkg`]; rpm's documentation of version comparison
//! (`rpmvercmp`, with `~` and `^`) for [`Ordering::Rpm`]; semver.org 2.0.0, section 11, for [`Ordering::Semver`].

use crate::{Invalid, Version, digest::serde_as_text, limits, quoted};
use serde::{Deserialize, Serialize};
use std::{cmp, fmt, str::FromStr};

/// By whose rules two versions compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// dpkg's: `[EPOCH:]UPSTREAM[-REVISION]`, numbers as numbers, `~` before everything. Fits most versions that people write.
    #[default]
    Dpkg,
    /// rpm's: `[EPOCH:]VERSION[-RELEASE]`. Where one of the two has no release, releases don't count.
    Rpm,
    /// Semantic versions: `MAJOR.MINOR.PATCH[-PRE]`; what is missing of the three counts as 0, and what follows a `+` does not
    /// count. One that is no such version comes before all that are, and compares as dpkg would.
    Semver,
}

impl Ordering {
    /// Every ordering with its word.
    pub const ALL: [(&'static str, Ordering); 3] = [("dpkg", Ordering::Dpkg), ("rpm", Ordering::Rpm), ("semver", Ordering::Semver)];

    /// Whether `a` is older than, the same as or newer than `b`.
    pub fn compare(self, a: &str, b: &str) -> cmp::Ordering {
        match self {
            Ordering::Dpkg => dpkg(a, b),
            Ordering::Rpm => rpm(a, b),
            Ordering::Semver => match (semantic(a), semantic(b)) {
                (Some(a), Some(b)) => a.cmp_precedence(&b),
                (None, None) => dpkg(a, b),
                (a, b) => a.is_some().cmp(&b.is_some()),
            },
        }
    }
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ordering::Dpkg => "dpkg",
            Ordering::Rpm => "rpm",
            Ordering::Semver => "semver",
        })
    }
}

/// The epoch before a colon; 0 without one.
fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit()) => (epoch.parse().unwrap_or(u64::MAX), rest),
        _ => (0, version),
    }
}

fn dpkg(a: &str, b: &str) -> cmp::Ordering {
    let ((a_epoch, a), (b_epoch, b)) = (epoch(a), epoch(b));
    let parts = |v: &str| v.rsplit_once('-').map_or((v.to_owned(), String::new()), |(u, r)| (u.to_owned(), r.to_owned()));
    let ((a_upstream, a_revision), (b_upstream, b_revision)) = (parts(a), parts(b));
    let upstream = || dpkg_part(a_upstream.as_bytes(), b_upstream.as_bytes());
    a_epoch.cmp(&b_epoch).then_with(upstream).then_with(|| dpkg_part(a_revision.as_bytes(), b_revision.as_bytes()))
}

/// Where a character that is no digit stands: the tilde before the end, the end before letters, letters before the rest.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b) if b.is_ascii_digit() => 0,
        Some(b'~') => -1,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    }
}

fn dpkg_part<'a>(mut a: &'a [u8], mut b: &'a [u8]) -> cmp::Ordering {
    let is_text = |part: &[u8]| part.first().is_some_and(|c| !c.is_ascii_digit());
    loop {
        while is_text(a) || is_text(b) {
            match weight(a.first()).cmp(&weight(b.first())) {
                cmp::Ordering::Equal => (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default()),
                decided => return decided,
            }
        }
        if a.is_empty() && b.is_empty() {
            return cmp::Ordering::Equal;
        }
        match number(&mut a).cmp_number(number(&mut b)) {
            cmp::Ordering::Equal => {}
            decided => return decided,
        }
    }
}

/// The digits that `part` begins with, without leading zeros; `part` is what follows.
fn number<'a>(part: &mut &'a [u8]) -> &'a [u8] {
    let end = part.iter().position(|b| !b.is_ascii_digit()).unwrap_or(part.len());
    let (digits, rest) = part.split_at(end);
    *part = rest;
    let zeros = digits.iter().position(|b| *b != b'0').unwrap_or(digits.len());
    &digits[zeros..]
}

/// Digits without leading zeros compare by their length first: no number is too long.
trait CompareNumber {
    fn cmp_number(self, other: Self) -> cmp::Ordering;
}

impl CompareNumber for &[u8] {
    fn cmp_number(self, other: Self) -> cmp::Ordering {
        self.len().cmp(&other.len()).then_with(|| self.cmp(other))
    }
}

fn rpm(a: &str, b: &str) -> cmp::Ordering {
    let ((a_epoch, a), (b_epoch, b)) = (epoch(a), epoch(b));
    let parts = |v| str::rsplit_once(v, '-').map_or((v, None), |(version, release)| (version, Some(release)));
    let ((a_version, a_release), (b_version, b_release)) = (parts(a), parts(b));
    let release = || match (a_release, b_release) {
        (Some(a), Some(b)) => rpm_part(a.as_bytes(), b.as_bytes()),
        _ => cmp::Ordering::Equal,
    };
    a_epoch.cmp(&b_epoch).then_with(|| rpm_part(a_version.as_bytes(), b_version.as_bytes())).then_with(release)
}

fn rpm_part<'a>(mut a: &'a [u8], mut b: &'a [u8]) -> cmp::Ordering {
    let counts = |b: &u8| b.is_ascii_alphanumeric() || *b == b'~' || *b == b'^';
    loop {
        for part in [&mut a, &mut b] {
            *part = &part[part.iter().position(counts).unwrap_or(part.len())..];
        }
        // A tilde comes before everything, the end too; a caret after the end and before everything else.
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return cmp::Ordering::Less,
            (_, Some(b'~')) => return cmp::Ordering::Greater,
            (Some(b'^'), None) => return cmp::Ordering::Greater,
            (None, Some(b'^')) => return cmp::Ordering::Less,
            (Some(b'^'), _) => return cmp::Ordering::Less,
            (_, Some(b'^')) => return cmp::Ordering::Greater,
            (None, None) => return cmp::Ordering::Equal,
            (None, Some(_)) => return cmp::Ordering::Less,
            (Some(_), None) => return cmp::Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => match number(&mut a).cmp_number(number(&mut b)) {
                cmp::Ordering::Equal => {}
                decided => return decided,
            },
            (Some(x), Some(y)) if x.is_ascii_alphabetic() && y.is_ascii_alphabetic() => {
                let letters = |part: &[u8]| part.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(part.len());
                let (n, m) = (letters(a), letters(b));
                match a[..n].cmp(&b[..m]) {
                    cmp::Ordering::Equal => (a, b) = (&a[n..], &b[m..]),
                    decided => return decided,
                }
            }
            // A number is newer than letters.
            (Some(x), _) => return if x.is_ascii_digit() { cmp::Ordering::Greater } else { cmp::Ordering::Less },
        }
    }
}

fn semantic(text: &str) -> Option<semver::Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = match numbers.matches('.').count() {
        0 => ".0.0",
        1 => ".0",
        _ => "",
    };
    semver::Version::parse(&format!("{numbers}{missing}{rest}")).ok()
}

/// One bound of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `<`
    Before,
    /// `<=`
    AtMost,
    /// `=`
    Exactly,
    /// `!=`
    Not,
    /// `>=`
    AtLeast,
    /// `>`
    After,
}

impl Relation {
    /// The longer ones first, as they are looked for.
    const ALL: [(&'static str, Relation); 6] = [
        ("<=", Relation::AtMost),
        (">=", Relation::AtLeast),
        ("!=", Relation::Not),
        ("<", Relation::Before),
        (">", Relation::After),
        ("=", Relation::Exactly),
    ];

    fn holds(self, compared: cmp::Ordering) -> bool {
        match self {
            Relation::Before => compared.is_lt(),
            Relation::AtMost => compared.is_le(),
            Relation::Exactly => compared.is_eq(),
            Relation::Not => compared.is_ne(),
            Relation::AtLeast => compared.is_ge(),
            Relation::After => compared.is_gt(),
        }
    }
}

/// Which versions are meant: every bound must hold. As text `>=1.2, <2`; `any` means every version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Range(Vec<(Relation, Version)>);

impl Range {
    /// A range of one bound.
    pub fn of(relation: Relation, version: Version) -> Range {
        Range(vec![(relation, version)])
    }

    /// Every version.
    pub fn any() -> Range {
        Range::default()
    }

    /// Whether every version is meant.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some version can be meant by both, compared by `ordering`: between two versions there is always room for another.
    pub fn overlaps(&self, other: &Range, ordering: Ordering) -> bool {
        let bounds: Vec<_> = self.0.iter().chain(&other.0).collect();
        // If there is one, there is one at a bound, just below it or just above it.
        let holds = |at: &Version, beside: cmp::Ordering| {
            bounds.iter().all(|(relation, bound)| relation.holds(ordering.compare(at.as_str(), bound.as_str()).then(beside)))
        };
        let sides = [cmp::Ordering::Equal, cmp::Ordering::Less, cmp::Ordering::Greater];
        bounds.is_empty() || bounds.iter().any(|(_, at)| sides.iter().any(|beside| holds(at, *beside)))
    }

    /// Whether `version` is meant, compared by `ordering`.
    pub fn holds(&self, version: &str, ordering: Ordering) -> bool {
        self.0.iter().all(|(relation, bound)| relation.holds(ordering.compare(version, bound.as_str())))
    }
}

impl FromStr for Range {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            Invalid::new(format!("a range of versions is like \">=1.2, <2\", \"=1.2-3\" or \"any\"; {} is none: {why}", quoted(text)))
        };
        if text.trim() == "any" {
            return Ok(Range::any());
        }
        let mut bounds = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let found = Relation::ALL.iter().find_map(|(sign, relation)| Some((*relation, part.strip_prefix(sign)?)));
            let (relation, version) = found.ok_or_else(|| wrong("each bound begins with one of < <= = != >= >"))?;
            bounds.push((relation, version.trim().parse().map_err(|e: Invalid| wrong(&e.0))?));
        }
        if bounds.len() > limits::RANGE_BOUNDS_MAX {
            return Err(wrong(&format!("it has more than {} bounds", limits::RANGE_BOUNDS_MAX)));
        }
        Ok(Range(bounds))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        for (n, (relation, version)) in self.0.iter().enumerate() {
            let sign = Relation::ALL.iter().find(|(_, r)| r == relation).map_or("", |(sign, _)| sign);
            write!(f, "{}{sign}{version}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

serde_as_text!(Range);

#[cfg(test)]
mod tests {
    use super::*;
    use cmp::Ordering::{Equal, Greater, Less};

    #[test]
    fn versions_compare_as_their_own_system_compares_them() {
        for (ordering, a, b, expected) in [
            (Ordering::Dpkg, "1.10", "1.9", Greater),
            (Ordering::Dpkg, "1.0~rc1", "1.0", Less),
            (Ordering::Dpkg, "1.0-1", "1.0-1+deb12u1", Less),
            (Ordering::Dpkg, "1:0.9", "2.0", Greater),
            (Ordering::Dpkg, "1.0", "1.0-0", Equal),
            (Ordering::Dpkg, "1.2.3a", "1.2.3+b", Less),
            (Ordering::Dpkg, "007", "7", Equal),
            (Ordering::Rpm, "1.0^git1", "1.0", Greater),
            (Ordering::Rpm, "1.0^git1", "1.0.1", Less),
            (Ordering::Rpm, "1.0~rc1", "1.0", Less),
            (Ordering::Rpm, "1.0a", "1.0.1", Less),
            (Ordering::Rpm, "2.0-1.el9", "2.0", Equal),
            (Ordering::Rpm, "2.0-1.el9", "2.0-2.el8", Less),
            (Ordering::Rpm, "1.05", "1.5", Equal),
            (Ordering::Semver, "1.0.0-rc.1", "1.0.0", Less),
            (Ordering::Semver, "1.0.0-rc.10", "1.0.0-rc.9", Greater),
            (Ordering::Semver, "1.2", "1.2.0", Equal),
            (Ordering::Semver, "1.0.0+a", "1.0.0+b", Equal),
            (Ordering::Semver, "v2.0.0", "1.9.9", Greater),
            (Ordering::Semver, "nightly", "0.0.1", Less),
        ] {
            assert_eq!(ordering.compare(a, b), expected, "{ordering}: {a} and {b}");
            assert_eq!(ordering.compare(b, a), expected.reverse(), "{ordering}: {b} and {a}");
        }
    }

    #[test]
    fn a_range_reads_back_as_itself_and_every_bound_counts() {
        let range: Range = ">=1.2,<2, != 1.5".parse().unwrap();
        assert_eq!(range.to_string(), ">=1.2, <2, !=1.5");
        assert_eq!(range.to_string().parse::<Range>().unwrap(), range);
        for (version, holds) in [("1.1", false), ("1.2", true), ("1.5", false), ("1.10", true), ("2", false)] {
            assert_eq!(range.holds(version, Ordering::Dpkg), holds, "{version}");
        }
        assert!("any".parse::<Range>().unwrap().holds("0", Ordering::Rpm));
        for bad in ["", "1.2", ">=", ">=1.2,", "~>1", ">=latest", &format!("=1{}", ",=1".repeat(limits::RANGE_BOUNDS_MAX))] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_ranges_overlap_where_a_version_can_be_in_both() {
        for (a, b, overlap) in [
            ("any", "any", true),
            ("any", "<1", true),
            ("<2", ">=2", false),
            ("<=2", ">=2", true),
            ("<=2, !=2", ">=2", false),
            (">1", "<2", true),
            (">=1.2, <2", "=1.5", true),
            (">=1.2, <2", "=2.0", false),
            ("=1.10", ">1.9", true),
            ("=1", "!=1", false),
            ("!=1", "!=2", true),
        ] {
            let (a, b): (Range, Range) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((a.overlaps(&b, Ordering::Dpkg), b.overlaps(&a, Ordering::Dpkg)), (overlap, overlap), "{a} and {b}");
        }
    }
}
