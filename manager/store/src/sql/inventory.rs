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
    Ok(Title { package: package(row)?, clients: row.number()? })
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
        let after = page.after.as_deref().map(|after| after.split(' ').collect::<Vec<_>>());
        let [name, manager, version, architecture] = match after.as_deref() {
            None => [""; 4],
            Some([name, manager, version, architecture]) => [*name, *manager, *version, *architecture],
            Some(_) => return Err(StoreError::NoPage),
        };
        // What comes after every text that begins with it; after every text, for the empty one.
        let end = if titles.is_prefix || titles.name.is_empty() { titles.name.clone() + "\u{10ffff}" } else { titles.name.clone() };
        self.list(
            "software",
            query!(
                "SELECT s.name, s.manager, s.version, s.architecture, s.clients FROM software s \
                 WHERE (s.name, s.manager, s.version, s.architecture) > ($1, $2, $3, $4) AND s.name >= $5 AND s.name <= $6 \
                 AND ($7 = '' OR s.manager = $7) AND s.clients > 0 ORDER BY s.name, s.manager, s.version, s.architecture LIMIT $8",
                bind::text(name),
                bind::text(manager),
                bind::text(version),
                bind::text(architecture),
                bind::text(&titles.name),
                bind::text(&end),
                bind::text(&titles.manager),
                i64::from(page.limit)
            ),
            title,
        )
        .await
    }

    async fn count_titles_in(&mut self, group: &Uid, titles: &[Package]) -> Result<Vec<Title>> {
        let sql = concat!(
            "SELECT s.name, s.manager, s.version, s.architecture, \
             (SELECT COUNT(*) FROM membership m JOIN client_software c ON c.client = m.client AND c.software = s.id \
              WHERE m.group_uid = $2) FROM",
            titles!()
        );
        let mut counted = self.list("software", query!(sql, rows(titles), group.to_string()), title).await?;
        counted.retain(|title| title.clients > 0);
        Ok(counted)
    }

    async fn clients_with(&mut self, title: &Package, page: &Page, group: Option<&Uid>) -> Result<Vec<ClientId>> {
        let query = query!(
            "SELECT c.client FROM software s CROSS JOIN client_software c WHERE s.name = $1 AND s.manager = $2 AND s.version = $3 \
             AND s.architecture = $4 AND c.software = s.id AND c.client > $5 AND ($7 = '' OR EXISTS (SELECT 1 FROM membership m \
             WHERE m.group_uid = $7 AND m.client = c.client)) ORDER BY c.client LIMIT $6",
            bind::text(&title.name),
            bind::text(&title.manager),
            bind::text(&title.version),
            bind::text(&title.architecture),
            bind::after(page),
            i64::from(page.limit),
            group.map(|g| g.to_string()).unwrap_or_default()
        );
        self.list("client_software", query, |row| row.parse()).await
    }

    async fn drop_titles(&mut self) -> Result<u64> {
        self.run(query!(
            "DELETE FROM software WHERE clients = 0 AND NOT EXISTS (SELECT 1 FROM client_software c WHERE c.software = software.id)"
        ))
        .await
    }
}
