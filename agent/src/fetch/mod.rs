//! Brings content from the higher system: what is asked for, verified, and nothing else.
//!
//! Questions are of at most 8 MiB and 8192 digests; three are on their way at a time, and read in their order, so that
//! files are written from their start to their end. Bytes are decompressed, verified and written on a blocking thread.
//! A transfer is given up when next to nothing has come for a while (`limits.stall`), however slow it was before; what has
//! arrived stays.

mod parts;

use crate::{
    installer::{Tree, Trouble, failure},
    link::{Connection, precondition},
    memory::Transfer,
};
use parts::Assembler;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use sutler_base::{AttemptId, Digest, chunks::Chunk, limits, outcome::Failure, state::ErrorKind};
use sutler_proto::{
    TRANSFER_SUSPENDED,
    v1::{self, agent_service_client::AgentServiceClient},
};
use tokio::sync::mpsc;

/// How many bytes of content are asked for at once, and how many such questions are open.
const BATCH_BYTES: u64 = 8 << 20;
const BATCHES_OPEN: usize = 3;
/// A transfer that brings fewer bytes within `limits.stall` stands still.
const STALL_BYTES: u64 = 1024;
/// So many bytes are written at once, of so many objects at most (tiny ones, one of each file, gain nothing by more); and how many such
/// writes wait. Of the write of one chunk its bytes are a fifth, the rest is paid for each write. With more bytes at once the page cache
/// takes larger blocks of memory, and where a host takes back what a virtual machine has free, those are the ones that it has to bring
/// again: sixteen agents at 512 KiB took 2.1 s/GiB, at 128 KiB 1.4, with each chunk alone 1.5.
const WRITE_BYTES: u64 = 128 << 10;
const WRITE_OBJECTS: usize = 64;
const WRITES_OPEN: usize = 8;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(500);

/// Why content was not brought.
#[derive(Debug, Clone, PartialEq)]
pub enum FetchError {
    /// It may work later.
    Later(String),
    /// The manager gives this machine no bytes until its transfers are resumed.
    Suspended(String),
    /// It won't.
    Never(Failure),
    /// The process must end.
    Fatal(String),
}

impl From<Trouble> for FetchError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Failed(failure) => FetchError::Never(failure),
            Trouble::Fatal(why) => FetchError::Fatal(why),
        }
    }
}

/// One object whose length is known or bounded.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// The most bytes that it can have, decompressed.
    pub most: u64,
}

/// Brings few objects into memory, in the order asked; their digests are verified.
pub async fn objects(connection: &Connection, attempt: &AttemptId, wanted: &[Wanted]) -> Result<(Vec<Vec<u8>>, u64), FetchError> {
    let mut all = Vec::with_capacity(wanted.len());
    let mut fetched = 0;
    for batch in wanted.chunks(limits::DIGESTS_MAX) {
        let mut reader = Reader::new(connection.clone(), attempt, batch.iter().map(|w| w.digest).collect());
        let mut assembler = Assembler::new(batch.iter().map(|w| w.most).collect());
        while let Some(parts) = reader.next().await? {
            for part in parts {
                fetched += part.data.len() as u64;
                if let Some((index, object)) = assembler.add(part)? {
                    let bytes = object.into_bytes()?;
                    if Digest::of(&bytes) != batch[index].digest {
                        return Err(mismatch(&batch[index].digest));
                    }
                    all.push(bytes);
                }
            }
        }
        assembler.finish()?;
    }
    Ok((all, fetched))
}

/// A delta that the manager has.
#[derive(Debug, Clone, Copy)]
pub struct FoundDelta {
    /// The manifest from which it makes the new version.
    pub old: Digest,
    /// Its address.
    pub digest: Digest,
    /// How many bytes it says to have, decompressed and without its frames.
    pub length: u64,
}

/// Asks for a delta from one of these manifests to another one. None where there is none, or the manager is older than deltas.
pub async fn delta(connection: &Connection, attempt: &AttemptId, old: &[Digest], new: &Digest) -> Result<Option<FoundDelta>, FetchError> {
    let bytes = |digest: &Digest| bytes::Bytes::copy_from_slice(digest.as_bytes());
    let old_manifests = old.iter().map(bytes).collect();
    let request = v1::FindDeltaRequest { attempt: attempt.to_string(), old_manifests, new_manifest: bytes(new) };
    let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin())
        .max_decoding_message_size(limits::AGENT_MESSAGE_MAX)
        .max_encoding_message_size(limits::AGENT_MESSAGE_MAX);
    let found = match unless_stalled(connection, client.find_delta(request)).await? {
        Ok(found) => found.into_inner(),
        Err(status) if matches!(status.code(), tonic::Code::NotFound | tonic::Code::Unimplemented) => return Ok(None),
        Err(status) => return Err(refused(&status)),
    };
    let digest = |bytes: &[u8]| Digest::try_from(bytes).map_err(|e| FetchError::Later(format!("the manager named no delta: {e}")));
    let length = u64::try_from(found.length).unwrap_or(u64::MAX);
    Ok(Some(FoundDelta { old: digest(&found.old_manifest)?, digest: digest(&found.digest)?, length }))
}

fn mismatch(digest: &Digest) -> FetchError {
    FetchError::Never(failure(ErrorKind::ContentMismatch, format!("what came for {digest} has another digest")))
}

/// Brings the chunks that a tree lacks into it. Returns the tree and how many bytes came over the network.
pub async fn into_tree(
    connection: &Connection,
    attempt: &AttemptId,
    tree: Box<dyn Tree>,
    missing: Vec<Chunk>,
    tell: impl Fn(u64) + Send,
) -> Result<(Box<dyn Tree>, u64), FetchError> {
    let _memory = Transfer::begin();
    let (queue, writer, written) = spawn_writer(tree);
    let mut gathered = Gathered { queue, objects: Vec::new(), bytes: 0 };
    let received = receive(connection, attempt, missing, &mut gathered, &written, tell).await;
    // What has arrived stays, also when no more comes.
    let received = gathered.hand_on().await.and(received);
    drop(gathered);
    let (tree, wrote) = writer.await.map_err(|e| FetchError::Later(format!("the agent's own work stopped: {e}")))?;
    // What stopped the writing is the cause; that nobody took the bytes any more is its effect.
    wrote?;
    Ok((tree, received?))
}

type Objects = Vec<(Digest, parts::Object)>;
type Queue = mpsc::Sender<Objects>;
type Writer = tokio::task::JoinHandle<(Box<dyn Tree>, Result<(), FetchError>)>;

fn spawn_writer(mut tree: Box<dyn Tree>) -> (Queue, Writer, Arc<AtomicU64>) {
    let (queue, mut gathered) = mpsc::channel::<Objects>(WRITES_OPEN);
    let written = Arc::new(AtomicU64::new(0));
    let counter = written.clone();
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(objects) = gathered.blocking_recv() {
            match write(&mut *tree, &objects) {
                Ok(bytes) => counter.fetch_add(bytes, Ordering::Relaxed),
                Err(e) => return (tree, Err(e)),
            };
        }
        (tree, Ok(()))
    });
    (queue, writer, written)
}

/// Returns how many bytes they have.
fn write(tree: &mut dyn Tree, objects: &Objects) -> Result<u64, FetchError> {
    let decoded = objects.iter().map(|(digest, object)| Ok((*digest, object.decode()?))).collect::<Result<Vec<_>, FetchError>>()?;
    let chunks: Vec<(Digest, &[u8])> = decoded.iter().map(|(digest, bytes)| (*digest, &**bytes)).collect();
    tree.write(&chunks)?;
    Ok(chunks.iter().map(|(_, bytes)| bytes.len() as u64).sum())
}

/// Objects that came and are written together.
struct Gathered {
    queue: Queue,
    objects: Objects,
    bytes: u64,
}

impl Gathered {
    async fn add(&mut self, digest: Digest, object: parts::Object) -> Result<(), FetchError> {
        self.bytes += object.most();
        self.objects.push((digest, object));
        if self.bytes >= WRITE_BYTES || self.objects.len() >= WRITE_OBJECTS {
            self.hand_on().await?;
        }
        Ok(())
    }

    async fn hand_on(&mut self) -> Result<(), FetchError> {
        let objects = std::mem::take(&mut self.objects);
        self.bytes = 0;
        if objects.is_empty() {
            return Ok(());
        }
        self.queue.send(objects).await.map_err(|_| FetchError::Later("nothing is written any more".into()))
    }
}

async fn receive(
    connection: &Connection,
    attempt: &AttemptId,
    missing: Vec<Chunk>,
    gathered: &mut Gathered,
    written: &AtomicU64,
    tell: impl Fn(u64) + Send,
) -> Result<u64, FetchError> {
    let mut batches = batches(missing).into_iter();
    let mut open: VecDeque<(Vec<Chunk>, Reader)> = VecDeque::new();
    let mut fetched = 0;
    let mut told = tokio::time::Instant::now();
    loop {
        while open.len() < BATCHES_OPEN
            && let Some(batch) = batches.next()
        {
            let reader = Reader::new(connection.clone(), attempt, batch.iter().map(|c| c.digest).collect());
            open.push_back((batch, reader));
        }
        let Some((batch, mut reader)) = open.pop_front() else { break };
        let mut assembler = Assembler::new(batch.iter().map(|c| u64::from(c.length)).collect());
        while let Some(parts) = reader.next().await? {
            for part in parts {
                fetched += part.data.len() as u64;
                if let Some((index, object)) = assembler.add(part)? {
                    gathered.add(batch[index].digest, object).await?;
                }
            }
            if told.elapsed() >= TELL {
                // Of a slow transfer, too, what came is written, and told the next time.
                gathered.hand_on().await?;
                told = tokio::time::Instant::now();
                tell(written.load(Ordering::Relaxed));
            }
        }
        assembler.finish()?;
    }
    Ok(fetched)
}

fn batches(missing: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    let mut all: Vec<Vec<Chunk>> = Vec::new();
    let mut bytes = 0;
    for chunk in missing {
        match all.last_mut() {
            Some(batch) if batch.len() < limits::DIGESTS_MAX && bytes + u64::from(chunk.length) <= BATCH_BYTES => {
                bytes += u64::from(chunk.length);
                batch.push(chunk);
            }
            _ => {
                bytes = u64::from(chunk.length);
                all.push(vec![chunk]);
            }
        }
    }
    all
}

type Answer = Result<tonic::Streaming<v1::ReadChunksResponse>, tonic::Status>;

/// One question and its answer, asked at once and read when its turn comes.
struct Reader {
    connection: Connection,
    asked: Option<tokio::task::JoinHandle<Answer>>,
    stream: Option<tonic::Streaming<v1::ReadChunksResponse>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(asked) = &self.asked {
            asked.abort();
        }
    }
}

impl Reader {
    fn new(connection: Connection, attempt: &AttemptId, digests: Vec<Digest>) -> Reader {
        let request = v1::ReadChunksRequest {
            attempt: attempt.to_string(),
            digests: digests.iter().map(|d| bytes::Bytes::copy_from_slice(d.as_bytes())).collect(),
        };
        let mut client = AgentServiceClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(limits::AGENT_MESSAGE_MAX)
            .max_encoding_message_size(limits::AGENT_MESSAGE_MAX);
        let asked = tokio::spawn(async move { Ok(client.read_chunks(request).await?.into_inner()) });
        Reader { connection, asked: Some(asked), stream: None }
    }

    async fn next(&mut self) -> Result<Option<Vec<v1::ObjectPart>>, FetchError> {
        if let Some(asked) = &mut self.asked {
            let answer = unless_stalled(&self.connection, asked).await?;
            self.asked = None;
            let answer = answer.map_err(|e| FetchError::Later(format!("the question was dropped: {e}")))?;
            self.stream = Some(answer.map_err(|status| refused(&status))?);
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let message = unless_stalled(&self.connection, stream.message()).await?;
        Ok(message.map_err(|status| refused(&status))?.map(|m| m.parts))
    }
}

/// Waits as long as bytes come in.
async fn unless_stalled<T>(connection: &Connection, future: impl Future<Output = T>) -> Result<T, FetchError> {
    tokio::select! {
        done = while_bytes_come(connection.stall(), || connection.received(), future) => done,
        why = connection.closed() => Err(FetchError::Later(why)),
    }
}

/// Waits for the future, but not when in a `stall` fewer than `STALL_BYTES` were received.
async fn while_bytes_come<T>(stall: Duration, received: impl Fn() -> u64, future: impl Future<Output = T>) -> Result<T, FetchError> {
    tokio::pin!(future);
    let mut before = received();
    loop {
        tokio::select! {
            done = &mut future => return Ok(done),
            () = tokio::time::sleep(stall) => {
                let now = received();
                if now.saturating_sub(before) < STALL_BYTES {
                    return Err(FetchError::Later(format!("no bytes came for {stall:?} (limits.stall)")));
                }
                before = now;
            }
        }
    }
}

fn refused(status: &tonic::Status) -> FetchError {
    use tonic::Code::*;
    let message = || format!("the manager said: {}", status.message());
    match status.code() {
        NotFound => FetchError::Never(failure(ErrorKind::PackageUnavailable, message())),
        InvalidArgument | OutOfRange | Unimplemented => FetchError::Never(failure(ErrorKind::Transfer, message())),
        FailedPrecondition if precondition(status).as_deref() == Some(TRANSFER_SUSPENDED) => FetchError::Suspended(message()),
        // Stored bytes that are damaged (DATA_LOSS) are sent to the manager again, and then this goes on.
        _ => FetchError::Later(message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transfer_that_trickles_is_given_up_and_a_slow_one_is_not() {
        let stall = Duration::from_millis(20);
        let trickle = AtomicU64::new(0);
        // One byte at a time for ever: less than what counts as a transfer.
        let given_up = while_bytes_come(stall, || trickle.fetch_add(1, Ordering::Relaxed), std::future::pending::<()>());
        let given_up = tokio::time::timeout(Duration::from_secs(60), given_up).await.expect("it is given up");
        assert!(matches!(given_up, Err(FetchError::Later(why)) if why.contains("no bytes came")));
        let slow = AtomicU64::new(0);
        let (done, wait) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        let done = std::sync::Mutex::new(move || done.take().map(|d| d.send(())));
        let received = || {
            let bytes = slow.fetch_add(STALL_BYTES, Ordering::Relaxed);
            if bytes > 5 * STALL_BYTES {
                let _ = (done.lock().unwrap())();
            }
            bytes
        };
        assert!(while_bytes_come(stall, received, wait).await.is_ok());
    }

    #[tokio::test]
    async fn what_came_is_written_together_and_waits_for_more_only_as_long_as_more_comes() {
        let (queue, mut written) = mpsc::channel(WRITES_OPEN);
        let mut gathered = Gathered { queue, objects: Vec::new(), bytes: 0 };
        let object = |most| {
            let part = v1::ObjectPart { index: 0, encoding: v1::Encoding::Identity as i32, data: "x".into(), last: true };
            Assembler::new(vec![most]).add(part).unwrap().unwrap().1
        };
        let digest = Digest::of(b"x");
        for most in [1, WRITE_BYTES - 2] {
            gathered.add(digest, object(most)).await.unwrap();
        }
        assert!(written.try_recv().is_err(), "there is room for more");
        gathered.add(digest, object(1)).await.unwrap();
        assert_eq!(written.try_recv().unwrap().len(), 3);
        for _ in 0..WRITE_OBJECTS + 1 {
            gathered.add(digest, object(1)).await.unwrap();
        }
        assert_eq!(written.try_recv().unwrap().len(), WRITE_OBJECTS);
        gathered.hand_on().await.unwrap();
        assert_eq!(written.try_recv().unwrap().len(), 1, "it is not lost when no more comes");
        gathered.hand_on().await.unwrap();
        assert!(written.try_recv().is_err(), "nothing is no write");
        drop(written);
        gathered.add(digest, object(1)).await.unwrap();
        assert!(matches!(gathered.hand_on().await, Err(FetchError::Later(why)) if why.contains("nothing is written")));
    }

    #[test]
    fn a_question_is_bounded_in_bytes_and_in_digests() {
        let chunk = |n: u64, length| Chunk { digest: Digest::of(&n.to_le_bytes()), length };
        let large: Vec<Chunk> = (0..100).map(|n| chunk(n, limits::CHUNK_MAX as u32)).collect();
        assert!(batches(large.clone()).iter().all(|b| b.iter().map(|c| u64::from(c.length)).sum::<u64>() <= BATCH_BYTES));
        assert_eq!(batches(large.clone()).concat(), large, "nothing is left out, the order stays");
        let small: Vec<Chunk> = (0..20_000).map(|n| chunk(n, 1)).collect();
        assert_eq!(batches(small).iter().map(Vec::len).collect::<Vec<_>>(), [8192, 8192, 3616]);
    }
}
