"""The plugins of the tests: fixtures by topic, each in a file of its own in tests/fixtures."""

pytest_plugins = [
    "tests.fixtures.clients",
    "tests.fixtures.command",
    "tests.fixtures.connections",
    "tests.fixtures.coordination",
    "tests.fixtures.daemon",
    "tests.fixtures.database",
    "tests.fixtures.desk",
    "tests.fixtures.fleet",
    "tests.fixtures.gates",
    "tests.fixtures.lasting",
    "tests.fixtures.notices",
    "tests.fixtures.prometheus",
    "tests.fixtures.proxy",
    "tests.fixtures.theatre",
    "tests.fixtures.toys",
    "tests.hosts.network",
    "tests.store.wire",
    "tests.systemd.machine",
]
