"""What goes into the metrics comes out as it is documented, and nothing that somebody else wrote can make them grow."""

import inspect
import re

import pytest

from taskdeletion.api.task_deletion import TaskStatus
from taskdeletion.domain.results import StepResult
from taskdeletion.kube.client import KubeUnavailable
from taskdeletion.observe import bounds
from taskdeletion.observe.families import FAMILIES, Family
from taskdeletion.observe.metrics import Metrics
from taskdeletion.observe.present import StoreRow
from tests.support.measured import AT, build_spec, build_status, fill_metrics
from tests.support.scraping import Scrape

SUFFIXES: dict[str, set[str]] = {"counter": {"_total"}, "gauge": set(), "histogram": {"_bucket", "_sum", "_count"}}


class Clock:
    """Seconds, set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(clock=clock)


def read(metrics: Metrics) -> Scrape:
    return Scrape(metrics.expose().decode())


def names_of(family: Family) -> set[str]:
    stem = family.name.removesuffix("_total")
    return {stem + suffix for suffix in SUFFIXES[family.kind]} or {family.name}


def test_every_family_is_served_with_the_labels_that_it_declares(metrics: Metrics) -> None:
    fill_metrics(metrics)
    metrics.watch_process("1.2.3")
    labels: dict[str, set[frozenset[str]]] = {}
    for name, given, _ in read(metrics).samples():
        labels.setdefault(name, set()).add(frozenset(given) - {"le"})
    by_name = {name: family for family in FAMILIES for name in names_of(family)}
    ours = {name for name in labels if name.startswith("taskdeletion_")}

    assert ours - set(by_name) == set()
    assert {family.name for name, family in by_name.items() if name not in ours} == {"taskdeletion_queue_depth"}
    for name in ours:
        assert labels[name] == {frozenset(by_name[name].labels)}, name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions_of_prometheus(family: Family) -> None:
    assert re.fullmatch(r"taskdeletion(_[a-z]+)+", family.name)
    assert family.name.endswith("_total") is (family.kind == "counter")
    assert family.kind != "histogram" or (family.name.endswith("_seconds") and family.buckets)
    assert list(family.buckets) == sorted(set(family.buckets))
    assert family.text.endswith(".")
    # What Prometheus adds to every series; ours would be renamed.
    assert not {"namespace", "job", "instance", "pod", "service", "container", "endpoint"} & set(family.labels)
    assert not {"task", "task_id", "name", "uid", "message", "path"} & set(family.labels)


def test_every_family_has_a_name_of_its_own() -> None:
    assert len({family.name.removesuffix("_total") for family in FAMILIES}) == len(FAMILIES)


def test_the_end_of_a_request_is_counted_with_its_tasks_and_timed(metrics: Metrics) -> None:
    tasks = [
        TaskStatus(task_id="task_1", state="Deleted"),
        TaskStatus(task_id="b", state="Refused", reason="TaskRunning"),
    ]
    metrics.present.note_store("ns", "default", StoreRow({}, 0.0))
    metrics.request_ended(
        "ns", build_spec(), build_status("PartiallyFailed", seconds=90), tasks, reason="TasksNotDeleted"
    )
    page = read(metrics)

    assert page.values(
        "taskdeletion_ended_requests_total",
        object_namespace="ns",
        phase="PartiallyFailed",
        reason="TasksNotDeleted",
        dry_run="false",
    ) == [1]
    assert page.total("taskdeletion_tasks_total", state="Refused", reason="TaskRunning") == 1
    assert page.total("taskdeletion_request_duration_seconds_sum") == 90
    assert page.values("taskdeletion_last_failure_timestamp_seconds", store="default") == [AT.timestamp() + 90]
    assert page.values("taskdeletion_last_success_timestamp_seconds") == []


def test_a_dry_run_is_no_success_of_the_store(metrics: Metrics) -> None:
    metrics.present.note_store("ns", "default", StoreRow({}, 0.0))
    metrics.request_ended("ns", build_spec(dryRun=True), build_status(), [], reason="DryRun")
    page = read(metrics)

    assert page.total("taskdeletion_ended_requests_total", dry_run="true") == 1
    assert page.values("taskdeletion_last_success_timestamp_seconds") == []


def test_a_request_that_was_deleted_while_live_is_cancelled_and_no_failure(metrics: Metrics) -> None:
    metrics.present.note_store("ns", "default", StoreRow({}, 0.0))
    metrics.request_ended("ns", build_spec(), build_status("Running"), [], reason="Cancelled", is_cancelled=True)
    page = read(metrics)

    assert page.total("taskdeletion_ended_requests_total", phase="Cancelled") == 1
    assert page.values("taskdeletion_last_failure_timestamp_seconds") == []


def test_what_ended_before_this_process_began_is_remembered_by_its_time_only(metrics: Metrics) -> None:
    metrics.present.note_store("ns", "default", StoreRow({}, 0.0))
    metrics.present.note_store("ns", "b", StoreRow({}, 0.0))
    stored = {"phase": "Succeeded", "completionTime": "2026-07-31T02:00:00Z"}
    metrics.recall_end("ns", {}, stored)
    metrics.recall_end("ns", {}, {**stored, "completionTime": "2026-07-30T02:00:00Z"})
    metrics.recall_end("ns", {"storeRef": {"name": "b"}}, {**stored, "phase": "Failed"})
    metrics.recall_end("ns", {"dryRun": True}, {**stored, "completionTime": "2026-08-31T02:00:00Z"})
    metrics.recall_end("ns", {}, {"phase": "Failed", "completionTime": "yesterday"})
    page = read(metrics)

    assert page.values("taskdeletion_last_success_timestamp_seconds", store="default") == [AT.timestamp()]
    assert page.values("taskdeletion_last_failure_timestamp_seconds", store="b") == [AT.timestamp()]
    assert page.values("taskdeletion_last_failure_timestamp_seconds", store="default") == []
    assert page.values("taskdeletion_ended_requests_total") == []


def test_only_attempts_that_began_something_are_counted(metrics: Metrics, clock: Clock) -> None:
    with metrics.attempt(lambda: False):
        clock.now += 5

    def fail() -> None:
        with metrics.attempt(lambda: True):
            clock.now += 7
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    page = read(metrics)

    assert page.total("taskdeletion_attempts_total") == 1
    assert page.total("taskdeletion_attempt_duration_seconds_sum") == 7


def test_a_resource_takes_until_its_last_result_and_records_count_from_when_they_began(
    metrics: Metrics, clock: Clock
) -> None:
    timed = metrics.round()
    objects = [StepResult(f"task_{number}", "MinIO", "Deleted") for number in range(2)]
    directory, rows = StepResult("task_0", "Directory", "Deleted"), StepResult("task_0", "DatabaseRecords", "Deleted")
    for seconds, seen in ((1, [objects[0]]), (2, [directory]), (4, [objects[1]])):
        clock.now += seconds
        timed.saw(seen)
    timed.restart()
    clock.now += 0.5
    timed.end([*objects, directory, rows])
    page = read(metrics)

    seconds_of = {
        labels["resource"]: value
        for name, labels, value in page.samples()
        if name == "taskdeletion_step_duration_seconds_sum"
    }
    assert seconds_of == {"MinIO": 7, "Directory": 3, "DatabaseRecords": 0.5}


@pytest.mark.parametrize(
    ("error", "kind"), [(KubeUnavailable("away"), "expected"), (KeyError("x"), "unforeseen")], ids=["away", "a mistake"]
)
def test_errors_are_counted_and_passed_on(metrics: Metrics, error: Exception, kind: str) -> None:
    with pytest.raises(type(error)), metrics.look("TaskStore", (KubeUnavailable,)):
        raise error
    page = read(metrics)

    assert page.values("taskdeletion_reconcile_errors_total", kind="TaskStore", error=kind) == [1]
    assert page.total("taskdeletion_reconcile_errors_total") == 1


def test_errors_can_be_seen_from_the_first_on(metrics: Metrics) -> None:
    """`increase` sees nothing of a series that begins with 1."""
    assert read(metrics).values("taskdeletion_reconcile_errors_total") == [0] * 6


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_reason_that_is_none_of_ours_becomes_one_label(metrics: Metrics) -> None:
    for number in range(100):
        task = TaskStatus(task_id="task_1", state="Failed", reason=f"Made{number}Up")
        metrics.request_ended("ns", build_spec(), build_status("Failed"), [task], reason=f"Made{number}Up")
    page = read(metrics)

    assert page.values("taskdeletion_tasks_total", reason="_other") == [100]
    assert page.values("taskdeletion_ended_requests_total") == [100]


def test_namespaces_beyond_the_limit_share_one_label(metrics: Metrics) -> None:
    names = [f"ns-{number}" for number in range(bounds.NAMESPACE_LIMIT + 5)]
    for name in [*names, names[0]]:
        metrics.results_found(name, [StepResult("task_1", "Directory", "Deleted", count=1)])
    page = read(metrics)

    assert len(page.values("taskdeletion_deleted_files_total")) == bounds.NAMESPACE_LIMIT + 1
    assert page.values("taskdeletion_deleted_files_total", object_namespace="_other") == [5]
    assert page.values("taskdeletion_deleted_files_total", object_namespace="ns-0") == [2]


def test_no_method_takes_a_task_id_or_a_message() -> None:
    methods = [method for _, method in inspect.getmembers(Metrics, inspect.isfunction)]
    parameters = {name for method in methods for name in inspect.signature(method).parameters}

    assert not parameters & {"task_id", "task_ids", "message", "path", "uid"}


def test_the_methods_of_requests_we_do_not_send_share_one_label(metrics: Metrics) -> None:
    metrics.api_request("BREW", None, 0.1)

    assert read(metrics).values("taskdeletion_api_requests_total", verb="other", code="none") == [1]


def test_two_processes_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.retry("Timeout")

    assert read(second).total("taskdeletion_retries_total") == 0


def test_no_series_tells_when_a_counter_was_made(metrics: Metrics) -> None:
    fill_metrics(metrics)

    assert not [name for name, _, _ in read(metrics).samples() if name.endswith("_created")]
