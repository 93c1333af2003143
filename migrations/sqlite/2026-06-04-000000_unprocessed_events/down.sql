DROP INDEX deliveries_dead;
DROP INDEX deliveries_pending;
