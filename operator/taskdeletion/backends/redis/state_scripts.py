"""The two scripts over state keys: read them all at one moment, and remove them if they are still as they were read.

Called by the Redis catalog. Each run sees the keys of one task, on a cluster those of one slot. It never chooses keys,
and removes none whose value it was not given.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import redis

from taskdeletion.api import reasons
from taskdeletion.backends.redis.faults import fault_of
from taskdeletion.backends.redis.server import RedisServer, ScriptCall
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.states import State

#: Keys of one trip; a task with more of them makes a trip of its own. Values of some 100 kB are expected.
BATCH_KEYS: Final = 256
REFUSED: Final = -1
#: Before Redis 7 an error of a command of a script is found within the error of the script.
_ERROR_OF_COMMAND: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]+ .*)")
_PERMISSIONS: Final = "SELECT, TIME, SCAN, EXISTS, TYPE, PTTL, GET, HGETALL, HLEN, HGET, DUMP, UNLINK, EVAL, EVALSHA"

#: The clock, then of each key: its type, its milliseconds to live, its content (`State.content`).
READ: Final = b"""
local found = {redis.call('TIME')}
for number, key in ipairs(KEYS) do
  local kind, content = redis.call('TYPE', key).ok, {}
  if kind == 'string' then
    content = {redis.call('GET', key)}
  elseif kind == 'hash' then
    content = redis.call('HGETALL', key)
  elseif kind ~= 'none' then
    content = {redis.sha1hex(redis.call('DUMP', key))}
  end
  found[number + 1] = {kind, redis.call('PTTL', key), content}
end
return found
"""

#: ARGV: of each key its type, the length of its content, its content. The number of keys removed; -1: one differs.
REMOVE: Final = b"""
local function is_same(key, first)
  local kind, size = redis.call('TYPE', key).ok, tonumber(ARGV[first + 1])
  if kind ~= ARGV[first] then
    return false
  elseif kind == 'string' then
    return redis.call('GET', key) == ARGV[first + 2]
  elseif kind ~= 'hash' then
    return redis.sha1hex(redis.call('DUMP', key)) == ARGV[first + 2]
  elseif redis.call('HLEN', key) * 2 ~= size then
    return false
  end
  for field = first + 2, first + size, 2 do
    if redis.call('HGET', key, ARGV[field]) ~= ARGV[field + 1] then
      return false
    end
  end
  return true
end
local first, removed = 1, 0
for _, key in ipairs(KEYS) do
  if not is_same(key, first) then
    return -1
  end
  first = first + 2 + tonumber(ARGV[first + 1])
end
for _, key in ipairs(KEYS) do
  removed = removed + redis.call('UNLINK', key)
end
return removed
"""


@dataclass(slots=True)
class Removal:
    """What became of the keys of one task. `count`: keys removed; `is_refused`: keys of a slot, or all, had changed.

    `fault`: why keys were not removed; `is_unsure`: no reply came, so that they may be gone all the same.
    """

    keys: Sequence[bytes]
    count: int = 0
    is_refused: bool = False
    fault: Fault | None = None
    is_unsure: bool = False

    def add(self, reply: Any) -> None:
        """Take the reply to one run of the script into account."""
        if isinstance(reply, redis.RedisError):
            self.fault = fault_of_script(reply)
        elif reply == REFUSED:
            self.is_refused = True
        else:
            self.count += reply


def read_states(server: RedisServer, keys: Mapping[str, Sequence[bytes]]) -> dict[str, list[State]]:
    """The state of each task at one moment (on a cluster: of each slot); keys that are gone are left out. Raises Fault.

    A task without any key is not in the result.
    """
    calls = [(task_id, group) for task_id, mine in keys.items() for group in server.group_by_slot(mine)]
    replies = server.evaluate(READ, [(group, ()) for _, group in calls])
    server.require_primary()
    found: dict[str, list[State]] = {}
    for (task_id, group), reply in zip(calls, replies, strict=True):
        if states := list(_parse(group, reply)):
            found.setdefault(task_id, []).extend(states)
    return found


def remove_states(server: RedisServer, states: Mapping[str, Sequence[State]]) -> dict[str, Removal]:
    """Remove all keys of each task, if each is still as it was read; on a cluster this holds slot by slot."""
    removals = {task_id: Removal([state.key for state in mine]) for task_id, mine in states.items()}
    try:
        calls = [(task_id, call) for task_id, mine in states.items() for call in _build_calls(server, mine)]
        replies = server.evaluate(REMOVE, [call for _, call in calls])
    except Fault as fault:
        for removal in removals.values():
            removal.fault, removal.is_unsure = fault, True
        return removals
    for (task_id, _), reply in zip(calls, replies, strict=True):
        removals[task_id].add(reply)
    return removals


def in_batches(keys: Mapping[str, list[bytes]]) -> Iterator[dict[str, list[bytes]]]:
    """Tasks in order of id, so many at a time that their keys make one trip."""
    batch: dict[str, list[bytes]] = {}
    size = 0
    for task_id in sorted(keys):
        if batch and size + len(keys[task_id]) > BATCH_KEYS:
            yield batch
            batch, size = {}, 0
        batch[task_id] = keys[task_id]
        size += len(keys[task_id])
    if batch:
        yield batch


def fault_of_script(error: redis.RedisError) -> Fault:
    """The fault for an error reply to a script, or to a command of one."""
    if is_refusal(error):
        message = (
            f"the Redis user lacks a permission: for the catalog it needs {_PERMISSIONS}, on a cluster also CLUSTER and"
            " ASKING, and access to the state keys"
        )
        return Fault("permanent", reasons.PERMISSION_DENIED, message)
    inner = _ERROR_OF_COMMAND.search(str(error))
    return fault_of(redis.ResponseError(inner[1]) if inner else error)


def is_refusal(error: object) -> bool:
    """Whether an error reply says that the user may not; a script of Redis 6 says so without a code."""
    if isinstance(error, redis.exceptions.NoPermissionError):
        return True
    return isinstance(error, redis.ResponseError) and "user executing the script can't" in str(error)


def _parse(keys: Sequence[bytes], reply: Any) -> Iterator[State]:
    if isinstance(reply, redis.RedisError):
        raise fault_of_script(reply)
    (seconds, microseconds), *found = reply
    read_at = datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(microseconds))
    for key, (kind, left_ms, content) in zip(keys, found, strict=True):
        if kind != b"none":
            ttl_seconds = left_ms / 1000 if left_ms >= 0 else None
            yield State(key, kind.decode(), order_content(kind, content), ttl_seconds, read_at)


def order_content(kind: bytes, content: Sequence[bytes]) -> tuple[bytes, ...]:
    """What a key holds, a hash by its fields: since Redis 7 a script gets them in any order."""
    if kind != b"hash":
        return tuple(content)
    pairs = sorted(zip(content[::2], content[1::2], strict=True))
    return tuple(part for pair in pairs for part in pair)


def _build_calls(server: RedisServer, states: Sequence[State]) -> Iterator[ScriptCall]:
    known = {state.key: state for state in states}
    for group in server.group_by_slot(known):
        yield group, [part for key in group for part in _arguments_of(known[key])]


def _arguments_of(state: State) -> Sequence[bytes | int]:
    return (state.kind.encode(), len(state.content), *state.content)
