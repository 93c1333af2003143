-- SQLite plans without statistics: its indexes stay as they are. Both backends have the same versions.
SELECT 1;
