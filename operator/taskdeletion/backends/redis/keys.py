"""The Redis keys of tasks: count them, delete them, look whether any is left.

Called by executors, in threads. It deletes a key only where a pattern of the store gives it, byte by byte, to a task
that was named, and to no other. It never logs, never decides whether a task may go, and never waits to try again.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from uuid import uuid4

from taskdeletion.api import reasons
from taskdeletion.backends.redis.connection import RedisConnection
from taskdeletion.backends.redis.faults import require_reply, unsettled_cluster
from taskdeletion.backends.redis.nodes import Command
from taskdeletion.backends.redis.scan import PAGE_SIZE, Scan
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.backends.redis.sweep import Sweep
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern, build_scan_match
from taskdeletion.domain.results import Guard, Halt, Problem, StepResult, never_halt

MAX_PASSES = 5


class RedisKeys:
    """The keys of the tasks of one store. Safe for many threads; they share one pool of connections."""

    def __init__(self, connection: RedisConnection, patterns: Sequence[str], *, timeout_seconds: float = 10.0) -> None:
        """Raises Fault (waiting, SecretValueInvalid) for an unusable Secret, ValueError for an unsafe pattern."""
        self._patterns = [KeyPattern.parse(pattern) for pattern in patterns]
        self._server = RedisServer(connection, timeout_seconds=timeout_seconds)

    def sweep(self, task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt) -> dict[str, StepResult]:
        """Delete (or, without `delete`, count) the keys of all tasks in one pass, until a pass finds none.

        One result per id: Deleted, WouldDelete, Skipped (Absent) or Failed; a failure keeps the count of what went
        before. `guard` is asked before every batch: tasks that it returns are left alone from then on.
        """
        sweep = self.begin(task_ids, delete=delete, guard=guard, halt=halt)
        try:
            self._repeat(sweep)
        except Fault as fault:
            sweep.fail(sweep.active, fault)
        return sweep.results()

    def begin(self, task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt) -> Sweep:
        """A sweep whose passes the caller makes, one by one. Nothing is sent. ValueError for what is no task id."""
        return Sweep(self._patterns, task_ids, delete=delete, guard=guard, halt=halt)

    def run_pass(self, sweep: Sweep) -> bool:
        """Look at every key once, and remove what may go; whether what was not found was not there. Raises Fault."""
        sweep.found.clear()
        wild = [pattern for pattern in self._patterns if pattern.has_wildcard]
        *before, last = [*_chunks(sweep.known_keys(), PAGE_SIZE)] or [[]]
        for keys in before if wild else [*before, last]:
            sweep.check_halt()
            self._remove(sweep, _present(keys, self._server.exchange([("EXISTS", key) for key in keys])))
        if not (wild and sweep.active):
            self._server.require_primary()
            return True
        return self._search(sweep, self._server.scan(build_scan_match(wild, sweep.active)), last)

    def find_rest(self, task_ids: Collection[str]) -> set[str]:
        """The ids that still have keys. Raises Fault."""
        sweep = self.begin(task_ids, delete=False, guard=lambda _: {}, halt=never_halt)
        self._repeat(sweep)
        return sweep.found

    def probe(self) -> Problem | None:
        """What stands in the way of a sweep: reachable, authorised, may SCAN and UNLINK. Deletes nothing."""
        try:
            scan = self._server.scan(None, count=1)
            keys = [pattern.nobodys_key(uuid4().hex) for pattern in self._patterns]
            replies = scan.advance([("PING",), *((command, key) for key in keys for command in ("EXISTS", "UNLINK"))])
            for reply in replies:
                require_reply(reply)
            scan.page()
        except Fault as fault:
            return Problem(fault.reason, fault.message)
        return None

    def close(self) -> None:
        """Close all connections."""
        self._server.close()

    def _repeat(self, sweep: Sweep) -> None:
        is_whole = False
        for _ in range(MAX_PASSES):
            is_whole = self.run_pass(sweep)
            if is_whole and not (sweep.found and sweep.delete):
                return
        if not is_whole:
            raise unsettled_cluster()
        message = f"keys were still being written after {MAX_PASSES} passes"
        sweep.fail(sweep.found & sweep.active, Fault("retriable", reasons.STILL_WRITTEN, message))

    def _search(self, sweep: Sweep, scan: Scan, known: Sequence[bytes]) -> bool:
        """Remove what a scan shows, and known keys: each page travels with the removal of the one before.

        Whether the known keys are there is asked with the first page, so that both are one batch.
        """
        sweep.check_halt()
        keys = _present(known, scan.advance([("EXISTS", key) for key in known])) + scan.page()
        while not scan.is_done:
            sweep.check_halt()
            removals = self._removals(sweep, keys)
            if not sweep.active:
                return True
            _count(sweep, removals, scan.advance([command for _, command in removals]))
            keys = scan.page()
        sweep.check_halt()
        self._remove(sweep, keys)
        return scan.is_whole()

    def _remove(self, sweep: Sweep, keys: Sequence[bytes]) -> None:
        removals = self._removals(sweep, keys)
        if removals:
            _count(sweep, removals, self._server.send([command for _, command in removals]))

    def _removals(self, sweep: Sweep, keys: Sequence[bytes]) -> list[tuple[str, Command]]:
        """The commands that remove what may go of these keys, each with its task.

        On a cluster one key each: keys of several slots are refused, and so are those of one slot that is moving.
        """
        batch = sweep.admit(keys)
        if batch and self._server.is_cluster:
            return [(task_id, ("UNLINK", key)) for task_id, mine in batch.items() for key in mine]
        return [(task_id, ("UNLINK", *mine)) for task_id, mine in batch.items()]


def _present(keys: Sequence[bytes], replies: Sequence[object]) -> list[bytes]:
    """The keys that are there, by the replies to EXISTS. Raises Fault."""
    return [key for key, reply in zip(keys, replies, strict=True) if require_reply(reply)]


def _count(sweep: Sweep, removals: Sequence[tuple[str, Command]], replies: Sequence[object]) -> None:
    for (task_id, _), reply in zip(removals, replies, strict=True):
        sweep.count(task_id, reply)


def _chunks(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while chunk := list(islice(keys, size)):
        yield chunk
