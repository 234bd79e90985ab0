-- From version 2 of the tables to version 3.

ALTER TABLE runs ADD COLUMN starts TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN starts TEXT NOT NULL DEFAULT '';
