"""Registration refuses mistakes where they stand, payloads are held against signatures, apps are found or explained."""

import copy
import functools
import inspect
import pickle
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import App, RetryPolicy, current_task, errors
from orchestrator.app import CurrentTask, Handler, TaskFunction, running_task
from orchestrator.app_loading import load_app, loaded_app
from orchestrator.client import Client
from orchestrator.errors import AppLoadError, DuplicateTypeError, HandlerError, SignatureMismatch
from orchestrator.model import TaskType

# Registration


def test_a_handler_is_registered_with_its_limits_and_stays_callable() -> None:
    app = App()

    @app.task("email:send", max_retries=5, timeout=30.0, retry=RetryPolicy(base=2.0, cap=60.0))
    def send_email(to: str, subject: str = "none") -> str:
        """Sends."""
        return f"{to}: {subject}"

    assert send_email("ann", subject="Hi") == "ann: Hi"
    assert (send_email.__name__, send_email.__doc__) == ("send_email", "Sends.")  # type: ignore[attr-defined]
    assert app.types() == (TaskType("email:send", 5, 30.0, 2.0, 60.0),)
    assert app.handlers["email:send"] is send_email
    assert not send_email.is_async


def test_without_options_a_handler_has_the_defaults() -> None:
    app = App()
    app.task("a")(lambda: None)
    assert app.types() == (TaskType("a", max_retries=3, timeout_seconds=None),)


@pytest.mark.parametrize(
    "name", ["", None, 7, b"email", "a\nb", "a\x00b", "a\ud800", "x" * 201, "ä" * 101, "\u200b", ["a"]]
)
def test_a_type_that_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(HandlerError, match="type"):
        App().task(name)


@pytest.mark.parametrize("name", ["a", "x" * 200, "ä" * 100, "with spaces, and: signs/*"])
def test_any_printable_type_is_taken(name: str) -> None:
    app = App()
    app.task(name)(lambda: None)
    assert name in app.handlers


@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True, 2**31, pytest.param(10**5000, id="huge")])
def test_max_retries_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(HandlerError, match="max_retries="):
        App().task("a", max_retries=value)


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), float("inf"), "30s", True, 1e12])
def test_a_timeout_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(HandlerError, match="timeout="):
        App().task("a", timeout=value)


def test_a_retry_policy_must_be_one() -> None:
    with pytest.raises(HandlerError, match="RetryPolicy"):
        App().task("a", retry=5)  # type: ignore[arg-type]


def test_forgotten_parentheses_are_explained() -> None:
    with pytest.raises(HandlerError, match=r"@app\.task\("):

        @App().task  # type: ignore[arg-type]
        def handler() -> None: ...


def test_a_type_has_one_handler() -> None:
    app = App()
    app.task("a")(more_positions)
    with pytest.raises(DuplicateTypeError, match=rf"'a' is registered already: {__name__}\.more_positions"):
        app.task("a")(lambda: None)
    app.task("b")(Mailer())
    with pytest.raises(DuplicateTypeError, match=r"'b' is registered already: .*Mailer object"):
        app.task("b")(lambda: None)


def test_an_app_is_included_whole_or_not_at_all() -> None:
    app, other = App(), App()
    app.task("b")(lambda: None)
    for type_name in ("a", "b"):
        other.task(type_name)(lambda: None)
    other.on_child_start(lambda: None)
    with pytest.raises(DuplicateTypeError, match="'b'"):
        app.include(other)
    assert (list(app.handlers), app.start_hooks) == (["b"], [])


def test_one_function_may_serve_two_types() -> None:
    app = App()

    @app.task("a")
    @app.task("b", max_retries=0)
    def handler(x: int) -> int:
        return x

    assert {each.name: each.max_retries for each in app.types()} == {"a": 3, "b": 0}
    assert app.handlers["a"].function is app.handlers["b"].function


def by_position(x: int, /) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Generating:
    def __call__(self) -> Iterator[int]:
        yield 1


class AsyncGenerating:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (by_position, "'x' by position only"),
        (generator, "generator"),
        (async_generator, "generator"),
        (Generating(), "generator"),
        (AsyncGenerating(), "generator"),
        (7, "not int"),
        (type, "signature"),
    ],
)
def test_a_function_that_no_payload_could_call_is_refused(function: Any, says: str) -> None:
    with pytest.raises(HandlerError, match=says):
        App().task("a")(function)


class Callable_:
    def __call__(self, x: int) -> int:
        return x


class AsyncCallable:
    async def __call__(self, x: int) -> int:
        return x


async def coroutine(x: int, y: int = 0) -> int:
    return x + y


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (coroutine, True),
        (functools.partial(coroutine, y=2), True),
        (AsyncCallable(), True),
        (Callable_(), False),
        (lambda x: x, False),
        (functools.partial(max, key=abs), False),
    ],
)
def test_async_handlers_are_recognised(function: Callable[..., Any], is_async: bool) -> None:
    app = App()
    try:
        app.task("a")(function)
    except HandlerError:
        assert isinstance(function, functools.partial)  # max() has no signature
        return
    assert app.handlers["a"].is_async is is_async


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before 3.14 such a name has to be quoted")
def test_annotations_that_only_a_type_checker_can_read_are_not_read() -> None:
    names: dict[str, Any] = {}
    exec("def handler(to: Missing, subject: Missing = 1) -> Missing: ...\ndef hook() -> Missing: ...", names)
    app = App(client=Client("postgres://nowhere.invalid/none", timeout=0.1))
    task = app.task("a")(names["handler"])
    with pytest.raises(SignatureMismatch, match="got an unexpected keyword"):
        task.enqueue("ann", cc=1)
    app.on_child_start(names["hook"])


# Hooks


class Mailer:
    """A handler with attributes, and they are called as ours are."""

    def __init__(self) -> None:
        self.type = self.function = self.options = self._app = self._known = "the mailer's own"
        self.team = "mail"

    def __call__(self, to: str) -> str:
        return f"{to}: {self.type}"


def test_what_a_handler_has_as_attributes_is_its_own_business() -> None:
    app = App()
    task: Any = app.task("a")(Mailer())
    assert task.type == app.handlers["a"].type == TaskType("a")
    assert task(to="ann") == "ann: the mailer's own"
    assert task.team == "mail"
    with pytest.raises(SignatureMismatch, match="missing to"):
        task.options(delay=1.0).enqueue()


@App().task("a")
def doubled(x: int) -> int:
    return 2 * x


def test_a_task_function_is_pickled_and_copied_as_a_function_is() -> None:
    assert pickle.loads(pickle.dumps(doubled)) is doubled
    assert copy.deepcopy([doubled]) == [doubled]
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(App().task("a")(Mailer()))


def test_hooks_run_in_the_order_of_their_registration() -> None:
    app = App()
    seen: list[str] = []

    @app.on_child_start
    def first() -> None:
        seen.append("first")

    app.on_child_start(lambda: seen.append("second"))
    app.on_child_stop(lambda: seen.append("stop"))
    for hook in app.start_hooks + app.stop_hooks:
        hook()
    assert seen == ["first", "second", "stop"]


@pytest.mark.parametrize(
    "hook", [7, coroutine, by_position, lambda needed: None, generator, async_generator, Generating()]
)
def test_a_hook_that_could_not_be_called_is_refused(hook: Any) -> None:
    with pytest.raises(HandlerError, match="hook"):
        App().on_child_start(hook)
    with pytest.raises(HandlerError, match="hook"):
        App().on_child_stop(hook)


# Payload against signature


def plain(to: str, subject: str) -> None: ...
def with_default(to: str, subject: str = "") -> None: ...
def keyword_only(*, to: str, subject: str = "") -> None: ...
def any_key(to: str, **others: object) -> None: ...
def nothing() -> None: ...
def more_positions(to: str, *more: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "payload", "misfit"),
    [
        (plain, {"to": 1, "subject": 2}, None),
        (plain, {"to": 1}, "missing subject (it takes subject, to)"),
        (plain, {}, "missing subject, to"),
        (plain, {"to": 1, "subject": 2, "cc": 3}, "unknown cc"),
        (plain, {"too": 1, "subject": 2}, "missing to; unknown too"),
        (with_default, {"to": 1}, None),
        (with_default, {"subject": 1}, "missing to (it takes [subject], to)"),
        (keyword_only, {"to": 1}, None),
        (keyword_only, {"from": 1, "to": 1}, "unknown from"),
        (any_key, {"to": 1, "not an identifier": 2, "": 3}, None),
        (any_key, {"cc": 1}, "missing to (it takes to, any other)"),
        (nothing, {}, None),
        (nothing, {"a": 1}, "unknown a (it takes nothing)"),
        (more_positions, {"to": 1}, None),
        (more_positions, {"to": 1, "more": []}, "unknown more"),
    ],
)
def test_a_payload_fits_if_python_would_accept_the_call(
    function: Callable[..., None], payload: dict[str, Any], misfit: str | None
) -> None:
    handler = Handler(TaskType("a"), function)
    if misfit is None:
        handler.bind(payload)
        function(**payload)
        return
    with pytest.raises(SignatureMismatch) as refused:
        handler.bind(payload)
    assert misfit in str(refused.value)
    assert "'a'" in str(refused.value)
    with pytest.raises(TypeError):
        function(**payload)


@pytest.mark.parametrize("key", ["{}" * 100, "{}\n\x1b[31m\ud800"])
def test_thousands_of_unknown_keys_make_a_short_message_of_one_line(key: str) -> None:
    handler = Handler(TaskType("a"), nothing)
    with pytest.raises(SignatureMismatch) as refused:
        handler.bind({key.replace("{}", str(number)): 1 for number in range(5000)})
    assert len(str(refused.value)) < 1000
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "enqueue",
    [
        lambda task: task.enqueue(),
        lambda task: task.enqueue("ann", "hi", "more"),
        lambda task: task.enqueue("ann", to="bob"),
        lambda task: task.enqueue(to="ann", subjet="Hi"),
        lambda task: task.options(priority=1).enqueue(subject="Hi"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(enqueue: Callable[[Any], str]) -> None:
    app = App(client=Client("postgres://nowhere.invalid/none", timeout=0.1))

    @app.task("a")
    def handler(to: str, subject: str = "") -> None: ...

    with pytest.raises(SignatureMismatch):
        enqueue(handler)


def test_a_client_that_is_put_in_the_place_of_the_apps_is_used_by_the_handlers_that_it_has() -> None:
    class Recorder(Client):
        def enqueue(self, type: str, payload: object = None, **options: object) -> str:  # type: ignore[override]
            return f"{type} {payload} {options['priority']}"

    app = App(client=Client("postgres://nowhere.invalid/none", timeout=0.1))
    task = app.task("a")(more_positions)
    app.client = Recorder()
    assert task.options(priority=3).enqueue(to="ann") == "a {'to': 'ann'} 3"


def test_positions_beyond_the_names_have_no_place_in_a_payload() -> None:
    app = App(client=Client("postgres://nowhere.invalid/none", timeout=0.1))
    task = app.task("a")(more_positions)
    with pytest.raises(SignatureMismatch, match=r"no place for \*more"):
        task.enqueue("ann", "bob")


# The task that runs


def test_outside_a_handler_there_is_no_current_task() -> None:
    with pytest.raises(RuntimeError, match="outside a handler"):
        current_task()


def test_inside_a_handler_the_current_task_is_known() -> None:
    token = running_task.set(("8f3c", "a", 2, 2, None))
    try:
        assert current_task().attempt == 2
        assert not current_task().is_last_attempt
    finally:
        running_task.reset(token)
    assert CurrentTask(id="8f3c", type="a", attempt=3, max_retries=2).is_last_attempt


# Loading


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules into the working directory; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(name: str, source: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


ONE_TASK = """
from orchestrator import App
{name} = App()
@{name}.task("mine")
def mine() -> None: ...
"""


def test_an_app_is_found_by_module_and_attribute(project: Callable[[str, str], None]) -> None:
    project("shop_tasks.py", ONE_TASK.format(name="queue"))
    app = load_app("shop_tasks:queue")
    assert list(app.handlers) == ["mine"]
    assert loaded_app() is app


def test_a_module_alone_means_its_app(project: Callable[[str, str], None]) -> None:
    project("shop_package/__init__.py", "")
    project("shop_package/tasks.py", ONE_TASK.format(name="app"))
    assert list(load_app("shop_package.tasks").handlers) == ["mine"]


def test_the_working_directory_comes_first(project: Callable[[str, str], None], tmp_path: Path) -> None:
    project("shop_twice.py", ONE_TASK.format(name="app"))
    project("elsewhere/shop_twice.py", "raise RuntimeError('the wrong one')")
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    assert list(load_app("shop_twice").handlers) == ["mine"]


def test_a_working_directory_that_was_removed_is_told_and_an_app_elsewhere_is_loaded(
    project: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project("shop_left.py", ONE_TASK.format(name="app"))
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path / "release")
    (tmp_path / "release").rmdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(load_app("shop_left").handlers) == ["mine"]
    with pytest.raises(AppLoadError, match=r"'shop_gone' in the working directory, which was removed .* PYTHONPATH"):
        load_app("shop_gone")


def test_without_a_name_the_examples_are_served_and_they_can_stand_beside_any_app(
    project: Callable[[str, str], None],
) -> None:
    examples = list(load_app(None).handlers)
    assert "example:task" in examples
    assert list(load_app(None, with_examples=True).handlers) == examples
    project("shop_both.py", ONE_TASK.format(name="app"))
    assert list(load_app("shop_both", with_examples=True).handlers) == ["mine", *examples]
    assert list(load_app("shop_both", with_examples=True).handlers) == ["mine", *examples]


LAZY = """
class Lazy:  # as Django's settings and SimpleLazyObject: to ask for its class sets it up
    @property
    def __class__(self):
        raise OSError("no settings")
settings = Lazy()
def __getattr__(name):
    if name == "app":
        raise OSError("no driver")
    raise AttributeError(name)
"""


BROKEN = """
def connect():
    raise OSError("no route to host")
connect()
"""


@pytest.mark.parametrize(
    ("spec", "source", "says"),
    [
        ("shop_missing", None, ["there is no module 'shop_missing' in /"]),
        ("shop_missing.tasks:app", None, ["there is no module 'shop_missing'"]),
        ("shop_broken", BROKEN, ["OSError: no route to host", 'shop_broken.py", line 3, in connect', "connect()"]),
        ("shop_import", "import not_installed", ["No module named 'not_installed'", 'shop_import.py", line 1']),
        ("shop_exit", "import sys\nsys.exit(1)", ["SystemExit: 1", "line 2"]),
        ("shop_syntax", "def f(:\n", ["SyntaxError", '/shop_syntax.py", line 1', "    def f(:"]),
        ("shop_twins", ONE_TASK.format(name="app") + "app.task('mine')(mine)", ["'mine' is registered already"]),
        ("shop_other:app", ONE_TASK.format(name="queue"), ["shop_other has no 'app'; its apps: queue"]),
        ("shop_empty", "", ["shop_empty has no 'app'; no App is defined there"]),
        ("shop_lazy:app", LAZY, ["'app' raised\nOSError: no driver", 'shop_lazy.py", line']),
        ("shop_late:settings", LAZY, ["'settings' raised\nOSError: no settings"]),
        ("shop_none:application", LAZY + ONE_TASK.format(name="queue"), ["no 'application'; its apps: queue"]),
        ("shop_class:app", "app = 7", ["'app' is no orchestrator.App but int"]),
        ("shop/tasks.py", None, ['write "module:attribute"']),
        ("", None, ['write "module:attribute"']),
        (":app", None, ['write "module:attribute"']),
    ],
)
def test_an_app_that_cannot_be_loaded_is_explained_with_the_users_frames(
    project: Callable[[str, str], None], spec: str, source: str | None, says: list[str]
) -> None:
    if source is not None:
        project(spec.partition(":")[0] + ".py", source)
    with pytest.raises(AppLoadError) as refused:
        load_app(spec)
    text = str(refused.value)
    for words in says:
        assert words in text
    assert "orchestrator/app.py" not in text
    assert "importlib" not in text


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("shop_meant.py:app", ": write shop_meant for shop_meant.py"),
        ("shop_meant.app", ": write shop_meant:app"),
        ("shop_meant.tasks:app", "PYTHONPATH"),
    ],
)
def test_a_file_s_name_and_a_dot_for_the_colon_are_told_what_is_meant(
    project: Callable[[str, str], None], spec: str, hint: str
) -> None:
    project("shop_meant.py", ONE_TASK.format(name="app"))
    with pytest.raises(AppLoadError) as refused:
        load_app(spec)
    assert str(refused.value).endswith(hint)


def test_what_enqueue_says_that_it_raises_can_be_caught_by_its_public_name() -> None:
    said = inspect.getdoc(Client.enqueue)
    assert said is not None
    raised = {name for name in re.findall(r"\w+", said) if issubclass(getattr(errors, name, object), Exception)}
    assert len(raised) == 5
    assert raised <= set(orchestrator.__all__)


def test_a_task_function_is_a_handler() -> None:
    task = App().task("a")(nothing)
    assert isinstance(task, TaskFunction)
    assert isinstance(task, Handler)
    assert repr(task) == "<task 'a'>"
