"""Whether two TaskStores of a namespace reach for the same data: equal or nested roots, prefixes, patterns. Pure."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

from taskdeletion.api.store_catalog import Catalog
from taskdeletion.api.task_store import Directory, ObjectStore, TaskStoreSpec
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern
from taskdeletion.domain.shared_keys import can_share_keys
from taskdeletion.domain.table_names import parse_table_name

_PLACEHOLDER = "{taskId}"


def find_overlap(name: str, specs: Mapping[str, TaskStoreSpec]) -> str | None:
    """The sentence that says with which other store of `specs` (by name) the store `name` overlaps, or None."""
    mine = specs[name]
    for other, theirs in sorted(specs.items()):
        if other != name and (what := _shared(mine, theirs)):
            shared = f"{what} of this store and of TaskStore {other} are equal or nested"
            return f"{shared}; neither store can be used until one is deleted"
    return None


def find_ambiguity(spec: TaskStoreSpec) -> str | None:
    """The sentence that says why one store's own patterns or prefixes reach for each other's tasks, or None.

    With `{taskId}/` beside `tasks/{taskId}/` the objects of every task lie below those of a task named `tasks`.
    """
    groups = {
        "redis.keyPatterns": spec.redis.key_patterns if spec.redis else [],
        "objectStore.prefixes": spec.object_store.prefixes if spec.object_store else [],
    }
    for name, templates in groups.items():
        heads = sorted({template.partition(_PLACEHOLDER)[0] for template in templates})
        for one, other in pairwise(heads):  # sorted: a head that begins like another one comes after it
            if other.startswith(one):
                return (
                    f"in spec.{name} what stands before {{taskId}} is {one!r} in one and {other!r} in another entry:"
                    " one task could reach the data of others; use two stores in two namespaces, or one layout"
                )
    return _find_doomed_index(spec)


def _find_doomed_index(spec: TaskStoreSpec) -> str | None:
    """State keys go last: a pattern of data keys that matches them would take them before everything else."""
    if spec.redis is None or spec.catalog is None or spec.catalog.redis is None:
        return None
    for pattern in spec.redis.key_patterns:
        if _can_share(pattern, spec.catalog.redis.key_pattern):
            return (
                f"the pattern {pattern} of spec.redis.keyPatterns can match state keys of the catalog"
                f" ({spec.catalog.redis.key_pattern}), which go last and by themselves; narrow it, or leave it out"
            )
    return None


def _shared(mine: TaskStoreSpec, theirs: TaskStoreSpec) -> str | None:
    if _share_catalogs(mine.catalog, theirs.catalog):
        return "the catalogs"
    if _share_directories(mine.directory, theirs.directory):
        return "the directories"
    if _share_state_keys(mine, theirs) or _share_state_keys(theirs, mine):
        return "the key patterns and the state keys"
    if mine.redis and theirs.redis and _any_nested(mine.redis.key_patterns, theirs.redis.key_patterns):
        return "the key patterns"
    if _share_objects(mine.object_store, theirs.object_store):
        return "the object prefixes"
    return None


def _share_catalogs(mine: Catalog | None, theirs: Catalog | None) -> bool:
    """Each store would mark or delete rows of tasks whose other places only the other store knows."""
    if mine is None or theirs is None:
        return False
    if mine.postgres and theirs.postgres:
        same_database = mine.postgres.secret_ref == theirs.postgres.secret_ref
        return same_database and _is_same_table(mine.postgres.tasks_table, theirs.postgres.tasks_table)
    if mine.redis and theirs.redis and mine.redis.secret_ref == theirs.redis.secret_ref:
        return _can_share(mine.redis.key_pattern, theirs.redis.key_pattern)
    return False


def _is_same_table(one: str, other: str) -> bool:
    """Quotes that a name does not need change nothing."""
    try:
        return parse_table_name(one) == parse_table_name(other)
    except Fault:  # its own store says so
        return False


def _share_state_keys(mine: TaskStoreSpec, theirs: TaskStoreSpec) -> bool:
    """Whether the data patterns of one store reach for the index of the other, in the same Redis."""
    if mine.redis is None or theirs.catalog is None or theirs.catalog.redis is None:
        return False
    state = theirs.catalog.redis
    if mine.redis.secret_ref != state.secret_ref:
        return False
    return any(_can_share(pattern, state.key_pattern) for pattern in mine.redis.key_patterns)


def _can_share(one: str, other: str) -> bool:
    """A pattern that cannot be read shares nothing: its own store is invalid and deletes nothing."""
    try:
        patterns = KeyPattern.parse(one), KeyPattern.parse(other)
    except ValueError:
        return False
    return can_share_keys(*patterns)


def _share_directories(mine: Directory | None, theirs: Directory | None) -> bool:
    if mine is None or theirs is None:
        return False
    same_volume = mine.persistent_volume_claim.claim_name == theirs.persistent_volume_claim.claim_name
    return same_volume and _nested(mine.sub_path + "/", theirs.sub_path + "/")


def _share_objects(mine: ObjectStore | None, theirs: ObjectStore | None) -> bool:
    if mine is None or theirs is None:
        return False
    return mine.bucket == theirs.bucket and _any_nested(mine.prefixes, theirs.prefixes)


def _any_nested(mine: Iterable[str], theirs: Iterable[str]) -> bool:
    literals = [pattern.partition(_PLACEHOLDER)[0] for pattern in theirs]
    return any(_nested(pattern.partition(_PLACEHOLDER)[0], literal) for pattern in mine for literal in literals)


def _nested(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
