-- What happened that somebody may want to hear of; numbered by the change sequence, each with a number of its own.
CREATE TABLE event (
    sequence BIGINT NOT NULL PRIMARY KEY,
    time_ms BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    object TEXT COLLATE "C" NOT NULL,
    job TEXT COLLATE "C",
    severity TEXT COLLATE "C" NOT NULL,
    sentence TEXT COLLATE "C" NOT NULL,
    attributes TEXT COLLATE "C" NOT NULL
);
CREATE INDEX event_time ON event (time_ms, sequence);
CREATE INDEX event_object ON event (object, sequence);
CREATE INDEX event_job ON event (job, sequence);

-- Up to which number they were dropped: one row.
CREATE TABLE event_dropped (
    self BIGINT NOT NULL PRIMARY KEY CHECK (self = 1),
    up_to BIGINT NOT NULL
);
INSERT INTO event_dropped (self, up_to) VALUES (1, 0);

-- What is a condition of time and was told, by what tells one occurrence of it from the next.
CREATE TABLE event_mark (
    key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    occurrence TEXT COLLATE "C" NOT NULL
);

-- How far each hook is.
CREATE TABLE hook (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    cursor BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    began_ms BIGINT,
    next_ms BIGINT,
    error TEXT COLLATE "C" NOT NULL,
    holder TEXT COLLATE "C" NOT NULL,
    until_ms BIGINT,
    delivered BIGINT NOT NULL,
    given_up BIGINT NOT NULL
);
