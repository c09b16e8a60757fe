"""The tokens of a child's claims are new, even if the database server has forgotten what it gave."""

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.model import Claim
from orchestrator.store import claims
from orchestrator.store.connection import Connection
from orchestrator.store.schema import migrate
from orchestrator.store.tokens import EPOCH_BITS, Tokens
from tests.fixtures.database import private_server
from tests.store.rows import add_task, add_worker, ending, finish, value


def test_a_child_asks_once_and_counts_on_by_itself(connection: Connection) -> None:
    one, other = Tokens(), Tokens()
    first = one.take(connection, 10, within=5.0)
    assert one.take(connection, 1, within=5.0) == first + 10
    drawn = connection.execute("SELECT last_value FROM claim_tokens", within=5.0)
    assert one.take(connection, 500, within=5.0) == first + 11
    assert connection.execute("SELECT last_value FROM claim_tokens", within=5.0) == drawn
    assert other.take(connection, 1, within=5.0) >> EPOCH_BITS != first >> EPOCH_BITS


def test_an_epoch_that_is_used_up_is_followed_by_another(connection: Connection) -> None:
    tokens = Tokens()
    size = (1 << EPOCH_BITS) // 2
    first, second = (tokens.take(connection, size - 1, within=5.0) for _ in range(2))
    third = tokens.take(connection, size - 1, within=5.0)
    assert first >> EPOCH_BITS == (second + size - 2) >> EPOCH_BITS
    assert third >> EPOCH_BITS > second >> EPOCH_BITS
    assert -third > -(2**63), "the board has it negative, in a word"


def test_no_epoch_is_drawn_twice_though_the_server_crashes_right_after(private_postgres: PrivatePostgres) -> None:
    epochs = []
    for _ in range(3):
        connection = Connection.open(private_postgres.url(), within=10.0, application_name="test")
        migrate(connection, within=20.0)
        connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off", within=5.0)
        epochs.append(Tokens().take(connection, 1, within=5.0) >> EPOCH_BITS)
        private_postgres.crash()
        private_postgres.start()
        connection.close()
    assert len(set(epochs)) == 3


def test_a_claim_that_the_server_forgot_in_a_crash_is_refused_what_it_reports() -> None:
    with private_server(settings={"wal_writer_delay": "10s"}) as server:  # whose next turn is far away
        tokens = Tokens()

        def claim(connection: Connection) -> Claim:
            batch = claims.finish_and_claim(
                connection, [], worker_id="w", slot=0, limit=1, within=5.0, tokens=tokens, is_durable=False
            )
            return batch.claims[0]

        connection = Connection.open(server.url(), within=10.0, application_name="test")
        migrate(connection, within=20.0)
        add_worker(connection)
        task_id = add_task(connection)
        tokens.take(connection, 1, within=5.0)  # the epoch's flush comes before the claim
        forgotten = claim(connection)
        server.crash()
        server.start()
        connection.close()
        connection = Connection.open(server.url(), within=10.0, application_name="test")
        assert value(connection, "status::text", task_id) == "pending"
        known = claim(connection)
        assert known.task_id == forgotten.task_id == task_id
        assert finish(connection, [ending(forgotten)]).accepted == 0
        assert finish(connection, [ending(known)]).accepted == 1
        connection.close()
