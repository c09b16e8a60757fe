"""The files that metric values live in while several processes count: prometheus_client's multiprocess format.

A file has an 8-byte header (how many bytes are in use), then entries: the key's length and the key (JSON: metric,
series, labels, help), padded to 8 bytes, then value and timestamp as doubles. Its owner maps it, so that a count is one
store to memory and survives the owner's death. What differs from the stock implementation, and why:

- Every byte is written before it is mapped. A hole in a file on a full disk costs whoever touches it a SIGBUS.
- No descriptor is kept, for a task may close any. The mapping's own one, which Python keeps, must not be closed late
  either (its number may be somebody else's by then), so mappings are never given back: each file has a handful.
- A file that makes no sense is replaced by what can be read of it, not mapped.
"""

import mmap
import os
import struct
from typing import NamedTuple

HEADER_BYTES = 8
INITIAL_BYTES = 16 << 10
VALUE_BYTES = 16

_integer = struct.Struct("i")
_two_doubles = struct.Struct("dd")
_kept: list["memoryview[float]"] = []


class Entry(NamedTuple):
    """One value as a file has it; `position` is where its double begins, in bytes."""

    key: bytes
    value: float
    timestamp: float
    position: int


def read_entries(data: bytes) -> tuple[list[Entry], bool]:
    """All entries up to the first that makes no sense, and whether there was none such."""
    found: list[Entry] = []
    if len(data) < HEADER_BYTES:
        return found, False
    used: int = _integer.unpack_from(data, 0)[0]
    end = min(used, len(data))
    position = HEADER_BYTES
    while position < end:
        if position + 4 > end:
            return found, False
        length: int = _integer.unpack_from(data, position)[0]
        value_at = position + _padded(length)
        if length <= 0 or value_at + VALUE_BYTES > end:
            return found, False
        value, timestamp = _two_doubles.unpack_from(data, value_at)
        found.append(Entry(data[position + 4 : position + 4 + length], value, timestamp, value_at))
        position = value_at + VALUE_BYTES
    return found, HEADER_BYTES <= used <= len(data)


def _padded(length: int) -> int:
    """Bytes from the start of an entry to its value."""
    return 4 + length + 8 - (length + 4) % 8


def _encoded(key: bytes, value: float, timestamp: float) -> bytes:
    head = _integer.pack(len(key)) + key
    return head.ljust(_padded(len(key))) + _two_doubles.pack(value, timestamp)


class Page:
    """Memory that holds values: `cells[i]` is one, `cells[i + 1]` its timestamp. `cells` is exchanged as it grows."""

    __slots__ = ("cells",)

    def __init__(self, cells: "memoryview[float]") -> None:
        self.cells = cells

    @classmethod
    def private(cls) -> "Page":
        """Room for one value that no other process sees: for when there is no room in a file."""
        return cls(memoryview(bytearray(VALUE_BYTES)).cast("d"))


class ValueFile(Page):
    """A file of values, mapped. Not thread-safe; one process at a time may add entries to a file."""

    __slots__ = ("_capacity", "_indexes", "_inode", "_path", "_used")

    def __init__(self, path: str) -> None:
        """Open the file, or create it. OSError when that is impossible; then nothing has changed."""
        self._path = path
        self._indexes: dict[str, int] = {}
        descriptor = self._opened()
        try:
            entries, _ = read_entries(_read_whole(descriptor))
            self._used = entries[-1].position + VALUE_BYTES if entries else HEADER_BYTES
            self._indexes.update((each.key.decode(), each.position // 8) for each in entries)
            found = os.fstat(descriptor)
            self._inode = (found.st_dev, found.st_ino)
            self._capacity = found.st_size // 8 * 8
            super().__init__(_mapped(descriptor, self._capacity))
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        """A descriptor of the file, which is whole: what made no sense in it has gone."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return self._create([])
        entries, is_whole = read_entries(_read_whole(descriptor))
        sound = [each for each in entries if _is_key(each.key)]
        if is_whole and len(sound) == len(entries):
            return descriptor
        os.close(descriptor)
        return self._create(sound)

    def _create(self, entries: list[Entry]) -> int:
        """A new file with `entries` in the place of whatever stands there; it appears whole or not at all."""
        body = b"".join(_encoded(each.key, each.value, each.timestamp) for each in entries)
        used = HEADER_BYTES + len(body)
        data = struct.pack("ii", used, 0) + body
        own = f"{self._path}.{os.getpid()}"
        descriptor = os.open(own, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_at(descriptor, 0, data.ljust(max(INITIAL_BYTES, len(data)), b"\0"))
            os.rename(own, self._path)
        except BaseException:
            os.close(descriptor)
            os.unlink(own)
            raise
        return descriptor

    def place(self, key: str) -> int:
        """The index of the value named `key`, which is 0 if it is new. OSError: there is no room for it."""
        index = self._indexes.get(key)
        if index is None:
            entry = _encoded(key.encode(), 0.0, 0.0)
            if self._used + len(entry) > self._capacity:
                self._grow(self._used + len(entry))
            words = self.cells.cast("B")
            words[self._used : self._used + len(entry)] = entry
            self._used += len(entry)
            words[:4] = _integer.pack(self._used)  # last: a reader, or a successor, sees whole entries only
            index = self._indexes[key] = (self._used - VALUE_BYTES) // 8
        return index

    def _grow(self, needed: int) -> None:
        """Double the file until `needed` bytes fit, and map it anew."""
        capacity = max(self._capacity, INITIAL_BYTES)
        while capacity < needed:
            capacity *= 2
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != self._inode:
                raise FileNotFoundError(f"{self._path} was replaced")
            _write_at(descriptor, self._capacity, bytes(capacity - self._capacity))
            self.cells = _mapped(descriptor, capacity)
            self._capacity = capacity
        finally:
            os.close(descriptor)


def zero_values(path: str) -> None:
    """Set every value of a file to 0 that no process counts in any more. What cannot be read stays as it is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for entry in read_entries(_read_whole(descriptor))[0]:
            os.pwrite(descriptor, bytes(VALUE_BYTES), entry.position)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, size: int) -> "memoryview[float]":
    cells = memoryview(mmap.mmap(descriptor, size)).cast("d")
    _kept.append(cells)
    return cells


def _is_key(key: bytes) -> bool:
    try:
        return key.decode().startswith("[")
    except UnicodeDecodeError:
        return False


def _read_whole(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write_at(descriptor: int, offset: int, data: bytes) -> None:
    """All of `data`: a write that ends early on a full disk is tried again, and then says why."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset += written
        rest = rest[written:]
