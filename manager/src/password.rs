//! The passwords of groups: stored as salted hashes, made slow so that a stolen database gives none away cheaply.

use ring::pbkdf2;
use std::num::NonZeroU32;

/// Rounds of PBKDF2-HMAC-SHA256, as OWASP's cheat sheet on password storage recommends (2023).
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// What is stored of a password.
pub(crate) fn hash(password: &str, salt: [u8; 16]) -> String {
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut out);
    format!("pbkdf2-sha256${}${}${}", ROUNDS, hex(&salt), hex(&out))
}

/// Whether `password` is the one of which `stored` is kept.
pub(crate) fn matches(stored: &str, password: &str) -> bool {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["pbkdf2-sha256", rounds, salt, hash] = parts[..] else { return false };
    let (Ok(rounds), Some(salt), Some(hash)) = (rounds.parse::<NonZeroU32>(), unhex(salt), unhex(hash)) else { return false };
    pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &hash).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (text.len().is_multiple_of(2) && text.is_ascii())
        .then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())
        .flatten()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_right_password_matches() {
        let stored = super::hash("open sesame", [7; 16]);
        assert!(super::matches(&stored, "open sesame"));
        assert!(!super::matches(&stored, "open sesam"));
        assert!(!super::matches("", ""));
        assert!(!stored.contains("sesame"));
    }
}
