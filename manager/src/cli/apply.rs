//! `sutler apply` and `sutler export`: a fleet as it stands in files.
//!
//! What would change is asked first and shown as a diff. Then exactly that is ordered: if anything is otherwise by then, nothing is
//! done.

use super::{
    approval::ConfirmArg,
    ask::confirm,
    error::CliError,
    output::{self, printable},
    session::{Session, call, request_id},
};
use crate::documents::{self, FILE_MAX, Format, Placed};
use clap::{Args, ValueEnum as _};
use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};
use sutler_base::limits;
use sutler_proto::v1;
use tonic_types::StatusExt as _;

/// Examples of `sutler apply`.
pub const APPLY_EXAMPLES: &str = "Examples:
  sutler apply -f fleet/ --dry-run
  sutler apply -f fleet/
  sutler apply -f fleet/ --prune --yes

A file has lists of objects by their kind, with the members of the API:
  [[group]]
  name = \"web-servers\"
  [[policy]]
  name = \"web\"
  group = \"web-servers\"
  condition = 'labels.role == \"web\"'
  [[job]]
  name = \"web-everywhere\"
  packages = [{ package = \"web@1.2\" }]
  destinations = [\"groups/web-servers\"]

With --dry-run it ends with 0 if nothing would change, with 31 otherwise.";
/// Examples of `sutler export`.
pub const EXPORT_EXAMPLES: &str = "Examples:
  sutler export -o fleet/
  sutler export --format yaml > fleet.yaml";

/// The first line of a file that an export wrote: another export may write over it. Without it the file is somebody's own.
const EXPORTED: &str = "# Written by `sutler export`, and by the next one again; without this line it is yours.";
/// How deep folders are looked into.
const DEPTH_MAX: usize = 16;
/// How many files are read at the most.
const FILES_MAX: usize = 1000;
/// The exit code of a dry run where something would change.
const WOULD_CHANGE: u8 = 31;

/// What to apply.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A file, or a folder whose .toml, .yaml and .yml files are read, with its subfolders; may be given several times
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
    /// Also delete what was applied before and stands in the files no more; jobs are canceled. What was made otherwise stays
    #[arg(long)]
    prune: bool,
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Confirms how many clients that reaches
    #[command(flatten)]
    confirm: ConfirmArg,
}

/// What to export.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A folder in which a file is written for each kind of object, in place of those of an earlier export; - for the standard output.
    /// A file that no export wrote is left as it is, and in the way of one that is to be written it is refused
    #[arg(short = 'o', long = "output", value_name = "DIR", default_value = "-")]
    output: PathBuf,
    /// How files are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// An object, and in which file it stands.
struct Sourced {
    file: PathBuf,
    placed: Placed,
}

/// `sutler apply`
pub async fn apply(args: ApplyArgs, session: &Session) -> Result<u8, CliError> {
    let objects = read(&args.file)?;
    let request = v1::ApplyConfigurationRequest {
        objects: objects.iter().map(|o| o.placed.object.clone()).collect(),
        prune: args.prune,
        validate_only: true,
        ..Default::default()
    };
    let plan = send(session, request.clone(), &objects).await?;
    output::print(&diff(&plan.changes))?;
    let (made, changed, deleted) = count(&plan.changes);
    if plan.changes.is_empty() {
        session.tell(&format!("nothing to change: {} objects are as the files say", objects.len()));
    }
    if args.dry_run {
        return Ok(if plan.changes.is_empty() { 0 } else { WOULD_CHANGE });
    }
    if plan.changes.is_empty() && plan.adopted.is_empty() {
        return Ok(0);
    }
    if !plan.changes.is_empty() {
        confirm(&format!("Make {made}, change {changed}, delete {deleted}?"), args.yes)?;
    }
    let request = v1::ApplyConfigurationRequest {
        validate_only: false,
        etag: plan.etag,
        confirm: args.confirm.confirm,
        request_id: request_id()?,
        ..request
    };
    let done = send(session, request, &objects).await?;
    if !done.changes.is_empty() {
        session.tell(&format!("applied: {made} made, {changed} changed, {deleted} deleted"));
    }
    if !done.adopted.is_empty() {
        session.tell(&format!("{} objects that were there are kept by files from now on: {}", done.adopted.len(), done.adopted.join(" ")));
    }
    Ok(0)
}

/// `sutler export`
pub async fn export(args: ExportArgs, session: &Session) -> Result<u8, CliError> {
    let answer = call!(session, configuration.export_configuration(v1::ExportConfigurationRequest {}), "export the configuration")?;
    let files = documents::write(&answer.objects, args.format);
    if args.output.as_os_str() == "-" {
        let texts: Vec<_> = files.into_iter().map(|(_, text)| text).collect();
        output::print(&texts.join("\n"))?;
    } else {
        let failed = |path: &Path, source| CliError::File { tried: "write", path: path.into(), source };
        std::fs::create_dir_all(&args.output).map_err(|e| failed(&args.output, e))?;
        let files: Vec<_> =
            files.into_iter().map(|(kind, text)| (args.output.join(format!("{kind}.{}", args.format.extension())), text)).collect();
        // All of it is looked at before anything is written.
        for (path, _) in &files {
            if is_exported(path)? == Some(false) {
                return Err(CliError::Local {
                    tried: format!("write {}", path.display()),
                    why: "no export wrote the file that is there".into(),
                    hint: Some("move it to another name, or choose another folder".into()),
                });
            }
        }
        let mut written = Vec::new();
        for (path, text) in files {
            put(&path, &format!("{EXPORTED}\n{text}")).map_err(|e| failed(&path, e))?;
            session.tell(&format!("wrote {}", path.display()));
            written.push(path);
        }
        // What an earlier export wrote would be applied as well.
        let earlier = documents::names().flat_map(|kind| {
            Format::value_variants().iter().map(move |format| format!("{kind}.{}", format.extension())).collect::<Vec<_>>()
        });
        for path in earlier.map(|name| args.output.join(name)).filter(|path| !written.contains(path)) {
            match is_exported(&path)? {
                None => {}
                Some(false) => session.tell(&format!("left {}, which no export wrote; apply reads it, too", path.display())),
                Some(true) => match std::fs::remove_file(&path) {
                    Ok(()) => session.tell(&format!("removed {}", path.display())),
                    Err(source) => return Err(CliError::File { tried: "remove", path, source }),
                },
            }
        }
    }
    if !answer.unnamed_jobs.is_empty() {
        let message =
            format!("left out, since they have no alias: {}; `job update JOB --alias NAME` gives one", answer.unnamed_jobs.join(" "));
        session.tell(&message);
    }
    Ok(0)
}

/// Whether an export wrote the file of this name; nothing if there is none.
fn is_exported(path: &Path) -> Result<Option<bool>, CliError> {
    let failed = |source| CliError::File { tried: "read", path: path.into(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut begin = Vec::new();
    file.take(EXPORTED.len() as u64 + 1).read_to_end(&mut begin).map_err(failed)?;
    Ok(Some(begin == format!("{EXPORTED}\n").as_bytes()))
}

/// Writes a file whole or not at all.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    // Its name begins with a dot: what is left of it is nobody's file.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

/// Sends the objects; what is wrong with them is said with their files and lines.
async fn send(
    session: &Session,
    request: v1::ApplyConfigurationRequest,
    objects: &[Sourced],
) -> Result<v1::ApplyConfigurationResponse, CliError> {
    let answer = call!(session, configuration.apply_configuration(request), "apply the files");
    answer.map_err(|error| match error {
        CliError::Call { tried, status } => match status.get_error_details().bad_request() {
            Some(bad) => {
                CliError::Documents { wrong: bad.field_violations.iter().map(|v| placed(&v.field, &v.description, objects)).collect() }
            }
            None => CliError::Call { tried, status },
        },
        other => other,
    })
}

/// A violation with its place in the files instead of that in the request: `objects[3].policy.condition`.
fn placed(field: &str, description: &str, objects: &[Sourced]) -> String {
    let found = field.strip_prefix("objects[").and_then(|rest| rest.split_once(']')).and_then(|(n, path)| {
        let object = objects.get(n.parse::<usize>().ok()?)?;
        Some((object, path.trim_start_matches('.')))
    });
    let Some((object, path)) = found else { return format!("{field}: {description}") };
    let path = path.split_once('.').map_or("", |(_, path)| path);
    let colon = if path.is_empty() { String::new() } else { format!("{path}: ") };
    format!("{}:{}: {}: {colon}{description}", object.file.display(), object.placed.line_of(path), object.placed.title)
}

fn count(changes: &[v1::ConfigurationChange]) -> (usize, usize, usize) {
    let of = |action: v1::ChangeAction| changes.iter().filter(|c| c.action() == action).count();
    (of(v1::ChangeAction::Create), of(v1::ChangeAction::Update), of(v1::ChangeAction::Delete))
}

/// Changes as people read them.
fn diff(changes: &[v1::ConfigurationChange]) -> String {
    let mut out = String::new();
    for change in changes {
        let (collection, name) = change.object.split_once('/').unwrap_or(("", &change.object));
        let kind = match collection {
            "policies" => "policy",
            other => other.trim_end_matches('s'),
        };
        let note = if change.note.is_empty() { String::new() } else { format!("  ({})", change.note) };
        let mut line = |text: String| {
            let _ = writeln!(out, "{}", printable(&text));
        };
        match change.action() {
            v1::ChangeAction::Update => {
                for field in &change.fields {
                    let or_none = |value: &str| if value.is_empty() { "none".to_owned() } else { value.to_owned() };
                    line(format!("~ {kind} {name}: {} {} → {}{note}", field.field, or_none(&field.old_value), or_none(&field.new_value)));
                }
            }
            v1::ChangeAction::Delete => line(format!("- {kind} {name}{note}")),
            v1::ChangeAction::Create | v1::ChangeAction::Unspecified => {
                line(format!("+ {kind} {name}{note}"));
                for field in &change.fields {
                    line(format!("    {} = {}", field.field, field.new_value));
                }
            }
        }
    }
    out
}

/// The objects of all these files and folders.
fn read(paths: &[PathBuf]) -> Result<Vec<Sourced>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        find(path, 0, &mut files)?;
        if files.len() == before {
            return Err(CliError::usage(format!("{}: there is no .toml, .yaml or .yml file in it", path.display())));
        }
    }
    let (mut objects, mut wrong) = (Vec::new(), Vec::new());
    for (file, format) in files {
        let text = super::ask::read_text(&file, FILE_MAX)?;
        match documents::read(&text, format) {
            Ok(found) => objects.extend(found.into_iter().map(|placed| Sourced { file: file.clone(), placed })),
            Err(problems) => wrong.extend(problems.iter().map(|p| format!("{}:{}: {}", file.display(), p.line, p.sentence))),
        }
    }
    if objects.len() > limits::CONFIGURATION_MAX {
        wrong.push(format!("the files have {} objects, and at most {} are applied together", objects.len(), limits::CONFIGURATION_MAX));
    }
    if wrong.is_empty() { Ok(objects) } else { Err(CliError::Documents { wrong }) }
}

/// The file, or the files of the folder that are meant, in the order of their names.
fn find(path: &Path, depth: usize, files: &mut Vec<(PathBuf, Format)>) -> Result<(), CliError> {
    let failed = |source| CliError::File { tried: "read", path: path.into(), source };
    let format = match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => Some(Format::Toml),
        Some("yaml" | "yml") => Some(Format::Yaml),
        _ => None,
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        match format {
            Some(format) => files.push((path.to_owned(), format)),
            None if depth == 0 => {
                return Err(CliError::usage(format!("{}: the name of a file ends in .toml, .yaml or .yml", path.display())));
            }
            None => {}
        }
        if files.len() > FILES_MAX {
            return Err(CliError::usage(format!("{}: more than {FILES_MAX} files", path.display())));
        }
        return Ok(());
    }
    if depth > DEPTH_MAX {
        return Err(CliError::usage(format!("{}: folders lie at most {DEPTH_MAX} deep in each other", path.display())));
    }
    let mut inside: Vec<PathBuf> =
        std::fs::read_dir(path).map_err(failed)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed)?;
    inside.sort();
    // What begins with a dot is somebody else's: .git, an editor's.
    let hidden = |p: &PathBuf| p.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    for path in inside.iter().filter(|p| !hidden(p)) {
        find(path, depth + 1, files)?;
    }
    Ok(())
}
