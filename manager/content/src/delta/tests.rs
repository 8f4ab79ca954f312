//! Deltas between versions that are stored, applied as an agent does.

use super::*;
use crate::samples::package;
use std::io::Read;

/// Bytes that look like a program: words that recur, and addresses between them.
fn program(seed: u64, length: usize, base: u32) -> Vec<u8> {
    let mut words = vec![0; 1 << 16];
    blake3::Hasher::new().update(b"words").finalize_xof().fill(&mut words);
    let mut order = vec![0; length / 16 * 2 + 2];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut order);
    let mut out = Vec::with_capacity(length + 16);
    for (n, pair) in order.chunks_exact(2).enumerate() {
        let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])).min(words.len() - 12);
        out.extend_from_slice(&words[at..at + 12]);
        // Every address moves with where the program lies.
        out.extend_from_slice(&(base + n as u32 * 16).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// What a machine that has `old` makes of the delta: each file that came out of it, by its number.
async fn applied(content: &Content, delta: &Delta, from: Digest, old: &[(&str, Vec<u8>)]) -> BTreeMap<u32, Vec<u8>> {
    let manifest = content.get(from, Kind::Document).await.unwrap();
    let mut old: Vec<_> = old.to_vec();
    old.sort_by_key(|(path, _)| (*path).to_owned());
    let mut made: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for unit in &delta.units {
        let mut reference = Vec::new();
        for piece in &unit.old {
            let file = if piece.file == 0 { &manifest[..] } else { &old[piece.file as usize - 1].1 };
            reference.extend_from_slice(&file[piece.offset as usize..][..piece.length as usize]);
        }
        let frame = content.get(unit.frame, Kind::Document).await.unwrap();
        assert_eq!(frame.len(), unit.length as usize);
        let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(&frame[..], &reference).unwrap();
        decoder.window_log_max(WINDOW_LOG).unwrap();
        for piece in &unit.new {
            let file = made.entry(piece.file).or_default();
            assert_eq!(file.len() as u64, piece.offset, "pieces come in order");
            let before = file.len();
            decoder.by_ref().take(u64::from(piece.length)).read_to_end(file).unwrap();
            assert_eq!(file.len() - before, piece.length as usize);
        }
        assert_eq!(decoder.read(&mut [0]).unwrap(), 0, "a frame has what its pieces take, and no more");
    }
    made
}

#[tokio::test]
async fn a_delta_makes_the_new_version_of_the_old_one_in_a_fraction_of_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open_folder(dir.path()).unwrap();
    let large = program(1, 14 << 20, 0x40_0000);
    let mut linked_anew = program(1, 14 << 20, 0x40_1000);
    linked_anew.splice(3_000_000..3_000_000, program(7, 70_000, 0));
    let same = program(2, 300_000, 0);
    let text = |word: &str| format!("{word}\n").repeat(2000).into_bytes();
    let old = [
        ("bin/tool", large),
        ("lib/libx.so.1.2", program(3, 500_000, 0)),
        ("share/same", same.clone()),
        ("share/a.txt", text("one")),
        ("share/gone", program(4, 5000, 0)),
        ("empty", vec![]),
    ];
    let new = [
        ("bin/tool", linked_anew),
        ("lib/libx.so.1.3", program(3, 500_000, 64)),
        ("share/moved/same", same),
        ("share/a.txt", text("two")),
        ("share/new", program(5, 5000, 0)),
        ("share/new-too", program(5, 5000, 0)),
        ("empty", vec![]),
    ];
    let (from, to) = (package(&content, "1", &old).await, package(&content, "2", &new).await);
    let made = content.make_delta(from, to).await.unwrap().unwrap();
    let delta = content.delta(made.digest).await.unwrap();

    let came = applied(&content, &delta, from, &old).await;
    assert_eq!(Digest::of(&came[&0]), to, "the manifest itself");
    let manifest = Manifest::parse(&came[&0]).unwrap();
    let have: HashSet<Digest> =
        old.iter().map(|(_, bytes)| Digest::of(bytes)).chain(came.values().map(|bytes| Digest::of(bytes))).collect();
    assert!(contents(&manifest).all(|content| have.contains(&content)), "every file is there or came");
    let files = new.len() - 2 /* same and empty */ - 1 /* the second of two that are alike */;
    assert_eq!(came.len(), files + 1);

    let chunks = content.bytes_beside(to, from).await.unwrap();
    assert!(made.bytes < chunks / 4, "{} bytes, and {chunks} of chunks", made.bytes);
    assert!(made.bytes >= delta.frames() && delta.units.len() >= 4);
    for unit in &delta.units {
        let sum = |pieces: &[Piece]| pieces.iter().map(|piece| piece.length as usize).sum::<usize>();
        assert!(sum(&unit.old) <= REFERENCE_MAX && sum(&unit.new) <= OUTPUT_MAX);
    }
}

#[tokio::test]
async fn what_has_no_counterpart_is_in_the_delta_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open_folder(dir.path()).unwrap();
    let new = [("a", program(1, 5 << 20, 0)), ("b", program(2, 10, 0))];
    let (from, to) = (package(&content, "1", &[] as &[(&str, Vec<u8>)]).await, package(&content, "2", &new).await);
    let made = content.make_delta(from, to).await.unwrap().unwrap();
    let delta = content.delta(made.digest).await.unwrap();
    let came = applied(&content, &delta, from, &[]).await;
    assert_eq!((&came[&1], &came[&2]), (&new[0].1, &new[1].1));
}

#[tokio::test]
async fn a_delta_stays_with_its_frames_as_long_as_it_is_live_and_one_that_is_lost_says_so() {
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open_folder(dir.path()).unwrap();
    let from = package(&content, "1", &[("a", program(1, 9 << 20, 0))]).await;
    let to = package(&content, "2", &[("a", program(1, 9 << 20, 16))]).await;
    let made = content.make_delta(from, to).await.unwrap().unwrap();
    let delta = content.delta(made.digest).await.unwrap();
    assert!(delta.units.len() > 2);
    let kept = content.collect([from, to], [made.digest], Duration::ZERO).await.unwrap();
    assert_eq!((kept.removed, kept.lost), (0, vec![]));
    for unit in &delta.units {
        content.get(unit.frame, Kind::Document).await.unwrap();
    }

    let missing = Digest::of(b"lost");
    let lost = content.collect([from, to], [missing, to, made.digest], Duration::ZERO).await.unwrap();
    assert_eq!((lost.removed, lost.lost), (0, vec![missing, to]), "what is no delta keeps nothing, and stops nothing");
    content.mark_damaged([delta.units[1].frame]);
    let damaged = content.collect([from, to], [made.digest], Duration::from_secs(3600)).await.unwrap();
    assert_eq!((damaged.removed, damaged.lost), (0, vec![made.digest]));
    assert_eq!(content.make_delta(from, to).await.unwrap(), Some(made), "made again it is whole");
    assert_eq!(content.collect([from, to], [made.digest], Duration::ZERO).await.unwrap().lost, []);

    let gone = content.collect([from, to], [], Duration::ZERO).await.unwrap();
    assert_eq!(gone.removed, delta.units.len() as u64 + 1);
    assert!(matches!(content.delta(made.digest).await, Err(Error::Missing(_))));
    for version in [from, to] {
        assert_eq!(content.verify_complete(version).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_version_that_is_damaged_makes_no_delta() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::open_folder(dir.path()).unwrap();
    let (from, to) = (package(&content, "1", &[("a", program(1, 1000, 0))]).await, Digest::of(b"lost"));
    assert!(matches!(content.make_delta(from, to).await, Err(Error::Missing(digest)) if digest == to));
    assert!(matches!(content.delta(from).await, Err(Error::NotADelta { .. })));
}

#[test]
fn content_is_looked_for_where_it_was() {
    let chunk = |n: u8, length| Chunk { digest: Digest([n; 32]), length };
    let source =
        |chunks: &[Chunk]| Source { number: 1, size: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(), chunks: chunks.into() };
    let old = source(&[chunk(1, 100), chunk(2, 100), chunk(3, 100), chunk(9, 50), chunk(9, 50)]);
    let new = source(&[chunk(7, 1000), chunk(1, 100), chunk(8, 100), chunk(3, 100), chunk(9, 50)]);
    let anchors = Anchors::of(&old, &new);
    assert_eq!(anchors.known, [(1000, 0), (1200, 200)]);
    assert_eq!(anchors.place(1150), 150);
    assert_eq!(anchors.place(1210), 213);
    assert_eq!(anchors.place(0), 0);
}
