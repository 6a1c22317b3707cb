"""From the spec of a TaskStore and its Secrets to connected backends. Connects nothing itself: backends do, when used.

Called by `workflow.stores`, which keeps what comes of it while both are the same.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack

from taskdeletion.api import reasons
from taskdeletion.api.store_catalog import PostgresCatalog as PostgresSpec
from taskdeletion.api.store_catalog import RedisCatalog as RedisSpec
from taskdeletion.api.task_store import TaskStoreSpec
from taskdeletion.backends.objects import ObjectConnection, Objects
from taskdeletion.backends.postgres import CatalogTables, PostgresCatalog, PostgresConnection
from taskdeletion.backends.redis import RedisCatalog, RedisConnection, RedisKeys, StateKeys
from taskdeletion.domain.catalog import Catalog
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.executors.store import Connections, StorePools
from taskdeletion.executors.sweeps import SharedSweep
from taskdeletion.kube.secrets import SecretData

Secrets = Mapping[str, SecretData]
Slots = AbstractContextManager[object]
#: Of objects, on their way for each request of a store.
BATCHES_PER_CALLER = 2


def list_secrets(spec: TaskStoreSpec) -> list[str]:
    """The names of the Secrets that a store needs, sorted."""
    catalog = (spec.catalog.postgres, spec.catalog.redis) if spec.catalog else ()
    parts = (*catalog, spec.redis, spec.object_store)
    return sorted({part.secret_ref.name for part in parts if part is not None})


def connect(
    spec: TaskStoreSpec, secrets: Secrets, pools: StorePools, slots: Slots, leadership: Leadership = ALONE
) -> Connections:
    """Every part of a store but its directory. Raises Fault (waiting) for what spec or Secrets cannot give.

    `slots`: taken by every batch of objects, whatever its store. `leadership`: asked before rows change.
    """
    with ExitStack() as undo:
        undo.callback(pools.close)
        try:
            catalog = _connect_catalog(spec, secrets, leadership)
            if catalog is not None:
                undo.callback(catalog.close)
            redis = _connect_redis(spec, secrets)
            if redis is not None:
                undo.callback(redis.close)
            objects = _connect_objects(spec, secrets, pools.threads, slots)
        except ValueError as error:  # patterns are checked at admission, and again by the backends
            raise Fault("waiting", reasons.STORE_INVALID, str(error)) from error
        undo.pop_all()
    return Connections(pools, catalog, redis, objects, SharedSweep(redis) if redis is not None else None)


def _connect_catalog(spec: TaskStoreSpec, secrets: Secrets, leadership: Leadership) -> Catalog | None:
    if spec.catalog is None:
        return None
    if spec.catalog.redis is not None:
        return _connect_state(spec.catalog.redis, secrets)
    assert spec.catalog.postgres is not None
    return _connect_rows(spec.catalog.postgres, secrets, leadership)


def _connect_rows(spec: PostgresSpec, secrets: Secrets, leadership: Leadership) -> PostgresCatalog:
    name = spec.secret_ref.name
    tables = CatalogTables(spec.tasks_table, spec.steps_table, spec.time_zone, tuple(spec.running_step_statuses))
    connection = PostgresConnection(_text(secrets, name, "url"), **_tls(secrets, name))
    return PostgresCatalog(connection, tables, leadership=leadership)


def _connect_state(spec: RedisSpec, secrets: Secrets) -> RedisCatalog:
    keys = StateKeys(
        key_pattern=spec.key_pattern,
        status_field=spec.status_field,
        created_field=spec.created_field,
        updated_field=spec.updated_field,
        ttl_seconds=spec.ttl_seconds,
        settle_seconds=spec.settle_seconds,
        time_zone=spec.time_zone,
        terminal_statuses=frozenset(spec.terminal_statuses),
    )
    return RedisCatalog(_redis_connection(secrets, spec.secret_ref.name), keys)


def _connect_redis(spec: TaskStoreSpec, secrets: Secrets) -> RedisKeys | None:
    if spec.redis is None:
        return None
    return RedisKeys(_redis_connection(secrets, spec.redis.secret_ref.name), spec.redis.key_patterns)


def _redis_connection(secrets: Secrets, name: str) -> RedisConnection:
    return RedisConnection(_text(secrets, name, "url"), **_tls(secrets, name))


def _connect_objects(spec: TaskStoreSpec, secrets: Secrets, callers: int, slots: Slots) -> Objects | None:
    if spec.object_store is None:
        return None
    name = spec.object_store.secret_ref.name
    connection = ObjectConnection(
        endpoint=_text(secrets, name, "endpoint"),
        access_key=_text(secrets, name, "accessKey"),
        secret_key=_text(secrets, name, "secretKey"),
        session_token=_optional_text(secrets, name, "sessionToken"),
        region=_optional_text(secrets, name, "region"),
        **_tls(secrets, name),
    )
    store, threads = spec.object_store, BATCHES_PER_CALLER * callers
    return Objects(connection, store.bucket, store.prefixes, threads=threads, callers=callers, slots=slots)


def _text(secrets: Secrets, secret: str, key: str) -> str:
    """The value of a key that must be there, without white space around it."""
    value = _optional_text(secrets, secret, key)
    if value is None:
        raise Fault("waiting", reasons.SECRET_KEY_MISSING, f"Secret {secret} has no key {key}; add it")
    return value


def _optional_text(secrets: Secrets, secret: str, key: str) -> str | None:
    raw = secrets[secret].data.get(key)
    try:
        return raw.decode().strip() if raw is not None else None
    except UnicodeDecodeError:
        raise Fault(
            "waiting", reasons.SECRET_VALUE_INVALID, f"key {key} of Secret {secret} is not UTF-8 text; correct it"
        ) from None


def _tls(secrets: Secrets, secret: str) -> dict[str, bytes | None]:
    data = secrets[secret].data
    return {"ca": data.get("ca.crt"), "cert": data.get("tls.crt"), "key": data.get("tls.key")}
