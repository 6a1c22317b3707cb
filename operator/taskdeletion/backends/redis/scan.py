"""All keys of a Redis, page by page, from every primary at once; other commands may travel with each page.

Made by `RedisServer.scan`; used by the sweep and the catalog. It shows keys, some more than once; it deletes none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from taskdeletion.backends.redis.connection import Node
from taskdeletion.backends.redis.faults import require_reply, unsettled_cluster
from taskdeletion.backends.redis.nodes import Command

#: What SCAN walks over at a time: some milliseconds of the server, in which others wait.
PAGE_SIZE = 5000
_START = b"0"
#: Sends each command to its node (None: by its first key); see `RedisServer.deliver`.
Deliver = Callable[[Sequence[tuple[Node | None, Command]]], list[Any]]


class Scan:
    """One pass, by one thread. Iterate over it; or `advance` with commands of your own, `page()`, and `is_whole()`.

    A key that is there from the first page to the last is shown at least once, if the pass is whole: in a cluster that
    moves slots or fails over meanwhile a key can pass from a node that is still to show it to one that has been asked.
    """

    def __init__(
        self,
        deliver: Deliver,
        nodes: Sequence[Node],
        is_settled: Callable[[], bool],
        *,
        match: bytes | None,
        count: int,
    ) -> None:
        self._deliver = deliver
        self._cursors = dict.fromkeys(nodes, _START)
        self._is_settled = is_settled
        self._options: Command = (*(() if match is None else ("MATCH", match)), "COUNT", count)
        self._replies: dict[Node, Any] = {}

    @property
    def is_done(self) -> bool:
        """Whether every node has sent its last page."""
        return not self._cursors

    def advance(self, commands: Sequence[Command] = ()) -> list[Any]:
        """Send `commands`, and on the same trip ask every node for its next page; the replies to `commands`.

        A Fault is in the place of every reply that a failed connection has kept.
        """
        nodes = list(self._cursors)
        scans = [(node, ("SCAN", cursor, *self._options)) for node, cursor in self._cursors.items()]
        replies = self._deliver([*((None, command) for command in commands), *scans])
        self._replies = dict(zip(nodes, replies[len(commands) :], strict=True))
        return replies[: len(commands)]

    def page(self) -> list[bytes]:
        """The keys that the last `advance` brought. Raises Fault where a node did not answer or refused."""
        keys: list[bytes] = []
        for node, reply in self._replies.items():
            cursor, found = require_reply(reply)
            keys += found
            if cursor == _START:
                del self._cursors[node]
            else:
                self._cursors[node] = cursor
        self._replies = {}
        return keys

    def is_whole(self) -> bool:
        """Whether the pass, now done, has shown all keys that it should. Raises Fault."""
        return self.is_done and self._is_settled()

    def __iter__(self) -> Iterator[list[bytes]]:
        """The pages. Raises Fault (waiting) at the end of a pass that is not whole."""
        while not self.is_done:
            self.advance()
            yield self.page()
        if not self.is_whole():
            raise unsettled_cluster()
