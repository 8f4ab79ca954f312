//! What clients say of themselves: their facts, and what is installed on them.

use super::unit::{Columns, Result, Unit};
use crate::{Inventory, Page, StoreError, Titles, bind};
use async_trait::async_trait;
use sutler_base::{ClientId, Digest, Timestamp, Uid, facts::Package};
use sutler_core::model::Title;

/// How many packages go into one statement.
const BATCH: usize = 5000;

/// A package as a row of a parameter.
fn rows(packages: &[Package]) -> String {
    let rows: Vec<_> =
        packages.iter().map(|p| (&p.name, &p.manager, &p.version, &p.architecture)).map(|(n, m, v, a)| [n, m, v, a]).collect();
    bind::json(&rows)
}

/// The titles of the rows of parameter 1 that exist.
macro_rules! titles {
    () => {
        concat!(
            each!(1),
            "CROSS JOIN software s WHERE s.name = v.value->>0 AND s.manager = v.value->>1 AND s.version = v.value->>2 \
             AND s.architecture = v.value->>3"
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
    async fn save_facts(&mut self, client: &ClientId, json: Option<&str>, digest: Option<Digest>, time: Option<Timestamp>) -> Result<()> {
        let (id, digest, time) = (client.to_string(), digest.map(|d| d.0.to_vec()), bind::opt_ms(time));
        let query = match json {
            Some(json) => query!(
                "INSERT INTO client_facts (client, facts, digest, taken_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (client) DO UPDATE \
                 SET facts = excluded.facts, digest = excluded.digest, taken_ms = excluded.taken_ms",
                id,
                bind::text(json),
                digest,
                time
            ),
            None => query!("UPDATE client_facts SET digest = $2, taken_ms = $3 WHERE client = $1", id, digest, time),
        };
        self.run(query).await?;
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

    async fn count_software(&mut self, client: &ClientId) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM client_software WHERE client = $1";
        Ok(self.one("client_software", query!(sql, client.to_string()), |row| row.number()).await?.unwrap_or_default())
    }

    async fn change_software(&mut self, client: &ClientId, gone: &[Package], come: &[Package]) -> Result<()> {
        let id = client.to_string();
        for gone in gone.chunks(BATCH) {
            let sql = concat!(
                "DELETE FROM client_software WHERE client = $2 AND software IN (SELECT s.id FROM",
                titles!(),
                ") RETURNING software"
            );
            let changed = self.list("client_software", query!(sql, rows(gone), id.clone()), |row| row.int()).await?;
            let sql = concat!("UPDATE software SET clients = clients - 1 WHERE id IN (SELECT CAST(v.value AS BIGINT) FROM", each!(1), ")");
            self.run(query!(sql, bind::json(&changed))).await?;
        }
        for come in come.chunks(BATCH) {
            let sql = concat!(
                "INSERT INTO software (name, manager, version, architecture, clients) \
                 SELECT DISTINCT v.value->>0, v.value->>1, v.value->>2, v.value->>3, 0 FROM",
                each!(1),
                "WHERE NOT EXISTS (SELECT 1 FROM software s WHERE s.name = v.value->>0 AND s.manager = v.value->>1 \
                 AND s.version = v.value->>2 AND s.architecture = v.value->>3) ON CONFLICT DO NOTHING"
            );
            self.run(query!(sql, rows(come))).await?;
            let sql = concat!(
                "INSERT INTO client_software (client, software) SELECT $2, s.id FROM",
                titles!(),
                " ON CONFLICT DO NOTHING RETURNING software"
            );
            let changed = self.list("client_software", query!(sql, rows(come), id.clone()), |row| row.int()).await?;
            let sql = concat!("UPDATE software SET clients = clients + 1 WHERE id IN (SELECT CAST(v.value AS BIGINT) FROM", each!(1), ")");
            self.run(query!(sql, bind::json(&changed))).await?;
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
