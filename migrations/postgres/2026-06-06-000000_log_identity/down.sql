DROP TABLE log_gaps;
DROP TABLE log;
