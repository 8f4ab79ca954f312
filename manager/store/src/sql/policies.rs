//! Policies.

use super::unit::{Columns, Result, Unit};
use crate::{Page, Policies, bind};
use async_trait::async_trait;
use sutler_base::{PolicyName, Timestamp, Uid, state::Trigger};
use sutler_core::model::Policy;

macro_rules! policy_columns {
    () => {
        "uid, name, group_uid, trigger, condition, applies_to, on_mismatch, description, created_ms, change"
    };
}

fn policy(row: &mut Columns<'_>) -> Result<Policy> {
    Ok(Policy {
        uid: row.parse()?,
        name: row.parse()?,
        group: row.parse()?,
        trigger: row.parse()?,
        condition: row.text()?,
        applies_to: row.parse()?,
        on_mismatch: row.parse()?,
        description: row.text()?,
        created: row.time()?,
        change: row.int()?,
    })
}

#[async_trait]
impl Policies for Unit<'_> {
    async fn insert_policy(&mut self, policy: &Policy) -> Result<()> {
        let change = self.change(1).await?;
        self.insert(
            "policy",
            query!(
                concat!(
                    "INSERT INTO policy (",
                    policy_columns!(),
                    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING"
                ),
                policy.uid.to_string(),
                policy.name.to_string(),
                policy.group.to_string(),
                policy.trigger.as_str(),
                bind::text(&policy.condition),
                policy.applies_to.as_str(),
                policy.on_mismatch.as_str(),
                bind::text(&policy.description),
                bind::ms(policy.created),
                change
            ),
        )
        .await
    }

    async fn policy(&mut self, name: &PolicyName) -> Result<Option<Policy>> {
        let sql = self.lock(concat!("SELECT ", policy_columns!(), " FROM policy WHERE name = $1 AND deleted_ms IS NULL"));
        self.one("policy", query!(sql, name.to_string()), policy).await
    }

    async fn list_policies(&mut self, page: &Page, group: Option<&Uid>) -> Result<Vec<Policy>> {
        let (after, limit) = (bind::after(page), i64::from(page.limit));
        let query = match group {
            None => query!(
                concat!("SELECT ", policy_columns!(), " FROM policy WHERE name > $1 AND deleted_ms IS NULL ORDER BY name LIMIT $2"),
                after,
                limit
            ),
            Some(group) => query!(
                concat!(
                    "SELECT ",
                    policy_columns!(),
                    " FROM policy WHERE name > $1 AND group_uid = $3 AND deleted_ms IS NULL ORDER BY name LIMIT $2"
                ),
                after,
                limit,
                group.to_string()
            ),
        };
        self.list("policy", query, policy).await
    }

    async fn policies_with_trigger(&mut self, trigger: Option<Trigger>) -> Result<Vec<Policy>> {
        let query = match trigger {
            None => query!(concat!("SELECT ", policy_columns!(), " FROM policy WHERE deleted_ms IS NULL ORDER BY name")),
            Some(trigger) => query!(
                concat!("SELECT ", policy_columns!(), " FROM policy WHERE trigger = $1 AND deleted_ms IS NULL ORDER BY name"),
                trigger.as_str()
            ),
        };
        self.list("policy", query, policy).await
    }

    async fn save_policy(&mut self, policy: &Policy) -> Result<()> {
        let change = self.change(1).await?;
        self.save(
            "policy",
            policy.uid.as_str(),
            query!(
                "UPDATE policy SET name = $2, group_uid = $3, trigger = $4, condition = $5, applies_to = $6, on_mismatch = $7, \
                 description = $8, created_ms = $9, change = $10 WHERE uid = $1 AND deleted_ms IS NULL",
                policy.uid.to_string(),
                policy.name.to_string(),
                policy.group.to_string(),
                policy.trigger.as_str(),
                bind::text(&policy.condition),
                policy.applies_to.as_str(),
                policy.on_mismatch.as_str(),
                bind::text(&policy.description),
                bind::ms(policy.created),
                change
            ),
        )
        .await
    }

    async fn delete_policy(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE policy SET deleted_ms = $2, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("policy", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await
    }
}
