"""Services start once per session; every test gets a namespace, database, bucket and folder of its own."""

import itertools
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from dev.pipeline import Pipeline
from dev.processes import StackError
from dev.stack import Stack, start_stack
from dev.state_pipeline import StatePipeline
from tests.support.kube import Kube, operator_environment
from tests.support.process import OperatorProcess, running_operator

_NUMBERS = itertools.count(1)
_STACK = pytest.StashKey[Stack]()
AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Iterator[Stack]:
    """The real services, for the whole session; with TASKDELETION_DEV_STATE those of a stack that runs already."""
    state = os.environ.get("TASKDELETION_DEV_STATE")
    with ExitStack() as on_exit:
        try:
            found = Stack.attach(Path(state)) if state else on_exit.enter_context(start_stack())
        except StackError as error:
            pytest.exit(f"there is no development stack to test with: {error}", pytest.ExitCode.INTERRUPTED)
        pytestconfig.stash[_STACK] = found
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End the session behind a test that failed because the stack is gone: all that come would fail, too."""
    report = yield
    stack = item.config.stash.get(_STACK, None)
    if report.failed and stack is not None and not stack.processes.answers():
        item.session.shouldstop = (
            f"the development stack in {stack.state_dir} has ended while tests ran (its supervisor is gone, killed or"
            " stopped by somebody): no further test can pass. Run the tests again"
        )
    return report


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
