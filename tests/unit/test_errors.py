"""Every exception of the package reaches another process whole: a process pool of the user's hands them on."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import Discard, Retry, errors


class _Refund(Discard):
    """A user's own, with a constructor of its own."""

    def __init__(self, *, order: int) -> None:
        self.order = order
        super().__init__(f"order {order} was refunded")


_FACTS: dict[type[errors.OrchestratorError], tuple[tuple[Any, ...], dict[str, Any]]] = {
    errors.ConfigurationError: (
        ([errors.Problem("DATABASE_URL", None, "write one"), errors.Problem("A", "1", "2")],),
        {},
    ),
    errors.AppLoadError: (("shop:app", "it raised"), {}),
    errors.DuplicateTypeError: (("email:send", "shop.send"), {}),
    errors.SignatureMismatch: (("email:send", "missing to"), {}),
    errors.DatabaseUnavailable: (("gone",), {"sent": True}),
    errors.DeadlineExceeded: (("late",), {"sent": True}),
    errors.StatementRefused: (("no",), {"sqlstate": "42501"}),
    errors.InstanceRunningError: (("vm-1-a",), {}),
    Retry: ((), {"in_": 60.0}),
    _Refund: ((), {"order": 7}),
}
"""What those are made of that take more than a message."""


_KINDS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]


@pytest.mark.parametrize("kind", [*_KINDS, _Refund], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "moved",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_error_is_the_same_after_a_journey(
    kind: type[errors.OrchestratorError], moved: Callable[[errors.OrchestratorError], errors.OrchestratorError]
) -> None:
    args, kwargs = _FACTS.get(kind, (("a message",), {}))
    error = kind(*args, **kwargs)
    error.add_note("seen on the way")
    arrived = moved(error)
    assert (type(arrived), str(arrived), vars(arrived)) == (kind, str(error), vars(error))
