DROP TABLE clock_turns;
