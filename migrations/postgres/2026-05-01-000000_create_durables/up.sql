-- Durable subscriptions. `service` is the number in `services` under which their dead deliveries are kept. Every event up to
-- `floor` is settled. `epoch` rises when an operator moves the floor: whatever was meant for an earlier one is void.
CREATE TABLE durables (
    service       SMALLINT           NOT NULL PRIMARY KEY,
    name          TEXT COLLATE "C"   NOT NULL UNIQUE,
    pattern       TEXT               NOT NULL,
    filter        TEXT,
    epoch         BIGINT             NOT NULL,
    floor         BIGINT             NOT NULL,
    ack_wait_us   BIGINT             NOT NULL,
    max_in_flight INTEGER            NOT NULL,
    max_deliver   INTEGER            NOT NULL,
    created_at    BIGINT             NOT NULL
);

-- Events above the floor that are not as new. `deliveries`: how often in vain; 0 if there is nothing left to do.
CREATE TABLE durable_marks (
    service       SMALLINT           NOT NULL,
    event_id      BIGINT             NOT NULL,
    deliveries    INTEGER            NOT NULL,
    PRIMARY KEY (service, event_id)
);
