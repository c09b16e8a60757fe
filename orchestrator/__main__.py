"""`python -m orchestrator` is `orchestratord`; so is this file run by its path (a checkout, `orchestratord dev`).

By its path, neither a folder named `orchestrator` in the working directory nor another version of us that is installed
can take our place.
"""

import gc
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

gc.disable()  # imports make no garbage, and looking for it takes a twentieth of a start

if not __package__:
    if not sys.flags.safe_path:
        del sys.path[0]  # this folder: its modules are no top-level modules
    _here = os.path.dirname(os.path.abspath(__file__))
    _spec = spec_from_file_location("orchestrator", os.path.join(_here, "__init__.py"))
    assert _spec is not None and _spec.loader is not None
    sys.modules["orchestrator"] = _package = module_from_spec(_spec)
    _spec.loader.exec_module(_package)
    if (_root := os.path.dirname(_here)) not in sys.path:
        sys.path.append(_root)  # multiprocessing hands it on to what it starts

from orchestrator.cli import main  # noqa: E402 the collector rests until all is imported

gc.freeze()  # nor does it ever become garbage
gc.enable()

if __name__ == "__main__":
    main()
