//! Groups and memberships.

use super::unit::{Columns, Result, Unit};
use crate::{Groups, Page, bind};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{ClientId, GroupName, Timestamp, Uid};
use sutler_core::model::{Group, Membership};

macro_rules! group_columns {
    () => {
        "uid, name, description, restricted, join_mode, join_hash, members, created_ms, change"
    };
}
macro_rules! membership_columns {
    () => {
        "group_uid, client, source, source_name, since_ms"
    };
}

fn group(row: &mut Columns<'_>) -> Result<Group> {
    Ok(Group {
        uid: row.parse()?,
        name: row.parse()?,
        description: row.text()?,
        restricted: row.flag()?,
        join_mode: row.parse()?,
        join_hash: row.opt_text()?,
        members: row.int()?,
        created: row.time()?,
        change: row.int()?,
    })
}

fn membership(row: &mut Columns<'_>) -> Result<Membership> {
    Ok(Membership { group: row.parse()?, client: row.parse()?, source: row.parse()?, source_name: row.text()?, since: row.time()? })
}

#[async_trait]
impl Groups for Unit<'_> {
    async fn insert_group(&mut self, group: &Group) -> Result<()> {
        let change = self.change(1).await?;
        self.insert(
            "group",
            query!(
                "INSERT INTO client_group (uid, name, description, restricted, join_mode, join_hash, members, created_ms, change) \
                 VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8) ON CONFLICT DO NOTHING",
                group.uid.to_string(),
                group.name.to_string(),
                bind::text(&group.description),
                group.restricted,
                group.join_mode.as_str(),
                group.join_hash.as_deref().map(bind::text),
                bind::ms(group.created),
                change
            ),
        )
        .await
    }

    async fn group(&mut self, name: &GroupName) -> Result<Option<Group>> {
        let sql = self.lock(concat!("SELECT ", group_columns!(), " FROM client_group WHERE name = $1 AND deleted_ms IS NULL"));
        self.one("client_group", query!(sql, name.to_string()), group).await
    }

    async fn groups_by_uid(&mut self, uids: &[Uid]) -> Result<Vec<Group>> {
        let sql = concat!("SELECT ", group_columns!(), " FROM client_group WHERE uid", any!(1), " AND deleted_ms IS NULL ORDER BY uid");
        self.list("client_group", query!(sql, bind::list(uids)), group).await
    }

    async fn lock_groups(&mut self, uids: &[Uid]) -> Result<Vec<Group>> {
        let sql = self.lock(concat!(
            "SELECT ",
            group_columns!(),
            " FROM client_group WHERE uid",
            any!(1),
            " AND deleted_ms IS NULL ORDER BY uid"
        ));
        self.list("client_group", query!(sql, bind::list(uids)), group).await
    }

    async fn list_groups(&mut self, page: &Page) -> Result<Vec<Group>> {
        let sql = concat!("SELECT ", group_columns!(), " FROM client_group WHERE name > $1 AND deleted_ms IS NULL ORDER BY name LIMIT $2");
        self.list("client_group", query!(sql, bind::after(page), i64::from(page.limit)), group).await
    }

    async fn save_group(&mut self, group: &Group) -> Result<()> {
        let change = self.change(1).await?;
        self.save(
            "group",
            group.uid.as_str(),
            query!(
                "UPDATE client_group SET name = $2, description = $3, restricted = $4, join_mode = $5, join_hash = $6, change = $7 \
                 WHERE uid = $1 AND deleted_ms IS NULL",
                group.uid.to_string(),
                group.name.to_string(),
                bind::text(&group.description),
                group.restricted,
                group.join_mode.as_str(),
                group.join_hash.as_deref().map(bind::text),
                change
            ),
        )
        .await
    }

    async fn delete_group(&mut self, uid: &Uid, now: Timestamp) -> Result<()> {
        let change = self.change(1).await?;
        let sql = "UPDATE client_group SET deleted_ms = $2, members = 0, change = $3 WHERE uid = $1 AND deleted_ms IS NULL";
        self.save("group", uid.as_str(), query!(sql, uid.to_string(), bind::ms(now), change)).await?;
        self.run(query!("DELETE FROM membership WHERE group_uid = $1", uid.to_string())).await?;
        self.run(query!("DELETE FROM membership_hold WHERE group_uid = $1", uid.to_string())).await?;
        self.run(query!("DELETE FROM transfer_limit WHERE group_uid = $1", uid.to_string())).await?;
        self.run(query!("DELETE FROM transfer_suspension WHERE group_uid = $1", uid.to_string())).await?;
        self.run(query!("DELETE FROM breaker WHERE scope = 'GROUP' AND target = $1", uid.to_string())).await?;
        Ok(())
    }

    async fn insert_memberships(&mut self, memberships: &[Membership]) -> Result<Vec<Membership>> {
        // The groups' rows are written below; locked first, a group can't be deleted in between and keep a member.
        let wanted: BTreeSet<&Uid> = memberships.iter().map(|m| &m.group).collect();
        let wanted: Vec<&Uid> = wanted.into_iter().collect();
        let sql = self.lock(concat!("SELECT uid FROM client_group WHERE uid", any!(1), " AND deleted_ms IS NULL ORDER BY uid"));
        let live = self.list("client_group", query!(sql, bind::list(&wanted)), |row| row.parse::<Uid>()).await?;
        let mut given: BTreeMap<(&str, &str), &Membership> = BTreeMap::new();
        for m in memberships.iter().filter(|m| live.contains(&m.group)) {
            given.entry((m.group.as_str(), m.client.as_str())).or_insert(m);
        }
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = given
            .values()
            .map(|m| (m.group.as_str(), m.client.as_str(), m.source.as_str(), bind::text(&m.source_name), bind::ms(m.since)))
            .collect();
        let added = self
            .list(
                "membership",
                query!(
                    concat!(
                        "INSERT INTO membership (",
                        membership_columns!(),
                        ") SELECT v.value->>0, v.value->>1, v.value->>2, v.value->>3, CAST(v.value->>4 AS BIGINT) FROM",
                        each!(1),
                        "WHERE TRUE ON CONFLICT DO NOTHING RETURNING group_uid, client"
                    ),
                    bind::json(&rows)
                ),
                |row| Ok((row.text()?, row.text()?)),
            )
            .await?;
        let mut more: BTreeMap<&str, i64> = BTreeMap::new();
        for (group, _) in &added {
            *more.entry(group).or_default() += 1;
        }
        for (group, n) in more {
            self.run(query!("UPDATE client_group SET members = members + $2 WHERE uid = $1", group.to_owned(), n)).await?;
        }
        Ok(added.iter().filter_map(|(group, client)| given.get(&(group.as_str(), client.as_str())).copied().cloned()).collect())
    }

    async fn delete_memberships(&mut self, group: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>> {
        // The group's row first, as everybody else does.
        let sql = self.lock("SELECT uid FROM client_group WHERE uid = $1");
        self.row(query!(sql, group.to_string())).await?;
        let sql = concat!("DELETE FROM membership WHERE group_uid = $1 AND client", any!(2), " RETURNING client");
        let mut ended = self.list("membership", query!(sql, group.to_string(), bind::list(clients)), |row| row.parse::<ClientId>()).await?;
        if !ended.is_empty() {
            let sql = "UPDATE client_group SET members = members - $2 WHERE uid = $1";
            self.run(query!(sql, group.to_string(), ended.len() as i64)).await?;
        }
        ended.sort();
        Ok(ended)
    }

    async fn memberships_of(&mut self, client: &ClientId) -> Result<Vec<Membership>> {
        let sql = concat!("SELECT ", membership_columns!(), " FROM membership WHERE client = $1 ORDER BY group_uid");
        self.list("membership", query!(sql, client.to_string()), membership).await
    }

    async fn memberships_of_all(&mut self, clients: &[ClientId]) -> Result<Vec<Membership>> {
        let sql = concat!("SELECT ", membership_columns!(), " FROM membership WHERE client", any!(1), " ORDER BY client, group_uid");
        self.list("membership", query!(sql, bind::list(clients)), membership).await
    }

    async fn list_members(&mut self, group: &Uid, page: &Page) -> Result<Vec<Membership>> {
        let sql =
            concat!("SELECT ", membership_columns!(), " FROM membership WHERE group_uid = $1 AND client > $2 ORDER BY client LIMIT $3");
        self.list("membership", query!(sql, group.to_string(), bind::after(page), i64::from(page.limit)), membership).await
    }

    async fn held_out(&mut self, group: &Uid, clients: &[ClientId]) -> Result<Vec<ClientId>> {
        let sql = concat!("SELECT client FROM membership_hold WHERE group_uid = $1 AND client", any!(2), " ORDER BY client");
        self.list("membership_hold", query!(sql, group.to_string(), bind::list(clients)), |row| row.parse()).await
    }

    async fn hold_out(&mut self, group: &Uid, clients: &[ClientId], by: &str, now: Timestamp) -> Result<()> {
        let clients: BTreeSet<&str> = clients.iter().map(ClientId::as_str).collect();
        let clients: Vec<&str> = clients.into_iter().collect();
        self.run(query!(
            concat!(
                "INSERT INTO membership_hold (group_uid, client, creator, time_ms) SELECT $2, c.id, $3, $4 FROM client c WHERE c.id",
                any!(1),
                " ORDER BY c.id ON CONFLICT DO NOTHING"
            ),
            bind::list(&clients),
            group.to_string(),
            bind::text(by),
            bind::ms(now)
        ))
        .await?;
        Ok(())
    }

    async fn release_hold(&mut self, group: &Uid, clients: &[ClientId]) -> Result<u64> {
        let sql = concat!("DELETE FROM membership_hold WHERE group_uid = $1 AND client", any!(2));
        self.run(query!(sql, group.to_string(), bind::list(clients))).await
    }
}
