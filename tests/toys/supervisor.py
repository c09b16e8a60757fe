"""The real Supervisor in a process of its own, with a ToyStore in the database's place. Run it with -m.

Its argument is a JSON object of options. It answers requests, a JSON line each, from standard input on standard output.
"""

import json
import os
import sys
import threading
from typing import Any

from orchestrator.board.birth import ChildSettings, ForkserverOrders
from orchestrator.board.kernel import adopt_orphans
from orchestrator.mailbox import (
    Audit,
    Audited,
    Begin,
    DeclaredDead,
    Finish,
    LeaseLost,
    Mailbox,
    MarkRunning,
    Order,
    Registered,
    Release,
    Report,
    Serving,
    Sleeper,
    StartFailed,
    WorkIsDue,
    Written,
)
from orchestrator.supervisor.forkserver import Forkserver
from orchestrator.supervisor.signals import SignalInbox
from orchestrator.supervisor.supervisor import Supervisor
from orchestrator.supervisor.surroundings import Listeners, PoolSettings, SupervisorSettings
from orchestrator.telemetry import logs
from tests.toys.store import ToyStore

REPORTS: dict[str, type[Report]] = {
    each.__name__: each for each in (Registered, Serving, StartFailed, WorkIsDue, LeaseLost, DeclaredDead)
}


class ToyDatabase:
    """The database side of the supervisor: carries out each order at once, in the caller's thread."""

    def __init__(self, store: ToyStore, reports: Mailbox[Report], worker_id: str, *, serves: bool) -> None:
        self._store = store
        self._reports = reports
        self._worker_id = worker_id
        self._serves = serves
        self.outstanding = 0
        self.has_time = True
        self.overdue_seconds: dict[str, float] = {}

    def start(self) -> None:
        self._reports.post(Registered(self._worker_id, "toy"))

    def post(self, order: Order) -> None:
        self._store.record_order(type(order).__name__, order._asdict())
        match order:
            case Begin() if self._serves:
                self._reports.post(Serving(0))
            case Finish():
                self._store.finish(order.outcomes, "supervisor")
                self._reports.post(Written(tuple(each.token for each in order.outcomes)))
                self._reports.post(WorkIsDue())
            case Release():
                for claim in order.claims:
                    self._store.release(claim.token)
                self._reports.post(WorkIsDue())
            case MarkRunning():
                for start in order.starts:
                    self._store.mark_running(start.token)
            case Audit():
                self._reports.post(Audited(order.slot, self._store.owned(order.slot)))
            case _:
                pass

    def stop(self, *, within: float) -> None:
        self._store.record_order("stop", {"within": within})


class Answers(threading.Thread):
    """Answers requests, as the threads of /health and /metrics would."""

    def __init__(self, supervisor: Supervisor, reports: Mailbox[Report]) -> None:
        super().__init__(daemon=True)
        self._supervisor = supervisor
        self._reports = reports

    def run(self) -> None:
        text = b""
        while chunk := os.read(0, 65536):
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                os.write(1, json.dumps(self._answer(json.loads(line))).encode() + b"\n")

    def _answer(self, request: dict[str, Any]) -> object:
        match request.pop("do"):
            case "status":
                return self._supervisor.status._asdict()
            case "report":
                self._reports.post(REPORTS[request.pop("kind")](**request))
            case "executable":
                sys.executable = request["path"]
        return "done"


def main(options: dict[str, Any]) -> int:
    signals = SignalInbox()
    signals.open()
    adopt_orphans()
    logs.configure(debug=True, format="json", process="supervisor")
    log = logs.get("toys")
    reports: Mailbox[Report] = Mailbox()
    worker_id = f"toys-{os.getpid()}-{os.urandom(3).hex()}"
    orders = ForkserverOrders(
        supervisor_pid=os.getpid(),
        app=options["app"],
        with_examples=False,
        child_main="tests.toys.child:run",
        may_have_threads=options["may_have_threads"],
        metrics_path=options["metrics_path"],
        child=ChildSettings(
            database_url="",
            pool_size=options["pool_size"],
            claim_limit=options["claim_limit"],
            task_timeout=None,
            task_kill_grace=options["task_kill_grace"],
            max_tasks_per_child=0,
            max_child_memory=0,
            max_result_size=1 << 20,
            debug=True,
            log_format="json",
        ),
    )
    database = ToyDatabase(ToyStore(os.environ["TOY_STORE"]), reports, worker_id, serves=options["serves"])
    supervisor = Supervisor(
        SupervisorSettings(
            app="toys",
            pool_size=options["pool_size"],
            shutdown_timeout=options["shutdown_timeout"],
            task_kill_grace=options["task_kill_grace"],
            task_memory_limit=options["task_memory_limit"],
            pool=PoolSettings(
                worker_id="", board_capacity=options["claim_limit"], boot_seconds=options["boot_seconds"]
            ),
        ),
        signals=signals,
        database=database,
        reports=reports,
        sleeper=Sleeper(),
        start_forkserver=lambda generation: Forkserver(generation, orders, os.environ),
        listeners=Listeners(
            on_types=lambda types: log.info("types", names=[each.name for each in types]),
            on_restart=lambda slot, reason: log.info("restarted", slot=slot, reason=reason),
            on_ended=lambda outcomes: log.info("ended", tokens=[each.token for each in outcomes]),
            on_stale=lambda type_name: log.info("stale", type=type_name),
            on_reload=lambda is_success: log.info("reloaded", is_success=is_success),
            on_ready=lambda: log.info("ready"),
        ),
    )
    Answers(supervisor, reports).start()
    return supervisor.run()


if __name__ == "__main__":
    os._exit(main(json.loads(sys.argv[1])))
