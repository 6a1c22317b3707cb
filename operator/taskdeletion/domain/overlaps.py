"""Whether two TaskStores of a namespace reach for the same data: equal or nested roots, prefixes, patterns. Pure."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

from taskdeletion.api.task_store import Catalog, Directory, ObjectStore, TaskStoreSpec

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
    return None


def _shared(mine: TaskStoreSpec, theirs: TaskStoreSpec) -> str | None:
    if _share_catalogs(mine.catalog, theirs.catalog):
        return "the catalogs"
    if _share_directories(mine.directory, theirs.directory):
        return "the directories"
    if mine.redis and theirs.redis and _any_nested(mine.redis.key_patterns, theirs.redis.key_patterns):
        return "the key patterns"
    if _share_objects(mine.object_store, theirs.object_store):
        return "the object prefixes"
    return None


def _share_catalogs(mine: Catalog | None, theirs: Catalog | None) -> bool:
    """Each store would mark or delete rows of tasks whose other places only the other store knows."""
    if mine is None or theirs is None:
        return False
    return (mine.postgres.secret_ref, mine.postgres.tasks_table) == (
        theirs.postgres.secret_ref,
        theirs.postgres.tasks_table,
    )


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
