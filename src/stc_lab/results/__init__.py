"""Records of a run, and everything that is derived from them: statistics, tables, the frontier."""
