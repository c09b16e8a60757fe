"""The context that a handler runs in: a copy of its own of what import and start hooks have set. Runs in a child.

What it sets there (tracing, decimal's precision …) is no business of the next task's.
"""

import decimal
from contextvars import Context, copy_context


class Contexts:
    """Made once the start hooks have run.

    A copy of a context shares its values, which is one too many for decimal's: a handler that sets the precision there
    changes it. So where that is as decimal would make it, each task is left to make its own; else it is given one.
    """

    def __init__(self) -> None:
        set_so_far = copy_context()
        arithmetic = set_so_far.run(decimal.getcontext)
        self._base = Context()
        for variable, value in set_so_far.items():
            if value is not arithmetic:
                self._base.run(variable.set, value)
        is_usual = _rules(arithmetic) == _rules(decimal.DefaultContext)
        self._arithmetic = None if is_usual else arithmetic.copy()

    def fresh(self) -> Context:
        """For one task."""
        context = self._base.copy()
        if self._arithmetic is not None:
            context.run(decimal.setcontext, self._arithmetic.copy())
        return context


def _rules(context: decimal.Context) -> tuple[object, ...]:
    """All that decides what comes out; the flags only tell what has."""
    c = context
    return c.prec, c.rounding, c.Emin, c.Emax, c.capitals, c.clamp, c.traps
