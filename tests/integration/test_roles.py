"""Who may ask for what (docs/roles.md): roles, refusals at apply, and who asked, with users of a real API server."""

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dev.helm import CHART
from taskdeletion.domain.admission import STAMP, digest_of
from taskdeletion.kube.admission import read_installed
from tests.support.kube import Kube
from tests.support.roles import Manifest, Release, User, policy, request

ROLES_PAGE = Path(CHART).parents[1] / "docs" / "roles.md"
RECORDS = "deleteDatabaseRecords"
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def release(kube: Kube) -> Iterator[Release]:
    """A release that stamps, and serves two namespaces; a third one is not its own."""
    served = (f"roles-{os.getpid()}-a", f"roles-{os.getpid()}-b")
    for namespace in served:
        kube.create_namespace(namespace)
    found = Release(kube, f"roles-{os.getpid()}-operator", served)
    found.install()
    yield found
    found.uninstall()
    kube.kubectl("delete", "namespace", *served, "--wait=false")


@pytest.fixture(scope="module")
def plain(kube: Kube) -> Iterator[Release]:
    """A release as on a cluster that cannot stamp."""
    served = (f"roles-{os.getpid()}-c",)
    kube.create_namespace(*served)
    found = Release(kube, f"roles-{os.getpid()}-plain", served, stamps="never")
    found.install()
    yield found
    found.uninstall()
    kube.kubectl("delete", "namespace", *served, "--wait=false")


def fresh() -> str:
    return f"x{next(_NUMBERS)}"


def stamp_of(kube: Kube, namespace: str, name: str, plural: str = "taskdeletions") -> str | None:
    found = kube.read(namespace, name, plural)
    assert found is not None
    stamp: str | None = found["metadata"].get("annotations", {}).get(STAMP)
    return stamp


# --- roles ------------------------------------------------------------------------------------------------------------

TABLE = re.findall(r"^\| ([a-z, -]+) \| `([a-z/]+)` \|((?: (?:yes|–) \|){7})$", ROLES_PAGE.read_text(), re.MULTILINE)
COLUMNS = ("viewer", "requester", "policy-author", "store-admin", "view", "edit", "admin")
CELLS = [
    (role, verb, resource, answer == "yes")
    for verbs, resource, answers in TABLE
    for role, answer in zip(COLUMNS, answers.replace("|", "").split(), strict=True)
    for verb in verbs.split(", ")
]


@pytest.fixture(scope="module")
def users(release: Release) -> dict[str, User]:
    """One for each column of the table."""
    return {role: release.user(f"one-{role}", role, namespace=release.served[0]) for role in COLUMNS}


def test_the_table_of_the_documentation_was_read() -> None:
    ours = ("taskdeletions", "taskretentionpolicies", "taskstores")
    writing = {(verb, resource) for verb in ("create", "patch", "update", "delete") for resource in ours}
    asked = {(verb, resource) for _, verb, resource, _ in CELLS}
    assert asked >= writing | {("force", "taskdeletions"), ("delete-records", "taskdeletions"), ("get", "secrets")}


@pytest.mark.parametrize("role", COLUMNS)
def test_each_role_may_do_what_the_documentation_says(release: Release, users: dict[str, User], role: str) -> None:
    here, elsewhere = release.served
    cells = [(verb, resource, allowed) for column, verb, resource, allowed in CELLS if column == role]
    found = [(verb, resource, users[role].may(verb, resource, here)) for verb, resource, _ in cells]
    assert found == cells
    assert not any(users[role].may(verb, resource, elsewhere) for verb, resource, _ in cells)


def test_without_a_role_nothing_of_this_is_allowed(release: Release) -> None:
    stranger = User(release.kube, "one-stranger")
    assert not [cell for cell in CELLS if stranger.may(cell[1], cell[2], release.served[0])]


@pytest.mark.parametrize("role", ["requester", "policy-author", "view", "edit", "admin"])
@pytest.mark.parametrize("verb", ["create", "update", "patch", "delete", "deletecollection"])
def test_who_asks_for_deletions_never_decides_what_counts_as_running(
    release: Release, users: dict[str, User], role: str, verb: str
) -> None:
    assert not users[role].may(verb, "taskstores", release.served[0])


@pytest.mark.parametrize("resource", ["taskdeletions", "taskretentionpolicies", "taskstores"])
def test_nobody_but_the_operator_writes_what_became_of_a_request(
    release: Release, users: dict[str, User], resource: str
) -> None:
    verbs = ("update", "patch")
    allowed = {
        role: [v for v in verbs if user.may(v, f"{resource}/status", release.served[0])] for role, user in users.items()
    }
    assert not any(allowed.values())
    assert User(release.kube, release.account).may("patch", f"{resource}/status", release.served[0])


# --- options that need a verb -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bob(release: Release) -> User:
    """May request and write policies, and nothing that needs a verb of its own."""
    return release.user("bob", "requester", "policy-author", namespace=release.served[0])


@pytest.fixture(scope="module")
def carol(release: Release) -> User:
    """May force and delete records as well."""
    roles = ("requester", "policy-author", "force", "delete-records")
    return release.user("carol", *roles, namespace=release.served[0])


@pytest.mark.parametrize(("option", "verb"), [("force", "force"), (RECORDS, "delete-records")])
@pytest.mark.parametrize("kind", ["request", "template"])
def test_without_the_verb_the_refusal_names_it_and_who_has_it(
    release: Release, bob: User, carol: User, kind: str, option: str, verb: str
) -> None:
    namespace, name = release.served[0], fresh()
    options: dict[str, Any] = {option: True}
    asking = {
        "request": request(namespace, name, suspend=True, **options),
        "template": policy(namespace, name, suspend=True, template=options),
    }[kind]
    refused = bob.create(asking)
    place = "spec" if kind == "request" else "spec.template"
    assert refused.returncode != 0
    assert refused.stderr.strip().endswith(
        f'{place}.{option}: true needs the verb "{verb}" on taskdeletions.datapipeline.dev in namespace {namespace},'
        f" which bob does not have. Leave {option} away, or ask whoever grants rights there for the ClusterRole"
        f" {release.name}-{verb}"
    )
    assert "(Forbidden)" in refused.stderr
    assert carol.create(asking).returncode == 0


def test_the_documentation_shows_the_refusal(release: Release, bob: User) -> None:
    namespace = release.served[0]
    refused = bob.create(request(namespace, "free-july", force=True)).stderr.replace("STDIN", "request.yaml")
    shown = refused.replace(release.name, "pipelines-task-deletion-operator").replace(namespace, "pipelines")
    assert shown.strip() in " ".join(ROLES_PAGE.read_text().split())


def test_one_verb_does_not_do_for_the_other(release: Release) -> None:
    namespace = release.served[0]
    dave = release.user("dave", "requester", "force", namespace=namespace)
    both = request(namespace, fresh(), force=True, deleteDatabaseRecords=True, suspend=True)
    assert 'the verb "delete-records"' in dave.create(both).stderr


def test_a_verb_in_one_namespace_is_none_in_another(release: Release, kube: Kube) -> None:
    here, elsewhere = release.served
    release.user("erin", "requester", "force", namespace=here)
    erin = release.user("erin", "requester", namespace=elsewhere)
    assert erin.create(request(here, fresh(), force=True, suspend=True)).returncode == 0
    assert f"in namespace {elsewhere}" in erin.create(request(elsewhere, fresh(), force=True, suspend=True)).stderr


def test_a_dry_run_needs_the_verb_too(release: Release, bob: User) -> None:
    assert 'the verb "force"' in bob.create(request(release.served[0], fresh(), force=True, dryRun=True)).stderr


@pytest.mark.parametrize(
    ("change", "is_allowed"),
    [
        pytest.param({"suspend": False}, False, id="set it going"),
        pytest.param({"ttlSecondsAfterFinished": 60}, True, id="a time to live"),
    ],
)
def test_a_forced_request_is_set_going_only_by_who_may_force(
    release: Release, bob: User, carol: User, change: Manifest, is_allowed: bool
) -> None:
    namespace, name = release.served[0], fresh()
    assert carol.create(request(namespace, name, force=True, suspend=True)).returncode == 0
    answer = bob.patch("td", namespace, {"spec": change}, name=name)
    assert (answer.returncode == 0) is is_allowed
    assert is_allowed or 'the verb "force"' in answer.stderr
    assert carol.patch("td", namespace, {"spec": change}, name=name).returncode == 0


def test_anybody_who_may_change_a_forced_request_may_stop_it(release: Release, bob: User, carol: User) -> None:
    namespace, name = release.served[0], fresh()
    assert carol.create(request(namespace, name, force=True)).returncode == 0
    assert bob.patch("td", namespace, {"spec": {"suspend": True}}, name=name).returncode == 0


@pytest.mark.parametrize(
    ("change", "is_allowed"),
    [
        pytest.param({"rules": [{"olderThan": "1d"}]}, False, id="other rules"),
        pytest.param({"storeRef": {"name": "other"}}, False, id="another store"),
        pytest.param({"startingDeadlineSeconds": None}, False, id="a field taken away"),
        pytest.param({"suspend": False}, False, id="set it going"),
        pytest.param({"dryRun": False}, False, id="a real run"),
        pytest.param({"suspend": True, "schedule": "@daily"}, False, id="a stop and something else"),
        pytest.param({"template": {"force": None}}, True, id="force taken away"),
        pytest.param({"template": {"force": False}, "schedule": "@daily"}, True, id="force taken away, and more"),
    ],
)
def test_a_policy_that_forces_is_changed_only_by_who_may_force(
    release: Release, bob: User, carol: User, change: Manifest, is_allowed: bool
) -> None:
    namespace, name = release.served[0], fresh()
    forcing: Manifest = {"suspend": True, "dryRun": True, "startingDeadlineSeconds": 100, "template": {"force": True}}
    assert carol.create(policy(namespace, name, **forcing)).returncode == 0
    answer = bob.patch("trp", namespace, {"spec": change}, name=name)
    assert (answer.returncode == 0) is is_allowed, answer.stderr
    assert is_allowed or 'the verb "force"' in answer.stderr


def test_anybody_who_may_change_a_policy_that_forces_may_stop_it(release: Release, bob: User, carol: User) -> None:
    namespace, name = release.served[0], fresh()
    assert carol.create(policy(namespace, name, dryRun=True, template={"force": True})).returncode == 0
    assert bob.patch("trp", namespace, {"spec": {"suspend": True}}, name=name).returncode == 0


def test_a_policy_that_does_not_force_is_not_made_to_without_the_verb(release: Release, bob: User) -> None:
    namespace, name = release.served[0], fresh()
    assert bob.create(policy(namespace, name, dryRun=True)).returncode == 0
    assert 'the verb "force"' in bob.patch("trp", namespace, {"spec": {"template": {"force": True}}}, name=name).stderr
    assert bob.patch("trp", namespace, {"spec": {"schedule": "@daily"}}, name=name).returncode == 0


def test_labels_of_a_forced_request_are_no_business_of_the_verb(release: Release, bob: User, carol: User) -> None:
    namespace, name = release.served[0], fresh()
    assert carol.create(request(namespace, name, force=True, suspend=True)).returncode == 0
    assert bob.patch("td", namespace, {"metadata": {"labels": {"team": "a"}}}, name=name).returncode == 0


def test_the_largest_objects_are_not_too_much_to_ask_about(release: Release, carol: User) -> None:
    """An expression that costs too much would refuse them."""
    namespace, name = release.served[0], fresh()
    largest = [f"{number:0128}" for number in range(500)]
    patterns = [{"taskIdPattern": f"{number:0128}", "statuses": [f"s{n}" for n in range(32)]} for number in range(16)]
    forcing: Manifest = {"template": {"force": True}, "dryRun": True}
    assert carol.create(request(namespace, name, taskIds=largest, force=True, suspend=True)).returncode == 0
    assert carol.create(policy(namespace, name, rules=patterns, **forcing)).returncode == 0
    change = {"spec": {"suspend": False}, "metadata": {"labels": {"team": "a"}}}
    for kind in ("td", "trp"):
        answer = carol.patch(kind, namespace, change, name=name)
        assert answer.returncode == 0, answer.stderr


def test_a_namespace_that_is_not_served_is_left_alone(release: Release, kube: Kube) -> None:
    namespace = f"roles-{os.getpid()}-other"
    kube.create_namespace(namespace)
    frank = release.user("frank", "requester", namespace=namespace)
    assert frank.create(request(namespace, force=True)).returncode == 0
    kube.kubectl("delete", "namespace", namespace, "--wait=false")


# --- who asked --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", ["", "alice"], ids=["nothing said", "another name"])
def test_the_name_of_who_asks_is_written_over_what_was_there(
    release: Release, kube: Kube, bob: User, claimed: str
) -> None:
    namespace, name = release.served[0], fresh()
    assert bob.create(request(namespace, name, by=claimed, suspend=True)).returncode == 0
    assert bob.create(policy(namespace, name, by=claimed, suspend=True)).returncode == 0
    assert stamp_of(kube, namespace, name) == "bob"
    assert stamp_of(kube, namespace, name, "taskretentionpolicies") == "bob"


@pytest.mark.parametrize("claimed", ["alice", "carol", None], ids=["another name", "their own name", "none"])
def test_a_name_that_was_written_stays(
    release: Release, kube: Kube, bob: User, carol: User, claimed: str | None
) -> None:
    namespace, name = release.served[0], fresh()
    assert bob.create(request(namespace, name, suspend=True)).returncode == 0
    carol.patch("td", namespace, {"metadata": {"annotations": {STAMP: claimed}}}, name=name)
    carol.patch("td", namespace, {"spec": {"suspend": False}}, name=name)
    assert stamp_of(kube, namespace, name) == "bob"


def test_a_policy_names_who_last_wrote_it(release: Release, kube: Kube, bob: User, carol: User) -> None:
    namespace, name = release.served[0], fresh()
    assert bob.create(policy(namespace, name, suspend=True)).returncode == 0
    assert carol.patch("trp", namespace, {"metadata": {"labels": {"team": "a"}}}, name=name).returncode == 0
    assert stamp_of(kube, namespace, name, "taskretentionpolicies") == "bob"
    assert carol.patch("trp", namespace, {"spec": {"schedule": "@daily"}}, name=name).returncode == 0
    assert stamp_of(kube, namespace, name, "taskretentionpolicies") == "carol"


def test_the_operator_says_for_whom_it_asks(release: Release, kube: Kube, bob: User) -> None:
    namespace, name = release.served[0], fresh()
    operator = User(kube, release.account)
    assert operator.create(request(namespace, name, by="alice", force=True, suspend=True)).returncode == 0
    assert stamp_of(kube, namespace, name) == "alice"


@pytest.mark.parametrize("kind", ["request", "policy"])
def test_where_nobody_stamps_a_false_name_is_refused(plain: Release, kube: Kube, kind: str) -> None:
    namespace, name = plain.served[0], fresh()
    grace = plain.user("grace", "requester", "policy-author", namespace=namespace)
    build, plural = {"request": (request, "taskdeletions"), "policy": (policy, "taskretentionpolicies")}[kind]
    refused = grace.create(build(namespace, name, by="alice", suspend=True))
    assert refused.returncode != 0
    assert "datapipeline.dev/requested-by says who asked: leave it away" in refused.stderr
    assert "grace cannot make it alice" in refused.stderr
    assert grace.create(build(namespace, name, suspend=True)).returncode == 0
    assert stamp_of(kube, namespace, name, plural) is None
    assert grace.create(build(namespace, f"{name}-own", by="grace", suspend=True)).returncode == 0


@pytest.mark.parametrize("claimed", ["alice", "heidi", None], ids=["another name", "their own name", "none"])
def test_where_nobody_stamps_a_true_name_is_not_changed(plain: Release, kube: Kube, claimed: str | None) -> None:
    namespace, name = plain.served[0], fresh()
    grace = plain.user("grace", "requester", namespace=namespace)
    heidi = plain.user("heidi", "requester", namespace=namespace)
    assert grace.create(request(namespace, name, by="grace", suspend=True)).returncode == 0
    refused = heidi.patch("td", namespace, {"metadata": {"annotations": {STAMP: claimed}}}, name=name)
    assert "requested-by says who asked" in refused.stderr
    assert stamp_of(kube, namespace, name) == "grace"


def test_where_nobody_stamps_a_policy_does_not_keep_the_name_of_another_author(plain: Release) -> None:
    namespace, name = plain.served[0], fresh()
    grace = plain.user("grace", "policy-author", namespace=namespace)
    heidi = plain.user("heidi", "policy-author", namespace=namespace)
    assert grace.create(policy(namespace, name, by="grace", suspend=True)).returncode == 0
    change = {"spec": {"schedule": "@daily"}}
    assert "heidi cannot make it grace" in heidi.patch("trp", namespace, change, name=name).stderr
    without = {**change, "metadata": {"annotations": {STAMP: None}}}
    assert heidi.patch("trp", namespace, without, name=name).returncode == 0


# --- what the operator is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["release", "plain"])
def test_the_chart_tells_the_operator_what_the_server_has(
    name: str, kube: Kube, request_of: dict[str, Release]
) -> None:
    settings = request_of[name].settings
    installed = read_installed(kube.api, settings.admission_policy)
    assert installed is not None
    assert digest_of(installed.policy, installed.binding) == settings.admission_digest


@pytest.fixture
def request_of(release: Release, plain: Release) -> dict[str, Release]:
    """Both by name."""
    return {"release": release, "plain": plain}


@pytest.mark.parametrize("resource", ["validatingadmissionpolicies", "validatingadmissionpolicybindings"])
def test_the_operator_may_look_at_its_own_policy_only(release: Release, kube: Kube, resource: str) -> None:
    operator = User(kube, release.account)
    assert operator.may("get", resource, name=release.name)
    assert not operator.may("get", resource, name="another")
    assert not any(operator.may(verb, resource, name=release.name) for verb in ("list", "patch", "update", "delete"))


def test_the_server_finds_nothing_wrong_with_the_expressions(release: Release, kube: Kube) -> None:
    found = kube.api.request(
        "GET", f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{release.name}"
    ).body
    assert found["status"].get("typeChecking", {}) == {}
