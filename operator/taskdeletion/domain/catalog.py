"""The index of tasks as everybody sees it, whatever keeps it: entries, versions, and the port that catalogs fill.

PostgreSQL and Redis each fill `Catalog` in their own room; the workflow knows no more than this page. Pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple, Protocol

from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem, StepResult

#: Tasks of one claim.
MAX_CLAIMED: Final = 50


@dataclass(frozen=True, slots=True)
class Version:
    """The version of a task in its catalog. `created`: ISO 8601 in UTC or ""; `rest`: status and update, opaque."""

    created: str
    rest: str

    def __str__(self) -> str:
        return f"{self.created}|{self.rest}"

    @classmethod
    def parse(cls, text: str) -> "Version":
        """The inverse of str()."""
        created, _, rest = text.partition("|")
        return cls(created, rest)

    def matches(self, other: "Version", *, force: bool) -> bool:
        """Whether both are the same run of the task; with force only the creation counts."""
        return self.created == other.created and (force or self.rest == other.rest)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """What the catalog knows of one task. `created_at` in UTC, None where the catalog does not say.

    `activity`: why the task counts as running although its status is terminal, as the beginning of a sentence ("a
    step of the task is running"); "" where nothing speaks for that. `statuses`: of all that is kept of it, where that
    may be several; empty where `status` says it all.
    """

    task_id: str
    version: Version
    status: str
    created_at: datetime | None
    activity: str = ""
    statuses: frozenset[str] = frozenset()

    @property
    def all_statuses(self) -> frozenset[str]:
        """Every status that the catalog has of the task."""
        return self.statuses or frozenset({self.status})


@dataclass(frozen=True, slots=True)
class HeldTasks:
    """What a claim sees; an id in none of the three is not in the catalog.

    `entries`: ours until the claim ends, where the catalog has locks. `row_locked`: exist, but somebody else's
    transaction holds them (retriable for these tasks only). `foreign_references`: task id to what refers to its
    records, so that they cannot go; only looked for where records are to go.
    """

    entries: Mapping[str, CatalogEntry]
    row_locked: frozenset[str] = frozenset()
    foreign_references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Marks:
    """`marked`: rows that say now that the directory is gone. `row_locked`: rows that another transaction holds."""

    marked: frozenset[str]
    row_locked: frozenset[str]


class FinishedTask(NamedTuple):
    """A task that a survey found finished. `statuses`: of all that is kept of it, each a terminal one.

    `created_at` in UTC. `has_files`: False where the catalog says that its data is gone.
    """

    task_id: str
    statuses: frozenset[str]
    created_at: datetime
    has_files: bool = True


class Survey(Protocol):
    """All finished tasks of a catalog, as they were at one moment, or in one sweep."""

    @property
    def now(self) -> datetime:
        """The catalog's own clock, in UTC, before the first task was read."""

    def pages(self) -> Iterator[Sequence[FinishedTask]]:
        """Every task once, in any order; once only. Raises Fault."""

    @property
    def with_files(self) -> int:
        """Tasks that still have files, finished or not; known behind the last page."""


def in_utc(local: datetime, zone: tzinfo) -> datetime:
    """A time without a zone that is meant in `zone`, in UTC. Raises OverflowError.

    Where it occurs twice, or is left out when the clocks go forward, it is the later of the two that it may be, as in
    PostgreSQL: too young is the safe error.
    """
    if zone is UTC:
        return local.replace(tzinfo=UTC)
    return max(local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))


class CommitUnknown(Exception):  # noqa: N818 - it says what is known, which is no error of ours
    """A COMMIT failed or was not answered: what it was to confirm has to be looked at once more."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return str(self.fault)


class Catalog(Protocol):
    """The index of the tasks of one store. Threads may share it. Every method may raise Fault.

    `holds_entries`: a claim that ended well proves that nobody changed its entries meanwhile; elsewhere they have to
    be compared once more after the rename. `keeps_entries`: entries stay unless a request asks for their deletion;
    elsewhere they always go, last of all.
    """

    @property
    def holds_entries(self) -> bool: ...

    @property
    def keeps_entries(self) -> bool: ...

    def now(self) -> datetime:
        """The catalog's own clock, in UTC."""

    def read(self, task_ids: Collection[str]) -> dict[str, CatalogEntry]:
        """The entries of these tasks; ids that are not in the catalog are left out."""

    def claim(
        self, task_ids: Collection[str], *, with_records: bool, lock: bool = True
    ) -> AbstractContextManager[HeldTasks]:
        """The entries of at most 50 tasks, held, where there are locks, until the `with` block ends.

        `lock=False` (dry run) holds nothing. Raises Fault before the block, CommitUnknown after it where the end of
        the claim was not confirmed.
        """

    def mark(self, versions: Mapping[str, Version], *, force: bool) -> Marks:
        """Note in the entries that stay that their data is gone, where they are still of the given version."""

    def delete_records(self, versions: Mapping[str, Version], *, force: bool) -> dict[str, StepResult]:
        """Delete the records of each id that is still of the given version; one result per id, never a Fault."""

    def count_records(self, task_ids: Collection[str]) -> dict[str, int]:
        """How many records would go; ids that are not in the catalog are left out."""

    def survey(self, terminal_statuses: Collection[str], *, with_gone: bool) -> AbstractContextManager[Survey]:
        """Every task that is finished now and has a creation time; for the length of the `with` block.

        `with_gone`: also those whose data the catalog knows to be gone. Raises Fault.
        """

    def probe(self) -> list[Problem]:
        """What keeps the catalog from being worked with."""

    def close(self) -> None:
        """Close the connections."""
