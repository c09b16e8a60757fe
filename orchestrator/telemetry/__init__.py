"""What the daemon says of itself: log lines, metric definitions, and the files that metrics cross processes in."""
