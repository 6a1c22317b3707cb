from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from taskdeletion.settings import _PARSERS, PREFIX, Settings, SettingsError


def test_nothing_set_gives_the_defaults_and_ignores_other_variables() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "KUBECONFIG": "x", "TASKDELETION_DEV_STATE": "/dev"})

    assert settings == Settings(
        namespaces=(),
        volumes_root=Path("/volumes"),
        require_mount=True,
        workers=8,
        store_threads=4,
        directory_threads=64,
        directory_helpers=128,
        object_batches=32,
        health_address=("0.0.0.0", 8080),
        metrics_address=("0.0.0.0", 8081),
        log_level="info",
        log_format="json",
        probe_interval_seconds=60,
        resync_seconds=600,
        shutdown_seconds=20,
        leader_election=False,
        lease_namespace="",
        lease_name="task-deletion-operator",
        lease_seconds=10,
    )


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("NAMESPACES", "", "namespaces", ()),
        ("NAMESPACES", "a", "namespaces", ("a",)),
        ("NAMESPACES", " a, team-b ,a", "namespaces", ("a", "team-b")),
        ("VOLUMES_ROOT", "/mnt/v", "volumes_root", Path("/mnt/v")),
        ("REQUIRE_MOUNT", "False", "require_mount", False),
        ("WORKERS", "1", "workers", 1),
        ("WORKERS", "256", "workers", 256),
        ("STORE_THREADS", "64", "store_threads", 64),
        ("DIRECTORY_THREADS", "1", "directory_threads", 1),
        ("DIRECTORY_HELPERS", "0", "directory_helpers", 0),
        ("OBJECT_BATCHES", "1024", "object_batches", 1024),
        ("HEALTH_ADDRESS", "", "health_address", None),
        ("METRICS_ADDRESS", "", "metrics_address", None),
        ("METRICS_ADDRESS", "127.0.0.1:0", "metrics_address", ("127.0.0.1", 0)),
        ("HEALTH_ADDRESS", "127.0.0.1:0", "health_address", ("127.0.0.1", 0)),
        ("HEALTH_ADDRESS", "[::1]:65535", "health_address", ("::1", 65535)),
        ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("LOG_FORMAT", "text", "log_format", "text"),
        ("PROBE_INTERVAL_SECONDS", "2.5", "probe_interval_seconds", 2.5),
        ("RESYNC_SECONDS", "30", "resync_seconds", 30.0),
        ("SHUTDOWN_SECONDS", "0", "shutdown_seconds", 0.0),
        ("LEADER_ELECTION", "false", "leader_election", False),
        ("LEASE_NAMESPACE", "ops", "lease_namespace", "ops"),
        ("LEASE_NAME", "a.b-c", "lease_name", "a.b-c"),
        ("LEASE_SECONDS", "60", "lease_seconds", 60),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: Any) -> None:
    settings = Settings.from_environment({f"TASKDELETION_{variable}": text})

    assert getattr(settings, field) == value


@pytest.mark.parametrize(
    ("variable", "text", "advice"),
    [
        ("NAMESPACES", "Team_A", "'Team_A' is no namespace"),
        ("NAMESPACES", "a,,b", "'' is no namespace"),
        ("NAMESPACES", ",", "nothing for all of them"),
        ("NAMESPACES", "a/b", "separated by commas"),
        ("VOLUMES_ROOT", "volumes", "absolute path"),
        ("VOLUMES_ROOT", "", "absolute path"),
        ("REQUIRE_MOUNT", "yes", "true or false"),
        ("WORKERS", "0", "from 1 to 256"),
        ("WORKERS", "257", "from 1 to 256"),
        ("WORKERS", "many", "whole number"),
        ("WORKERS", "1_0", "whole number"),
        ("STORE_THREADS", "65", "from 1 to 64"),
        ("DIRECTORY_THREADS", "0", "from 1 to 256"),
        ("DIRECTORY_HELPERS", "1025", "from 0 to 1024"),
        ("OBJECT_BATCHES", "0", "from 1 to 1024"),
        ("HEALTH_ADDRESS", "8080", "host:port"),
        ("HEALTH_ADDRESS", ":8080", "host:port"),
        ("HEALTH_ADDRESS", "0.0.0.0:70000", "host:port"),
        ("LOG_LEVEL", "verbose", "debug, info, warning, error"),
        ("LOG_FORMAT", "xml", "json, text"),
        ("PROBE_INTERVAL_SECONDS", "nan", "number of seconds"),
        ("PROBE_INTERVAL_SECONDS", "60s", "without a unit"),
        ("RESYNC_SECONDS", "0", "from 1 to"),
        ("SHUTDOWN_SECONDS", "-1", "from 0 to"),
        ("LEADER_ELECTION", "on", "true or false"),
        ("LEASE_NAMESPACE", "Ops", "name of a namespace"),
        ("LEASE_NAME", "", "name of an object"),
        ("LEASE_NAME", "a/b", "name of an object"),
        ("LEASE_SECONDS", "4", "from 5 to 60"),
        ("LEASE_SECONDS", "7.5", "whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variable_and_what_to_do(variable: str, text: str, advice: str) -> None:
    with pytest.raises(SettingsError, match=f"TASKDELETION_{variable}") as refusal:
        Settings.from_environment({f"TASKDELETION_{variable}": text})

    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("TASKDELETION_WORKER", "did you mean TASKDELETION_WORKERS?"),
        ("TASKDELETION_workers", "did you mean TASKDELETION_WORKERS?"),
        ("TASKDELETION_HEALTH_PORT", "is not a setting"),
        ("TASKDELETION_", "the settings are TASKDELETION_NAMESPACES"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(variable: str, advice: str) -> None:
    with pytest.raises(SettingsError, match=variable) as refusal:
        Settings.from_environment({variable: "1"})

    assert advice in str(refusal.value)


def test_an_election_needs_to_be_told_where_its_lease_is() -> None:
    with pytest.raises(SettingsError, match="TASKDELETION_LEASE_NAMESPACE"):
        Settings.from_environment({"TASKDELETION_LEADER_ELECTION": "true"})

    given = {"TASKDELETION_LEADER_ELECTION": "true", "TASKDELETION_LEASE_NAMESPACE": "ops"}
    assert Settings.from_environment(given).leader_election is True


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize("given", [{"ADMISSION_POLICY": "ops"}, {"ADMISSION_DIGEST": DIGEST}], ids=["name", "digest"])
def test_an_admission_policy_is_told_by_name_and_digest_together(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"ADMISSION_POLICY and \S+ADMISSION_DIGEST go together"):
        Settings.from_environment({PREFIX + name: text for name, text in given.items()})

    both = {PREFIX + "ADMISSION_POLICY": "ops", PREFIX + "ADMISSION_DIGEST": DIGEST}
    assert Settings.from_environment(both).admission_policy == "ops"


@pytest.mark.parametrize(
    "digest", ["0" * 63, DIGEST.upper(), "sha256:" + DIGEST], ids=["short", "upper case", "prefix"]
)
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(SettingsError, match="64 hexadecimal digits"):
        Settings.from_environment({PREFIX + "ADMISSION_POLICY": "ops", PREFIX + "ADMISSION_DIGEST": digest})


def test_the_variables_of_a_service_beside_the_pod_are_not_settings() -> None:
    links = {
        "TASKDELETION_SERVICE_HOST": "10.0.0.1",
        "TASKDELETION_HEALTH_SERVICE_PORT_HTTP": "8080",
        "TASKDELETION_PORT": "tcp://10.0.0.1:8080",
        "TASKDELETION_HEALTH_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "TASKDELETION_HEALTH_PORT_8080_TCP_ADDR": "10.0.0.1",
    }

    assert Settings.from_environment(links) == Settings()


def test_every_field_has_its_variable() -> None:
    assert {PREFIX + field.name.upper() for field in fields(Settings)} == set(_PARSERS)


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().workers = 1  # type: ignore[misc]
