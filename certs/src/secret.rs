//! How the secret of an enrolment token is kept: as a hash.

use sha2::{Digest, Sha256};

/// What is stored of a token's secret and compared with.
///
/// SHA-256 with a prefix of its own, so that the value stands for nothing else. A secret is 256 random bits: nobody can
/// try them all, so a slow password hash would only cost the manager time, and two tokens never share a hash, so a salt
/// adds nothing. What an attacker could learn from the time of a comparison is about the hash, which gives no secret.
pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"sutler token secret v1\0").chain_update(secret).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_hash_is_not_the_plain_digest_and_differs_per_secret() {
        assert_ne!(secret_hash(&[1; 32]), crate::sha256(&[1; 32]));
        assert_ne!(secret_hash(&[1; 32]), secret_hash(&[2; 32]));
        // Part of what is in databases: it must never change.
        assert_eq!(crate::hex(&secret_hash(&[0; 32])), STORED);
    }

    const STORED: &str = "567aeed64d03cd43411d6af21aee48ca0caeba304688feb5d35ce9a7e0a19026";
}
