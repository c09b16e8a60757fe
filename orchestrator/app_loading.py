"""Finding the App that a process is to serve, and what is wrong if there is none. In the forkserver; its children ask
for what it has found."""

import importlib
import os
import sys
from types import ModuleType

from orchestrator.app import App
from orchestrator.errors import AppLoadError
from orchestrator.failure import describe_exception

EXAMPLES = "orchestrator.examples:app"
"""The built-in app, loaded like any other where no app is named."""
NO_TASKS = "it has no tasks: give it handlers with @app.task at import, or import the modules that do"
"""Why an App that loads cannot serve: it would end every task as one of an unknown type."""

_loaded: App | None = None


def load_app(spec: str | None, *, with_examples: bool = False) -> App:
    """Import the App that `spec` names: "module:attribute", or "module" with an App called `app`. None: EXAMPLES.

    The working directory is searched first, as `python -m` does. `with_examples` adds the built-in handlers.
    AppLoadError tells the last frames of the user's code. `loaded_app()` gives the same App from then on.
    """
    global _loaded
    _search_working_directory()
    app = _imported(spec if spec is not None else EXAMPLES)
    if with_examples:
        examples = _imported(EXAMPLES)
        if examples is not app and not examples.handlers.items() <= app.handlers.items():
            app.include(examples)
    _loaded = app
    return app


def loaded_app() -> App:
    """The App that this process, or the forkserver it was forked from, has loaded."""
    if _loaded is None:
        raise AssertionError("BUG: no app was loaded in this process")
    return _loaded


def _search_working_directory() -> None:
    directory = _working_directory()
    if directory is not None and directory not in sys.path[:1]:
        sys.path.insert(0, directory)


def _working_directory() -> str | None:
    """None: it was removed since this process, or the one that started it, went there."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _imported(spec: str) -> App:
    name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in name.split(".")):
        raise AppLoadError(spec, 'write "module:attribute", such as myproject.tasks:app')
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        raise AppLoadError(spec, _why_not(error, name)) from error
    attribute = attribute or "app"
    found: object = module
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
        if isinstance(found, App):
            return found
    except AttributeError:
        raise AppLoadError(spec, f"{name} has no {attribute!r}; {_apps_of(module)}") from None
    except BaseException as error:  # a module may have a __getattr__, and what it has may be lazy
        raise AppLoadError(spec, f"looking up {attribute!r} raised\n{describe_exception(error)}") from error
    kind = type(found).__name__
    raise AppLoadError(spec, f"{attribute!r} is no orchestrator.App but {kind}; {_apps_of(module)}")


def _why_not(error: BaseException, name: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        place = _working_directory() or "the working directory, which was removed (a restart goes to the new one),"
        return f"there is no module {error.name!r} in {place} or on PYTHONPATH{_meant_by(error.name)}"
    return f"importing it raised\n{describe_exception(error)}"


def _meant_by(name: str) -> str:
    """What to write for a file's name, shop.py, or with a dot for the colon, shop.app; or nothing."""
    module, _, last = name.rpartition(".")
    if last == "py":
        return f": write {module} for {name}"
    found = vars(sys.modules[module]).get(last) if module in sys.modules else None
    return f": write {module}:{last}" if issubclass(type(found), App) else ""


def _apps_of(module: ModuleType) -> str:
    # isinstance() would ask each value for its class, and so set up Django's settings
    apps = sorted(name for name, value in vars(module).items() if issubclass(type(value), App))
    return f"its apps: {', '.join(apps)}" if apps else "no App is defined there"
