//! The bytes of an attempt's content: who may read which, and how they are sent.

use super::{Services, parsed, status};
use crate::{
    app::{Violations, dispatch},
    live::transfers::{self, Flow, Halt},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use std::{collections::BTreeSet, pin::pin, sync::Arc};
use sutler_base::{AttemptId, ClientId, Digest, limits, state::ClientState};
use sutler_content::{Closure, Encoding, Error as ContentError, Kind};
use sutler_proto::v1;
use sutler_store::StoreError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// About how many bytes of objects go into one message: messages of that size are what moves fastest.
const MESSAGE: usize = 256 << 10;
/// How many messages of a transfer wait for the connection.
const AHEAD: usize = 4;

/// What an agent asked for, and may read.
struct Asked {
    /// The versions of its attempt, with all that belongs to each.
    closures: Vec<(Digest, Arc<Closure>)>,
    /// What it asked for, in its order.
    digests: Vec<Digest>,
    /// Those of it that belong to deltas.
    of_delta: BTreeSet<Digest>,
}

impl Services {
    /// Answers with the objects that an agent asks for, if they belong to its attempt.
    pub(super) async fn read_objects(
        &self,
        request: Request<v1::ReadChunksRequest>,
    ) -> Result<impl Stream<Item = Result<v1::ReadChunksResponse, Status>> + Send + use<>, Status> {
        let client = self.client(&request).await?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let attempt = v.take("attempt", r.attempt.parse::<AttemptId>());
        if r.digests.is_empty() || r.digests.len() > limits::DIGESTS_MAX {
            v.add("digests", format!("has 1 to {} entries, not {}", limits::DIGESTS_MAX, r.digests.len()));
        }
        let digests: Vec<Digest> = r
            .digests
            .iter()
            .enumerate()
            .take(limits::DIGESTS_MAX)
            .filter_map(|(n, d)| v.take(&format!("digests[{n}]"), Digest::try_from(d.as_ref())))
            .collect();
        v.done()?;
        let attempt = parsed(attempt)?;
        // The same answer for what is not stored, what is another client's, and what belongs to something else.
        let absent = || Status::not_found("there is no such content in this attempt");
        let actor = format!("clients/{client}");
        let readable = self
            .app
            .view(&actor, "readable", (client.clone(), attempt.clone()), |tx, _env, (client, attempt)| {
                Box::pin(dispatch::readable(tx, client, attempt))
            })
            .await
            .map_err(status)?
            .ok_or_else(absent)?;
        let mut closures: Vec<(Digest, Arc<Closure>)> = Vec::new();
        for manifest in readable.manifests {
            let closure = self.app.content.load_closure(manifest).await.map_err(|e| self.damaged(&client, &attempt, e))?;
            closures.push((manifest, closure));
        }
        let of_delta: BTreeSet<Digest> = digests.iter().filter(|d| !closures.iter().any(|(_, c)| c.contains(d))).copied().collect();
        if !self.are_of_deltas(&actor, closures.iter().map(|(manifest, _)| *manifest).collect(), &of_delta).await? {
            return Err(absent());
        }
        if !self.app.live.transfers.is_known() {
            transfers::look(&self.app).await.map_err(status)?;
        }
        let flow = Arc::new(Flow::open(self.app.clone(), &client, &attempt, readable.standing, readable.through_suspended));
        flow.pass(1).await.map_err(|halt| status(flow.halted(halt)))?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (services, sent) = (self.clone(), flow.clone());
        tokio::spawn(async move {
            if let Err(status) = services.send_objects(&client, &attempt, &sent, Asked { closures, digests, of_delta }, &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        // What waits for the connection does not go either once the client is suspended.
        let end = flow.clone();
        let end = stream::once(async move { end.is_suspended().then(|| Err(status(end.halted(Halt::Suspended)))) });
        let sent = ReceiverStream::new(receiver).take_until(async move { flow.suspended().await });
        Ok(sent.chain(end.filter_map(std::future::ready)))
    }

    /// Whether all of these belong to deltas to versions with these manifests.
    async fn are_of_deltas(&self, actor: &str, manifests: Vec<Digest>, digests: &BTreeSet<Digest>) -> Result<bool, Status> {
        if digests.is_empty() {
            return Ok(true);
        }
        let made =
            self.app.view(actor, "deltas_to", manifests, |tx, _env, manifests| Box::pin(async move { Ok(tx.deltas_to(manifests).await?) }));
        let mut left = digests.clone();
        for delta in made.await.map_err(status)? {
            match self.app.content.load_delta(delta).await {
                Ok(objects) => left.retain(|digest| !objects.contains(digest)),
                // Whoever reads it finds that it is lost.
                Err(ContentError::Missing(_) | ContentError::Damaged { .. } | ContentError::NotADelta { .. }) => {
                    left.remove(&delta);
                }
                Err(error) => return Err(status(error.into())),
            }
            if left.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The answer where an attempt's own content can't be read. That it is gone altogether is a damage like any other: the
    /// version stands in the database, and its bytes were whole when it was made. The attempt waits until they are sent again.
    fn damaged(&self, client: &ClientId, attempt: &AttemptId, error: ContentError) -> Status {
        let error = match error {
            ContentError::Missing(digest) => {
                self.app.content.mark_damaged([digest]);
                ContentError::Damaged { digest, why: "it is gone".into() }
            }
            other => other,
        };
        if matches!(error, ContentError::Damaged { .. }) {
            self.app.live.lacks(attempt.clone(), client.clone());
            self.app.metrics.damaged_objects.set(self.app.content.damaged().len() as i64);
        }
        status(error.into())
    }

    /// Sends objects in the order asked, small ones together, large ones in parts; no more of them once the client may not read.
    async fn send_objects(
        &self,
        client: &ClientId,
        id: &AttemptId,
        flow: &Flow,
        Asked { closures, digests, of_delta }: Asked,
        sender: &mpsc::Sender<Result<v1::ReadChunksResponse, Status>>,
    ) -> Result<(), Status> {
        let (mut parts, mut size) = (Vec::new(), 0);
        // A chunk list or manifest may be larger than a chunk; what it is was checked when it was stored.
        let mut objects = pin!(self.app.content.get_all_encoded(&digests, Kind::Document));
        for (index, digest) in digests.iter().copied().enumerate() {
            if let Some(state) = self.app.live.state(client).filter(|state| *state != ClientState::Active) {
                return Err(status(dispatch::not_active(client, Some(state))));
            }
            // Who was revoked since can't be known: what was begun is not gone on with.
            if !self.app.live.knows_access(self.app.settings.limits.revocations) {
                return Err(status(StoreError::Unavailable("who may still read can't be read; try again".into()).into()));
            }
            let found = objects.next().await.unwrap_or(Err(ContentError::Missing(digest)));
            let (encoding, mut data) = match found {
                Ok(found) => found,
                // Nothing waits until it is mended: chunks will do.
                Err(ContentError::Missing(_) | ContentError::Damaged { .. }) if of_delta.contains(&digest) => {
                    return Err(Status::not_found("this delta is lost; fetch chunks instead"));
                }
                Err(error) => return Err(self.damaged(client, id, error)),
            };
            let encoding = match encoding {
                Encoding::Identity => v1::Encoding::Identity,
                Encoding::Zstd => v1::Encoding::Zstd,
            };
            loop {
                let wanted = data.len().min(MESSAGE);
                let (may, limited) = flow.pass(wanted).await.map_err(|halt| status(flow.halted(halt)))?;
                let part: Bytes = data.split_to(may);
                size += part.len();
                self.app.metrics.chunk_bytes.inc_by(part.len() as u64);
                // What makes one of them of another is no version's own: of several the first one's, so that it counts.
                let of = closures.iter().find(|(_, closure)| closure.contains(&digest)).or(closures.first());
                if let Some((manifest, _)) = of {
                    self.app.live.transfers.note_served(id, manifest, part.len() as u64);
                }
                parts.push(v1::ObjectPart { index: index as u32, encoding: encoding.into(), data: part, last: data.is_empty() });
                if size >= MESSAGE || limited {
                    size = 0;
                    let message = v1::ReadChunksResponse { parts: std::mem::take(&mut parts) };
                    if sender.send(Ok(message)).await.is_err() {
                        return Ok(());
                    }
                }
                if data.is_empty() {
                    break;
                }
            }
        }
        if !parts.is_empty() {
            let _ = sender.send(Ok(v1::ReadChunksResponse { parts })).await;
        }
        Ok(())
    }
}
