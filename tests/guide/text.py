"""The operations guide (guide.md, as the user wrote it), taken apart into its statements. Pure.

A statement is a row of a table, a sentence, an item of a list, a query, an alert, or an example of an answer.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GUIDE = (Path(__file__).parent / "guide.md").read_text()


@dataclass(frozen=True, slots=True)
class Statement:
    """`key` names it within its section: a row's first cell, a query's comment, an alert's name, or all of its text.

    `cells` are a row's, without backticks and asterisks.
    """

    section: str
    key: str
    text: str
    cells: tuple[str, ...] = ()


def statements() -> list[Statement]:
    """All of them, in the guide's order."""
    section, found = "", []
    for block in _blocks():
        heading = re.fullmatch(r"#+ (.*)", block)
        if heading is not None:
            section = heading[1].replace("`", "")
        elif block != "---":
            found += [Statement(section, *each) for each in _taken_apart(block)]
    return found


def rows(section: str) -> dict[str, tuple[str, ...]]:
    """The rows of this section's table by their first cells."""
    return {each.key: each.cells for each in statements() if each.section == section and each.cells}


def code(key: str) -> str:
    """The query, alert or answer of this name, to the letter."""
    (found,) = (each.text for each in statements() if each.key == key and not each.cells)
    return found


def _blocks() -> Iterator[str]:
    """Paragraphs, tables, lists and fenced blocks, each whole."""
    for part in re.split(r"^(```\w+\n.*?^```)$", GUIDE, flags=re.DOTALL | re.MULTILINE):
        if part.startswith("```"):
            yield part
        else:
            yield from (each.strip() for each in part.split("\n\n") if each.strip())


def _taken_apart(block: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Key, text and cells of each statement in a block."""
    if block.startswith("|"):
        for line in block.splitlines()[2:]:
            cells = tuple(re.sub(r"[`*]", "", cell).strip() for cell in line.strip("|").split(" | "))
            yield cells[0], line, cells
    elif block.startswith("```"):
        language, code = re.fullmatch(r"```(\w+)\n(.*)```", block, re.DOTALL).groups()  # type: ignore[union-attr]
        for text in [code] if language == "json" else code.split("\n\n"):
            yield _name_of(language, text), text, ()
    else:
        for line in block.splitlines():
            plain = re.sub(r"^\d+\. |\*\*(Cause|Solutions?)\*\*:? ?:?|`", "", line).strip()
            for sentence in re.split(r"(?<=\.) (?=[A-Z])", plain):
                if sentence and sentence != "Response:":
                    yield sentence, sentence, ()


def _name_of(language: str, text: str) -> str:
    alert = re.search(r"^ALERT (\w+)", text, re.MULTILINE)
    if alert is not None:
        return alert[1]
    return "Response" if language == "json" else text.splitlines()[0].removeprefix("-- ").removeprefix("# ")
