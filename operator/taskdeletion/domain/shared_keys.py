"""Whether two Redis key patterns can match the same key, whatever the task ids are. Pure.

Called by the validation of TaskStores. Exact: each pattern is read as a sequence of byte sets, some of them repeated,
and the two are walked side by side until both end or neither can go on.
"""

import re
from dataclasses import dataclass

from taskdeletion.domain.key_patterns import KeyPattern, translate_glob

_ANY = frozenset(range(256))
_ID = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_PIECES = re.compile(rb"\*|\?|\[\^?+(?:[^\]]-.|[^\]])*+\]?+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One byte of `members`, or, `repeats`, any number of them."""

    members: frozenset[int]
    repeats: bool = False


def can_share_keys(one: KeyPattern, other: KeyPattern) -> bool:
    """Whether some key matches both patterns, for whatever task ids."""
    left, right = _read(one), _read(other)
    seen, open_pairs = {(0, 0)}, [(0, 0)]
    while open_pairs:
        pair = open_pairs.pop()
        if pair == (len(left), len(right)):
            return True
        following = _follow(left, right, *pair) - seen
        seen |= following
        open_pairs += following
    return False


def _read(pattern: KeyPattern) -> list[_Piece]:
    task_id = [_Piece(_ID), _Piece(_ID, repeats=True)]
    head = [_Piece(frozenset([byte])) for byte in pattern.head]
    return [*head, *task_id, *(_read_piece(piece) for piece in _PIECES.findall(pattern.tail))]


def _read_piece(piece: bytes) -> _Piece:
    if piece == b"*":
        return _Piece(_ANY, repeats=True)
    matches = re.compile(translate_glob(piece), re.DOTALL).fullmatch
    return _Piece(frozenset(byte for byte in range(256) if matches(bytes([byte]))))


def _follow(left: list[_Piece], right: list[_Piece], i: int, j: int) -> set[tuple[int, int]]:
    """Where the walk can be after one step: a repeated set passed by, or one byte that both sides take."""
    one = left[i] if i < len(left) else None
    other = right[j] if j < len(right) else None
    found = set()
    if one is not None and one.repeats:
        found.add((i + 1, j))
    if other is not None and other.repeats:
        found.add((i, j + 1))
    if one is not None and other is not None and one.members & other.members:
        found.add((i + (not one.repeats), j + (not other.repeats)))
    return found
