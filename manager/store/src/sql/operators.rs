//! Operators and what they may do.

use super::unit::{Columns, Result, Unit};
use crate::{Operators, Page, bind};
use async_trait::async_trait;
use std::collections::BTreeSet;
use sutler_base::{OperatorName, Timestamp, Uid, state::Role};
use sutler_core::{
    approval::Voice,
    model::{Grant, Operator},
};

macro_rules! operator_columns {
    () => {
        "name, created_ms, creator, revoked_ms, roles, given_ms, approver_since_ms, approver_until_ms, change"
    };
}

/// Grants as they are stored.
type Roles = Vec<(Role, Option<BTreeSet<Uid>>)>;

fn roles(grants: &[Grant]) -> String {
    let roles: Roles = grants.iter().map(|g| (g.role, g.groups.clone())).collect();
    bind::json(&roles)
}

fn read(row: &mut Columns<'_>) -> Result<Operator> {
    Ok(Operator {
        name: row.parse()?,
        created: row.time()?,
        creator: row.text()?,
        revoked: row.opt_time()?,
        grants: row.json::<Roles>()?.into_iter().map(|(role, groups)| Grant { role, groups }).collect(),
        voice: Voice { given: row.opt_time()?, since: row.opt_time()?, until: row.opt_time()? },
        change: row.int()?,
    })
}

#[async_trait]
impl Operators for Unit<'_> {
    async fn insert_operator(&mut self, operator: &Operator) -> Result<()> {
        let change = self.change(1).await?;
        let sql =
            concat!("INSERT INTO operator (", operator_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING");
        let query = query!(
            sql,
            operator.name.to_string(),
            bind::ms(operator.created),
            bind::text(&operator.creator),
            bind::opt_ms(operator.revoked),
            roles(&operator.grants),
            bind::opt_ms(operator.voice.given),
            bind::opt_ms(operator.voice.since),
            bind::opt_ms(operator.voice.until),
            change
        );
        self.insert("operator", query).await
    }

    async fn operator(&mut self, name: &OperatorName) -> Result<Option<Operator>> {
        let query = query!(concat!("SELECT ", operator_columns!(), " FROM operator WHERE name = $1"), name.to_string());
        self.one("operator", query, read).await
    }

    async fn list_operators(&mut self, page: &Page) -> Result<Vec<Operator>> {
        let sql = concat!("SELECT ", operator_columns!(), " FROM operator WHERE name > $1 ORDER BY name LIMIT $2");
        self.list("operator", query!(sql, bind::after(page), i64::from(page.limit)), read).await
    }

    async fn lock_operators(&mut self) -> Result<Vec<Operator>> {
        let sql = self.lock(concat!("SELECT ", operator_columns!(), " FROM operator WHERE revoked_ms IS NULL ORDER BY name"));
        self.list("operator", query!(sql), read).await
    }

    async fn set_grants(&mut self, name: &OperatorName, grants: &[Grant]) -> Result<()> {
        let change = self.change(1).await?;
        let query = query!("UPDATE operator SET roles = $2, change = $3 WHERE name = $1", name.to_string(), roles(grants), change);
        self.save("operator", name.as_str(), query).await
    }

    async fn set_voice(&mut self, name: &OperatorName, voice: &Voice) -> Result<()> {
        let query = query!(
            "UPDATE operator SET given_ms = $2, approver_since_ms = $3, approver_until_ms = $4 WHERE name = $1",
            name.to_string(),
            bind::opt_ms(voice.given),
            bind::opt_ms(voice.since),
            bind::opt_ms(voice.until)
        );
        self.save("operator", name.as_str(), query).await
    }

    async fn revoke_operator(&mut self, name: &OperatorName, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let query = query!("UPDATE operator SET revoked_ms = $2, change = $3 WHERE name = $1", name.to_string(), bind::ms(now), change);
        self.save("operator", name.as_str(), query).await
    }
}
