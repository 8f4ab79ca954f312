//! The configuration of a fleet as a whole: what is there is made to be as a set of objects says, all of it or nothing.
//!
//! Each object is made, changed and deleted by what its own calls go by, such as [`groups`] and [`jobs`]; each
//! kind has a file here that says how one is found and what its differences come to. What is answered is read back after it was
//! done: a plan is this very unit of work, undone at its end.

mod group;
mod job;
mod policy;
mod question;
mod window;

use super::{AppError, Env, Result, Violations, groups, jobs, policies, questions, windows};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{Digest, JobId};
use sutler_core::rights::Reach;
use sutler_store::Tx;

/// How many objects are named in the entry of the audit log for all of them.
const NOTED: usize = 100;

/// What an object is, in the order in which kinds are made: what others refer to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What users are asked.
    Question,
    /// A named destination.
    Group,
    /// When the clients of a group may be disturbed.
    Window,
    /// A rule that registers clients into a group.
    Policy,
    /// An order.
    Job,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Question, Kind::Group, Kind::Window, Kind::Policy, Kind::Job];

    /// Its word, as in files.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Question => "question",
            Kind::Group => "group",
            Kind::Window => "window",
            Kind::Policy => "policy",
            Kind::Job => "job",
        }
    }

    /// The collection of its names.
    pub fn collection(self) -> &'static str {
        match self {
            Kind::Question => "questions",
            Kind::Group => "groups",
            Kind::Window => "windows",
            Kind::Policy => "policies",
            Kind::Job => "jobs",
        }
    }
}

/// A job as it stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedJob {
    /// What is ordered; it has an alias.
    pub order: jobs::Create,
    /// It is not to be started.
    pub draft: bool,
}

/// An object as it is wanted, or as it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A question.
    Question(questions::Create),
    /// A group. Its password is no configuration.
    Group(groups::Create),
    /// A maintenance window.
    Window(windows::Create),
    /// A policy.
    Policy(policies::Create),
    /// A job.
    Job(Box<NamedJob>),
}

impl Object {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Question(_) => Kind::Question,
            Object::Group(_) => Kind::Group,
            Object::Window(_) => Kind::Window,
            Object::Policy(_) => Kind::Policy,
            Object::Job(_) => Kind::Job,
        }
    }

    /// What it is called among its kind.
    pub fn name(&self) -> String {
        match self {
            Object::Question(q) => q.name.to_string(),
            Object::Group(g) => g.name.to_string(),
            Object::Window(w) => w.name.to_string(),
            Object::Policy(p) => p.name.to_string(),
            Object::Job(j) => j.order.alias.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// An object that is there.
#[derive(Debug, Clone)]
struct Found {
    object: Object,
    /// What it is for ever: a uid, or the id of a job.
    id: String,
    /// What it was when it was read.
    etag: String,
    /// A job that has ended.
    ended: Option<String>,
}

/// What is there, by kind and name.
type State = BTreeMap<(Kind, String), Found>;

/// A set of objects that is to be so.
#[derive(Debug, Clone)]
pub struct Apply {
    /// The objects; each kind's names once.
    pub objects: Vec<Object>,
    /// Delete what was put there by files and is not among them.
    pub prune: bool,
    /// What stands for the changes that are expected; empty for whichever they are.
    pub etag: String,
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it was; none if it was made.
    pub before: Option<Object>,
    /// What it is; none if it was deleted.
    pub after: Option<Object>,
    /// What else there is to know of it.
    pub note: String,
}

impl Change {
    /// The object that it is about.
    pub fn object(&self) -> Option<&Object> {
        self.after.as_ref().or(self.before.as_ref())
    }

    /// `groups/NAME` and the like.
    pub fn name(&self) -> String {
        self.object().map(|o| format!("{}/{}", o.kind().collection(), o.name())).unwrap_or_default()
    }
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Applied {
    /// In its order.
    pub changes: Vec<Change>,
    /// What was there as it should be, and counts as put there by files from now on.
    pub adopted: Vec<String>,
    /// What stands for these changes.
    pub etag: String,
}

/// Everything that is there and that files can carry; with a scope, of jobs those within it.
async fn state(tx: &mut dyn Tx, env: &Env) -> Result<State> {
    let mut all = Vec::new();
    all.extend(question::all(tx).await?);
    all.extend(group::all(tx).await?);
    all.extend(window::all(tx).await?);
    all.extend(policy::all(tx).await?);
    all.extend(job::all(tx, env).await?);
    Ok(all.into_iter().map(|found| ((found.object.kind(), found.object.name()), found)).collect())
}

/// Everything that is there, by kind and name, and the jobs that can't be named.
pub async fn export(tx: &mut dyn Tx, env: &Env) -> Result<(Vec<Object>, Vec<JobId>)> {
    let objects = state(tx, env).await?.into_values().filter(|found| found.ended.is_none()).map(|found| found.object).collect();
    Ok((objects, job::unnamed(tx, env).await?))
}

/// What is to be done with one of the objects.
enum Step {
    Make { note: String },
    Change(Box<Found>),
    Leave,
}

/// Makes what is there be as the objects say.
pub async fn apply(tx: &mut dyn Tx, env: &Env, input: &Apply) -> Result<Applied> {
    let before = state(tx, env).await?;
    let by_files = by_files(tx).await?;
    let placing = env.reach == Reach::Everywhere;
    let mut work = Work::default();
    let mut wanted: Vec<(Object, Step)> = Vec::new();
    for object in &input.objects {
        wanted.push(step(tx, env, object, &before).await?);
    }
    let named: BTreeSet<(Kind, String)> = input.objects.iter().map(|o| (o.kind(), o.name())).collect();
    let pruned: Vec<&Found> = before
        .iter()
        .filter(|(key, found)| {
            let ours = by_files.contains(&(key.0, found.id.clone())) && (placing || key.0 == Kind::Job);
            input.prune && ours && found.ended.is_none() && !named.contains(*key)
        })
        .map(|(_, found)| found)
        .collect();
    // What goes makes room for what comes, and what is referred to goes last.
    for kind in [Kind::Job, Kind::Policy, Kind::Window] {
        for found in pruned.iter().filter(|f| f.object.kind() == kind) {
            work.delete(tx, env, found).await?;
        }
    }
    for (kind, late) in [
        (Kind::Question, false),
        (Kind::Group, false),
        (Kind::Window, false),
        (Kind::Policy, false),
        (Kind::Group, true),
        (Kind::Job, false),
    ] {
        for (n, (object, step)) in wanted.iter().enumerate() {
            if object.kind() == kind && group::is_late(object, step) == late {
                work.carry_out(tx, env, n, object, step).await?;
            }
        }
    }
    for kind in [Kind::Question, Kind::Group] {
        for found in pruned.iter().filter(|f| f.object.kind() == kind) {
            work.delete(tx, env, found).await?;
        }
    }
    let Work { wrong, done } = work;
    wrong.done()?;
    let after = state(tx, env).await?;
    let mut changes = Vec::new();
    for (key, note) in done {
        let kept = after.get(&key).filter(|found| found.ended.is_none());
        let was = before.get(&key).filter(|found| found.ended.is_none());
        changes.push(Change { before: was.map(|f| f.object.clone()), after: kept.map(|f| f.object.clone()), note });
    }
    is_as_wanted(tx, env, &wanted, &after, !pruned.is_empty()).await?;
    let etag = Digest::of(format!("{changes:?}").as_bytes()).to_string();
    if !input.etag.is_empty() && input.etag != etag {
        return Err(AppError::Stale("the configuration".into()));
    }
    let adopted = note_files(tx, &wanted, &after, &by_files, placing).await?;
    for found in pruned {
        tx.forget_configured(found.object.kind().word(), &found.id).await?;
    }
    if !changes.is_empty() || !adopted.is_empty() {
        env.audit(tx, "apply_configuration", "configuration", described(&changes, &adopted)).await?;
    }
    Ok(Applied { changes, adopted, etag })
}

/// What was put there by files.
async fn by_files(tx: &mut dyn Tx) -> Result<BTreeSet<(Kind, String)>> {
    let mut all = BTreeSet::new();
    for kind in Kind::ALL {
        all.extend(tx.configured(kind.word()).await?.into_iter().map(|id| (kind, id)));
    }
    Ok(all)
}

/// The object as it is wanted beside what is there, and what that comes to.
async fn step(tx: &mut dyn Tx, env: &Env, object: &Object, state: &State) -> Result<(Object, Step)> {
    let Some(found) = state.get(&(object.kind(), object.name())) else { return Ok((object.clone(), Step::Make { note: String::new() })) };
    let object = beside(tx, env, object, found).await?;
    let step = match &found.ended {
        _ if object == found.object => Step::Leave,
        Some(how) => Step::Make { note: format!("jobs/{} was it, which is {how}", found.id) },
        None => Step::Change(Box::new(found.clone())),
    };
    Ok((object, step))
}

/// The object as it is wanted, read beside the one that is there.
async fn beside(tx: &mut dyn Tx, env: &Env, object: &Object, found: &Found) -> Result<Object> {
    Ok(match (object, &found.object) {
        (Object::Job(wanted), Object::Job(is)) => {
            let wanted = job::beside(wanted, is, found.ended.is_some());
            Object::Job(Box::new(job::in_order(tx, env, wanted, is).await?))
        }
        _ => object.clone(),
    })
}

/// What is under way.
#[derive(Default)]
struct Work {
    wrong: Violations,
    /// What something happened to, and what is to be said of it.
    done: Vec<((Kind, String), String)>,
}

impl Work {
    async fn carry_out(&mut self, tx: &mut dyn Tx, env: &Env, n: usize, object: &Object, step: &Step) -> Result<()> {
        if matches!(step, Step::Leave) {
            return Ok(());
        }
        may_change(env, object)?;
        let (out, note) = match step {
            Step::Leave => return Ok(()),
            Step::Make { note } => (make(tx, env, object).await, note.clone()),
            Step::Change(found) => (change(tx, env, found, object).await, note(found, object)),
        };
        match out {
            Ok(()) => self.done.push(((object.kind(), object.name()), note)),
            Err(error) => self.refused(&format!("objects[{n}].{}", object.kind().word()), error)?,
        }
        Ok(())
    }

    async fn delete(&mut self, tx: &mut dyn Tx, env: &Env, found: &Found) -> Result<()> {
        may_change(env, &found.object)?;
        let out = match &found.object {
            Object::Question(q) => questions::delete(tx, env, &q.name, false).await.map(drop),
            Object::Group(g) => group::delete(tx, env, &g.name).await,
            Object::Window(w) => windows::delete(tx, env, &w.name).await,
            Object::Policy(p) => policies::delete(tx, env, &p.name).await,
            Object::Job(_) => job::delete(tx, env, found).await,
        };
        match out {
            Ok(()) => self.done.push(((found.object.kind(), found.object.name()), String::new())),
            Err(error) => {
                self.refused(&format!("prune.{}/{}", found.object.kind().collection(), found.object.name()), error)?;
            }
        }
        Ok(())
    }

    /// Notes what is wrong with an object, so that all of it is said at once; what is wrong with the manager is said alone.
    fn refused(&mut self, at: &str, error: AppError) -> Result<()> {
        match error {
            AppError::Invalid(all) => {
                for violation in all {
                    self.wrong.add(&format!("{at}.{}", violation.field), violation.description);
                }
            }
            AppError::NotFound { .. } | AppError::Exists { .. } | AppError::State { .. } => self.wrong.add(at, error.to_string()),
            other => return Err(other),
        }
        Ok(())
    }
}

/// Whoever places clients needs a role without a scope, as for the calls of that kind.
fn may_change(env: &Env, object: &Object) -> Result<()> {
    if env.reach == Reach::Everywhere || object.kind() == Kind::Job {
        return Ok(());
    }
    let (collection, name) = (object.kind().collection(), object.name());
    Err(AppError::Denied(format!(
        "{collection}/{name} would change, and that needs a role without a scope; with one for some groups you can apply jobs alone"
    )))
}

async fn make(tx: &mut dyn Tx, env: &Env, object: &Object) -> Result<()> {
    match object {
        Object::Question(q) => questions::create(tx, env, q).await.map(drop),
        Object::Group(g) => groups::create(tx, env, g).await.map(drop),
        Object::Window(w) => windows::create(tx, env, w).await.map(drop),
        Object::Policy(p) => policies::create(tx, env, p).await.map(drop),
        Object::Job(j) if j.draft => jobs::create(tx, env, &j.order).await.map(drop),
        Object::Job(j) => jobs::run(tx, env, &j.order).await.map(drop),
    }
}

/// What is to be said of a change besides what is different.
fn note(found: &Found, object: &Object) -> String {
    match (&found.object, object) {
        (Object::Policy(is), Object::Policy(wanted)) if policy::is_made_anew(is, wanted) => {
            "made anew: whom it registered stays, and who is new counts from now on".into()
        }
        _ => String::new(),
    }
}

async fn change(tx: &mut dyn Tx, env: &Env, found: &Found, object: &Object) -> Result<()> {
    match (&found.object, object) {
        (Object::Question(is), Object::Question(wanted)) => question::change(tx, env, found, is, wanted).await,
        (Object::Group(is), Object::Group(wanted)) => group::change(tx, env, found, is, wanted).await,
        (Object::Window(is), Object::Window(wanted)) => window::change(tx, env, found, is, wanted).await,
        (Object::Policy(is), Object::Policy(wanted)) => policy::change(tx, env, found, is, wanted).await,
        (Object::Job(is), Object::Job(wanted)) => job::change(tx, env, found, is, wanted).await,
        _ => Err(AppError::Bug("an object of another kind under the same name".into())),
    }
}

/// Says no where something is not as it should be although all was done: then a file would never be fulfilled.
async fn is_as_wanted(tx: &mut dyn Tx, env: &Env, wanted: &[(Object, Step)], after: &State, pruned: bool) -> Result<()> {
    for (object, step) in wanted {
        let found = after.get(&(object.kind(), object.name()));
        let is = match found {
            Some(found) => beside(tx, env, object, found).await? == found.object,
            None => false,
        };
        if !is {
            let (collection, name) = (object.kind().collection(), object.name());
            if matches!(step, Step::Leave) && pruned {
                let message = format!("{collection}/{name} refers to what would be deleted; keep that in the files, or change both");
                return Err(AppError::state(format!("{collection}/{name}"), "REFERS_TO_PRUNED", message));
            }
            if matches!(step, Step::Leave) {
                // Nothing was done to it here: somebody else changed it, at another manager.
                return Err(AppError::Stale(format!("{collection}/{name}")));
            }
            return Err(AppError::Bug(format!(
                "{collection}/{name} is not as it should be: {:?}, not {object:?}",
                found.map(|f| &f.object)
            )));
        }
    }
    Ok(())
}

/// Notes what files stand for from now on. Gives back what was there before without counting as that.
async fn note_files(
    tx: &mut dyn Tx,
    wanted: &[(Object, Step)],
    after: &State,
    by_files: &BTreeSet<(Kind, String)>,
    placing: bool,
) -> Result<Vec<String>> {
    let mut adopted = Vec::new();
    for (object, step) in wanted {
        let kind = object.kind();
        let Some(found) = after.get(&(kind, object.name())) else { continue };
        if by_files.contains(&(kind, found.id.clone())) || !(placing || kind == Kind::Job) {
            continue;
        }
        tx.configure(kind.word(), &found.id).await?;
        if matches!(step, Step::Leave) {
            adopted.push(format!("{}/{}", kind.collection(), object.name()));
        }
    }
    adopted.sort();
    Ok(adopted)
}

/// As it stands in the audit log.
fn described(changes: &[Change], adopted: &[String]) -> String {
    let mut words = Vec::new();
    for change in changes {
        let sign = match (&change.before, &change.after) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        words.push(format!("{sign} {}", change.name()));
    }
    words.extend(adopted.iter().map(|name| format!("= {name}")));
    let more = words.len().saturating_sub(NOTED);
    words.truncate(NOTED);
    if more > 0 {
        words.push(format!("and {more} more, each of which has an entry of its own if it changed"));
    }
    words.join(", ")
}
