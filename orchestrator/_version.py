"""The one place that says the version: setup.cfg, `--version`, `/health` and the `workers` table read it here."""

__version__ = "1.0.0"
