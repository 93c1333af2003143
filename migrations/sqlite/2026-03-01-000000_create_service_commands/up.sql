-- What operators told a node that does not deliver to the service, until the node that does obeys. An id is never
-- used again.
CREATE TABLE service_commands (
    id          INTEGER  NOT NULL PRIMARY KEY AUTOINCREMENT,
    service     INTEGER  NOT NULL,
    command     TEXT     NOT NULL
) STRICT;
