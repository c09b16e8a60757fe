"""THE PARENT: one loop that forks nothing, runs no user code, and asks no database."""
