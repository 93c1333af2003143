-- The nodes that share this store. `generation` rises when a node joins, and when it is found lost: what it held in an
-- earlier one is free. `expires_at` is by the clock of the database, and 0 once the node was found lost. Who leaves in
-- good order is removed.
CREATE TABLE nodes (
    name        TEXT COLLATE "C"   NOT NULL PRIMARY KEY,
    generation  BIGINT             NOT NULL,
    expires_at  BIGINT             NOT NULL,
    started_at  BIGINT             NOT NULL,
    seen_at     BIGINT             NOT NULL,
    version     TEXT               NOT NULL,
    url         TEXT               NOT NULL,
    last_id     BIGINT             NOT NULL,
    is_draining BOOLEAN            NOT NULL
);

-- Which node does what one node does for all. `generation` rises with each holder, and each write of a holder names it.
-- `wanted_by`: the node to which the holder is asked to hand it over.
CREATE TABLE leases (
    name            TEXT COLLATE "C"   NOT NULL PRIMARY KEY,
    node            TEXT COLLATE "C"   NOT NULL,
    node_generation BIGINT             NOT NULL,
    generation      BIGINT             NOT NULL,
    wanted_by       TEXT COLLATE "C"
);
