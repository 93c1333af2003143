-- Which log this is: a UUID in one row, made with the store, and anew where ids may have been given twice.
CREATE TABLE log (
    one         INTEGER  NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    id          TEXT     NOT NULL
) STRICT;

INSERT INTO log (id) VALUES (
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89ab', 1 + abs(random() % 4), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))
);

-- Where ids were left out because the store had been set back: none from `first_id` on, `width` of them.
CREATE TABLE log_gaps (
    first_id    INTEGER  NOT NULL PRIMARY KEY,
    width       INTEGER  NOT NULL
) STRICT;
