-- The statements of the SQL store. {now} is the database's clock, {texts} unfolds one value into strings.
-- A statement with VALUES (...) is also used for many rows, and with NULL for some of the last columns.
-- Lines after "-- sqlite:" or "-- postgres:" are for that database only, up to "-- both:" or the end of the statement.

-- name: fence
-- Whether this owner may still write, which cannot change until this transaction ends. SQLite adds the newest run's
-- number, since it has one writer at a time; PostgreSQL new numbers for runs, and the transaction's id.
-- sqlite:
SELECT fenced, (SELECT max(seq) FROM runs) FROM owners WHERE epoch = ?
-- postgres:
SELECT fenced, ARRAY(SELECT nextval('run_numbers') FROM generate_series(1, ?2)), pg_current_xact_id()::text
FROM owners WHERE epoch = ?1 FOR SHARE

-- name: now
SELECT {now}

-- name: insert_runs
INSERT INTO runs (seq, run_id, saga, revision, status, attempt, owner, started_at, starts, context, trigger, claim, event_id,
    event, declared)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_records
INSERT INTO records (seq, attempt, kind, action, trial, at, starts, value, changes, error, traceback)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_claims
INSERT INTO claims (trigger, claim, run_id, until, kind) VALUES (?, ?, ?, ?, ?)

-- name: insert_members
INSERT INTO members (run, claim) VALUES (?, ?)

-- name: insert_publications
-- An unpublished one may be inserted again.
INSERT INTO publications (id, topic, payload, trigger, run_id, owner) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING

-- name: free_ended_claim
DELETE FROM claims WHERE trigger = ? AND claim = ? AND kind = 'live' AND EXISTS (
    SELECT 1 FROM runs WHERE runs.run_id = claims.run_id
    AND status IN ('completed', 'compensated', 'cancelled', 'compensation_failed', 'partially_committed'))

-- name: end_run
UPDATE runs SET status = ?, attempt = ?, ended_at = ?, retry_at = ?, error = ? WHERE seq = ?

-- name: complete_runs
WITH ended (attempt, at, run) AS (VALUES (?, ?, ?))
UPDATE runs SET status = 'completed', attempt = ended.attempt, ended_at = ended.at, retry_at = NULL, error = NULL
FROM ended WHERE runs.seq = ended.run

-- name: begin_run
UPDATE runs SET status = 'running', revision = ?, attempt = ?, retry_at = NULL, ended_at = NULL, error = NULL,
    context = coalesce(?, context)
WHERE seq = ?

-- name: find_run
SELECT seq, status FROM runs WHERE run_id = ?

-- name: last_record
SELECT max(seq) FROM records WHERE seq >= ? AND seq < ?

-- name: holder
SELECT claims.run_id, runs.status, claims.until, claims.kind FROM claims LEFT JOIN runs ON runs.run_id = claims.run_id
WHERE claims.trigger = ? AND claims.claim = ?

-- name: lock_holder
-- The same, before it loses its claim.
SELECT claims.run_id, runs.status, claims.until, claims.kind FROM claims LEFT JOIN runs ON runs.run_id = claims.run_id
WHERE claims.trigger = ? AND claims.claim = ?
-- postgres:
FOR UPDATE OF claims

-- name: take_claim
INSERT INTO claims (run_id, until, kind, orphan, trigger, claim) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (trigger, claim) DO NOTHING

-- name: retake_claim
UPDATE claims SET run_id = ?, until = ?, kind = ?, orphan = ? WHERE trigger = ? AND claim = ?

-- name: cooling
SELECT cooldowns.run_id, runs.status, until FROM cooldowns LEFT JOIN runs ON runs.run_id = cooldowns.run_id
WHERE cooldowns.trigger = ? AND key = ? AND until > ?

-- name: all_cooling
SELECT key, cooldowns.run_id, runs.status, until FROM cooldowns LEFT JOIN runs ON runs.run_id = cooldowns.run_id
WHERE cooldowns.trigger = ? AND until > ?

-- name: take_cooldown
-- Unless another run's lasts beyond the last parameter.
INSERT INTO cooldowns (trigger, key, run_id, until) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (trigger, key) DO UPDATE SET run_id = excluded.run_id, until = excluded.until
WHERE cooldowns.until <= ?5 OR cooldowns.run_id = excluded.run_id

-- name: delete_cooldown_of
DELETE FROM cooldowns WHERE trigger = ? AND key = ? AND run_id = ?

-- name: begin_cooldown
INSERT INTO cooldowns (trigger, key, run_id, until) SELECT coalesce(trigger, ''), ?, run_id, ? FROM runs WHERE run_id = ?
ON CONFLICT (trigger, key) DO UPDATE SET run_id = excluded.run_id, until = excluded.until

-- name: insert_waiting
INSERT INTO waiting_events (id, trigger, key, part, claim, event, at, folder, declared) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: release_event
DELETE FROM waiting_events WHERE id = ? RETURNING trigger, claim, declared, folder

-- name: free_waiting_claim
-- Either mark suffices: one may be damaged, and no other holder can have the claim.
DELETE FROM claims WHERE trigger = ? AND claim = ? AND (run_id = ? OR kind = 'waiting')

-- name: waiting_events
SELECT id, trigger, key, part, claim, event, at, declared FROM waiting_events
WHERE trigger IN {texts} ORDER BY seq

-- name: waiting_of_triggers
SELECT trigger, count(*) FROM waiting_events GROUP BY trigger

-- name: loosen_folder
INSERT INTO loose_folders (name) VALUES (?) ON CONFLICT DO NOTHING

-- name: drop_folders
DELETE FROM loose_folders WHERE name IN (SELECT name FROM loose_folders LIMIT ?) RETURNING name

-- name: insert_letter
INSERT INTO dead_letters (id, event_id, event, trigger, saga, cause, error, traceback, attempts, revision, at, run_id,
    redriven)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: insert_kept
INSERT INTO kept_events (event_id, event, trigger, outcome, reason, run_id, until, folder, at, told)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, {now}, CASE ?4
    WHEN 'dead' THEN FALSE
    WHEN 'started' THEN EXISTS (
        SELECT 1 FROM runs WHERE runs.run_id = ?6 AND (runs.event_id IS NULL OR runs.event_id <> ?1))
    ELSE TRUE END)

-- name: add_count
INSERT INTO counts (trigger, outcome, reason, count) VALUES (?, ?, ?, ?)
ON CONFLICT (trigger, outcome, reason) DO UPDATE SET count = counts.count + excluded.count

-- name: waiting_run
SELECT seq, trigger, claim, declared FROM runs WHERE run_id = ? AND status = 'waiting' AND attempt = 0

-- name: delete_run
DELETE FROM runs WHERE seq = ?

-- name: delete_records
DELETE FROM records WHERE seq >= ? AND seq < ?

-- name: delete_claim_of
DELETE FROM claims WHERE trigger = ? AND claim = ? AND run_id = ?

-- name: spend_claim
INSERT INTO claims (trigger, claim, run_id, until, orphan, kind) VALUES (?, ?, '', ?, 1, 'spent')
ON CONFLICT (trigger, claim) DO NOTHING

-- name: spend_claim_of
UPDATE claims SET run_id = '', until = ?, orphan = 1, kind = 'spent'
WHERE trigger = ? AND claim = ? AND run_id = ? AND kind = 'id'

-- name: spend_members
UPDATE claims SET run_id = '', until = ?, orphan = 1, kind = 'spent'
WHERE trigger = ? AND claim IN (SELECT claim FROM members WHERE run = ?) AND run_id = ? AND kind = 'id'

-- name: claim_for_letter
INSERT INTO claims (trigger, claim, run_id, until, orphan, kind) VALUES (?, ?, ?, ?, 1, 'letter')
ON CONFLICT (trigger, claim) DO NOTHING

-- name: unpublish
DELETE FROM publications WHERE id = ?

-- name: count_members
SELECT count(*) FROM members WHERE run = ?

-- name: orphan_members
-- The claims of ids always outlive their run, those of declared keys if the last parameter is set.
UPDATE claims SET orphan = 1
WHERE trigger = ? AND claim IN (SELECT claim FROM members WHERE run = ?) AND run_id = ? AND until > {now}
    AND (kind = 'id' OR kind = 'key' AND ?)

-- name: free_members
DELETE FROM claims
WHERE trigger = ? AND claim IN (SELECT claim FROM members WHERE run = ?) AND run_id = ?
-- sqlite:
    AND NOT orphan
-- postgres:
    AND orphan = 0

-- name: delete_members
DELETE FROM members WHERE run = ?

-- name: forget_claim
-- The id or the declared key with this text.
DELETE FROM claims WHERE trigger = ? AND claim IN (?, ?) AND kind <> 'waiting'

-- name: forget_cooldown
DELETE FROM cooldowns WHERE trigger = ? AND key = ?

-- name: forget_claims
DELETE FROM claims WHERE trigger = ? AND kind <> 'waiting'

-- name: forget_cooldowns
DELETE FROM cooldowns WHERE trigger = ?

-- name: select_run
SELECT seq, starts, run_id, saga, revision, trigger, event, context, status, attempt, started_at, retry_at, ended_at, error
FROM runs WHERE run_id = ?

-- name: select_records
SELECT attempt, kind, action, trial, at, value, changes, error, traceback, starts FROM records
WHERE seq >= ? AND seq < ? ORDER BY seq

-- name: newest_runs
-- A damaged time is not a number or out of the range of dates: it cannot be shifted.
SELECT seq, trigger, claim, declared, run_id, started_at, ended_at FROM runs
WHERE seq < ? AND started_at BETWEEN 0 AND 253402300800 AND (ended_at IS NULL OR ended_at BETWEEN 0 AND 253402300800)
ORDER BY seq DESC LIMIT ?

-- name: cut_claims
-- The claims of this run and its members.
UPDATE claims SET until = ?1 + until - ?2
WHERE trigger = ?3 AND run_id = ?7 AND until > ?1
    AND (claim IN (?4, ?5) OR claim IN (SELECT claim FROM members WHERE run = ?6))

-- name: cut_cooldowns
UPDATE cooldowns SET until = ?1 + until - started_at FROM runs
WHERE runs.run_id = cooldowns.run_id AND cooldowns.until > ?1
AND runs.started_at > ?2 AND runs.started_at < 253402300800

-- name: cut_waiting
UPDATE waiting_events SET at = ?1 WHERE at > ?2

-- name: shift_run
-- Moves its end, or its start, to now.
UPDATE runs SET started_at = started_at - ?, ended_at = ended_at - ? WHERE seq = ?

-- name: shift_records
UPDATE records SET at = at - ? WHERE seq >= ? AND seq < ?
-- sqlite:
    AND typeof(at) = 'real'

-- name: lapsed_owners
-- Owners whose lease has ended or whose process may be dead, which the store then checks.
SELECT epoch, host, pid, pid_started, closed OR heartbeat_at + ? <= {now} FROM owners WHERE NOT fenced AND epoch <> ?

-- name: fence_lapsed
-- Unless it has renewed its lease.
UPDATE owners SET fenced = TRUE WHERE epoch = ? AND (closed OR fenced OR heartbeat_at + ? <= {now})

-- name: fence_owner
UPDATE owners SET fenced = TRUE WHERE epoch = ?

-- name: live_runs_of_others
SELECT seq, starts, run_id, saga, revision, trigger, event, context, status, attempt, started_at, retry_at FROM runs
WHERE ended_at IS NULL AND owner IN (SELECT epoch FROM owners WHERE fenced) ORDER BY seq
-- postgres:
FOR UPDATE OF runs

-- name: take_run
UPDATE runs SET owner = ? WHERE seq = ?

-- name: take_publications
UPDATE publications SET owner = ? WHERE owner IN (SELECT epoch FROM owners WHERE fenced)

-- name: take_publications_of
UPDATE publications SET owner = ? WHERE owner = ? AND run_id = ?

-- name: publications
SELECT seq, id, topic, payload, trigger, run_id FROM publications WHERE owner = ? ORDER BY seq LIMIT ?

-- name: published
DELETE FROM publications WHERE seq = ?

-- name: park_publication
-- Owner 0 means parked: a refused publication, or one of the same run behind it.
UPDATE publications SET owner = 0 WHERE seq = ? AND owner = ?

-- name: parked_runs
SELECT DISTINCT run_id FROM publications WHERE owner = 0 AND run_id <> ''

-- name: parked_publications
SELECT dead_letters.id, publications.id, publications.run_id
FROM dead_letters JOIN publications ON publications.id = dead_letters.event_id AND publications.owner = 0
WHERE dead_letters.state = 'open' AND dead_letters.id IN {texts}
-- postgres:
FOR UPDATE OF dead_letters

-- name: replace_payload
UPDATE publications SET payload = ? WHERE id = ?

-- name: delete_publication
DELETE FROM publications WHERE id = ?

-- name: release_publications
UPDATE publications SET owner = ? WHERE owner = 0
    AND (id IN {texts} OR run_id IN {texts})

-- name: run_owner
SELECT seq, owner, ended_at FROM runs WHERE run_id = ?
-- postgres:
FOR UPDATE

-- name: adopt_run
UPDATE runs SET owner = ?, status = 'running', ended_at = NULL WHERE seq = ?

-- name: insert_owner
INSERT INTO owners (id, name, host, pid, pid_started, heartbeat_at) VALUES (?, ?, ?, ?, ?, {now}) RETURNING epoch

-- name: heartbeat
UPDATE owners SET heartbeat_at = {now} WHERE epoch = ? AND NOT fenced

-- name: is_fenced
SELECT fenced FROM owners WHERE epoch = ?

-- name: close_owner
UPDATE owners SET closed = TRUE, heartbeat_at = {now} WHERE epoch = ?

-- name: forget_owners
-- Owners fenced off long ago without runs left, whose triggers other owners have run since.
DELETE FROM owners WHERE fenced AND heartbeat_at < {now} - ?
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.ended_at IS NULL AND runs.owner = owners.epoch)
    AND NOT EXISTS (SELECT 1 FROM publications WHERE publications.owner = owners.epoch)
    AND NOT EXISTS (SELECT 1 FROM triggers WHERE triggers.owner = owners.epoch)

-- name: owner
SELECT name, host, pid, pid_started, closed OR fenced OR heartbeat_at + ? <= {now} FROM owners WHERE epoch = ?

-- name: last_seen
-- How long ago an owner of any of these triggers was last seen.
SELECT {now} - max(heartbeat_at) FROM owners
WHERE epoch IN (SELECT owner FROM triggers WHERE name IN {texts})

-- name: trigger_owners
SELECT name, owner FROM triggers WHERE owner <> ?

-- name: disown_triggers
DELETE FROM triggers WHERE owner = ?

-- name: own_trigger
-- Unless it belongs to another owner than the last parameter.
INSERT INTO triggers (name, owner) VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner WHERE triggers.owner = ?3

-- name: open_letter
SELECT seq, id, event_id, event, trigger, saga, cause, error, traceback, attempts, revision, at, run_id, redriven
FROM dead_letters WHERE id = ? AND state = 'open'

-- name: misnamed_letters
-- Those with a foreign id; values other than text sort after all text. Each with the id in its claim.
-- sqlite:
SELECT seq, typeof(id) = 'text', event_id, (SELECT run_id FROM claims
    WHERE claims.trigger = dead_letters.trigger AND kind = 'letter' AND run_id >= 'd-' AND run_id < 'd.'
        AND claim IN (event_id, '0:' || event_id, '1:' || event_id, '2:' || event_id)
        AND NOT EXISTS (SELECT 1 FROM dead_letters AS known WHERE known.id = claims.run_id))
FROM dead_letters WHERE id < 'd-' OR id >= 'd.'

-- name: name_letter
-- sqlite:
UPDATE dead_letters SET id = coalesce(?, 'd-' || lower(hex(randomblob(6)))) WHERE seq = ? RETURNING id

-- name: letters_after
SELECT seq, id, event_id, event, trigger, saga, cause, error, traceback, attempts, revision, at, run_id, redriven
FROM dead_letters WHERE seq > ? ORDER BY seq LIMIT ?

-- name: settle_letter
UPDATE dead_letters SET state = ?, reason = ?, settled_at = {now} WHERE id = ? AND state = 'open'

-- name: insert_revision
INSERT INTO revisions (saga, number, digest, source_text, at, made_by) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (saga, number) DO UPDATE SET digest = excluded.digest WHERE revisions.digest = excluded.digest

-- name: select_revisions
SELECT saga, number, digest, source_text, at, made_by FROM revisions WHERE saga = ? ORDER BY number DESC LIMIT ?

-- name: position
SELECT value FROM positions WHERE name = ?

-- name: put_position
INSERT INTO positions (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: expired_runs
SELECT seq, run_id, trigger, claim, declared, status FROM runs
WHERE ended_at < {now} - ? AND status NOT IN ('held', 'partially_committed', 'compensation_failed')
ORDER BY ended_at LIMIT ?

-- name: orphan_claim
UPDATE claims SET orphan = 1 WHERE trigger = ? AND claim = ? AND run_id = ? AND kind <> 'live' AND until > {now}

-- name: expired_orphans
DELETE FROM claims WHERE (trigger, claim) IN (SELECT trigger, claim FROM claims WHERE orphan = 1 AND until <= {now} LIMIT ?)

-- name: expired_cooldowns
-- Relative to the newest run: cooldowns follow the clock that starts runs.
DELETE FROM cooldowns WHERE (trigger, key) IN (
    SELECT trigger, key FROM cooldowns WHERE until <= (SELECT started_at FROM runs ORDER BY seq DESC LIMIT 1)
    ORDER BY until LIMIT ?)

-- name: expired_events
DELETE FROM kept_events WHERE seq IN (SELECT seq FROM kept_events WHERE until <= {now} ORDER BY until LIMIT ?)
RETURNING folder

-- name: expired_letters
DELETE FROM dead_letters WHERE seq IN (SELECT seq FROM dead_letters WHERE settled_at < {now} - ? LIMIT ?) RETURNING id

-- name: runs_frame
SELECT run_id, saga, revision, trigger, status, event_id, attempt, started_at, ended_at, error FROM runs
ORDER BY seq DESC LIMIT ?

-- name: records_newest_first
SELECT runs.run_id, runs.started_at, runs.starts, records.attempt, kind, action, trial, at, records.error, records.starts
FROM runs LEFT JOIN records ON records.seq >= runs.seq << 20 AND records.seq < (runs.seq + 1) << 20
ORDER BY runs.seq DESC, records.seq

-- name: started_outcomes
SELECT event_id, trigger, CASE attempt WHEN 0 THEN 'waiting' ELSE 'started' END, '', run_id, revision, started_at FROM runs
WHERE event IS NOT NULL ORDER BY seq DESC LIMIT ?

-- name: dead_outcomes
-- A run's dead letter adds nothing to the run; a damaged one names no run.
SELECT event_id, trigger, 'dead', error, NULL, revision, at FROM dead_letters
-- sqlite:
WHERE typeof(run_id) <> 'text'
-- postgres:
WHERE run_id IS NULL
-- both:
ORDER BY seq DESC LIMIT ?

-- name: kept_outcomes
SELECT event_id, trigger, outcome, reason, run_id, NULL, at FROM kept_events WHERE told ORDER BY seq DESC LIMIT ?

-- name: dead_letters_frame
SELECT id, event_id, trigger, cause, error, attempts, revision, at, run_id, state, redriven FROM dead_letters
WHERE state = 'open' ORDER BY seq DESC LIMIT ?

-- name: dead_letters_before
SELECT id, event_id, trigger, cause, error, attempts, revision, at, run_id, state, redriven FROM dead_letters
WHERE state = 'open' AND seq < (SELECT seq FROM dead_letters WHERE id = ?) ORDER BY seq DESC LIMIT ?

-- name: causes_frame
SELECT found.cause, count, first_at, last_at, error
FROM (
    SELECT cause, count(*) AS count, max(seq) AS newest,
-- sqlite:
        min(at) FILTER (WHERE typeof(at) = 'real') AS first_at, max(at) FILTER (WHERE typeof(at) = 'real') AS last_at
-- postgres:
        min(at) AS first_at, max(at) AS last_at
-- both:
    FROM dead_letters WHERE state = 'open' GROUP BY cause
) AS found JOIN dead_letters ON seq = newest
ORDER BY count DESC, newest DESC LIMIT ?

-- name: publications_frame
SELECT id, topic, trigger, run_id FROM publications ORDER BY seq DESC LIMIT ?

-- name: events_of_runs
SELECT started_at, event FROM runs WHERE event IS NOT NULL ORDER BY seq DESC

-- name: events_kept
SELECT at, event FROM kept_events ORDER BY seq DESC

-- name: counts_frame
SELECT trigger, outcome, reason, count FROM counts ORDER BY count DESC LIMIT ?

-- name: claims_frame
SELECT trigger, count(*) AS count FROM claims WHERE kind <> 'waiting' GROUP BY trigger ORDER BY count DESC LIMIT ?

-- name: claim_triggers
-- Skips from one trigger to the next in the index.
WITH RECURSIVE found (name) AS (
    SELECT min(trigger) FROM claims
    UNION ALL SELECT (SELECT min(trigger) FROM claims WHERE trigger > name) FROM found WHERE name IS NOT NULL
) SELECT name FROM found WHERE name IS NOT NULL

-- name: claimants
SELECT run_id, kind FROM claims
WHERE trigger IN {texts} AND claim IN {texts}

-- name: outcomes_of_runs
SELECT trigger, CASE attempt WHEN 0 THEN 'waiting' ELSE 'started' END, '', run_id, revision, started_at FROM runs
WHERE event IS NOT NULL AND run_id IN {texts}

-- name: outcomes_of_newest
-- Among this many of the newest runs.
SELECT trigger, CASE attempt WHEN 0 THEN 'waiting' ELSE 'started' END, '', run_id, revision, started_at FROM runs
WHERE seq > (SELECT max(seq) FROM runs) - ? AND event_id = ? AND event IS NOT NULL

-- name: outcomes_of_waiting
SELECT trigger, 'waiting', '', NULL, NULL, at FROM waiting_events WHERE id IN {texts}

-- name: outcomes_of_dead
SELECT trigger, 'dead', error, NULL, revision, at FROM dead_letters WHERE event_id = ?
-- sqlite:
    AND typeof(run_id) <> 'text'
-- postgres:
    AND run_id IS NULL
-- both:
ORDER BY seq DESC

-- name: outcomes_of_kept
SELECT trigger, outcome, reason, run_id, NULL, at FROM kept_events WHERE told AND event_id = ?

-- name: runs_by_id
-- A run that left a dead letter has the dead letter's error, which tells whether it was redriven before.
SELECT run_id, saga, revision, trigger, status, event_id, attempt, started_at, ended_at,
    coalesce(CASE status WHEN 'compensated' THEN (
        SELECT letters.error FROM dead_letters AS letters
        WHERE letters.state = 'open' AND letters.seq > (SELECT max(seq) FROM dead_letters) - 10000
            AND letters.run_id = runs.run_id AND letters.event_id = runs.event_id
        ORDER BY letters.seq DESC LIMIT 1) END, error)
FROM runs WHERE run_id IN {texts} ORDER BY seq DESC

-- name: runs_of_status
SELECT run_id, saga, revision, trigger, status, event_id, attempt, started_at, ended_at, error FROM runs
WHERE status = ? ORDER BY seq DESC LIMIT ?
