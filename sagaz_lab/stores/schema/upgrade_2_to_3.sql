-- From version 2 of the tables to version 3.

ALTER TABLE records ADD COLUMN starts BLOB;
