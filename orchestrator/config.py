"""Every setting: one table makes the variables, the flags, the defaults, `--help` and the table of the README.

The table is the class Settings itself: each of its fields says its variable, what it accepts, its default as one would
write it, and what it does. Pure: the environment is given.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import unquote

from orchestrator.errors import MAX_SECONDS, ConfigurationError, Problem
from orchestrator.setting_kinds import Boolean, Choice, Duration, Kind, Size, Text, Whole, duration

LIKENESS = 0.9
"""Of two names, by difflib: one letter too many or two in the wrong order; METRICS_PATH is not METRICS_PORT."""

_DAY = 86400.0
_HOUR = 3600.0


class Field(NamedTuple):
    """One setting: `name` in Settings, `variable` in the environment, `default` as text (None: there is none)."""

    name: str
    variable: str
    kind: Kind
    default: str | None
    help: str

    @property
    def flag(self) -> str:
        """`--pool-size`."""
        return "--" + self.name.replace("_", "-")


def _setting(variable: str, kind: Kind, default: str | None, help: str, *, is_required: bool = False) -> Any:
    """A field of Settings. What holds a password is left out of repr()."""
    metadata = {"variable": variable, "kind": kind, "default": default, "help": help}
    if is_required:
        return dataclasses.field(metadata=metadata, repr=False)
    return dataclasses.field(metadata=metadata, default=None if default is None else kind.read(default))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a daemon, checked. Durations are seconds, sizes bytes."""

    database_url: str = _setting(
        "DATABASE_URL",
        Text("write postgres://user:password@host:port/database", r"postgres(ql)?(\+\w+)?://.*|.*\w\s*=.*"),
        None,
        "The PostgreSQL to work on: a postgres:// URL (several hosts are tried in turn) or key=value pairs.",
        is_required=True,
    )
    app: str | None = _setting(
        "ORCHESTRATOR_APP",
        Text("write module:attribute, such as shop.tasks:app", r"[\w.]+(:[\w.]+)?"),
        None,
        "The App that serves the tasks, as module:attribute. Without one: the built-in examples.",
    )
    pool_size: int = _setting(
        "WORKER_POOL_SIZE", Whole(1, 1000), "10", "How many tasks run at once: the number of child processes."
    )
    claim_interval: float = _setting(
        "CLAIM_INTERVAL", Duration(0.01, _HOUR), "1s", "How often an idle worker looks for new tasks."
    )
    shutdown_timeout: float = _setting(
        "SHUTDOWN_TIMEOUT", Duration(0, _DAY), "30s", "How long a shutdown lets running tasks finish."
    )
    distributed: bool = _setting(
        "DISTRIBUTED_MODE", Boolean(), "false", "Several instances share the database and elect a leader."
    )
    heartbeat_interval: float = _setting(
        "HEARTBEAT_INTERVAL", Duration(0.1, _DAY), "10s", "How often a worker says that it lives."
    )
    worker_timeout: float = _setting(
        "WORKER_TIMEOUT",
        Duration(0.1, _DAY),
        "30s",
        "A worker unheard of for so long is dead and its tasks are recovered; at least twice HEARTBEAT_INTERVAL.",
    )
    leader_term: float = _setting("LEADER_TERM", Duration(0.1, _DAY), "30s", "How long a leader's lease lasts.")
    cleanup_interval: float = _setting(
        "CLEANUP_INTERVAL", Duration(0.1, _DAY), "1m", "How often the leader does maintenance."
    )
    retention: float | None = _setting(
        "RETENTION",
        Duration(1, 3660 * _DAY, none=True),
        "7d",
        "Completed tasks are deleted after so long, by the leader; none keeps them. Failed ones and dead letters stay.",
    )
    metrics_port: int = _setting(
        "METRICS_PORT", Whole(0, 65535), "9090", "Port of /metrics and /health; 0 takes any free one."
    )
    metrics_host: str = _setting(
        "METRICS_HOST", Text("write an address to listen on", r"\S+"), "0.0.0.0", "Address of /metrics and /health."
    )
    task_timeout: float | None = _setting(
        "TASK_TIMEOUT",
        Duration(0.01, MAX_SECONDS, none=True),
        "none",
        "Time limit of tasks that have none of their own.",
    )
    task_kill_grace: float = _setting(
        "TASK_KILL_GRACE", Duration(0, _HOUR), "5s", "A task that outstays its time limit by so much is killed."
    )
    task_memory_limit: int = _setting(
        "TASK_MEMORY_LIMIT", Size(0, 1 << 50), "0", "A task whose child grows beyond it is killed; 0 sets no limit."
    )
    max_tasks_per_child: int = _setting(
        "MAX_TASKS_PER_CHILD", Whole(0, 10**9), "0", "A child is replaced after so many tasks; 0 keeps it."
    )
    max_child_memory: int = _setting(
        "MAX_CHILD_MEMORY", Size(0, 1 << 50), "0", "A child that grew beyond it is replaced between tasks; 0 keeps it."
    )
    child_boot_timeout: float = _setting(
        "CHILD_BOOT_TIMEOUT", Duration(0.1, _HOUR), "30s", "A child that is not ready after so long is replaced."
    )
    fork_safety: Literal["refuse", "warn"] = _setting(
        "FORK_SAFETY",
        Choice(("refuse", "warn")),
        "refuse",
        "Refuse an app whose import leaves threads or connections, which forking would break, or only warn.",
    )
    max_result_size: int = _setting(
        "MAX_RESULT_SIZE", Size(0, 64 << 20), "1MB", "A larger result of a task is replaced by a note."
    )
    database_wait: float = _setting(
        "DATABASE_WAIT", Duration(0, _DAY), "30s", "How long a start waits for the database."
    )
    multiproc_dir: str | None = _setting(
        "PROMETHEUS_MULTIPROC_DIR",
        Text("write the path of a folder"),
        None,
        "Where the children's metrics are kept. Without one: a private temporary folder.",
    )
    log_format: Literal["text", "json"] = _setting(
        "LOG_FORMAT", Choice(("text", "json")), "text", "Log lines as text, key=value for people, or as json."
    )
    debug: bool = _setting("DEBUG", Boolean(), "false", "Log in detail.")
    enqueue_examples: bool = _setting(
        "ENQUEUE_EXAMPLES", Boolean(), "false", "Serve the built-in examples too and enqueue one set of them at start."
    )

    @property
    def serves_no_app(self) -> bool:
        """Only the built-in examples, which nobody asked for: in production, an app was forgotten."""
        return self.app is None and not self.enqueue_examples

    @classmethod
    def load(cls, environ: Mapping[str, str], flags: Mapping[str, object]) -> Self:
        """The settings by `flags` (by field name; None: not given), then `environ`, then the defaults.

        An empty text counts as not given. Raises ConfigurationError with every problem there is.
        """
        values: dict[str, Any] = {}
        problems = []
        for field in FIELDS:
            result = _read(field, environ, flags)
            if isinstance(result, Problem):
                problems.append(result)
            elif result is not _NOT_GIVEN:
                values[field.name] = result
        problems += _contradictions(values)
        if problems:
            raise ConfigurationError(problems)
        return cls(**values)


FIELDS = tuple(Field(name=field.name, **field.metadata) for field in dataclasses.fields(Settings))
"""The table, in the order in which it is shown."""

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
_NOT_GIVEN = object()


def settings_table() -> str:
    """The table in Markdown, as the README has it."""
    lines = ["| variable | flag | default | what it does |", "|---|---|---|---|"]
    for field in FIELDS:
        flag = f"`{field.flag}`"
        if isinstance(field.kind, Boolean):
            flag = f"`{field.flag}`, `--no-{field.flag[2:]}`"
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{field.variable}` | {flag} | {default} | {field.help} |")
    return "\n".join(lines) + "\n"


def misspelt(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that are no setting, and nearly have the name of one that is not given; each with that one."""
    known = [field.variable for field in FIELDS]
    open_ = [variable for variable in known if not environ.get(variable)]
    others = sorted(environ.keys() - known)
    likely = ((name, get_close_matches(name.upper(), open_, 1, LIKENESS)) for name in others)
    return [(name, meant[0]) for name, meant in likely if meant]


_SHOWN_KEYS = frozenset(
    ("host", "hostaddr", "port", "dbname", "user", "application_name", "connect_timeout", "options", "sslmode",
     "sslrootcert", "target_session_attrs", "load_balance_hosts", "client_encoding", "channel_binding", "gssencmode")
)  # fmt: skip
"""Parameters of a connection string whose values are shown. Not so those of names that nobody knows: pasword=…"""


def without_password(url: str) -> str:
    """A DATABASE_URL that can be shown: passwords in a URL, its query or key=value pairs become ***.

    Made for wrong ones too, such as an unescaped @ or / in the password: rather too much is hidden than too little.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or re.search("[:/@]", scheme):
        return _pairs_without_password(url)
    mark = rest.find("?")
    end = rest.rfind("@", 0, mark if mark >= 0 and "@" in rest[:mark] else len(rest))
    user, colon, password = rest[: max(end, 0)].partition(":")
    address, _, query = rest[end + 1 :].partition("?")
    has_unclear_query = "@" in (query if password else query.partition("=")[0]) or re.search(r"\?[\w%]+=", password)
    if has_unclear_query or not _has_plain_ports(address):
        shown = re.split("[:@/?]", rest)[0]
        return f"{scheme}://{shown}:***"  # who can tell where the password ends?
    if colon and password:
        rest = f"{user}:***{rest[end:]}"
    address, mark_, query = rest.partition("?")
    return f"{scheme}://{address}{mark_}" + re.sub(r"(?s)([^&=]*)(=?)([^&]*)", _without_value, query)


_PAIR = r"(\w+)(\s*=\s*)('(?:[^'\\]|\\.)*(?:'|$)|(?!')(?:\\.|[^\s\\])*)"


def _pairs_without_password(text: str) -> str:
    """Of key=value pairs the values that are secret; of anything else, such as a URL whose :// is mistyped or a
    password with a space in it, all from where the first may begin."""
    if re.fullmatch(rf"(?s)\s*(?:(?>{_PAIR})(?:\s+|$))+", text):
        return re.sub(rf"(?s){_PAIR}", _without_value, text)
    keys = re.finditer(r"(?<![^\s&?=])([^\s&?=]*+)\s*=\s*", text)
    secret = next((key.end() for key in keys if unquote(key[1]).lower() not in _SHOWN_KEYS), None)
    if secret is None:
        return re.sub(r"(?s):.*@", ":***@", text)
    colon = text.find(":", 0, text.rfind("@") + 1)
    return text[: min(colon + 1, secret) if colon >= 0 else secret] + "***"


def _has_plain_ports(address: str) -> bool:
    """Whether what follows the user has no ports but numbers: anything else may be a password."""
    hosts = re.sub(r"\[[^\]]*\]", "", address.partition("/")[0])
    return all(re.fullmatch(r"[0-9]*", host.partition(":")[2]) for host in hosts.split(","))


def _without_value(pair: re.Match[str]) -> str:
    key, equals, value = pair.groups()
    if not equals:
        return "***" if key else ""  # the rest of a password with an & in it
    return f"{key}{equals}{value if unquote(key).lower() in _SHOWN_KEYS else '***'}"


def _read(field: Field, environ: Mapping[str, str], flags: Mapping[str, object]) -> object:
    """The value, _NOT_GIVEN, or the Problem with it."""
    given = flags.get(field.name)
    source = field.variable if given is None else f"{field.variable} ({field.flag})"
    if given is None:
        given = environ.get(field.variable)
    text = (
        ("true" if given else "false") if isinstance(given, bool) else str(given if given is not None else "").strip()
    )
    if not text and flags.get(field.name) is not None:
        return Problem(source, "", field.kind.accepted)
    if not text:
        return Problem(source, None, field.kind.accepted) if field.name == "database_url" else _NOT_GIVEN
    try:
        return field.kind.read(text)
    except ValueError as error:
        shown = without_password(text) if field.name == "database_url" else text
        hint = str(error)
        return Problem(source, shown, f"{field.kind.accepted}; {hint}" if hint else field.kind.accepted)


def _contradictions(given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with settings that are each right by themselves."""
    values = {**_DEFAULTS, **given}
    if values["worker_timeout"] < 2 * values["heartbeat_interval"]:
        return [
            Problem(
                "WORKER_TIMEOUT",
                duration(values["worker_timeout"]),
                f"write at least twice HEARTBEAT_INTERVAL, which is {duration(values['heartbeat_interval'])}",
            )
        ]
    return []
