//! The fuzzer's corpora, replayed without a fuzzer: whatever was once worth keeping is read again on every run.

use std::path::{Path, PathBuf};
use sutler_tests::hostile::{TARGETS, good};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// With `UPDATE_CORPUS` set, the good ones are written anew: after a change of a format.
#[test]
fn every_parser_takes_what_our_own_programs_write_and_survives_its_corpus() {
    for seed in good() {
        let (_, read) = TARGETS.iter().find(|(name, _)| *name == seed.target).expect("a seed is for a target");
        assert!(read(&seed.bytes), "{}/{} is refused", seed.target, seed.name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs_err::create_dir_all(corpus(seed.target)).unwrap();
            fs_err::write(corpus(seed.target).join(seed.name), &seed.bytes).unwrap();
        }
    }
    for (target, read) in TARGETS {
        let (mut taken, mut refused, mut size) = (0, 0, 0);
        for entry in fs_err::read_dir(corpus(target)).unwrap() {
            let bytes = fs_err::read(entry.unwrap().path()).unwrap();
            size += bytes.len();
            if read(&bytes) { taken += 1 } else { refused += 1 }
        }
        assert!(taken > 0 && refused > 0, "{target}: {taken} are taken, {refused} refused; UPDATE_CORPUS=1 writes good ones");
        assert!(taken + refused <= 100 && size <= 256 << 10, "{target}: {} files, {size} bytes; keep it small", taken + refused);
        // A connection for each would take long.
        if matches!(target, "frames" | "tls") {
            continue;
        }
        // Cut anywhere, and with one bit turned, a good one is still nothing to stumble over.
        for seed in good().iter().filter(|seed| seed.target == target) {
            for at in 0..seed.bytes.len().min(2048) {
                read(&seed.bytes[..at]);
                let mut turned = seed.bytes.clone();
                turned[at] ^= 1 << (at % 8);
                read(&turned);
            }
        }
    }
}
