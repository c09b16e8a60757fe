"""What the README says is what the code has."""

import ast
import re
from pathlib import Path

import pytest

from orchestrator.cli import orchestratord
from orchestrator.config import settings_table
from orchestrator.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]


def test_the_settings_are_those_of_the_code() -> None:
    assert settings_table() in README, "run: python -c 'from orchestrator.config import settings_table; …'"


def test_the_exit_codes_are_those_of_the_code() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert told == {int(code) for code in ExitCode}


def test_the_commands_are_those_of_the_code() -> None:
    [line] = re.findall(r"lists the commands: (.*)\.", README)
    assert sorted(re.findall(r"`(\w+)`", line)) == sorted(orchestratord.commands)


def test_its_python_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        ast.parse(block)


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
            assert not anchor or anchor in anchors(document.parent / target if target else document), anchor
