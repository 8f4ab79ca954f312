//! What a `package.toml` says about other packages and about values: `[[depends_on]]`, `[[supersedes]]`, `[parameters.…]`.

use super::{
    super::document::{Reader, Table},
    rules::read_versions,
};
use std::collections::BTreeMap;
use sutler_base::{
    Invalid, ParameterName,
    manifest::{Dependency, Parameter, Supersedes},
};

pub(super) fn read_dependencies<'a>(r: &mut Reader<'a>, root: &mut Table<'a>) -> Option<Vec<Dependency>> {
    let tables = r.take(root, "depends_on").map(|v| r.tables(&v))?;
    let mut all = Vec::new();
    for mut table in tables {
        let package = r.need(&mut table, "package", "which has to be there before").and_then(|v| r.parsed(&v));
        let versions = read_versions(r, &mut table);
        r.finish(table);
        all.extend(package.map(|package| Dependency { package, versions }));
    }
    Some(all)
}

pub(super) fn read_supersedes<'a>(r: &mut Reader<'a>, root: &mut Table<'a>) -> Option<Vec<Supersedes>> {
    let tables = r.take(root, "supersedes").map(|v| r.tables(&v))?;
    let mut all = Vec::new();
    for mut table in tables {
        let package = r.need(&mut table, "package", "whose place this one takes").and_then(|v| r.parsed(&v));
        let versions = read_versions(r, &mut table);
        let uninstall = r.take(&mut table, "uninstall").and_then(|v| r.truth(&v)).unwrap_or_default();
        r.finish(table);
        all.extend(package.map(|package| Supersedes { package, versions, uninstall }));
    }
    Some(all)
}

pub(super) fn read_parameters<'a>(r: &mut Reader<'a>, root: &mut Table<'a>) -> Option<BTreeMap<ParameterName, Parameter>> {
    let value = r.take(root, "parameters")?;
    let mut all = BTreeMap::new();
    for (name, value) in r.pairs(&value, "tables, each under [parameters.NAME]").unwrap_or_default() {
        let name = match name.parse::<ParameterName>() {
            Ok(name) => Some(name),
            Err(Invalid(why)) => {
                r.refuse(&value, why);
                None
            }
        };
        let Some(mut table) = r.table(&value, "a table such as { pattern = \"[0-9]+\", default = \"80\" }") else { continue };
        let pattern = r.need(&mut table, "pattern", "what each value must match as a whole").and_then(|v| r.parsed(&v));
        let default = r.take(&mut table, "default").and_then(|v| r.text(&v)).map(String::from);
        let description = r.take(&mut table, "description").and_then(|v| r.text(&v)).map(String::from).unwrap_or_default();
        r.finish(table);
        all.extend(name.zip(pattern).map(|(name, pattern)| (name, Parameter { pattern, default, description })));
    }
    Some(all)
}
