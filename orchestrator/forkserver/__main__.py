"""Entry of the forkserver process: `python …/orchestrator/forkserver/__main__.py FD`, started by the supervisor.

It is run by its path, not with -m, so that neither a folder named `orchestrator` in the working directory nor another
version of us that is installed can take our place; the working directory comes first only when the user's app is
imported.
"""

import gc
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

if __name__ == "__main__":  # not in what multiprocessing's spawn starts, which runs this file once more
    gc.disable()  # imports make no garbage, and looking for it takes a twentieth of a start
    if not sys.flags.safe_path:
        del sys.path[0]  # this folder: its modules are no top-level modules
    _ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    _spec = spec_from_file_location("orchestrator", os.path.join(_ours, "__init__.py"))
    assert _spec is not None and _spec.loader is not None
    sys.modules["orchestrator"] = _package = module_from_spec(_spec)
    _spec.loader.exec_module(_package)
    if (_root := os.path.dirname(_ours)) not in sys.path:
        sys.path.append(_root)  # multiprocessing hands it on to what it starts

    from orchestrator.forkserver.main import main

    gc.enable()
    main(int(sys.argv[1]))
