"""Applications made with Task Orchestrator, to read and to copy."""
