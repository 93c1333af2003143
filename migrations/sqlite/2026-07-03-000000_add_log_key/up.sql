-- What only the nodes on this database know: they sign with it what they say to each other past the database.
ALTER TABLE log ADD COLUMN key TEXT NOT NULL DEFAULT '';

UPDATE log SET key = lower(hex(randomblob(32)));
