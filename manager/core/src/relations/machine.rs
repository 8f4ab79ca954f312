//! A machine as the manager knows it: by the facts that it last reported. What only the machine can tell is said to be so.

use sutler_base::{
    facts::{Facts, Package},
    manifest::{
        Present,
        requirement::{Found, Machine, Manager},
    },
    path::InstallPath,
    version::Ordering,
};

/// What is known of a machine.
#[derive(Debug, Clone, Default)]
pub struct KnownMachine {
    /// Its facts, without its packages; none if it has not reported any.
    pub facts: Option<Facts>,
    /// The packages of its own managers.
    pub packages: Vec<Package>,
    /// What its agent installed.
    pub own: Vec<Present>,
}

impl KnownMachine {
    /// The operating system's family and the architecture.
    pub fn platform(&self) -> Option<(String, String)> {
        self.facts.as_ref().map(|facts| (facts.os.family.clone(), facts.arch.clone()))
    }

    fn known(&self) -> Result<&Facts, String> {
        self.facts.as_ref().ok_or_else(|| "it has not reported its facts yet".into())
    }
}

impl Machine for KnownMachine {
    fn os(&self) -> Result<(String, String), String> {
        self.known().map(|f| (f.os.id.clone(), f.os.version.clone()))
    }

    fn arch(&self) -> Result<String, String> {
        self.known().map(|f| f.arch.clone())
    }

    fn memory(&self) -> Result<u64, String> {
        self.known().map(|f| f.memory.total_bytes)
    }

    fn free_disk(&self, _: Option<&InstallPath>) -> Result<u64, String> {
        Err("how much room there is changes all the time".into())
    }

    fn has(&self, manager: Manager) -> Result<bool, String> {
        self.known()?;
        match manager == Manager::Sutler || self.packages.iter().any(|p| p.manager == manager.as_str()) {
            true => Ok(true),
            false => Err(format!("no package of {manager} was reported")),
        }
    }

    fn installed(&self, manager: Manager, name: &str) -> Result<Vec<Found>, String> {
        let ordering = match manager {
            // Without facts nothing was installed that anybody knows of.
            Manager::Sutler => return Ok(self.own.iter().filter_map(|own| own.found_as(name)).collect()),
            Manager::Dpkg => Ordering::Dpkg,
            Manager::Rpm => Ordering::Rpm,
        };
        self.known()?;
        let found = self.packages.iter().filter(|p| p.manager == manager.as_str() && p.name == name);
        let found: Vec<Found> = found.map(|p| Found::itself(Some(p.version.clone()), ordering)).collect();
        match found.is_empty() {
            true => Err("no package of that name was reported, and what others provide is not".into()),
            false => Ok(found),
        }
    }

    fn fact(&self, path: &str) -> Result<Option<serde_json::Value>, String> {
        let facts = self.known()?;
        if let Some(own) = path.strip_prefix("own.") {
            return Ok(facts.own.get(own).cloned().map(Into::into));
        }
        Ok(path.split('.').try_fold(facts.to_value(), |mut at, part| at.get_mut(part).map(serde_json::Value::take)))
    }
}
