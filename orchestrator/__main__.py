"""`python -m orchestrator` is `orchestratord`; so is this file run by its path (a checkout, `orchestratord dev`).

By its path, a folder named `orchestrator` in the working directory cannot take our place.
"""

import os
import sys

if not __package__:
    del sys.path[0]  # this folder: its modules are no top-level modules
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if _root not in sys.path:
        sys.path.append(_root)

from orchestrator.cli import main

if __name__ == "__main__":
    main()
