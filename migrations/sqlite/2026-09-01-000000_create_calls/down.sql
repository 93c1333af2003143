DROP TABLE call_ends;
DROP TABLE calls;
