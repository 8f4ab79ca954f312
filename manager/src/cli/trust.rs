//! Trust documents and revocation lists on the publisher's machine: made, signed by several people, verified, published.
//!
//! Everything but publishing works offline.

use super::{
    error::CliError,
    push,
    session::{Session, call},
    when::{self, Until},
};
use crate::package::signed_file;
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use sutler_base::{Digest, PackageName, Timestamp, Version};
use sutler_certs::{
    KeyId, PublisherKey, PublisherPublicKey, RevocationList, SignedRevocations, SignedTrustDocument, TrustDocument,
    durable::{self, Readers},
    revocations::{Minimum, REVOCATIONS_TYPE, Revoked, Target},
    trust::{Change, PublisherSet, TRUST_TYPE},
    verify_manifest,
};
use sutler_proto::{convert::wire_struct, v1};

/// How long a revocation list is in force unless said: agents stop installing at its end, so it is renewed well before.
const LIST_VALIDITY: &str = "365d";
/// The longest file of a document (bytes).
const FILE_MAX: u64 = 4 << 20;

/// What `publisher rotate` is told.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The public half of a key that owners sign with from now on
    #[arg(long, value_name = "BASE64", value_parser = parsed::<PublisherPublicKey>)]
    add_key: Vec<PublisherPublicKey>,
    /// The id of a key that counts no more
    #[arg(long, value_name = "ID", value_parser = parsed::<KeyId>)]
    remove_key: Vec<KeyId>,
    /// How many of the owners' keys must sign [default: as before]
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    /// With what names of packages must start that the owners sign; '' for any [default: as before]
    #[arg(long, value_name = "TEXT")]
    prefix: Vec<String>,
    /// Until when the document holds [default: as before]
    #[arg(long, value_name = "WHEN", value_parser = when::until)]
    expires: Option<Until>,
    /// Begin a new epoch: revocation lists count anew, so that one that a thief signed is done with
    #[arg(long)]
    new_epoch: bool,
    /// Add or replace a set of publishers beside the owners, with a name of a-z 0-9 -
    #[arg(long, value_name = "NAME", requires = "set_key", requires = "set_prefix")]
    set: Option<String>,
    /// The public half of a key of that set
    #[arg(long, value_name = "BASE64", requires = "set", value_parser = parsed::<PublisherPublicKey>)]
    set_key: Vec<PublisherPublicKey>,
    /// How many keys of that set must sign
    #[arg(long, value_name = "N", requires = "set", default_value_t = 1)]
    set_threshold: usize,
    /// With what names of packages must start that this set signs
    #[arg(long, value_name = "TEXT", requires = "set")]
    set_prefix: Vec<String>,
    /// Remove a set of publishers
    #[arg(long, value_name = "NAME")]
    remove_set: Vec<String>,
    /// The document before it [default: the one of your profile]
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// A key to sign with; several may be given [default: the one of your profile]
    #[arg(long, value_name = "FILE")]
    publisher_key: Vec<PathBuf>,
    /// The file to write
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: PathBuf,
}

/// What `publisher revoke` is told.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Revoke whatever was signed as this version
    #[arg(long = "package", value_name = "NAME@VERSION", value_parser = version)]
    versions: Vec<Target>,
    /// Revoke the manifest with this digest
    #[arg(long = "manifest", value_name = "DIGEST", value_parser = parsed::<Digest>)]
    manifests: Vec<Digest>,
    /// Refuse every release of a package below this one
    #[arg(long = "minimum", value_name = "NAME=RELEASE", value_parser = minimum)]
    minimums: Vec<Minimum>,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Until when the list is in force
    #[arg(long, value_name = "WHEN", value_parser = when::until, default_value = LIST_VALIDITY)]
    expires: Until,
    /// The list before it [default: the one that you published last, if you did]
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// The trust document that agents hold [default: the one of your profile]
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// A key to sign with; several may be given [default: the one of your profile]
    #[arg(long, value_name = "FILE")]
    publisher_key: Vec<PathBuf>,
    /// The file to write
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: PathBuf,
}

fn parsed<T: std::str::FromStr<Err = sutler_base::Invalid>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: sutler_base::Invalid| e.0)
}

fn version(text: &str) -> Result<Target, String> {
    let (package, version) = text.split_once('@').ok_or("it is NAME@VERSION, such as clamav@1.4.3")?;
    Ok(Target::Version { package: parsed::<PackageName>(package)?, version: parsed::<Version>(version)? })
}

fn minimum(text: &str) -> Result<Minimum, String> {
    let rule = "it is NAME=RELEASE, such as clamav=1700000000";
    let (package, release) = text.split_once('=').ok_or(rule)?;
    Ok(Minimum { package: parsed::<PackageName>(package)?, release: release.parse().map_err(|_| rule)? })
}

/// What a file holds that publishers sign.
enum Document {
    Trust(SignedTrustDocument),
    Revocations(SignedRevocations),
    Package,
}

fn local(tried: String, why: impl std::fmt::Display) -> CliError {
    CliError::Local { tried, why: why.to_string(), hint: None }
}

fn read(path: &Path) -> Result<Document, CliError> {
    let tried = || format!("read {}", path.display());
    // A package's first line says that it is one; it may be as large as a package is.
    let Ok(bytes) = durable::read(path, FILE_MAX) else { return Ok(Document::Package) };
    let Ok(json) = serde_json::from_slice::<Value>(&bytes) else { return Ok(Document::Package) };
    match json["payload_type"].as_str() {
        Some(TRUST_TYPE) => Ok(Document::Trust(SignedTrustDocument::from_json(&bytes).map_err(|e| local(tried(), e))?)),
        Some(REVOCATIONS_TYPE) => Ok(Document::Revocations(SignedRevocations::from_json(&bytes).map_err(|e| local(tried(), e))?)),
        _ => Ok(Document::Package),
    }
}

/// The trust document in a file, or in the profile.
fn trust_document(session: &Session, file: Option<&Path>) -> Result<(SignedTrustDocument, TrustDocument), CliError> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => session.globals().load_profile()?.trust_document_path,
    };
    let tried = || format!("use the trust document {}", path.display());
    let bytes = durable::read(&path, FILE_MAX).map_err(|e| CliError::Local {
        tried: tried(),
        why: super::error::causes(&e),
        hint: Some("--trust FILE names another; `sutler publisher trust show -o json` has the manager's".into()),
    })?;
    let signed = SignedTrustDocument::from_json(&bytes).map_err(|e| local(tried(), e))?;
    let document = signed.read().map_err(|e| local(tried(), e))?;
    Ok((signed, document))
}

fn keys(session: &Session, files: &[PathBuf]) -> Result<Vec<PublisherKey>, CliError> {
    if files.is_empty() {
        return Ok(vec![push::publisher_key(session, None)?.0]);
    }
    files.iter().map(|file| push::publisher_key(session, Some(file)).map(|(key, _)| key)).collect()
}

fn write(path: &Path, json: &[u8]) -> Result<(), CliError> {
    durable::write(path, json, Readers::Everybody).map_err(|e| CliError::local(format!("write {}", path.display()), &e))
}

/// `publisher rotate`
pub fn rotate(session: &Session, args: RotateArgs) -> Result<(), CliError> {
    let (_, before) = trust_document(session, args.trust.as_deref())?;
    let mut keys: Vec<PublisherPublicKey> = before.keys().iter().map(|k| k.public_key).collect();
    for id in &args.remove_key {
        if !keys.iter().any(|k| k.key_id() == *id) {
            return Err(CliError::usage(format!("the trust document has no key {id}")));
        }
        keys.retain(|k| k.key_id() != *id);
    }
    keys.extend(args.add_key);
    let mut publishers = before.publishers().to_vec();
    for name in args.remove_set.iter().chain(&args.set) {
        let known = publishers.len();
        publishers.retain(|p| p.name != *name);
        if known == publishers.len() && args.set.as_ref() != Some(name) {
            return Err(CliError::usage(format!("the trust document has no set of publishers {name}")));
        }
    }
    if let Some(name) = args.set {
        let keys = args.set_key.into_iter().map(Into::into).collect();
        publishers.push(PublisherSet { name, keys, threshold: args.set_threshold, prefixes: args.set_prefix });
    }
    let expires = match args.expires {
        Some(until) => until.moment(session.now()).ok_or_else(|| CliError::usage("--expires is too far off"))?,
        None => before.expires(),
    };
    let change = Change {
        keys,
        threshold: args.threshold.unwrap_or(before.threshold()),
        prefixes: if args.prefix.is_empty() { before.prefixes().to_vec() } else { args.prefix },
        publishers,
        expires,
        new_epoch: args.new_epoch,
    };
    let next = before.follow(change).map_err(|e| CliError::usage(e.to_string()))?;
    let signers = self::keys(session, &args.publisher_key)?;
    let signed = next.sign(&signers.iter().collect::<Vec<_>>());
    write(&args.output, &signed.to_json())?;
    let state = match before.next(&signed) {
        Ok(_) => "complete; `sutler publisher publish` hands it to all agents".to_owned(),
        Err(e) => format!("{e}; `sutler publisher sign` adds signatures"),
    };
    session.done(&args.output.display().to_string(), &format!("trust document {}: {state}", next.version()))
}

/// `publisher revoke`
pub fn revoke(session: &Session, args: RevokeArgs) -> Result<(), CliError> {
    let (_, trust) = trust_document(session, args.trust.as_deref())?;
    let before = match &args.list {
        Some(path) => Some(path.clone()),
        None => Some(published_list(session)?).filter(|path| path.exists()),
    };
    let before = match before {
        None => None,
        Some(path) => match read(&path)? {
            Document::Revocations(list) => Some(list.read().map_err(|e| local(format!("use {}", path.display()), e))?),
            _ => return Err(CliError::usage(format!("{} is no revocation list", path.display()))),
        },
    };
    // What was taken back stays taken back, also in a new epoch.
    let mut revoked = before.as_ref().map(|b| b.revoked().to_vec()).unwrap_or_default();
    let targets = args.versions.into_iter().chain(args.manifests.into_iter().map(|manifest| Target::Manifest { manifest }));
    for target in targets {
        revoked.retain(|r| r.target != target);
        revoked.push(Revoked { target, reason: args.reason.clone() });
    }
    let mut minimums = before.as_ref().map(|b| b.minimums().to_vec()).unwrap_or_default();
    for minimum in args.minimums {
        minimums.retain(|m| m.package != minimum.package);
        minimums.push(minimum);
    }
    let version = before.as_ref().filter(|b| b.epoch() == trust.epoch()).map_or(1, |b| b.version().saturating_add(1));
    let expires = args.expires.moment(session.now()).ok_or_else(|| CliError::usage("--expires is too far off"))?;
    let list = RevocationList::new(trust.epoch(), version, revoked, minimums, expires).map_err(|e| CliError::usage(e.to_string()))?;
    let signers = keys(session, &args.publisher_key)?;
    let signed = list.sign(&signers.iter().collect::<Vec<_>>());
    write(&args.output, &signed.to_json())?;
    let state = match signed.open(&trust, before.as_ref()) {
        Ok(_) => "complete; `sutler publisher publish` hands it to all agents".to_owned(),
        Err(e) => format!("{e}; `sutler publisher sign` adds signatures"),
    };
    session.done(&args.output.display().to_string(), &format!("revocation list {version} until {}: {state}", list.expires()))
}

/// Adds a signature to a signed file.
pub fn add_signature(session: &Session, from: &Path, to: &Path, key: &PublisherKey) -> Result<(), CliError> {
    let tried = || format!("sign {}", from.display());
    let (what, count) = match read(from)? {
        Document::Trust(mut document) => {
            document.add_signature(key);
            write(to, &document.to_json())?;
            ("the trust document", document.signed_by().count())
        }
        Document::Revocations(mut list) => {
            list.add_signature(key);
            write(to, &list.to_json())?;
            ("the revocation list", list.signed_by().count())
        }
        Document::Package => ("the package", signed_file::add_signature(from, to, key).map_err(|why| local(tried(), why))?),
    };
    let sentence = format!("{what} has {count} signature{}, the last by {}", if count == 1 { "" } else { "s" }, key.key_id());
    session.done(&to.display().to_string(), &sentence)
}

/// `publisher verify`
pub fn verify(session: &Session, file: &Path, trust: Option<&Path>) -> Result<(), CliError> {
    let tried = || format!("verify {}", file.display());
    let (held, document) = trust_document(session, trust)?;
    let now = session.now();
    let sentence = match read(file)? {
        Document::Trust(signed) if signed.digest() == held.digest() => {
            let same = signed.open().map_err(|e| local(tried(), e))?;
            format!("trust document {}, the one that is held; {}", same.version(), about(&same, now))
        }
        Document::Trust(signed) => {
            let next = document.next(&signed).map_err(|e| local(tried(), e))?;
            format!("trust document {}, which follows {}; {}", next.version(), document.version(), about(&next, now))
        }
        Document::Revocations(signed) => {
            let list = signed.open(&document, None).map_err(|e| local(tried(), e))?;
            if list.is_expired(now) {
                return Err(local(tried(), format!("it ended at {}", list.expires())));
            }
            let counts = (list.revoked().len(), list.minimums().len());
            format!("revocation list {} until {}: {} revoked, {} minimum releases", list.version(), list.expires(), counts.0, counts.1)
        }
        Document::Package => {
            let package = signed_file::read(file).map_err(|why| local(tried(), why))?;
            verify_manifest(&document, &package.envelope, &package.manifest, now).map_err(|e| local(tried(), e))?;
            let manifest = package.parse().map_err(|why| local(tried(), why))?;
            if let Some(lacking) = manifest.chunk_lists().find(|(_, _, digest)| !package.objects.contains(digest)) {
                return Err(local(tried(), format!("the content of {} is not in it", lacking.0.path)));
            }
            let (name, version, release) = (&manifest.name, &manifest.version, manifest.release);
            format!("{name}@{version} release {release}, manifest {}: agents would take it", package.envelope.digest)
        }
    };
    session.done(&file.display().to_string(), &sentence)
}

fn about(document: &TrustDocument, now: Timestamp) -> String {
    let over = if document.is_expired(now) { ", which is over" } else { "" };
    format!("{} of {} keys, epoch {}, until {}{over}", document.threshold(), document.keys().len(), document.epoch(), document.expires())
}

/// `publisher publish`
pub async fn publish(session: &Session, file: &Path) -> Result<(), CliError> {
    let wire = |json: &[u8]| serde_json::from_slice::<Value>(json).ok().map(|json| wire_struct(&json));
    match read(file)? {
        Document::Trust(signed) => {
            let request = v1::PublishTrustDocumentRequest { document: wire(&signed.to_json()) };
            let answer = call!(session, packages.publish_trust_document(request.clone()), "publish the trust document {}", file.display())?;
            write(&session.globals().load_profile()?.trust_document_path, &signed.to_json())?;
            let sentence = format!("published: agents take it when they are connected; new tokens pin {}", answer.digest);
            session.done(&format!("trustDocuments/{}", answer.version), &sentence)
        }
        Document::Revocations(signed) => {
            let request = v1::PublishRevocationsRequest { list: wire(&signed.to_json()) };
            let answer = call!(session, packages.publish_revocations(request.clone()), "publish the revocation list {}", file.display())?;
            write(&published_list(session)?, &signed.to_json())?;
            let name = format!("revocationLists/{}-{}", answer.epoch, answer.version);
            session.done(&name, "published: agents take it when they are connected")
        }
        Document::Package => Err(CliError::usage_hint(
            format!("{} is neither a trust document nor a revocation list", file.display()),
            "a package is pushed with `sutler package push`",
        )),
    }
}

/// Where the list is kept that was published last.
fn published_list(session: &Session) -> Result<PathBuf, CliError> {
    Ok(session.globals().load_profile()?.trust_document_path.with_file_name("revocations.json"))
}
