//! The enrolment: a token makes this machine a client.
//!
//! The key is made and durable before the manager is asked, and used again by a second try with the same token, so that
//! a lost answer gives the same client and not another one. `identity.json` is written last: an enrolment is complete or
//! it has not happened.

use super::{
    ADDRESSES, Addresses, CREDENTIAL, Document, IDENTITY, Identity, NEXT, PINS, Pins, credential_bytes, credential_in, json, trust_domain,
};
use crate::{
    agent::{QUESTIONS, REQUESTS, SHELF},
    link::{self, LinkError},
    vault::{Vault, VaultError},
};
use serde::{Deserialize, Serialize};
use sutler_base::{ClientId, TokenId, state::ClientState, token::TokenString};
use sutler_certs::{
    PeerCertificate, PrivateKey, RootPin, SignedTrustDocument, pem,
    tls::{Clock, ServerTrust},
};
use sutler_proto::{
    convert::Word,
    v1::{self, enrollment_service_client::EnrollmentServiceClient},
};

const ENROLLMENT: &str = "enrollment.json";

/// Why a machine could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It is a client already.
    #[error("this machine is enrolled already, as client {0}; use --force to make it a new client")]
    Already(String),
    /// No address of the token could be reached.
    #[error("no manager could be reached: {0}; try again, the token is not used up")]
    Unreachable(String),
    /// The manager said no.
    #[error("the manager refused the enrolment: {0}")]
    Refused(String),
    /// The manager's answer is not one.
    #[error("the manager's answer can't be used: {0}")]
    Answer(String),
    /// The token can't be used.
    #[error("the token can't be used: {0}")]
    Token(String),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] sutler_certs::keys::KeyError),
    /// The file system failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// What an enrolment came to.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The id that the manager chose.
    pub client: ClientId,
    /// Pending, where an operator has to approve.
    pub state: ClientState,
}

/// What the machine says about itself.
struct Machine {
    hostname: String,
    machine_id: String,
}

#[derive(Serialize, Deserialize)]
struct Begun {
    token: TokenId,
    key: String,
}

/// Enrols this machine with `token`. With `force` a client that it was before is left behind.
pub async fn enroll(
    vault: &dyn Vault,
    token: &TokenString,
    hostname: &str,
    machine_id: &str,
    force: bool,
    clock: Clock,
) -> Result<Enrolled, EnrollError> {
    if let Some(bytes) = vault.read(IDENTITY)?
        && !force
    {
        let known = serde_json::from_slice::<Document>(&bytes).map(|d| d.client_id.to_string());
        return Err(EnrollError::Already(known.unwrap_or_else(|_| "(identity.json is damaged)".into())));
    }
    let machine = Machine { hostname: hostname.into(), machine_id: machine_id.into() };
    let key = key_for(vault, token)?;
    let answer = ask(token, &key, &machine, clock).await?;
    keep(vault, token, key, answer)
}

fn key_for(vault: &dyn Vault, token: &TokenString) -> Result<PrivateKey, EnrollError> {
    if let Some(bytes) = vault.read(ENROLLMENT)?
        && let Ok(begun) = serde_json::from_slice::<Begun>(&bytes)
        && begun.token == token.id
        && let Ok(der) = pem::parse_key(begun.key.as_bytes())
    {
        return Ok(PrivateKey::from_pkcs8(der.secret_pkcs8_der())?);
    }
    let key = PrivateKey::generate()?;
    vault.write(ENROLLMENT, &json(&Begun { token: token.id.clone(), key: key.to_pem().to_string() }))?;
    Ok(key)
}

async fn ask(token: &TokenString, key: &PrivateKey, machine: &Machine, clock: Clock) -> Result<v1::EnrollResponse, EnrollError> {
    let domain = trust_domain(&token.trust_domain).map_err(EnrollError::Token)?;
    let trust = ServerTrust::Pin { root: RootPin(token.root_pin), trust_domain: domain };
    let config = sutler_certs::tls::agent_client(None, &trust, clock).map_err(|e| EnrollError::Token(e.to_string()))?;
    let request = v1::EnrollRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec().into(),
        csr: key.csr()?.into(),
        hostname: machine.hostname.clone(),
        machine_id: machine.machine_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        trust_pin: token.trust_pin.map(|pin| pin.0.to_vec().into()).unwrap_or_default(),
    };
    let mut last = String::from("the token names no address");
    for address in &token.addresses {
        let failed = match link::connect(address, config.clone()).await {
            Ok(connection) => {
                let mut client = EnrollmentServiceClient::with_origin(connection.clone(), connection.origin());
                let asked = tokio::time::timeout(link::UNARY_TIMEOUT, client.enroll(request.clone())).await;
                match asked {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) if definite(status.code()) => return Err(EnrollError::Refused(status.message().to_owned())),
                    Ok(Err(status)) => format!("{address}: {}", status.message()),
                    Err(_) => LinkError::Slow { address: address.clone() }.to_string(),
                }
            }
            Err(e) => e.to_string(),
        };
        last = failed;
    }
    Err(EnrollError::Unreachable(last))
}

/// Whether asking again would give the same answer.
fn definite(code: tonic::Code) -> bool {
    use tonic::Code::*;
    matches!(code, Unauthenticated | PermissionDenied | InvalidArgument | NotFound | FailedPrecondition | AlreadyExists | OutOfRange)
}

fn keep(vault: &dyn Vault, token: &TokenString, key: PrivateKey, answer: v1::EnrollResponse) -> Result<Enrolled, EnrollError> {
    let wrong = |why: &str| EnrollError::Answer(why.to_owned());
    let client: ClientId = answer.client_id.parse().map_err(|e: sutler_base::Invalid| EnrollError::Answer(e.0))?;
    let state = ClientState::from_wire(answer.state).ok().flatten().ok_or_else(|| wrong("it has no state of the client"))?;
    if answer.trust_domain != token.trust_domain {
        return Err(wrong("it is of another trust domain than the token"));
    }
    let root = rustls::pki_types::CertificateDer::from(answer.root_certificate.to_vec());
    if RootPin::of(&root) != RootPin(token.root_pin) {
        return Err(wrong("its root certificate is not the one that the token pins"));
    }
    let chain: Vec<Vec<u8>> = answer.certificates.iter().map(|c| c.to_vec()).collect();
    let bytes = credential_bytes(&chain, &key);
    let credential = credential_in(&bytes).map_err(EnrollError::Answer)?;
    let domain = trust_domain(&token.trust_domain).map_err(EnrollError::Token)?;
    let leaf = PeerCertificate::parse(&credential.chain[0], &domain).map_err(|e| EnrollError::Answer(e.to_string()))?;
    if leaf.identity != sutler_certs::Identity::Agent(client.clone()) || leaf.public_key != *key.public_key() {
        return Err(wrong("its certificate is not for this machine and its key"));
    }
    let trust_document = match token.trust_pin {
        Some(pin) => {
            let document = SignedTrustDocument::from_json(&answer.trust_document).and_then(|d| d.open_pinned(&pin).map(|_| ()));
            document.map_err(|e| EnrollError::Answer(e.to_string()))?;
            Some(String::from_utf8(answer.trust_document.to_vec()).map_err(|_| wrong("its trust document is no text"))?)
        }
        None => None,
    };
    // A client that this machine was before ends here; what it had installed, and how far back it may go, stays true.
    let marks = vault.read(PINS)?.and_then(|b| serde_json::from_slice::<Pins>(&b).ok()).map(|p| p.marks).unwrap_or_default();
    Identity::forget(vault)?;
    vault.remove(NEXT)?;
    // What that one had asked for, its goodbye perhaps, is not asked for by this one.
    vault.remove(REQUESTS)?;
    vault.remove(QUESTIONS)?;
    vault.remove(SHELF)?;
    for folder in ["attempts", "answers"] {
        for name in vault.list(folder)? {
            vault.remove(&format!("{folder}/{name}"))?;
        }
    }
    let addresses: Vec<String> = if answer.addresses.is_empty() { token.addresses.clone() } else { answer.addresses.clone() };
    let addresses = addresses.into_iter().filter(|a| super::plausible(a)).take(sutler_base::limits::ADDRESSES_MAX).collect();
    vault.write(CREDENTIAL, &bytes)?;
    vault.write(ADDRESSES, &json(&Addresses { addresses, site: String::new() }))?;
    vault.write(PINS, &json(&Pins { trust: token.trust_pin, marks, ..Pins::default() }))?;
    let root_certificate = pem::encode("CERTIFICATE", &root).to_string();
    let document = Document { client_id: client.clone(), trust_domain: token.trust_domain.clone(), root_certificate, trust_document };
    vault.write(IDENTITY, &json(&document))?;
    vault.remove(ENROLLMENT)?;
    Ok(Enrolled { client, state })
}
