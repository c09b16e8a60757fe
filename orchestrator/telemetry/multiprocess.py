"""Metrics across processes: every value that prometheus_client counts lives in a file named by slot, not by pid.

The forkserver and the supervisor call `use_files` before any metric is created, the user's app's included. A child
that was forked goes on with the same metrics and writes to the files of its own identity from the first count on. So a
child that replaces another goes on from the other's counts: no counter ever goes back, and no files pile up.
"""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import mmap_key

from orchestrator.telemetry import logs
from orchestrator.telemetry.files import Page, ValueFile

UNSET_IS_NO_VALUE = ("min", "livemin", "max", "livemax")
"""Gauges of which the smallest or largest counts: one that a process never set must not take part as 0."""


class SlotFiles:
    """The files of this process, one for each kind of metric, and all values in them."""

    def __init__(self, path: str, identifier: Callable[[], str]) -> None:
        self.identifier = identifier
        self.identity = identifier()
        self.may_be_another = False  # since the fork, if this process was forked
        # reentrant: a signal handler may count while it interrupts a count
        self.lock = threading.RLock()
        self._path = os.path.abspath(path)
        self._files: dict[str, ValueFile] = {}
        self._values: list[SlotValue] = []
        self._has_warned = False
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.may_be_another = True
        self.lock = threading.RLock()  # a thread that does not exist here may have held it

    def enroll(self, value: "SlotValue") -> None:
        """Give a new value its place, here and after each change of identity."""
        with self.lock:
            self.take_identity()
            self._values.append(value)
            value.settle()

    def take_identity(self) -> None:
        """Move all values to the files of who this process is now, and go on from what stands there."""
        with self.lock:
            identity = self.identifier()
            if identity == self.identity:
                return
            if "_" in identity or "/" in identity:
                raise AssertionError(f"BUG: {identity!r} cannot be part of a metrics file's name")
            self.identity = identity
            self.may_be_another = False
            self._files = {}
            self._has_warned = False
            for value in self._values:
                value.settle()

    def place(self, prefix: str, key: str) -> tuple[Page, int]:
        """Where the value `key` of kind `prefix` lives. On a full disk that is memory which nobody else sees."""
        path = os.path.join(self._path, f"{prefix}_{self.identity}.db")
        try:
            if prefix not in self._files:
                self._files[prefix] = ValueFile(path)
            file = self._files[prefix]
            return file, file.place(key)
        except (OSError, ValueError) as error:
            page = Page.private()
            self._warn_once(path, error)
            return page, 0

    def _warn_once(self, path: str, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logs.get("telemetry").warning(
                "metrics_not_shared", path=path, error=str(error), effect="new series of this process are not exported"
            )


class SlotValue:
    """One number in a file: what prometheus_client calls a value. Any thread may use it."""

    _multiprocess = True

    def __init__(
        self,
        files: SlotFiles,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_more: Any,
    ) -> None:
        self._owner = files
        self._prefix = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self._key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        self._is_shy = multiprocess_mode in UNSET_IS_NO_VALUE
        self._waits_for_value = self._is_shy
        self._page = Page.private()
        self._index = 0
        files.enroll(self)

    def settle(self) -> None:
        """Take one's place in the files of the present identity; the lock is held."""
        self._waits_for_value = self._is_shy
        if self._waits_for_value:
            self._page, self._index = Page.private(), 0
        else:
            self._page, self._index = self._owner.place(self._prefix, self._key)

    def inc(self, amount: float) -> None:
        owner = self._owner
        with owner.lock:
            if owner.may_be_another:
                owner.take_identity()
            if self._waits_for_value:
                self._become_visible()
            self._page.cells[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        owner = self._owner
        with owner.lock:
            if owner.may_be_another:
                owner.take_identity()
            if self._waits_for_value:
                self._become_visible()
            cells = self._page.cells
            cells[self._index] = value
            cells[self._index + 1] = timestamp or 0.0

    def get(self) -> float:
        owner = self._owner
        with owner.lock:
            if owner.may_be_another:
                owner.take_identity()
            value: float = self._page.cells[self._index]
            return value

    def set_exemplar(self, exemplar: object) -> None:
        """Exemplars don't cross processes."""

    def get_exemplar(self) -> None:
        return None

    def _become_visible(self) -> None:
        self._waits_for_value = False
        self._page, self._index = self._owner.place(self._prefix, self._key)


def use_files(path: str, identifier: Callable[[], str]) -> SlotFiles:
    """Count in files in the folder `path` from now on; metrics created before keep counting for themselves.

    `identifier` says who this process is: "3" in the child of slot 3, "forkserver", "supervisor". After a fork it is
    asked at every count until its answer is a new one; then it is settled. No two live processes may share a name.
    """
    files = SlotFiles(path, identifier)
    values.ValueClass = partial(SlotValue, files)
    return files
