//! This machine, as it answers for a package's requirements and detection rules.

use super::{
    Reserve,
    layout::{Layout, room},
};
use crate::platform::{self, Packages};
use std::{cell::OnceCell, path::Path};
use sutler_base::{
    facts::Facts,
    manifest::{
        Present,
        requirement::{Found, Machine, Manager},
    },
    path::InstallPath,
    version::Ordering,
};

/// The machine at this moment. What takes time to find out is found out once, when it is first asked.
pub struct Host<'a> {
    layout: &'a Layout,
    reserve: Reserve,
    directory: Option<&'a InstallPath>,
    own: &'a [Present],
    measure: Box<dyn Fn() -> Result<Facts, String> + 'a>,
    facts: OnceCell<Result<Facts, String>>,
    packages: OnceCell<Result<Packages, String>>,
}

impl<'a> Host<'a> {
    /// The machine below `layout`'s root, for a package that is or will be at `directory`; `own` is what the agent installed,
    /// `measure` takes the facts.
    pub fn new(
        layout: &'a Layout,
        reserve: Reserve,
        directory: Option<&'a InstallPath>,
        own: &'a [Present],
        measure: impl Fn() -> Result<Facts, String> + 'a,
    ) -> Host<'a> {
        Host { layout, reserve, directory, own, measure: Box::new(measure), facts: OnceCell::new(), packages: OnceCell::new() }
    }

    fn facts(&self) -> Result<&Facts, String> {
        self.facts.get_or_init(|| (self.measure)()).as_ref().map_err(Clone::clone)
    }

    fn packages(&self) -> Result<&Packages, String> {
        let read = || platform::packages(self.layout.root()).map_err(|e| e.to_string());
        self.packages.get_or_init(read).as_ref().map_err(Clone::clone)
    }
}

/// The list of the machine that this manager keeps; none for Sutler's own.
pub(super) fn on_platform(manager: Manager) -> Option<(platform::Manager, Ordering)> {
    match manager {
        Manager::Dpkg => Some((platform::Manager::Dpkg, Ordering::Dpkg)),
        Manager::Rpm => Some((platform::Manager::Rpm, Ordering::Rpm)),
        Manager::Sutler => None,
    }
}

impl Machine for Host<'_> {
    fn os(&self) -> Result<(String, String), String> {
        self.facts().map(|f| (f.os.id.clone(), f.os.version.clone()))
    }

    fn arch(&self) -> Result<String, String> {
        self.facts().map(|f| f.arch.clone())
    }

    fn memory(&self) -> Result<u64, String> {
        self.facts().map(|f| f.memory.total_bytes)
    }

    fn free_disk(&self, path: Option<&InstallPath>) -> Result<u64, String> {
        let wanted = match path.or(self.directory) {
            Some(path) => self.layout.root().join(path.below_root()),
            None => self.layout.state().to_owned(),
        };
        // Where it will be made: on the disk of the first folder above it that is there.
        let there = wanted.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let free = room(there).map_err(|e| e.to_string())?;
        Ok(free.saturating_sub(self.reserve.bytes))
    }

    fn has(&self, manager: Manager) -> Result<bool, String> {
        match on_platform(manager) {
            Some((manager, _)) => self.packages().map(|all| all.has(manager)),
            None => Ok(true),
        }
    }

    fn installed(&self, manager: Manager, name: &str) -> Result<Vec<Found>, String> {
        let Some((manager, ordering)) = on_platform(manager) else {
            return Ok(self.own.iter().filter_map(|own| own.found_as(name)).collect());
        };
        let mut found = Vec::new();
        for package in self.packages()?.installed.iter().filter(|p| p.manager == manager) {
            if package.name == name {
                found.push(Found::itself(Some(package.version.clone()), ordering));
            }
            let provided = package.provides.iter().filter(|p| p.name == name);
            found.extend(provided.map(|p| Found::itself(p.version.clone(), ordering)));
        }
        Ok(found)
    }

    fn fact(&self, path: &str) -> Result<Option<serde_json::Value>, String> {
        // The names of own facts have dots in them.
        if let Some(own) = path.strip_prefix("own.") {
            return Ok(self.facts()?.own.get(own).cloned().map(Into::into));
        }
        let facts = serde_json::to_value(self.facts()?).map_err(|e| e.to_string())?;
        Ok(path.split('.').try_fold(facts, |mut at, part| at.get_mut(part).map(serde_json::Value::take)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_found_by_its_path_and_an_own_one_by_its_whole_name() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"), folder.path().join("state")).unwrap();
        let measure = || {
            let mut facts = Facts { arch: "x86_64".into(), ..Facts::default() };
            facts.cpu.count = 4;
            facts.own.insert("raid.state".into(), "ok".into());
            Ok(facts)
        };
        let host = Host::new(&layout, Reserve::default(), None, &[], measure);
        let fact = |path: &str| host.fact(path).unwrap();
        assert_eq!(fact("cpu.count"), Some(4.into()));
        assert_eq!(fact("own.raid.state"), Some("ok".into()));
        assert_eq!([fact("own.raid"), fact("own.none"), fact("cpu.none"), fact("none")], [None, None, None, None]);
    }
}
