"""What a task's options may be. Pure; App uses it where a handler is registered, Client where a task is enqueued.

Each function says what is wrong with a value, in words for whoever wrote it, or None.
"""

from datetime import UTC, datetime

from orchestrator.errors import MAX_SECONDS
from orchestrator.model import MAX_TYPE_LENGTH

MAX_INTEGER = 2**31 - 1
MAX_CLIENT_SECONDS = 2_000_000.0
"""PostgreSQL's statement_timeout has milliseconds, of which it takes 2**31 - 1."""
MAX_KEY_BYTES = 1000
"""An idempotency key stands in a btree index, whose entries PostgreSQL limits to about 2,700 bytes."""


def type_problem(name: object) -> str | None:
    """A type names a handler, fits on the board and can be written in a log line."""
    return _name_problem(name, "task type")


def name_problem(name: object) -> str | None:
    """Of a periodic task: it is part of an idempotency key."""
    return _name_problem(name, "name")


def _name_problem(name: object, what: str) -> str | None:
    if not isinstance(name, str):
        return f"a {what} is a str, not {type(name).__name__}"
    if not name or not name.isprintable():
        return f"the {what} {name!r} must be printable characters, at least one"
    if len(name.encode()) > MAX_TYPE_LENGTH:
        return f"the {what} {name[:40]!r}… is longer than {MAX_TYPE_LENGTH} bytes"
    return None


def max_retries_problem(value: object) -> str | None:
    if _is_integer(value, 0, MAX_INTEGER):
        return None
    return f"max_retries={_shown(value)}: write a whole number, 0 (one attempt) to {MAX_INTEGER}"


def timeout_problem(value: object) -> str | None:
    if value is None or _is_number(value, above=0.0):
        return None
    return f"timeout={_shown(value)}: write seconds, more than 0 and at most {MAX_SECONDS:.0f}, or None"


def priority_problem(value: object) -> str | None:
    if _is_integer(value, -MAX_INTEGER - 1, MAX_INTEGER):
        return None
    return f"priority={_shown(value)}: write a whole number of 32 bits; the higher goes first"


def delay_problem(value: object) -> str | None:
    if value is None or value == 0 or _is_number(value, above=0.0):
        return None
    return f"delay={_shown(value)}: write seconds, 0 to {MAX_SECONDS:.0f}"


def run_at_problem(value: object) -> str | None:
    """In UTC, as which it is sent, it must still be a datetime."""
    if value is None:
        return None
    try:
        if isinstance(value, datetime) and value.utcoffset() is not None:
            value.astimezone(UTC)
            return None
    except (OverflowError, ValueError):
        return f"run_at={_shown(value)}: write a time in the years 1 to 9999 of UTC"
    return f"run_at={_shown(value)}: write an aware datetime, such as datetime.now(timezone.utc) + timedelta(hours=1)"


def idempotency_key_problem(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\x00" in value:
        return f"idempotency_key={_shown(value)}: write a str of at least one character, without NUL"
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        return f"idempotency_key={_shown(value)} has a lone surrogate, which is no character"
    if length > MAX_KEY_BYTES:
        return f"idempotency_key is {length} bytes long, at most {MAX_KEY_BYTES} are taken"
    return None


def due_as_problem(value: object) -> str | None:
    """A key of a periodic task's payload."""
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_TYPE_LENGTH):
        return None
    return f"due_as={_shown(value)}: write the name of the argument that is to tell the moment"


def client_timeout_problem(value: object) -> str | None:
    """Of a Client: how long it waits for the database."""
    if _is_number(value, above=0.0, most=MAX_CLIENT_SECONDS):
        return None
    return f"timeout={_shown(value)}: write seconds, more than 0 and at most {MAX_CLIENT_SECONDS:.0f}"


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except Exception:  # noqa: BLE001 an integer of 5,000 digits, or a repr of the caller's that fails
        return f"<{type(value).__name__}>"


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, *, above: float, most: float = MAX_SECONDS) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return above < value <= most  # which is neither NaN nor infinite
