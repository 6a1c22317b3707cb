"""Finds rows of other tables (and other tasks) that refer to the rows of a task by a foreign key, whatever its action.

Called by the claim and by the deletion of records. CASCADE and SET NULL would change rows that nobody named, RESTRICT
and NO ACTION would let the deletion fail: with such a row the records of a task do not go. Changes nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from psycopg import sql

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.identifiers import identifier
from taskdeletion.backends.postgres.tables import CatalogTables, named

Role = Literal["tasks", "steps"]
_CHANGES_ROWS: Final = frozenset("cnd")  # CASCADE, SET NULL, SET DEFAULT

# Constraints that refer to the tables or to what inherits from them (partitions). The copies that PostgreSQL keeps per
# partition (conparentid) are left out where the constraint they copy is in the list itself.
_CONSTRAINTS = sql.SQL("""
WITH RECURSIVE family(role, oid) AS (
    VALUES ('tasks', to_regclass(%(tasks)s)::oid), ('steps', to_regclass(%(steps)s)::oid)
    UNION SELECT f.role, i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
)
SELECT c.conname::text, target.role, source.role, c.confdeltype::text,
       ARRAY[tn.nspname, t.relname]::text[], ARRAY[rn.nspname, r.relname]::text[],
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(number, position)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.position),
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(number, position)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.position),
       has_schema_privilege(r.relnamespace, 'USAGE') AND NOT row_security_active(r.oid)
       AND (SELECT bool_and(has_column_privilege(c.conrelid, k, 'SELECT')) FROM unnest(c.conkey) k)
       AND (SELECT bool_and(has_column_privilege(c.confrelid, k, 'SELECT')) FROM unnest(c.confkey) k)
FROM pg_catalog.pg_constraint c
JOIN family target ON target.oid = c.confrelid
JOIN pg_catalog.pg_class t ON t.oid = c.confrelid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
LEFT JOIN family source ON source.oid = c.conrelid
WHERE c.contype = 'f' AND NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_constraint p JOIN family f ON f.oid = p.confrelid WHERE p.oid = c.conparentid)
ORDER BY rn.nspname, r.relname, c.conname
""")
_REFERRED = sql.SQL("SELECT DISTINCT p.task_id::text FROM {target} p WHERE {named} AND EXISTS ({referring})")
_REFERRING = sql.SQL("SELECT 1 FROM {source} r WHERE {pairs}")
# A row of a task that goes in the same statement holds up nothing.
_OF_ANOTHER_TASK = sql.SQL(' AND coalesce(r.task_id::text COLLATE "C" <> ALL(%(ids)s::text[]), TRUE)')


@dataclass(frozen=True)
class ForeignKey:
    """A constraint: `columns` of `source` refer to `target_columns` of `target`. Roles: which table of ours."""

    constraint: str
    target_role: Role
    source_role: Role | None
    on_delete: str
    target: tuple[str, ...]
    source: tuple[str, ...]
    target_columns: tuple[str, ...]
    columns: tuple[str, ...]
    is_readable: bool

    def __str__(self) -> str:
        return f"{'.'.join(self.source)} ({self.constraint})"

    @property
    def is_step_to_its_task(self) -> bool:
        """Whether it is the link that the two tables are expected to have: its rows always go together."""
        same_column = self.columns == self.target_columns == ("task_id",)
        return self.source_role == "steps" and self.target_role == "tasks" and same_column

    @property
    def changes_rows_of_steps(self) -> bool:
        """Whether deleting a step would silently delete or change rows elsewhere."""
        return self.target_role == "steps" and self.on_delete in _CHANGES_ROWS


def read_foreign_keys(connection: CatalogConnection, tables: CatalogTables) -> list[ForeignKey]:
    """All constraints that refer to the two tables, without the link from steps to tasks. Raises psycopg.Error."""
    found = []
    for name, target_role, source_role, on_delete, *relations, is_readable in connection.execute(
        _CONSTRAINTS, tables.quoted_names
    ):
        target, source, target_columns, columns = (tuple(names) for names in relations)
        key = ForeignKey(
            name, target_role, source_role, on_delete, target, source, target_columns, columns, bool(is_readable)
        )
        found.append(key)
    return [key for key in found if not key.is_step_to_its_task]


def find_references(
    connection: CatalogConnection, keys: Collection[ForeignKey], task_ids: Collection[str]
) -> Mapping[str, str]:
    """Which of these tasks have rows that something else refers to, and by which constraint. Raises psycopg.Error.

    A task that has to stay can itself refer to others of `task_ids`: the search goes on until nothing more is found.
    """
    found: dict[str, str] = {}
    remaining = set(task_ids)
    while remaining:
        more = {task_id: str(why) for key in keys for task_id, why in _ask(connection, key, remaining)}
        if not more:
            break
        found.update(more)
        remaining -= more.keys()
    return found


def _ask(connection: CatalogConnection, key: ForeignKey, task_ids: Collection[str]) -> list[tuple[str, str]]:
    if not key.is_readable:
        return [(task_id, f"{key}, which could not be checked: no SELECT") for task_id in task_ids]
    rows = connection.execute(_build_query(key), {"ids": sorted(task_ids)})
    return [(str(task_id), str(key)) for (task_id,) in rows]


def _build_query(key: ForeignKey) -> sql.Composed:
    pairs = [
        sql.SQL("{} = {}").format(identifier("r", column), identifier("p", referred))
        for column, referred in zip(key.columns, key.target_columns, strict=True)
    ]
    referring = _REFERRING.format(source=identifier(*key.source), pairs=sql.SQL(" AND ").join(pairs))
    if key.source_role is not None:
        referring += _OF_ANOTHER_TASK
    return _REFERRED.format(target=identifier(*key.target), named=named(sql.SQL("p.task_id")), referring=referring)
