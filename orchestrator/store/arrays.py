"""Arrays as PostgreSQL itself writes them, or JSON. Drivers write ARRAY[…], which both sides take longer for. Pure.

None of them holds a NULL: a session with array_nulls off, which a caller's may be, reads the word NULL as a text.
"""

from collections.abc import Iterable, Sequence


def words(items: Iterable[str]) -> str:
    """Of what needs no quotes: numbers, ids, names."""
    return "{" + ",".join(items) + "}"


def texts(items: Sequence[str | None]) -> str:
    """Of any texts, with '' for None; of nothing but None: an empty one, which unnest() fills with NULLs."""
    if all(each is None for each in items):
        return "{}"
    quoted = ['""' if each is None else '"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in items]
    return "{" + ",".join(quoted) + "}"


def values(items: Sequence[object]) -> str:
    """Of numbers or times."""
    return "{" + ",".join([f'"{each}"' for each in items]) + "}"


def jsons(items: Sequence[str | None]) -> str:
    """Of JSON texts, itself JSON, with null for None; of nothing but None: an empty one."""
    if all(each is None for each in items):
        return "[]"
    return "[" + ",".join(["null" if each is None else each for each in items]) + "]"
