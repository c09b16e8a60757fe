"""What ps shows, and what the programs that tasks run inherit: nothing that is the supervisor's own."""

import json
import os
import signal
from pathlib import Path

from tests.fixtures.daemon import Queue, Start
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proc import title
from tests.fixtures.waiting import eventually

PROGRAM = '''
import json, os, subprocess, sys

PROBE = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
print(json.dumps({
    "environment": dict(os.environ),
    "blocked": int(status["SigBlk"], 16),
    "ignored": int(status["SigIgn"], 16),
    "descriptors": [link for link in links if "/proc" not in link],
}))
"""


@app.task("probe")
def probe():
    """What a program sees that is run without any care: every descriptor that may be inherited is."""
    program = subprocess.run([sys.executable, "-c", PROBE], close_fds=False, restore_signals=False,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return {"program": json.loads(program.stdout), "own": dict(os.environ)}
'''  # noqa: E501 the app's own text

SERVICE = {
    "NOTIFY_SOCKET": "/run/nowhere",
    "WATCHDOG_PID": "1",
    "WATCHDOG_USEC": "20000000",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDNAMES": "web",
}


def test_titles_tell_who_is_who_and_what_a_child_does(daemon: Start, queue: Queue, gates: Gates) -> None:
    worker = daemon(APP, "--pool-size", "2", "--database-url", queue.url, CLAIM_INTERVAL="1h")
    assert title(worker.pid) == "orchestratord: supervisor", "no command line, which might show a password"
    task_id = queue.enqueue("hold")
    busy = gates.wait_running("hold")
    children = {pid: slot for slot, pid in worker.children().items()}
    (idle,) = set(children) - {busy}

    assert title(busy) == f"orchestratord: child {children[busy]} hold {task_id}"
    eventually(lambda: title(idle) == f"orchestratord: child {children[idle]} idle", within=15)
    assert sorted(worker.descendants().values())[-1] == "orchestratord: forkserver"
    assert len(worker.descendants()) == 3, "nobody else is there"
    gates.open("hold")
    eventually(lambda: title(busy) == f"orchestratord: child {children[busy]} idle", within=15)


def test_what_tasks_run_inherits_no_words_to_the_service_manager_no_descriptors_and_no_signal_settings(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    worker = daemon(
        APP + PROGRAM,
        "--pool-size",
        "1",
        "--database-url",
        queue.url,
        PROMETHEUS_MULTIPROC_DIR=str(folder),
        SHOP="a variable of the user's own",
        **SERVICE,
    )
    seen = queue.wait_status(queue.enqueue("probe"), "completed")["result"]
    program = seen["program"]

    for environment in (seen["own"], program["environment"]):
        assert not environment.keys() & SERVICE.keys()
        assert "PROMETHEUS_MULTIPROC_DIR" not in environment, "it would count into our folder, by pid"
        assert environment["SHOP"] == "a variable of the user's own"
        assert environment["DATABASE_URL"] == queue.url, "what handlers enqueue with is what the worker works on"
    assert program["blocked"] == 0
    pythons_own = {signal.SIGPIPE, signal.SIGXFSZ}
    assert {number for number in signal.valid_signals() if program["ignored"] >> (number - 1) & 1} <= pythons_own
    outside = {"/dev/null", str(worker.log_path)}
    assert [link for link in program["descriptors"] if link not in outside and "pipe:" not in link] == []
    assert len([link for link in program["descriptors"] if "pipe:" in link]) == 1, json.dumps(program["descriptors"])
    assert os.listdir(folder) != []
