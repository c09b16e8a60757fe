"""Each task has a context of its own, decimal's arithmetic included."""

import decimal
import timeit
from collections.abc import Callable
from contextvars import Context, ContextVar
from decimal import Decimal, getcontext
from typing import Any

import pytest

from orchestrator.child.contexts import Contexts

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def calculate() -> None:
    assert Decimal("1.10") * 2 == Decimal("2.2")


def be_exact() -> None:
    tenant.set("Ann")
    getcontext().prec = 50
    getcontext().traps[decimal.Inexact] = True


def look() -> tuple[Any, ...]:
    return tenant.get(), getcontext().prec, getcontext().traps[decimal.Inexact]


def be_sloppy() -> None:
    tenant.set("Bob")
    getcontext().prec = 3
    getcontext().traps[decimal.Inexact] = False
    with pytest.raises(decimal.DivisionByZero):
        Decimal(1) / Decimal(0)


@pytest.mark.parametrize(
    ("imported", "seen"),
    [(lambda: None, ("nobody", 28, False)), (calculate, ("nobody", 28, False)), (be_exact, ("Ann", 50, True))],
    ids=["nothing", "arithmetic", "precision"],
)
def test_a_task_sees_what_was_set_at_import_and_nothing_that_another_has_set(
    imported: Callable[[], None], seen: tuple[Any, ...]
) -> None:
    process = Context()
    process.run(imported)
    contexts = process.run(Contexts)
    for _ in range(2):
        assert contexts.fresh().run(look) == seen
        contexts.fresh().run(be_sloppy)
    assert process.run(look) == seen


def test_it_costs_hardly_anything_where_precision_is_as_usual() -> None:
    process = Context()
    process.run(calculate)
    contexts = process.run(Contexts)
    assert min(timeit.repeat(contexts.fresh, number=100, repeat=20)) / 100 < 1.5e-6
