"""The app of the toys: handlers that behave as badly as tasks can. Copied into the working directory as `toyapp`."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

from orchestrator import App, RetryPolicy
from tests.toys.store import ToyStore

app = App()
app.code = "first"  # type: ignore[attr-defined]
AT_ONCE = RetryPolicy(base=0.0, cap=0.0)


def store() -> ToyStore:
    return ToyStore(os.environ["TOY_STORE"])


def hang() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001 as badly as tasks can
            continue


@app.on_child_start
def boot() -> None:
    """What the file `boot` in the working directory says: die, hang, or boot well."""
    order = Path("boot").read_text() if Path("boot").exists() else ""
    if order == "die":
        os._exit(3)
    if order == "hang":
        store().note("hangs", os.getpid())
    while order == "hang":
        time.sleep(60)


@app.task("ok", retry=AT_ONCE)
def ok() -> int:
    return os.getpid()


@app.task("environment")
def environment() -> list[str]:
    return sorted(os.environ)


@app.task("until", retry=AT_ONCE)
def until(file: str) -> None:
    """Runs until a file of that name appears."""
    store().note("started", [file, os.getpid()])
    while not Path(file).exists():
        time.sleep(0.005)


@app.task("crash", max_retries=1, retry=AT_ONCE)
def crash(number: int = signal.SIGSEGV) -> None:
    os.kill(os.getpid(), number)


@app.task("leave", max_retries=1, retry=AT_ONCE)
def leave(code: int = 3) -> None:
    os._exit(code)


@app.task("stubborn", max_retries=0)
def stubborn() -> None:
    """Swallows the exception of its time limit."""
    store().note("started", ["stubborn", os.getpid()])
    hang()


@app.task("deaf", max_retries=0)
def deaf() -> None:
    """Hangs in C with the interpreter lock held and every signal blocked."""
    library = ctypes.PyDLL(None)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    store().note("started", ["deaf", os.getpid()])
    library.pause()


@app.task("absent", max_retries=0)
def absent() -> None:
    """Hangs in C with the interpreter lock held; signals reach it, Python's handlers do not."""
    reader, _ = os.pipe()
    library, buffer = ctypes.PyDLL(None), ctypes.create_string_buffer(1)
    store().note("started", ["absent", os.getpid()])
    library.read(reader, buffer, 1)  # goes on after a signal


@app.task("churn", max_retries=0)
def churn(file: str) -> None:
    """Keeps the interpreter at its busiest, with generators above all, until a file of that name appears."""
    store().note("started", ["churn", os.getpid()])
    while not Path(file).exists():
        sum(x * y for x in range(30) for y in range(30))


@app.task("fat", max_retries=0)
def fat(mebibytes: int) -> None:
    memory = bytearray(mebibytes << 20)
    while memory:
        time.sleep(60)


@app.task("parent", max_retries=0)
def parent(then: str) -> None:
    """Leaves a program in a session of its own, one without our marker in its own group, a fork and an orphan of it."""
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    unmarked = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"]})
    reader, writer = os.pipe()
    forked = os.fork()
    if forked == 0:
        os.setsid()
        orphan = os.fork()
        if orphan != 0:
            os.write(writer, str(orphan).encode())
        while True:
            time.sleep(600)
    orphan = int(os.read(reader, 64))
    store().note("family", [program.pid, unmarked.pid, forked, orphan])
    if then == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    hang()


@app.task("share", max_retries=0)
def share(name: str, then: str) -> None:
    """Ends, or has to be ended, with shared memory of its own that it has not removed."""
    shared = shared_memory.SharedMemory(name, create=True, size=1)
    store().note("shared", shared.name)
    if then == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    hang()


@app.task("orphans", max_retries=0)
def orphans(count: int) -> None:
    """Leaves processes that end by themselves, as orphans, one after the other."""
    script = (
        "import os\nfor _ in range(int(os.sys.argv[1])):\n    os.fork() or (os.fork() and os._exit(0)) or os._exit(0)"
    )
    subprocess.run([sys.executable, "-S", "-c", script, str(count)], check=True)
    store().note("orphans", count)
