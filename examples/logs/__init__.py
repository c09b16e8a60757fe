"""Access logs of web servers, counted in parallel. README.md says how to run it."""
