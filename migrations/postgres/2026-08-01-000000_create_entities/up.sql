-- The newest state of each entity. `version` is the id of the event that made it; without a value the entity was deleted
-- by it, and the row is kept for a while. `slot` and `sum` are what the entity adds to a digest: its bucket, and the
-- exclusive or's operand.
CREATE TABLE entities (
    type       TEXT COLLATE "C"  NOT NULL,
    key        TEXT COLLATE "C"  NOT NULL,
    version    BIGINT            NOT NULL,
    value      TEXT,
    updated_at BIGINT            NOT NULL,
    slot       INTEGER           NOT NULL,
    sum        BIGINT            NOT NULL,
    PRIMARY KEY (type, key)
);
-- A digest is read from here alone, and so is which entities a bucket has.
CREATE INDEX entities_digest ON entities (type, slot, sum) WHERE value IS NOT NULL;
CREATE INDEX entities_deleted ON entities (updated_at) WHERE value IS NULL;

-- How many entities each type has; types without any have no row.
CREATE TABLE entity_types (
    type  TEXT COLLATE "C"  NOT NULL PRIMARY KEY,
    count BIGINT            NOT NULL
);
