"""The runs of a policy on a real API server and a real catalog: what is created, when, and what is never half done."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.kube.children import Children
from taskdeletion.kube.objects import StatusConflict
from tests.support.kube import Kube, condition
from tests.support.policies import (
    PLURAL,
    PolicyProcess,
    children_of,
    create_policy,
    make_due,
    policy_status,
)
from tests.support.seams import Crash, When, crash, interpose

DRAFT = "datapipeline.dev/draft"
MANY = 1200


class Policies:
    """One pipeline, its policies, and the processes that work on them. A context manager."""

    def __init__(self, kube: Kube, pipeline: Pipeline) -> None:
        self.kube, self.pipeline, self.namespace = kube, pipeline, pipeline.namespace
        self._started: list[PolicyProcess] = []

    def start(self) -> PolicyProcess:
        """A new process."""
        self._started.append(PolicyProcess(self.kube, self.namespace))
        return self._started[-1]

    def create(
        self, name: str = "nightly", *, due: bool = True, overdue: timedelta = timedelta(minutes=5), **spec: Any
    ) -> None:
        """A policy over everything that is finished, due since `overdue` ago at the most."""
        create_policy(self.kube, self.namespace, name, **{"rules": [{"olderThan": "1d"}], **spec})
        if due:
            make_due(self.kube, self.namespace, name, ago=overdue)

    def change(self, name: str = "nightly", **spec: Any) -> None:
        """Somebody edits the policy."""
        self.kube.patch(self.namespace, name, {"spec": spec}, PLURAL)

    def delete(self, name: str = "nightly") -> None:
        """Somebody deletes the policy."""
        self.kube.delete(self.namespace, name, PLURAL)

    def status(self, name: str = "nightly") -> dict[str, Any]:
        """Its status."""
        return policy_status(self.kube, self.namespace, name)

    def run(self, name: str = "nightly") -> dict[str, Any]:
        """Its last run."""
        return dict(self.status(name)["lastRun"])

    def children(self, name: str = "nightly") -> list[dict[str, Any]]:
        """Its TaskDeletions."""
        return children_of(self.kube, self.namespace, name)

    def fill(self, count: int = MANY) -> list[str]:
        """Rows of finished tasks, the oldest first; they left nothing else behind."""
        begin = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=90)
        with self.pipeline.connect() as connection, connection.cursor() as cursor:
            copying = cursor.copy("COPY data_pipeline_tasks (task_id, status, created_at) FROM STDIN")
            with copying as copy:
                for number in range(count):
                    copy.write_row((f"task_{number:06}", "completed", begin + timedelta(minutes=number)))
        return [f"task_{number:06}" for number in range(count)]

    def close(self) -> None:
        """Give everything back."""
        for process in self._started:
            process.close()


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


def ready(status: dict[str, Any]) -> tuple[str, str]:
    """Status and reason of the Ready condition."""
    found = condition(status, "Ready")
    return found["status"], found["reason"]


def creation(number: int) -> When:
    """For `Children.create`: the call that creates part `number`."""
    return lambda _, manifest: bool(manifest["metadata"]["name"].endswith(f"-{number}"))


def named(children: list[dict[str, Any]]) -> list[str]:
    """The ids of all TaskDeletions, in the order of the parts."""
    parts = sorted(children, key=lambda child: int(child["metadata"]["name"].rpartition("-")[2]))
    return [task_id for part in parts for task_id in part["spec"]["taskIds"]]


def assert_whole(policies: Policies, wanted: list[str]) -> None:
    """One run exists, it names exactly these tasks, once each and oldest first, and all of it may go on."""
    children = policies.children()
    assert named(children) == wanted
    assert len({child["metadata"]["labels"]["datapipeline.dev/run"] for child in children}) == 1
    assert [child["spec"]["suspend"] for child in children] == [False] * len(children)
    assert [DRAFT in child["metadata"].get("annotations", {}) for child in children] == [False] * len(children)
    assert "draft" not in policies.status()


# --- one run --------------------------------------------------------------------------------------------------------
def test_a_run_frees_what_a_rule_wants_and_keeps_the_rest(policies: Policies) -> None:
    pipeline, now = policies.pipeline, datetime.now(UTC)
    for number in range(4):
        pipeline.add_task(f"old_{number}", created_at=now - timedelta(days=40 + number))
    pipeline.add_task("young", created_at=now - timedelta(hours=2))
    pipeline.add_task("running", status="in_progress")
    pipeline.add_task("failed", status="failed")
    before = {name: pipeline.look(name) for name in ("old_0", "young", "running", "failed")}
    policies.create(rules=[{"statuses": ["completed"], "olderThan": "30d", "keepLast": 2}])
    status = policies.start().finish_run("nightly")

    run = status["lastRun"]
    assert (run["phase"], run["selected"], run["protected"], run["matched"]) == ("Succeeded", 3, 1, 4)
    assert (run["evaluated"], run["created"], run["deleted"], run["failed"]) == (7, 1, 3, 0)
    assert run["bytesFreed"] == 3 * (3 * 1000 + 2 * 500)
    assert status["active"] == 0
    assert status["lastSuccessfulTime"] == run["completionTime"]
    assert ready(status) == ("True", "Scheduled")
    assert all(pipeline.look(f"old_{number}").is_gone for number in (1, 2, 3))
    assert {name: pipeline.look(name) for name in before} == before


def test_the_taskdeletions_of_a_run_say_whose_they_are_and_refuse_newer_tasks(policies: Policies) -> None:
    policies.fill(3)
    policies.create(rules=[{"olderThan": "30d"}], template={"backoffLimit": 2, "deleteDatabaseRecords": True})
    policies.start().look("nightly")
    (child,) = policies.children()
    policy = policies.kube.read(policies.namespace, "nightly", PLURAL)
    assert policy is not None
    uid = policy["metadata"]["uid"]
    scheduled = datetime.fromisoformat(policy["status"]["lastRun"]["scheduledTime"])
    minutes = str(int(scheduled.timestamp()) // 60)
    assert child["metadata"]["name"] == f"nightly-{minutes}-{uid[:5]}-1"
    assert child["metadata"]["labels"] == {"datapipeline.dev/policy": "nightly", "datapipeline.dev/run": minutes}
    (owner,) = child["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
        "TaskRetentionPolicy",
        "nightly",
        uid,
        True,
    )
    spec = child["spec"]
    assert (spec["confirm"], spec["backoffLimit"], spec["deleteDatabaseRecords"]) == (True, 2, True)
    assert spec["force"] is False
    cutoff = datetime.fromisoformat(spec["tasksCreatedBefore"])
    assert timedelta(days=30) <= datetime.now(UTC) - cutoff < timedelta(days=30, minutes=2)


def test_a_large_run_is_split_into_taskdeletions_that_name_every_task_once_oldest_first(policies: Policies) -> None:
    wanted = policies.fill()
    policies.create()
    policies.start().look("nightly")
    assert_whole(policies, wanted)
    assert [len(child["spec"]["taskIds"]) for child in policies.children()] == [500, 500, 200]
    status = policies.status()
    assert (status["active"], status["lastRun"]["created"], status["lastRun"]["selected"]) == (3, 3, MANY)
    assert ready(status) == ("True", "RunActive")


def test_a_run_without_anything_to_do_creates_nothing_and_ends_well(policies: Policies) -> None:
    policies.create(rules=[{"olderThan": "1d"}])
    policies.start().look("nightly")
    run = policies.run()
    assert (run["phase"], run["reason"], run["created"]) == ("Succeeded", "NothingMatched", 0)
    assert policies.children() == []


def test_a_policy_without_rules_selects_nothing(policies: Policies) -> None:
    policies.fill(3)
    policies.create(rules=[])
    policies.start().look("nightly")
    assert (policies.run()["selected"], ready(policies.status())) == (0, ("True", "NoRules"))
    assert policies.children() == []


def test_a_dry_run_reports_and_creates_nothing(policies: Policies) -> None:
    policies.fill(3)
    policies.create(dryRun=True)
    policies.start().look("nightly")
    run = policies.run()
    assert (run["phase"], run["reason"], run["selected"], run["created"]) == ("Succeeded", "DryRun", 3, 0)
    assert ready(policies.status()) == ("True", "DryRun")
    assert policies.children() == []


def test_what_an_earlier_run_failed_to_purge_is_selected_again_and_what_is_gone_is_not(policies: Policies) -> None:
    policies.fill(2)
    policies.pipeline.add_task("stuck")
    with policies.pipeline.connect() as connection:
        connection.execute("UPDATE data_pipeline_tasks SET directory_exists = FALSE WHERE task_id = 'task_000000'")
    policies.create()
    policies.start().look("nightly")
    assert sorted(named(policies.children())) == ["stuck", "task_000001"]


# --- limits ---------------------------------------------------------------------------------------------------------
def test_a_run_over_its_percentage_is_refused_whole_and_says_so(policies: Policies) -> None:
    policies.fill(10)
    policies.create(limits={"maxPercentage": 50, "maxTasksPerRun": 2})
    policies.start().look("nightly")
    status = policies.status()
    run = status["lastRun"]
    assert (run["phase"], run["reason"], run["refused"], run["selected"]) == ("Refused", "LimitExceeded", 10, 0)
    assert "10 of 10 tasks" in run["message"]
    assert "maxPercentage is 50" in run["message"]
    assert ready(status) == ("False", "LimitExceeded")
    assert condition(status, "Stalled")["status"] == "True"
    assert policies.children() == []
    assert "LimitExceeded" in policies.kube.kubectl("get", "trp", "-n", policies.namespace)


def test_a_limit_cuts_the_youngest_and_leaves_them_to_the_next_run(policies: Policies) -> None:
    wanted = policies.fill(10)
    policies.create(limits={"maxTasksPerRun": 4})
    policies.start().look("nightly")
    assert named(policies.children()) == wanted[:4]
    run = policies.run()
    assert (run["reason"], run["refused"], run["selected"]) == ("Limited", 6, 4)


def test_a_refusal_counts_until_the_policy_is_edited(policies: Policies) -> None:
    policies.fill(10)
    policies.create(limits={"maxPercentage": 50})
    process = policies.start()
    process.look("nightly")
    policies.change(limits={"maxPercentage": 100})
    process.look("nightly")
    assert ready(policies.status()) == ("True", "Scheduled")
    assert policies.status()["preview"]["selected"] == 10


# --- the preview ----------------------------------------------------------------------------------------------------
def test_the_preview_says_what_the_next_run_would_take_before_any_run(policies: Policies) -> None:
    wanted = policies.fill(12)
    policies.create(due=False, schedule="0 0 1 1 *", suspend=False)
    policies.start().look("nightly")
    status = policies.status()
    preview = status["preview"]
    assert (preview["selected"], preview["matched"], preview["taskIds"]) == (12, 12, wanted[:10])
    assert preview["scheduledTime"] == status["nextScheduleTime"]
    assert "lastRun" not in status
    assert policies.children() == []
    assert "would take 12 tasks" in condition(status, "Ready")["message"]


def test_the_preview_counts_tasks_that_are_old_enough_by_the_next_run(policies: Policies) -> None:
    policies.pipeline.add_task("young", created_at=datetime.now(UTC) - timedelta(hours=1))
    policies.create(due=False, schedule="0 0 1 1 *")
    policies.start().look("nightly")
    assert policies.status()["preview"]["selected"] == 1


def test_every_change_of_the_spec_is_previewed_once(policies: Policies) -> None:
    policies.fill(4)
    policies.create(due=False, schedule="0 0 1 1 *")
    process = policies.start()
    process.look("nightly")
    first = policies.status()["preview"]
    policies.pipeline.add_rows("one_more")
    process.look("nightly")
    assert policies.status()["preview"] == first
    policies.change(limits={"maxTasksPerRun": 1})
    process.look("nightly")
    assert policies.status()["preview"]["selected"] == 1


def test_a_preview_over_a_limit_is_a_warning_before_the_first_night(policies: Policies) -> None:
    policies.fill(4)
    policies.create(due=False, schedule="0 0 1 1 *", limits={"maxPercentage": 10})
    policies.start().look("nightly")
    assert ready(policies.status()) == ("False", "LimitExceeded")


# --- half of a run does not exist -----------------------------------------------------------------------------------
def test_a_run_that_a_crash_cut_off_between_two_creations_begins_anew_and_is_whole(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    process = policies.start()
    with monkeypatch.context() as patch:
        interpose(patch, Children, "create", before=crash, when=creation(3))
        with pytest.raises(Crash):
            process.look("nightly")
    assert [child["spec"]["suspend"] for child in policies.children()] == [True, True]
    assert "lastScheduleTime" not in policies.status()
    with policies.pipeline.connect() as connection:  # the list shifts meanwhile
        connection.execute("UPDATE data_pipeline_tasks SET status = 'in_progress' WHERE task_id = 'task_000007'")
    look_until_created(policies.start(), policies)
    assert_whole(policies, [name for name in wanted if name != "task_000007"])


def test_a_run_that_a_crash_cut_off_while_it_was_released_is_released_whole(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    process = policies.start()
    with monkeypatch.context() as patch:
        interpose(patch, Children, "release", before=crash, when=lambda _, __, child: child.name.endswith("-2"))
        with pytest.raises(Crash):
            process.look("nightly")
    assert sorted(child["spec"]["suspend"] for child in policies.children()) == [False, True, True]
    assert policies.run()["phase"] == "Releasing"
    policies.start().look("nightly")
    assert_whole(policies, wanted)


def test_a_second_replica_in_the_middle_of_a_run_creates_nothing(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    process, other = policies.start(), policies.start()
    interpose(monkeypatch, Children, "create", before=lambda *_: other.look("nightly"), when=creation(2))
    process.look("nightly")
    assert_whole(policies, wanted)


def test_a_replica_that_slept_through_the_whole_run_leaves_nothing_behind(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    sleeper, other = policies.start(), policies.start()
    monkeypatch.setattr("taskdeletion.workflow.drafting.ABANDONED_AFTER", timedelta(0))
    interpose(monkeypatch, Children, "create", before=lambda *_: other.look("nightly"), when=creation(2))
    with pytest.raises(StatusConflict):  # what it knew of the policy is old: it looks again
        sleeper.look("nightly")
    policies.start().look("nightly")
    assert_whole(policies, wanted)


def test_a_run_is_not_created_again_where_the_status_was_lost(policies: Policies) -> None:
    wanted = policies.fill()
    policies.create()
    process = policies.start()
    process.look("nightly")
    names = [child["metadata"]["uid"] for child in policies.children()]
    run = policies.run()
    path = f"/apis/datapipeline.dev/v1beta1/namespaces/{policies.namespace}/{PLURAL}/nightly/status"
    lost = {"lastRun": None, "lastScheduleTime": None, "active": 0}
    policies.kube.api.request("PATCH", path, body={"status": lost}, content_type="application/merge-patch+json")
    policies.change(concurrencyPolicy="Allow")
    shift = datetime.fromisoformat(run["scheduledTime"]) + timedelta(seconds=30)
    with process.at(shift):
        process.look("nightly")
    assert [child["metadata"]["uid"] for child in policies.children()] == names
    assert_whole(policies, wanted)


def look_until_created(process: PolicyProcess, policies: Policies) -> None:
    """Look until a run was created: an abandoned draft is somebody's for a while."""

    def is_created() -> bool:
        process.look("nightly")
        return "lastRun" in policies.status()

    wait_until(is_created, seconds=40, what="a run")
