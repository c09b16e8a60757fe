"""`python -m orchestrator` is `orchestratord`."""

from orchestrator.cli import main

main()
