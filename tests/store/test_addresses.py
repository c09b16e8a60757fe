"""A DATABASE_URL as the servers it names."""

import pytest

from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.addresses import addresses


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
    "url", ["mysql://u:hidden@a/x", "postgres://u:hidden@[a/x", "hidden", "host=a password='hidden"]
)
def test_what_is_no_connection_string_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(DatabaseUnavailable) as failure:
        names(url)
    assert "hidden" not in str(failure.value)


def test_ports_must_match_the_hosts() -> None:
    with pytest.raises(DatabaseUnavailable, match="ports"):
        names("host=a,b,c port=1,2 dbname=x")


def test_random_balancing_tries_each_host() -> None:
    orders = {tuple(names("postgres://a,b/x?load_balance_hosts=random")) for _ in range(100)}
    assert orders == {("a:5432", "b:5432"), ("b:5432", "a:5432")}
