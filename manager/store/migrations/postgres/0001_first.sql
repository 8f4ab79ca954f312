-- Times are milliseconds since 1970 (UTC). Words, ids and names are TEXT in byte order. JSON is TEXT.
-- A deleted row with a `deleted_ms` is a tombstone: its uid never comes back, its name is free.
-- `change` is a number of the one change sequence: rows that changed later have a greater one.

CREATE TABLE sequence (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO sequence (name, value) VALUES ('change', 0);

-- Where agents and operators are met; one row is this installation itself.
CREATE TABLE site (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    parent TEXT COLLATE "C" REFERENCES site (id),
    addresses TEXT COLLATE "C" NOT NULL,
    self BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX site_self ON site (self) WHERE self;

CREATE TABLE client (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    site TEXT COLLATE "C" NOT NULL,
    site_since_ms BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    hostname TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    machine_id TEXT COLLATE "C" NOT NULL,
    boot_id TEXT COLLATE "C" NOT NULL,
    session_counter BIGINT NOT NULL,
    agent_version TEXT COLLATE "C" NOT NULL,
    facts TEXT COLLATE "C" NOT NULL,
    facts_digest BYTEA,
    facts_ms BIGINT,
    labels TEXT COLLATE "C" NOT NULL,
    answers TEXT COLLATE "C" NOT NULL,
    token TEXT COLLATE "C",
    key BYTEA NOT NULL,
    enrolled_ms BIGINT NOT NULL,
    activated_ms BIGINT,
    greeted BOOLEAN NOT NULL,
    duplicate_of TEXT COLLATE "C",
    notice TEXT COLLATE "C" NOT NULL,
    change BIGINT NOT NULL
);
CREATE INDEX client_state ON client (state, id);
CREATE INDEX client_hostname ON client (hostname, id) WHERE state <> 'REMOVED';
CREATE INDEX client_machine ON client (machine_id, enrolled_ms, id) WHERE state <> 'REMOVED';
CREATE INDEX client_change ON client (change);

-- Apart from the client, so that a batch of times does not rewrite wide rows.
CREATE TABLE client_seen (
    client TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES client (id),
    seen_ms BIGINT NOT NULL
);

-- The labels of `client.labels` once more, to be found by.
CREATE TABLE client_label (
    key TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    PRIMARY KEY (key, value, client)
);
CREATE INDEX client_label_client ON client_label (client);

CREATE TABLE certificate (
    serial TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    subject_kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    key BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    issued_ms BIGINT NOT NULL,
    not_after_ms BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL
);
CREATE INDEX certificate_subject ON certificate (subject_kind, subject, issued_ms);

CREATE TABLE token (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    secret_hash BYTEA NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    uses BIGINT NOT NULL,
    used BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    networks TEXT COLLATE "C" NOT NULL,
    expected TEXT COLLATE "C" NOT NULL,
    groups TEXT COLLATE "C" NOT NULL,
    labels TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    creator TEXT COLLATE "C" NOT NULL,
    revoked_ms BIGINT
);
CREATE INDEX token_created ON token (created_ms, id);

CREATE TABLE token_use (
    token TEXT COLLATE "C" NOT NULL REFERENCES token (id),
    key BYTEA NOT NULL,
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    time_ms BIGINT NOT NULL,
    PRIMARY KEY (token, key)
);

CREATE TABLE client_group (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    restricted BOOLEAN NOT NULL,
    join_mode TEXT COLLATE "C" NOT NULL,
    join_hash TEXT COLLATE "C",
    members BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX client_group_name ON client_group (name) WHERE deleted_ms IS NULL;
CREATE INDEX client_group_change ON client_group (change);

CREATE TABLE membership (
    group_uid TEXT COLLATE "C" NOT NULL REFERENCES client_group (uid),
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    source TEXT COLLATE "C" NOT NULL,
    source_name TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (group_uid, client)
);
CREATE INDEX membership_client ON membership (client, group_uid);

-- Clients that an operator took out of a group and nobody released.
CREATE TABLE membership_hold (
    group_uid TEXT COLLATE "C" NOT NULL REFERENCES client_group (uid),
    client TEXT COLLATE "C" NOT NULL REFERENCES client (id),
    creator TEXT COLLATE "C" NOT NULL,
    time_ms BIGINT NOT NULL,
    PRIMARY KEY (group_uid, client)
);

CREATE TABLE policy (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    group_uid TEXT COLLATE "C" NOT NULL REFERENCES client_group (uid),
    trigger TEXT COLLATE "C" NOT NULL,
    condition TEXT COLLATE "C" NOT NULL,
    applies_to TEXT COLLATE "C" NOT NULL,
    on_mismatch TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX policy_name ON policy (name) WHERE deleted_ms IS NULL;
CREATE UNIQUE INDEX policy_rule ON policy (group_uid, trigger, condition) WHERE deleted_ms IS NULL;
CREATE INDEX policy_change ON policy (change);

CREATE TABLE package (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX package_name ON package (name) WHERE deleted_ms IS NULL;
CREATE INDEX package_change ON package (change);

CREATE TABLE package_version (
    uid TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    package TEXT COLLATE "C" NOT NULL REFERENCES package (uid),
    version TEXT COLLATE "C" NOT NULL,
    release BIGINT NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    envelope BYTEA NOT NULL,
    manifest BYTEA NOT NULL,
    manifest_length BIGINT NOT NULL,
    total_bytes BIGINT NOT NULL,
    files BIGINT NOT NULL,
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    creator TEXT COLLATE "C" NOT NULL,
    deleted_ms BIGINT,
    change BIGINT NOT NULL
);
CREATE UNIQUE INDEX package_version_version ON package_version (package, version) WHERE deleted_ms IS NULL;
CREATE INDEX package_version_release ON package_version (package, release, uid) WHERE deleted_ms IS NULL;
CREATE INDEX package_version_change ON package_version (change);

CREATE TABLE job (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    priority BIGINT NOT NULL,
    continue_on_failure BOOLEAN NOT NULL,
    expires_ms BIGINT,
    creator TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    started_ms BIGINT,
    ended_ms BIGINT,
    revision BIGINT NOT NULL,
    archived BOOLEAN NOT NULL,
    replaces TEXT COLLATE "C" REFERENCES job (id),
    change BIGINT NOT NULL
);
CREATE INDEX job_created ON job (created_ms, id);
CREATE INDEX job_listed ON job (created_ms, id) WHERE NOT archived;
CREATE INDEX job_state ON job (state, id);
CREATE INDEX job_expires ON job (state, expires_ms);
CREATE INDEX job_change ON job (change);

CREATE TABLE job_package (
    job TEXT COLLATE "C" NOT NULL REFERENCES job (id),
    revision BIGINT NOT NULL,
    n BIGINT NOT NULL,
    package TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" REFERENCES package_version (uid),
    version_text TEXT COLLATE "C" NOT NULL,
    follow BOOLEAN NOT NULL,
    replace_always BOOLEAN NOT NULL,
    PRIMARY KEY (job, revision, n)
);
CREATE INDEX job_package_package ON job_package (package);
CREATE INDEX job_package_version ON job_package (version);

CREATE TABLE job_target (
    job TEXT COLLATE "C" NOT NULL REFERENCES job (id),
    kind TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (job, kind, target)
);
CREATE INDEX job_target_target ON job_target (kind, target);

-- How many executions are in each state: kept with every change. A job's counter is the sum over the sites.
CREATE TABLE job_counter (
    job TEXT COLLATE "C" NOT NULL,
    site TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (job, site, state)
);

-- Only the owner (site, epoch) makes attempts. Jobs and clients are never deleted, and rows are inserted by a join with
-- both: foreign keys would look up twice per row what is known.
CREATE TABLE execution (
    job TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL,
    owner_site TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    entered_ms BIGINT NOT NULL,
    attempt TEXT COLLATE "C",
    attempts BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    item BIGINT NOT NULL,
    bytes_done BIGINT NOT NULL,
    bytes_total BIGINT NOT NULL,
    step TEXT COLLATE "C" NOT NULL,
    cancel_reason TEXT COLLATE "C",
    cancel_deadline_ms BIGINT,
    change BIGINT NOT NULL,
    PRIMARY KEY (job, client)
);
CREATE INDEX execution_client ON execution (client);
CREATE INDEX execution_state ON execution (job, state, client);
CREATE INDEX execution_change ON execution (job, change);
CREATE INDEX execution_queued ON execution (client) WHERE state = 'QUEUED';
CREATE INDEX execution_cancel ON execution (cancel_deadline_ms) WHERE cancel_reason IS NOT NULL;
CREATE INDEX execution_canceling ON execution (job) WHERE cancel_reason IS NOT NULL;

CREATE TABLE attempt (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    job TEXT COLLATE "C" NOT NULL,
    client TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    outcome BYTEA NOT NULL,
    signature BYTEA NOT NULL
);
CREATE UNIQUE INDEX attempt_number ON attempt (job, client, number);

CREATE TABLE setting (
    key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE operator (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

CREATE TABLE request (
    operator TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    body BYTEA NOT NULL,
    answer BYTEA NOT NULL,
    time_ms BIGINT NOT NULL,
    PRIMARY KEY (operator, request_id)
);
CREATE INDEX request_time ON request (time_ms);

-- The sequence is a number of the change sequence, each used once here.
CREATE TABLE audit (
    sequence BIGINT NOT NULL PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    detail TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_object ON audit (object, sequence);
