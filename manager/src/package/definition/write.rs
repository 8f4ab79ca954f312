//! Writes a `package.toml`: what was read of a file, to be looked at, changed, and pushed as a folder.

use super::Definition;
use std::fmt::{Display, Write};
use sutler_base::{
    limits,
    manifest::{Detection, ExitMeaning, Phase, Requirement, Step, VersionRule, requirement::Scalar},
    version::{Ordering, Range},
};
use toml::Value;

/// A text as TOML writes it.
fn text(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn texts(list: &[String]) -> String {
    format!("[{}]", list.iter().map(|one| text(one)).collect::<Vec<_>>().join(", "))
}

/// A size in the largest unit of which it is a whole number.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn word<T: PartialEq>(words: &[(&'static str, T)], wanted: &T) -> String {
    text(words.iter().find(|(_, means)| means == wanted).map_or("", |(word, _)| word))
}

/// Keys with their values, in their order; a table of its own, or within a line.
#[derive(Default)]
struct Keys(Vec<(String, String)>);

impl Keys {
    fn add(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    fn text(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.add(key, text(&value.to_string()))
    }

    /// Which versions are meant, if not all are.
    fn versions(&mut self, versions: &Range) -> &mut Self {
        if versions.is_any() { self } else { self.text("versions", versions) }
    }

    fn lines(&self) -> String {
        self.0.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }

    fn inline(&self) -> String {
        format!("{{ {} }}", self.0.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "))
    }
}

impl Definition {
    /// The `package.toml` that says all this, with a word on what may be changed; read again, it is the same.
    pub fn to_toml(&self) -> String {
        let mut head = Keys::default();
        head.text("name", &self.name).text("version", &self.version);
        if let Some(release) = self.release {
            head.add("release", release.to_string());
        }
        head.add("ordering", word(&Ordering::ALL, &self.ordering)).text("description", &self.description);
        if let Some(directory) = &self.directory {
            head.text("directory", directory);
        }
        if let Some(files) = &self.files {
            head.text("files", files);
        }
        if !self.exclude.is_empty() {
            head.add("exclude", texts(&self.exclude.iter().map(ToString::to_string).collect::<Vec<_>>()));
        }
        if !self.logs.is_empty() {
            head.add("logs", texts(&self.logs));
        }
        if let Some(seconds) = self.duration {
            head.add("duration", seconds.to_string());
        }
        if let Some(agent) = &self.agent {
            head.text("agent", agent);
        }
        if self.restore {
            head.add("restore", "true");
        }
        for (key, moment) in [("expires", self.expires), ("not_before", self.not_before)] {
            if let Some(moment) = moment {
                head.add(key, moment.to_string());
            }
        }
        let mut out = "# What Sutler reads to make a package of this folder. Every key may be changed, and more be added: see\n\
                       # `sutler package init` without a file for all of them.\n\n"
            .to_owned();
        out += &head.lines();
        let mut platform = Keys::default();
        platform.text("os", &self.platform.os).text("arch", &self.platform.arch);
        let _ = write!(out, "\n[platform]\n{}", platform.lines());
        let mut section = |comment: &str, key: &str, tables: Vec<Keys>| {
            for (n, keys) in tables.iter().enumerate() {
                let comment = if n == 0 { format!("\n# {comment}") } else { String::new() };
                let _ = write!(out, "{comment}\n[[{key}]]\n{}", keys.lines());
            }
        };
        section("What a client must be and have besides.", "requirement", self.requirements.iter().map(requirement).collect());
        let related = |package: &dyn Display, versions: &Range| {
            let mut keys = Keys::default();
            keys.text("package", package).versions(versions);
            keys
        };
        let depends_on = self.depends_on.iter().map(|other| related(&other.package, &other.versions)).collect();
        section("Packages that are installed before it.", "depends_on", depends_on);
        let supersedes = self.supersedes.iter().map(|other| {
            let mut keys = related(&other.package, &other.versions);
            keys.add("uninstall", other.uninstall.to_string());
            keys
        });
        section("Packages whose place it takes.", "supersedes", supersedes.collect());
        section("What is run, without a shell, in this order.", "step", self.steps.iter().map(step).collect());
        section("All must hold for it to count as installed.", "detection", self.detection.iter().map(detection).collect());
        for (name, parameter) in &self.parameters {
            let mut keys = Keys::default();
            keys.text("pattern", parameter.pattern.as_str());
            if let Some(default) = &parameter.default {
                keys.text("default", default);
            }
            keys.text("description", &parameter.description);
            let _ = write!(out, "\n[parameters.{name}]\n{}", keys.lines());
        }
        out
    }
}

fn step(step: &Step) -> Keys {
    let mut keys = Keys::default();
    keys.text("name", &step.name).add("phase", word(&Phase::ALL, &step.phase)).add("argv", texts(&step.argv));
    environment(&mut keys, &step.environment);
    if let Some(user) = &step.user {
        keys.text("user", user);
    }
    if let Some(directory) = &step.directory {
        keys.text("directory", directory);
    }
    let limit = step.time_limit;
    keys.text("time_limit", if limit.is_multiple_of(60) { format!("{}m", limit / 60) } else { format!("{limit}s") });
    if !step.exit_codes.is_empty() {
        let mut codes = Keys::default();
        for (code, meaning) in &step.exit_codes {
            codes.add(&text(&code.to_string()), word(&ExitMeaning::ALL, meaning));
        }
        keys.add("exit_codes", codes.inline());
    }
    if step.continue_on_failure {
        keys.add("continue_on_failure", "true");
    }
    keys
}

fn environment(keys: &mut Keys, environment: &std::collections::BTreeMap<String, String>) {
    if !environment.is_empty() {
        let mut all = Keys::default();
        environment.iter().for_each(|(name, value)| {
            all.text(name, value);
        });
        keys.add("environment", all.inline());
    }
}

fn version_rule(keys: &mut Keys, rule: Option<&VersionRule>) {
    if let Some(rule) = rule {
        let mut all = Keys::default();
        all.text("pattern", rule.pattern.as_str()).text("versions", &rule.versions).add("ordering", word(&Ordering::ALL, &rule.ordering));
        keys.add("version", all.inline());
    }
}

fn detection(rule: &Detection) -> Keys {
    let mut keys = Keys::default();
    match rule {
        Detection::File { path, blake3, sha256, version } => {
            keys.text("file", path);
            for (key, digest) in [("blake3", blake3), ("sha256", sha256)] {
                if let Some(digest) = digest {
                    keys.text(key, digest);
                }
            }
            version_rule(&mut keys, version.as_ref());
        }
        Detection::Command { argv, environment: variables, exit_codes, output, version, time_limit } => {
            keys.add("command", texts(argv));
            environment(&mut keys, variables);
            keys.add("exit_codes", format!("{exit_codes:?}"));
            if let Some(output) = output {
                keys.text("output", output);
            }
            version_rule(&mut keys, version.as_ref());
            if *time_limit != limits::DETECTION_SECONDS_DEFAULT {
                keys.text("time_limit", format!("{time_limit}s"));
            }
        }
        Detection::Package { manager, name, versions } => {
            keys.text("package", name).text("manager", manager).versions(versions);
        }
        Detection::Service { name } => {
            keys.text("service", name);
        }
    }
    keys
}

fn requirement(rule: &Requirement) -> Keys {
    let mut keys = Keys::default();
    let all = |of: &[Requirement]| format!("[{}]", of.iter().map(|one| requirement(one).inline()).collect::<Vec<_>>().join(", "));
    match rule {
        Requirement::All { of } => {
            keys.add("all", all(of));
        }
        Requirement::Any { of } => {
            keys.add("any", all(of));
        }
        Requirement::Os { ids, versions } => {
            keys.add("os", texts(ids)).versions(versions);
        }
        Requirement::Arch { any_of } => {
            keys.add("arch", texts(any_of));
        }
        Requirement::Memory { at_least } => {
            keys.text("memory", size(*at_least));
        }
        Requirement::FreeDisk { at_least, path } => {
            keys.text("free_disk", size(*at_least));
            if let Some(path) = path {
                keys.text("path", path);
            }
        }
        Requirement::PackageManager { manager } => {
            keys.text("package_manager", manager);
        }
        Requirement::Software { manager, name, versions, absent } => {
            keys.text("software", name).text("manager", manager).versions(versions);
            if *absent {
                keys.add("absent", "true");
            }
        }
        Requirement::Fact { fact, one_of, at_least, at_most, matches } => {
            keys.text("fact", fact);
            if !one_of.is_empty() {
                let values = one_of.iter().map(|value| match value {
                    Scalar::Text(value) => text(value),
                    Scalar::Number(number) => number.to_string(),
                    Scalar::Truth(truth) => truth.to_string(),
                });
                keys.add("one_of", format!("[{}]", values.collect::<Vec<_>>().join(", ")));
            }
            for (key, bound) in [("at_least", at_least), ("at_most", at_most)] {
                if let Some(bound) = bound {
                    keys.add(key, bound.to_string());
                }
            }
            if let Some(pattern) = matches {
                keys.text("matches", pattern.as_str());
            }
        }
    }
    keys
}
