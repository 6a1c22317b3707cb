"""Which URLs a Secret may hold, and what libpq is told."""

import pytest
from psycopg import pq

from taskdeletion.backends.postgres.connection import ConnectionPool, PostgresConnection, Timeouts, build_parameters
from taskdeletion.backends.postgres.url import parse_url
from taskdeletion.domain.faults import Fault

GOOD = "postgresql://me:hush@db.example:5433/pipeline"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (GOOD, {"host": "db.example", "port": "5433", "user": "me", "password": "hush", "dbname": "pipeline"}),
        ("postgres://me@db/pipeline", {"host": "db", "user": "me", "dbname": "pipeline"}),
        ("postgresql://me:p%40%2Fss@[::1]/x", {"host": "::1", "password": "p@/ss"}),
        ("postgresql://me@a:1,b:2/x?target_session_attrs=any", {"host": "a,b", "port": "1,2"}),
        ("postgresql://me@a,b/x", {"host": "a,b"}),
        (GOOD + "?sslmode=require&application_name=mine", {"sslmode": "require", "application_name": "mine"}),
        (GOOD + "?connect_timeout=7", {"connect_timeout": "7"}),
    ],
)
def test_a_url_of_tcp_hosts_is_accepted(url: str, expected: dict[str, str]) -> None:
    assert expected.items() <= parse_url(url).items()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "db.example",
        "mysql://me:hush@db/x",
        "postgresql+psycopg2://me:hush@db/x",
        "host=db user=me password=hush dbname=x",
        "postgresql://",
        "postgresql:///x",
        "postgresql://me:hush@/x",
        "postgresql://me:hush@db",
        "postgresql://me:hush@db/",
        "postgresql://db/x",
        "postgresql://me:hush@%2Ftmp/x",
        "postgresql://me:hush@%2Fvar%2Frun%2Fpostgresql:5432/x",
        "postgresql://me:hush@%40abstract/x",
        "postgresql://me:hush@db,%2Ftmp/x",
        "postgresql://me:hush@db,/x",
        "postgresql://me:hush@db/x?host=/tmp",
        "postgresql://me:hush@db/x?hostaddr=127.0.0.1",
        "postgresql://me:hush@db/x?passfile=/etc/passwd",
        "postgresql://me:hush@db/x?service=own",
        "postgresql://me:hush@db/x?servicefile=/etc/passwd",
        "postgresql://me:hush@db/x?sslkey=/etc/ssl/key.pem",
        "postgresql://me:hush@db/x?sslcert=/etc/ssl/cert.pem",
        "postgresql://me:hush@db/x?sslrootcert=/etc/ssl/ca.pem",
        "postgresql://me:hush@db/x?sslrootcert=system",
        "postgresql://me:hush@db/x?sslcrl=/etc/ssl/crl.pem",
        "postgresql://me:hush@db/x?sslcrldir=/etc/ssl",
        "postgresql://me:hush@db/x?sslkeylogfile=/tmp/keys",
        "postgresql://me:hush@db/x?sslpassword=a",
        "postgresql://me:hush@db/x?krbsrvname=a",
        "postgresql://me:hush@db/x?gssencmode=require",
        "postgresql://me:hush@db/x?requirepeer=root",
        "postgresql://me:hush@db/x?options=-c%20role%3Dother",
        "postgresql://me:hush@db/x?replication=database",
        "postgresql://me:hush@db/x?oauth_issuer=https://a",
        "postgresql://me:hush@db/x?no_such_parameter=1",
        "postgresql://me:hush@db/x?connect_timeout=0",
        "postgresql://me:hush@db/x?connect_timeout=-1",
        "postgresql://me:hush@db/x?connect_timeout=3600",
        "postgresql://me:hush@db:0/x",
        "postgresql://me:hush@db:65536/x",
        "postgresql://me:hush@db:abc/x",
        "postgresql://me:hush@a:1,b:2,c/x?port=1,2",
        "postgresql://me:hu@sh@db/x",
        "postgresql://me:hu/sh@db/x",
        "postgresql://me:hu%zzsh@db/x",
        "postgresql://me:hush@db/x%00",
        "postgresql://me:hush@d b/x",
    ],
)
def test_every_other_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_url(url)
    fault = caught.value
    assert (fault.kind, fault.reason) == ("waiting", "SecretValueInvalid")
    for secret in ("hush", "hu%zzsh", "sh@db", "/etc", "me:"):
        assert secret not in fault.message
    assert fault.__cause__ is None


def parameters(url: str = GOOD, **material: bytes) -> dict[str, str]:
    return build_parameters(PostgresConnection(url, **material), Timeouts())


@pytest.mark.parametrize(
    ("url", "material", "sslmode"),
    [
        (GOOD, {}, "prefer"),
        (GOOD, {"ca": b"x"}, "verify-full"),
        (GOOD, {"cert": b"x", "key": b"x"}, "require"),
        (GOOD + "?sslmode=verify-ca", {"ca": b"x"}, "verify-ca"),
        (GOOD + "?sslmode=disable", {"ca": b"x"}, "disable"),
    ],
)
def test_a_ca_means_a_full_check_unless_the_url_says_otherwise(
    url: str, material: dict[str, bytes], sslmode: str
) -> None:
    assert parameters(url, **material)["sslmode"] == sslmode


def test_a_check_without_a_ca_to_check_against_is_refused() -> None:
    with pytest.raises(Fault, match=r"verify-ca needs ca\.crt"):
        parameters(GOOD + "?sslmode=verify-ca")


def test_of_several_hosts_the_one_that_can_be_written_is_chosen() -> None:
    assert parameters()["target_session_attrs"] == "any"
    assert parameters("postgresql://me@a,b/x")["target_session_attrs"] == "read-write"
    assert parameters("postgresql://me@a,b/x?target_session_attrs=primary")["target_session_attrs"] == "primary"


def test_nothing_is_left_to_the_environment() -> None:
    names = {option.keyword.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    told = parameters() | {"sslrootcert": "", "sslcertmode": ""}  # those two follow from the TLS files
    assert names - told.keys() <= {"service", "servicefile"}


@pytest.mark.parametrize(
    "material", [{"ca": b"none"}, {"cert": b"x"}, {"key": b"x"}, {"cert": b"x", "key": b"y"}], ids="+".join
)
def test_tls_material_that_cannot_be_read_is_refused_at_once(material: dict[str, bytes]) -> None:
    with pytest.raises(Fault) as caught:
        ConnectionPool(PostgresConnection(GOOD, **material), Timeouts(), size=1)
    assert (caught.value.kind, caught.value.reason) == ("waiting", "SecretValueInvalid")


def test_the_connection_settings_do_not_show_their_secrets() -> None:
    assert "hush" not in repr(PostgresConnection(GOOD, key=b"hush"))
