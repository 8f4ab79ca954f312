//! Ids: what an object is, for ever. A name may be used again after a deletion, an id never.
//!
//! All of them are lower-case Crockford base32, so that they can be read aloud and typed. They are made from randomness
//! that the caller passes in, and a site can make them without asking another one.

use crate::{Invalid, digest::serde_as_text, quoted};
use std::{fmt, str::FromStr, sync::Arc};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(mut value: u128, len: usize) -> String {
    let mut out = vec![b'0'; len];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    String::from_utf8(out).expect("the alphabet is ASCII")
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                if text.len() == $len && text.bytes().all(|b| ALPHABET.contains(&b)) {
                    Ok($name(text.into()))
                } else {
                    Err(Invalid::new(format!(concat!("the id of ", $what, " has ", $len, " characters of 0-9 a-z without i l o u, not {}"), quoted(text))))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
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

macro_rules! random_id {
    ($name:ident, $len:literal) => {
        impl $name {
            /// The id that these random bits make.
            pub fn from_random(random: [u8; 16]) -> Self {
                $name(encode(u128::from_le_bytes(random), $len).into())
            }
        }
    };
}

macro_rules! ordered_id {
    ($name:ident) => {
        impl $name {
            /// The id that this moment and these random bits make: 48 bits of milliseconds, then 80 random ones, so
            /// that ids made later sort later and an index grows at its end.
            pub fn new(now: jiff::Timestamp, random: [u8; 16]) -> Self {
                let millis = now.as_millisecond().max(0) as u128 & ((1 << 48) - 1);
                let random = u128::from_le_bytes(random) & ((1 << 80) - 1);
                $name(encode(millis << 80 | random, 26).into())
            }
        }
    };
}

id!(
    /// The id of a client, chosen by the manager at enrolment and bound to the client's key: 80 random bits.
    ClientId, 16, "a client"
);
random_id!(ClientId, 16);
id!(
    /// The id of a job: 50 random bits, short enough to type.
    JobId, 10, "a job"
);
random_id!(JobId, 10);
id!(
    /// The public id of an enrolment token; not its secret.
    TokenId, 10, "a token"
);
random_id!(TokenId, 10);
id!(
    /// The id of one try of an execution; ordered by the time it was made.
    AttemptId, 26, "an attempt"
);
ordered_id!(AttemptId);
id!(
    /// The `uid` of any object that is referred to by something else: groups, policies, packages and their versions.
    Uid, 26, "an object"
);
ordered_id!(Uid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_itself_and_later_ids_sort_later() {
        let early = AttemptId::new(jiff::Timestamp::from_millisecond(1_000).unwrap(), [255; 16]);
        let late = AttemptId::new(jiff::Timestamp::from_millisecond(1_001).unwrap(), [0; 16]);
        assert!(early < late);
        assert_eq!(early.as_str().parse::<AttemptId>().unwrap(), early);
        let client = ClientId::from_random([7; 16]);
        assert_eq!(client.as_str().len(), 16);
        assert!("../../etc/passwd".parse::<ClientId>().is_err());
        assert!("0123456789ABCDEF".parse::<ClientId>().is_err());
    }
}
