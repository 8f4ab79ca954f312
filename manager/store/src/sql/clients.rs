//! Clients and certificates.

use super::unit::{Columns, Result, Unit};
use crate::{Besides, Clients, FactsChange, Inventory, Page, StoreError, bind};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{ClientId, Timestamp, Uid, state::ClientState};
use sutler_core::model::{Certificate, CertificateState, Client, ClientBrief, Machine, Subject};

/// Rows in one statement.
const ROWS: usize = 500;

/// What makes a [`Client`], from `client c` and its facts `f`.
macro_rules! client_columns {
    () => {
        "c.id, c.kind, c.site, c.site_since_ms, c.state, c.hostname, c.address, c.machine_id, c.boot_id, c.session_counter, \
         c.agent_version, COALESCE(f.facts, ''), f.digest, f.taken_ms, c.labels, c.answers, c.token, c.key, c.enrolled_ms, c.activated_ms, \
         COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms), c.greeted, c.duplicate_of, c.notice, \
         c.replaced_ms, c.skew_ms, c.archived_ms, c.unarchived_ms, c.change"
    };
}

fn client(row: &mut Columns<'_>) -> Result<Client> {
    Ok(Client {
        id: row.parse()?,
        kind: row.parse()?,
        site: row.parse()?,
        site_since: row.time()?,
        state: row.parse()?,
        hostname: row.text()?,
        address: row.text()?,
        machine_id: row.text()?,
        boot_id: row.text()?,
        session_counter: row.number()?,
        agent_version: row.text()?,
        facts: row.text()?,
        facts_digest: row.opt_digest()?,
        facts_time: row.opt_time()?,
        labels: row.json()?,
        answers: row.json()?,
        token: row.opt_parse()?,
        key: row.key()?,
        enrolled: row.time()?,
        activated: row.opt_time()?,
        last_seen: row.time()?,
        greeted: row.flag()?,
        duplicate_of: row.opt_parse()?,
        notice: row.text()?,
        replaced: row.opt_time()?,
        skew: row.opt_int()?,
        archived: row.opt_time()?,
        unarchived: row.opt_time()?,
        change: row.int()?,
    })
}

fn certificate(row: &mut Columns<'_>) -> Result<Certificate> {
    Ok(Certificate {
        serial: row.text()?,
        subject: match row.text()?.as_str() {
            "CLIENT" => Subject::Client(row.parse()?),
            "OPERATOR" => Subject::Operator(row.parse()?),
            other => return Err(row.unknown(other)),
        },
        key: row.key()?,
        public_key: row.bytes()?,
        issued: row.time()?,
        not_after: row.time()?,
        state: match row.text()?.as_str() {
            "ISSUED" => CertificateState::Issued,
            "ACTIVE" => CertificateState::Active,
            "SUPERSEDED" => CertificateState::Superseded,
            "REVOKED" => CertificateState::Revoked,
            other => return Err(row.unknown(other)),
        },
    })
}

fn subject(subject: &Subject) -> (&'static str, String) {
    match subject {
        Subject::Client(id) => ("CLIENT", id.to_string()),
        Subject::Operator(name) => ("OPERATOR", name.to_string()),
    }
}

impl Unit<'_> {
    /// Writes the labels by which clients are found.
    async fn put_labels(&mut self, client: &Client) -> Result<()> {
        if client.labels.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = client.labels.iter().map(|(key, value)| (key.as_str(), bind::text(value))).collect();
        self.run(query!(
            concat!("INSERT INTO client_label (key, value, client) SELECT v.value->>0, v.value->>1, $2 FROM", each!(1)),
            bind::json(&rows),
            client.id.as_str().to_owned()
        ))
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Clients for Unit<'_> {
    async fn insert_client(&mut self, client: &Client) -> Result<()> {
        let change = self.change(1).await?;
        let id = client.id.as_str().to_owned();
        self.insert(
            "client",
            query!(
                "INSERT INTO client (id, kind, site, site_since_ms, state, hostname, address, machine_id, boot_id, session_counter, \
                 agent_version, labels, answers, token, key, enrolled_ms, activated_ms, greeted, duplicate_of, notice, replaced_ms, \
                 skew_ms, archived_ms, unarchived_ms, change) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
                 $18, $19, $20, $21, $22, $23, $24, $25) ON CONFLICT DO NOTHING",
                id.clone(),
                client.kind.as_str(),
                client.site.as_str().to_owned(),
                bind::ms(client.site_since),
                client.state.as_str(),
                bind::text(&client.hostname),
                bind::text(&client.address),
                bind::text(&client.machine_id),
                bind::text(&client.boot_id),
                bind::int(client.session_counter)?,
                bind::text(&client.agent_version),
                bind::json(&client.labels),
                bind::json(&client.answers),
                client.token.as_ref().map(|t| t.to_string()),
                client.key.to_vec(),
                bind::ms(client.enrolled),
                bind::opt_ms(client.activated),
                client.greeted,
                client.duplicate_of.as_ref().map(|d| d.to_string()),
                bind::text(&client.notice),
                bind::opt_ms(client.replaced),
                client.skew,
                bind::opt_ms(client.archived),
                bind::opt_ms(client.unarchived),
                change
            ),
        )
        .await?;
        self.put_labels(client).await?;
        self.run(query!("INSERT INTO client_seen (client, seen_ms) VALUES ($1, $2)", id, bind::ms(client.last_seen))).await?;
        let (json, digest, time) = (Some(client.facts.as_str()), client.facts_digest, client.facts_time);
        self.save_facts(&[FactsChange { client: client.id.clone(), json, digest, time }]).await
    }

    async fn client(&mut self, id: &ClientId) -> Result<Option<Client>> {
        let sql = self.lock(concat!(
            "SELECT ",
            client_columns!(),
            " FROM client c LEFT JOIN client_facts f ON f.client = c.id WHERE c.id = $1 /* OF c */"
        ));
        self.one("client", query!(sql, id.to_string()), client).await
    }

    async fn clients(&mut self, ids: &[ClientId]) -> Result<Vec<Client>> {
        let sql = concat!(
            "SELECT ",
            client_columns!(),
            " FROM client c LEFT JOIN client_facts f ON f.client = c.id WHERE c.id",
            any!(1),
            " ORDER BY c.id"
        );
        self.list("client", query!(sql, bind::list(ids)), client).await
    }

    async fn lock_clients(&mut self, ids: &[ClientId]) -> Result<Vec<Client>> {
        let sql = self.lock(concat!(
            "SELECT ",
            client_columns!(),
            " FROM client c LEFT JOIN client_facts f ON f.client = c.id WHERE c.id",
            any!(1),
            " ORDER BY c.id /* OF c */"
        ));
        self.list("client", query!(sql, bind::list(ids)), client).await
    }

    async fn clients_in_brief(&mut self, ids: &[ClientId]) -> Result<Vec<ClientBrief>> {
        let sql = concat!(
            "SELECT c.id, c.state, c.hostname, COALESCE((SELECT s.seen_ms FROM client_seen s WHERE s.client = c.id), c.enrolled_ms), \
             c.archived_ms FROM client c WHERE c.id",
            any!(1),
            " ORDER BY c.id"
        );
        let brief = |row: &mut Columns<'_>| {
            Ok(ClientBrief {
                id: row.parse()?,
                state: row.parse()?,
                hostname: row.text()?,
                last_seen: row.time()?,
                archived: row.opt_time()?,
            })
        };
        self.list("client", query!(sql, bind::list(ids)), brief).await
    }

    async fn save_client(&mut self, client: &Client) -> Result<()> {
        let id = client.id.to_string();
        let labels = bind::json(&client.labels);
        let before = self.one("client", query!("SELECT labels FROM client WHERE id = $1", id.clone()), |row| row.text()).await?;
        let change = self.change(1).await?;
        self.save(
            "client",
            client.id.as_str(),
            query!(
                "UPDATE client SET kind = $2, site = $3, site_since_ms = $4, state = $5, hostname = $6, address = $7, machine_id = $8, \
                 boot_id = $9, session_counter = $10, agent_version = $11, labels = $12, answers = $13, token = $14, key = $15, \
                 enrolled_ms = $16, activated_ms = $17, greeted = $18, duplicate_of = $19, notice = $20, replaced_ms = $21, \
                 skew_ms = $22, archived_ms = $23, unarchived_ms = $24, change = $25 WHERE id = $1",
                id.clone(),
                client.kind.as_str(),
                client.site.as_str().to_owned(),
                bind::ms(client.site_since),
                client.state.as_str(),
                bind::text(&client.hostname),
                bind::text(&client.address),
                bind::text(&client.machine_id),
                bind::text(&client.boot_id),
                bind::int(client.session_counter)?,
                bind::text(&client.agent_version),
                labels.clone(),
                bind::json(&client.answers),
                client.token.as_ref().map(|t| t.to_string()),
                client.key.to_vec(),
                bind::ms(client.enrolled),
                bind::opt_ms(client.activated),
                client.greeted,
                client.duplicate_of.as_ref().map(|d| d.to_string()),
                bind::text(&client.notice),
                bind::opt_ms(client.replaced),
                client.skew,
                bind::opt_ms(client.archived),
                bind::opt_ms(client.unarchived),
                change
            ),
        )
        .await?;
        if before.as_ref() != Some(&labels) {
            self.run(query!("DELETE FROM client_label WHERE client = $1", id)).await?;
            self.put_labels(client).await?;
        }
        Ok(())
    }

    async fn greet_clients(&mut self, clients: &[Client]) -> Result<()> {
        for clients in clients.chunks(ROWS) {
            let change = self.change(clients.len()).await?;
            let mut rows = Vec::with_capacity(clients.len());
            for client in clients {
                let counter = bind::int(client.session_counter)?;
                let words = (bind::text(&client.machine_id), bind::text(&client.boot_id), bind::text(&client.agent_version));
                rows.push((client.id.as_str(), words, bind::text(&client.address), counter, client.skew));
            }
            let sql = concat!(
                "UPDATE client SET machine_id = v.value->1->>0, boot_id = v.value->1->>1, agent_version = v.value->1->>2, \
                 address = v.value->>2, session_counter = CAST(v.value->>3 AS BIGINT), skew_ms = CAST(v.value->>4 AS BIGINT), change = $2 FROM",
                each!(1),
                "WHERE client.id = v.value->>0"
            );
            if self.run(query!(sql, bind::json(&rows), change)).await? != clients.len() as u64 {
                return Err(StoreError::Statement("a client that has just connected is not there".into()));
            }
        }
        Ok(())
    }

    async fn touch_clients(&mut self, seen: &[(ClientId, Timestamp)]) -> Result<()> {
        // Each client once and in order: PostgreSQL refuses to write a row twice in one statement, and locks in this order.
        let mut latest = BTreeMap::new();
        for (id, time) in seen {
            let time = bind::ms(*time);
            latest.entry(id.as_str()).and_modify(|t: &mut i64| *t = time.max(*t)).or_insert(time);
        }
        let rows: Vec<_> = latest.into_iter().collect();
        self.run(query!(
            concat!(
                "INSERT INTO client_seen (client, seen_ms) SELECT v.value->>0, CAST(v.value->>1 AS BIGINT) FROM",
                each!(1),
                "WHERE EXISTS (SELECT 1 FROM client c WHERE c.id = v.value->>0) \
                 ON CONFLICT (client) DO UPDATE SET seen_ms = excluded.seen_ms WHERE excluded.seen_ms > client_seen.seen_ms"
            ),
            bind::json(&rows)
        ))
        .await?;
        Ok(())
    }

    async fn list_clients(&mut self, page: &Page, besides: Besides, group: Option<&Uid>) -> Result<Vec<Client>> {
        let (after, limit) = (bind::after(page), i64::from(page.limit));
        let query = match group {
            Some(group) => query!(
                concat!(
                    "SELECT ",
                    client_columns!(),
                    " FROM membership m CROSS JOIN client c LEFT JOIN client_facts f ON f.client = c.id WHERE m.group_uid = $5 \
                     AND m.client > $1 AND c.id = m.client AND ($3 OR c.state <> 'REMOVED') AND ($4 OR c.archived_ms IS NULL) \
                     ORDER BY m.client LIMIT $2"
                ),
                after,
                limit,
                besides.removed,
                besides.archived,
                group.to_string()
            ),
            None => query!(
                concat!(
                    "SELECT ",
                    client_columns!(),
                    " FROM client c LEFT JOIN client_facts f ON f.client = c.id WHERE c.id > $1 AND ($3 OR c.state <> 'REMOVED') \
                     AND ($4 OR c.archived_ms IS NULL) ORDER BY c.id LIMIT $2"
                ),
                after,
                limit,
                besides.removed,
                besides.archived
            ),
        };
        self.list("client", query, client).await
    }

    async fn silent_since(&mut self, page: &Page) -> Result<Vec<(ClientId, Timestamp)>> {
        let sql = "SELECT c.id, CASE WHEN c.unarchived_ms > s.seen_ms THEN c.unarchived_ms ELSE s.seen_ms END FROM client c \
                   CROSS JOIN client_seen s WHERE c.id > $1 AND c.state <> 'REMOVED' AND c.archived_ms IS NULL AND s.client = c.id ORDER BY c.id LIMIT $2";
        self.list("client", query!(sql, bind::after(page), i64::from(page.limit)), |row| Ok((row.parse()?, row.time()?))).await
    }

    async fn save_likeness(&mut self, keys: &[(ClientId, Vec<String>)]) -> Result<()> {
        let clients: Vec<&ClientId> = keys.iter().map(|(client, _)| client).collect();
        self.run(query!(concat!("DELETE FROM client_likeness WHERE client", any!(1)), bind::list(&clients))).await?;
        let rows: Vec<(String, &str)> =
            keys.iter().flat_map(|(client, keys)| keys.iter().map(|key| (bind::text(key), client.as_str()))).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let sql = concat!(
            "INSERT INTO client_likeness (key, client) SELECT v.value->>0, v.value->>1 FROM",
            each!(1),
            "WHERE TRUE ON CONFLICT DO NOTHING"
        );
        self.run(query!(sql, bind::json(&rows))).await?;
        Ok(())
    }

    async fn alike(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, ClientId)>> {
        // The first other one of a key, however many there are.
        let sql = concat!(
            "SELECT a.client, (SELECT b.client FROM client_likeness b WHERE b.key = a.key AND b.client <> a.client \
             ORDER BY b.client LIMIT 1) FROM client_likeness a WHERE a.client",
            any!(1)
        );
        let found = self
            .list("client_likeness", query!(sql, bind::list(clients)), |row| {
                let client = row.parse()?;
                Ok(row.opt_parse()?.map(|other| (client, other)))
            })
            .await?;
        let each_once: BTreeSet<(ClientId, ClientId)> = found.into_iter().flatten().collect();
        Ok(each_once.into_iter().collect())
    }

    async fn list_clients_in(&mut self, page: &Page, state: ClientState) -> Result<Vec<Client>> {
        let sql = concat!(
            "SELECT ",
            client_columns!(),
            " FROM client c LEFT JOIN client_facts f ON f.client = c.id WHERE c.state = $1 AND c.id > $2 \
             AND c.archived_ms IS NULL ORDER BY c.id LIMIT $3"
        );
        self.list("client", query!(sql, state.as_str(), bind::after(page), i64::from(page.limit)), client).await
    }

    async fn clients_by_hostname(&mut self, hostname: &str) -> Result<Vec<ClientId>> {
        let sql = "SELECT id FROM client WHERE hostname = $1 AND state <> 'REMOVED' AND archived_ms IS NULL ORDER BY id LIMIT 10";
        self.list("client", query!(sql, bind::text(hostname)), |row| row.parse()).await
    }

    async fn clients_by_label(&mut self, key: &str, value: &str) -> Result<Vec<ClientId>> {
        let sql = "SELECT l.client FROM client_label l JOIN client c ON c.id = l.client \
                   WHERE l.key = $1 AND l.value = $2 AND c.state <> 'REMOVED' AND c.archived_ms IS NULL ORDER BY l.client LIMIT 100001";
        self.list("client_label", query!(sql, bind::text(key), bind::text(value)), |row| row.parse()).await
    }

    async fn client_by_machine(&mut self, machine_id: &str, except: &ClientId) -> Result<Option<ClientId>> {
        let sql = "SELECT id FROM client WHERE machine_id = $1 AND state <> 'REMOVED' AND id <> $2 ORDER BY enrolled_ms, id LIMIT 1";
        self.one("client", query!(sql, bind::text(machine_id), except.to_string()), |row| row.parse()).await
    }

    async fn clients_changed_since(&mut self, change: i64, limit: u32) -> Result<Vec<(ClientId, ClientState, i64)>> {
        let sql = "SELECT id, state, change FROM client WHERE change > $1 AND change <= COALESCE( \
                   (SELECT change FROM client WHERE change > $1 ORDER BY change LIMIT 1 OFFSET $2), 9223372036854775807) ORDER BY change, id";
        let last = i64::from(limit.max(1)) - 1;
        self.list("client", query!(sql, change, last), |row| Ok((row.parse()?, row.parse()?, row.int()?))).await
    }

    async fn insert_certificate(&mut self, certificate: &Certificate) -> Result<()> {
        let (kind, subject) = subject(&certificate.subject);
        self.insert(
            "certificate",
            query!(
                "INSERT INTO certificate (serial, subject_kind, subject, key, public_key, issued_ms, not_after_ms, state) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
                bind::text(&certificate.serial),
                kind,
                subject,
                certificate.key.to_vec(),
                certificate.public_key.clone(),
                bind::ms(certificate.issued),
                bind::ms(certificate.not_after),
                certificate.state.as_str()
            ),
        )
        .await
    }

    async fn certificate(&mut self, serial: &str) -> Result<Option<Certificate>> {
        let sql =
            "SELECT serial, subject_kind, subject, key, public_key, issued_ms, not_after_ms, state FROM certificate WHERE serial = $1";
        self.one("certificate", query!(sql, bind::text(serial)), certificate).await
    }

    async fn certificates(&mut self, serials: &[String]) -> Result<Vec<Certificate>> {
        let sql = concat!(
            "SELECT serial, subject_kind, subject, key, public_key, issued_ms, not_after_ms, state FROM certificate WHERE serial",
            any!(1)
        );
        self.list("certificate", query!(sql, bind::list(serials)), certificate).await
    }

    async fn certificates_of(&mut self, subject_: &Subject) -> Result<Vec<Certificate>> {
        let (kind, name) = subject(subject_);
        let sql = "SELECT serial, subject_kind, subject, key, public_key, issued_ms, not_after_ms, state FROM certificate \
                   WHERE subject_kind = $1 AND subject = $2 ORDER BY issued_ms DESC, serial LIMIT 10";
        self.list("certificate", query!(sql, kind, name), certificate).await
    }

    async fn client_keys(&mut self, clients: &[ClientId]) -> Result<Vec<(ClientId, Vec<u8>)>> {
        let sql = concat!(
            "SELECT k.subject, k.public_key FROM (SELECT subject, public_key, ROW_NUMBER() OVER (PARTITION BY subject \
             ORDER BY issued_ms DESC, serial) AS n FROM certificate WHERE subject_kind = 'CLIENT' AND subject",
            any!(1),
            ") k WHERE k.n <= 10 ORDER BY k.subject, k.n"
        );
        self.list("certificate", query!(sql, bind::list(clients)), |row| Ok((row.parse()?, row.bytes()?))).await
    }

    async fn certificates_since(&mut self, subject_: &Subject, since: Timestamp, limit: u32) -> Result<Option<(u32, Timestamp)>> {
        let (kind, name) = subject(subject_);
        let sql = "SELECT issued_ms FROM certificate WHERE subject_kind = $1 AND subject = $2 AND issued_ms > $3 AND state <> 'REVOKED' \
                   ORDER BY issued_ms LIMIT $4";
        let issued = self.list("certificate", query!(sql, kind, name, bind::ms(since), i64::from(limit)), |row| row.time()).await?;
        Ok(issued.first().map(|first| (issued.len() as u32, *first)))
    }

    async fn end_others(&mut self, certificate: &Certificate, to: CertificateState) -> Result<()> {
        let (kind, name) = subject(&certificate.subject);
        let sql = "UPDATE certificate SET state = $4 WHERE subject_kind = $1 AND subject = $2 AND serial <> $3 \
                   AND ($4 = 'REVOKED' OR state IN ('ACTIVE', 'ISSUED') AND issued_ms <= $5)";
        let (serial, issued) = (bind::text(&certificate.serial), bind::ms(certificate.issued));
        self.run(query!(sql, kind, name, serial, to.as_str(), issued)).await?;
        Ok(())
    }

    async fn set_certificate_state(&mut self, serial: &str, state: CertificateState) -> Result<()> {
        let query = query!("UPDATE certificate SET state = $2 WHERE serial = $1", bind::text(serial), state.as_str());
        self.save("certificate", serial, query).await
    }

    async fn revoke_certificates(&mut self, subject_: &Subject) -> Result<()> {
        let (kind, name) = subject(subject_);
        self.run(query!("UPDATE certificate SET state = 'REVOKED' WHERE subject_kind = $1 AND subject = $2", kind, name)).await?;
        Ok(())
    }

    async fn machines_of(&mut self, clients: &[ClientId]) -> Result<Vec<Machine>> {
        let sql = concat!(
            "SELECT client, machine_id, boot_id, address, session_counter, serial, seen_ms, kept FROM shared_key WHERE client",
            any!(1),
            " ORDER BY seen_ms DESC, machine_id, boot_id"
        );
        self.list("shared_key", query!(sql, bind::list(clients)), |row| {
            Ok(Machine {
                client: row.parse()?,
                machine_id: row.text()?,
                boot_id: row.text()?,
                address: row.text()?,
                session_counter: row.number()?,
                serial: row.text()?,
                seen: row.time()?,
                kept: row.flag()?,
            })
        })
        .await
    }

    async fn save_machine(&mut self, machine: &Machine) -> Result<()> {
        let sql = "INSERT INTO shared_key (client, machine_id, boot_id, address, session_counter, serial, seen_ms, kept) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (client, machine_id, boot_id) DO UPDATE SET \
                   address = excluded.address, session_counter = excluded.session_counter, serial = excluded.serial, \
                   seen_ms = excluded.seen_ms, kept = excluded.kept";
        self.run(query!(
            sql,
            machine.client.to_string(),
            bind::text(&machine.machine_id),
            bind::text(&machine.boot_id),
            bind::text(&machine.address),
            bind::int(machine.session_counter)?,
            bind::text(&machine.serial),
            bind::ms(machine.seen),
            machine.kept
        ))
        .await?;
        Ok(())
    }

    async fn delete_machines(&mut self, client: &ClientId) -> Result<()> {
        self.run(query!("DELETE FROM shared_key WHERE client = $1", client.to_string())).await?;
        Ok(())
    }
}
