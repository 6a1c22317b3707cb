"""Every effect of a deletion, on real services, is preceded by the question whether this process still leads.

In the same thread, with no other effect in between: what is not asked for is not in the table below, or a fault.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dev.pipeline import Pipeline
from taskdeletion.backends.directory import entries, root
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.objects.bucket import Bucket
from taskdeletion.backends.postgres import claim, transactions
from taskdeletion.backends.redis import RedisCatalog, RedisKeys
from taskdeletion.backends.redis.scan import Scan
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.domain.leadership import ALONE
from taskdeletion.kube.client import Api
from tests.support.harness import Harness, World, states_of
from tests.support.kube import Kube
from tests.support.seams import Crash

Says = Callable[..., bool]


class Watched:
    """A leadership that notes who asked; after `lasts` questions it is over, and the process with it."""

    def __init__(self, lasts: int | None = None) -> None:
        self.asked = 0
        self.effects: list[str] = []
        self.unasked: list[str] = []
        self._left = lasts
        self._own = threading.local()

    def require(self) -> bool:
        if self._left is not None and self.asked >= self._left:
            raise Crash
        self.asked += 1
        self._own.has_asked = True
        return False

    def note(self, effect: str) -> None:
        """An effect begins in this thread."""
        self.effects.append(effect)
        if not getattr(self._own, "has_asked", False):
            self.unasked.append(effect)
        self._own.has_asked = False


def removes_keys(_: Any, commands: Any = ()) -> bool:
    return any(command[0] == "UNLINK" for command in commands)


def always(*_: Any, **__: Any) -> bool:
    return True


def changes(_: Any, method: str, *__: Any, **___: Any) -> bool:
    return method != "GET"


#: Who has the call that is an effect, its name, which of its calls is one, and what it is.
EFFECTS: list[tuple[Any, str, Says, str]] = [
    (root, "rename_noreplace", always, "rename"),
    (type(entries.chosen), "remove", lambda *_, unlink, **__: unlink, "unlink"),
    (RedisServer, "send", removes_keys, "keys"),
    (Scan, "advance", removes_keys, "keys"),
    (Bucket, "delete", always, "objects"),
    (Bucket, "abort", always, "uploads"),
    (claim, "commit", always, "commit"),
    (transactions, "commit", always, "commit"),
    (RedisCatalog, "delete_records", always, "state"),
    (Api, "_send", changes, "request"),
]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watched], Watched]:
    """Note every effect of this process with the leadership that is in charge.

    What a probe deletes cannot exist, so it is no effect.
    """

    def begin(watched: Watched) -> Watched:
        for probed in (RedisKeys, Objects):
            monkeypatch.setattr(probed, "probe", lambda _: None)
        monkeypatch.setattr(RedisCatalog, "probe", lambda _: [])
        for owner, name, says, effect in EFFECTS:
            _note(monkeypatch, watched, owner, name, says, effect)
        return watched

    return begin


def _note(monkeypatch: pytest.MonkeyPatch, watched: Watched, owner: Any, name: str, says: Says, effect: str) -> None:
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if says(*arguments, **options):
            watched.note(effect)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


def led_by(kube: Kube, watched: Watched) -> Kube:
    """The same API server, asked by a process whose leadership is watched."""
    found = copy.copy(kube)
    found.api = copy.copy(kube.api)
    found.api._leadership = watched
    return found


@contextmanager
def process_of(kube: Kube, pipeline: Pipeline, watched: Watched | None = None) -> Iterator[Harness]:
    """A process for the length of a `with` block; `watched`: whom the test watches, else one that is alone."""
    with World(kube if watched is None else led_by(kube, watched), pipeline) as world:
        yield world.start(leadership=ALONE if watched is None else watched)


def new_pipeline(request: pytest.FixtureRequest, catalog: str) -> Pipeline:
    """A pipeline with that catalog, and two tasks."""
    found: Pipeline = request.getfixturevalue({"postgres": "pipeline", "redis": "state_pipeline"}[catalog])
    found.add_task("task_1", files=30)
    found.add_task("task_2")
    return found


@pytest.mark.parametrize(
    ("catalog", "records", "expected"),
    [
        pytest.param("postgres", False, {"rename", "unlink", "keys", "objects", "commit", "request"}, id="rows stay"),
        pytest.param("postgres", True, {"rename", "unlink", "keys", "objects", "commit", "request"}, id="rows go"),
        pytest.param("redis", False, {"rename", "unlink", "keys", "objects", "state", "request"}, id="state keys"),
    ],
)
def test_every_effect_asks_first(
    kube: Kube,
    request: pytest.FixtureRequest,
    watch: Callable[[Watched], Watched],
    catalog: str,
    records: bool,
    expected: set[str],
) -> None:
    pipeline, watched = new_pipeline(request, catalog), Watched()
    kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1", "task_2"], deleteDatabaseRecords=records)
    with process_of(kube, pipeline, watched) as process:
        watch(watched)
        process.reconcile("a")

        assert states_of(process.status("a")) == ["Deleted", "Deleted"]
    assert set(watched.effects) == expected
    assert watched.unasked == []


def test_a_put_back_of_the_sweep_asks_first(
    kube: Kube, request: pytest.FixtureRequest, watch: Callable[[Watched], Watched]
) -> None:
    pipeline, watched = new_pipeline(request, "postgres"), Watched()
    owner = "00000000-0000-4000-8000-000000000000"
    (pipeline.root / "task_1").rename(pipeline.root / f".claimed-{owner}-task_1")
    with process_of(kube, pipeline, watched) as process:
        watch(watched)
        process.look_at_store()

    assert (pipeline.root / "task_1").is_dir()
    assert "rename" in watched.effects
    assert watched.unasked == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads end with the process
@pytest.mark.parametrize("asked", range(12))
def test_wherever_the_leadership_ends_no_further_effect_begins_and_the_next_leader_finishes(
    kube: Kube, request: pytest.FixtureRequest, watch: Callable[[Watched], Watched], asked: int
) -> None:
    pipeline, watched = new_pipeline(request, "postgres"), Watched(lasts=asked)
    kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"])
    with process_of(kube, pipeline, watched) as process:
        watch(watched)
        with pytest.raises(Crash):
            process.reconcile("a")
    assert len(watched.effects) <= asked
    assert watched.unasked == []
    with process_of(kube, pipeline) as successor:
        assert successor.finish("a")["phase"] == "Succeeded"

    assert pipeline.look("task_1").is_gone
