"""Buckets on two S3 servers, as fixtures: each test that asks for one runs on MinIO and on SeaweedFS.

The tests of the objects backend name this module in `pytest_plugins`, and import nothing from it. `on_minio` is for
what only MinIO can be told to do.
"""

from collections.abc import Iterator

import pytest

from dev.stack import Stack
from tests.support.s3 import MINIO, SEAWEEDFS, Server, Store, fresh_store
from tests.support.seaweedfs import SeaweedFs, running_seaweedfs


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[SeaweedFs]:
    """The second S3 server, for the whole session."""
    with running_seaweedfs() as server:
        yield server


@pytest.fixture(params=[MINIO, SEAWEEDFS])
def server(request: pytest.FixtureRequest) -> tuple[str, Server]:
    """Each server in turn: its name, and its endpoint and keys."""
    if request.param == MINIO:
        return MINIO, request.getfixturevalue("stack").minio
    return SEAWEEDFS, request.getfixturevalue("seaweedfs")


@pytest.fixture
def store(server: tuple[str, Server]) -> Iterator[Store]:
    with fresh_store(*server) as found:
        yield found


@pytest.fixture
def versioned(store: Store) -> Store:
    store.enable_versions()
    return store


@pytest.fixture
def locked(server: tuple[str, Server]) -> Iterator[Store]:
    with fresh_store(*server, object_lock=True) as found:
        yield found


@pytest.fixture
def on_minio(stack: Stack) -> Iterator[Store]:
    with fresh_store(MINIO, stack.minio) as found:
        yield found
