-- Times are milliseconds since 1970 (UTC). Words, ids and names are TEXT in byte order. JSON is TEXT.
-- A deleted row with a `deleted_ms` is a tombstone: its uid never comes back, its name is free.
-- `change` is a number of the one change sequence: rows that changed later have a greater one.

CREATE TABLE sequence (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO sequence (name, value) VALUES ('change', 0);

-- Where agents and operators are met; one row is this installation itself.
CREATE TABLE site (
    id TEXT NOT NULL PRIMARY KEY,
    parent TEXT REFERENCES site (id),
    addresses TEXT NOT NULL,
    self INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX site_self ON site (self) WHERE self;

CREATE TABLE client (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    site TEXT NOT NULL,
    site_since_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    hostname TEXT NOT NULL,
    address TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    session_counter INTEGER NOT NULL,
    agent_version TEXT NOT NULL,
    facts TEXT NOT NULL,
    facts_digest BLOB,
    facts_ms INTEGER,
    labels TEXT NOT NULL,
    answers TEXT NOT NULL,
    token TEXT,
    key BLOB NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    activated_ms INTEGER,
    greeted INTEGER NOT NULL,
    duplicate_of TEXT,
    notice TEXT NOT NULL,
    change INTEGER NOT NULL
) STRICT;
CREATE INDEX client_state ON client (state, id);
CREATE INDEX client_hostname ON client (hostname, id) WHERE state <> 'REMOVED';
CREATE INDEX client_machine ON client (machine_id, enrolled_ms, id) WHERE state <> 'REMOVED';
CREATE INDEX client_change ON client (change);

-- Apart from the client, so that a batch of times does not rewrite wide rows.
CREATE TABLE client_seen (
    client TEXT NOT NULL PRIMARY KEY REFERENCES client (id),
    seen_ms INTEGER NOT NULL
) STRICT;

-- The labels of `client.labels` once more, to be found by.
CREATE TABLE client_label (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    client TEXT NOT NULL REFERENCES client (id),
    PRIMARY KEY (key, value, client)
) STRICT;
CREATE INDEX client_label_client ON client_label (client);

CREATE TABLE certificate (
    serial TEXT NOT NULL PRIMARY KEY,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    key BLOB NOT NULL,
    public_key BLOB NOT NULL,
    issued_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX certificate_subject ON certificate (subject_kind, subject, issued_ms);

CREATE TABLE token (
    id TEXT NOT NULL PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    description TEXT NOT NULL,
    uses INTEGER NOT NULL,
    used INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    networks TEXT NOT NULL,
    expected TEXT NOT NULL,
    groups TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    creator TEXT NOT NULL,
    revoked_ms INTEGER
) STRICT;
CREATE INDEX token_created ON token (created_ms, id);

CREATE TABLE token_use (
    token TEXT NOT NULL REFERENCES token (id),
    key BLOB NOT NULL,
    client TEXT NOT NULL REFERENCES client (id),
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (token, key)
) STRICT;

CREATE TABLE client_group (
    uid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    restricted INTEGER NOT NULL,
    join_mode TEXT NOT NULL,
    join_hash TEXT,
    members INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX client_group_name ON client_group (name) WHERE deleted_ms IS NULL;
CREATE INDEX client_group_change ON client_group (change);

CREATE TABLE membership (
    group_uid TEXT NOT NULL REFERENCES client_group (uid),
    client TEXT NOT NULL REFERENCES client (id),
    source TEXT NOT NULL,
    source_name TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (group_uid, client)
) STRICT;
CREATE INDEX membership_client ON membership (client, group_uid);

-- Clients that an operator took out of a group and nobody released.
CREATE TABLE membership_hold (
    group_uid TEXT NOT NULL REFERENCES client_group (uid),
    client TEXT NOT NULL REFERENCES client (id),
    creator TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (group_uid, client)
) STRICT;

CREATE TABLE policy (
    uid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    group_uid TEXT NOT NULL REFERENCES client_group (uid),
    trigger TEXT NOT NULL,
    condition TEXT NOT NULL,
    applies_to TEXT NOT NULL,
    on_mismatch TEXT NOT NULL,
    description TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX policy_name ON policy (name) WHERE deleted_ms IS NULL;
CREATE UNIQUE INDEX policy_rule ON policy (group_uid, trigger, condition) WHERE deleted_ms IS NULL;
CREATE INDEX policy_change ON policy (change);

CREATE TABLE package (
    uid TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX package_name ON package (name) WHERE deleted_ms IS NULL;
CREATE INDEX package_change ON package (change);

CREATE TABLE package_version (
    uid TEXT NOT NULL PRIMARY KEY,
    package TEXT NOT NULL REFERENCES package (uid),
    version TEXT NOT NULL,
    release INTEGER NOT NULL,
    description TEXT NOT NULL,
    envelope BLOB NOT NULL,
    manifest BLOB NOT NULL,
    manifest_length INTEGER NOT NULL,
    total_bytes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    expires_ms INTEGER,
    created_ms INTEGER NOT NULL,
    creator TEXT NOT NULL,
    deleted_ms INTEGER,
    change INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX package_version_version ON package_version (package, version) WHERE deleted_ms IS NULL;
CREATE INDEX package_version_release ON package_version (package, release, uid) WHERE deleted_ms IS NULL;
CREATE INDEX package_version_change ON package_version (change);

CREATE TABLE job (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    description TEXT NOT NULL,
    priority INTEGER NOT NULL,
    continue_on_failure INTEGER NOT NULL,
    expires_ms INTEGER,
    creator TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    revision INTEGER NOT NULL,
    archived INTEGER NOT NULL,
    replaces TEXT REFERENCES job (id),
    change INTEGER NOT NULL
) STRICT;
CREATE INDEX job_created ON job (created_ms, id);
CREATE INDEX job_listed ON job (created_ms, id) WHERE NOT archived;
CREATE INDEX job_state ON job (state, id);
CREATE INDEX job_expires ON job (state, expires_ms);
CREATE INDEX job_change ON job (change);

CREATE TABLE job_package (
    job TEXT NOT NULL REFERENCES job (id),
    revision INTEGER NOT NULL,
    n INTEGER NOT NULL,
    package TEXT NOT NULL,
    version TEXT REFERENCES package_version (uid),
    version_text TEXT NOT NULL,
    follow INTEGER NOT NULL,
    replace_always INTEGER NOT NULL,
    PRIMARY KEY (job, revision, n)
) STRICT;
CREATE INDEX job_package_package ON job_package (package);
CREATE INDEX job_package_version ON job_package (version);

CREATE TABLE job_target (
    job TEXT NOT NULL REFERENCES job (id),
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (job, kind, target)
) STRICT;
CREATE INDEX job_target_target ON job_target (kind, target);

-- How many executions are in each state: kept with every change. A job's counter is the sum over the sites.
CREATE TABLE job_counter (
    job TEXT NOT NULL,
    site TEXT NOT NULL,
    state TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (job, site, state)
) STRICT;

-- Only the owner (site, epoch) makes attempts. Jobs and clients are never deleted, and rows are inserted by a join with
-- both: foreign keys would look up twice per row what is known.
CREATE TABLE execution (
    job TEXT NOT NULL,
    client TEXT NOT NULL,
    owner_site TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    entered_ms INTEGER NOT NULL,
    attempt TEXT,
    attempts INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    item INTEGER NOT NULL,
    bytes_done INTEGER NOT NULL,
    bytes_total INTEGER NOT NULL,
    step TEXT NOT NULL,
    cancel_reason TEXT,
    cancel_deadline_ms INTEGER,
    change INTEGER NOT NULL,
    PRIMARY KEY (job, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX execution_client ON execution (client);
CREATE INDEX execution_state ON execution (job, state, client);
CREATE INDEX execution_change ON execution (job, change);
CREATE INDEX execution_queued ON execution (client) WHERE state = 'QUEUED';
CREATE INDEX execution_cancel ON execution (cancel_deadline_ms) WHERE cancel_reason IS NOT NULL;
CREATE INDEX execution_canceling ON execution (job) WHERE cancel_reason IS NOT NULL;

CREATE TABLE attempt (
    id TEXT NOT NULL PRIMARY KEY,
    job TEXT NOT NULL,
    client TEXT NOT NULL,
    number INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    outcome BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX attempt_number ON attempt (job, client, number);

CREATE TABLE setting (
    key TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE operator (
    name TEXT NOT NULL PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;

CREATE TABLE request (
    operator TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body BLOB NOT NULL,
    answer BLOB NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (operator, request_id)
) STRICT;
CREATE INDEX request_time ON request (time_ms);

-- The sequence is a number of the change sequence, each used once here.
CREATE TABLE audit (
    sequence INTEGER NOT NULL PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX audit_object ON audit (object, sequence);
