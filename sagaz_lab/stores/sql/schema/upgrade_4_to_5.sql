-- From version 4 of the tables to version 5: events that wait are `waiting`; `held` is only a run's status.

ALTER TABLE held_events RENAME TO waiting_events;
DROP INDEX held_events_trigger;
CREATE INDEX waiting_events_trigger ON waiting_events (trigger);
UPDATE claims SET kind = 'waiting' WHERE kind = 'held';
UPDATE kept_events SET outcome = 'waiting' WHERE outcome = 'held';
UPDATE counts SET outcome = 'waiting' WHERE outcome = 'held';
