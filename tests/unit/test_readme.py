"""What the README says of settings is what the settings are."""

from pathlib import Path

from orchestrator.config import settings_table

README = Path(__file__).parents[2] / "README.md"


def test_the_settings_table_is_the_one_of_the_code() -> None:
    text = README.read_text()
    begin = text.index("settings_table() -->") + len("settings_table() -->\n")

    assert text[begin : text.index("<!-- /settings -->")] == settings_table()
