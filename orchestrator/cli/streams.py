"""The standard streams of a command, which may be closed from the start, lose their readers on the way, or have no room
for every character."""

import os
import sys
from io import TextIOWrapper
from typing import TextIO


def replace_closed() -> None:
    """Give descriptors 0, 1 and 2 that were closed from the start to /dev/null: nobody wants to hear, that is no error.

    Else the next file or connection to be opened would get the number, and what is printed would go to the database.
    `sys.stdin` stays None, for a command that has to read it must say that it cannot.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # the processes that we start print, too
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False)


def spell_out_the_unwritable() -> None:
    """Characters that a terminal or a file without UTF-8 has no room for (LANG=en_US) are `\\u2026`, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def let_go_of(stream: TextIO) -> None:
    """Nothing more to write, not even at exit: the reader has gone (`orchestratord tasks list | head`), or a disk is
    full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
