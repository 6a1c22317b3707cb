"""What the role may do with the two tables, asked before anything is touched.

Called by the probe and by a claim that will delete records. Reads the system catalog only.
"""

from typing import Final

from psycopg import sql

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.tables import STEP_COLUMNS, TASK_COLUMNS, WRITER_COLUMN, CatalogTables

MARKED_COLUMNS: Final = ("updated_at", "directory_exists")
_COLUMNS = sql.SQL(
    "SELECT coalesce(bool_and(has_column_privilege(a.attrelid, a.attnum, %(privilege)s)), FALSE)"
    " FROM pg_catalog.pg_attribute a WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = ANY(%(columns)s::text[])"
)
_DELETE = sql.SQL("SELECT coalesce(has_table_privilege(to_regclass(%(table)s)::oid, 'DELETE'), FALSE)")


def find_missing_privileges(connection: CatalogConnection, tables: CatalogTables, *, with_records: bool) -> list[str]:
    """What the role lacks, such as "UPDATE on data_pipeline_tasks". `with_records`: DELETE is needed as well."""
    tasks, steps = tables.tasks_table, tables.steps_table
    quoted = {tasks: tables.quoted_names["tasks"], steps: tables.quoted_names["steps"]}
    readable = (*TASK_COLUMNS, WRITER_COLUMN)  # a system column is readable with SELECT on the whole table only
    needed = [("SELECT", tasks, readable), ("UPDATE", tasks, MARKED_COLUMNS), ("SELECT", steps, STEP_COLUMNS)]
    missing = [
        f"{privilege} on {table}"
        for privilege, table, columns in needed
        if not _ask(connection, _COLUMNS, privilege=privilege, table=quoted[table], columns=list(columns))
    ]
    if with_records:
        missing += [f"DELETE on {t}" for t in (tasks, steps) if not _ask(connection, _DELETE, table=quoted[t])]
    return missing


def _ask(connection: CatalogConnection, query: sql.SQL, **parameters: object) -> bool:
    row = connection.execute(query, parameters).fetchone()
    return row is not None and bool(row[0])
