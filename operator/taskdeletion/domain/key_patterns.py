"""Redis key patterns: which task a key belongs to, and what to ask Redis for. Pure.

Called by the Redis backend and by the validation of TaskStores. A key is compared here byte by byte, whatever MATCH
answered: MATCH only narrows what travels. A `{taskId}` takes the longest run of id characters at its place, so that
`task_1` never names a key of `task_10`.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from taskdeletion.api.places import KEY_PATTERN_PATTERN
from taskdeletion.domain.task_ids import is_task_id, require_task_id

PLACEHOLDER = "{taskId}"
#: Begins with a dot, which no task id does.
NOBODY = b".taskdeletion-probe-"
_KEY_PATTERN = re.compile(KEY_PATTERN_PATTERN)
_WILDCARD = re.compile(rb"[*?\[]")
_SPECIAL = re.compile(rb"([\\*?\[\]])")
_TASK_ID_RUN = rb"([A-Za-z0-9_.-]++)"


@dataclass(frozen=True)
class KeyPattern:
    """One pattern in two parts: the literal bytes before the task id, and the glob behind it."""

    head: bytes
    tail: bytes

    @classmethod
    def parse(cls, text: str) -> "KeyPattern":
        """The pattern written as `text`; ValueError where it could name the keys of another task."""
        if _KEY_PATTERN.fullmatch(text) is None:
            raise ValueError(f"{text!r} is not a key pattern: it holds {PLACEHOLDER} once, wildcards behind it only")
        head, _, tail = text.partition(PLACEHOLDER)
        return cls(head.encode(), tail.encode())

    @property
    def has_wildcard(self) -> bool:
        """Whether one task can have many keys under this pattern."""
        return _WILDCARD.search(self.tail) is not None

    def exact_key(self, task_id: str) -> bytes | None:
        """The one key of a task, or None where the pattern has a wildcard."""
        if self.has_wildcard:
            return None
        return self.head + require_task_id(task_id).encode() + self.tail

    def nobodys_key(self, token: str) -> bytes:
        """A key of the same shape that belongs to no task: what a probe may name. `token` makes it unique."""
        return self.head + NOBODY + token.encode() + self.tail

    def scan_match(self, task_id: str | None) -> bytes:
        """The MATCH for the keys of one task, or of all tasks (None)."""
        middle = b"*" if task_id is None else escape(require_task_id(task_id).encode())
        return escape(self.head) + middle + self.tail

    def literal_start(self, task_ids: Collection[str]) -> bytes:
        """The bytes, unescaped, that every key of these tasks begins with."""
        start = self.head + _common_start([require_task_id(task_id).encode() for task_id in task_ids])
        return start + _WILDCARD.split(self.tail, maxsplit=1)[0] if len(task_ids) == 1 else start

    def match(self, key: bytes) -> str | None:
        """The id of the task that `key` belongs to by its position, or None."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        task_id = found[1].decode("ascii")
        return task_id if is_task_id(task_id) else None

    @cached_property
    def _regex(self) -> re.Pattern[bytes]:
        return re.compile(re.escape(self.head) + _TASK_ID_RUN + translate_glob(self.tail), re.DOTALL)


def escape(literal: bytes) -> bytes:
    """`literal` as a MATCH that stands for itself."""
    return _SPECIAL.sub(rb"\\\1", literal)


def build_scan_match(patterns: Sequence[KeyPattern], task_ids: Collection[str]) -> bytes | None:
    """One MATCH for all keys of all patterns, of these tasks (at least one); None where they share nothing."""
    if len(patterns) == 1:
        (pattern,) = patterns
        if len(task_ids) == 1:
            return pattern.scan_match(*task_ids)
        return escape(pattern.literal_start(task_ids)) + b"*" + pattern.tail
    shared = _common_start([pattern.literal_start(task_ids) for pattern in patterns])
    return escape(shared) + b"*" if shared else None


def _common_start(texts: Sequence[bytes]) -> bytes:
    # What the least and the greatest text share, all between them share too.
    least, greatest = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    return least[:length]


class KeyOwners:
    """Whose a key is, of some tasks, by all patterns of a store. Made for pages of which few keys are anybody's."""

    def __init__(self, patterns: Sequence[KeyPattern], task_ids: Collection[str]) -> None:
        """Raises ValueError for what is no task id."""
        self._patterns = patterns
        self._ids = frozenset(require_task_id(task_id).encode() for task_id in task_ids)
        known = (pattern.exact_key(task_id) for task_id in task_ids for pattern in patterns)
        self._known_keys = frozenset(key for key in known if key is not None)
        self._places = {(len(wild.head), wild.tail[:1]) for wild in patterns if wild.has_wildcard}

    def find(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, set[str]]]:
        """Each key once that may be of one of the tasks, with all ids that the patterns give it to."""
        for key in self._select(keys):
            owners = {owner for pattern in self._patterns if (owner := pattern.match(key)) is not None}
            if owners:
                yield key, owners

    def _select(self, keys: Sequence[bytes]) -> Collection[bytes]:
        """The keys that hold one of the ids at its place, and maybe some others: what is left is compared in full.

        An id ends where the literal byte behind it stands, which no id holds.
        """
        ids = self._ids
        found = dict.fromkeys(self._known_keys.intersection(keys))
        for place, end in self._places:
            found.update(dict.fromkeys([key for key in keys if key[place : key.find(end, place)] in ids]))
        return found


def translate_glob(glob: bytes) -> bytes:
    """The regular expression (for fullmatch, with DOTALL) of a glob of Redis: `*`, `?`, `[abc]`, `[^a]`, `[a-z]`.

    Every star but the last becomes an atomic group, so that no pattern can make matching take exponential time.
    """
    parts: list[bytes] = [b""]
    position = 0
    while position < len(glob):
        character = glob[position : position + 1]
        position += 1
        if character == b"*":
            parts.append(b"")
        elif character == b"[":
            translated, position = _translate_class(glob, position)
            parts[-1] += translated
        else:
            parts[-1] += b"." if character == b"?" else re.escape(character)
    return _join_at_stars(parts)


def _join_at_stars(parts: list[bytes]) -> bytes:
    first, *rest = parts
    if not rest:
        return first
    *middle, last = rest
    return first + b"".join(b"(?>.*?" + part + b")" for part in middle if part) + b".*" + last


def _translate_class(glob: bytes, position: int) -> tuple[bytes, int]:
    """The class that begins behind `[`, and the position behind it. Like Redis: an open class ends with the glob."""
    negated = glob[position : position + 1] == b"^"
    position += negated
    members: set[int] = set()
    while position < len(glob) and glob[position] != ord("]"):
        if glob[position + 1 : position + 2] == b"-" and position + 2 < len(glob):
            low, high = sorted((glob[position], glob[position + 2]))
            members.update(range(low, high + 1))
            position += 3
        else:
            members.add(glob[position])
            position += 1
    return _write_class(members, negated=negated), position + 1


def _write_class(members: set[int], *, negated: bool) -> bytes:
    if not members:
        return b"." if negated else b"(?!)"
    return b"[" + b"^" * negated + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]"
