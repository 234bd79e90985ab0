-- From version 3 of the tables to version 4. `spelled_key` is a function of ours: the key that a `repr` stands for.

ALTER TABLE runs ADD COLUMN declared TEXT;
ALTER TABLE held_events ADD COLUMN declared TEXT;

-- A run had one claim: its event's id, behind the part of a composite, as a hash if it was long; or else a declared key.
UPDATE runs SET declared = char(31) || claim, claim = CASE WHEN length(event_id) BETWEEN 1 AND 512 THEN event_id END
WHERE claim IS NOT NULL AND trigger IS NOT NULL AND event_id IS NOT NULL
    AND claim <> event_id AND substr(claim, instr(claim, ':') + 1) <> event_id
    AND NOT (length(event_id) > 512 AND claim GLOB 'sha256:*');
UPDATE members SET claim = char(31) || claim WHERE run IN (SELECT seq FROM runs WHERE declared IS NOT NULL);
UPDATE claims SET claim = char(31) || claim
WHERE kind IN ('key', 'live') AND run_id IN (SELECT run_id FROM runs WHERE declared IS NOT NULL);

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
SELECT trigger, event_id, id, at + 30 * 86400, 1, 'letter' FROM dead_letters
WHERE run_id IS NULL AND length(event_id) BETWEEN 1 AND 512 ORDER BY state = 'open' DESC, seq DESC;

-- So it was with events that are held. The first item of an event is its id.
UPDATE held_events SET declared = char(31) || claim, claim = json_extract(CAST(event AS TEXT), '$[0]')
WHERE claim IS NOT NULL AND json_valid(CAST(event AS TEXT))
    AND claim <> json_extract(CAST(event AS TEXT), '$[0]')
    AND substr(claim, instr(claim, ':') + 1) <> json_extract(CAST(event AS TEXT), '$[0]')
    AND length(json_extract(CAST(event AS TEXT), '$[0]')) BETWEEN 1 AND 512;
UPDATE claims SET claim = char(31) || claim
WHERE kind = 'held' AND run_id IN (SELECT id FROM held_events WHERE declared IS NOT NULL);
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, kind)
SELECT trigger, claim, id, NULL, 'held' FROM held_events WHERE declared IS NOT NULL;

-- A key that was no text was stored as its repr, which a text may have been as well: it is claimed as both.
INSERT OR IGNORE INTO claims (trigger, claim, run_id, until, orphan, kind)
SELECT trigger, char(31) || spelled_key(substr(claim, 2)), run_id, coalesce(until, unixepoch() + 30 * 86400), 1, kind
FROM claims
WHERE kind IN ('key', 'live') AND substr(claim, 1, 1) = char(31) AND spelled_key(substr(claim, 2)) IS NOT NULL;
INSERT OR IGNORE INTO cooldowns (trigger, key, run_id, until)
SELECT trigger, spelled_key(key), run_id, until FROM cooldowns WHERE spelled_key(key) IS NOT NULL;
