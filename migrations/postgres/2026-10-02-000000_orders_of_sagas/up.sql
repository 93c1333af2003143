-- Each index orders the ids by an expression of its own. So the planner can take no other for a statement that wants this
-- order, whatever its statistics.
DROP INDEX sagas_queue;
DROP INDEX sagas_ended;
DROP INDEX sagas_correlation;
DROP INDEX sagas_state;
DROP INDEX sagas_name_state;
CREATE INDEX sagas_queue ON sagas (saga, correlation, (id || 'queue')) WHERE state = 0;
CREATE INDEX sagas_ended ON sagas (saga, correlation, (id || 'ended')) WHERE ended_at IS NOT NULL;
CREATE INDEX sagas_correlation ON sagas (correlation, (id || 'correlation'));
CREATE INDEX sagas_state ON sagas (state, (id || 'state'));
CREATE INDEX sagas_name_state ON sagas (saga, state, (id || 'name'));
