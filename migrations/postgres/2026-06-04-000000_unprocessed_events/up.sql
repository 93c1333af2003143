-- Which events are not processed: `GET /events?status=failed` and `status=pending`. What is delivered costs nothing here.
-- `event_id + 0`: no statement about the deliveries of one service, in the order of their events, takes these indexes.
CREATE INDEX deliveries_pending ON deliveries ((event_id + 0)) WHERE state < 2;
CREATE INDEX deliveries_dead ON deliveries ((event_id + 0)) WHERE state = 3;
