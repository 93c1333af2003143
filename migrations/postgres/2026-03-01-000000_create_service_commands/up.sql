-- What operators told a node that does not deliver to the service, until the node that does obeys. An id is never
-- used again.
CREATE TABLE service_commands (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service     SMALLINT           NOT NULL,
    command     TEXT               NOT NULL
);
