//! Names: what people choose. Unique among the objects that exist now; free again after a deletion.

use crate::{Invalid, digest::serde_as_text, quoted};
use std::{fmt, str::FromStr, sync::Arc};

fn label(text: &str, max: usize, extra: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=max).contains(&bytes.len())
        && alnum(&bytes[0])
        && alnum(&bytes[bytes.len() - 1])
        && bytes.iter().all(|b| alnum(b) || *b == b'-' || extra.contains(b))
}

fn version(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".+~:_^-".contains(b))
        && text != "latest"
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok($name(text.into())) } else { Err(Invalid::new(format!(concat!($rule, ", not {}"), quoted(text)))) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        serde_as_text!($name);
    };
}

name!(
    /// The name of a group.
    GroupName, "a group's name has 1 to 63 of a-z 0-9 and -, and starts and ends with a letter or digit", |t| label(t, 63, b"")
);
name!(
    /// The name of a policy.
    PolicyName, "a policy's name has 1 to 63 of a-z 0-9 and -, and starts and ends with a letter or digit", |t| label(t, 63, b"")
);
name!(
    /// The name of a package. Debian's names fit: lower case, with `+` and `.`.
    PackageName, "a package's name has 1 to 100 of a-z 0-9 + . and -, and starts and ends with a letter or digit (or ends with +)", |t| label(t.trim_end_matches('+'), 100, b"+.") && t.len() <= 100
);
name!(
    /// The name of an operator.
    OperatorName, "an operator's name has 1 to 63 of a-z 0-9 . _ and -, and starts and ends with a letter or digit", |t| label(t, 63, b"._")
);
name!(
    /// The key of a label.
    LabelKey, "a label's key has 1 to 63 of a-z 0-9 . _ / and -, and starts and ends with a letter or digit", |t| label(t, 63, b"._/")
);
name!(
    /// The name of a package's parameter.
    ParameterName, "a parameter's name has 1 to 63 of a-z 0-9 and _, and starts and ends with a letter or digit", |t| label(t, 63, b"_") && !t.contains('-')
);
name!(
    /// The name of a question: one that stands in a condition as it is, `answers.NAME`.
    QuestionName, "a question's name has 1 to 63 of a-z 0-9 and _, starts with a letter and ends with a letter or digit", |t| label(t, 63, b"_") && !t.contains('-') && !t.starts_with(|c: char| c.is_ascii_digit())
);
name!(
    /// What people call a job: never what reads like a job's id.
    JobAlias, "a job's alias has 1 to 63 of a-z 0-9 and -, starts and ends with a letter or digit, and does not read like an id (10 of 0-9 a-z)", |t| label(t, 63, b"") && t.parse::<crate::JobId>().is_err()
);
name!(
    /// The name of a maintenance window.
    WindowName, "a window's name has 1 to 63 of a-z 0-9 and -, and starts and ends with a letter or digit", |t| label(t, 63, b"")
);
name!(
    /// The version of a package, as its publisher writes it; `latest` is not one. How two compare is the package's affair.
    Version, "a version has 1 to 128 of A-Z a-z 0-9 . + ~ : ^ _ and -, starts with a letter or digit, and is not \"latest\"", version
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_holds_a_path_or_an_option() {
        for bad in ["", "-x", "a/b", "..", "A", "a b", "x-", "é", "a\0"] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad:?}");
        }
        assert!("new-clients".parse::<GroupName>().is_ok());
        assert!("a".repeat(63).parse::<GroupName>().is_ok());
        assert!("a".repeat(64).parse::<GroupName>().is_err());
        assert!("cost_centre".parse::<QuestionName>().is_ok());
        assert!(["7th", "a-b", "_a", "a_"].iter().all(|bad| bad.parse::<QuestionName>().is_err()));
        assert!("libstdc++".parse::<PackageName>().is_ok());
        assert!("1:2.3~rc1-4+deb12u1".parse::<Version>().is_ok());
        assert!("latest".parse::<Version>().is_err());
        assert!("../1".parse::<Version>().is_err());
    }
}
