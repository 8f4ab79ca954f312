//! Counts the frames of a connection that carry nothing, and ends one that sends too many of them.
//!
//! Every such frame (PING, SETTINGS, RST_STREAM, empty DATA …) costs the manager more than its sender, and most of them an answer.
//! HTTP/2 has no bound for them. The headers of frames are read as they pass by, decrypted and not yet understood; what is in
//! the frames is skipped.

use std::{io, time::Duration};
use tokio::time::Instant;

/// The length of a frame's header (bytes).
const HEADER: usize = 9;
/// Over which time frames are counted.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// A receiver that keeps up sends one of these for every few kilobytes that it got: they count less.
const WINDOW_UPDATE_COST: u64 = 1;
const COST: u64 = 10;

/// The count of one connection.
#[derive(Debug)]
pub(crate) struct Frames {
    most: u64,
    spent: u64,
    since: Instant,
    header: [u8; HEADER],
    have: usize,
    skip: usize,
}

impl Frames {
    /// A connection that may send `most` frames that carry nothing in ten seconds.
    pub(crate) fn new(most: u32) -> Frames {
        Frames { most: u64::from(most) * COST, spent: 0, since: Instant::now(), header: [0; HEADER], have: 0, skip: 0 }
    }

    /// What was received next; an error if that were too many.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let part = self.skip.min(bytes.len());
                self.skip -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            if self.have == HEADER {
                self.have = 0;
                self.skip = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]) as usize;
                self.count()?;
            }
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        const END_STREAM: u8 = 1;
        let (kind, flags) = (self.header[3], self.header[4]);
        self.spent += match kind {
            0 if self.skip > 0 || flags & END_STREAM != 0 => 0,
            1 => 0,
            8 => WINDOW_UPDATE_COST,
            _ => COST,
        };
        if self.spent <= self.most {
            return Ok(());
        }
        let now = Instant::now();
        if now.duration_since(self.since) < WINDOW {
            return Err(io::Error::other(FLOOD));
        }
        (self.spent, self.since) = (0, now);
        Ok(())
    }
}

/// How a connection ends that sent more frames that carry nothing than it may.
pub(crate) const FLOOD: &str = "it sent too many frames that carry nothing (net.control_frames)";

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_that_carry_nothing_are_counted_however_they_are_cut_up() {
        for (kind, flags, payload, counted) in [
            (0, 0, &b"data"[..], false),
            (0, 0, b"", true),
            (0, 1, b"", false),
            (1, 4, b"headers", false),
            (2, 0, b"12345", true),
            (3, 0, b"1234", true),
            (4, 0, b"", true),
            (6, 0, b"12345678", true),
            (9, 0, b"1", true),
            (77, 0, b"", true),
        ] {
            for cut in [1, 2, 7, 1000] {
                let mut frames = Frames::new(10);
                let bytes = frame(kind, flags, payload).repeat(11);
                let passed = bytes.chunks(cut).try_for_each(|part| frames.pass(part));
                assert_eq!(passed.is_err(), counted, "kind {kind}, in parts of {cut}");
            }
        }
        let mut frames = Frames::new(10);
        frames.pass(&frame(8, 0, b"1234").repeat(100)).unwrap();
        assert!(frames.pass(&frame(8, 0, b"1234")).is_err(), "of these it may send ten times as many");
    }

    #[test]
    fn who_sends_them_slowly_may_go_on() {
        let mut frames = Frames::new(10);
        for _ in 0..10 {
            frames.pass(&frame(6, 0, b"12345678").repeat(10)).unwrap();
            frames.since -= WINDOW;
        }
        frames.pass(&frame(6, 0, b"12345678").repeat(10)).unwrap();
        assert!(frames.pass(&frame(6, 0, b"12345678").repeat(11)).is_err());
    }
}
