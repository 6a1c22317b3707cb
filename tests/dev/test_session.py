"""A test session whose stack has gone, or that has none to begin with, ends at once and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.stack import start_stack

ROOT = Path(__file__).parents[2]
TESTS = """
import redis


def test_with_the_stack(stack):
    assert redis.Redis.from_url(stack.redis.url).ping()


def test_failing_while_the_stack_runs():
    raise AssertionError


def test_that_loses_the_stack(stack):
    url = stack.redis.url
    stack.shutdown()
    redis.Redis.from_url(url).ping()


def test_behind():
    pass
"""


def run_session(directory: Path, state_dir: Path) -> subprocess.CompletedProcess[str]:
    """A session of its own, with our fixtures and the stack in `state_dir`."""
    module = directory / "test_module.py"
    module.write_text(TESTS)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(directory), "-q", str(module)]
    environment = {"TASKDELETION_DEV_STATE": str(state_dir), "PYTHONPATH": f"{ROOT}:{ROOT}/operator"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        env=os.environ | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_session_ends_behind_the_first_test_that_lost_the_stack(tmp_path: Path) -> None:
    with start_stack(tmp_path / "stack", services=("redis",)) as stack:
        session = run_session(tmp_path, stack.state_dir)

    assert session.returncode == pytest.ExitCode.INTERRUPTED
    assert "2 failed, 1 passed" in session.stdout
    assert f"the development stack in {stack.state_dir} has ended while tests ran" in session.stdout


def test_a_session_without_a_stack_ends_before_its_first_test(tmp_path: Path) -> None:
    session = run_session(tmp_path, tmp_path / "nothing")

    assert session.returncode == pytest.ExitCode.INTERRUPTED
    assert "no tests ran" in session.stdout
    assert f"no stack is running in {tmp_path / 'nothing'}" in session.stdout + session.stderr
