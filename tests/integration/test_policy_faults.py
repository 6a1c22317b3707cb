"""What a run of a policy must never take, and never be half of, whatever happens between its steps; real services.

Stores that are replaced, tasks that change or go meanwhile, two replicas at once, and lookalikes of its TaskDeletions.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.pipeline import Pipeline
from dev.state_pipeline import NODES, SETTLED, StatePipeline
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.domain.runs import Child
from taskdeletion.kube.children import Children
from taskdeletion.kube.objects import Cluster, Key, StatusConflict
from tests.integration.test_policy_runs import DRAFT, Policies, assert_whole, creation, named
from tests.integration.test_policy_times import NIGHTLY, night
from tests.support.harness import states_of, task_of
from tests.support.kube import GROUP_PATH, Kube, condition
from tests.support.policies import PolicyProcess
from tests.support.seams import Crash, When, crash, interpose, says_claimed

#: Due at `night(3)`: long enough ago to be overdue, and long enough that nothing else is.
AT_NIGHT: dict[str, Any] = {"schedule": NIGHTLY, "overdue": timedelta(days=2)}
PATIENCE = 60


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


@pytest.fixture
def state_policies(kube: Kube, state_pipeline: StatePipeline) -> Iterator[Policies]:
    found = Policies(kube, state_pipeline)
    yield found
    found.close()


def add_tasks(policies: Policies, *names: str, **task: Any) -> None:
    """Finished tasks with files, each a day younger than the one before; the first is 40 days old."""
    for number, name in enumerate(names):
        policies.pipeline.add_task(name, created_at=datetime.now(UTC) - timedelta(days=40 - number), **task)


def gone(policies: Policies, *names: str) -> list[bool]:
    """Whether the files of each are gone."""
    return [policies.pipeline.look(name).is_gone for name in names]


def replace_store(policies: Policies) -> None:
    """Somebody deletes the TaskStore, and creates one under its name."""
    policies.kube.delete(policies.namespace, "default", "taskstores")
    policies.kube.apply(policies.pipeline.manifests())


def only(children: list[dict[str, Any]]) -> str:
    """The name of the one that there is."""
    (child,) = children
    return str(child["metadata"]["name"])


def decision_of(process: PolicyProcess) -> When:
    """For `Cluster.write_status`: the write by which this process decides a run."""
    return lambda cluster, _, status: (
        cluster is process.set_cluster and status.get("lastRun", {}).get("phase") == "Releasing"
    )


# --- another store --------------------------------------------------------------------------------------------------
def test_a_store_created_anew_under_its_name_before_the_first_work_loses_nothing(policies: Policies) -> None:
    add_tasks(policies, "task_1")
    before = policies.pipeline.look("task_1")
    policies.create()
    process = policies.start()
    process.look("nightly")
    replace_store(policies)
    status = process.finish(only(policies.children()))
    assert condition(status, "Failed")["reason"] == "StoreReplaced"
    assert policies.pipeline.look("task_1") == before


def test_a_store_created_anew_between_selection_and_creation_loses_nothing(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tasks(policies, "task_1")
    before = policies.pipeline.look("task_1")
    policies.create()
    process = policies.start()
    interpose(monkeypatch, Children, "create", before=lambda *_: replace_store(policies))
    process.look("nightly")
    status = process.finish(only(policies.children()))
    assert condition(status, "Failed")["reason"] == "StoreReplaced"
    assert policies.pipeline.look("task_1") == before


# --- what is about to go protects nothing ---------------------------------------------------------------------------
def begin_with_newest(policies: Policies, concurrency: str) -> PolicyProcess:
    """Three tasks; a run that takes the newest of them is live. From then on the newest is to be kept."""
    add_tasks(policies, "task_1", "task_2", "task_3")
    policies.create(**AT_NIGHT, concurrencyPolicy=concurrency, rules=[{"taskIdPattern": "task_3"}])
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    policies.change(rules=[{"taskIdPattern": "task_*", "olderThan": "1d", "keepLast": 1}])
    return process


def test_beside_a_run_that_takes_the_newest_the_next_one_is_kept(policies: Policies) -> None:
    process = begin_with_newest(policies, "Allow")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
        process.finish_run("nightly")
    assert gone(policies, "task_1", "task_2", "task_3") == [True, False, True]


def test_behind_a_replaced_run_that_had_claimed_the_newest_the_next_one_is_kept(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin_with_newest(policies, "Replace")
    name = only(policies.children())
    with monkeypatch.context() as patch:
        interpose(patch, Cluster, "write_status", after=crash, when=says_claimed)
        first.crash(name)
    process = policies.start()
    with process.at(night(4, minutes=1)):
        process.look("nightly")
        process.reconcile(name)  # it was cancelled: what it had claimed is finished
        process.finish_run("nightly")
    assert gone(policies, "task_1", "task_2", "task_3") == [True, False, True]


def test_what_a_worker_still_has_in_its_hands_after_a_cancellation_protects_nothing(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = begin_with_newest(policies, "Forbid")
    name = only(policies.children())
    uid = policies.children()[0]["metadata"]["uid"]

    def cancel_and_run(*_: object) -> None:
        policies.kube.delete(policies.namespace, name)
        process.ownership.forget(uid)  # what the watch reports
        process.look("nightly")

    interpose(monkeypatch, Cluster, "write_status", after=cancel_and_run, when=says_claimed)
    with process.at(night(4, minutes=1)):
        process.reconcile(name)
        process.finish_run("nightly")
    assert gone(policies, "task_1", "task_2", "task_3") == [True, False, True]


@pytest.mark.parametrize("concurrency", ["Allow", "Replace"])
def test_the_share_is_one_of_what_no_live_run_takes_and_a_refused_run_cancels_nothing(
    policies: Policies, concurrency: str
) -> None:
    names = [f"first_{number}" for number in range(5)] + [f"second_{number}" for number in range(3)]
    add_tasks(policies, *names, "third_0", "third_1", keys=0, objects=0)
    policies.create(
        **AT_NIGHT,
        concurrencyPolicy=concurrency,
        rules=[{"taskIdPattern": "first_*"}],
        limits={"maxPercentage": 50},
    )
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    before = policies.children()
    policies.change(rules=[{"taskIdPattern": "second_*"}])  # 3 of 10, and 3 of the 5 that are left
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    run = policies.run()
    assert (run["phase"], run.get("reason"), run["refused"]) == ("Refused", "LimitExceeded", 3)
    assert "3 of 5 tasks" in run["message"]
    assert policies.children() == before
    assert policies.status()["active"] == 1


def test_a_dry_run_replaces_nothing(policies: Policies) -> None:
    policies.fill(3)
    policies.create(**AT_NIGHT, concurrencyPolicy="Replace")
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    before = policies.children()
    policies.change(dryRun=True)
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    assert policies.run()["scheduledTime"] == f"{night(4):%Y-%m-%dT%H:%M:%SZ}"
    assert policies.children() == before


# --- a task that ended otherwise meanwhile --------------------------------------------------------------------------
def assert_failed_task_that_completed_stays(policies: Policies) -> None:
    """The rule for failed tasks does not take one that completed behind the selection."""
    add_tasks(policies, "task_1", status="failed", steps=1)
    policies.create(rules=[{"statuses": ["failed"], "olderThan": "7d"}])
    process = policies.start()
    process.look("nightly")
    policies.pipeline.complete_run("task_1")
    before = policies.pipeline.look("task_1")
    status = process.finish(only(policies.children()))
    assert (task_of(status)["state"], task_of(status).get("reason")) == ("Refused", "OtherStatus")
    assert policies.pipeline.look("task_1") == before


def test_a_failed_task_that_completed_behind_the_selection_is_refused(policies: Policies) -> None:
    assert_failed_task_that_completed_stays(policies)


def test_a_failed_task_that_completed_behind_the_selection_is_refused_by_redis(state_policies: Policies) -> None:
    assert_failed_task_that_completed_stays(state_policies)


def test_a_task_of_which_one_node_failed_behind_the_selection_is_refused(state_policies: Policies) -> None:
    policies, pipeline = state_policies, state_policies.pipeline
    assert isinstance(pipeline, StatePipeline)
    add_tasks(policies, "task_1")
    policies.create(rules=[{"statuses": ["completed"], "olderThan": "7d"}])
    process = policies.start()
    process.look("nightly")
    created_at = datetime.fromisoformat(pipeline.look_at_entry("task_1")[0]["created_at"])  # type: ignore[index]
    pipeline.write_state("task_1", NODES[1], "failed", created_at, age=SETTLED)
    before = pipeline.look("task_1")
    status = process.finish(only(policies.children()))
    assert (task_of(status)["state"], task_of(status).get("reason")) == ("Refused", "OtherStatus")
    assert pipeline.look("task_1") == before


def test_tasks_that_different_rules_speak_of_go_in_different_taskdeletions(policies: Policies) -> None:
    add_tasks(policies, "done_1", "done_2")
    add_tasks(policies, "lost_1", status="failed")
    policies.create(
        rules=[{"statuses": ["completed"], "olderThan": "30d"}, {"statuses": ["failed"], "olderThan": "7d"}]
    )
    process = policies.start()
    process.look("nightly")
    found = {tuple(child["spec"]["statuses"]): child["spec"]["taskIds"] for child in policies.children()}
    assert found == {("completed",): ["done_1", "done_2"], ("failed",): ["lost_1"]}
    assert process.finish_run("nightly")["lastRun"]["deleted"] == 3
    assert gone(policies, "done_1", "done_2", "lost_1") == [True, True, True]


def test_tasks_that_the_same_rules_speak_of_go_together_and_may_change_between_these_statuses(
    policies: Policies,
) -> None:
    add_tasks(policies, "done_1")
    add_tasks(policies, "lost_1", status="failed")
    policies.create(rules=[{"olderThan": "7d"}])
    process = policies.start()
    process.look("nightly")
    (child,) = policies.children()
    assert child["spec"]["statuses"] == ["completed", "failed"]
    policies.pipeline.complete_run("lost_1")
    status = process.finish(child["metadata"]["name"])
    assert states_of(status) == ["Deleted", "Deleted"]


# --- two replicas ---------------------------------------------------------------------------------------------------
def assert_whole_in_the_end(policies: Policies, wanted: list[str]) -> None:
    """Later looks find or make one whole run."""
    process = policies.start()
    with process.at(night(3, minutes=2)):
        for _ in range(3):
            process.look("nightly")
    assert_whole(policies, wanted)


def test_a_replica_whose_read_is_older_than_the_draft_throws_no_part_of_it_away(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create(**AT_NIGHT)
    writer, stale = policies.start(), policies.start()
    reads = [stale.set_cluster.read(Key(TaskRetentionPolicy.KIND, policies.namespace, "nightly"))]
    read = stale.set_cluster.read

    def look_and_die(*_: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(stale.set_cluster, "read", lambda key: reads.pop() if reads else read(key))
            interpose(patch, Children, "delete", after=crash, when=lambda children, *_: children is stale.children)
            try:
                stale.look("nightly")
            except Crash:
                return

    interpose(monkeypatch, Cluster, "write_status", before=look_and_die, when=decision_of(writer))
    with writer.at(night(3, minutes=1)):
        writer.look("nightly")
    assert reads == []
    assert_whole_in_the_end(policies, wanted)


def test_a_writer_that_comes_back_while_its_abandoned_draft_is_thrown_away_decides_nothing(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create(**AT_NIGHT)
    writer, other = policies.start(), policies.start()
    thrown: list[str] = []

    def note_and_die(_: object, __: object, child: Child) -> None:
        thrown.append(child.name)
        crash()

    def look_and_die(*_: object) -> None:
        with monkeypatch.context() as patch, other.at(night(3, minutes=2)):
            interpose(
                patch,
                Children,
                "delete",
                after=note_and_die,
                when=lambda children, *_, **__: children is other.children,
            )
            with pytest.raises(Crash):
                other.look("nightly")

    interpose(monkeypatch, Cluster, "write_status", before=look_and_die, when=decision_of(writer))
    with writer.at(night(3, minutes=1)):
        writer.look("nightly")
    assert len(thrown) == 1
    assert_whole_in_the_end(policies, wanted)


def test_a_replica_that_slept_before_its_first_creation_throws_away_no_part_of_its_successors_draft(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create(**AT_NIGHT)
    sleeper, successor = policies.start(), policies.start()
    has_first_part, may_go_on = threading.Event(), threading.Event()

    def wake_sleeper(*_: object) -> None:
        has_first_part.set()
        assert may_go_on.wait(PATIENCE)

    interpose(
        monkeypatch,
        Children,
        "create",
        before=wake_sleeper,
        when=lambda children, manifest: children is successor.children and creation(2)(children, manifest),
    )
    with ThreadPoolExecutor(1) as pool, sleeper.at(night(3, minutes=1)), successor.at(night(3, minutes=2)):
        looks = []

        def sleep(*_: object) -> None:
            looks.append(pool.submit(successor.look, "nightly"))
            assert has_first_part.wait(PATIENCE)

        interpose(monkeypatch, Children, "create", before=sleep, when=lambda children, _: children is sleeper.children)
        try:
            sleeper.look("nightly")
        except StatusConflict:  # what it knew of the policy is old
            pass
        finally:
            may_go_on.set()
        looks[0].result(PATIENCE)
    assert_whole_in_the_end(policies, wanted)


# --- what is not the policy's ---------------------------------------------------------------------------------------
def test_a_suspended_taskdeletion_that_looks_like_a_draft_and_has_no_owner_is_never_deleted(policies: Policies) -> None:
    wanted = policies.fill(3)
    policies.create()
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": "TaskDeletion",
        "metadata": {
            "name": "copied",
            "labels": {"datapipeline.dev/policy": "nightly"},
            "annotations": {DRAFT: "0123456789abcdef"},
        },
        "spec": {"confirm": True, "taskIds": ["task_1"], "suspend": True},
    }
    policies.kube.create(f"{GROUP_PATH}/namespaces/{policies.namespace}/taskdeletions", body)
    copied = policies.kube.read(policies.namespace, "copied")
    process = policies.start()
    process.look("nightly")
    assert named([child for child in policies.children() if child["metadata"]["name"] != "copied"]) == wanted
    policies.delete()
    process.look("nightly")
    assert policies.kube.read(policies.namespace, "copied") == copied
