//! The publisher's `package.toml`, as the administrator's program reads it.

use std::path::Path;
use sutler::package::{EXAMPLE, definition::MINIMAL};

/// Good ones.
pub const GOOD: [(&str, &str); 2] = [("example", EXAMPLE), ("minimal", MINIMAL)];

/// A `package.toml`, and the manifest that comes of it.
pub fn package(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match sutler::package::Definition::parse(Path::new("package.toml"), text) {
        Ok(definition) => {
            assert!(definition.steps.iter().all(|s| !s.argv.is_empty()) && definition.steps.len() <= sutler_base::limits::STEPS_MAX);
            true
        }
        Err(e) => {
            let text = e.to_string();
            assert!(!text.chars().any(|c| c != '\n' && sutler_base::is_harmful(c)), "an error that is not escaped: {text:?}");
            false
        }
    }
}
