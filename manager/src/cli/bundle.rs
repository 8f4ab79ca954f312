//! What goes to and fro when an operator is made: a certificate request from the new operator's machine, and a bundle back,
//! with the certificate and where and by what the manager is known. Neither holds a secret.

use super::{ask, error::CliError, output};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::path::Path;
use sutler_base::{Invalid, OperatorName};
use sutler_certs::{
    TrustDomain,
    durable::{self, Readers},
    pem,
};

/// The longest request or bundle that is read (bytes).
const MAX: u64 = 64 << 10;

/// What an administrator gives back for a request.
#[derive(Debug, PartialEq)]
pub struct Bundle {
    /// Who the operator is.
    pub operator: String,
    /// Where operators connect, `host:port`.
    pub address: String,
    /// The trust domain that the manager is in.
    pub trust_domain: String,
    /// The root CA by which the manager is known.
    pub root: CertificateDer<'static>,
    /// The operator's certificate, then its issuer.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A bundle as it is written: JSON, with certificates in their armour.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    operator: String,
    address: String,
    trust_domain: String,
    root: String,
    certificates: String,
}

impl Bundle {
    /// The bundle as text.
    pub fn encode(&self) -> String {
        let written = Written {
            format: 1,
            operator: self.operator.clone(),
            address: self.address.clone(),
            trust_domain: self.trust_domain.clone(),
            root: pem::encode_chain(std::slice::from_ref(&self.root)),
            certificates: pem::encode_chain(&self.chain),
        };
        let mut text = serde_json::to_string_pretty(&written).expect("texts become JSON");
        text.push('\n');
        text
    }

    /// The bundle that a text is.
    pub fn parse(text: &str) -> Result<Bundle, Invalid> {
        let not = |why: &dyn std::fmt::Display| Invalid::new(format!("this is no bundle of `sutler operator create`: {why}"));
        let written: Written = serde_json::from_str(text).map_err(|e| not(&e))?;
        if written.format != 1 {
            return Err(not(&format!("it has the format {}, which this version does not know", written.format)));
        }
        written.operator.parse::<OperatorName>().map_err(|e| not(&e))?;
        written.trust_domain.parse::<TrustDomain>().map_err(|e| not(&e))?;
        let mut root = pem::parse_chain(written.root.as_bytes()).map_err(|e| not(&e))?;
        let chain = pem::parse_chain(written.certificates.as_bytes()).map_err(|e| not(&e))?;
        match (root.pop(), root.is_empty()) {
            (Some(root), true) => {
                Ok(Bundle { operator: written.operator, address: written.address, trust_domain: written.trust_domain, root, chain })
            }
            _ => Err(not(&"it has more than one root")),
        }
    }

    /// The bundle in a file; `-` for the standard input.
    pub fn read(path: &Path) -> Result<Bundle, CliError> {
        Bundle::parse(&ask::read_text(path, MAX)?).map_err(|e| CliError::local(format!("use {}", path.display()), &e))
    }
}

/// The certificate request (DER) in a file; `-` for the standard input.
pub fn read_request(path: &Path) -> Result<Vec<u8>, CliError> {
    let text = ask::read_text(path, MAX)?;
    pem::parse_request(text.as_bytes()).map_err(|e| CliError::Local {
        tried: format!("use {}", path.display()),
        why: e.to_string(),
        hint: Some("`sutler profile request NAME` writes one, on the machine of the new operator".into()),
    })
}

/// Writes a request or a bundle to a file, or to the standard output.
pub fn write(text: &str, output: Option<&Path>) -> Result<(), CliError> {
    match output {
        None => output::print(text),
        Some(path) => durable::write(path, text.as_bytes(), Readers::Everybody).map_err(|e| CliError::local("write the file", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_reads_back_as_itself_and_another_text_is_refused() {
        let certificate = |n: u8| CertificateDer::from(vec![n; 100]);
        let bundle = Bundle {
            operator: "bea".into(),
            address: "manager.acme.example:7444".into(),
            trust_domain: "acme.example".into(),
            root: certificate(1),
            chain: vec![certificate(2), certificate(3)],
        };
        let text = bundle.encode();
        assert_eq!(Bundle::parse(&text).unwrap(), bundle);
        for (from, to) in
            [("\"format\": 1", "\"format\": 2"), ("bea", "../x"), ("acme.example\",\n  \"root", "a b\",\n  \"root"), ("{", "{\"more\": 1,")]
        {
            assert_ne!(text.replacen(from, to, 1), text, "{from}");
            assert!(Bundle::parse(&text.replacen(from, to, 1)).is_err(), "{from}");
        }
        assert!(Bundle::parse("").is_err());
    }
}
