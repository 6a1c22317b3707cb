"""Does the chunks of one call side by side, two at a time: one waits for the server while the other is computed.

Called by the mark and the deletion of records. The chunks of a call hold different tasks, each in a transaction of its
own, so that two of them never wait for each other's rows.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
LANES: Final = 2


def work_in_lanes(work: Callable[[list[str]], T], chunks: Sequence[list[str]]) -> list[T]:
    """What `work` returns for each chunk, in their order. The first error is raised; what has not begun does not."""
    if len(chunks) <= 1:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(LANES, thread_name_prefix="postgres") as threads:
        return list(threads.map(work, chunks))
