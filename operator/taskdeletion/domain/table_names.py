"""The name of a table as a TaskStore spells it: one or two parts, each plain or in double quotes as in SQL.

Used by the PostgreSQL backend and by the comparison of stores. Pure. A part is taken exactly as written: nothing is
folded to lower case, quoted or not.
"""

import re
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault

#: NAMEDATALEN - 1. The server cuts what is longer, and would then mean another table.
MAX_BYTES: Final = 63
_PART: Final = r'[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"\x00-\x1f\x7f]|"")+"'
_NAME: Final = re.compile(rf"({_PART})(?:\.({_PART}))?")


def parse_table_name(text: str) -> tuple[str, ...]:
    """The parts of a name: (table,) or (schema, table). Raises Fault (waiting, StoreInvalid)."""
    found = _NAME.fullmatch(text)
    if found is None:
        raise _invalid(text, 'write for example archive.tasks, or "Data-Tasks" in double quotes')
    parts = tuple(_unquote(part) for part in found.groups() if part is not None)
    if any(len(part.encode()) > MAX_BYTES for part in parts):
        raise _invalid(text, f"a part is longer than {MAX_BYTES} bytes, which PostgreSQL would cut")
    return parts


def _unquote(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _invalid(text: str, why: str) -> Fault:
    return Fault("waiting", reasons.STORE_INVALID, f"spec.catalog.postgres: {text} names no table: {why}")
