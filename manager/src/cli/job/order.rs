//! Makes jobs and starts them.

use super::{
    super::{
        approval::ConfirmArg,
        error::CliError,
        names,
        session::{Session, call, request_id},
        when::{self, Until},
    },
    terms::{self, TermsArgs},
    view,
};
use crate::package;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use sutler_proto::v1;

/// What to do where the package is there already.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Replace {
    /// Install all the same
    Always,
    /// Skip the installation
    IfMissing,
}

impl Replace {
    /// As the wire has it.
    pub(super) fn wire(self) -> v1::Replace {
        match self {
            Replace::Always => v1::Replace::Always,
            Replace::IfMissing => v1::Replace::IfMissing,
        }
    }
}

/// The priority of a job that says nothing of it.
const PRIORITY: i32 = 5;

/// What is to be installed where.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("destination").required(true).multiple(true).args(["group", "client", "clients_where"]),
    group = clap::ArgGroup::new("what").required(true).multiple(true).args(["package", "uninstall", "fetch", "inventory"]))]
pub struct OrderArgs {
    /// A package: NAME pins the newest version, NAME@VERSION that one, NAME@latest follows the newest. Several are installed
    /// in their order
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    package: Vec<String>,
    /// A package that is to be gone: by the steps of the version that is on the client, else by those of the one named here.
    /// Packages are uninstalled before others are installed
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    uninstall: Vec<String>,
    /// A package that is only fetched, to be installed another time: it stays on the machine for 30 days
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    fetch: Vec<String>,
    /// In place of packages: the machines measure their facts now, and report what changed
    #[arg(long, conflicts_with_all = ["package", "uninstall", "fetch", "set", "replace", "keep", "on_leave"])]
    inventory: bool,
    /// A value for a parameter of a package; with several packages say which
    #[arg(long, value_name = "[PACKAGE:]NAME=VALUE", value_parser = names::setting)]
    set: Vec<names::Setting>,
    /// A group: its members, and those that join later
    #[arg(long, value_parser = names::group)]
    group: Vec<String>,
    /// A client's id
    #[arg(long, value_parser = names::client)]
    client: Vec<String>,
    /// Every client for which this CEL condition holds when the job starts, and every one for which it does later
    #[arg(long = "where", value_name = "CONDITION")]
    clients_where: Option<String>,
    /// A group whose members it never reaches, whatever else holds them
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    exclude_group: Vec<String>,
    /// A client that it never reaches, whatever else holds it
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    exclude_client: Vec<String>,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// 1 (first) to 9
    #[arg(long, default_value_t = PRIORITY, value_parser = clap::value_parser!(i32).range(1..=9))]
    priority: i32,
    /// After this nothing is started any more: from now (30d) or a time (2027-01-31T12:00:00Z) [default: never]
    #[arg(long, value_name = "WHEN", value_parser = when::until)]
    expires: Option<Until>,
    /// Go on with the next package although one failed
    #[arg(long)]
    continue_on_failure: bool,
    /// What to do where a package is there already
    #[arg(long, value_enum, default_value = "if-missing")]
    replace: Replace,
    /// Only clients for which this CEL condition holds when their turn comes; for the others the job ends as rejected
    #[arg(long, value_name = "CONDITION", default_value = "", hide_default_value = true)]
    when: String,
    /// A file with `[[requirement]]` tables as in a package.toml: what a machine must be and have besides
    #[arg(long, value_name = "FILE")]
    require: Option<PathBuf>,
    /// An active job for the same package and group, which is canceled when this one starts
    #[arg(long, value_name = "JOB", value_parser = names::job)]
    pub(super) replaces: Option<String>,
    /// A name for it, to be typed wherever a job is meant; no other job that has not ended has it
    #[arg(long, value_name = "NAME", value_parser = names::alias)]
    alias: Option<String>,
    #[command(flatten)]
    terms: TermsArgs,
}

/// What is to be run.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub(super) order: OrderArgs,
    /// A plan of `job plan`, in place of an order: it is refused if it would come to anything else by now
    #[arg(long, value_name = "PLAN", value_parser = names::plan, groups = ["destination", "what"])]
    plan: Option<String>,
    /// Confirms how many clients that reaches
    #[command(flatten)]
    confirm: ConfirmArg,
}

impl OrderArgs {
    /// The order, without what makes it idempotent.
    pub(super) fn order(self, session: &Session) -> Result<v1::CreateJobRequest, CliError> {
        let mut packages = packages(self.package, self.uninstall, self.fetch, self.replace);
        for setting in self.set {
            set(&mut packages, setting)?;
        }
        Ok(v1::CreateJobRequest {
            condition: self.when,
            requirements: self.require.as_deref().map(requirements).transpose()?.unwrap_or_default(),
            exclusions: self.exclude_group.into_iter().chain(self.exclude_client).collect(),
            clients_where: self.clients_where.unwrap_or_default(),
            packages,
            destinations: self.group.into_iter().chain(self.client).collect(),
            description: self.description,
            priority: self.priority,
            continue_on_failure: self.continue_on_failure,
            expire_time: self.expires.map(|e| e.wire(session.now())),
            request_id: String::new(),
            replaces: self.replaces.unwrap_or_default(),
            terms: terms::with_inventory(self.terms.terms(session)?, self.inventory),
            alias: self.alias.unwrap_or_default(),
        })
    }

    fn request(self, session: &Session) -> Result<v1::RunJobRequest, CliError> {
        let order = self.order(session)?;
        Ok(v1::RunJobRequest {
            packages: order.packages,
            destinations: order.destinations,
            description: order.description,
            priority: order.priority,
            continue_on_failure: order.continue_on_failure,
            expire_time: order.expire_time,
            request_id: request_id()?,
            replaces: order.replaces,
            condition: order.condition,
            requirements: order.requirements,
            terms: order.terms,
            alias: order.alias,
            exclusions: order.exclusions,
            clients_where: order.clients_where,
            plan: String::new(),
            confirm: 0,
        })
    }
}

/// Packages as they are ordered: they are uninstalled before others are installed, and others fetched after that.
pub(super) fn packages(install: Vec<String>, uninstall: Vec<String>, fetch: Vec<String>, replace: Replace) -> Vec<v1::JobPackage> {
    let package = |package, intent: v1::Intent| v1::JobPackage {
        package,
        replace: replace.wire().into(),
        intent: intent.into(),
        ..Default::default()
    };
    let uninstalled = uninstall.into_iter().map(|name| package(name, v1::Intent::Uninstall));
    let installed = install.into_iter().map(|name| package(name, v1::Intent::Install));
    let fetched = fetch.into_iter().map(|name| package(name, v1::Intent::Prefetch));
    uninstalled.chain(installed).chain(fetched).collect()
}

/// What a file says that a job requires, as a request has it.
pub(super) fn requirements(path: &Path) -> Result<String, CliError> {
    let requirements = package::definition::requirements(path).map_err(|e| CliError::Local {
        tried: "read what the job requires".into(),
        why: e.to_string(),
        hint: Some("`sutler package init` writes a package.toml with examples".into()),
    })?;
    Ok(if requirements.is_empty() { String::new() } else { serde_json::to_string(&requirements).unwrap_or_default() })
}

/// Gives a package of the order a value.
pub(super) fn set(packages: &mut [v1::JobPackage], setting: names::Setting) -> Result<(), CliError> {
    let tried = format!("set {}", setting.name);
    let refused =
        |why: String| CliError::Local { tried: tried.clone(), why, hint: Some("say which package with PACKAGE:NAME=VALUE".into()) };
    let fits = |p: &v1::JobPackage| match &setting.package {
        Some(name) => names::package_word(&p.package).split('@').next() == Some(name),
        None => true,
    };
    let mut found = packages.iter_mut().filter(|p| fits(p));
    match (found.next(), found.next()) {
        (Some(package), None) => {
            package.values.insert(setting.name, setting.value);
            Ok(())
        }
        (None, _) => Err(refused(format!("the order names no package {}", setting.package.unwrap_or_default()))),
        (Some(_), Some(_)) => Err(refused("the order names several packages".into())),
    }
}

/// `sutler job create`
pub(super) async fn create(session: &Session, order: OrderArgs) -> Result<(), CliError> {
    let request = v1::CreateJobRequest { request_id: request_id()?, ..order.order(session)? };
    let job = call!(session, jobs.create_job(request), "create the job")?.job.unwrap_or_default();
    drafted(session, &job)
}

/// Says that there is a draft, and how to start it.
pub(super) fn drafted(session: &Session, job: &v1::Job) -> Result<(), CliError> {
    session.done(
        &job.name,
        &format!("draft: {} on {}; `sutler job start {}` starts it", view::packages(job), view::destinations(job), names::short(&job.name)),
    )
}

/// `sutler job run`
pub(super) async fn run(session: &Session, args: RunArgs) -> Result<(), CliError> {
    let request = match args.plan {
        Some(plan) => {
            let bare = v1::CreateJobRequest { priority: PRIORITY, ..Default::default() };
            if args.order.order(session)? != bare {
                return Err(CliError::usage("--plan stands for an order with all its options; give --plan alone, or an order"));
            }
            v1::RunJobRequest { plan, request_id: request_id()?, ..Default::default() }
        }
        None => args.order.request(session)?,
    };
    let request = v1::RunJobRequest { confirm: args.confirm.confirm, ..request };
    let job = call!(session, jobs.run_job(request), "run the job")?.job.unwrap_or_default();
    started(session, &job)
}

/// Says what was started: the job and the versions that it pinned.
pub(super) fn started(session: &Session, job: &v1::Job) -> Result<(), CliError> {
    if let Some(approval) = &job.approval {
        let sentence = format!(
            "waits as a draft: {} on {} reaches {} of {} clients; another operator has to agree (`sutler job approve {}`)",
            view::packages(job),
            view::destinations(job),
            approval.clients,
            approval.fleet_clients,
            names::short(&job.name)
        );
        return session.done(&job.name, &sentence);
    }
    session.done(&job.name, &format!("{}: {} on {}", terms::begins(job), view::packages(job), view::destinations(job)))?;
    if !job.unavailable.is_empty() {
        eprintln!("warning: no client can start it yet: {}", super::super::output::printable(&job.unavailable));
    }
    Ok(())
}
