//! Jobs that are made from others, and jobs that are changed.

use super::{
    super::{
        approval::ConfirmArg,
        error::CliError,
        names,
        session::{Session, call, request_id},
        when::{self, Until},
    },
    order::{self, Replace},
    terms::{self, TermsArgs},
    view,
};
use clap::Args;
use std::path::PathBuf;
use sutler_proto::v1;

/// What is different. What is not given stays as it is.
#[derive(Debug, Args)]
struct Differences {
    /// A package, in place of all that the job has: NAME pins the newest version, NAME@VERSION that one, NAME@latest follows
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    package: Vec<String>,
    /// A package that is to be gone; with the ones to install it takes the place of all that the job has
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    uninstall: Vec<String>,
    /// A package that is only fetched; with the others it takes the place of all that the job has
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = names::package)]
    fetch: Vec<String>,
    /// A value for a parameter of a package; with several packages say which
    #[arg(long, value_name = "[PACKAGE:]NAME=VALUE", value_parser = names::setting)]
    set: Vec<names::Setting>,
    /// What to do where a package is there already
    #[arg(long, value_enum)]
    replace: Option<Replace>,
    /// For people
    #[arg(long)]
    description: Option<String>,
    /// 1 (first) to 9
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=9))]
    priority: Option<i32>,
    /// After this nothing is started any more: from now (30d) or a time (2027-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = when::until)]
    expires: Option<Until>,
    /// Go on with the next package although one failed
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    continue_on_failure: Option<bool>,
    /// Only clients for which this CEL condition holds when their turn comes; "" for all
    #[arg(long, value_name = "CONDITION")]
    when: Option<String>,
    /// A file with `[[requirement]]` tables as in a package.toml; an empty one takes away what the job required
    #[arg(long, value_name = "FILE")]
    require: Option<PathBuf>,
    #[command(flatten)]
    terms: TermsArgs,
}

impl Differences {
    /// The packages of a job with what is different; none if nothing is.
    fn packages(&mut self, job: &v1::Job) -> Result<Vec<v1::JobPackage>, CliError> {
        let named = [&self.package, &self.uninstall, &self.fetch].iter().any(|names| !names.is_empty());
        if !named && self.set.is_empty() && self.replace.is_none() {
            return Ok(vec![]);
        }
        let [package, uninstall, fetch] = [&mut self.package, &mut self.uninstall, &mut self.fetch].map(std::mem::take);
        let mut packages = order::packages(package, uninstall, fetch, Replace::IfMissing);
        if packages.is_empty() {
            packages = asked(job);
        }
        if let Some(replace) = self.replace {
            packages.iter_mut().for_each(|p| p.replace = replace.wire().into());
        }
        for setting in std::mem::take(&mut self.set) {
            order::set(&mut packages, setting)?;
        }
        Ok(packages)
    }
}

/// The packages that a job was asked for, as they would be asked for again.
fn asked(job: &v1::Job) -> Vec<v1::JobPackage> {
    let asked = job.packages.iter().filter(|p| p.needed.is_empty());
    asked.map(|p| v1::JobPackage { version: String::new(), ..p.clone() }).collect()
}

/// Which job is made anew.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The job's id
    #[arg(value_parser = names::job)]
    pub(super) job: String,
    /// A group, in place of all destinations of the job
    #[arg(long, value_parser = names::group)]
    group: Vec<String>,
    /// A client, in place of all destinations of the job
    #[arg(long, value_parser = names::client)]
    client: Vec<String>,
    /// A CEL condition as a destination, in place of all destinations of the job
    #[arg(long = "where", value_name = "CONDITION")]
    clients_where: Option<String>,
    /// A group that it never reaches, in place of all exclusions of the job
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    exclude_group: Vec<String>,
    /// A client that it never reaches, in place of all exclusions of the job
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    exclude_client: Vec<String>,
    #[command(flatten)]
    differences: Differences,
}

/// `sutler job clone`
pub(super) async fn clone(session: &Session, mut args: CloneArgs) -> Result<(), CliError> {
    let job = super::get(session, &args.job).await?;
    if !job.rolls_back.is_empty() {
        return Err(CliError::Local {
            tried: format!("clone the job {}", names::short(&args.job)),
            why: format!("it puts back what clients had before {}", job.rolls_back),
            hint: Some(format!("`sutler job rollback {}` makes another one", names::short(&job.rolls_back))),
        });
    }
    let mut packages = args.differences.packages(&job)?;
    if packages.is_empty() {
        packages = asked(&job);
    }
    let different = args.differences;
    let requirements = different.require.as_deref().map(order::requirements).transpose()?;
    let mut destinations: Vec<String> = args.group.into_iter().chain(args.client).collect();
    let mut clients_where = args.clients_where.unwrap_or_default();
    if destinations.is_empty() && clients_where.is_empty() {
        (destinations, clients_where) = (job.destinations, job.clients_where);
    }
    let exclusions: Vec<String> = args.exclude_group.into_iter().chain(args.exclude_client).collect();
    let request = v1::CreateJobRequest {
        // That of the job stays with it.
        alias: String::new(),
        packages,
        destinations,
        clients_where,
        exclusions: if exclusions.is_empty() { job.exclusions } else { exclusions },
        description: different.description.unwrap_or(job.description),
        priority: different.priority.unwrap_or(job.priority),
        continue_on_failure: different.continue_on_failure.unwrap_or(job.continue_on_failure),
        expire_time: different.expires.map(|e| e.wire(session.now())).or(job.expire_time),
        request_id: request_id()?,
        replaces: String::new(),
        condition: different.when.unwrap_or(job.condition),
        requirements: requirements.unwrap_or(job.requirements),
        terms: job.terms.map(|terms| terms::again(terms, session)),
    };
    let terms = different.terms.terms(session)?;
    let mut made = call!(session, jobs.create_job(request), "clone the job {}", names::short(&args.job))?.job.unwrap_or_default();
    if terms.is_some() {
        let name = made.name.clone();
        let request = v1::UpdateJobRequest { name: made.name, terms, request_id: request_id()?, ..Default::default() };
        made = call!(session, jobs.update_job(request), "give the draft {} its terms", names::short(&name))?.job.unwrap_or_default();
    }
    order::drafted(session, &made)
}

/// What is changed.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The job's id
    #[arg(value_parser = names::job)]
    pub(super) job: String,
    #[command(flatten)]
    differences: Differences,
    /// A name for it, which stands for its id wherever one is typed, and by which files know it; "" for none
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Let it stand until it is ended
    #[arg(long, conflicts_with = "expires")]
    never_expires: bool,
    /// A term that gets its default back, by its name (such as `keep`)
    #[arg(long, value_name = "TERM")]
    reset: Vec<String>,
    /// A group that it reaches besides
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    add_group: Vec<String>,
    /// A client that it reaches besides
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    add_client: Vec<String>,
    /// A group that is no destination any more: what has not started there is canceled
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    remove_group: Vec<String>,
    /// A client that is no destination any more: what has not started there is canceled
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    remove_client: Vec<String>,
    /// A group that it never reaches, whatever else holds its members
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    exclude_group: Vec<String>,
    /// A client that it never reaches, whatever else holds it
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    exclude_client: Vec<String>,
    /// A group that is excluded no longer
    #[arg(long, value_name = "GROUP", value_parser = names::group)]
    include_group: Vec<String>,
    /// A client that is excluded no longer
    #[arg(long, value_name = "CLIENT", value_parser = names::client)]
    include_client: Vec<String>,
    /// Only if the job still has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Confirms how many clients that reaches
    #[command(flatten)]
    confirm: ConfirmArg,
}

/// `sutler job update`
pub(super) async fn update(session: &Session, mut args: UpdateArgs) -> Result<(), CliError> {
    let tried = format!("update the job {}", names::short(&args.job));
    let mut etag = args.etag;
    let mut packages = vec![];
    let different = &mut args.differences;
    if !different.package.is_empty() || !different.uninstall.is_empty() {
        packages = different.packages(&v1::Job::default())?;
    } else if !different.set.is_empty() || different.replace.is_some() {
        // They are given as a whole: what comes between would be lost.
        let job = super::get(session, &args.job).await?;
        packages = different.packages(&job)?;
        if etag.is_empty() {
            etag = job.etag;
        }
    }
    let different = args.differences;
    let request = v1::UpdateJobRequest {
        name: args.job,
        description: different.description,
        expire_time: different.expires.map(|e| e.wire(session.now())),
        priority: different.priority,
        etag,
        packages,
        add_destinations: args.add_group.into_iter().chain(args.add_client).collect(),
        remove_destinations: args.remove_group.into_iter().chain(args.remove_client).collect(),
        condition: different.when,
        requirements: different.require.as_deref().map(order::requirements).transpose()?,
        continue_on_failure: different.continue_on_failure,
        terms: different.terms.terms(session)?,
        reset_terms: args.reset,
        add_exclusions: args.exclude_group.into_iter().chain(args.exclude_client).collect(),
        remove_exclusions: args.include_group.into_iter().chain(args.include_client).collect(),
        never_expires: args.never_expires,
        alias: args.alias,
        request_id: String::new(),
        confirm: 0,
    };
    let only_named = v1::UpdateJobRequest { name: request.name.clone(), etag: request.etag.clone(), ..Default::default() };
    if request == only_named {
        let hint = Some("`sutler job update --help` lists what can be changed".into());
        return Err(CliError::Local { tried, why: "nothing was given that would change it".into(), hint });
    }
    let request = v1::UpdateJobRequest { request_id: request_id()?, confirm: args.confirm.confirm, ..request };
    let job = call!(session, jobs.update_job(request), "{tried}")?.job.unwrap_or_default();
    session.done(&job.name, &format!("updated, revision {}: {} on {}", job.revision, view::packages(&job), view::destinations(&job)))
}
