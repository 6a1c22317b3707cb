"""What stands in the way of a purge, and what fails in the middle of one, in front of two real S3 servers."""

import socket
import threading

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import SUSPENDED, VersioningConfig

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.objects import BATCH_SIZE, Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from tests.support.s3 import BODY, Guard, Store, purge, summary
from tests.support.s3_faults import LOSE, Reply, Request, error_reply, faults_in_front_of

pytest_plugins = ("tests.support.s3_fixtures",)


def assert_refused(backend: Objects, kind: str, reason: str) -> StepResult:
    """The three ways in agree on what is in the way."""
    result = purge(backend)
    assert (result.outcome, result.kind, result.reason, result.count) == ("Failed", kind, reason, 0)
    with pytest.raises(Fault) as caught:
        backend.has_rest("task_1")
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    problem = backend.probe()
    assert problem is not None
    assert problem.reason == reason
    return result


@pytest.mark.parametrize("versioning", [None, ENABLED, SUSPENDED], ids=["plain", "versioned", "suspended"])
def test_a_healthy_server_passes_the_probe_which_leaves_no_trace(store: Store, versioning: str | None) -> None:
    if versioning:
        store.client.set_bucket_versioning(store.bucket, VersioningConfig(versioning))
    store.fill("tasks/task_1/a")
    assert store.open().probe() is None
    assert store.versions() == [("tasks/task_1/a", False)]


def test_a_stopped_server_is_unavailable_and_works_again_once_it_is_back(on_minio: Store, stack: Stack) -> None:
    store = on_minio
    store.fill("tasks/task_1/a")
    backend = store.open()
    assert backend.probe() is None
    stack.stop_service("minio")
    try:
        result = assert_refused(backend, "waiting", reasons.UNAVAILABLE)
        assert stack.minio.secret_key not in result.message
    finally:
        stack.start_service("minio")
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


def test_a_server_that_goes_away_mid_way_leaves_counts_marked_uncertain(on_minio: Store, stack: Stack) -> None:
    store = on_minio
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(3 * BATCH_SIZE)))
    guard = Guard(act=lambda question: stack.stop_service("minio") if question == 2 else None)
    try:
        result = purge(store.open(threads=1), guard=guard)
    finally:
        stack.start_service("minio")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "waiting", reasons.UNAVAILABLE)
    assert result.count == BATCH_SIZE
    assert result.at_least


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid:9000"])
def test_an_unreachable_endpoint_is_unavailable(store: Store, endpoint: str) -> None:
    backend = store.open(connection=store.connect_as(endpoint=endpoint), timeout_seconds=2)
    assert_refused(backend, "waiting", reasons.UNAVAILABLE)


def test_a_server_that_never_answers_is_a_timeout(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = store.connect_as(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_refused(store.open(connection=connection, timeout_seconds=0.2), "retriable", reasons.TIMEOUT)


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_keys_are_an_authentication_failure(store: Store, wrong: str) -> None:
    backend = store.open(connection=store.connect_as(**{wrong: "wrong-but-long"}))
    result = assert_refused(backend, "waiting", reasons.AUTHENTICATION_FAILED)
    assert "wrong-but-long" not in result.message


def test_a_bucket_that_is_not_there_is_named_as_missing(store: Store) -> None:
    assert_refused(store.open(bucket="no-such-bucket"), "waiting", reasons.BUCKET_MISSING)


def test_tls_to_a_server_that_speaks_plainly_fails(store: Store) -> None:
    endpoint = store.connection.endpoint.replace("http://", "https://")
    assert_refused(store.open(connection=store.connect_as(endpoint=endpoint)), "waiting", reasons.TLS_FAILED)


# --- in the middle ------------------------------------------------------------------------------------------------


class Batches:
    """A rule for the proxy: from the nth batch on (and only until `last`), this instead of the server's answer."""

    def __init__(self, verdict: Reply | str, *, first: int = 1, last: int | None = None) -> None:
        self.verdict, self.first, self.last = verdict, first, last
        self.seen = 0
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply | str | None:
        if not request.is_batch:
            return None
        with self.lock:
            self.seen += 1
            is_meant = self.first <= self.seen and (self.last is None or self.seen <= self.last)
        return self.verdict if is_meant else None


SLOW_DOWN = error_reply(503, "SlowDown")


def test_a_batch_that_is_refused_once_with_503_is_sent_again(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(600)))
    rule = Batches(SLOW_DOWN, first=2, last=2)
    with faults_in_front_of(store.connection.endpoint, rule) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert summary(result) == ("Deleted", "", 600, 600 * len(BODY))
    assert rule.seen == 4
    assert store.left() == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(SLOW_DOWN, reasons.SERVER_ERROR, id="503"),
        pytest.param(error_reply(200, "InternalError"), reasons.SERVER_ERROR, id="an-error-with-200"),
        pytest.param(error_reply(200, "AccessDenied"), reasons.PERMISSION_DENIED, id="denied-with-200"),
        pytest.param(Reply(200, b"<html>"), reasons.SERVER_ERROR, id="no-xml"),
        pytest.param(Reply(200, b"<html/>"), reasons.SERVER_ERROR, id="other-xml"),
        pytest.param(Reply(502, b"bad gateway"), reasons.SERVER_ERROR, id="502"),
    ],
)
def test_a_server_that_fails_mid_way_leaves_exact_counts_of_what_it_confirmed(
    store: Store, reply: Reply, reason: str
) -> None:
    total = 3 * BATCH_SIZE
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(total)))
    with faults_in_front_of(store.connection.endpoint, Batches(reply, first=2)) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint), threads=1))
    assert summary(result) == ("Failed", reason, BATCH_SIZE, BATCH_SIZE * len(BODY))
    assert result.at_least
    assert len(store.left()) == total - BATCH_SIZE
    assert purge(store.open()).count == total - BATCH_SIZE


def test_a_batch_whose_answer_is_lost_is_sent_again_and_counted_once(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(600)))
    with faults_in_front_of(store.connection.endpoint, Batches(LOSE, last=1)) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert summary(result) == ("Deleted", "", 600, 600 * len(BODY))
    assert store.left() == []


def test_answers_that_are_always_lost_make_the_counts_uncertain(store: Store) -> None:
    store.fill("tasks/task_1/a")
    with faults_in_front_of(store.connection.endpoint, Batches(LOSE)) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert (result.outcome, result.kind, result.reason) == ("Failed", "waiting", reasons.UNAVAILABLE)
    assert (result.count, result.at_least) == (0, True)
    assert store.left() == []
    assert purge(store.open()).outcome == "Skipped"


def test_errors_of_single_objects_in_an_answer_of_200_are_not_counted(store: Store) -> None:
    """The two that the answer names are taken for not deleted; a pass that finds nothing more does not hide them."""
    store.fill("tasks/task_1/a", "tasks/task_1/b", "tasks/task_1/c")
    errors = "".join(
        f"<Error><Key>tasks/task_1/{name}</Key><Code>InternalError</Code><Message>for a test</Message></Error>"
        for name in "ab"
    )
    rule = Batches(Reply(200, f"<DeleteResult>{errors}</DeleteResult>".encode()), last=1)
    with faults_in_front_of(store.connection.endpoint, rule) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert (result.outcome, result.kind, result.reason) == ("Failed", "retriable", reasons.SERVER_ERROR)
    assert (result.count, result.bytes) == (1, len(BODY))


def test_an_error_about_an_object_that_nobody_asked_for_makes_the_batch_uncertain(store: Store) -> None:
    store.fill("tasks/task_1/a", "tasks/task_1/b")
    error = "<Error><Key>tasks/task_2/x</Key><Code>InternalError</Code></Error>"
    rule = Batches(Reply(200, f"<DeleteResult>{error}</DeleteResult>".encode()), last=1)
    with faults_in_front_of(store.connection.endpoint, rule) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert summary(result) == ("Failed", reasons.SERVER_ERROR, 0, 0)
    assert result.at_least


def test_a_listing_that_breaks_off_mid_way_is_never_taken_for_its_end(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(1100)))

    def second_page_fails(request: Request) -> Reply | None:
        is_second = request.method == "GET" and "continuation-token" in request.path
        return error_reply(500, "InternalError") if is_second else None

    with faults_in_front_of(store.connection.endpoint, second_page_fails) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert summary(result) == ("Failed", reasons.SERVER_ERROR, 1000, 1000 * len(BODY))
    assert len(store.left()) == 100


def test_a_listing_that_goes_round_in_circles_ends(store: Store) -> None:
    store.fill("tasks/task_1/a")
    page = b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"

    def same_page(request: Request) -> Reply | None:
        return Reply(200, page + b"</ListBucketResult>") if "list-type=2" in request.path else None

    with faults_in_front_of(store.connection.endpoint, same_page) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert (result.outcome, result.kind, result.reason) == ("Failed", "retriable", reasons.SERVER_ERROR)
    assert store.left() == ["tasks/task_1/a"]


def test_objects_listed_outside_the_prefix_are_left_alone(store: Store) -> None:
    store.fill("tasks/task_2/a")
    page = b"<ListBucketResult><Contents><Key>tasks/task_2/a</Key><Size>5</Size></Contents></ListBucketResult>"

    def wrong_page(request: Request) -> Reply | None:
        return Reply(200, page) if "list-type=2" in request.path else None

    with faults_in_front_of(store.connection.endpoint, wrong_page) as endpoint:
        result = purge(store.open(connection=store.connect_as(endpoint=endpoint)))
    assert summary(result) == ("Failed", reasons.SERVER_ERROR, 0, 0)
    assert store.left() == ["tasks/task_2/a"]
