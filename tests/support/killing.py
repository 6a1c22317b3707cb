"""Runs the operator and kills it, as a power cut would, at one named point of its first deletion.

`python -m tests.support.killing before:rename`: the product is the product's own, only the call that is named here is
wrapped, and at its first time the process sends itself SIGKILL. Used by the tests as a process, with PYTHONPATH set to
the root of the repository and to `operator/`.
"""

import os
import signal
import sys
from typing import Any

from taskdeletion.__main__ import main
from taskdeletion.backends.directory import DirectoryRoot, entries
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog, transactions
from taskdeletion.backends.postgres import claim as claims
from taskdeletion.backends.redis import RedisCatalog, RedisKeys, state_records
from taskdeletion.kube.objects import Cluster
from tests.support.seams import When, always, around, says_claimed, says_deleting, says_ended

#: Each call once per deletion: who has it, its name, and which of its calls is meant.
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
