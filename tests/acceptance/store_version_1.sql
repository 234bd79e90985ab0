-- The tables of a store, version 1 (PRAGMA user_version). Times are seconds since the epoch.

-- A process that has opened the store. Its epoch is its number; `fenced` says that another has taken over its runs.
CREATE TABLE owners (
    epoch        INTEGER PRIMARY KEY,
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    host         TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    pid_started  TEXT NOT NULL,
    heartbeat_at REAL NOT NULL,
    closed       INTEGER NOT NULL DEFAULT 0,
    fenced       INTEGER NOT NULL DEFAULT 0
);

-- One execution of a saga; the row is the record "run started". A run that waits, runs or needs code has no `ended_at`,
-- so that the index finds both what is to be resumed and what has outlived its retention.
CREATE TABLE runs (
    seq        INTEGER PRIMARY KEY,
    run_id     TEXT NOT NULL UNIQUE,
    saga       TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    trigger    TEXT,
    status     TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    owner      INTEGER NOT NULL,
    claim      TEXT,
    event_id   TEXT,
    event      BLOB,
    context    BLOB,
    started_at REAL NOT NULL,
    ended_at   REAL,
    retry_at   REAL,
    error      TEXT
);
CREATE INDEX runs_ended ON runs (ended_at);

-- The history of runs, append-only. `seq` is the run's seq * 2^20 plus the record's number, so that the records of a
-- run lie together, in order, without an index of their own.
CREATE TABLE records (
    seq       INTEGER PRIMARY KEY,
    attempt   INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    action    TEXT NOT NULL,
    trial     INTEGER NOT NULL,
    at        REAL NOT NULL,
    value     BLOB,
    changes   BLOB,
    error     TEXT,
    traceback TEXT
);

-- The idempotency keys that are taken. An `orphan` has outlived its run.
CREATE TABLE claims (
    trigger TEXT NOT NULL,
    claim   TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    until   REAL,
    orphan  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (trigger, claim)
) WITHOUT ROWID;
CREATE INDEX claims_orphaned ON claims (until) WHERE orphan = 1;

CREATE TABLE dead_letters (
    seq        INTEGER PRIMARY KEY,
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
    settled_at REAL
);
CREATE INDEX dead_letters_settled ON dead_letters (settled_at) WHERE settled_at IS NOT NULL;

-- Events that are kept with their outcome. `folder` is where a payload too large for the row is.
CREATE TABLE kept_events (
    seq      INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    event    BLOB NOT NULL,
    trigger  TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    reason   TEXT NOT NULL,
    at       REAL NOT NULL,
    folder   TEXT
);
CREATE INDEX kept_events_at ON kept_events (at);

CREATE TABLE counts (
    trigger TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (trigger, outcome, reason)
) WITHOUT ROWID;

CREATE TABLE revisions (
    saga        TEXT NOT NULL,
    number      INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    source_text TEXT NOT NULL,
    at          REAL NOT NULL,
    PRIMARY KEY (saga, number)
) WITHOUT ROWID;

CREATE TABLE positions (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE triggers (
    name  TEXT PRIMARY KEY,
    owner INTEGER NOT NULL
) WITHOUT ROWID;
