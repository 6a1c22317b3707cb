"""Services start once per session; every test gets a namespace, database, bucket and folder of its own."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from dev.pipeline import Pipeline
from dev.stack import Stack, start_stack
from dev.state_pipeline import StatePipeline
from tests.support.kube import Kube, operator_environment
from tests.support.process import OperatorProcess, running_operator

_NUMBERS = itertools.count(1)
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The real services, for the whole session; with TASKDELETION_DEV_STATE those of a stack that runs already."""
    if state := os.environ.get("TASKDELETION_DEV_STATE"):
        yield Stack.attach(Path(state))
        return
    with start_stack() as started:
        yield started


@pytest.fixture(scope="session")
def kube(stack: Stack) -> Kube:
    """The admin's hands on the API server, with the CRDs installed."""
    found = Kube(stack)
    found.install_crds()
    return found


@pytest.fixture
def pipeline(stack: Stack, kube: Kube) -> Pipeline:
    """A fresh pipeline: namespace, database, bucket, folder, Secrets and a TaskStore named default."""
    return new_pipeline(stack, kube, Pipeline)


@pytest.fixture
def state_pipeline(stack: Stack, kube: Kube) -> StatePipeline:
    """A fresh pipeline of the other kind: its tasks live in Redis."""
    return new_pipeline(stack, kube, StatePipeline)


def new_pipeline(stack: Stack, kube: Kube, kind: type[AnyPipeline]) -> AnyPipeline:
    """One more pipeline beside others."""
    found = kind(stack, f"t{os.getpid()}-{next(_NUMBERS)}")
    kube.create_namespace(found.namespace)
    found.create()
    kube.apply(found.manifests())
    return found


@pytest.fixture(scope="module")
def operator(stack: Stack, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One operator process for the tests of a module. Modules that kill start their own instead."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with running_operator(operator_environment(stack), log) as process:
        yield process
