//! What an administrator's machine reads before a package of it is made: a `.deb`, a `.rpm`, a program, an archive.

use std::io::Write as _;
use sutler::package::Wanted;
use sutler::package::source::{Source, SourceLimits};
use sutler_base::Timestamp;

/// Good ones, made by the tools that make them.
pub const GOOD: [(&str, &[u8]); 4] = [
    ("deb", include_bytes!("../../fuzz/corpus/source/deb")),
    ("rpm", include_bytes!("../../fuzz/corpus/source/rpm")),
    ("program", include_bytes!("../../fuzz/corpus/source/program")),
    ("archive", include_bytes!("../../fuzz/corpus/source/archive")),
];

/// Narrow bounds, so that what is long enough to reach them is found soon.
const BOUNDS: SourceLimits = SourceLimits { entries: 100, unpacked: 1 << 20, ratio: 50, ratio_from: 64 << 10, depth: 8 };

/// A file from anywhere, and the package that is made of it.
pub fn source(bytes: &[u8]) -> bool {
    let mut file = tempfile::NamedTempFile::new().expect("a file can be made");
    file.write_all(bytes).expect("a file can be written");
    let wanted = Wanted { name: "tool".parse().ok(), version: "1".parse().ok(), ..Wanted::default() };
    let built = Source::open_within(file.path(), &wanted, &BOUNDS).and_then(|source| {
        assert!(!source.notes.iter().any(|note| note.chars().any(sutler_base::is_harmful)), "{:?}", source.notes);
        source.build(Timestamp::UNIX_EPOCH, &mut |_| {})
    });
    match built {
        Ok(built) => {
            built.manifest.check().expect("what is built keeps the rules");
            true
        }
        Err(e) => {
            let text = e.to_string();
            assert!(text.len() < 8 << 10 && !text.chars().any(|c| c != '\n' && sutler_base::is_harmful(c)), "{text:?}");
            false
        }
    }
}
