use super::*;
use crate::{CsrError, PeerCertificate, PrivateKey, identity, public_key_of_csr};
use rcgen::{CertificateParams, DnType, IsCa, KeyPair};
use x509_parser::extensions::GeneralName;

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn bundle() -> CaBundle {
    CaBundle::create(&"acme.example".parse().unwrap(), now()).unwrap()
}

fn client() -> ClientId {
    ClientId::from_random([7; 16])
}

/// A request that asks for everything that it must not get.
fn hostile(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["manager.acme.example".into()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://acme.example/operator/root".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "operator root");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn nothing_that_a_hostile_request_asks_for_reaches_the_certificate() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let key = public_key_of_csr(&hostile(&KeyPair::generate_for(algorithm).unwrap())).unwrap();
        let bundle = bundle();
        let issued = bundle.issue_agent(&client(), &key, now(), AGENT_VALIDITY).unwrap();
        let certificate = identity::read(&issued.chain[0]).unwrap();
        assert!(certificate.basic_constraints().unwrap().is_some_and(|b| b.critical && !b.value.ca));
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any && usage.other.is_empty());
        let key_usage = certificate.key_usage().unwrap().unwrap().value;
        assert_eq!(key_usage.flags, 1, "digitalSignature alone");
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        let uri = format!("spiffe://acme.example/agent/{}", client());
        assert_eq!(names, &[GeneralName::URI(&uri)]);
        assert_eq!(certificate.subject().to_string(), format!("CN={}", client()));
        assert_eq!(certificate.public_key().raw, key.spki());
        assert!(bundle.agents.signed(&issued.chain[0]) && !bundle.operators.signed(&issued.chain[0]));
    }
}

#[test]
fn a_certificate_says_who_when_and_by_which_serial() {
    let bundle = bundle();
    let key = PrivateKey::generate().unwrap();
    let agent = bundle.issue_agent(&client(), key.public_key(), now(), AGENT_VALIDITY).unwrap();
    let peer = PeerCertificate::parse(&agent.chain[0], bundle.trust_domain()).unwrap();
    assert_eq!(peer.identity, Identity::Agent(client()));
    assert_eq!((&peer.serial, peer.not_after, peer.spki_sha256), (&agent.serial, agent.not_after, key.public_key().sha256()));
    assert_eq!(peer.not_before, "2025-12-31T23:55:00Z".parse().unwrap());
    assert_eq!(peer.not_after, "2026-01-31T00:00:00Z".parse().unwrap());
    assert!(!peer.is_expired(peer.not_after) && peer.is_expired(peer.not_after + Duration::from_secs(1)));
    let (before, nearly) = (peer.not_after - Duration::from_millis(1500), peer.not_after + Duration::from_millis(999));
    assert_eq!((peer.expires_in(before), peer.expires_in(nearly)), (Duration::from_millis(2500), Duration::from_millis(1)));
    assert_eq!(peer.expires_in(peer.not_after + Duration::from_secs(1)), Duration::ZERO);
    assert_eq!(peer.expires_in(peer.not_after + Duration::from_secs(9)), Duration::ZERO);
    assert_eq!(agent.serial.as_str().len(), 32);
    assert_ne!(bundle.issue_agent(&client(), key.public_key(), now(), AGENT_VALIDITY).unwrap().serial, agent.serial);

    let name: OperatorName = "ann".parse().unwrap();
    let operator = bundle.issue_operator(&name, key.public_key(), now(), OPERATOR_VALIDITY).unwrap();
    let peer = PeerCertificate::parse(&operator.chain[0], bundle.trust_domain()).unwrap();
    assert_eq!((peer.identity, peer.not_after), (Identity::Operator(name), "2026-01-01T12:00:00Z".parse().unwrap()));

    let hosts: Vec<Host> = vec!["manager.acme.example".parse().unwrap(), "10.0.0.1".parse().unwrap(), "[::1]".parse().unwrap()];
    let server = bundle.issue_server(&hosts, key.public_key(), now(), SERVER_VALIDITY).unwrap();
    let peer = PeerCertificate::parse(&server.chain[0], bundle.trust_domain()).unwrap();
    assert_eq!((peer.identity, server.chain.len()), (Identity::Manager, 3));
    let certificate = identity::read(&server.chain[0]).unwrap();
    assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 4);

    let other = "other.example".parse().unwrap();
    assert!(matches!(PeerCertificate::parse(&server.chain[0], &other), Err(identity::CertificateError::Stranger { .. })));
    assert!(matches!(PeerCertificate::parse(b"x", &other), Err(identity::CertificateError::Malformed)));
}

#[test]
fn no_certificate_outlives_its_ca() {
    let bundle = bundle();
    let key = PrivateKey::generate().unwrap();
    let late: Timestamp = "2030-12-30T00:00:00Z".parse().unwrap();
    let issued = bundle.issue_agent(&client(), key.public_key(), late, AGENT_VALIDITY).unwrap();
    assert_eq!(issued.not_after, bundle.ends());
    let after = bundle.ends() + Duration::from_secs(1);
    assert!(matches!(bundle.issue_agent(&client(), key.public_key(), after, AGENT_VALIDITY), Err(IssueError::CaEnded { .. })));
}

#[test]
fn a_request_is_refused_by_name_if_it_is_not_small_signed_by_its_own_key_and_of_a_kind_that_is_certified() {
    let key = KeyPair::generate().unwrap();
    let good = PrivateKey::generate().unwrap().csr().unwrap();
    assert!(public_key_of_csr(&good).is_ok());
    assert!(good.len() < 300);

    assert_eq!(public_key_of_csr(&[0x30; 8193]), Err(CsrError::TooLong(8193)));
    assert_eq!(public_key_of_csr(b"hello"), Err(CsrError::Malformed));
    assert_eq!(public_key_of_csr(&[&good[..], &[0]].concat()), Err(CsrError::Malformed));

    // Somebody else's public key, or a request that was changed after it was signed.
    let (mine, theirs) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let csr = mine.csr().unwrap();
    let at = csr.windows(65).position(|w| w == &mine.public_key().spki()[26..]).unwrap();
    let mut stolen = csr.clone();
    stolen[at..at + 65].copy_from_slice(&theirs.public_key().spki()[26..]);
    assert_eq!(public_key_of_csr(&stolen), Err(CsrError::NotItsOwn));
    let mut changed = hostile(&key);
    let at = changed.windows(8).position(|w| w == b"operator").unwrap();
    changed[at] = b'O';
    assert_eq!(public_key_of_csr(&changed), Err(CsrError::NotItsOwn));

    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(public_key_of_csr(&hostile(&p384)), Err(CsrError::UnsupportedKey));
    let rsa = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(RSA.as_bytes()).unwrap();
    assert_eq!(public_key_of_csr(&rsa), Err(CsrError::UnsupportedKey));
    let sha512 = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(P256_SHA512.as_bytes()).unwrap();
    assert_eq!(public_key_of_csr(&sha512), Err(CsrError::UnsupportedSignature));

    // A P-256 key that is no point of the curve verifies nothing.
    let mut no_point = good.clone();
    let at = no_point.windows(26).position(|w| w == &mine.public_key().spki()[..26]).unwrap() + 26;
    no_point[at + 1..at + 65].fill(1);
    assert_eq!(public_key_of_csr(&no_point), Err(CsrError::NotItsOwn));
}

#[test]
fn a_host_is_a_name_or_an_address_and_nothing_else() {
    for (text, shown) in
        [("Manager.acme.example", "manager.acme.example"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1"), ("localhost", "localhost")]
    {
        assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
    }
    for bad in ["", "a:7443", "*.acme.example", "a b", "a/b", "1.2.3", "300.1.1.1", "-a", "a."] {
        assert!(bad.parse::<Host>().is_err(), "{bad}");
    }
}

use rustls::pki_types::pem::PemObject;

/// A well-formed request with an RSA key of 2048 bits.
const RSA: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIICUzCCATsCAQAwDjEMMAoGA1UEAwwDcnNhMIIBIjANBgkqhkiG9w0BAQEFAAOC
AQ8AMIIBCgKCAQEAtFKQiv3KfnrnYgPPojJOODvzCLv8k+6+ygj4FX96RmmEFFS1
/ynU5mKA7oGpuBqQ6pO9EbLr5dkyxnNdzQTDXKhKjf4ZoCQriGu7wIFQ0Do7CyIW
64lUrlyc7+/sTKJMSjTMdbpB9dJ68qbxwmxsmuXEuAGtlg6kPlhrLk+xXt2WhF9R
1QYl5MPdEcGySFzL5VTD5+WCju6hlZkmiLkS09VL9DRKShDgejVJzFfkkHXttUuR
b0Gs1gL7jsKiWkJ9u9LoGLYspDGVfkvNFWWVsYQa6VHtQuKGZebYbSMziW8uMDlP
7LZXYd4IZc9RUjC1DoO/1UrL45x0Tc+Ynx6FTwIDAQABoAAwDQYJKoZIhvcNAQEL
BQADggEBAGGGIpvXM9WQuslLJLIFq102haoqMARBlp7rtQBP0Wxlkcbc1LJZQGRt
/Mo+jifuVIboyqy+5Z3e3UyR3iJ1MkbxF4vJ8VOl3fZ4uDLuIpWaiR9ZDv1UTvpF
EtfeiRGfZWfK8p1evQeggh7+5JnrtmxfRTfUcz0rmROhel+ZTHiYje77b/fxh5pA
uzJHJcv44T/6UeqWhdVZlWY5MLYYBDN/Mx2dTx8R6sDWtM+jKvCYOugAWFxo155l
woZMzovvl266M86fnXHr/yDjtp9eMDijcSgs83OLR50kpMAi/ZRd7UdZlO1xQWA7
7rVN3K4rCzOH1Vyn8CKTGqoWEZsSzIE=
-----END CERTIFICATE REQUEST-----
";

/// A well-formed request with a P-256 key, signed with SHA-512.
const P256_SHA512: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIHHMG8CAQAwDTELMAkGA1UEAwwCZWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAT4ZxPVMzL6hJqoc6scmSCbU170J2+JPfta9UkmirtODE+XLtakJyPYIqSTEPoC
kXeADzLUbSNkZNsRoBpQYNUCoAAwCgYIKoZIzj0EAwQDSAAwRQIgJw2GNRsch+cA
yK4TZuBHlzITDjgC180CDO44X/NAZLkCIQDp9NZc4076r91DeiInfyNqsSmOqmLn
QA3ZTbtHWdtu3g==
-----END CERTIFICATE REQUEST-----
";
