-- What happened that somebody may want to hear of; numbered by the change sequence, each with a number of its own.
CREATE TABLE event (
    sequence INTEGER NOT NULL PRIMARY KEY,
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,
    job TEXT,
    severity TEXT NOT NULL,
    sentence TEXT NOT NULL,
    attributes TEXT NOT NULL
) STRICT;
CREATE INDEX event_time ON event (time_ms, sequence);
CREATE INDEX event_object ON event (object, sequence);
CREATE INDEX event_job ON event (job, sequence);

-- Up to which number they were dropped: one row.
CREATE TABLE event_dropped (
    self INTEGER NOT NULL PRIMARY KEY CHECK (self = 1),
    up_to INTEGER NOT NULL
) STRICT;
INSERT INTO event_dropped (self, up_to) VALUES (1, 0);

-- What is a condition of time and was told, by what tells one occurrence of it from the next.
CREATE TABLE event_mark (
    key TEXT NOT NULL PRIMARY KEY,
    occurrence TEXT NOT NULL
) STRICT;

-- How far each hook is.
CREATE TABLE hook (
    name TEXT NOT NULL PRIMARY KEY,
    cursor INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    began_ms INTEGER,
    next_ms INTEGER,
    error TEXT NOT NULL,
    holder TEXT NOT NULL,
    until_ms INTEGER,
    delivered INTEGER NOT NULL,
    given_up INTEGER NOT NULL
) STRICT;
