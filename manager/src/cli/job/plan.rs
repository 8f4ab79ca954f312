//! Says what a job would come to, before it is run.

use super::{
    super::{
        error::CliError,
        names,
        output::{self, Column, Format, OutputArg, Record, word},
        session::{Session, call, pages},
        when::{bytes, moment},
    },
    order::OrderArgs,
};
use clap::Args;
use sutler_proto::v1;

/// What is planned.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub(super) order: OrderArgs,
    /// Every client, with what would come of it and why
    #[arg(long)]
    clients: bool,
    /// How to show it
    #[command(flatten)]
    output: OutputArg,
}

impl Record for v1::JobPlan {
    const TYPE: &'static str = "sutler.v1.JobPlan";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("plan", |p| names::short(&p.name).to_owned()),
        Column::new("packages", |p| p.packages.iter().map(|p| names::package_word(p)).collect::<Vec<_>>().join(" ")),
        Column::new("clients", |p| format!("{} of {}", p.clients, p.fleet_clients)),
        Column::new("verdicts", |p| counts(p.verdicts.iter().map(|c| (word!(PlanVerdict, "PLAN_VERDICT", c.verdict), c.clients)))),
        Column::new("contact", |p| counts(p.presences.iter().map(|c| (word!(Presence, "PRESENCE", c.presence), c.clients)))),
        Column::new("fetch", |p| bytes(u64::try_from(p.fetch_bytes).unwrap_or_default())),
        Column::new("stages", |p| p.stages.iter().map(|s| format!("{}: {}", s.stage, s.clients)).collect::<Vec<_>>().join("; ")),
        Column::new("windows", |p| p.openings.iter().map(|o| format!("{}: {}", moment(&o.time), o.clients)).collect::<Vec<_>>().join("; ")),
        Column::new("needs", |p| p.needs.clone()),
        Column::new("until", |p| moment(&p.expire_time)),
    ];
}

impl Record for v1::PlannedClient {
    const TYPE: &'static str = "sutler.v1.PlannedClient";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("client", |c| names::short(&c.client).to_owned()),
        Column::new("verdict", |c| word!(PlanVerdict, "PLAN_VERDICT", c.verdict)),
        Column::new("contact", |c| word!(Presence, "PRESENCE", c.presence)),
        Column::new("stage", |c| if c.stage == 0 { String::new() } else { c.stage.to_string() }),
        Column::new("fetch", |c| bytes(u64::try_from(c.fetch_bytes).unwrap_or_default())),
        Column::new("opens", |c| moment(&c.open_time)),
        Column::new("why", |c| c.why.clone()),
    ];
}

fn counts(of: impl Iterator<Item = (String, i64)>) -> String {
    of.map(|(word, n)| format!("{n} {}", word.to_lowercase().replace('_', " "))).collect::<Vec<_>>().join(", ")
}

/// `sutler job plan`
pub(super) async fn run(session: &Session, args: PlanArgs) -> Result<(), CliError> {
    let order = args.order.order(session)?;
    let plan = call!(session, plans.plan_job(v1::PlanJobRequest { order: Some(order.clone()) }), "plan the job")?.plan.unwrap_or_default();
    if !args.clients {
        output::show(&plan, args.output.format)?;
    } else {
        let request = v1::ListPlanClientsRequest { parent: plan.name.clone(), ..Default::default() };
        let clients = pages!(session, plans.list_plan_clients(request) -> clients, "list what the plan says of clients");
        output::list(&clients, args.output.format)?;
    }
    if args.output.format == Format::Table {
        let confirm = if plan.needs == "CONFIRM" { format!(" --confirm {}", plan.clients) } else { String::new() };
        session.tell(&format!("`sutler job run --plan {}{confirm}` runs exactly this", names::short(&plan.name)));
        if plan.needs == "APPROVAL" {
            session.tell("then it waits until another operator agrees");
        }
    }
    Ok(())
}
