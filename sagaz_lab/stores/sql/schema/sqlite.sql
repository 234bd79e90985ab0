-- The tables of a store, version 5 (PRAGMA user_version). Times are seconds since the epoch.

-- A process that has opened the store, numbered by its epoch. `fenced`: another has taken over its runs.
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

-- One execution of a saga. The row is also the record "run started" and the start of the actions `starts` (as JSON). A
-- run that waits, runs or needs code has no `ended_at`, so that one index finds the runs to resume and those past their
-- retention. `claim` is that of its event's id, `declared` that of its declared key.
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
    error      TEXT,
    starts     TEXT NOT NULL DEFAULT '',
    declared   TEXT
);
CREATE INDEX runs_ended ON runs (ended_at);

-- The history of runs, append-only. `seq` is the run's seq * 2^20 plus the record's number, so that the records of a
-- run are adjacent, in order, without a separate index. `starts` are the actions whose first trial starts with the
-- record, as JSON.
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
    traceback TEXT,
    starts    TEXT NOT NULL DEFAULT ''
);

-- Claims: ids of events as they are, and declared keys after the prefix char(31). An `orphan` has no run or
-- has outlived it. `kind` is the holder: 'id' the run of an event with this id; 'key' the run of this declared key, 'live'
-- the same until it ends; 'waiting' a waiting event with its id in `run_id`; 'letter' a dead letter with its id in
-- `run_id`; 'spent' none, since a later event replaced this one.
CREATE TABLE claims (
    trigger TEXT NOT NULL,
    claim   TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    until   REAL,
    orphan  INTEGER NOT NULL DEFAULT 0,
    kind    TEXT NOT NULL DEFAULT 'key',
    PRIMARY KEY (trigger, claim)
) WITHOUT ROWID;
CREATE INDEX claims_orphaned ON claims (until) WHERE orphan = 1;

-- The claims of a run's members, if several events started it. `run` is the run's seq.
CREATE TABLE members (
    run   INTEGER NOT NULL,
    claim TEXT NOT NULL,
    PRIMARY KEY (run, claim)
) WITHOUT ROWID;

-- Taken cooldown keys.
CREATE TABLE cooldowns (
    trigger TEXT NOT NULL,
    key     TEXT NOT NULL,
    run_id  TEXT NOT NULL,
    until   REAL NOT NULL,
    PRIMARY KEY (trigger, key)
) WITHOUT ROWID;
CREATE INDEX cooldowns_until ON cooldowns (until);

-- Waiting events. `folder` has a payload too large for the row.
CREATE TABLE waiting_events (
    seq     INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    trigger TEXT NOT NULL,
    key     TEXT,
    part    INTEGER NOT NULL,
    claim   TEXT,
    event   BLOB NOT NULL,
    at      REAL NOT NULL,
    folder  TEXT,
    declared TEXT
);
CREATE INDEX waiting_events_trigger ON waiting_events (trigger);

-- Folders of artifacts that no row names any more, to be deleted.
CREATE TABLE loose_folders (
    name TEXT PRIMARY KEY
) WITHOUT ROWID;

-- Pending publications with the owner that publishes them. Numbers are never reused, so that publishing one can be
-- reported twice.
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

-- Numbers are never reused: a reader that continues after one misses none. `redriven` counts how often the event had
-- been redriven before.
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
CREATE INDEX dead_letters_settled ON dead_letters (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX dead_letters_open ON dead_letters (seq) WHERE state = 'open';
CREATE INDEX dead_letters_causes ON dead_letters (cause, at) WHERE state = 'open';

-- Events kept with their outcome until their time. `folder` has a payload too large for the row. `told` are outcomes
-- that neither a run nor a dead letter shows, as of an event that joined others in a run.
CREATE TABLE kept_events (
    seq      INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    event    BLOB NOT NULL,
    trigger  TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    reason   TEXT NOT NULL,
    at       REAL NOT NULL,
    folder   TEXT,
    run_id   TEXT,
    until    REAL NOT NULL DEFAULT 0,
    told     INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX kept_events_until ON kept_events (until);
CREATE INDEX kept_events_told ON kept_events (seq) WHERE told;

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
    made_by     TEXT NOT NULL DEFAULT '',
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
