-- From version 1 of the tables to version 2.

ALTER TABLE claims ADD COLUMN kind TEXT NOT NULL DEFAULT 'key';

CREATE TABLE members (
    run   INTEGER NOT NULL,
    claim TEXT NOT NULL,
    PRIMARY KEY (run, claim)
) WITHOUT ROWID;

CREATE TABLE cooldowns (
    trigger TEXT NOT NULL,
    key     TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    until   REAL NOT NULL,
    PRIMARY KEY (trigger, key)
) WITHOUT ROWID;
CREATE INDEX cooldowns_until ON cooldowns (until);

CREATE TABLE held_events (
    seq     INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    trigger TEXT NOT NULL,
    key     TEXT,
    part    INTEGER NOT NULL,
    claim   TEXT,
    event   BLOB NOT NULL,
    at      REAL NOT NULL,
    folder  TEXT
);
CREATE INDEX held_events_trigger ON held_events (trigger);

CREATE TABLE loose_folders (
    name TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE publications (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,
    topic   TEXT NOT NULL,
    payload BLOB NOT NULL,
    trigger TEXT,
    run_id  TEXT NOT NULL,
    owner   INTEGER NOT NULL
);
CREATE INDEX publications_owner ON publications (owner);

-- A table's numbers cannot be made unique for ever later on, so its rows move to another.
ALTER TABLE dead_letters RENAME TO old_letters;
DROP INDEX dead_letters_settled;
CREATE TABLE dead_letters (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    event_id   TEXT NOT NULL,
    event      BLOB NOT NULL,
    trigger    TEXT NOT NULL,
    saga       TEXT NOT NULL,
    cause      TEXT NOT NULL,
    error      TEXT NOT NULL,
    traceback  TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    at         REAL NOT NULL,
    run_id     TEXT,
    state      TEXT NOT NULL DEFAULT 'open',
    reason     TEXT,
    settled_at REAL,
    redriven   INTEGER NOT NULL DEFAULT 0
);
INSERT INTO dead_letters (seq, id, event_id, event, trigger, saga, cause, error, traceback, attempts, revision, at,
    run_id, state, reason, settled_at)
SELECT seq, id, event_id, event, trigger, saga, cause, error, traceback, attempts, revision, at,
    run_id, state, reason, settled_at
FROM old_letters;
DROP TABLE old_letters;
CREATE INDEX dead_letters_settled ON dead_letters (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX dead_letters_open ON dead_letters (seq) WHERE state = 'open';
CREATE INDEX dead_letters_causes ON dead_letters (cause, at) WHERE state = 'open';

-- Kept events went by the store's retention, of 30 days unless told otherwise.
ALTER TABLE kept_events ADD COLUMN run_id TEXT;
ALTER TABLE kept_events ADD COLUMN until REAL NOT NULL DEFAULT 0;
ALTER TABLE kept_events ADD COLUMN told INTEGER NOT NULL DEFAULT 1;
UPDATE kept_events SET until = at + 30 * 86400, told = outcome NOT IN ('started', 'dead');
DROP INDEX kept_events_at;
CREATE INDEX kept_events_until ON kept_events (until);
CREATE INDEX kept_events_told ON kept_events (seq) WHERE told;
