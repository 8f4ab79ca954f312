//! dpkg's list of packages: a file of paragraphs, which is read and not asked for, since that takes no program and no lock.

use super::{LIST_MAX, PACKAGES_MAX, PROVIDES_MAX};
use crate::platform::{InstalledPackage, Manager, PlatformError, Provided};
use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// The longest line (bytes). The longest that Debian has are some kilobytes of dependencies.
const LINE_MAX: u64 = 1 << 20;

/// Where dpkg keeps what it knows.
pub(super) fn folder(root: &Path) -> PathBuf {
    root.join("var/lib/dpkg")
}

pub(super) fn status_file(root: &Path) -> PathBuf {
    folder(root).join("status")
}

/// What dpkg has installed below the root; none if it has no list there.
pub(super) fn packages(root: &Path) -> Result<Option<Vec<InstalledPackage>>, PlatformError> {
    let path = status_file(root);
    match File::open(&path) {
        Ok(file) => parse(BufReader::new(file.take(LIST_MAX as u64 + 1)), &path).map(Some),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(PlatformError::File { doing: "read", path, source }),
    }
}

/// One paragraph of the file, as far as it is of interest.
#[derive(Default)]
struct Paragraph {
    name: String,
    status: String,
    version: String,
    architecture: String,
    provides: String,
}

impl Paragraph {
    /// Whether the package is there and works: `WANTED ok installed`, or one whose triggers have yet to run.
    fn is_installed(&self) -> bool {
        let words: Vec<&str> = self.status.split_ascii_whitespace().collect();
        matches!(words[..], [_, "ok", "installed" | "triggers-pending" | "triggers-awaited"])
    }
}

fn parse(mut file: impl BufRead, path: &Path) -> Result<Vec<InstalledPackage>, PlatformError> {
    let refuse = |why: String| PlatformError::List { manager: Manager::Dpkg, path: path.into(), why };
    let (mut all, mut provided, mut total) = (Vec::new(), 0, 0);
    let (mut now, mut line) = (Paragraph::default(), Vec::new());
    loop {
        line.clear();
        let read = (&mut file).take(LINE_MAX).read_until(b'\n', &mut line);
        let read = read.map_err(|source| PlatformError::File { doing: "read", path: path.into(), source })?;
        total += read;
        if total > LIST_MAX {
            return Err(refuse(format!("it has more than {LIST_MAX} bytes")));
        }
        if read as u64 == LINE_MAX {
            return Err(refuse(format!("a line has more than {LINE_MAX} bytes")));
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            let ended = std::mem::take(&mut now);
            if ended.is_installed() && !ended.name.is_empty() {
                let provides = provides(&ended.provides);
                provided += provides.len();
                let Paragraph { name, version, architecture, .. } = ended;
                all.push(InstalledPackage { manager: Manager::Dpkg, name, version, architecture, provides });
            }
            if all.len() > PACKAGES_MAX || provided > PROVIDES_MAX {
                return Err(refuse(format!("it has more than {PACKAGES_MAX} packages, or they provide more than {PROVIDES_MAX} names")));
            }
            if read == 0 {
                return Ok(all);
            }
            continue;
        }
        // What goes on with a space is text for people, or a list of files.
        let Some((field, value)) = text.iter().position(|b| *b == b':').map(|at| (&text[..at], &text[at + 1..])) else { continue };
        let into = match field {
            b"Package" => &mut now.name,
            b"Status" => &mut now.status,
            b"Version" => &mut now.version,
            b"Architecture" => &mut now.architecture,
            b"Provides" => &mut now.provides,
            _ => continue,
        };
        *into = String::from_utf8_lossy(value.trim_ascii()).into_owned();
    }
}

/// `name, name (= version), name:arch (= version)`
fn provides(list: &str) -> Vec<Provided> {
    let one = |text: &str| {
        let (name, rest) = text.split_once('(').unwrap_or((text, ""));
        // An architecture behind the name says for which of them it counts.
        let name = name.trim().split(':').next().unwrap_or_default().to_owned();
        let version = rest.trim_end().strip_suffix(')').map(|v| v.trim_start_matches(['=', '<', '>', ' ']).trim().to_owned());
        (!name.is_empty()).then_some(Provided { name, version: version.filter(|v| !v.is_empty()) })
    };
    list.split(',').filter_map(|text| one(text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian 12 writes it.
    const STATUS: &str = "\
Package: mawk
Status: install ok installed
Priority: required
Section: interpreters
Installed-Size: 242
Maintainer: Boyuan Yang <byang@debian.org>
Architecture: amd64
Multi-Arch: foreign
Version: 1.3.4.20200120-3.1
Provides: awk
Pre-Depends: libc6 (>= 2.33)
Description: Pattern scanning and text processing language
 Mawk is an interpreter for the AWK Programming Language.
 Version: 9 is not a field here.
Homepage: https://invisible-island.net/mawk/

Package: apt
Status: hold ok installed
Architecture: amd64
Version: 2.6.1
Provides: apt-transport-https (= 2.6.1), libfoo:amd64 (= 1:2-3)
Conffiles:
 /etc/apt/apt.conf.d/01autoremove ab6540f7278a05a4b7f9e58afcaa5f46

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1-1

Package: half
Status: install reinstreq half-installed
Version: 1

Package: waits
Status: install ok triggers-pending
Architecture: all
Version: 2:3.0~rc1-1
";

    fn read(text: &str) -> Result<Vec<InstalledPackage>, PlatformError> {
        parse(text.as_bytes(), Path::new("/var/lib/dpkg/status"))
    }

    #[test]
    fn only_what_is_installed_counts_with_its_version_architecture_and_what_it_provides() {
        let all = read(STATUS).unwrap();
        let shown: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.architecture.as_str())).collect();
        assert_eq!(shown, [("mawk", "1.3.4.20200120-3.1", "amd64"), ("apt", "2.6.1", "amd64"), ("waits", "2:3.0~rc1-1", "all")]);
        let provided = |name: &str, version: Option<&str>| Provided { name: name.into(), version: version.map(Into::into) };
        assert_eq!(all[0].provides, [provided("awk", None)]);
        assert_eq!(all[1].provides, [provided("apt-transport-https", Some("2.6.1")), provided("libfoo", Some("1:2-3"))]);
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("no field\n\n:\n: x\nPackage:\nStatus: install ok installed\n").unwrap(), []);
    }

    #[test]
    fn a_list_that_is_no_list_is_refused_with_its_place_in_bounded_memory() {
        let error = read(&format!("Package: {}", "x".repeat(2 << 20))).unwrap_err().to_string();
        assert!(error.contains("dpkg's packages in /var/lib/dpkg/status") && error.contains("a line has more"), "{error}");
        let long = format!("Description: {}\n", "x".repeat(512 << 10)).repeat(129);
        assert!(read(&long).unwrap_err().to_string().contains("it has more than"));
        let many = "Package: a\nStatus: install ok installed\n\n".repeat(PACKAGES_MAX + 1);
        assert!(read(&many).unwrap_err().to_string().contains("packages"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(status_file(folder.path())).unwrap();
        let error = packages(folder.path()).unwrap_err().to_string();
        assert!(error.contains("can't read") && error.contains("dpkg/status"), "{error}");
    }

    #[test]
    fn this_machines_own_list_is_the_one_that_dpkg_itself_shows() {
        let format = "-f=${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n";
        let Ok(asked) = std::process::Command::new("dpkg-query").args(["-W", format]).output() else { return };
        let mut theirs: Vec<String> = String::from_utf8(asked.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(status, _)| status.get(1..3) == Some("i "))
            .map(|(_, rest)| rest.to_owned())
            .collect();
        let ours = packages(Path::new("/")).unwrap().unwrap();
        let mut ours: Vec<String> = ours.iter().map(|p| format!("{}\t{}\t{}", p.name, p.version, p.architecture)).collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
    }
}
