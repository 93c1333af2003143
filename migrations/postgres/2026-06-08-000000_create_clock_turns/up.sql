-- Where `created_at` goes back, because the clock was wrong before: the first event from then on, and its time. From
-- one turn to the next it never decreases.
CREATE TABLE clock_turns (
    first_id    BIGINT  NOT NULL PRIMARY KEY,
    created_at  BIGINT  NOT NULL
);
