"""The rules of who owns what, one by one: one request at a time, adoption, and what the sweep puts back.

Each test is the shortest sequence that ends wrongly without its rule, played on the real services.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from dev.pipeline import Pipeline
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.siblings import Sibling
from taskdeletion.kube.objects import Cluster
from tests.support.harness import Harness, World, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import begin_run, is_second_run, run_again, siblings_of, write_directory
from tests.support.seams import crash, interpose, says_claimed, says_deleting


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        pipeline.add_task("task_1")
        yield found


def refuse_objects(*_: object, **__: object) -> None:
    """The object store fails at this moment."""
    raise Fault("retriable", reasons.SERVER_ERROR, "the object store answered 500")


def purge_a_part(root: DirectoryRoot, sibling: Sibling, halt: object) -> tuple[Purged, Fault | None]:
    """A purge that begins, removes one file of three, and fails."""
    name = root.begin_purge(sibling).name
    volume = next(root_of(root).glob(f"{name}/*.bin"))
    volume.unlink()
    return Purged(1, 1000), Fault("retriable", reasons.BUSY, "a file is in use")
