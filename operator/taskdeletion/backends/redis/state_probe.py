"""What stands in the way of work with a Redis catalog, found by trying everything that it uses.

Called by the Redis catalog. All is tried on a key that belongs to no task, so nothing is read and nothing is deleted.
"""

from typing import Any
from uuid import uuid4

from taskdeletion.api import reasons
from taskdeletion.backends.redis.faults import require_reply
from taskdeletion.backends.redis.nodes import Command
from taskdeletion.backends.redis.scan import Scan
from taskdeletion.backends.redis.server import RedisServer, ScriptCall
from taskdeletion.backends.redis.state_scripts import READ, REMOVE, is_refusal
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern
from taskdeletion.domain.results import Problem


def probe_states(server: RedisServer, pattern: KeyPattern) -> list[Problem]:
    """The first thing that is wrong: unreachable, refused, a replica, or a command that the user may not send."""
    key = pattern.nobodys_key(uuid4().hex)
    try:
        refused = _try_commands(server, key) or _try_scripts(server, key)
    except Fault as fault:
        return [Problem(fault.reason, fault.message)]
    if refused:
        message = f"the Redis user may not send {', '.join(refused)} for the state keys of the catalog: allow it"
        return [Problem(reasons.PERMISSION_DENIED, message)]
    return []


def _try_commands(server: RedisServer, key: bytes) -> list[str]:
    """The commands that are refused to the user. Raises Fault for whatever else is in the way."""
    one_key: list[Command] = [(name, key) for name in ("EXISTS", "TYPE", "PTTL", "GET", "HGETALL", "HLEN", "DUMP")]
    commands: list[Command] = [("TIME",), *one_key, ("HGET", key, "-"), ("UNLINK", key), ("EVAL", READ, 1, key)]
    scan = server.scan(None, count=1)
    replies: list[Any] = scan.advance(commands)
    refused = []
    for command, reply in zip(commands, replies, strict=True):
        if is_refusal(reply):
            refused.append(str(command[0]))
        else:
            require_reply(reply)
    return refused + _try_page(scan)


def _try_page(scan: Scan) -> list[str]:
    try:
        scan.page()
    except Fault as fault:
        if fault.reason != reasons.PERMISSION_DENIED:
            raise
        return ["SCAN"]
    return []


def _try_scripts(server: RedisServer, key: bytes) -> list[str]:
    """As `_try_commands`; a script that is known already is sent as EVALSHA, which is another permission than EVAL."""
    calls: list[tuple[bytes, ScriptCall]] = [(READ, ((key,), ())), (REMOVE, ((key,), (b"string", 1, b"")))]
    replies = [reply for script, call in calls for reply in server.evaluate(script, [call])]
    if any(map(is_refusal, replies)):
        return ["EVALSHA"]
    for reply in replies:
        require_reply(reply)
    return []
