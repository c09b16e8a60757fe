"""Run a program that is told when whoever started it dies. A script with nothing but the standard library:

    python -I -S tether.py SIGNAL PARENT PROGRAM [ARGUMENT ...]

The kernel sends SIGNAL (a number) when the thread that started this ends (prctl(2), PR_SET_PDEATHSIG; it outlives
exec). PARENT is the pid of that process, in case it is gone before it could be asked for.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(arguments[0]))
    if os.getppid() == int(arguments[1]):
        os.execv(arguments[2], arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
