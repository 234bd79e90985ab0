-- From version 3 of the tables to version 4. Two functions are ours: `spelled_key`, the key that a `repr` stands for, and
-- `id_claim`, the claim of an event's id: the given one where it may be that, or else the one of a plain trigger.

ALTER TABLE runs ADD COLUMN declared TEXT;
ALTER TABLE held_events ADD COLUMN declared TEXT;

-- The process that had made a revision was kept as a position.
ALTER TABLE revisions ADD COLUMN made_by TEXT NOT NULL DEFAULT '';
UPDATE revisions SET made_by = positions.value FROM positions WHERE positions.name = 'revision ' || saga || ' ' || number;
DELETE FROM positions WHERE name IN (SELECT 'revision ' || saga || ' ' || number FROM revisions);

-- Triggers that read one schedule, or the same letters, shared a position. Each has its own now, whatever it reads. Its
-- schedules are known by the ids of ticks that started runs; without any it has been served as far as the last schedule.
-- Letters are read again from the first that some trigger may not have had.
CREATE TABLE shared_positions AS SELECT name, value FROM positions WHERE name GLOB 'cron *|*' OR name GLOB 'dead_letters *|*';
DELETE FROM positions WHERE name IN (SELECT name FROM shared_positions);
CREATE TABLE readers AS SELECT name FROM triggers UNION SELECT trigger FROM counts;
CREATE TABLE served AS SELECT runs.trigger AS name, max(value) AS value FROM runs JOIN shared_positions
ON substr(event_id, 1, length(shared_positions.name) - 4) = substr(shared_positions.name, 6) || '/' GROUP BY runs.trigger;
INSERT INTO positions (name, value)
SELECT 'cron ' || number || ' of ' || readers.name, coalesce(served.value, last.value)
FROM readers LEFT JOIN served ON served.name = readers.name,
(SELECT max(value) AS value FROM shared_positions WHERE name GLOB 'cron *') AS last,
(SELECT 0 AS number UNION SELECT 1 UNION SELECT 2 UNION SELECT 3)
WHERE last.value IS NOT NULL;
INSERT INTO positions (name, value)
SELECT 'dead_letters ' || number || ' of ' || readers.name, first.value
FROM readers, (SELECT CAST(min(CAST(value AS INTEGER)) AS TEXT) AS value FROM shared_positions WHERE name GLOB 'dead_letters *') AS first,
(SELECT 0 AS number UNION SELECT 1)
WHERE first.value IS NOT NULL;
DROP TABLE readers;
DROP TABLE served;
DROP TABLE shared_positions;

-- A run had one claim: its event's id, behind the part of a composite, as a hash if it was long; or else a declared key.
-- Where it may have been either, it is both.
UPDATE runs SET declared = char(31) || claim, claim = id_claim(claim, event_id)
WHERE claim IS NOT NULL AND trigger IS NOT NULL AND event_id IS NOT NULL;
UPDATE members SET claim = char(31) || claim WHERE run IN (SELECT seq FROM runs WHERE declared IS NOT NULL);
UPDATE claims SET claim = char(31) || claim
WHERE kind IN ('key', 'live') AND run_id IN (SELECT run_id FROM runs WHERE declared IS NOT NULL);
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, kind)
SELECT claims.trigger, substr(claims.claim, 2), claims.run_id, claims.until, 'id' FROM claims JOIN runs USING (run_id)
WHERE claims.kind IN ('key', 'live') AND runs.declared = char(31) || runs.claim AND substr(claims.claim, 1, 1) = char(31);
INSERT OR IGNORE INTO members (run, claim)
SELECT run, substr(members.claim, 2) FROM members JOIN runs ON seq = run WHERE declared = char(31) || runs.claim;

-- Of a claim that has outlived its run nobody can tell, so it is both.
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, orphan, kind)
SELECT trigger, char(31) || claim, run_id, until, 1, 'key' FROM claims
WHERE orphan AND kind = 'key' AND substr(claim, 1, 1) <> char(31);
UPDATE claims SET kind = 'id' WHERE kind IN ('key', 'live') AND substr(claim, 1, 1) <> char(31);

-- The ids of events with a declared key, and of those that are dead letters, were not claimed.
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, kind)
SELECT trigger, claim, run_id, started_at + 30 * 86400, 'id' FROM runs
WHERE declared IS NOT NULL AND claim IS NOT NULL ORDER BY seq DESC;
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, orphan, kind)
SELECT trigger, id_claim('', event_id), run_id, started_at + 30 * 86400, 1, 'id' FROM runs
WHERE declared = char(31) || claim AND claim <> id_claim('', event_id) ORDER BY seq DESC;
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, orphan, kind)
SELECT trigger, id_claim('', event_id), id, at + 30 * 86400, 1, 'letter' FROM dead_letters
WHERE run_id IS NULL AND id_claim('', event_id) IS NOT NULL ORDER BY state = 'open' DESC, seq DESC;

-- So it was with events that are held. The first item of an event is its id.
UPDATE held_events SET declared = char(31) || claim, claim = id_claim(claim, json_extract(CAST(event AS TEXT), '$[0]'))
WHERE claim IS NOT NULL AND json_valid(CAST(event AS TEXT));
UPDATE claims SET claim = char(31) || claim
WHERE kind = 'held' AND run_id IN (SELECT id FROM held_events WHERE declared IS NOT NULL);
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, kind)
SELECT trigger, claim, id, NULL, 'held' FROM held_events WHERE declared IS NOT NULL AND claim IS NOT NULL;

-- A key that was no text was stored as its repr, which a text may have been as well: it is claimed as both.
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, orphan, kind)
SELECT trigger, char(31) || spelled_key(substr(claim, 2)), run_id, coalesce(until, unixepoch() + 30 * 86400), 1, kind
FROM claims
WHERE kind IN ('key', 'live') AND substr(claim, 1, 1) = char(31) AND spelled_key(substr(claim, 2)) IS NOT NULL;
INSERT OR IGNORE INTO cooldowns (trigger, key, run_id, until)
SELECT trigger, spelled_key(key), run_id, until FROM cooldowns WHERE spelled_key(key) IS NOT NULL;
