"""One request at a time: who works on a task, who waits, and who is woken."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from taskdeletion.kube.objects import Key
from taskdeletion.workflow.ownership import Ownership, Standing

NOW = datetime(2025, 7, 2, tzinfo=UTC)


def standing(
    uid: str,
    *,
    named: Iterable[str] = ("t",),
    deleting: Iterable[str] = (),
    claimed: Iterable[str] = (),
    age: int = 0,
    store: str = "default",
    namespace: str = "ns",
) -> Standing:
    """A request whose name is its uid; the higher `age`, the older it is."""
    return Standing(
        key=Key("TaskDeletion", namespace, uid),
        uid=uid,
        store=store,
        created_at=NOW - timedelta(minutes=age),
        named=frozenset(named),
        deleting=frozenset(deleting),
        claimed=frozenset(claimed),
    )


class Desk:
    """The books, and the names of those who were woken."""

    def __init__(self, *seen: Standing) -> None:
        self.woken: list[str] = []
        self.books = Ownership(lambda key: self.woken.append(key.name))
        for one in seen:
            self.books.observe(one)

    def denied(self, one: Standing, *task_ids: str) -> set[str]:
        return set(self.books.acquire(one, task_ids or ("t",)))


IDLE = standing("idle")
OLD = standing("old", deleting=["t"], age=9)
YOUNG = standing("young", deleting=["t"], age=1)
YOUNG_CLAIMED = standing("young", deleting=["t"], claimed=["t"], age=1)


@pytest.mark.parametrize(
    ("seen", "mine", "is_mine"),
    [
        pytest.param([], IDLE, True, id="nobody else"),
        pytest.param([IDLE, standing("other")], IDLE, True, id="another that only names the task"),
        pytest.param([OLD], IDLE, False, id="another whose status says Deleting"),
        pytest.param([OLD], OLD, True, id="my own status says Deleting"),
        pytest.param([OLD, YOUNG], OLD, True, id="both say so and I am older"),
        pytest.param([OLD, YOUNG], YOUNG, False, id="both say so and I am younger"),
        pytest.param([OLD, YOUNG_CLAIMED], YOUNG_CLAIMED, True, id="the younger has claimed it"),
        pytest.param([OLD, YOUNG_CLAIMED], OLD, False, id="the older has not"),
        pytest.param(
            [standing("a", deleting=["t"], claimed=["t"]), standing("b", deleting=["t"], claimed=["t"])],
            standing("a", deleting=["t"], claimed=["t"]),
            True,
            id="both claimed at the same time: the lower uid",
        ),
        pytest.param([standing("old", deleting=["t"], store="other")], IDLE, True, id="the task of another store"),
        pytest.param([standing("old", deleting=["t"], namespace="x")], IDLE, True, id="the task of another namespace"),
        pytest.param([standing("old", deleting=["u"])], IDLE, True, id="another task"),
    ],
)
@pytest.mark.parametrize("order", ["as given", "reversed"])
def test_a_task_belongs_to_one_request(seen: list[Standing], mine: Standing, is_mine: bool, order: str) -> None:
    desk = Desk(*(seen if order == "as given" else reversed(seen)))

    assert desk.denied(mine) == (set() if is_mine else {"t"})


def test_a_worker_of_this_process_comes_before_any_status() -> None:
    desk = Desk(OLD)
    assert desk.denied(OLD) == set()
    desk.books.observe(standing("old"))  # its status lets go, its worker does not

    assert desk.denied(standing("claims", deleting=["t"], claimed=["t"], age=99)) == {"t"}
    desk.books.release(OLD, ["t"])
    assert desk.denied(standing("claims", deleting=["t"], claimed=["t"], age=99)) == set()


def test_only_the_tasks_of_others_are_denied() -> None:
    desk = Desk(standing("old", named="ab", deleting="ab"))

    assert desk.denied(standing("mine", named="abc"), "a", "b", "c") == {"a", "b"}


def test_the_same_request_may_take_a_task_again() -> None:
    desk = Desk()

    assert [desk.denied(IDLE), desk.denied(IDLE)] == [set(), set()]


def test_release_wakes_those_who_waited() -> None:
    desk = Desk()
    desk.denied(standing("worker"))
    desk.denied(standing("waits"))
    desk.denied(standing("waits too"))
    assert desk.woken == []

    desk.books.release(standing("worker"), ["t"])

    assert sorted(desk.woken) == ["waits", "waits too"]


def test_nobody_is_woken_twice() -> None:
    desk = Desk()
    desk.denied(standing("worker"))
    desk.denied(standing("waits"))
    desk.denied(standing("waits"))
    desk.books.release(standing("worker"), ["t"])
    desk.books.release(standing("worker"), ["t"])

    assert desk.woken == ["waits"]


def test_release_wakes_nobody_while_status_says_deleting() -> None:
    desk = Desk(OLD)
    desk.denied(OLD)
    desk.denied(IDLE)
    desk.books.release(OLD, ["t"])
    assert desk.woken == []

    desk.books.observe(standing("old"))
    assert desk.woken == ["idle"]


def test_the_end_of_a_request_wakes_those_who_waited() -> None:
    desk = Desk(OLD)
    desk.denied(IDLE)
    desk.books.forget("old")

    assert desk.woken == ["idle"]
    assert desk.denied(IDLE) == set()


def test_one_that_says_deleting_itself_is_woken_too() -> None:
    desk = Desk(OLD, YOUNG)
    assert desk.denied(YOUNG) == {"t"}
    desk.books.forget("old")

    assert desk.woken == ["young"]


def test_what_another_request_releases_stays_taken() -> None:
    desk = Desk()
    desk.denied(standing("worker"))
    desk.denied(standing("waits"))
    desk.books.release(standing("waits"), ["t"])

    assert desk.denied(standing("waits")) == {"t"}
    assert desk.woken == []


def test_a_cancelled_request_is_live_while_a_worker_finishes_it() -> None:
    desk = Desk(OLD)
    desk.denied(OLD)
    desk.books.forget("old")
    assert desk.books.is_live("old")
    assert desk.denied(IDLE) == {"t"}

    desk.books.release(OLD, ["t"])
    assert not desk.books.is_live("old")
    assert desk.woken == ["idle"]


def test_forgetting_an_unknown_request_is_nothing() -> None:
    desk = Desk(OLD)
    desk.books.forget("unknown")

    assert desk.books.is_live("old")
    assert not desk.books.is_live("unknown")


def test_a_request_that_was_seen_again_is_known_by_its_newest_status() -> None:
    desk = Desk(standing("old", named="ab", deleting="ab"), standing("old", named="ab", deleting="b"))

    assert desk.denied(standing("mine"), "a", "b") == {"b"}


@pytest.mark.parametrize(
    ("namespace", "task_id", "expected"), [("ns", "t", True), ("ns", "u", False), ("other", "t", False)]
)
def test_a_task_is_named_by_live_requests_of_its_namespace(namespace: str, task_id: str, expected: bool) -> None:
    desk = Desk(IDLE)
    assert desk.books.is_named(namespace, task_id) is expected

    desk.books.forget("idle")
    assert not desk.books.is_named(namespace, task_id)


def test_requests_are_found_by_name_and_by_store() -> None:
    first, second = standing("a"), standing("b", store="other")
    namesake = Standing(first.key, "a-again", "default", NOW, frozenset("t"), frozenset(), frozenset())
    desk = Desk(first, second, namesake)

    assert sorted(desk.books.uids_at(first.key)) == ["a", "a-again"]
    assert desk.books.keys_of("ns", "other") == [second.key]
    assert desk.books.keys_of("elsewhere", "other") == []
    assert sorted(desk.books.live_keys()) == [first.key, first.key, second.key]


# --- any order of events ----------------------------------------------------------------------------------------------
class Model:
    """The rule itself, looked up in full each time. Standings by uid, workers by task."""

    def __init__(self) -> None:
        self.live: dict[str, Standing] = {}
        self.busy: dict[str, str] = {}
        self.waiting: dict[tuple[str, str], Standing] = {}

    def is_others(self, mine: Standing, task_id: str) -> bool:
        if self.busy.get(task_id, mine.uid) != mine.uid:
            return True
        rivals = [one for one in self.live.values() if task_id in one.deleting and one.uid != mine.uid]
        if not rivals:
            return False
        best = min([*rivals, mine], key=lambda one: (task_id not in one.claimed, one.created_at, one.uid))
        return task_id not in mine.deleting or best is not mine

    def free_waiters(self) -> list[tuple[str, str]]:
        return [
            (uid, task_id)
            for (uid, task_id), saved in self.waiting.items()
            if not self.is_others(self.live.get(uid, saved), task_id)
        ]


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_events_gives_each_task_one_worker_and_forgets_no_waiter(seed: int) -> None:
    draw = random.Random(seed)
    desk, model = Desk(), Model()
    for _ in range(300):
        uid = draw.choice("abcd")
        deleting = [task_id for task_id in "tuv" if draw.random() < 0.4]
        claimed = [task_id for task_id in deleting if draw.random() < 0.5]
        fresh = standing(uid, named="tuv", deleting=deleting, claimed=claimed, age=ord(uid) % 3)
        mine = model.live.get(uid, fresh)
        event = draw.choice(["observe", "forget", "acquire", "acquire", "release"])
        if event == "observe":
            desk.books.observe(fresh)
            model.live[uid] = fresh
        elif event == "forget":
            desk.books.forget(uid)
            model.live.pop(uid, None)
        elif event == "release":
            desk.books.release(mine, "tuv")
            model.busy = {task_id: owner for task_id, owner in model.busy.items() if owner != uid}
        else:
            expected = {task_id for task_id in "tuv" if model.is_others(mine, task_id)}
            assert desk.denied(mine, "t", "u", "v") == expected
            model.waiting.update({(uid, task_id): mine for task_id in expected})
            model.busy.update(dict.fromkeys(set("tuv") - expected, uid))
        if event != "acquire":
            free = model.free_waiters()
            assert sorted(desk.woken) == sorted({one for one, _ in free})
            for waiter in free:
                del model.waiting[waiter]
            desk.woken.clear()
        for one in "abcd":
            assert desk.books.is_live(one) == (one in model.live or one in model.busy.values())
