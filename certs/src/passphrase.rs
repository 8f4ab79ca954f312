//! Private keys encrypted with a passphrase, as `openssl pkcs8` writes and reads them (PKCS#8 `ENCRYPTED PRIVATE KEY`).
//!
//! For people's keys alone: a machine's own keys are protected by the file's mode, since whoever starts the machine would
//! have to find the passphrase on it.

use crate::pem;
use pkcs8::{
    EncryptedPrivateKeyInfoOwned, PrivateKeyInfoRef, SecretDocument,
    der::{Decode, Document},
    pkcs5::{
        EncryptionScheme,
        pbes2::{self, Kdf, Salt, ScryptParams},
    },
};
use std::fmt;
use sutler_base::Invalid;
use zeroize::Zeroizing;

/// The shortest passphrase (characters) for a new key.
pub const SHORTEST: usize = 8;
/// The longest passphrase (bytes).
pub const LONGEST: usize = 1024;
/// The most memory that opening a key may take (bytes): a file that asks for more was made to exhaust it.
const MEMORY_MAX: u64 = 256 << 20;
/// The most rounds of PBKDF2 that opening a key may take.
const ROUNDS_MAX: u32 = 10_000_000;

/// A passphrase. Wiped when it is dropped, and never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The passphrase of a key that is there: 1 to [`LONGEST`] bytes on one line.
    pub fn new(text: &str) -> Result<Passphrase, Invalid> {
        if text.is_empty() || text.len() > LONGEST || text.contains(['\n', '\r', '\0']) {
            return Err(Invalid::new(format!("a passphrase is one line of 1 to {LONGEST} bytes")));
        }
        Ok(Passphrase(Zeroizing::new(text.to_owned())))
    }

    /// Whether it is long enough for a new key: at least [`SHORTEST`] characters.
    pub fn is_long_enough(&self) -> bool {
        self.0.chars().count() >= SHORTEST
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// An encrypted key could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// The system gave no randomness, or the cipher failed.
    #[error("the key could not be encrypted: the system's source of randomness failed")]
    Encrypt,
    /// Not an encrypted key in PEM.
    #[error("no readable encrypted private key (PEM, PKCS#8, BEGIN ENCRYPTED PRIVATE KEY) in it")]
    Malformed,
    /// Encrypted in a way that this version does not read.
    #[error("the private key is encrypted in another way than PBES2 with scrypt or PBKDF2 and AES; convert it with `openssl pkcs8 -topk8`")]
    Scheme,
    /// Opening it would take more than is reasonable.
    #[error("the private key asks for more memory or rounds than any real one; it is refused")]
    TooCostly,
    /// Another passphrase than the one that it was encrypted with.
    #[error("the passphrase is wrong")]
    Wrong,
}

/// What scrypt takes for a new key: N = 2^14, r = 8, p = 5, one of OWASP's equivalents (2023). It needs 16 MiB; with more
/// OpenSSL 3 refuses to read the key.
const COST: (u64, u16, u16) = (1 << 14, 8, 5);

/// The PKCS#8 document (DER) encrypted, in PEM.
pub fn seal(pkcs8: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<String>, PassphraseError> {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).map_err(|_| PassphraseError::Encrypt)?;
    getrandom::fill(&mut iv).map_err(|_| PassphraseError::Encrypt)?;
    let kdf = Kdf::Scrypt(ScryptParams {
        salt: Salt::new(salt).map_err(|_| PassphraseError::Encrypt)?,
        cost_parameter: COST.0,
        block_size: COST.1,
        parallelization: COST.2,
        key_length: None,
    });
    let parameters = pbes2::Parameters { kdf, encryption: pbes2::EncryptionScheme::Aes256Cbc { iv } };
    let key = PrivateKeyInfoRef::from_der(pkcs8).map_err(|_| PassphraseError::Malformed)?;
    let sealed = key.encrypt_with_params(parameters, passphrase.0.as_bytes()).map_err(|_| PassphraseError::Encrypt)?;
    Ok(pem::encode("ENCRYPTED PRIVATE KEY", sealed.as_bytes()))
}

/// The PKCS#8 document (DER) in this PEM, opened.
pub fn open(text: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let text = std::str::from_utf8(text).map_err(|_| PassphraseError::Malformed)?;
    let (label, document) = Document::from_pem(text).map_err(|_| PassphraseError::Malformed)?;
    if label != "ENCRYPTED PRIVATE KEY" {
        return Err(PassphraseError::Malformed);
    }
    let sealed = EncryptedPrivateKeyInfoOwned::from_der(document.as_bytes()).map_err(|_| PassphraseError::Scheme)?;
    let EncryptionScheme::Pbes2(parameters) = &sealed.encryption_algorithm else { return Err(PassphraseError::Scheme) };
    let fair = match &parameters.kdf {
        Kdf::Scrypt(s) => {
            s.cost_parameter.checked_mul(128 * u64::from(s.block_size)).is_some_and(|m| m <= MEMORY_MAX) && s.parallelization <= 64
        }
        Kdf::Pbkdf2(p) => p.iteration_count <= ROUNDS_MAX,
        _ => return Err(PassphraseError::Scheme),
    };
    if !fair {
        return Err(PassphraseError::TooCostly);
    }
    // A wrong passphrase nearly always leaves wrong padding, and else no key.
    let opened: SecretDocument = sealed.decrypt(passphrase.0.as_bytes()).map_err(|_| PassphraseError::Wrong)?;
    Ok(Zeroizing::new(opened.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PrivateKey, PublisherKey, keys::KeyError, pem::PemError, publisher::PublisherKeyError};
    use std::process::Command;

    fn phrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (publisher, operator) = (folder.path().join("publisher.key"), folder.path().join("operator.key"));
        let good = phrase("correct horse");
        let key = PublisherKey::generate().unwrap();
        key.save_with(&publisher, &good).unwrap();
        assert_eq!(PublisherKey::load_with(&publisher, &good).unwrap().key_id(), key.key_id());
        let wrong = PublisherKey::load_with(&publisher, &phrase("correct house")).unwrap_err();
        assert!(matches!(wrong, PublisherKeyError::Passphrase { source: PassphraseError::Wrong, .. }), "{wrong}");
        assert!(PublisherKey::load(&publisher).unwrap_err().is_encrypted());
        let text = fs_err::read_to_string(&publisher).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");

        let key = PrivateKey::generate().unwrap();
        key.save_with(&operator, &good).unwrap();
        assert_eq!(PrivateKey::load_with(&operator, &good).unwrap().public_key(), key.public_key());
        assert!(PrivateKey::load(&operator).unwrap_err().is_encrypted());
        let wrong = PrivateKey::load_with(&operator, &phrase("x")).unwrap_err();
        assert!(matches!(wrong, KeyError::Passphrase { source: PassphraseError::Wrong, .. }), "{wrong}");
        // The same key twice: nothing in the files says so.
        key.save_with(&publisher, &good).unwrap();
        assert_ne!(fs_err::read(&publisher).unwrap(), fs_err::read(&operator).unwrap());
    }

    #[test]
    fn openssl_reads_our_encrypted_keys_and_we_read_its() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours.key"), folder.path().join("plain.key"));
        let pass = folder.path().join("pass");
        fs_err::write(&pass, "correct horse\n").unwrap();
        let openssl = |args: &[&str]| {
            let done = Command::new("openssl").args(args).current_dir(folder.path()).output();
            match done {
                Ok(done) => {
                    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
                    true
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
                Err(e) => panic!("openssl can't be run: {e}"),
            }
        };
        let key = PublisherKey::generate().unwrap();
        key.save_with(&ours, &phrase("correct horse")).unwrap();
        if !openssl(&["pkcs8", "-in", "ours.key", "-passin", "file:pass", "-out", "plain.key"]) {
            println!("skipped: there is no openssl here to read the keys with");
            return;
        }
        fs_err::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(PublisherKey::load(&plain).unwrap().key_id(), key.key_id());
        for scheme in [&["-scrypt"][..], &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256"]] {
            let theirs = folder.path().join("theirs.key");
            let args = [&["pkcs8", "-topk8", "-in", "plain.key", "-passout", "file:pass", "-out", "theirs.key"][..], scheme].concat();
            openssl(&args);
            fs_err::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(PublisherKey::load_with(&theirs, &phrase("correct horse")).unwrap().key_id(), key.key_id(), "{scheme:?}");
        }
    }

    #[test]
    fn a_key_file_that_was_made_to_exhaust_the_reader_is_refused_by_name() {
        let key = PublisherKey::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        key.save_with(&path, &phrase("correct horse")).unwrap();
        let (_, document) = Document::from_pem(&fs_err::read_to_string(&path).unwrap()).unwrap();
        let mut sealed = EncryptedPrivateKeyInfoOwned::from_der(document.as_bytes()).unwrap();
        let EncryptionScheme::Pbes2(parameters) = &mut sealed.encryption_algorithm else { panic!() };
        let Kdf::Scrypt(scrypt) = &mut parameters.kdf else { panic!() };
        scrypt.cost_parameter = 1 << 40;
        let hostile = SecretDocument::try_from(&sealed).unwrap();
        let text = pem::encode("ENCRYPTED PRIVATE KEY", hostile.as_bytes());
        assert_eq!(open(text.as_bytes(), &phrase("correct horse")).unwrap_err(), PassphraseError::TooCostly);
        assert_eq!(open(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", &phrase("x")).unwrap_err(), PassphraseError::Malformed);
        let plain = pem::encode("PRIVATE KEY", &[1; 9]);
        assert_eq!(open(plain.as_bytes(), &phrase("x")).unwrap_err(), PassphraseError::Malformed);
        assert_eq!(crate::pem::parse_key(text.as_bytes()).unwrap_err(), PemError::Encrypted);
    }

    #[test]
    fn a_passphrase_is_one_line_and_is_never_shown() {
        for bad in ["", "a\nb", "a\r", "a\0", &"x".repeat(LONGEST + 1)] {
            assert!(Passphrase::new(bad).is_err(), "{bad:?}");
        }
        assert!(!phrase("1234567").is_long_enough());
        assert!(phrase("ßßßßßßßß").is_long_enough());
        assert!(!format!("{:?}", phrase("secret words")).contains("secret"));
    }
}
