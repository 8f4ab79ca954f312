//! rpm's list of packages, from the program `rpm`.

use super::{LIST_MAX, PACKAGES_MAX, PROVIDES_MAX, question};
use crate::platform::{InstalledPackage, Manager, PlatformError, Provided};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the program may take: a machine with thousands of packages and a slow disk needs seconds.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the program is looked for.
const PROGRAMS: [&str; 3] = ["/usr/bin/rpm", "/bin/rpm", "/usr/local/bin/rpm"];
/// Where databases are, below the root.
const FOLDERS: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];
/// What a database is, in each of its formats.
const FILES: [&str; 3] = ["rpmdb.sqlite", "Packages.db", "Packages"];
/// A line that begins with `P` for each package, and one with `p` for each name that it provides.
const FORMAT: &str = "P\\t%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\n[p\\t%{PROVIDENAME}\\t%{PROVIDEVERSION}\\n]";

/// The files that tell whether the list has changed.
pub(super) fn database_files(root: &Path) -> Vec<PathBuf> {
    // Of SQLite's, the newest changes are in the log beside it.
    let names = FILES.iter().copied().chain(["rpmdb.sqlite-wal"]);
    let all = FOLDERS.iter().flat_map(|folder| names.clone().map(move |name| root.join(folder).join(name)));
    all.filter(|path| path.is_file()).collect()
}

/// What rpm has installed below the root; none if it has no database there.
pub(super) fn packages(root: &Path) -> Result<Option<Vec<InstalledPackage>>, PlatformError> {
    let databases = FOLDERS.iter().flat_map(|folder| FILES.iter().map(move |file| (folder, root.join(folder).join(file))));
    let Some((folder, database)) = databases.into_iter().find(|(_, path)| path.is_file()) else { return Ok(None) };
    let Some(program) = PROGRAMS.iter().map(Path::new).find(|program| program.is_file()) else {
        return Err(PlatformError::NoProgram { manager: Manager::Rpm, path: database, program: "rpm", places: PROGRAMS.join(", ") });
    };
    let refuse = |why: String| PlatformError::List { manager: Manager::Rpm, path: database.clone(), why };
    let at = root.to_str().ok_or_else(|| refuse("the path of its root is no text".into()))?;
    // Named, since the program of another distribution looks elsewhere unless it is told.
    let folder = format!("/{folder}");
    let mut arguments = vec!["-qa", "--queryformat", FORMAT, "--dbpath", &folder];
    if root != Path::new("/") {
        arguments.extend(["--root", at]);
    }
    let said = question::ask(program, &arguments, LIMIT, LIST_MAX)?;
    if said.code != 0 {
        return Err(refuse(format!("{} -qa ended with exit code {}: {}", program.display(), said.code, said.errors)));
    }
    parse(&String::from_utf8_lossy(&said.output)).map(Some).map_err(refuse)
}

fn parse(list: &str) -> Result<Vec<InstalledPackage>, String> {
    let (mut all, mut provided) = (Vec::<InstalledPackage>::new(), 0);
    // How rpm writes what isn't there.
    let given = |text: &str| if text == "(none)" { String::new() } else { text.to_owned() };
    let mut of_a_key = false;
    for line in list.lines() {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["P", name, version, architecture] => {
                // The keys that packages are checked with stand in the list as if they were packages.
                of_a_key = name == "gpg-pubkey";
                if !of_a_key {
                    let (name, version, architecture) = (name.to_owned(), version.to_owned(), given(architecture));
                    all.push(InstalledPackage { manager: Manager::Rpm, name, version, architecture, provides: vec![] });
                }
            }
            ["p", name, version] => {
                if let Some(package) = all.last_mut().filter(|_| !of_a_key && !given(name).is_empty()) {
                    provided += 1;
                    package.provides.push(Provided { name: name.into(), version: Some(given(version)).filter(|v| !v.is_empty()) });
                }
            }
            _ => return Err(format!("rpm said {}", sutler_base::quoted(line))),
        }
        if all.len() > PACKAGES_MAX || provided > PROVIDES_MAX {
            return Err(format!("it has more than {PACKAGES_MAX} packages, or they provide more than {PROVIDES_MAX} names"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    #[test]
    fn packages_have_their_epoch_and_what_they_provide_and_keys_are_none() {
        let all = parse(
            "P\tbash\t5.2.15-3.fc38\tx86_64\np\t/bin/sh\t(none)\np\tbash\t5.2.15-3.fc38\np\tconfig(bash)\t\n\
             P\tgpg-pubkey\teb10b464-6202d9c6\t(none)\np\tgpg(Fedora)\t4:eb10\nP\tbind-libs\t32:9.18.19-1.fc38\tx86_64\n",
        )
        .unwrap();
        let shown: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.architecture.as_str())).collect();
        assert_eq!(shown, [("bash", "5.2.15-3.fc38", "x86_64"), ("bind-libs", "32:9.18.19-1.fc38", "x86_64")]);
        let provided: Vec<_> = all[0].provides.iter().map(|p| (p.name.as_str(), p.version.as_deref())).collect();
        assert_eq!(provided, [("/bin/sh", None), ("bash", Some("5.2.15-3.fc38")), ("config(bash)", None)]);
        assert!(parse("error: no database\n").unwrap_err().contains("no database"));
    }

    /// Builds a package with the real program and installs it into a root of its own, if rpm is on this machine.
    #[test]
    fn the_real_program_tells_what_the_real_program_installed() {
        if !Path::new(PROGRAMS[0]).is_file() || !Path::new("/usr/bin/rpmbuild").is_file() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let spec = "Name: tool\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: x\nBuildArch: noarch\n\
                    Provides: gadget = 7, widget\n%description\nx\n%files\n";
        fs::write(at("tool.spec"), spec).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(arguments).env("HOME", folder.path()).output().unwrap();
            assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        let top = format!("_topdir {}", at("build").display());
        run("rpmbuild", &["-bb", "--define", &top, at("tool.spec").to_str().unwrap()]);
        let root = at("root");
        fs::create_dir(&root).unwrap();
        let root_text = root.to_str().unwrap();
        let database = ["--root", root_text, "--dbpath", "/var/lib/rpm"];
        run("rpm", &[&database[..], &["--initdb"]].concat());
        assert_eq!(packages(&root).unwrap(), Some(vec![]), "it is there and has nothing");
        let package = at("build/RPMS/noarch/tool-1.2-3.noarch.rpm");
        run("rpm", &[&database[..], &["-i", "--nodeps", "--force-debian", package.to_str().unwrap()]].concat());
        let all = packages(&root).unwrap().unwrap();
        assert_eq!((all.len(), all[0].version.as_str(), all[0].architecture.as_str()), (1, "4:1.2-3", "noarch"));
        let provided = |name: &str, version: Option<&str>| Provided { name: name.into(), version: version.map(Into::into) };
        for expected in [provided("gadget", Some("7")), provided("widget", None), provided("tool", Some("4:1.2-3"))] {
            assert!(all[0].provides.contains(&expected), "{:?}", all[0].provides);
        }
    }
}
