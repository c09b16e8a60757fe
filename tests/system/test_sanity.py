"""What a handler does to its process: undone before the next task, or that one runs in a new child."""

import json
import os
from pathlib import Path

import pytest

from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.waiting import eventually

MISBEHAVING = """
import ctypes, faulthandler, gc, multiprocessing, os, resource, signal, socket, stat, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from orchestrator import App

app = App()
faulthandler.dump_traceback_later(600)  # as who looks for a hang at import
DIRECTORY = os.getcwd()
SOON = 0.3  # a child that is not at its turn for so long has still undone what this handler did

def leave_alarm():
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SOON)

def change_signals():
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

def leave_zombie():
    forked = os.fork()
    if forked == 0:
        os._exit(0)
    os.waitid(os.P_PID, forked, os.WEXITED | os.WNOWAIT)

def leave_subprocess(**options):
    process = subprocess.Popen(["sleep", "600"], **options)
    with open("left", "a") as left:
        left.write(f"{process.pid}\\n")

def reset_signals():
    for each in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        signal.signal(each, signal.SIG_DFL)  # which ends the process

def lose_wakeup_descriptor():
    reading, writing = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writing)
    os.close(reading)
    os.close(writing)

def lose_directory():
    os.mkdir("lost")
    os.chdir("lost")
    os.rmdir(".." + "/lost")

def replace_connection():
    # every socket: the connection to the database is one of them
    with open("replaced", "wb", buffering=0) as mine:
        for descriptor in range(3, 100):
            if os.path.exists(f"/proc/self/fd/{descriptor}") and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(mine.fileno(), descriptor)

def leak_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(int(soft * 0.8)):
        leaked.append(os.open("/dev/null", os.O_RDONLY))

leaked = []

def close_standard():
    for descriptor in (0, 1, 2):
        os.close(descriptor)

def lose_streams():
    sys.stdout, sys.stderr = None, open(os.devnull)

def close_streams():
    sys.stdout.close()

def lower_limits():
    for each in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_DATA):
        resource.setrlimit(each, (0, resource.getrlimit(each)[1]))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (3600, resource.getrlimit(resource.RLIMIT_CPU)[1]))

def lower_hard_limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

def repeat_profiling():
    signal.signal(signal.SIGPROF, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)

def unshare():
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS

MISDEEDS = {
    "profiling timer": lambda: signal.setitimer(signal.ITIMER_PROF, 0.01),
    "repeated profiling timer": repeat_profiling,
    "virtual timer": lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 0.01),
    "limits": lower_limits,
    "hard limit": lower_hard_limit,
    "nice": lambda: os.nice(3),
    "affinity": lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]),
    "garbage": gc.disable,
    "recursion": lambda: sys.setrecursionlimit(80),
    "socket timeout": lambda: socket.setdefaulttimeout(0.001),
    "effective user": lambda: os.seteuid(65534),
    "user": lambda: os.setuid(65534),
    "group": lambda: os.setresgid(65534, 65534, 65534),
    "groups": lambda: os.setgroups([65534]),
    "root": lambda: os.chroot("/usr"),
    "mounts": unshare,
    "directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "signals": change_signals,
    "alarm": leave_alarm,
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()),
    "zombie": leave_zombie,
    "environment": os.environ.clear,
    "streams": lose_streams,
    "closed streams": close_streams,
    "descriptors": leak_descriptors,
    "ending thread": lambda: threading.Thread(target=time.sleep, args=(0.01,)).start(),
    "reset signals": reset_signals,
    "wakeup": lose_wakeup_descriptor,
    "watchdog": lambda: faulthandler.dump_traceback_later(SOON, exit=True),
    "thread": lambda: threading.Thread(target=time.sleep, args=(600,)).start(),
    "daemon thread": lambda: threading.Thread(target=time.sleep, args=(600,), daemon=True).start(),
    "subprocess": leave_subprocess,
    "own session": lambda: leave_subprocess(start_new_session=True),
    "closed all": lambda: os.closerange(0, 1000),
    "closed standard": close_standard,
    "replaced": replace_connection,
    "lost directory": lose_directory,
}

def state() -> dict:
    return {
        "directory": os.getcwd() == DIRECTORY,
        "umask": os.umask(0o022),
        "signals": {each.name: str(signal.getsignal(each)).partition(" at ")[0] for each in signal.Signals},
        "stacks": [str(signal.getsignal(signal.SIGRTMIN + each)).partition(" at ")[0] for each in (5, 6)],
        "wakeup": signal.set_wakeup_fd(-1),
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "timers": [signal.getitimer(each) for each in (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL)],
        "limits": [resource.getrlimit(each) for each in range(16)],
        "user": [os.getresuid(), os.getresgid(), os.getgroups()],
        "root": [os.stat("/").st_ino, os.readlink("/proc/self/ns/mnt")],
        "scheduling": [os.nice(0), sorted(os.sched_getaffinity(0))],
        "python": [sys.getrecursionlimit(), socket.getdefaulttimeout(), gc.isenabled()],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": threading.active_count(),
        "subprocesses": open(f"/proc/self/task/{os.getpid()}/children").read(),
        "descriptors": len(os.listdir("/proc/self/fd")) < 100,
        "marked": "ORCHESTRATOR_CHILD" in os.environ,
        "standard": [os.fstat(descriptor).st_ino > 0 for descriptor in (0, 1, 2)],
    }

@app.task("misbehave", max_retries=0)
def misbehave(how: str, result: str | None = None) -> str | None:
    with open("ran", "a") as ran:
        ran.write(how.replace(" ", "-") + "\\n")
    time.sleep(0.001)  # after a briefer task some of it would be seen some tasks later
    MISDEEDS[how]()
    return result

@app.task("probe", max_retries=0)
def probe(seconds: float = 0.0) -> dict:
    time.sleep(seconds)
    until = time.process_time() + 0.03  # a timer that counts processor time would end it
    while time.process_time() < until:
        pass
    print("probed")
    print("probed", file=sys.stderr)
    return {"pid": os.getpid(), "state": state()}

def sort_out(n: int) -> int:
    return n * n

@app.task("pool")
def pool() -> list[int]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        return list(executor.map(sort_out, range(4)))

def terminated() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    process.start()
    process.terminate()  # as a multiprocessing.Pool does with its workers
    process.join()
    return process.exitcode

at_import = terminated()

@app.task("terminate")
def terminate() -> list[int]:
    return [at_import, terminated()]

@app.task("fork", max_retries=0)
def fork(end: str) -> int:
    with open("ran", "a") as ran:
        ran.write("fork-" + end + "\\n")
    forked = os.fork()
    if forked == 0:
        if end == "exit":
            sys.exit(3)
        if end == "raise":
            raise ValueError("in the fork")
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])

@app.task("fork:async", max_retries=0)
async def fork_async(end: str) -> int:
    return fork(end)
"""

RIGHTS = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
BY_RIGHT = {"nice": RIGHTS >> 23 & 1, "hard limit": RIGHTS >> 24 & 1}
"""Put back by who has CAP_SYS_NICE and CAP_SYS_RESOURCE."""

UNDONE = (
    "directory", "lost directory", "umask", "signals", "alarm", "mask", "zombie", "environment", "streams",
    "profiling timer", "repeated profiling timer", "virtual timer", "limits", "affinity", "recursion", "garbage",
    "socket timeout", "ending thread", "wakeup", "watchdog", "reset signals",
    *(how for how, may in BY_RIGHT.items() if may),
)  # fmt: skip
NOT_UNDONE = (
    "thread", "daemon thread", "subprocess", "own session", "closed all", "closed standard", "replaced",
    "descriptors", "closed streams",
    *(how for how, may in BY_RIGHT.items() if not may),
    *(("effective user", "user", "group", "groups", "root", "mounts") if os.geteuid() == 0 else ()),
)  # fmt: skip


TIMERS = ("alarm", "watchdog")
"""They would end the process a moment later."""


def probe(queue: Queue, seconds: float = 0.0) -> dict[str, object]:
    """The child's pid and state, after so many seconds in a handler."""
    result = queue.wait_status(queue.enqueue("probe", {"seconds": seconds}), "completed")["result"]
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def worker(lasting_daemon: Start, lasting_database: Queue) -> Daemon:
    """With one child at a time."""
    return lasting_daemon(MISBEHAVING, "--pool-size", "1", DATABASE_URL=lasting_database.url)


@pytest.fixture
def folder(worker: Daemon, lasting_folder: Path) -> Path:
    """The worker's, without what other tests left in it."""
    for name in ("ran", "left", "replaced"):
        (lasting_folder / name).unlink(missing_ok=True)
    return lasting_folder


@pytest.mark.usefixtures("folder")
def test_what_a_handler_changed_is_undone_before_the_next_task(lasting_queue: Queue) -> None:
    queue = lasting_queue
    healthy = probe(queue)

    for how in UNDONE:
        task = queue.wait_status(queue.enqueue("misbehave", {"how": how}), "completed", "dead_letter")
        assert (task["status"], task["attempts"]) == ("completed", 1), how
        assert probe(queue, 0.5 if how in TIMERS else 0.0) == healthy, how


def test_after_what_cannot_be_undone_the_next_task_runs_in_a_new_child(
    worker: Daemon, lasting_queue: Queue, folder: Path
) -> None:
    queue = lasting_queue
    insane = worker.metric("worker_child_restarts_total", reason="insane") or 0
    healthy = probe(queue)
    seen = {healthy["pid"]}

    for how in NOT_UNDONE:
        task = queue.wait_status(queue.enqueue("misbehave", {"how": how, "result": how}), "completed", "dead_letter")
        assert (task["status"], task["attempts"], task["result"]) == ("completed", 1, how)
        after = probe(queue)
        assert after["state"] == healthy["state"], how
        assert after["pid"] not in seen, how
        seen.add(after["pid"])

    ran = (folder / "ran").read_text().split()
    assert ran == [how.replace(" ", "-") for how in NOT_UNDONE], "each ran once"
    assert (folder / "replaced").read_bytes() == b"", "nothing of ours went into the handler's file"
    left = [int(pid) for pid in (folder / "left").read_text().split()]
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in left), within=20)
    eventually(
        lambda: worker.metric("worker_child_restarts_total", reason="insane") == insane + len(NOT_UNDONE), within=10
    )
    assert worker.health()[0] == 200, "no crash loop"
    assert "left running (Thread-" in worker.log(), "and the threads that had been there before are not named"


def test_a_large_result_gets_home_from_a_child_that_lost_its_connection(lasting_queue: Queue, folder: Path) -> None:
    queue = lasting_queue
    large = "y" * (100 << 10)

    for how in ("closed all", "replaced"):
        task_id = queue.enqueue("misbehave", {"how": how, "result": large})
        task = queue.wait_status(task_id, "completed", "dead_letter")
        assert (task["status"], task["attempts"]) == ("completed", 1), how
        assert task["result"] == large
    assert (folder / "replaced").read_bytes() == b""
    assert (folder / "ran").read_text().split() == ["closed-all", "replaced"]


def test_a_process_that_a_handler_forked_ends_with_its_handler(
    worker: Daemon, lasting_queue: Queue, folder: Path
) -> None:
    queue = lasting_queue
    codes = {"return": 0, "exit": 3, "raise": 1}
    tasks = {(name, end): queue.enqueue(name, {"end": end}) for name in ("fork", "fork:async") for end in codes}
    pool, terminate = queue.enqueue("pool"), queue.enqueue("terminate")
    after = [queue.enqueue("misbehave", {"how": "zombie"}) for _ in range(20)]

    queue.wait_empty(within=20)

    for (name, end), task_id in tasks.items():
        task = queue.task(task_id)
        assert (task["status"], task["attempts"], task["result"]) == ("completed", 1, codes[end]), (name, end)
    assert queue.task(pool)["result"] == [0, 1, 4, 9]
    assert queue.task(terminate)["result"] == [-15, -15]
    assert [queue.task(each)["attempts"] for each in after] == [1] * 20
    ran = (folder / "ran").read_text().split()
    assert sorted(ran) == sorted([*(f"fork-{end}" for _, end in tasks), *["zombie"] * 20])
    in_pool = [pid for pid, title in worker.descendants().items() if "child" in title]
    assert len(in_pool) == 1, json.dumps(worker.descendants())


FORKING_HOOK = """
import os
from orchestrator import App

app = App()

@app.on_child_start
def fork() -> None:
    os.fork()

@app.task("who", max_retries=0)
def who() -> int:
    return os.getpid()
"""


def test_a_process_that_a_start_hook_forked_does_not_become_a_second_child(queue: Queue, daemon: Start) -> None:
    worker = daemon(FORKING_HOOK, "--pool-size", "1", DATABASE_URL=queue.url)
    (child,) = worker.children().values()
    queue.rows("INSERT INTO tasks (type) SELECT 'who' FROM generate_series(1, 300)")
    queue.wait_empty()
    assert queue.rows("SELECT DISTINCT status::text, attempts, result FROM tasks") == [("completed", 1, child)]
    assert list(worker.children().values()) == [child]


def test_what_waits_in_a_batch_with_a_misbehaving_task_runs_elsewhere_and_pays_nothing(
    queue: Queue, daemon: Start, tmp_path: Path
) -> None:
    # every 20th of 160 quick tasks makes its child unusable, among them some amid a batch
    queue.rows(
        """
        INSERT INTO tasks (type, payload)
        SELECT 'misbehave', jsonb_build_object('how', CASE n % 20 WHEN 0 THEN 'thread' ELSE 'zombie' END)
        FROM generate_series(1, 160) AS n ORDER BY n
        """
    )
    worker = daemon(MISBEHAVING, "--pool-size", "3", DATABASE_URL=queue.url)

    queue.wait_empty(within=20)

    assert queue.rows("SELECT DISTINCT status::text, attempts FROM tasks") == [("completed", 1)]
    ran = (tmp_path / "ran").read_text().split()
    assert (ran.count("thread"), ran.count("zombie")) == (8, 152), "each ran once"
    assert worker.log().count("child_not_reusable") == 8
    assert worker.health()[0] == 200


@pytest.mark.parametrize("tasks", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_what_is_just_becoming_an_orphan_when_its_child_ends_does_not_get_away(
    daemon: Start, queue: Queue, tasks: int
) -> None:
    app = """
    import os
    from orchestrator import App
    app = App()

    @app.task("daemonize", max_retries=0)
    def daemonize() -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "977"])
            os._exit(0)
        os._exit(3)
    """
    worker = daemon(app, "--pool-size", "4", DATABASE_URL=queue.url)
    for _ in range(tasks):
        queue.enqueue("daemonize")
    queue.wait_empty()
    eventually(lambda: "sleep 977" not in worker.descendants().values(), within=20)
    assert worker.stop() == 0
