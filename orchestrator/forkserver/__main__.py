"""Entry of the forkserver process: `python …/orchestrator/forkserver/__main__.py FD`, started by the supervisor.

It is run by its path, not with -m, so that a folder named `orchestrator` in the working directory cannot take our
place; the working directory comes first only when the user's app is imported.
"""

import os
import sys

del sys.path[0]  # this folder: its modules are no top-level modules
_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if _root not in sys.path:
    sys.path.append(_root)

from orchestrator.forkserver.main import main  # noqa: E402  (the path had to be put right first)

if __name__ == "__main__":
    main(int(sys.argv[1]))
