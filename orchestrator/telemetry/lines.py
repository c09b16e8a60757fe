"""How a log record becomes one line: text for people, JSON for machines, secrets taken out of both. No I/O."""

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from orchestrator.errors import TaskTimeout

LogFormat = Literal["text", "json"]

MAX_VALUE_CHARACTERS = 8_000
MAX_TRACEBACK_CHARACTERS = 32_000
MIN_SECRET_CHARACTERS = 3
"""A shorter secret would be found in every other word, and taking it out would tell what it is."""

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

ESCAPES = r"\\*"
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)  # control, line and direction characters; lone surrogates
_BARE = re.compile(r"[^\s=\"'\\]+")
_WORDS = re.compile(r"[^\s=\"\\]+( [^\s=\"\\]+)*")
_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "facts"}


class Secrets:
    """Strings that no line may show. Added once, at start; read by every line."""

    def __init__(self) -> None:
        self._shown: dict[re.Pattern[str], str] = {}

    def add(self, secret: str, shown: str = "***") -> None:
        """Show `shown` in place of the secret, however often it was quoted for a URL, for JSON or by repr()."""
        if len(secret) >= MIN_SECRET_CHARACTERS:
            pattern = "".join(_any_form(character) for character in secret).removeprefix(ESCAPES)
            self._shown[re.compile(pattern)] = shown

    def removed_from(self, text: str) -> str:
        for secret, shown in self._shown.items():
            text = secret.sub(shown, text)
        return text


def _any_form(character: str) -> str:
    encoded = "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
    forms = {re.escape(character), encoded, encoded.lower(), rf"\\u{ord(character):04x}"}
    if character == " ":
        forms.add(r"\+")
    return f"{ESCAPES}(?:{'|'.join(sorted(forms))})"


class LineFormatter(logging.Formatter):
    """One line a record. `process`: which process speaks; `task`: id, type and attempt of the one it runs."""

    def __init__(self, format: LogFormat, process: str, secrets: Secrets) -> None:
        super().__init__()
        self._format = format
        self._process = process
        self._secrets = secrets
        self.task: tuple[str, str, int] | None = None

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its newline. Raises nothing that a log call could cause, however odd its arguments are."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        event = self._text(_safely(record.getMessage, "a message whose arguments do not fit"))
        facts = {key: self._plain(value) for key, value in self._facts(record).items()}
        trace = self._traceback(record)
        if self._format == "json":
            told: dict[str, Plain] = {"time": moment, "level": record.levelname.lower(), "event": event}
            if trace:
                facts["traceback"] = trace
            return json.dumps(told | {key: facts[key] for key in facts if key not in told}) + "\n"
        pairs = "".join(f" {_quoted(key)}={_shown(value)}" for key, value in facts.items())
        return f"{moment} {record.levelname:<7} {_worded(event)}{pairs}\n{_indented(trace)}"

    def _facts(self, record: logging.LogRecord) -> dict[str, object]:
        facts: dict[str, object] = {}
        own = getattr(record, "facts", None)
        if isinstance(own, dict):
            facts.update(own)
        else:
            facts["logger"] = record.name
            facts.update((key, value) for key, value in record.__dict__.items() if key not in _OWN_ATTRIBUTES)
        if self.task is not None:
            facts.update(zip(("task_id", "type", "attempt"), self.task, strict=True))
        facts["process"] = self._process
        return facts

    def _plain(self, value: object) -> Plain:
        if value is None or (isinstance(value, int) and value.bit_length() <= 64):
            return value
        if isinstance(value, float):
            return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else str(value)
        if isinstance(value, list | tuple | set | frozenset):
            return [self._plain(item) for item in list(value)[:100]]
        if not isinstance(value, str):
            kind = "an int" if isinstance(value, int) else f"a {type(value).__name__}"
            return self._text(_safely(lambda: str(value), f"{kind} that cannot be printed"))
        return self._text(value)

    def _text(self, text: str) -> str:
        return _shortened(self._secrets.removed_from(text), MAX_VALUE_CHARACTERS)

    def _traceback(self, record: logging.LogRecord) -> str:
        """The traceback, shortened in its middle: the cause is at one end, the place at the other."""
        parts = []
        thrown = record.exc_info
        if thrown and thrown[0] is not None:
            parts.append(_safely(lambda: self.formatException(thrown), "a traceback that cannot be printed"))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(str(record.stack_info))
        text = self._secrets.removed_from("\n".join(parts))
        half = MAX_TRACEBACK_CHARACTERS // 2
        return text if len(text) <= 2 * half else f"{text[:half]}\n[{len(text) - 2 * half} characters]\n{text[-half:]}"


def _safely(say: Callable[[], str], otherwise: str) -> str:
    """What `say` returns. It calls code of the user's, which may fail, or be cut short by its task's time limit."""
    try:
        return say()
    except TaskTimeout:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the user's objects raise
        return f"<{otherwise}: {type(error).__name__}>"


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit} more characters]"


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: repr(found.group())[1:-1], text)


def visible(text: str) -> str:
    """`text` with the lines it has, and nothing in them that steers a terminal."""
    return "\n".join(map(_escaped, text.split("\n")))


def _worded(event: str) -> str:
    """Words as they are: facts begin where the first = is. With one in it, or anything odd, in quotes."""
    return event if _WORDS.fullmatch(event) and not _UNSAFE.search(event) else _quoted(event)


def _quoted(text: str) -> str:
    """Bare where it is one plain word, else in double quotes with everything odd escaped: nobody can forge a line."""
    if _BARE.fullmatch(text) and not _UNSAFE.search(text):
        return text
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _shown(value: Plain) -> str:
    if isinstance(value, list):
        return _quoted(",".join(str(item) for item in value))
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _quoted(str(value))


def _indented(text: str) -> str:
    """Continuation lines start with spaces, so that none can be taken for a line of the log."""
    return "".join(f"    {line}\n" for line in visible(text).split("\n")) if text else ""
