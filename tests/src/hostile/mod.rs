//! Every place where bytes from outside are read, as a function of those bytes.
//!
//! `tests/fuzz` fuzzes them (its README says how, and what came of it); a test replays the corpora that are kept there through the
//! same functions, with no fuzzer at all. A function that returns has found nothing; whatever else it does is a finding.

pub mod frames;
pub mod package;
pub mod parsers;
pub mod seeds;
pub mod source;

/// A target of the fuzzer: its name, which is its corpus' too, and the function. It says whether the bytes were accepted.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("condition", parsers::condition),
    ("csr", parsers::csr),
    ("envelope", parsers::envelope),
    ("frames", frames::frames),
    ("journal", parsers::journal),
    ("manifest", parsers::manifest),
    ("package", package::package),
    ("revocations", parsers::revocations),
    ("source", source::source),
    ("tls", frames::tls),
    ("token", parsers::token),
    ("trust", parsers::trust),
];

/// A good input for every target.
pub fn good() -> Vec<seeds::Seed> {
    let mut seeds = seeds::seeds();
    seeds.extend(package::GOOD.map(|(name, text)| seeds::Seed { target: "package", name, bytes: text.into() }));
    seeds.extend(source::GOOD.map(|(name, bytes)| seeds::Seed { target: "source", name, bytes: bytes.into() }));
    seeds.extend(frames::good().map(|(target, name, bytes)| seeds::Seed { target, name, bytes }));
    seeds
}
