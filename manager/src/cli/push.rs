//! Builds, signs and sends a package: only what the manager lacks goes over the network.
//!
//! Reading, compressing and sending go on at the same time: a thread makes the messages, and a short queue between it
//! and the connection bounds what is in memory.

use super::{
    error::CliError,
    output::printable,
    passphrase,
    session::{Session, call, service},
    when::bytes,
};
use crate::package::{self, BuildError, Built, Progress, SignedPackage, Source, SourceError, Wanted, bundle};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use sutler_base::{Digest, Timestamp, limits};
use sutler_certs::PublisherKey;
use sutler_content::Encoding;
use sutler_proto::v1::{self, push_package_request::Message};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How many messages wait for the connection: a few parts of at most 1 MiB each.
const QUEUE: usize = 8;

/// With what and as what a package is signed.
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// The publisher's key [default: the one of your profile]
    #[arg(long, value_name = "FILE")]
    pub publisher_key: Option<PathBuf>,
    /// The number of the release, which must grow [default: the one in package.toml, else the time in seconds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub release: Option<u64>,
}

/// A bar on the standard error; nothing where nobody looks, or with `--quiet`.
fn bar(session: &Session, what: &'static str, total: u64) -> ProgressBar {
    let target = if session.quiet() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style.progress_chars("=> ")).with_message(what)
}

/// The publisher's key and the file that it is in: the one that is named, else the profile's.
pub fn publisher_key(session: &Session, file: Option<&Path>) -> Result<(PublisherKey, PathBuf), CliError> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => session.globals().load_profile()?.publisher_key_path,
    };
    let key = passphrase::open_publisher_key(&path, session.globals())?;
    Ok((key, path))
}

/// The package that is made of what is at `path`. What people should know about it is said.
pub fn read(session: &Session, path: &Path, wanted: &Wanted, now: Timestamp) -> Result<Built, CliError> {
    let failed = |e: SourceError| CliError::local(format!("make a package of {}", path.display()), &e);
    let source = Source::open(path, wanted).map_err(failed)?;
    if !session.quiet() {
        source.notes.iter().for_each(|note| eprintln!("note: {} {}", printable(&path.display().to_string()), printable(note)));
    }
    let bar = bar(session, "reading", 0);
    let built = source.build(now, &mut |progress: Progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    built.map_err(failed)
}

/// The package in `folder`, signed.
pub fn build_and_sign(session: &Session, folder: &Path, args: &SignArgs, now: Timestamp) -> Result<SignedPackage, CliError> {
    let (key, _) = publisher_key(session, args.publisher_key.as_deref())?;
    let mut built = read(session, folder, &Wanted::default(), now)?;
    if let Some(release) = args.release {
        set_release(&mut built, release);
    }
    Ok(package::sign(built, &key))
}

fn set_release(built: &mut Built, release: u64) {
    built.manifest.release = release;
    built.manifest_bytes = built.manifest.to_bytes();
    built.manifest_digest = Digest::of(&built.manifest_bytes);
}

/// `sutler package push`
pub async fn push(session: &Session, path: &Path, wanted: &Wanted, args: &SignArgs) -> Result<(), CliError> {
    let (key, _) = publisher_key(session, args.publisher_key.as_deref())?;
    let mut built = read(session, path, wanted, session.now())?;
    match args.release {
        Some(release) => set_release(&mut built, release),
        None => as_it_is_there(session, &mut built).await?,
    }
    let package = Arc::new(package::sign(built, &key));
    let manifest = &package.built.manifest;
    let tried = format!("push the package {}@{}", manifest.name, manifest.version);
    let digests: Vec<String> = package.built.digests().map(|d| d.to_string()).collect();
    let mut wanted = HashSet::new();
    for digests in digests.chunks(limits::DIGESTS_MAX) {
        let request = v1::FindMissingContentRequest { digests: digests.to_vec() };
        let answer = call!(session, packages.find_missing_content(request), "{tried}")?;
        for digest in answer.digests {
            wanted.insert(digest.parse::<Digest>().map_err(|e| CliError::Local {
                tried: tried.clone(),
                why: e.to_string(),
                hint: None,
            })?);
        }
    }
    let wanted = Arc::new(wanted);
    let total = bundle::total_length(&package, Some(&wanted));
    let bar = bar(session, "sending", total);
    let broken: Arc<Mutex<Option<BuildError>>> = Arc::default();
    let connection = session.connection().await?;
    let origin = connection.origin();
    let answer = connection
        .patiently(&tried, |channel| {
            bar.set_position(0);
            let messages = messages(package.clone(), wanted.clone(), bar.clone(), broken.clone());
            let origin = origin.clone();
            async move { service::packages(channel, origin).push_package(messages).await }
        })
        .await;
    bar.finish_and_clear();
    if let Some(e) = broken.lock().ok().and_then(|mut broken| broken.take()) {
        return Err(CliError::local(tried, &e));
    }
    let name = match answer {
        Ok(answer) => answer.version.unwrap_or_default().name,
        // The answer to an earlier try was lost: what is there is exactly what was sent.
        Err(e) if is_there(session, &package, &e).await => format!("packages/{}/versions/{}", manifest.name, manifest.version),
        Err(e) => return Err(e),
    };
    let chunks = &package.built.chunks;
    let sent: Vec<_> = chunks.iter().filter(|c| wanted.contains(&c.digest)).collect();
    let length = |chunks: &mut dyn Iterator<Item = &package::build::ChunkSource>| chunks.map(|c| u64::from(c.length)).sum();
    let (sent_bytes, all_bytes) = (length(&mut sent.iter().copied()), length(&mut chunks.iter()));
    session.done(&name, &format!("pushed: {} of {} chunks sent, {} of {}", sent.len(), chunks.len(), bytes(sent_bytes), bytes(all_bytes)))
}

/// Gives the package the release that the manager has it with, if that is exactly what the manager has. So what is damaged there
/// can be sent again, without a new version.
async fn as_it_is_there(session: &Session, built: &mut Built) -> Result<(), CliError> {
    let manifest = &built.manifest;
    let mut request = v1::ListPackageVersionsRequest {
        parent: format!("packages/{}", manifest.name),
        page_size: limits::PAGE_MAX as i32,
        ..Default::default()
    };
    let tried = format!("look for the package {}@{}", manifest.name, manifest.version);
    let name = format!("packages/{}/versions/{}", manifest.name, manifest.version);
    let there = loop {
        let page: Result<v1::ListPackageVersionsResponse, CliError> =
            async { call!(session, packages.list_package_versions(request.clone()), "{tried}") }.await;
        // A package that isn't there, or may not be seen: the push itself will say so.
        let Ok(page) = page else { return Ok(()) };
        if let Some(version) = page.versions.into_iter().find(|v| v.name == name) {
            break version;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    };
    let Ok(release) = u64::try_from(there.release) else { return Ok(()) };
    let own = built.manifest.release;
    set_release(built, release);
    if built.manifest_digest.to_string() != there.manifest_digest {
        set_release(built, own);
    }
    Ok(())
}

/// Whether a push was refused only because an earlier try of it had come through.
async fn is_there(session: &Session, package: &SignedPackage, error: &CliError) -> bool {
    let CliError::Call { status, .. } = error else { return false };
    if status.code() != tonic::Code::AlreadyExists {
        return false;
    }
    let manifest = &package.built.manifest;
    let name = format!("packages/{}/versions/{}", manifest.name, manifest.version);
    let there: Result<v1::GetPackageVersionResponse, CliError> = async {
        call!(
            session,
            packages.get_package_version(v1::GetPackageVersionRequest { name: name.clone(), ..Default::default() }),
            "look at {name}"
        )
    }
    .await;
    there.is_ok_and(|t| t.version.is_some_and(|v| v.manifest_digest == package.built.manifest_digest.to_string()))
}

/// The messages of a push. A file that changed since it was signed ends them early and is left in `broken`.
fn messages(
    package: Arc<SignedPackage>,
    wanted: Arc<HashSet<Digest>>,
    bar: ProgressBar,
    broken: Arc<Mutex<Option<BuildError>>>,
) -> ReceiverStream<v1::PushPackageRequest> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let message = |message| v1::PushPackageRequest { message: Some(message) };
    tokio::task::spawn_blocking(move || {
        // Sending fails when the manager has answered already: then it wants no more.
        if sender.blocking_send(message(Message::Envelope(package.envelope_bytes.clone().into()))).is_err() {
            return;
        }
        for object in bundle::objects(&package, Some(&wanted)) {
            let object = match object {
                Ok(object) => object,
                Err(e) => {
                    if let Ok(mut broken) = broken.lock() {
                        *broken = Some(e);
                    }
                    return;
                }
            };
            for part in object.parts() {
                let content = v1::Content {
                    digest: object.digest.to_string(),
                    encoding: match object.encoding {
                        Encoding::Identity => v1::Encoding::Identity,
                        Encoding::Zstd => v1::Encoding::Zstd,
                    }
                    .into(),
                    data: part.data,
                    offset: part.offset as i64,
                    more: part.more,
                };
                if sender.blocking_send(message(Message::Content(content))).is_err() {
                    return;
                }
            }
            bar.inc(object.length);
        }
    });
    ReceiverStream::new(receiver)
}
