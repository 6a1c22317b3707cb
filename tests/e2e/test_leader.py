"""Two real operators beside a real API server: one works, the other takes over, whatever becomes of the first.

Every process logs in as somebody of its own, so that the audit log of the API server tells who did what.
"""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from dev.stack import Stack
from taskdeletion.kube.client import KubeRejected
from tests.support.kube import Kube, launcher_environment
from tests.support.process import OPERATOR, OperatorProcess
from tests.support.relay import relay_to
from tests.support.runs import count_files, siblings_of

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
LEASE = "task-deletion-operator"
#: What the issue allows for a hand-over without notice, and what is ours of it.
HAND_OVER_SECONDS = 15.0
#: 300 files at 20 ms: a purge lasts at least 6 s in one thread.
SLOW = ("tests.support.slowing", "20")
UNDYING = ("tests.support.undying", "20")
FILES = 300


@dataclass
class Replica:
    """One operator process, its user, and where its probes answer."""

    name: str
    user: str
    address: str
    operator: OperatorProcess

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has one."""
        return self.operator.process.poll()

    def send(self, number: signal.Signals) -> None:
        self.operator.process.send_signal(number)

    def ask(self, path: str) -> int:
        """The status with which a probe is answered; 0: not at all."""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_to_be_ready(self) -> None:
        wait_until(lambda: self.ask("/readyz") == 200, what=f"readiness of {self.name}")


@dataclass
class Cluster:
    """A namespace with its pipeline, one lease, and the replicas that stand for election."""

    kube: Kube
    pipeline: Pipeline
    folder: Path
    on_exit: ExitStack
    replicas: list[Replica] = field(default_factory=list)

    @property
    def stack(self) -> Stack:
        return self.pipeline.stack

    def start(self, name: str, *module: str, server: str | None = None) -> Replica:
        """Start a replica with an account of its own; `server`: the API server as it sees it."""
        namespace = self.pipeline.namespace
        self.kube.kubectl("create", "serviceaccount", name, "-n", namespace)
        account = f"--serviceaccount={namespace}:{name}"
        self.kube.kubectl("create", "rolebinding", name, "--clusterrole=cluster-admin", account, "-n", namespace)
        kubeconfig = self._write_kubeconfig(name, server)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        environment = launcher_environment(
            self.stack,
            KUBECONFIG=str(kubeconfig),
            TASKDELETION_NAMESPACES=namespace,
            TASKDELETION_HEALTH_ADDRESS=address,
            TASKDELETION_LEADER_ELECTION="true",
            TASKDELETION_LEASE_NAMESPACE=namespace,
        )
        operator = OperatorProcess(environment, self.folder / f"{name}.log", module or OPERATOR)
        self.on_exit.callback(operator.kill)
        replica = Replica(name, f"system:serviceaccount:{namespace}:{name}", address, operator)
        self.replicas.append(replica)
        return replica

    def _write_kubeconfig(self, name: str, server: str | None) -> Path:
        token = self.kube.kubectl("create", "token", name, "-n", self.pipeline.namespace).strip()
        path = self.stack.kubernetes.write_kubeconfig(self.folder / name, token=token)
        if server is not None:
            path.write_text(path.read_text().replace(self.stack.kubernetes.url, server))
        return path

    def start_pair(self, *module: str, server: str | None = None) -> tuple[Replica, Replica]:
        """A leader, run by `module`, and a standby that runs as ever and is ready."""
        leader = self.start("a", *module, server=server)
        wait_until(lambda: self.holder, what="the first leader")
        standby = self.start("b")
        standby.wait_to_be_ready()
        return leader, standby

    # --- the lease --------------------------------------------------------------------------------------------------
    def vacate(self) -> None:
        """A lease that nobody holds: the first replica need not wait for somebody who may hold it."""
        path = LEASES.format(self.pipeline.namespace)
        self.kube.create(path, {"metadata": {"name": LEASE}, "spec": {"holderIdentity": ""}})

    @property
    def lease(self) -> dict[str, Any]:
        try:
            body = self.kube.api.request("GET", LEASES.format(self.pipeline.namespace) + f"/{LEASE}").body
        except KubeRejected:
            return {}
        found: dict[str, Any] = body.get("spec", {})
        return found

    @property
    def holder(self) -> str:
        return str(self.lease.get("holderIdentity", ""))

    def wait_for_new_holder(self, before: str) -> None:
        def is_new() -> bool:
            return self.holder not in ("", before)

        wait_until(is_new, seconds=60, what="a new leader")

    # --- who did what -----------------------------------------------------------------------------------------------
    def requests(self) -> list[tuple[str, str, str]]:
        """User, verb and object of all requests to our kinds in this namespace, in the order they were answered."""
        assert self.stack.kubernetes.audit_log is not None
        events = map(json.loads, self.stack.kubernetes.audit_log.read_text().splitlines())
        mine = [event for event in events if event.get("objectRef", {}).get("namespace") == self.pipeline.namespace]
        return [(one["user"]["username"], one["verb"], one["objectRef"].get("name", "")) for one in mine]

    def writers_of(self, name: str) -> list[str]:
        """Who wrote to a TaskDeletion, one after the other: each replica that took over once."""
        users = {replica.user: replica.name for replica in self.replicas}
        writers = [users[user] for user, verb, found in self.requests() if verb == "patch" and found == name]
        return [writer for number, writer in enumerate(writers) if writers[number - 1 : number] != [writer]]

    def files_left(self, task_id: str) -> int:
        """The files of a task that are left under any of its names."""
        return count_files(self.pipeline.root / task_id) + sum(siblings_of(self.pipeline, task_id).values())

    def begin(self, name: str, *task_ids: str) -> None:
        """A request for tasks of `FILES` files each."""
        for task_id in task_ids:
            self.pipeline.add_task(task_id, files=FILES)
        self.kube.create_deletion(self.pipeline.namespace, name, taskIds=list(task_ids))

    def wait_for_purge(self, task_id: str) -> None:
        wait_until(lambda: 0 < self.files_left(task_id) < FILES, what=f"a part of {task_id} to go")


@pytest.fixture
def cluster(kube: Kube, pipeline: Pipeline, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as on_exit:
        found = Cluster(kube, pipeline, tmp_path, on_exit)
        found.vacate()
        yield found


def assert_finished(cluster: Cluster, name: str, *task_ids: str) -> dict[str, Any]:
    """Whoever ended it, everything is gone and nothing is said that is not so."""
    status = cluster.kube.wait_for_end(cluster.pipeline.namespace, name, seconds=90)
    assert status["phase"] == "Succeeded"
    assert all(cluster.pipeline.look(task_id).is_gone for task_id in task_ids)
    assert {task["state"] for task in status["tasks"]} == {"Deleted"}
    return status


def test_a_standby_is_ready_asks_for_nothing_but_the_lease_and_takes_no_work(cluster: Cluster) -> None:
    leader, standby = cluster.start_pair()
    leader.wait_to_be_ready()
    cluster.pipeline.add_task("task_1")
    cluster.kube.create_deletion(cluster.pipeline.namespace, "one", taskIds=["task_1"])
    assert_finished(cluster, "one", "task_1")

    assert [request for request in cluster.requests() if request[0] == standby.user] == []
    assert standby.ask("/readyz") == standby.ask("/healthz") == 200
    assert standby.operator.stop() == 0
    assert leader.ended is None


def test_a_killed_leader_is_replaced_within_fifteen_seconds_and_its_work_goes_on(cluster: Cluster) -> None:
    leader, _ = cluster.start_pair(*SLOW)
    cluster.begin("one", "task_1", "task_2")
    cluster.wait_for_purge("task_1")
    before = cluster.holder
    leader.operator.kill()
    killed_at = time.monotonic()
    cluster.wait_for_new_holder(before)
    taken_after = time.monotonic() - killed_at

    assert taken_after < HAND_OVER_SECONDS
    status = assert_finished(cluster, "one", "task_1", "task_2")
    assert status["attempts"] == 2
    assert cluster.writers_of("one") == ["a", "b"]


def test_a_leader_that_is_told_to_stop_hands_over_at_once_and_costs_no_attempt(cluster: Cluster) -> None:
    leader, _ = cluster.start_pair(*SLOW)
    cluster.begin("one", "task_1")
    cluster.wait_for_purge("task_1")
    before = cluster.holder
    assert leader.operator.stop() == 0
    stopped_at = time.monotonic()
    cluster.wait_for_new_holder(before)

    assert time.monotonic() - stopped_at < 5  # it looks once a second
    status = assert_finished(cluster, "one", "task_1")
    assert status["attempts"] == 1
    assert status["summary"]["filesDeleted"] == FILES
    assert cluster.writers_of("one") == ["a", "b"]


def test_a_leader_that_stands_still_is_dead_before_another_takes_over(cluster: Cluster) -> None:
    leader, _ = cluster.start_pair(*SLOW)
    cluster.begin("one", "task_1")
    cluster.wait_for_purge("task_1")
    before = cluster.holder
    leader.send(signal.SIGSTOP)
    cluster.wait_for_new_holder(before)

    assert leader.ended == -signal.SIGKILL
    assert_finished(cluster, "one", "task_1")
    assert cluster.writers_of("one") == ["a", "b"]


def take_over(cluster: Cluster, before: str) -> None:
    """Somebody who does nothing takes the lease, as soon as a standby would: what is done now, the old leader does."""
    seen, since = cluster.lease, time.monotonic()

    def is_silent() -> bool:
        nonlocal seen, since
        if (found := cluster.lease) != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since > float(found["leaseDurationSeconds"])

    wait_until(is_silent, seconds=60, what="the end of the lease")
    assert cluster.holder == before
    lease = json.dumps({"spec": {"holderIdentity": "idle", "leaseTransitions": 99}})
    cluster.kube.kubectl("patch", "lease", LEASE, "-n", cluster.pipeline.namespace, "--type=merge", "-p", lease)


def test_a_leader_that_stood_still_beyond_its_lease_and_wakes_up_begins_nothing(cluster: Cluster) -> None:
    """Without the timer of the kernel, so that it does wake up: at most the unlink that it was at is done."""
    leader = cluster.start("a", *UNDYING)
    wait_until(lambda: cluster.holder, what="the leader")
    cluster.begin("one", "task_1")
    cluster.wait_for_purge("task_1")
    leader.send(signal.SIGSTOP)
    take_over(cluster, cluster.holder)
    files = cluster.files_left("task_1")
    found = cluster.kube.read(cluster.pipeline.namespace, "one")
    rest = cluster.pipeline.look("task_1")
    leader.send(signal.SIGCONT)
    assert leader.operator.process.wait(30) == 1

    assert files > 1
    threads = 4  # that empty the two directories of the task, each at one file
    assert files - threads <= cluster.files_left("task_1") <= files
    assert cluster.kube.read(cluster.pipeline.namespace, "one") == found
    now = cluster.pipeline.look("task_1")
    assert (now.keys, now.objects) == (rest.keys, rest.objects)
    assert cluster.holder == "idle"


def test_a_leader_that_cannot_reach_the_api_server_ends_itself_before_another_takes_over(cluster: Cluster) -> None:
    host, _, port = cluster.stack.kubernetes.url.removeprefix("https://").partition(":")
    with relay_to(host, int(port)) as relay:
        leader, _ = cluster.start_pair(*SLOW, server=f"https://{host}:{relay.port}")
        cluster.begin("one", "task_1")
        cluster.wait_for_purge("task_1")
        before = cluster.holder
        relay.cut()
        cluster.wait_for_new_holder(before)

        assert leader.ended == 1
        assert_finished(cluster, "one", "task_1")
        assert cluster.writers_of("one") == ["a", "b"]


def test_a_lease_that_somebody_takes_by_hand_ends_the_leader(cluster: Cluster) -> None:
    leader = cluster.start("a")
    wait_until(lambda: cluster.holder, what="the leader")
    namespace = cluster.pipeline.namespace
    lease = json.dumps({"spec": {"holderIdentity": "somebody"}})
    cluster.kube.kubectl("patch", "lease", LEASE, "-n", namespace, "--type=merge", "-p", lease)

    assert leader.operator.process.wait(HAND_OVER_SECONDS) == 1
    assert cluster.holder == "somebody"


def test_no_request_is_worked_on_by_two_while_leaders_come_and_go(cluster: Cluster) -> None:
    """Three start at once; whoever leads is killed, stopped or frozen in the middle of several requests."""
    names = [f"request-{number}" for number in range(4)]
    replicas = [cluster.start(name, *SLOW) for name in ("a", "b", "c")]
    for number, name in enumerate(names):
        cluster.begin(name, f"task_{number}")
    leaders: list[str] = []
    ends: list[Callable[[Replica], object]] = [
        lambda leader: leader.operator.kill(),
        lambda leader: leader.send(signal.SIGSTOP),
    ]
    for end in ends:
        wait_until(lambda: cluster.holder not in ("", *leaders), seconds=60, what="a leader")
        leaders.append(cluster.holder)
        wait_until(lambda: working_replica(cluster), seconds=60, what="work")
        end(working_replica(cluster) or replicas[0])
    for number, name in enumerate(names):
        assert_finished(cluster, name, f"task_{number}")

    for name in names:
        writers = cluster.writers_of(name)
        assert len(writers) == len(set(writers)), f"{name} was written by {writers} in turn"
    assert len(leaders) == 2


def working_replica(cluster: Cluster) -> Replica | None:
    """The one that wrote last, while it is alive."""
    users = {replica.user: replica for replica in cluster.replicas if replica.ended is None}
    writers = [user for user, verb, _ in cluster.requests() if verb == "patch" and user in users]
    return users[writers[-1]] if writers else None
