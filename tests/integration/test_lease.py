"""The Lease of the operator on a real API server: of two that write, one wins; what is written is what others read."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.domain.election import Lease, LeaseChanged, LeaseUnknown
from taskdeletion.kube.client import connect
from taskdeletion.kube.lease import LeaseObject
from tests.support.kube import Kube

NAME = "operator"
Join = Callable[..., LeaseObject]


@pytest.fixture
def join(kube: Kube, pipeline: Pipeline) -> Join:
    """A process that knows the lease of this test's namespace."""

    def build(identity: str, namespace: str | None = None) -> LeaseObject:
        return LeaseObject(kube.api, namespace or pipeline.namespace, NAME, identity, seconds=10)

    return build


def test_what_one_creates_the_other_sees_and_only_one_creates_it(join: Join) -> None:
    first, second = join("a"), join("b")
    assert first.read() is None
    created = first.claim(None)

    assert second.read() == created
    assert (created.holder, created.seconds, created.transitions) == ("a", 10, 0)
    with pytest.raises(LeaseChanged):
        second.claim(None)


def test_a_renewal_is_a_sign_of_life_and_changes_nothing_else(join: Join) -> None:
    created = join("a").claim(None)
    renewed = join("a").renew(created)

    assert renewed.sign_of_life != created.sign_of_life
    assert (renewed.holder, renewed.transitions) == ("a", 0)


def test_of_two_that_claim_what_both_have_seen_one_wins(join: Join) -> None:
    first, second = join("a"), join("b")
    created = join("old").claim(None)
    won = first.claim(created)

    assert (won.holder, won.transitions) == ("a", 1)
    with pytest.raises(LeaseChanged):
        second.claim(created)
    assert first.read() == won


def test_who_was_replaced_can_neither_renew_nor_give_back(join: Join) -> None:
    old, new = join("a"), join("b")
    created = old.claim(None)
    won = new.claim(created)
    for write in (old.renew, old.release):
        with pytest.raises(LeaseChanged):
            write(created)

    assert new.read() == won


def test_what_is_given_back_has_no_holder(join: Join) -> None:
    created = join("a").claim(None)
    join("a").release(created)
    left = join("b").read()

    assert left is not None
    assert left.holder == ""
    assert join("b").claim(left).holder == "b"


def test_a_lease_that_was_deleted_can_be_written_by_nobody(kube: Kube, pipeline: Pipeline, join: Join) -> None:
    created = join("a").claim(None)
    kube.kubectl("delete", "lease", NAME, "-n", pipeline.namespace)

    with pytest.raises(LeaseChanged):
        join("a").renew(created)
    assert join("a").read() is None


def test_labels_of_others_stay(kube: Kube, pipeline: Pipeline, join: Join) -> None:
    join("a").claim(None)
    kube.kubectl("label", "lease", NAME, "team=data", "-n", pipeline.namespace)
    labelled = join("a").read()
    assert labelled is not None
    join("a").renew(labelled)
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pipeline.namespace}/leases/{NAME}"

    assert kube.api.request("GET", path).body["metadata"]["labels"] == {"team": "data"}


def test_a_lease_that_says_nothing_has_no_holder(kube: Kube, pipeline: Pipeline, join: Join) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pipeline.namespace}/leases"
    kube.create(path, {"metadata": {"name": NAME}})
    found = join("a").read()

    assert found is not None
    assert (found.holder, found.beat, found.seconds, found.transitions) == ("", "", 0, 0)


def test_a_namespace_that_is_not_there_is_said(join: Join) -> None:
    with pytest.raises(LeaseUnknown, match="nowhere"):
        join("a", namespace="nowhere").claim(None)


def test_a_right_that_is_missing_is_said(
    kube: Kube, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.kubectl("create", "serviceaccount", "nobody", "-n", pipeline.namespace)
    token = kube.kubectl("create", "token", "nobody", "-n", pipeline.namespace).strip()
    kubeconfig = kube.stack.kubernetes.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    monkeypatch.setitem(os.environ, "KUBECONFIG", str(kubeconfig))
    api = connect(pool_size=1)
    try:
        with pytest.raises(LeaseUnknown, match="leases"):
            LeaseObject(api, pipeline.namespace, NAME, "a", seconds=10).read()
    finally:
        api.close()


def test_of_many_that_claim_at_once_one_wins(join: Join) -> None:
    seen = join("old").claim(None)
    outcomes: list[Any] = []
    start = threading.Barrier(8)

    def claim(number: int) -> None:
        start.wait()
        try:
            outcomes.append(join(f"p{number}").claim(seen))
        except LeaseChanged as error:
            outcomes.append(error)

    threads = [threading.Thread(target=claim, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(outcomes) == len(threads), what="all claims")

    assert sum(isinstance(outcome, Lease) for outcome in outcomes) == 1
