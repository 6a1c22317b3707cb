"""The operator as a process does nothing that needs a verb while the admission policy it was told of is missing."""

from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline
from dev.stack import Stack
from taskdeletion.api import reasons
from tests.support.kube import Kube, condition, operator_environment
from tests.support.policies import PLURAL, create_policy
from tests.support.process import running_operator

MISSING = {"TASKDELETION_ADMISSION_POLICY": "not-installed", "TASKDELETION_ADMISSION_DIGEST": "0" * 64}


@pytest.mark.parametrize("option", ["force", "deleteDatabaseRecords"])
def test_what_needs_a_verb_waits_and_the_rest_goes_on(
    stack: Stack, kube: Kube, pipeline: Pipeline, tmp_path: Path, option: str
) -> None:
    pipeline.add_task("task_1")
    pipeline.add_task("task_2")
    options: dict[str, Any] = {option: True}
    kube.create_deletion(pipeline.namespace, "guarded", taskIds=["task_1"], **options)
    kube.create_deletion(pipeline.namespace, "plain", taskIds=["task_2"])
    rules, before = [{"taskIdPattern": "task_1"}], pipeline.look("task_1")
    create_policy(kube, pipeline.namespace, "policy", rules=rules, template=options)
    settings = {"TASKDELETION_NAMESPACES": pipeline.namespace, **MISSING}
    with running_operator(operator_environment(stack, None, **settings), tmp_path / "operator.log"):
        assert kube.wait_for_end(pipeline.namespace, "plain")["phase"] == "Succeeded"
        kube.wait_for(pipeline.namespace, "guarded", waits_for_admission)
        kube.wait_for(pipeline.namespace, "policy", waits_for_admission, plural=PLURAL)
    assert pipeline.look("task_1") == before
    assert pipeline.look("task_2").is_gone


def waits_for_admission(status: dict[str, Any]) -> bool:
    found = condition(status, "Ready")
    words = str(found.get("message", ""))
    return found.get("reason") == reasons.DEPENDENCY_UNAVAILABLE and reasons.ADMISSION_NOT_ENFORCED in words
