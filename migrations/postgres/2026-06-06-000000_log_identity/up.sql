-- Which log this is: a UUID in one row, made with the store, and anew where ids may have been given twice.
CREATE TABLE log (
    one         SMALLINT NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    id          TEXT     NOT NULL
);

INSERT INTO log (id) VALUES (gen_random_uuid()::text);

-- Where ids were left out because the store had been set back: none from `first_id` on, `width` of them.
CREATE TABLE log_gaps (
    first_id    BIGINT   NOT NULL PRIMARY KEY,
    width       BIGINT   NOT NULL
);
