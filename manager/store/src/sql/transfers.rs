//! How fast bytes may flow, and whose stand still.

use super::unit::{Columns, Result, Unit};
use crate::{Transfers, bind};
use async_trait::async_trait;
use sutler_base::Uid;
use sutler_core::transfer::{Limit, Scope, Suspension};

macro_rules! limit_columns {
    () => {
        "uid, scope, group_uid, rate, hours, creator, created_ms"
    };
}

fn limit(row: &mut Columns<'_>) -> Result<Limit> {
    let uid = row.parse()?;
    let scope = row.text()?;
    let scope = match scope.as_str() {
        "MANAGER" => Some(Scope::Manager),
        "EACH_CLIENT" => Some(Scope::EachClient),
        "GROUP" => None,
        other => return Err(row.unknown(other)),
    };
    let group = row.opt_parse()?;
    let scope = match (scope, group) {
        (Some(scope), _) => scope,
        (None, Some(group)) => Scope::Group(group),
        (None, None) => return Err(row.unknown("of a group that is not named")),
    };
    Ok(Limit { uid, scope, rate: row.number()?, hours: row.json()?, creator: row.text()?, created: row.time()? })
}

fn suspension(row: &mut Columns<'_>) -> Result<Suspension> {
    Ok(Suspension { group: row.parse()?, creator: row.text()?, since: row.time()? })
}

#[async_trait]
impl Transfers for Unit<'_> {
    async fn insert_transfer_limit(&mut self, limit: &Limit) -> Result<()> {
        let (scope, group) = match &limit.scope {
            Scope::Manager => ("MANAGER", None),
            Scope::Group(uid) => ("GROUP", Some(uid.to_string())),
            Scope::EachClient => ("EACH_CLIENT", None),
        };
        self.insert(
            "transfer limit",
            query!(
                concat!("INSERT INTO transfer_limit (", limit_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"),
                limit.uid.to_string(),
                scope,
                group,
                bind::int(limit.rate)?,
                bind::json(&limit.hours),
                bind::text(&limit.creator),
                bind::ms(limit.created)
            ),
        )
        .await
    }

    async fn transfer_limits(&mut self) -> Result<Vec<Limit>> {
        let sql = concat!("SELECT ", limit_columns!(), " FROM transfer_limit ORDER BY uid");
        self.list("transfer_limit", query!(sql), limit).await
    }

    async fn delete_transfer_limit(&mut self, uid: &Uid) -> Result<bool> {
        Ok(self.run(query!("DELETE FROM transfer_limit WHERE uid = $1", uid.to_string())).await? > 0)
    }

    async fn insert_suspension(&mut self, suspension: &Suspension) -> Result<bool> {
        let sql = "INSERT INTO transfer_suspension (group_uid, creator, since_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let query = query!(sql, suspension.group.to_string(), bind::text(&suspension.creator), bind::ms(suspension.since));
        Ok(self.run(query).await? > 0)
    }

    async fn suspensions(&mut self) -> Result<Vec<Suspension>> {
        let sql = "SELECT group_uid, creator, since_ms FROM transfer_suspension ORDER BY group_uid";
        self.list("transfer_suspension", query!(sql), suspension).await
    }

    async fn delete_suspension(&mut self, group: &Uid) -> Result<bool> {
        Ok(self.run(query!("DELETE FROM transfer_suspension WHERE group_uid = $1", group.to_string())).await? > 0)
    }
}
