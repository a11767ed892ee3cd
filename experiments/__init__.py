"""Studies of many runs: the paper's tables, transfer between data sets, time to the same score."""
