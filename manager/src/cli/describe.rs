//! What a package does and where, in lines for people.

use sutler_base::{
    manifest::{Detection, Manifest, Phase, Step, VersionRule},
    version::{Ordering, Range},
};

/// Everything that a manifest says beside its files: what it is called, and a line.
pub fn lines(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("platform", format!("{} {}", manifest.platform.os, manifest.platform.arch))];
    if manifest.ordering != Ordering::default() {
        pairs.push(("ordering", format!("versions compare as those of {}", manifest.ordering)));
    }
    pairs.extend(manifest.requirements.iter().map(|rule| ("needs", rule.to_string())));
    pairs.extend(manifest.depends_on.iter().map(|other| ("depends on", format!("{}{}", other.package, ranged(&other.versions)))));
    pairs.extend(manifest.supersedes.iter().map(|other| {
        let how = if other.uninstall { ", which is uninstalled first" } else { "" };
        ("supersedes", format!("{}{}{how}", other.package, ranged(&other.versions)))
    }));
    pairs.extend(manifest.parameters.iter().map(|(name, parameter)| {
        let default = parameter.default.as_ref().map(|value| format!(", unless given {}", word(value))).unwrap_or_default();
        ("parameter", format!("{name}: {}{default}", parameter.pattern.as_str()))
    }));
    pairs.extend(manifest.directory.iter().map(|directory| ("directory", directory.to_string())));
    pairs.extend(manifest.agent.iter().map(|program| ("agent", program.to_string())));
    pairs.extend(manifest.steps.iter().map(|step| ("step", of_step(step))));
    pairs.extend(manifest.detection.iter().map(|rule| ("detected by", of_detection(rule))));
    pairs.extend(manifest.logs.iter().map(|path| ("log", path.clone())));
    pairs.extend(manifest.not_before.iter().map(|moment| ("not before", moment.to_string())));
    pairs
}

fn of_step(step: &Step) -> String {
    let phase = Phase::ALL.iter().find(|(_, phase)| *phase == step.phase).map_or("", |(word, _)| word);
    let user = step.user.as_ref().map(|user| format!(", as {user}")).unwrap_or_default();
    let variables: String = step.environment.iter().map(|(name, value)| format!("{name}={} ", word(value))).collect();
    format!("{} ({phase}, at most {} s{user}): {variables}{}", step.name, step.time_limit, words(&step.argv))
}

fn of_detection(rule: &Detection) -> String {
    let version = |version: &Option<VersionRule>| version.as_ref().map(|v| format!(", version {}", v.versions)).unwrap_or_default();
    match rule {
        Detection::File { path, blake3, sha256, version: names } => {
            let digest = if blake3.is_some() || sha256.is_some() { ", with its digest" } else { "" };
            format!("{path}{digest}{}", version(names))
        }
        Detection::Command { argv, version: names, .. } => format!("{}{}", words(argv), version(names)),
        Detection::Package { manager, name, versions } => format!("{name}{} of {manager}", ranged(versions)),
        Detection::Service { name } => format!("the service {name}"),
    }
}

fn ranged(range: &Range) -> String {
    if range.is_any() { String::new() } else { format!(" {range}") }
}

/// An argument vector with a quotation mark around every argument that has more than plain characters.
fn words(argv: &[String]) -> String {
    argv.iter().map(|argument| word(argument)).collect::<Vec<_>>().join(" ")
}

fn word(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-=+:,@%".contains(&b));
    if plain { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_of_a_package_are_shown_word_by_word() {
        let mut manifest = Manifest::new("x".parse().unwrap(), "1".parse().unwrap(), 1);
        manifest.steps = vec![Step::new("set up", Phase::Install, ["bin/x", "--name=a b", ""].map(String::from).to_vec())];
        manifest.detection = vec![Detection::file("bin/x")];
        let lines = lines(&manifest);
        assert_eq!(lines[1], ("step", "set up (install, at most 3600 s): bin/x \"--name=a b\" \"\"".to_owned()));
        assert_eq!(lines[2], ("detected by", "bin/x".to_owned()));
    }
}
