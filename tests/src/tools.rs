//! Finds the programs that tests use and a machine may lack, and says what was skipped without them.
//!
//! A newcomer's machine has a Rust toolchain and little else: a test that needs more says that it was skipped, and how to
//! get what it needs. `.ci/run` installs everything and sets `SUTLER_REQUIRE_TOOLS=1`: then nothing may be skipped.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The folder that `.ci/run` installs into: `$SUTLER_TOOLS`, or `target/ci-tools` of this repository. May not exist.
pub fn folder() -> PathBuf {
    match std::env::var_os("SUTLER_TOOLS") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ci-tools"),
    }
}

/// The program `name`: from the [`folder`] of tools, from `PATH`, or from where Debian hides PostgreSQL's.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = folder();
    [tools.join("bin"), tools]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(postgres_folders())
        // Not on everybody's PATH.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// The Debian packages that `.ci/run` downloaded to unpack in tests (ClamAV and what it needs), in a fixed order; nothing if
/// it didn't. They are unpacked with `dpkg-deb -x FILE ROOT`; `ROOT/usr/bin/clamscan` then needs
/// `LD_LIBRARY_PATH=ROOT/usr/lib/x86_64-linux-gnu`.
pub fn debian_packages() -> Option<Vec<PathBuf>> {
    let folder = folder().join("debs");
    if !folder.join("complete").exists() {
        return None;
    }
    let files = fs_err::read_dir(&folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut debs: Vec<PathBuf> = files.filter(|file| file.extension() == Some(OsStr::new("deb"))).collect();
    debs.sort();
    (!debs.is_empty()).then_some(debs)
}

/// Two neighbouring versions of one Debian package that `.ci/run` downloaded, the older first; nothing if it didn't.
pub fn two_versions() -> Option<[PathBuf; 2]> {
    let folder = folder().join("upgrade");
    if !folder.join("complete").exists() {
        return None;
    }
    let only = |name: &str| Some(fs_err::read_dir(folder.join(name)).ok()?.next()?.ok()?.path());
    Some([only("old")?, only("new")?])
}

/// Whether a test has to be skipped because `tool` isn't there: `if skip_without("grpcurl") { return; }`. Says so, with how
/// to get it. `clamav` stands for [`debian_packages`], `upgrade` for [`two_versions`].
///
/// # Panics
///
/// When it isn't there and `SUTLER_REQUIRE_TOOLS=1`: where everything was installed, a skipped test is a failed one.
pub fn skip_without(tool: &str) -> bool {
    let found = match tool {
        "clamav" => debian_packages().is_some() && self::tool("dpkg-deb").is_some(),
        "upgrade" => two_versions().is_some() && self::tool("dpkg").is_some() && self::tool("dpkg-deb").is_some(),
        "postgres" => self::tool("initdb").is_some() && self::tool("postgres").is_some(),
        name => self::tool(name).is_some(),
    };
    !found && skip(&format!("needs {tool}: {}", how_to_get(tool)))
}

/// Skips a test for `reason`: prints it and returns true.
///
/// # Panics
///
/// When `SUTLER_REQUIRE_TOOLS=1`.
pub fn skip(reason: &str) -> bool {
    if std::env::var("SUTLER_REQUIRE_TOOLS").is_ok_and(|value| value == "1") {
        panic!("SUTLER_REQUIRE_TOOLS=1 forbids to skip: {reason}");
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test runner's capture, which would swallow it for a test that passes.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{test} skipped: {reason}");
    true
}

fn how_to_get(tool: &str) -> &'static str {
    match tool {
        "grpcurl" | "buf" | "clamav" | "upgrade" => "run `.ci/run --tools`",
        "ip" | "tc" | "ss" => "`apt-get install iproute2`",
        "rpm" | "rpmbuild" => "`apt-get install rpm`",
        "nft" => "`apt-get install nftables`",
        "initdb" | "postgres" => "run `.ci/run --tools`, or `apt-get install postgresql`",
        _ => "install it and have it on PATH",
    }
}

/// Debian keeps `initdb` and `postgres` out of `PATH`: a folder for each version, the newest first.
fn postgres_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    folders.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

fn is_program(file: &Path) -> bool {
    fs_err::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_the_path_is_found_and_an_unknown_one_is_not() {
        assert!(is_program(&tool("sh").unwrap()));
        assert_eq!(tool("no-such-program"), None);
        // A folder or a file that can't be run is no program.
        assert!(!is_program(Path::new("/usr")));
        assert!(!is_program(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")));
    }
}
