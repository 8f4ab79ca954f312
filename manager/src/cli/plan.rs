//! `sutler package plan`: what a job would do on a client, before there is one.

use super::{
    error::CliError,
    names,
    output::{self, Column, Format, Record, word},
    session::{Session, call},
    when::{bytes, moment},
};
use sutler_proto::v1;

/// Why a package is there, for people: `app needs it, >=1.2`.
pub fn needed(needed: &[v1::Need], package: &str) -> String {
    let one = |need: &v1::Need| {
        let by = names::short(&need.by);
        let as_what = if names::short(&need.package) == package { String::new() } else { format!(" as {}", names::short(&need.package)) };
        let versions = if need.versions == "any" { String::new() } else { format!(" {}", need.versions) };
        format!("{by} needs it{as_what}{versions}")
    };
    needed.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn parts(planned: &v1::PlannedPackage) -> (String, String) {
    let word = names::package_word(&planned.package);
    word.split_once('@').map(|(name, version)| (name.to_owned(), version.to_owned())).unwrap_or((word, String::new()))
}

fn action(planned: &v1::PlannedPackage) -> String {
    let action = word!(PlanAction, "PLAN_ACTION", planned.action).to_lowercase();
    if planned.from_version.is_empty() { action } else { format!("{action} from {}", planned.from_version) }
}

fn why(planned: &v1::PlannedPackage) -> String {
    let ordered = names::short(&planned.ordered);
    let (name, _) = parts(planned);
    let of = match planned.action() {
        v1::PlanAction::Uninstall | v1::PlanAction::Supersede => return format!("{ordered} takes its place"),
        _ if ordered.is_empty() => String::new(),
        _ => format!("it will do for {ordered}: "),
    };
    let whom = if ordered.is_empty() { name.as_str() } else { ordered };
    let why = if planned.needed.is_empty() { "asked for".to_owned() } else { needed(&planned.needed, whom) };
    format!("{of}{why}")
}

impl Record for v1::PlannedPackage {
    const TYPE: &'static str = "sutler.v1.PlannedPackage";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("package", |p| parts(p).0),
        Column::new("version", |p| parts(p).1),
        Column::new("action", action),
        Column::new("why", why),
        Column::new("fetch", |p| bytes(u64::try_from(p.max_fetch_bytes).unwrap_or_default())),
        Column::new("note", |p| p.note.clone()),
    ];
}

/// Shows what a job with this package would do on this client.
pub(super) async fn plan(session: &Session, package: String, client: String, format: Format) -> Result<(), CliError> {
    let tried = format!("plan {} on {}", names::package_word(&package), names::short(&client));
    let answer = call!(session, packages.plan_package(v1::PlanPackageRequest { package, client }), "{tried}")?;
    output::list(&answer.packages, format)?;
    if format == Format::Table {
        match answer.facts_time {
            Some(_) => eprintln!("as the client was when it last reported, at {}", moment(&answer.facts_time)),
            None => eprintln!("the client has not reported yet what it is and has"),
        }
    }
    Ok(())
}
