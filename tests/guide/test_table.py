"""The table that maps each statement of the operations guide to its tests is whole and true."""

import re
from pathlib import Path

import pytest

from tests.guide.table import TABLE
from tests.guide.text import statements

ROOT = Path(__file__).parents[2]
THE_TABLES_OWN = "test_table.py"
MORE = {  # of this folder's tests: what the guide doesn't say
    "tests/guide/test_containers.py",
}


def names_of_tests(path: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (ROOT / path).read_text(), re.MULTILINE))


def test_every_statement_of_the_guide_has_its_line_in_the_guides_order() -> None:
    assert list(TABLE) == [each.key for each in statements()]


@pytest.mark.parametrize("statement", TABLE)
def test_the_tests_of_a_statement_exist(statement: str) -> None:
    assert TABLE[statement]
    for each in TABLE[statement]:
        path, _, name = each.partition("::")
        assert name in names_of_tests(path), each


def test_every_test_of_the_guide_stands_for_a_statement() -> None:
    here = [
        str(path.relative_to(ROOT)) for path in Path(__file__).parent.glob("test_*.py") if path.name != THE_TABLES_OWN
    ]
    present = {f"{path}::{name}" for path in here if path not in MORE for name in names_of_tests(path)}
    assert present - {each for tests in TABLE.values() for each in tests} == set()
