"""Runs the operator and kills it, as a power cut would, at one named point of its first deletion, or run of a policy.

`python -m tests.support.killing before:rename`: the product is the product's own, only the call that is named here is
wrapped, and at its first time the process sends itself SIGKILL. Used by the tests as a process, with PYTHONPATH set to
the root of the repository and to `operator/`.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from taskdeletion.__main__ import main
from taskdeletion.backends.directory import DirectoryRoot, entries
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog, transactions
from taskdeletion.backends.postgres import claim as claims
from taskdeletion.backends.redis import RedisCatalog, RedisKeys, state_records
from taskdeletion.domain.runs import Child
from taskdeletion.kube.children import Children
from taskdeletion.kube.objects import Cluster
from tests.support.seams import When, always, around, says_claimed, says_deleting, says_ended


def says_drafted(_: object, __: object, status: Mapping[str, Any]) -> bool:
    """For `Cluster.write_status`: the write after which parts of a run may be created."""
    return "draft" in status


def says_phase(phase: str) -> When:
    """For `Cluster.write_status`: the write that says this of the run of a policy."""
    return lambda _, __, status: bool(status.get("lastRun", {}).get("phase") == phase)


def creates_second(_: object, manifest: Mapping[str, Any]) -> bool:
    """For `Children.create`: that of the second part."""
    return str(manifest["metadata"]["name"]).endswith("-2")


def releases_second(_: object, __: object, child: Child) -> bool:
    """For `Children.release`: that of the second part."""
    return child.name.endswith("-2")


#: Each call once per deletion or run: who has it, its name, and which of its calls is meant.
SEAMS: dict[str, tuple[Any, str, When]] = {
    "first-status": (Cluster, "write_status", says_deleting),
    "rename": (DirectoryRoot, "claim", always),
    "commit": (claims, "commit", always),
    "confirmation": (Cluster, "write_status", says_claimed),
    "purge": (DirectoryRoot, "begin_purge", always),
    "unlink": (type(entries.chosen), "remove", always),
    "purged": (DirectoryRoot, "purge", always),
    "keys": (RedisKeys, "sweep", always),
    "objects": (Objects, "purge", always),
    "mark": (PostgresCatalog, "mark", always),
    "records": (PostgresCatalog, "delete_records", always),
    "rows-commit": (transactions, "commit", always),
    "state": (RedisCatalog, "delete_records", always),
    "state-script": (state_records, "remove_states", always),
    "last-status": (Cluster, "write_status", says_ended),
    "draft": (Cluster, "write_status", says_drafted),
    "part": (Children, "create", creates_second),
    "decision": (Cluster, "write_status", says_phase("Releasing")),
    "release": (Children, "release", releases_second),
    "released": (Cluster, "write_status", says_phase("Active")),
    "run-end": (Cluster, "write_status", says_phase("Succeeded")),
}


def kill(*_: object, **__: object) -> None:
    """End this process at once: no handler, no `finally`, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Wrap the call that `point` (`before:NAME` or `after:NAME`) names."""
    moment, _, name = point.partition(":")
    entries._ENTRIES_PER_BATCH = 1  # so that "unlink" is one file of several
    owner, attribute, when = SEAMS[name]
    before, after = (kill, None) if moment == "before" else (None, kill)
    setattr(owner, attribute, around(getattr(owner, attribute), before=before, after=after, when=when))


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.exit(main(["operator"]))
