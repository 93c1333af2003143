-- The catalogue. `version` is the newest of a type, and goes on after a deletion; `settings` is JSON, NULL once the type
-- was deleted; `generation` is the id of the event of the newest change.
CREATE TABLE event_types (
    name       TEXT    NOT NULL PRIMARY KEY,
    version    INTEGER NOT NULL,
    schema     TEXT NOT NULL,
    settings   TEXT,
    generation INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX event_types_generation ON event_types (generation);

-- All versions of their schemas.
CREATE TABLE event_type_versions (
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    schema     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

-- The digests of the files that were put, in lower-case hex digits.
CREATE TABLE event_type_files (
    name   TEXT    NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT;
