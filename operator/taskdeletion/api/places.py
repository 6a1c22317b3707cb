"""What the locations of a TaskStore have in common: immutability, key patterns, the Secrets of Redis servers.

Used by the parts of a TaskStore beside it. Holds no kind of its own.
"""

from typing import Annotated, Final

from pydantic import Field

from taskdeletion.api.common import rule, with_rules

# An id holds letters, digits, '_', '-' and '.': on both sides of {taskId} stands nothing, or something else.
SEPARATOR: Final = r"[^A-Za-z0-9_.*?\[\]\\{}-]"
KEY_PATTERN_PATTERN: Final = (
    r"^([^*?\[\]\\{}]*([^A-Za-z0-9_.*?\[\]\\{}-]|\{))?\{taskId\}((\}|[^A-Za-z0-9_.*?\[\]\\{}-])[^\\{}]*)?$"
)
REDIS_REFERENCE: Final = (
    "Secret with the key `url` (redis://user:password@host:port/database or rediss://…; for a cluster any of its nodes)"
    " and optional `ca.crt`, `tls.crt`, `tls.key`."
)

KeyPattern = Annotated[
    str,
    Field(
        min_length=8,
        max_length=256,
        json_schema_extra=with_rules(
            rule("self.split('{taskId}').size() == 2", "a key pattern holds {taskId} exactly once"),
            rule(
                f"self.matches(r'{KEY_PATTERN_PATTERN}')",
                "this pattern could match the keys of another task: on both sides of {taskId} stands"
                " nothing, or a character that is no letter, digit, '_', '-', '.', '*', '?', '[' or ']';"
                " wildcards stand behind it only; write for example task:{taskId}:*",
            ),
        ),
    ),
]


def fixed_choice(path: str, part: str, field_path: str) -> dict[str, str]:
    """The CEL rule that an optional part of an object is neither added nor removed. `path`: of the part, below spec."""
    return rule(
        f"has(self.{part}) == has(oldSelf.{part})",
        f"spec.{path} cannot be added or removed: a store that moves is a new store, create another TaskStore",
        field_path,
        reason="FieldValueForbidden",
    )


def immutable(path: str) -> dict[str, str]:
    """The CEL rule that keeps the field at the end of `path` (below spec) as it was created."""
    name = path.rpartition(".")[2]
    return rule(
        f"self.{name} == oldSelf.{name}",
        f"spec.{path} is immutable: a store that moves is a new store, create another TaskStore",
        f".{name}",
        reason="FieldValueForbidden",
    )
