DROP TABLE syncs;
