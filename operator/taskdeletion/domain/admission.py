"""Whether the API server asks who may force and who may delete records, and who asked: decided on what was read. Pure.

ADR 0016 says why; the chart's `_admission.tpl` is the other side. Called by `workflow.admission`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from taskdeletion.api.common import GROUP

#: The annotation that holds the name of the user who asked.
STAMP: Final = f"{GROUP}/requested-by"
UNKNOWN: Final = "unknown"
#: How long API servers may take to hear of a new policy, and how far their clocks may be apart.
SETTLING: Final = timedelta(minutes=1)
#: What decides in the specs; a later API server may add fields with defaults.
_POLICY_FIELDS: Final = (
    "failurePolicy",
    "matchConditions",
    "matchConstraints",
    "paramKind",
    "validations",
    "variables",
)
_PUT_BACK: Final = "put it back (helm upgrade), or install the chart with admission.enabled=false"
_BINDING_FIELDS: Final = ("matchResources", "paramRef", "policyName", "validationActions")


@dataclass(frozen=True, slots=True)
class Installed:
    """The specs of a ValidatingAdmissionPolicy and its binding. Times are aware, by the API server's clock.

    `created_at`: of the younger of them. `looked_at`: not later than either was read, whole seconds.
    """

    policy: Mapping[str, Any]
    binding: Mapping[str, Any]
    created_at: datetime
    looked_at: datetime


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What a look at the policy came to. `problem`: why it is not in force, "" where it is.

    `since`: what was created at or after this was asked about. `looked_at`: what was created before this was there
    when it was looked. Both by the API server's clock, and None where the policy is not in force.
    """

    problem: str
    since: datetime | None = None
    looked_at: datetime | None = None

    def covers(self, created_at: datetime) -> bool:
        """Whether the API server asked when an object was created, and at each change of it up to this look."""
        return self.since is not None and created_at >= self.since

    def is_behind(self, created_at: datetime) -> bool:
        """Whether an object of that age was there already when it was looked."""
        return self.looked_at is not None and created_at < self.looked_at


def digest_of(policy: Mapping[str, Any], binding: Mapping[str, Any]) -> str:
    """SHA-256 over what decides in the two specs, as the chart computes it."""
    parts = {"policy": _pick(policy, _POLICY_FIELDS), "binding": _pick(binding, _BINDING_FIELDS)}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _pick(spec: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: spec[name] for name in fields if spec.get(name)}


def judge(installed: Installed | None, *, name: str, digest: str, settling: timedelta = SETTLING) -> Enforcement:
    """Whether what is installed is what the chart installed, and from when on it counts."""
    if installed is None:
        return Enforcement(f"the ValidatingAdmissionPolicy {name} or its binding is not there; {_PUT_BACK}")
    if digest_of(installed.policy, installed.binding) != digest:
        return Enforcement(
            f"the ValidatingAdmissionPolicy {name} or its binding is not as the chart made it; {_PUT_BACK}"
        )
    return Enforcement("", installed.created_at + settling, installed.looked_at)


def guarded_options(*, force: bool | None, delete_database_records: bool | None) -> tuple[str, ...]:
    """The options that need a verb of their own, of those that are set."""
    options = {"force": force, "deleteDatabaseRecords": delete_database_records}
    return tuple(name for name, is_set in options.items() if is_set)


def describe_unadmitted(kind: str, options: tuple[str, ...], since: datetime) -> str:
    """Why an object that is older than the policy may not do what it asks for."""
    return (
        f"{' and '.join(options)}: nobody asked whether its author may, as this {kind} is older than the admission"
        f" policy (in force since {since:%Y-%m-%dT%H:%M:%SZ}); delete it and create it again"
    )
