"""A DATABASE_URL as the servers it names."""

import pytest

from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.addresses import addresses, url_problem


def names(url: str) -> list[str]:
    return [address.name for address in addresses(url, application_name="a")]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_both_schemes_name_the_server(scheme: str) -> None:
    (address,) = addresses(f"{scheme}://u:p@db.example/x?sslmode=disable", application_name="a")
    assert address.name == "db.example:5432"
    assert {"host": "db.example", "user": "u", "password": "p", "dbname": "x", "sslmode": "disable"}.items() <= (
        address.parameters.items()
    )


def test_each_of_several_hosts_is_an_address_with_its_port() -> None:
    assert names("postgres://u@a:1,b,c:3/x") == ["a:1", "b:5432", "c:3"]
    assert names("host=a,b port=7 dbname=x") == ["a:7", "b:7"]


def test_all_but_host_and_port_is_shared_by_the_addresses() -> None:
    found = addresses("postgres://u:p@a,b/x?target_session_attrs=read-write", application_name="w")
    for address in found:
        shared = {key: value for key, value in address.parameters.items() if key != "host"}
        assert shared["target_session_attrs"] == "read-write"
        assert shared["password"] == "p"
        assert shared["application_name"] == "w"


def test_of_several_hosts_one_that_can_be_written_is_wanted_unless_the_url_says_otherwise() -> None:
    wanted = [each.parameters["target_session_attrs"] for each in addresses("postgres://a,b/x", application_name="w")]
    assert wanted == ["read-write", "read-write"]
    for url in ("postgres://a,b/x?target_session_attrs=any", "host=a,b target_session_attrs=any"):
        assert {each.parameters["target_session_attrs"] for each in addresses(url, application_name="w")} == {"any"}
    (only,) = addresses("postgres://a/x", application_name="w")
    assert "target_session_attrs" not in only.parameters


def test_what_the_url_says_wins_over_what_we_add() -> None:
    (plain,) = addresses("postgres://a/x", application_name="w")
    (special,) = addresses(
        "postgres://a/x?tcp_user_timeout=1&keepalives_idle=2&application_name=b", application_name="w"
    )
    assert plain.parameters["tcp_user_timeout"] == "15000"
    assert special.parameters["tcp_user_timeout"] == "1"
    assert special.parameters["keepalives_idle"] == "2"
    assert special.parameters["application_name"] == "b"


def test_a_socket_folder_and_a_bare_database_are_the_local_server() -> None:
    assert names("postgres:///x?host=/run/postgresql") == ["/run/postgresql:5432"]
    assert names("dbname=x") == ["the local server:5432"]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hidden@a/x",
        "postgres://u:hidden@[a/x",
        "hidden",
        "host=a password='hidden",
        "postgres://u:hidden\udcff@a/x",
        "postgres://u:hidden%ff@a/x",
        "postgres://u:hidden\x00@a/x",
    ],
)
def test_what_is_no_connection_string_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(DatabaseUnavailable) as failure:
        names(url)
    assert "hidden" not in str(failure.value)


@pytest.mark.parametrize("driver", ["postgresql+psycopg2", "postgresql+asyncpg", "postgres+psycopg"])
def test_a_url_of_sqlalchemys_is_told_what_to_leave_out(driver: str) -> None:
    assert "write postgresql://user:password@host" in str(url_problem(f"{driver}://u:p@h/x"))
    assert url_problem("postgres://u:p@h/x?application_name=a+b://") is None


def test_ports_must_match_the_hosts() -> None:
    with pytest.raises(DatabaseUnavailable, match="ports"):
        names("host=a,b,c port=1,2 dbname=x")


def test_random_balancing_tries_each_host() -> None:
    orders = {tuple(names("postgres://a,b/x?load_balance_hosts=random")) for _ in range(100)}
    assert orders == {("a:5432", "b:5432"), ("b:5432", "a:5432")}


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:s3c@r3t@127.0.0.1:1/db",
        "postgres://u:s3c/r3t@127.0.0.1:1/db",
        "postgres://u:p@s3c/w:r3t@h/db",
        "postgres://u:s3c@r3t:x@h/db",
        "postgres://u:1234/r3t@h/db",
        "postgresql://u:1/s3c@r3t@h/db?sslmode=disable",
        "postgres://u:p@@h/db",
        "postgres://me@r3t.example:s3c@h/db",
        "postgres://u:p@[s3c?r3t@[::1]:5/x",
        "postgres://db:5432?password=s3c@r3t",
        "postgres://db:5432?application_name=a&pass%77ord=s3c@r3t",
    ],
)
def test_a_password_whose_end_cannot_be_told_is_refused_before_libpq_guesses_it(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="write %40 for @, %2F for /") as failure:
        names(url)
    assert "s3c" not in str(failure.value)
    assert "r3t" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    ["postgres://u:s3c/r3t", "postgres://u:s3c", "postgres://u:p@s3c:r3t/db", "postgres://u@h:65536/x", "port=s3c"],
)
def test_a_port_that_is_none_may_be_a_password_and_is_not_repeated(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="a port is a number") as failure:
        names(url)
    assert "s3c" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p%40s%2Fs%3A@h:1/x",
        "postgres://u:p:w@h/x",
        "postgres://u:p?w@h/x",
        "postgres://u@h/x",
        "postgres://h",
        "postgres://",
        "postgres:///x?host=/run/postgresql",
        "postgres://u:p@/x?host=/run/a,/run/b&port=1,2",
        "postgres://u:p@%2Frun%2Fpostgresql/x",
        "postgres://u:p@[::1]:5432,[fe80::1]/x",
        "postgres://u:p@a:1,b,c:/x?target_session_attrs=read-write",
        "postgres://h/x?user=me@example.org&password=a@b",
        "postgres://u:p@h/x?application_name=me@here",
        "host=@abstract user=me@example.org password='a@b/c:d' port=' 5432 '",
        "host=a,b port=1,2 password=p@ss/w:ord",
    ],
)
def test_what_can_be_told_apart_is_fine(url: str) -> None:
    assert url_problem(url) is None
    assert names(url)
