//! Keys and certificates for peers: a CA of their own, a server and a client, ECDSA P-256 as ours are.

use super::install;
use std::{
    path::Path,
    process::{Command, Stdio},
};

const SCRIPT: &str = r#"
set -eu
cd "$1"
ec() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
ec ca.key
openssl req -x509 -new -key ca.key -sha256 -days 30 -subj /CN=bench-ca -out ca.pem
for who in server client; do
  ec $who.key
  openssl req -new -key $who.key -subj /CN=$who -out $who.csr
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%sAuth\n' $who > $who.ext
  openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -sha256 -extfile $who.ext -out $who.pem
done
"#;

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` into a folder.
pub(super) fn make(folder: &Path) {
    assert!(install::debian("openssl", "openssl"), "peers' certificates are made by openssl");
    fs_err::create_dir_all(folder).unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new("sh");
    let done = command.args(["-c", SCRIPT, "sh"]).arg(folder).stdin(Stdio::null()).output().expect("there is a shell");
    assert!(done.status.success(), "openssl made no certificates: {}", String::from_utf8_lossy(&done.stderr));
}
