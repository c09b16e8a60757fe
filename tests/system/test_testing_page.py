"""What docs/testing.md shows, run as it stands there by a pytest and a Django of the user's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.command import Command, clean_environment
from tests.fixtures.daemon import Queue

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
HANDLERS, ENQUEUED, MIGRATION, DJANGOS = CODE.findall(PAGE)
BILLING, _, STOCK, *_ = CODE.findall((ROOT / "docs" / "handlers.md").read_text())
AS_A_WORKER = "for type, payload in enqueued(): billing.app.handlers[type].function(**payload)"

MORE = f"""
from orchestrator import Discard, EnqueueError


def test_it_can_be_run_as_a_worker_would(enqueued):
    billing.pay.enqueue(17, cents=0)
    with pytest.raises(Discard):
        {AS_A_WORKER}


def test_what_no_worker_could_run_is_refused(enqueued):
    with pytest.raises(EnqueueError):
        billing.pay.enqueue(17, cents=object())
"""


SETTINGS = """
import os
from psycopg.conninfo import conninfo_to_dict
url = conninfo_to_dict(os.environ["DATABASE_URL"])
names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
values = {name: url.get(key, "") for name, key in names.items()}
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **values}}
INSTALLED_APPS = ["stock"]
"""

MODELS = """
from django.db import models

class Item(models.Model):
    id = models.BigAutoField(primary_key=True)
    shelf = models.IntegerField()
"""

ITEMS = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("stock", "0001_tasks")]
    fields = [("id", models.BigAutoField(primary_key=True)), ("shelf", models.IntegerField())]
    operations = [migrations.CreateModel("Item", fields)]
"""

ANOTHER_TEST = """
    def test_it_is_gone_afterwards(self):
        self.test_what_is_enqueued_can_be_run()
"""


def run(folder: Path, *arguments: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=clean_environment(DATABASE_URL=url, PYTHONPATH=f"{folder}:{ROOT}", PYTHONDONTWRITEBYTECODE="1"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass_and_leave_no_task(queue: Queue, tmp_path: Path) -> None:
    assert AS_A_WORKER in PAGE
    queue.rows("CREATE TABLE payments (task_id uuid PRIMARY KEY, invoice integer, cents integer)")
    (tmp_path / "billing.py").write_text(BILLING)
    (tmp_path / "test_handlers.py").write_text(HANDLERS)
    (tmp_path / "test_enqueued.py").write_text(ENQUEUED + MORE)

    assert "6 passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", url=queue.url)

    assert queue.rows("SELECT invoice, cents FROM payments") == [(17, 100)]
    assert queue.one("SELECT count(*) FROM tasks") == 0


@pytest.mark.slow
def test_a_migration_of_djangos_makes_the_tables_and_its_tests_find_what_is_enqueued(
    empty_database_url: str, tmp_path: Path, orchestratord: Command
) -> None:
    (tmp_path / "settings.py").write_text(SETTINGS)
    migrations = tmp_path / "stock" / "migrations"
    migrations.mkdir(parents=True)
    for package in (migrations, migrations.parent):
        (package / "__init__.py").touch()
    (migrations / "0001_tasks.py").write_text(MIGRATION)
    (migrations / "0002_items.py").write_text(ITEMS)
    (tmp_path / "stock" / "models.py").write_text(MODELS)
    (tmp_path / "stock" / "tasks.py").write_text(STOCK)
    (tmp_path / "stock" / "tests.py").write_text(DJANGOS + ANOTHER_TEST)
    django = ("-m", "django", "migrate", "--settings", "settings")

    assert "Applying stock.0001_tasks... OK" in run(tmp_path, *django, url=empty_database_url)

    told = orchestratord("migrate", DATABASE_URL=empty_database_url).stdout
    assert told.startswith("the schema was already at version"), told
    queue = Queue(empty_database_url)
    queue.enqueue("a")
    queue.rows("DELETE FROM django_migrations; DROP TABLE stock_item")
    run(tmp_path, *django, url=empty_database_url)  # where they are there already
    run(tmp_path, "-m", "django", "test", "--settings", "settings", url=empty_database_url)
    assert queue.one("SELECT count(*) FROM tasks") == 1
    queue.connection.close()
