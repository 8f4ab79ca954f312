//! A manager whose database is full before it starts: a fleet that is too large to enrol one by one.
//!
//! The rows are written by the store itself, in the manager's own database while nobody serves.

use crate::harness::Manager;
use std::sync::Arc;
use sutler_base::{
    ClientId, Digest, GroupName, JobId, Timestamp, Uid,
    facts::{Facts, Memory, Os},
    state::{ClientKind, ClientState, JobState, JoinMode, Source},
};
use sutler_core::model::{Client, Group, Job, Membership};
use sutler_store::{Store, StoreError, unit};

/// How many rows a unit of work writes.
const UNIT: usize = 5_000;

/// Random bits that are the same for the same number, and look like nothing.
fn bits(n: u64) -> [u8; 16] {
    Digest::of(&n.to_le_bytes()).0[..16].try_into().expect("16 bytes of 32")
}

/// The id of the client with this number.
pub(super) fn client_id(n: u64) -> ClientId {
    ClientId::from_random(bits(n))
}

/// A client that enrolled and told its facts some time ago. Every hundredth has the same end of its name.
pub(super) fn client(n: u64, site: &Uid) -> Client {
    let hostname = format!("host-{n}-{:02}", n % 100);
    let facts = Facts {
        os: Os {
            family: "linux".into(),
            id: "debian".into(),
            name: "Debian GNU/Linux".into(),
            version: (11 + n % 3).to_string(),
            kernel: "6.1.0-18-amd64".into(),
            ..Os::default()
        },
        arch: "x86_64".into(),
        hostname: hostname.clone(),
        memory: Memory { total_bytes: (n % 16 + 1) << 30, swap_bytes: 0 },
        machine_id: format!("{n:032x}"),
        boot_id: format!("boot-{n}"),
        time_zone: "Europe/Berlin".into(),
        ..Facts::default()
    };
    let (json, now) = (facts.to_json(), Timestamp::now());
    Client {
        id: client_id(n),
        kind: ClientKind::Machine,
        site: site.clone(),
        site_since: now,
        state: ClientState::Active,
        hostname,
        address: format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
        machine_id: facts.machine_id,
        boot_id: facts.boot_id,
        session_counter: 1,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        facts_digest: Some(Digest::of(json.as_bytes())),
        facts: json,
        facts_time: Some(now),
        labels: Default::default(),
        answers: Default::default(),
        token: None,
        key: Digest::of(&n.to_be_bytes()).0,
        enrolled: now,
        activated: Some(now),
        last_seen: now,
        greeted: true,
        duplicate_of: None,
        notice: String::new(),
        replaced: None,
        skew: None,
        archived: None,
        unarchived: None,
        change: 0,
    }
}

/// The database of a manager that does not serve.
pub(super) struct Filling {
    store: Store,
    site: Uid,
    runtime: tokio::runtime::Runtime,
}

impl Filling {
    pub(super) fn open(manager: &Manager) -> Filling {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made");
        let database = manager.folder().join("manager.db");
        let (store, site) = runtime.block_on(async {
            let store = Store::open(&format!("sqlite://{}", database.display())).await.expect("the database can be opened");
            let site: Result<_, StoreError> = store.read("site", unit!([] | tx | { tx.site().await })).await;
            (store, site.expect("it can be read").expect("init has made it").id)
        });
        Filling { store, site, runtime }
    }

    /// Clients with these numbers.
    pub(super) fn clients(&self, numbers: std::ops::Range<u64>) {
        for first in numbers.clone().step_by(UNIT) {
            let clients: Vec<Client> = (first..numbers.end.min(first + UNIT as u64)).map(|n| client(n, &self.site)).collect();
            let clients = Arc::new(clients);
            let done: Result<(), StoreError> = self.runtime.block_on(self.store.write(
                "fill",
                unit!(
                    [clients] | tx | {
                        for client in clients.iter() {
                            tx.insert_client(client).await?;
                        }
                        Ok(())
                    }
                ),
            ));
            done.expect("the clients are new");
        }
    }

    /// A group of the clients with these numbers.
    pub(super) fn group(&self, name: &str, numbers: std::ops::Range<u64>) -> Uid {
        let uid = Uid::new(Timestamp::now(), bits(name.len() as u64 + (1 << 60)));
        let group = Group {
            uid: uid.clone(),
            name: name.parse::<GroupName>().expect("it is a name"),
            description: String::new(),
            restricted: false,
            join_mode: JoinMode::Open,
            join_hash: None,
            members: 0,
            created: Timestamp::now(),
            change: 0,
        };
        let done: Result<(), StoreError> =
            self.runtime.block_on(self.store.write("fill", unit!([group] | tx | { tx.insert_group(&group).await })));
        done.expect("the group is new");
        let (since, source) = (Timestamp::now(), Source::Operator);
        for first in numbers.clone().step_by(UNIT) {
            let some = first..numbers.end.min(first + UNIT as u64);
            let members = some.map(|n| Membership { group: uid.clone(), client: client_id(n), source, source_name: "fill".into(), since });
            let members: Vec<Membership> = members.collect();
            let done: Result<Vec<Membership>, StoreError> =
                self.runtime.block_on(self.store.write("fill", unit!([members] | tx | { tx.insert_memberships(&members).await })));
            done.expect("the members are there");
        }
        uid
    }

    /// A canceled job without packages, with a row for each member of the group; how many.
    pub(super) fn job(&self, n: u64, group: &Uid) -> (JobId, u64) {
        let now = Timestamp::now();
        let job = Job {
            id: JobId::from_random(bits(n + (2 << 60))),
            state: JobState::Canceled,
            description: format!("job {n}"),
            priority: 5,
            continue_on_failure: false,
            expires: None,
            creator: "operators/fill".into(),
            created: now,
            started: Some(now),
            ended: Some(now),
            revision: 1,
            archived: false,
            replaces: None,
            condition: String::new(),
            requirements: Vec::new(),
            terms: Default::default(),
            clients_where: String::new(),
            rolls_back: None,
            change: 0,
        };
        let (id, group) = (job.id.clone(), group.clone());
        let rows: Result<u64, StoreError> = self.runtime.block_on(self.store.write(
            "fill",
            unit!(
                [job, group, now] | tx | {
                    tx.insert_job(&job, &[], &[]).await?;
                    tx.insert_executions_for_group(&job.id, &group, now).await
                }
            ),
        ));
        (id, rows.expect("the rows are new"))
    }

    /// Reads so many clients by their keys, one statement each, in one unit of work: what the same pool takes for that.
    pub(super) fn look_up(&self, numbers: &[u64]) {
        let ids: Vec<ClientId> = numbers.iter().map(|n| client_id(*n)).collect();
        let found: Result<usize, StoreError> = self.runtime.block_on(self.store.read(
            "look up",
            unit!(
                [ids] | tx | {
                    let mut found = 0;
                    for id in &ids {
                        found += usize::from(tx.client(id).await?.is_some());
                    }
                    Ok(found)
                }
            ),
        ));
        assert_eq!(found.expect("they can be read"), numbers.len(), "all of them are there");
    }

    /// Nobody else has the database open any more.
    pub(super) fn close(self) {
        self.runtime.block_on(self.store.close());
    }
}
