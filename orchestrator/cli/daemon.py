"""The composition root of `orchestratord start`: makes the parts of the supervisor's process and joins them.

Nothing here decides anything; what each part does stands in its own folder.
"""

import faulthandler
import os
import socket
import time

from setproctitle import setproctitle

from orchestrator._version import __version__
from orchestrator.board.kernel import adopt_orphans, resident_bytes, take_signal_stack
from orchestrator.board.layout import CAPACITY
from orchestrator.cli.forkservers import memory_doubt, start_forkserver
from orchestrator.config import Settings, misspelt, without_password
from orchestrator.coordinator.coordination import Coordination
from orchestrator.errors import ConfigurationError
from orchestrator.examples import example_tasks
from orchestrator.exit_codes import ExitCode
from orchestrator.mailbox import Mailbox, Report, Sleeper
from orchestrator.model import TaskType
from orchestrator.status.gauges import SnapshotGauges
from orchestrator.status.server import StatusServer
from orchestrator.status.snapshot import Snapshot
from orchestrator.status.status_line import status_line
from orchestrator.supervisor import descriptors
from orchestrator.supervisor.forkserver import Forkserver
from orchestrator.supervisor.notify_socket import NotifySocket
from orchestrator.supervisor.service_manager import ServiceManager, watchdog_seconds
from orchestrator.supervisor.signals import SignalInbox
from orchestrator.supervisor.stop_timeout import END_SECONDS, stop_timeout_seconds
from orchestrator.supervisor.supervisor import Supervisor
from orchestrator.supervisor.surroundings import Listeners, PoolSettings, SupervisorSettings
from orchestrator.telemetry import logs, multiprocess
from orchestrator.telemetry.collector import SlotFilesCollector
from orchestrator.telemetry.directory import MetricsDirectory
from orchestrator.telemetry.metrics import TaskMetrics

EXAMPLES_NAME = "built-in examples"


class Daemon:
    """One worker on this machine; `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._app = settings.app or EXAMPLES_NAME
        self._log = logs.get("supervisor")
        self._types: tuple[TaskType, ...] = ()
        self._is_reload_refused = False
        self._forkserver_pid = 0

    def run(self) -> ExitCode:
        """Run until a signal ends it. Raises ConfigurationError for what only a try can tell (port, folder, limits)."""
        signals = SignalInbox()
        signals.open()
        faulthandler.enable()  # the service manager's watchdog sends SIGABRT: the log shows where each thread was
        take_signal_stack()
        adopt_orphans()
        setproctitle("orchestratord: supervisor")
        settings = self._settings
        logs.configure(debug=settings.debug, format=settings.log_format, process="supervisor")
        logs.hide_password_of(settings.database_url)
        self._descriptor_limits = descriptors.make_room(settings.pool_size)
        directory = MetricsDirectory.open(settings.multiproc_dir, f"{socket.gethostname()}-{os.getpid()}")
        try:
            return self._run(signals, directory)
        finally:
            directory.close()
            signals.close()

    def _run(self, signals: SignalInbox, directory: MetricsDirectory) -> ExitCode:
        settings = self._settings
        multiprocess.use_files(directory.path, lambda: "supervisor")
        metrics = TaskMetrics()
        reports: Mailbox[Report] = Mailbox()
        sleeper = Sleeper()
        self._coordination = Coordination(
            settings,
            version=__version__,
            reports=reports,
            sleeper=sleeper,
            on_count=metrics,
            examples=tuple(example_tasks()) if settings.enqueue_examples else (),
        )

        self._supervisor = Supervisor(
            self._supervisor_settings(),
            signals=signals,
            database=self._coordination,
            reports=reports,
            sleeper=sleeper,
            start_forkserver=lambda generation: self._start_forkserver(generation, directory.path),
            listeners=self._listeners(metrics, directory),
            service_manager=self._service_manager(),
        )
        server = StatusServer(
            settings.metrics_host,
            settings.metrics_port,
            [SnapshotGauges(self._snapshot), SlotFilesCollector(directory.path)],
            snapshot=self._snapshot,
            loop_age=lambda: time.monotonic() - self._supervisor.status.turned_at,
        )
        try:
            server.bind(is_cancelled=signals.is_told_to_end)
        except ConfigurationError:
            if signals.is_told_to_end():
                return ExitCode.CLEAN  # told to leave while it waited for the port
            raise
        self._say_what_runs(server.address)
        server.start()
        try:
            return self._supervisor.run()
        finally:
            server.stop()

    def _listeners(self, metrics: TaskMetrics, directory: MetricsDirectory) -> Listeners:
        def on_types(types: tuple[TaskType, ...]) -> None:
            metrics.expect(types)
            self._types = types
            self._coordination.app_loaded()
            self._log.info("app_loaded", app=self._app, types=" ".join(each.name for each in types) or "none")
            if (doubt := memory_doubt(self._settings, resident_bytes(self._forkserver_pid))) is not None:
                self._log.warning("memory_limit_too_small", found=doubt)

        def on_restart(slot: int, reason: str) -> None:
            directory.zero_gauges(slot)
            metrics.child_restarted(reason)

        def on_reload(is_success: bool) -> None:
            metrics.reloaded(is_success=is_success)
            self._is_reload_refused = not is_success

        return Listeners(
            on_types=on_types,
            on_restart=on_restart,
            on_ended=metrics.ended,
            on_stale=metrics.stale,
            on_reload=on_reload,
            on_ready=self._say_ready,
        )

    def _service_manager(self) -> ServiceManager | None:
        notify_socket = NotifySocket.of(os.environ)
        if notify_socket is None:
            return None
        stop_seconds, needed = stop_timeout_seconds(os.environ), self._settings.shutdown_timeout + END_SECONDS
        if stop_seconds is not None and stop_seconds < needed:
            self._log.warning(
                "stop_timeout_too_short",
                timeout_stop_sec=stop_seconds,
                needed=needed,
                cure="systemctl edit: TimeoutStopSec above SHUTDOWN_TIMEOUT; until then a drain asks for more time",
            )
        return ServiceManager(
            notify_socket,
            status_line=lambda: status_line(self._snapshot()),
            database=self._coordination,
            watchdog_seconds=watchdog_seconds(os.environ),
        )

    def _supervisor_settings(self) -> SupervisorSettings:
        settings = self._settings
        return SupervisorSettings(
            app=self._app,
            pool_size=settings.pool_size,
            shutdown_timeout=settings.shutdown_timeout,
            task_kill_grace=settings.task_kill_grace,
            task_memory_limit=settings.task_memory_limit,
            pool=PoolSettings(worker_id="", board_capacity=CAPACITY, boot_seconds=settings.child_boot_timeout),
        )

    def _start_forkserver(self, generation: int, metrics_path: str) -> Forkserver:
        forkserver = start_forkserver(self._settings, generation, metrics_path)
        descriptors.limit(forkserver.pid, self._descriptor_limits)
        self._forkserver_pid = forkserver.pid
        return forkserver

    def _say_what_runs(self, address: tuple[str, int]) -> None:
        host, port = address
        settings = self._settings
        self._log.info(
            "starting",
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            database=without_password(settings.database_url),
            pool=settings.pool_size,
            app=self._app,
            mode="distributed" if settings.distributed else "single instance",
            metrics=f"http://{'[' + host + ']' if ':' in host else host}:{port}/metrics",
        )
        for name, meant in misspelt(os.environ):
            self._log.warning("variable_not_used", variable=name, perhaps=meant)
        if settings.serves_no_app:
            self._log.warning(
                "no_app", serves=self._app, consequence="tasks of other types end failed", cure="set ORCHESTRATOR_APP"
            )

    def _say_ready(self) -> None:
        self._log.info(
            f"ready in {time.monotonic() - self._began:.1f} s",
            worker_id=self._coordination.status().worker_id,
            types=" ".join(each.name for each in self._types),
        )

    def _snapshot(self) -> Snapshot:
        pool, database = self._supervisor.status, self._coordination.status()
        counts = database.counts
        return Snapshot(
            worker_id=database.worker_id or "",
            version=__version__,
            distributed=self._settings.distributed,
            state=pool.state,
            is_paused=pool.is_paused,
            waiting_for=database.waiting_for,
            pool_capacity=pool.capacity,
            pool_active=pool.active,
            slots_ready=pool.settled,
            slots_backing_off=pool.backing_off,
            slots_unconnected=pool.unconnected,
            is_database_reachable=database.is_database_reachable,
            is_database_refusing=database.is_refused,
            database_down_seconds=database.down_seconds,
            is_leader=database.is_leader,
            term=database.term,
            workers_total=database.workers_total or 0,
            pending=counts.pending if counts is not None else {},
            running=counts.running if counts is not None else {},
            due_seconds=counts.due_seconds if counts is not None else {},
            counts_age_seconds=time.monotonic() - counts.counted_at if counts is not None else None,
            types=pool.types,
            is_reload_refused=self._is_reload_refused,
            is_app_lost=pool.is_app_lost,
        )
