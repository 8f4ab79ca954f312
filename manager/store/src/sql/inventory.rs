//! What clients say of themselves: their facts, and what is installed on them.

use super::unit::{Columns, Result, Unit};
use crate::{FactsChange, Inventory, Page, SoftwareChange, StoreError, Titles, bind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use sutler_base::{ClientId, Uid, facts::Package};
use sutler_core::model::Title;

/// How many packages go into one statement.
const BATCH: usize = 5000;
/// Facts that are longer than this go into a statement of their own, as they are.
const SHORT: usize = 64 << 10;

/// A client's package as a row of a parameter.
type Installed<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

fn rows<'a>(changes: &'a [SoftwareChange], which: fn(&SoftwareChange) -> &[Package]) -> Vec<Installed<'a>> {
    let of = |change: &'a SoftwareChange| {
        let row =
            |p: &'a Package| (change.client.as_str(), p.name.as_str(), p.manager.as_str(), p.version.as_str(), p.architecture.as_str());
        which(change).iter().map(row)
    };
    changes.iter().flat_map(of).collect()
}

/// The titles of the rows of parameter 1 that exist.
macro_rules! titles {
    () => {
        concat!(
            each!(1),
            "CROSS JOIN software s WHERE s.name = v.value->>1 AND s.manager = v.value->>2 AND s.version = v.value->>3 \
             AND s.architecture = v.value->>4"
        )
    };
}

fn package(row: &mut Columns<'_>) -> Result<Package> {
    Ok(Package { name: row.text()?, manager: row.text()?, version: row.text()?, architecture: row.text()? })
}

fn title(row: &mut Columns<'_>) -> Result<Title> {
    Ok(Title { id: row.int()?, package: package(row)?, clients: row.number()? })
}

/// In which order titles are listed.
fn order(p: &Package) -> [&str; 4] {
    [&p.name, &p.manager, &p.version, &p.architecture]
}

#[async_trait]
impl Inventory for Unit<'_> {
    async fn save_facts(&mut self, facts: &[FactsChange<'_>]) -> Result<()> {
        let mut short = Vec::new();
        for FactsChange { client, json, digest, time } in facts {
            let Some(json) = json else {
                let (digest, time) = (digest.map(|d| d.0.to_vec()), bind::opt_ms(*time));
                let sql = "UPDATE client_facts SET digest = $2, taken_ms = $3 WHERE client = $1";
                self.run(query!(sql, client.to_string(), digest, time)).await?;
                continue;
            };
            if json.len() <= SHORT {
                short.push((client, bind::text(json), digest.map(|d| bind::hex(&d.0)), bind::opt_ms(*time)));
                continue;
            }
            let sql = "INSERT INTO client_facts (client, facts, digest, taken_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (client) DO UPDATE \
                       SET facts = excluded.facts, digest = excluded.digest, taken_ms = excluded.taken_ms";
            let (digest, time) = (digest.map(|d| d.0.to_vec()), bind::opt_ms(*time));
            self.run(query!(sql, client.to_string(), bind::text(json), digest, time)).await?;
        }
        if short.is_empty() {
            return Ok(());
        }
        let sql = concat!(
            "INSERT INTO client_facts (client, facts, digest, taken_ms) SELECT v.value->>0, v.value->>1, ",
            unhex!("v.value->>2"),
            ", CAST(v.value->>3 AS BIGINT) FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT (client) DO UPDATE SET facts = excluded.facts, digest = excluded.digest, taken_ms = excluded.taken_ms"
        );
        let short: Vec<_> = short.iter().map(|(client, json, digest, time)| (client.as_str(), json, digest, time)).collect();
        self.run(query!(sql, bind::json(&short))).await?;
        Ok(())
    }

    async fn software_of(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, Package)>> {
        let sql = concat!(
            "SELECT c.client, s.name, s.manager, s.version, s.architecture FROM client_software c JOIN software s ON s.id = c.software \
             WHERE c.client",
            any!(1),
            " ORDER BY c.client"
        );
        self.list("client_software", query!(sql, bind::list(clients)), |row| Ok((row.parse()?, package(row)?))).await
    }

    async fn count_software(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, u64)>> {
        let sql = concat!("SELECT client, COUNT(*) FROM client_software WHERE client", any!(1), " GROUP BY client");
        self.list("client_software", query!(sql, bind::list(clients)), |row| Ok((row.parse()?, row.number()?))).await
    }

    async fn change_software(&mut self, changes: &[SoftwareChange]) -> Result<()> {
        // By how much the count of a title changes.
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for gone in rows(changes, |change| change.gone.as_slice()).chunks(BATCH) {
            let sql = concat!(
                "DELETE FROM client_software WHERE (client, software) IN (SELECT v.value->>0, s.id FROM",
                titles!(),
                ") RETURNING software"
            );
            for title in self.list("client_software", query!(sql, bind::json(gone)), |row| row.int()).await? {
                *counts.entry(title).or_default() -= 1;
            }
        }
        for come in rows(changes, |change| change.come.as_slice()).chunks(BATCH) {
            let come = bind::json(come);
            // In order, as everybody adds them: of two who add the same ones, one waits for the other and not also the other for it.
            let sql = concat!(
                "INSERT INTO software (name, manager, version, architecture, clients) \
                 SELECT DISTINCT v.value->>1, v.value->>2, v.value->>3, v.value->>4, 0 FROM",
                each!(1),
                "WHERE NOT EXISTS (SELECT 1 FROM software s WHERE s.name = v.value->>1 AND s.manager = v.value->>2 \
                 AND s.version = v.value->>3 AND s.architecture = v.value->>4) ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING"
            );
            self.run(query!(sql, come.clone())).await?;
            let sql = concat!(
                "INSERT INTO client_software (client, software) SELECT v.value->>0, s.id FROM",
                titles!(),
                " ON CONFLICT DO NOTHING RETURNING software"
            );
            for title in self.list("client_software", query!(sql, come), |row| row.int()).await? {
                *counts.entry(title).or_default() += 1;
            }
        }
        counts.retain(|_, by| *by != 0);
        for counts in counts.into_iter().collect::<Vec<_>>().chunks(BATCH) {
            let counts = bind::json(counts);
            // In order, for the same reason.
            let sql = self.lock(concat!(
                "SELECT s.id FROM",
                each!(1),
                "CROSS JOIN software s WHERE s.id = CAST(v.value->>0 AS BIGINT) ORDER BY s.id /* OF s */"
            ));
            self.rows(query!(sql, counts.clone())).await?;
            let sql = concat!(
                "UPDATE software SET clients = clients + CAST(v.value->>1 AS BIGINT) FROM",
                each!(1),
                "WHERE software.id = CAST(v.value->>0 AS BIGINT)"
            );
            self.run(query!(sql, counts)).await?;
        }
        Ok(())
    }

    async fn list_titles(&mut self, page: &Page, titles: &Titles) -> Result<Vec<Title>> {
        let after = match page.after.as_deref().map(str::parse) {
            None => None,
            Some(Ok(id)) => Some(self.title(id).await?.ok_or(StoreError::NoPage)?.package),
            Some(Err(_)) => return Err(StoreError::NoPage),
        };
        let Package { manager, name, version, architecture } = after.unwrap_or_default();
        // What comes after every text that begins with it; after every text, for the empty one.
        let end = if titles.is_prefix || titles.name.is_empty() { titles.name.clone() + "\u{10ffff}" } else { titles.name.clone() };
        self.list(
            "software",
            query!(
                "SELECT s.id, s.name, s.manager, s.version, s.architecture, s.clients FROM software s \
                 WHERE (s.name, s.manager, s.version, s.architecture) > ($1, $2, $3, $4) AND s.name >= $5 AND s.name <= $6 \
                 AND ($7 = '' OR s.manager = $7) AND s.clients > 0 ORDER BY s.name, s.manager, s.version, s.architecture LIMIT $8",
                bind::text(&name),
                bind::text(&manager),
                bind::text(&version),
                bind::text(&architecture),
                bind::text(&titles.name),
                bind::text(&end),
                bind::text(&titles.manager),
                i64::from(page.limit)
            ),
            title,
        )
        .await
    }

    async fn count_titles_in(&mut self, group: &Uid, titles: &[i64]) -> Result<Vec<Title>> {
        let sql = concat!(
            "SELECT s.id, s.name, s.manager, s.version, s.architecture, \
             (SELECT COUNT(*) FROM membership m JOIN client_software c ON c.client = m.client AND c.software = s.id \
              WHERE m.group_uid = $2) FROM",
            each!(1),
            "CROSS JOIN software s WHERE s.id = CAST(v.value AS BIGINT)"
        );
        let mut counted = self.list("software", query!(sql, bind::json(titles), group.to_string()), title).await?;
        counted.retain(|title| title.clients > 0);
        counted.sort_by(|a, b| order(&a.package).cmp(&order(&b.package)));
        Ok(counted)
    }

    async fn title(&mut self, id: i64) -> Result<Option<Title>> {
        let sql = "SELECT s.id, s.name, s.manager, s.version, s.architecture, s.clients FROM software s WHERE s.id = $1";
        self.one("software", query!(sql, id), title).await
    }

    async fn clients_with(&mut self, title: i64, page: &Page, group: Option<&Uid>) -> Result<Vec<(ClientId, String)>> {
        let query = query!(
            "SELECT s.client, c.hostname FROM client_software s CROSS JOIN client c WHERE s.software = $1 AND s.client > $2 \
             AND c.id = s.client AND ($4 = '' OR EXISTS (SELECT 1 FROM membership m WHERE m.group_uid = $4 AND m.client = s.client)) \
             ORDER BY s.client LIMIT $3",
            title,
            bind::after(page),
            i64::from(page.limit),
            group.map(|g| g.to_string()).unwrap_or_default()
        );
        self.list("client_software", query, |row| Ok((row.parse()?, row.text()?))).await
    }

    async fn drop_titles(&mut self) -> Result<u64> {
        self.run(query!(
            "DELETE FROM software WHERE clients = 0 AND NOT EXISTS (SELECT 1 FROM client_software c WHERE c.software = software.id)"
        ))
        .await
    }
}
