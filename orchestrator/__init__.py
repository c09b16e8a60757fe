"""Task Orchestrator: a task queue in PostgreSQL and the daemon that runs it. This is the public API.

Nothing inside the package imports from here.
"""

from orchestrator._version import __version__
from orchestrator.app import App, CurrentTask, TaskFunction, current_task
from orchestrator.client import Client
from orchestrator.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Discard,
    EnqueueError,
    OrchestratorError,
    Retry,
    SchemaError,
    StatementRefused,
    TaskTimeout,
)
from orchestrator.model import NewTask
from orchestrator.retry import RetryPolicy

__all__ = [
    "App",
    "Client",
    "ConfigurationError",
    "CurrentTask",
    "DatabaseUnavailable",
    "Discard",
    "EnqueueError",
    "NewTask",
    "OrchestratorError",
    "Retry",
    "RetryPolicy",
    "SchemaError",
    "StatementRefused",
    "TaskFunction",
    "TaskTimeout",
    "__version__",
    "current_task",
]
