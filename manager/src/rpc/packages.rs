//! `PackageService`: what is pushed is checked whole before anything of it exists.

use super::{Services, caller, page, parsed, shown, status};
use crate::app::{
    AppError, Violations,
    content::{self, FANS},
    packages, relations, trust,
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::collections::BTreeSet;
use sutler_base::{Digest, PackageName, Version, limits, manifest::Manifest};
use sutler_certs::{Envelope, RevocationList, SignedRevocations, SignedTrustDocument, TrustDocument, verify_manifest};
use sutler_content::{Content, Encoding, Kind};
use sutler_proto::{
    convert::{VersionChoice, client_id, json_struct, package_choice, package_name, wire_struct, wire_time},
    v1::{self, push_package_request::Message},
};
use tonic::{Request, Response, Status, Streaming, async_trait};

/// How many objects are made durable at the same time: each waits for the disk.
const STORING: usize = 12;
/// The largest part of an object in a message (bytes).
const PART_MAX: usize = 1 << 20;

/// What a package is checked with before it is taken.
struct Trusted {
    document: TrustDocument,
    taken_back: Option<RevocationList>,
}

/// Which object comes next, put together from its parts.
struct Incoming {
    digest: Digest,
    encoding: Encoding,
    bytes: BytesMut,
}

impl Services {
    async fn push(&self, mut stream: Streaming<v1::PushPackageRequest>) -> Result<(packages::Push, i32), Status> {
        self.app.room_for("push_package").map_err(status)?;
        let first = stream.message().await?.and_then(|m| m.message);
        let Some(Message::Envelope(envelope_bytes)) = first else {
            return Err(invalid("envelope", "the first message carries the signed envelope"));
        };
        if envelope_bytes.len() > limits::ENVELOPE_MAX {
            return Err(invalid("envelope", format!("has at most {} bytes, not {}", limits::ENVELOPE_MAX, envelope_bytes.len())));
        }
        let envelope = Envelope::from_json(&envelope_bytes).map_err(|e| invalid("envelope", e))?;
        let trusted = self.trusted().await?;
        let mut new_objects = 0;
        // The signature is checked over the manifest's bytes before anything in them is read, and before anything else is taken.
        let mut incoming = None;
        let manifest_bytes = match self.app.content.get(envelope.digest, Kind::Document).await {
            Ok(bytes) => bytes,
            Err(sutler_content::Error::Missing(_) | sutler_content::Error::Damaged { .. }) => {
                let Some(object) = next(&mut stream, &mut incoming).await? else {
                    return Err(invalid(
                        "content",
                        format!("the manifest {} is missing; it comes right after the envelope", envelope.digest),
                    ));
                };
                if object.digest != envelope.digest {
                    return Err(invalid(
                        "content",
                        format!("the manifest {} comes right after the envelope, not {}", envelope.digest, object.digest),
                    ));
                }
                let raw = sutler_content::encoding::decode(object.encoding, &object.bytes.freeze(), limits::MANIFEST_MAX as usize)
                    .map_err(|e| invalid("content", format!("the manifest can't be decoded: {e:?}")))?;
                self.check(&trusted, &envelope, &raw)?;
                self.app.content.put(envelope.digest, Kind::Document, raw.clone()).await.map_err(AppError::from).map_err(status)?;
                new_objects += 1;
                raw
            }
            Err(other) => return Err(status(other.into())),
        };
        let manifest = self.check(&trusted, &envelope, &manifest_bytes)?;
        new_objects += self.store(&manifest, &mut stream, incoming).await?;
        let lacking = self.app.content.verify_complete(envelope.digest).await.map_err(AppError::from).map_err(status)?;
        if let Some(one) = lacking.first() {
            let what = format!("{} objects are missing, among them {one}; nothing was made of the package, push it again", lacking.len());
            // What was here and can't be read any more is no mistake of the caller's.
            let lost = lacking.iter().any(|digest| self.app.content.is_damaged(digest));
            return Err(if lost { Status::data_loss(what) } else { invalid("content", what) });
        }
        let push =
            packages::Push { manifest, digest: envelope.digest, length: manifest_bytes.len() as u64, envelope: envelope_bytes.to_vec() };
        Ok((push, new_objects))
    }

    /// The manifest, once its length, its digest and the publisher's signature were found good.
    fn check(&self, trusted: &Trusted, envelope: &Envelope, bytes: &Bytes) -> Result<Manifest, Status> {
        let now = self.app.world.now();
        verify_manifest(&trusted.document, envelope, bytes, now).map_err(|e| invalid("envelope", e))?;
        let manifest = Manifest::parse(bytes).map_err(|e| invalid("manifest", e))?;
        if manifest.expires.is_some_and(|e| e <= now) {
            return Err(invalid("manifest.expires", "lies in the past; agents would refuse the package"));
        }
        if let Some(list) = &trusted.taken_back {
            let allowed = list.allows(&manifest.name, &manifest.version, manifest.release, &envelope.digest);
            allowed.map_err(|e| invalid("manifest", format!("agents would refuse the package: {e}")))?;
        }
        Ok(manifest)
    }

    /// Whom agents trust now, and what was taken back.
    async fn trusted(&self) -> Result<Trusted, Status> {
        let loaded = self.app.view("manager", "trust", (), |tx, _env, ()| {
            Box::pin(async move {
                let (_, document) = trust::newest(tx).await?;
                Ok(Trusted { document, taken_back: trust::revocations(tx).await?.map(|(_, list)| list) })
            })
        });
        loaded.await.map_err(status)
    }

    /// Stores what comes, chunk lists first so that it is known which chunks belong to the package; nothing else is taken.
    async fn store(
        &self,
        manifest: &Manifest,
        stream: &mut Streaming<v1::PushPackageRequest>,
        mut incoming: Option<Incoming>,
    ) -> Result<i32, Status> {
        let lists: BTreeSet<Digest> = manifest.chunk_lists().map(|(_, _, digest)| digest).collect();
        let mut storing = FuturesUnordered::new();
        let mut stored = 0;
        while let Some(object) = next(stream, &mut incoming).await? {
            self.app.room_for("push_package").map_err(status)?;
            while storing.len() >= STORING {
                finished(storing.next().await)?;
            }
            let kind = if lists.contains(&object.digest) { Kind::Document } else { Kind::Chunk };
            storing.push(put(&self.app.content, kind, object));
            stored += 1;
        }
        while !storing.is_empty() {
            finished(storing.next().await)?;
        }
        Ok(stored)
    }
}

async fn put(content: &Content, kind: Kind, object: Incoming) -> Result<(), sutler_content::Error> {
    content.put_encoded(object.digest, kind, object.encoding, object.bytes.freeze()).await
}

fn finished(result: Option<Result<(), sutler_content::Error>>) -> Result<(), Status> {
    match result {
        Some(Err(error)) => Err(status(error.into())),
        _ => Ok(()),
    }
}

/// The next whole object of the stream.
async fn next(stream: &mut Streaming<v1::PushPackageRequest>, incoming: &mut Option<Incoming>) -> Result<Option<Incoming>, Status> {
    loop {
        let Some(message) = stream.message().await? else {
            return match incoming.take() {
                Some(part) => Err(invalid("content", format!("the object {} is cut off", part.digest))),
                None => Ok(None),
            };
        };
        let Some(Message::Content(part)) = message.message else {
            return Err(invalid("content", "after the envelope only content follows"));
        };
        let digest: Digest = part.digest.parse().map_err(|e| invalid("content.digest", e))?;
        let encoding = match v1::Encoding::try_from(part.encoding) {
            Ok(v1::Encoding::Identity) => Encoding::Identity,
            Ok(v1::Encoding::Zstd) => Encoding::Zstd,
            _ => return Err(invalid("content.encoding", "is ENCODING_IDENTITY or ENCODING_ZSTD")),
        };
        if part.data.len() > PART_MAX {
            return Err(invalid("content.data", format!("has at most {PART_MAX} bytes, not {}", part.data.len())));
        }
        let object = incoming.get_or_insert_with(|| Incoming { digest, encoding, bytes: BytesMut::new() });
        if object.digest != digest || object.encoding != encoding || part.offset != object.bytes.len() as i64 {
            let at = format!("at {} of {}", object.bytes.len(), object.digest);
            return Err(invalid(
                "content",
                format!("the parts of an object follow each other; expected is the part {at}, not {} of {digest}", part.offset),
            ));
        }
        if object.bytes.len() + part.data.len() > limits::MANIFEST_MAX as usize {
            return Err(invalid("content", format!("the object {digest} has more than {} bytes", limits::MANIFEST_MAX)));
        }
        object.bytes.extend_from_slice(&part.data);
        if !part.more {
            return Ok(incoming.take());
        }
    }
}

fn invalid(field: &str, why: impl ToString) -> Status {
    status(AppError::invalid(field, why))
}

/// The version that a name means, which must be one.
fn exact(name: &str) -> Result<(PackageName, Version), Status> {
    match package_choice(name).map_err(|e| invalid("name", e))? {
        (name, VersionChoice::Exact(version)) => Ok((name, version)),
        _ => Err(invalid("name", "names a version: packages/NAME/versions/VERSION")),
    }
}

#[async_trait]
impl v1::package_service_server::PackageService for Services {
    async fn find_missing_content(
        &self,
        request: Request<v1::FindMissingContentRequest>,
    ) -> Result<Response<v1::FindMissingContentResponse>, Status> {
        self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        if r.digests.len() > limits::DIGESTS_MAX {
            v.add("digests", format!("has at most {} entries, not {}", limits::DIGESTS_MAX, r.digests.len()));
            v.done()?;
            return Err(Status::internal("a violation that is none"));
        }
        let digests: Vec<Digest> = r.digests.iter().enumerate().filter_map(|(n, d)| v.take(&format!("digests[{n}]"), d.parse())).collect();
        v.done()?;
        let missing = self.app.content.missing(&digests).await.map_err(AppError::from).map_err(status)?;
        Ok(Response::new(v1::FindMissingContentResponse { digests: missing.iter().map(Digest::to_string).collect() }))
    }

    async fn push_package(&self, request: Request<Streaming<v1::PushPackageRequest>>) -> Result<Response<v1::PushPackageResponse>, Status> {
        let operator = self.operator(&request)?;
        let pushed = self.push(request.into_inner()).await;
        // Whatever became of the version: what came may be what somebody waits for.
        self.app.live.mended();
        self.app.metrics.damaged_objects.set(self.app.content.damaged().len() as i64);
        let (push, new_objects) = pushed?;
        let version = self
            .app
            .change(&operator, "push_package", push, |tx, env, push| Box::pin(packages::push(tx, env, push)))
            .await
            .map_err(status)?;
        Ok(Response::new(v1::PushPackageResponse { version: Some(shown::version(version)), new_objects }))
    }

    async fn list_packages(&self, request: Request<v1::ListPackagesRequest>) -> Result<Response<v1::ListPackagesResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_packages", page, |tx, _env, p| Box::pin(packages::list(tx, p))).await.map_err(status)?;
        let packages = rows.into_iter().map(shown::package).collect();
        Ok(Response::new(v1::ListPackagesResponse { packages, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_package(&self, request: Request<v1::GetPackageRequest>) -> Result<Response<v1::GetPackageResponse>, Status> {
        let operator = self.operator(&request)?;
        let name = package_name(&request.get_ref().name).map_err(|e| invalid("name", e))?;
        let package = self.app.view(&operator, "get_package", name, |tx, _env, n| Box::pin(packages::get(tx, n))).await.map_err(status)?;
        Ok(Response::new(v1::GetPackageResponse { package: Some(shown::package(package)) }))
    }

    async fn list_package_versions(
        &self,
        request: Request<v1::ListPackageVersionsRequest>,
    ) -> Result<Response<v1::ListPackageVersionsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let name = v.take("parent", package_name(&r.parent));
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let name = parsed(name)?;
        let (rows, next) = self
            .app
            .view(&operator, "list_versions", (name, page), |tx, _env, (n, p)| Box::pin(packages::versions(tx, n, p)))
            .await
            .map_err(status)?;
        let versions = rows.into_iter().map(shown::version).collect();
        Ok(Response::new(v1::ListPackageVersionsResponse { versions, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_package_version(
        &self,
        request: Request<v1::GetPackageVersionRequest>,
    ) -> Result<Response<v1::GetPackageVersionResponse>, Status> {
        let operator = self.operator(&request)?;
        let with_chunks = request.get_ref().with_chunks;
        let (name, choice) = package_choice(&request.get_ref().name).map_err(|e| invalid("name", e))?;
        let exact = match choice {
            VersionChoice::Exact(version) => Some(version),
            VersionChoice::Latest => None,
            VersionChoice::Newest => return Err(invalid("name", "names a version: packages/NAME/versions/VERSION")),
        };
        let version = self
            .app
            .view(&operator, "get_version", (name, exact), |tx, _env, (n, exact)| Box::pin(packages::version(tx, n, exact.as_ref())))
            .await
            .map_err(status)?;
        let manifest = self.app.content.get(version.manifest, Kind::Document).await.map_err(AppError::from).map_err(status)?;
        let json: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
        let damaged_objects = self.app.damaged_of(&version).await as i32;
        let shown = v1::PackageVersion { manifest: Some(wire_struct(&json)), damaged_objects, ..shown::version(version) };
        let chunks = if with_chunks { self.app.chunks_of(&manifest).await.map_err(status)? } else { Some(Vec::new()) };
        let chunks_left_out = chunks.is_none();
        let chunks = chunks.unwrap_or_default().into_iter();
        let chunks = chunks.map(|c| v1::Chunk { digest: c.digest.to_string(), length: c.length as i32 }).collect();
        Ok(Response::new(v1::GetPackageVersionResponse { version: Some(shown), chunks, chunks_left_out }))
    }

    async fn withdraw_package_version(
        &self,
        request: Request<v1::WithdrawPackageVersionRequest>,
    ) -> Result<Response<v1::WithdrawPackageVersionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "WithdrawPackageVersion", &r)?;
        let mut v = Violations::default();
        v.text("reason", &r.reason, limits::DESCRIPTION_MAX);
        v.done()?;
        let (package, version) = exact(&r.name)?;
        let input = packages::Withdraw { package, version, reason: r.reason, cancel: r.cancel };
        let answer = self.app.mutate(
            &caller,
            "withdraw_version",
            body,
            input,
            |tx, env, i| Box::pin(packages::withdraw(tx, env, i)),
            |version| v1::WithdrawPackageVersionResponse { version: Some(shown::version(version)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn reinstate_package_version(
        &self,
        request: Request<v1::ReinstatePackageVersionRequest>,
    ) -> Result<Response<v1::ReinstatePackageVersionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ReinstatePackageVersion", &r)?;
        let answer = self.app.mutate(
            &caller,
            "reinstate_version",
            body,
            exact(&r.name)?,
            |tx, env, (name, version)| Box::pin(packages::reinstate(tx, env, name, version)),
            |version| v1::ReinstatePackageVersionResponse { version: Some(shown::version(version)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn plan_package(&self, request: Request<v1::PlanPackageRequest>) -> Result<Response<v1::PlanPackageResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let package = v.take("package", package_choice(&r.package));
        let client = v.take("client", client_id(&r.client));
        v.done()?;
        let ((package, choice), client) = (parsed(package)?, parsed(client)?);
        let version = if let VersionChoice::Exact(version) = choice { Some(version) } else { None };
        let input = relations::Plan { package, version, client };
        let planned = self.app.view(&operator, "plan_package", input, |tx, env, i| Box::pin(relations::plan(tx, env, i)));
        let (lines, facts_time) = planned.await.map_err(status)?;
        let packages = lines.into_iter().map(shown::planned).collect();
        Ok(Response::new(v1::PlanPackageResponse { packages, facts_time: facts_time.map(wire_time) }))
    }

    async fn delete_package_version(
        &self,
        request: Request<v1::DeletePackageVersionRequest>,
    ) -> Result<Response<v1::DeletePackageVersionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeletePackageVersion", &r)?;
        let answer = self.app.mutate(
            &caller,
            "delete_version",
            body,
            exact(&r.name)?,
            |tx, env, (name, version)| Box::pin(packages::delete_version(tx, env, name, version)),
            |()| v1::DeletePackageVersionResponse {},
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn delete_package(&self, request: Request<v1::DeletePackageRequest>) -> Result<Response<v1::DeletePackageResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeletePackage", &r)?;
        let name = package_name(&r.name).map_err(|e| invalid("name", e))?;
        let answer = self.app.mutate(
            &caller,
            "delete_package",
            body,
            name,
            |tx, env, n| Box::pin(packages::delete(tx, env, n)),
            |()| v1::DeletePackageResponse {},
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_content_status(
        &self,
        request: Request<v1::GetContentStatusRequest>,
    ) -> Result<Response<v1::GetContentStatusResponse>, Status> {
        self.operator(&request)?;
        let state = self.app.scrub.state().clone();
        let damaged = self.app.content.damaged();
        let versions = self.app.damaged_versions().await.map_err(status)?;
        let status = v1::ContentStatus {
            round: state.round as i64,
            percent: i32::from(state.next) * 100 / i32::from(FANS),
            objects: state.objects as i64,
            bytes: state.bytes as i64,
            start_time: state.began().map(wire_time),
            end_time: state.ended().map(wire_time),
            damaged_objects: damaged.iter().take(1000).map(Digest::to_string).collect(),
            damaged_versions: versions.iter().map(packages::name_of).collect(),
        };
        Ok(Response::new(v1::GetContentStatusResponse { status: Some(status) }))
    }

    async fn scrub_content(&self, request: Request<v1::ScrubContentRequest>) -> Result<Response<v1::ScrubContentResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "ScrubContent", &r)?;
        let round = self.app.scrub.state().round + 1;
        let answer = self.app.mutate(
            &caller,
            "scrub_content",
            body,
            round,
            |tx, env, round| {
                Box::pin(async move {
                    content::ask(tx, env).await?;
                    Ok(*round as i64)
                })
            },
            |round| v1::ScrubContentResponse { round },
        );
        let answer = answer.await.map_err(status)?;
        // The same request again, whose round has begun, asks for no other.
        if answer.round as u64 > self.app.scrub.state().round {
            self.app.scrub.bell.notify_one();
        }
        Ok(Response::new(answer))
    }

    async fn get_trust_document(
        &self,
        request: Request<v1::GetTrustDocumentRequest>,
    ) -> Result<Response<v1::GetTrustDocumentResponse>, Status> {
        let operator = self.operator(&request)?;
        let newest = self.app.view(&operator, "get_trust", (), |tx, _env, ()| Box::pin(trust::newest(tx)));
        let (signed, _) = newest.await.map_err(status)?;
        Ok(Response::new(v1::GetTrustDocumentResponse {
            document: Some(as_struct(&signed.to_json())),
            digest: signed.digest().to_string(),
        }))
    }

    async fn publish_trust_document(
        &self,
        request: Request<v1::PublishTrustDocumentRequest>,
    ) -> Result<Response<v1::PublishTrustDocumentResponse>, Status> {
        let operator = self.operator(&request)?;
        let json = json_struct(&request.into_inner().document.unwrap_or_default()).to_string();
        let signed = SignedTrustDocument::from_json(json.as_bytes()).map_err(|e| invalid("document", e))?;
        let published = self.app.change(&operator, "publish_trust", signed, |tx, env, s| Box::pin(trust::publish_document(tx, env, s)));
        let (version, digest) = published.await.map_err(status)?;
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        Ok(Response::new(v1::PublishTrustDocumentResponse { version, digest: digest.to_string() }))
    }

    async fn get_revocations(&self, request: Request<v1::GetRevocationsRequest>) -> Result<Response<v1::GetRevocationsResponse>, Status> {
        let operator = self.operator(&request)?;
        let newest = self.app.view(&operator, "get_revocations", (), |tx, _env, ()| Box::pin(trust::revocations(tx)));
        let list = newest.await.map_err(status)?.map(|(signed, _)| as_struct(&signed.to_json()));
        Ok(Response::new(v1::GetRevocationsResponse { list }))
    }

    async fn publish_revocations(
        &self,
        request: Request<v1::PublishRevocationsRequest>,
    ) -> Result<Response<v1::PublishRevocationsResponse>, Status> {
        let operator = self.operator(&request)?;
        let json = json_struct(&request.into_inner().list.unwrap_or_default()).to_string();
        let signed = SignedRevocations::from_json(json.as_bytes()).map_err(|e| invalid("list", e))?;
        let published =
            self.app.change(&operator, "publish_revocations", signed, |tx, env, s| Box::pin(trust::publish_revocations(tx, env, s)));
        let (epoch, version) = published.await.map_err(status)?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(Response::new(v1::PublishRevocationsResponse { epoch: number(epoch), version: number(version) }))
    }
}

fn as_struct(json: &[u8]) -> prost_types::Struct {
    wire_struct(&serde_json::from_slice(json).unwrap_or_default())
}
