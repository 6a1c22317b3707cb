"""When an admission policy counts as in force, and for what: pure decisions."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.admission import (
    SETTLING,
    STAMP,
    UNKNOWN,
    Enforcement,
    Installed,
    describe_unadmitted,
    digest_of,
    guarded_options,
    judge,
)
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.client import KubeForbidden
from taskdeletion.kube.objects import Key, LiveObject
from taskdeletion.workflow.admission import FRESH_SECONDS, Admission

BEGAN = datetime(2026, 7, 1, 12, tzinfo=UTC)
LOOKED = BEGAN + timedelta(hours=1)
POLICY: Mapping[str, Any] = {
    "failurePolicy": "Fail",
    "matchConstraints": {"namespaceSelector": {}, "resourceRules": [{"resources": ["taskdeletions"], "scope": "*"}]},
    "validations": [{"expression": "a > 1 && b < 'é'"}],
    "variables": [{"name": "a", "expression": "1"}],
}
BINDING: Mapping[str, Any] = {"policyName": "p", "validationActions": ["Deny"]}
DIGEST = digest_of(POLICY, BINDING)
INSTALLED = Installed(POLICY, BINDING, BEGAN, LOOKED)


def test_the_digest_is_that_of_the_charts_json() -> None:
    """Sorted keys, no spaces, nothing escaped but what JSON has to: what Helm's toRawJson writes."""
    assert digest_of({"validations": [{"expression": "a<b"}]}, {"policyName": "p"}) == (
        "00d84d6330dec775b2b68071d640b4a0c83c61b3a33f71e049f7174bd805666b"
    )


def test_what_a_later_server_adds_changes_nothing() -> None:
    added = {**POLICY, "auditAnnotations": [], "matchConditions": [], "paramKind": None, "later": "default"}
    assert digest_of(added, {**BINDING, "matchResources": None, "later": 1}) == DIGEST


@pytest.mark.parametrize(
    ("policy", "binding"),
    [
        pytest.param({"failurePolicy": "Ignore"}, {}, id="failures ignored"),
        pytest.param({"validations": []}, {}, id="nothing validated"),
        pytest.param({"variables": [{"name": "a", "expression": "2"}]}, {}, id="another variable"),
        pytest.param({"matchConditions": [{"name": "never", "expression": "false"}]}, {}, id="a condition"),
        pytest.param({"matchConstraints": {"namespaceSelector": {"matchLabels": {"a": "b"}}}}, {}, id="fewer objects"),
        pytest.param({"paramKind": {"kind": "ConfigMap"}}, {}, id="parameters"),
        pytest.param({}, {"validationActions": ["Warn"]}, id="only warned"),
        pytest.param({}, {"validationActions": []}, id="no action"),
        pytest.param({}, {"policyName": "q"}, id="bound to another"),
        pytest.param({}, {"matchResources": {"objectSelector": {}}}, id="a narrower binding"),
        pytest.param({}, {"paramRef": {"name": "x"}}, id="a parameter"),
    ],
)
def test_what_decides_is_in_the_digest(policy: Mapping[str, Any], binding: Mapping[str, Any]) -> None:
    changed = Installed({**POLICY, **policy}, {**BINDING, **binding}, BEGAN, LOOKED)
    found = judge(changed, name="p", digest=DIGEST)
    assert found.since is None
    assert "is not as the chart made it" in found.problem
    assert not found.covers(LOOKED)


def test_a_policy_that_is_missing_covers_nothing() -> None:
    found = judge(None, name="p", digest=DIGEST)
    assert "p or its binding is not there" in found.problem
    assert not found.covers(LOOKED)
    assert not found.is_behind(BEGAN)


@pytest.mark.parametrize(
    ("age", "is_covered"),
    [
        pytest.param(timedelta(days=-1), False, id="older"),
        pytest.param(timedelta(0), False, id="of the same second"),
        pytest.param(SETTLING - timedelta(seconds=1), False, id="a moment younger"),
        pytest.param(SETTLING, True, id="a minute younger"),
        pytest.param(timedelta(days=1), True, id="much younger"),
    ],
)
def test_it_covers_what_was_created_when_every_server_knew_it(age: timedelta, is_covered: bool) -> None:
    assert judge(INSTALLED, name="p", digest=DIGEST).covers(BEGAN + age) is is_covered


@pytest.mark.parametrize(("seconds", "was_there"), [(-1, True), (0, False), (1, False)])
def test_a_look_says_something_of_what_was_there_before_it(seconds: int, was_there: bool) -> None:
    found = judge(INSTALLED, name="p", digest=DIGEST)
    assert found.is_behind(LOOKED + timedelta(seconds=seconds)) is was_there


@pytest.mark.parametrize(
    ("force", "records", "options"),
    [
        (False, False, ()),
        (None, None, ()),
        (True, False, ("force",)),
        (False, True, ("deleteDatabaseRecords",)),
        (True, True, ("force", "deleteDatabaseRecords")),
    ],
)
def test_the_options_that_need_a_verb(force: bool | None, records: bool | None, options: tuple[str, ...]) -> None:
    assert guarded_options(force=force, delete_database_records=records) == options


def test_a_refusal_says_what_to_do() -> None:
    message = describe_unadmitted("TaskDeletion", ("force", "deleteDatabaseRecords"), BEGAN)
    assert message == (
        "force and deleteDatabaseRecords: nobody asked whether its author may, as this TaskDeletion is older than the"
        " admission policy (in force since 2026-07-01T12:00:00Z); delete it and create it again"
    )


# --- looking ----------------------------------------------------------------------------------------------------------


class Server:
    """What the API server answers, one after the other, the last again and again. `asked`: how often it was."""

    def __init__(self, *answers: Installed | Exception | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.now = 0.0

    def read(self) -> Installed | None:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def admission(self) -> Admission:
        return Admission("p", DIGEST, self.read, clock=lambda: self.now)


def live(created_at: datetime, *, stamp: str = "", kind: str = "TaskDeletion") -> LiveObject:
    annotations = {STAMP: stamp} if stamp else {}
    return LiveObject(Key(kind, "ns", "x"), "uid", "1", 1, created_at, False, {}, {}, LOOKED, annotations)


YOUNG, OLD = LOOKED - timedelta(minutes=5), BEGAN - timedelta(days=1)
FORCE = ("force",)


def test_who_asks_for_nothing_special_is_not_looked_for() -> None:
    server = Server(None)
    assert server.admission().find_refusal(live(OLD), ()) is None
    assert server.asked == 0


def test_what_is_covered_may_go_on() -> None:
    assert Server(INSTALLED).admission().find_refusal(live(YOUNG), FORCE) is None


@pytest.mark.parametrize("kind", ["TaskDeletion", "TaskRetentionPolicy"])
def test_what_is_older_is_refused(kind: str) -> None:
    refusal = Server(INSTALLED).admission().find_refusal(live(OLD, kind=kind), FORCE)
    assert refusal is not None
    assert f"this {kind} is older than the admission policy" in refusal


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(None, "is not there", id="missing"),
        pytest.param(Installed(POLICY, {**BINDING, "validationActions": []}, BEGAN, LOOKED), "as the chart", id="weak"),
        pytest.param(KubeForbidden(403, "no right"), "cannot see whether", id="not to be read"),
    ],
)
def test_without_the_policy_it_waits(answer: Installed | Exception | None, words: str) -> None:
    with pytest.raises(Fault, match=words) as raised:
        Server(answer).admission().find_refusal(live(YOUNG), FORCE)
    assert (raised.value.kind, raised.value.reason) == ("waiting", reasons.ADMISSION_NOT_ENFORCED)
    assert raised.value.message.startswith("force: ")


def test_each_request_that_may_do_more_is_looked_for_anew() -> None:
    server = Server(INSTALLED, None)
    admission = server.admission()
    assert admission.find_refusal(live(YOUNG), FORCE) is None
    with pytest.raises(Fault):
        admission.find_refusal(live(YOUNG), FORCE)


def test_a_name_is_believed_where_the_server_saw_to_it() -> None:
    admission = Server(INSTALLED).admission()
    assert admission.find_requester(live(YOUNG, stamp="alice")) == "alice"
    assert admission.find_requester(live(OLD, stamp="alice")) == UNKNOWN
    assert admission.find_requester(live(YOUNG)) == UNKNOWN


@pytest.mark.parametrize("answer", [None, KubeForbidden(403, "no right")], ids=["missing", "not to be read"])
def test_a_name_is_not_believed_without_the_policy(answer: Exception | None) -> None:
    assert Server(answer).admission().find_requester(live(YOUNG, stamp="alice")) == UNKNOWN


def test_a_look_serves_for_the_names_of_requests_that_were_there() -> None:
    server = Server(INSTALLED)
    admission = server.admission()
    for _ in range(3):
        admission.find_requester(live(YOUNG, stamp="alice"))
    assert server.asked == 1


@pytest.mark.parametrize(
    ("later", "created_at", "kind"),
    [
        pytest.param(FRESH_SECONDS, YOUNG, "TaskDeletion", id="an old look"),
        pytest.param(0.0, LOOKED, "TaskDeletion", id="a request that came after it"),
        pytest.param(0.0, YOUNG, "TaskRetentionPolicy", id="a policy, which may have another author since"),
    ],
)
def test_a_look_does_not_serve_for_everything(later: float, created_at: datetime, kind: str) -> None:
    server = Server(INSTALLED, None)
    admission = server.admission()
    assert admission.find_requester(live(YOUNG, stamp="alice")) == "alice"
    server.now += later
    assert admission.find_requester(live(created_at, stamp="alice", kind=kind)) == UNKNOWN


def test_enforcement_covers_nothing_where_nothing_is_in_force() -> None:
    assert not Enforcement("a problem").covers(LOOKED)
