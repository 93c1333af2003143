-- How far whoever follows a log has come: written in the transaction of what it has made of it. Of a follower of the
-- events it is an id; of the reader of a Redis stream the id of an entry.
CREATE TABLE positions (
    name     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position TEXT NOT NULL
);
