"""How requests, Events and status writes fare when the API server misbehaves: a real one does not do so on demand."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from taskdeletion.kube import client
from taskdeletion.kube.client import Api, KubeForbidden, KubeRejected, KubeUnavailable, connect, quoted
from taskdeletion.kube.events import Event, EventPoster
from taskdeletion.kube.objects import Cluster, Key, LiveObject, ObjectGone, SpecChanged, StatusConflict

PATIENCE_SECONDS = 10
DATE = "Wed, 02 Jul 2025 21:45:30 GMT"
OK = {"kind": "Thing"}
KEY = Key("TaskDeletion", "n", "a")
INVOLVED = {"kind": "TaskDeletion", "namespace": "n", "name": "a", "uid": "u"}

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | None
Play = Callable[..., "Server"]


class Server(ThreadingHTTPServer):
    """Gives the replies of a script, one per request: (status, body[, headers]), or None to hang up."""

    daemon_threads = True

    def __init__(self, replies: tuple[Reply, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = list(replies)
        self.requests: list[tuple[str, str, Any]] = []
        self.logins: list[str | None] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.requests.append((self.command, self.path, body))
        self.server.logins.append(self.headers.get("Authorization"))
        self.server.may_answer.wait(PATIENCE_SECONDS)
        reply = self.server.replies.pop(0)
        if reply is None:
            return
        content = reply[1] if isinstance(reply[1], bytes) else json.dumps(reply[1]).encode()
        headers = {"Date": DATE, **(reply[2] if len(reply) == 3 else {})}
        self.send_response_only(reply[0])
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server looks for these names

    def log_message(self, *args: Any) -> None:
        """Nothing: the test reads `requests`."""


@pytest.fixture
def play() -> Iterator[Play]:
    servers: list[Server] = []

    def start(*replies: Reply) -> Server:
        server = Server(replies)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.may_answer.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Api]]:
    apis: list[Api] = []

    def start(url: str) -> Api:
        kubeconfig = tmp_path / f"kubeconfig-{len(apis)}"
        kubeconfig.write_text(json.dumps(build_kubeconfig(url)))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        apis.append(connect(pool_size=4))
        return apis[-1]

    yield start
    for api in apis:
        api.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays between attempts, which are not waited for."""
    seconds: list[float] = []
    monkeypatch.setattr(client, "sleep", seconds.append)
    return seconds


def build_kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def refusal(code: int, reason: str = "", message: str = "no") -> Reply:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


def build_object(version: str = "7", *, uid: str = "u", generation: int = 1, **status: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "n",
        "name": "a",
        "uid": uid,
        "resourceVersion": version,
        "generation": generation,
        "creationTimestamp": "2025-07-01T00:00:00Z",
    }
    return {"metadata": metadata, "spec": {}, "status": status}


def read_object(log_in: Callable[[str], Api], server: Server) -> tuple[Cluster, LiveObject]:
    cluster = Cluster(log_in(server.url))
    live = cluster.read(KEY)
    assert live is not None
    return cluster, live


def test_an_answer_carries_the_servers_clock(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play((200, OK))
    answer = log_in(server.url).request("GET", "/x", query={"limit": 2, "continue": "a/b="})

    assert answer.body == OK
    assert answer.server_time == datetime(2025, 7, 2, 21, 45, 30, tzinfo=UTC)
    assert server.requests == [("GET", "/x?limit=2&continue=a%2Fb%3D", None)]


@pytest.mark.parametrize(
    "trouble",
    [None, refusal(429), refusal(500), (502, b"<html>"), refusal(503), (504, b""), (200, b"{"), (200, []),
     (200, OK, {"Date": ""})],
    ids=["hung up", "429", "500", "502", "503", "504", "half an answer", "no object", "no date"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(
    play: Play, log_in: Callable[[str], Api], waits: list[float], trouble: Reply
) -> None:
    server = play(trouble, trouble, (200, OK))

    assert log_in(server.url).request("PATCH", "/x", body={"a": 1}).body == OK
    assert server.requests == [("PATCH", "/x", {"a": 1})] * 3
    assert 0.1 <= waits[0] <= 0.2 <= waits[1] <= 0.4


def test_an_outage_is_reported_after_a_few_attempts(
    play: Play, log_in: Callable[[str], Api], waits: list[float]
) -> None:
    server = play(*[refusal(503, message="etcd is down")] * 4)

    with pytest.raises(KubeUnavailable, match="GET /x: the API server answered 503: etcd is down"):
        log_in(server.url).request("GET", "/x")
    assert len(waits) == 3


class Asked:
    """A leadership that notes when it was asked: behind how many requests."""

    def __init__(self, requests: list[tuple[str, str, Any]]) -> None:
        self.behind: list[int] = []
        self._requests = requests

    def require(self) -> bool:
        self.behind.append(len(self._requests))
        return False


@pytest.mark.parametrize(("method", "asked"), [("GET", []), ("POST", [0, 1]), ("PATCH", [0, 1]), ("DELETE", [0, 1])])
def test_every_attempt_to_change_something_asks_whether_this_process_leads(
    play: Play, log_in: Callable[[str], Api], waits: list[float], method: str, asked: list[int]
) -> None:
    server = play(refusal(503), (200, OK))
    leadership = Asked(server.requests)
    log_in(server.url)
    with closing(connect(pool_size=1, leadership=leadership)) as api:
        assert api.request(method, "/x").body == OK

    assert leadership.behind == asked


def test_who_is_in_a_hurry_waits_no_longer_than_it_said(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play((200, OK))
    server.may_answer.clear()
    log_in(server.url)
    begun = time.monotonic()
    with closing(connect(pool_size=1, timeout_seconds=0.2)) as api, pytest.raises(KubeUnavailable):
        api.request("GET", "/x", attempts=1)

    assert time.monotonic() - begun < PATIENCE_SECONDS / 2


def test_an_unreachable_server_is_unavailable(play: Play, log_in: Callable[[str], Api], waits: list[float]) -> None:
    server = play()
    server.shutdown()
    server.server_close()

    with pytest.raises(KubeUnavailable, match=r"cannot reach the API server: .*refused"):
        log_in(server.url).request("GET", "/x")
    assert len(waits) == 3


def test_no_attempt_begins_after_the_budget(
    play: Play, log_in: Callable[[str], Api], waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_BUDGET_SECONDS", 0)
    server = play(refusal(503))

    with pytest.raises(KubeUnavailable):
        log_in(server.url).request("GET", "/x")
    assert waits == []


def test_the_server_says_how_long_to_wait(play: Play, log_in: Callable[[str], Api], waits: list[float]) -> None:
    server = play((429, {}, {"Retry-After": "2"}), (429, {}, {"Retry-After": "never"}), (200, OK))
    log_in(server.url).request("GET", "/x")

    assert waits[0] == 2
    assert waits[1] < 1


def test_a_long_wait_is_left_to_the_caller(play: Play, log_in: Callable[[str], Api], waits: list[float]) -> None:
    server = play((503, {}, {"Retry-After": "60"}))

    with pytest.raises(KubeUnavailable):
        log_in(server.url).request("GET", "/x")
    assert waits == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_right_is_reported_with_the_servers_words(
    play: Play, log_in: Callable[[str], Api], status: int
) -> None:
    server = play(refusal(status, "Forbidden", "system:serviceaccount:a:b cannot get"))

    with pytest.raises(KubeForbidden, match="cannot get") as found:
        log_in(server.url).request("GET", "/x")
    assert found.value.status == status


def test_a_kind_that_is_not_served_is_unavailable_not_a_missing_object(
    play: Play, log_in: Callable[[str], Api]
) -> None:
    server = play((404, b"404 page not found\n", {"Content-Type": "text/plain"}))

    with pytest.raises(KubeUnavailable, match="CRDs"):
        Cluster(log_in(server.url)).read(KEY)


def test_a_missing_object_is_none(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play(refusal(404, "NotFound"))

    assert Cluster(log_in(server.url)).read(KEY) is None


def test_other_refusals_are_passed_on(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play(refusal(422, "Invalid", "status.phase: Unsupported value"))

    with pytest.raises(KubeRejected, match=r"422 Invalid: status\.phase"):
        log_in(server.url).request("PATCH", "/x")


def test_a_rotated_token_is_read_again_and_not_for_every_request(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    server, tokens, now = play(*[(200, OK)] * 4), iter(("first", "second")), 1000.0
    configuration = Configuration(host=server.url, api_key={"BearerToken": "none yet"})

    def read_token(found: Configuration) -> None:
        found.api_key["BearerToken"] = f"Bearer {next(tokens)}"

    configuration.refresh_api_key_hook = read_token  # type: ignore[assignment]  # declared as None by the library
    monkeypatch.setattr(client, "monotonic", lambda: now)

    with closing(Api(ApiClient(configuration))) as api:
        for elapsed in (0.0, 0.9, 1.1, 1.5):
            now = 1000.0 + elapsed
            api.request("GET", "/x")

    assert server.logins == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


def test_text_is_sent_as_it_is(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play((200, OK))
    log_in(server.url).request(
        "PATCH", "/x", body={"é日😀": ['"<&>\u2028', None, 1.5]}, content_type=client.MERGE_PATCH
    )

    assert server.requests == [("PATCH", "/x", {"é日😀": ['"<&>\u2028', None, 1.5]})]


def test_no_login_at_all_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))

    with pytest.raises(KubeForbidden, match="set KUBECONFIG"):
        connect(pool_size=1)


def test_a_name_cannot_reach_another_path() -> None:
    assert quoted("api", "v1", "../../x", "a?b#c") == "/api/v1/..%2F..%2Fx/a%3Fb%23c"


def test_a_status_write_whose_reply_was_lost_is_recognised(
    play: Play, log_in: Callable[[str], Api], waits: list[float]
) -> None:
    server = play((200, build_object()), None, refusal(409, "Conflict"), (200, build_object("8", phase="Running")))
    cluster, live = read_object(log_in, server)

    written = cluster.write_status(live, {"phase": "Running"})

    assert (written.resource_version, written.status) == ("8", {"phase": "Running"})


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (build_object("8"), SpecChanged),
        (build_object("8", generation=2, phase="Running"), SpecChanged),
        (build_object("8", phase="Failed"), StatusConflict),
        (build_object("8", uid="other"), ObjectGone),
    ],
    ids=["only the spec changed", "written, then the spec changed", "another writer", "a namesake"],
)
def test_a_refused_status_write_is_explained(
    play: Play, log_in: Callable[[str], Api], now: dict[str, Any], expected: type[Exception]
) -> None:
    server = play((200, build_object()), refusal(409, "Conflict"), (200, now))
    cluster, live = read_object(log_in, server)

    with pytest.raises(expected):
        cluster.write_status(live, {"phase": "Running"})


def test_a_list_that_expires_is_begun_anew(play: Play, log_in: Callable[[str], Api]) -> None:
    first = {"metadata": {"continue": "t"}, "items": [build_object()]}
    second = {"metadata": {}, "items": [build_object("8", uid="v")]}
    server = play((200, first), refusal(410, "Expired"), (200, first), (200, second))

    found = Cluster(log_in(server.url)).list_objects("TaskDeletion", page_size=1)

    assert [live.uid for live in found] == ["u", "v"]
    assert [path.partition("?")[2] for _, path, _ in server.requests] == ["limit=1", "limit=1&continue=t"] * 2


def test_a_list_begun_anew_forgets_what_is_gone_since(play: Play, log_in: Callable[[str], Api]) -> None:
    first = {"metadata": {"continue": "t"}, "items": [build_object()]}
    second = {"metadata": {}, "items": [build_object("8", uid="v")]}
    server = play((200, first), refusal(410, "Expired"), (200, second))

    assert [live.uid for live in Cluster(log_in(server.url)).list_objects("TaskDeletion")] == ["v"]


def test_a_visit_sees_every_object_even_when_its_list_expires(play: Play, log_in: Callable[[str], Api]) -> None:
    first = {"metadata": {"continue": "t"}, "items": [build_object()]}
    second = {"metadata": {}, "items": [build_object("8", uid="v")]}
    server = play((200, first), refusal(410, "Expired"), (200, first), (200, second))
    seen: list[str] = []
    Cluster(log_in(server.url)).visit("TaskDeletion", lambda live: seen.append(live.uid), page_size=1)

    assert seen == ["u", "u", "v"]


def test_a_list_that_always_expires_is_an_outage(play: Play, log_in: Callable[[str], Api]) -> None:
    server = play(*[refusal(410, "Expired")] * 3)

    with pytest.raises(KubeUnavailable, match="expired 3 times"):
        Cluster(log_in(server.url)).list_objects("TaskDeletion")


def test_the_configured_namespaces_are_listed_one_by_one(play: Play, log_in: Callable[[str], Api]) -> None:
    empty: dict[str, Any] = {"metadata": {}, "items": []}
    server = play((200, empty), (200, empty), (200, empty))
    cluster = Cluster(log_in(server.url), ["a", "b"])
    cluster.list_objects("TaskStore")
    cluster.list_objects("TaskStore", "c")

    prefix = "/apis/datapipeline.dev/v1beta1/namespaces"
    assert [path.partition("?")[0] for _, path, _ in server.requests] == [f"{prefix}/{n}/taskstores" for n in "abc"]


def test_a_lost_event_is_logged_and_the_next_one_is_posted(
    play: Play, log_in: Callable[[str], Api], waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server = play(refusal(403, message="being terminated"), refusal(503), refusal(503), (201, OK))
    poster = EventPoster(log_in(server.url))
    for reason in ("First", "Second", "Third"):
        poster.post(Event(INVOLVED, "Normal", reason, "text"))

    assert poster.flush(PATIENCE_SECONDS)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Event First lost",
        "Event Second lost",
    ]
    assert server.requests[-1][2]["reason"] == "Third"


def test_an_event_posted_twice_is_one_event(
    play: Play, log_in: Callable[[str], Api], waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server = play(None, refusal(409, "AlreadyExists"))
    poster = EventPoster(log_in(server.url))
    poster.post(Event(INVOLVED, "Normal", "Once", "text"))

    assert poster.flush(PATIENCE_SECONDS)
    assert server.requests[0] == server.requests[1]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_posting_never_waits_and_what_is_too_much_is_dropped(
    play: Play, log_in: Callable[[str], Api], caplog: pytest.LogCaptureFixture
) -> None:
    server = play(*[(201, OK)] * 3)
    server.may_answer.clear()
    with closing(log_in(server.url)) as api:
        poster = EventPoster(api, queue_limit=2)
        for number in range(10):
            poster.post(Event(INVOLVED, "Warning", f"E{number}", "text"))

        assert poster.flush(0.01) is False
        dropped = [record for record in caplog.records if "dropped" in record.getMessage()]
        assert len(dropped) in {7, 8}  # one may be on its way already
        server.may_answer.set()
        assert poster.flush(PATIENCE_SECONDS)
        assert len(server.requests) == 10 - len(dropped)


def test_whoever_watches_is_told_of_every_attempt_with_its_status_and_time(
    play: Play, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = play(refusal(503), None, (200, OK), refusal(404, "NotFound"))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(build_kubeconfig(server.url)))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    told: list[tuple[str, int | None, float]] = []
    with closing(connect(pool_size=1, watcher=lambda *attempt: told.append(attempt))) as api:
        api.request("PATCH", "/x", body={})
        with pytest.raises(KubeRejected):
            api.request("GET", "/x")

    assert [(method, status) for method, status, _ in told] == [
        ("PATCH", 503),
        ("PATCH", None),
        ("PATCH", 200),
        ("GET", 404),
    ]
    assert all(0 <= seconds < PATIENCE_SECONDS for _, _, seconds in told)
