//! Which paths of a folder are left out: patterns with `*`, `?` and `**`.

use std::{fmt, str::FromStr};
use sutler_base::{Invalid, quoted};

/// A pattern for paths. `*` and `?` stand for any characters and any one character of a name, `**` as a whole component
/// for any number of folders. Without a `/` it fits a name at any depth, with one the path from the folder's top. What lies
/// below a path that fits is left out with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<String>,
}

impl Pattern {
    /// Whether this very path fits; callers leave out what lies below it.
    pub fn fits(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        match &self.components[..] {
            [name] if name != "**" => path.last().is_some_and(|last| fits_name(name, last)),
            components => fits_path(components, &path),
        }
    }
}

impl FromStr for Pattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let anchored = text.strip_suffix('/').unwrap_or(text);
        let (anchored, from_top) = anchored.strip_prefix('/').map_or((anchored, false), |rest| (rest, true));
        let mut components: Vec<String> = anchored.split('/').map(String::from).collect();
        if text.len() > 256 || components.len() > 32 || components.iter().any(|c| c.is_empty() || c == "." || c == "..") {
            return Err(Invalid::new(format!(
                "a pattern is a path below the folder, in which * and ? stand for parts of a name and ** for folders (at most 256 bytes); {} is not one",
                quoted(text)
            )));
        }
        if from_top && components.len() == 1 {
            // Zero folders, then the name: only at the top.
            components.insert(0, String::new());
        }
        Ok(Pattern { components })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.components.join("/"))
    }
}

fn fits_path(components: &[String], path: &[&str]) -> bool {
    match components.split_first() {
        None => path.is_empty(),
        Some((first, rest)) if first.is_empty() => path.len() == 1 && fits_path(rest, path),
        Some((first, rest)) if first == "**" => (0..=path.len()).any(|n| fits_path(rest, &path[n..])),
        Some((first, rest)) => path.split_first().is_some_and(|(name, below)| fits_name(first, name) && fits_path(rest, below)),
    }
}

/// Whether `name` fits a component; in time proportional to the product of their lengths.
fn fits_name(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_what_its_text_says() {
        for (pattern, fits, not) in [
            ("*.o", &["a.o", "x/y/b.o", ".o"][..], &["a.oo", "a.o/b"][..]),
            (".git", &[".git", "sub/.git"], &["git", ".git/config"]),
            ("/build", &["build"], &["a/build"]),
            ("doc/", &["doc", "a/doc"], &["docs"]),
            ("doc/*.txt", &["doc/a.txt"], &["doc/sub/a.txt", "x/doc/a.txt"]),
            ("**/test/*", &["test/a", "a/b/test/c"], &["test", "test/a/b"]),
            ("a/**", &["a/b", "a/b/c"], &["b/a"]),
            ("?b*c", &["abc", "bbxxc"], &["bc", "ab"]),
            ("a*a*a*a*b", &["aaaab", "axaxaxa b"], &["aaaaaaaaaaaaaaaaaaaaaaaa"]),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert!(fits.iter().all(|p| parsed.fits(p)), "{pattern} fits {fits:?}");
            assert!(!not.iter().any(|p| parsed.fits(p)), "{pattern} does not fit {not:?}");
        }
        for bad in ["", "/", "a//b", "../x", "./x"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
    }
}
