"""A CHILD: it claims tasks, runs them one at a time, and records how each ended. All user code runs here."""
