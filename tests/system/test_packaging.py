"""What is installed from an sdist and a wheel is whole. Builds them as a packager would, so it asks the registry."""

import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from orchestrator._version import __version__

TOP = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".orchestrator", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_sdist_is_whole_and_its_wheel_has_the_schema_and_runs_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(TOP, source, ignore=NOT_SOURCE, symlinks=True)
    venv.create(tmp_path / "builder", with_pip=True)
    builder = tmp_path / "builder" / "bin" / "python"
    run(builder, "-m", "pip", "install", "--quiet", "build", cwd=tmp_path)
    run(builder, "-m", "build", source, "--outdir", tmp_path / "dist", cwd=tmp_path)  # the wheel is made from the sdist

    with tarfile.open(tmp_path / "dist" / f"task_orchestrator-{__version__}.tar.gz") as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(path.relative_to(source)) for path in source.rglob("*.py")} <= packed  # the tests, and what they import

    wheel = tmp_path / "dist" / f"task_orchestrator-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("orchestrator/store/schema.sql") == (TOP / "schema.sql").read_bytes()
        assert "orchestrator/py.typed" in archive.namelist()
        assert not [name for name in archive.namelist() if name.startswith(("tests", "examples", "bin"))]

    venv.create(tmp_path / "empty", with_pip=True)
    installed = tmp_path / "empty" / "bin"
    run(installed / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert run(installed / "orchestratord", "--version", cwd=tmp_path) == f"orchestratord {__version__}\n"
    schema = "from orchestrator.store.schema import schema_sql; print(len(schema_sql()))"
    assert int(run(installed / "python", "-c", schema, cwd=tmp_path)) == len((TOP / "schema.sql").read_text())


def test_the_schema_in_the_package_is_the_one_at_the_top() -> None:
    assert (TOP / "orchestrator" / "store" / "schema.sql").resolve() == TOP / "schema.sql"
