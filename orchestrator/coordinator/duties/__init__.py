"""What the coordinator does periodically: one duty per file. Each is one bounded statement or two, and never waits."""
