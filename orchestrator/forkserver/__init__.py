"""THE FORKSERVER: a fresh, single-threaded interpreter that imports the user's app once, then only forks children."""
