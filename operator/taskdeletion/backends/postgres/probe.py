"""Looks whether the catalog can be worked with: reachable, complete, permitted, writable.

Called for the TaskStore's Ready condition. Changes nothing, and reports every problem it can see at once.
"""

from typing import Final

from psycopg import sql

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.migration import MIGRATION_FILE
from taskdeletion.backends.postgres.privileges import MARKED_COLUMNS, find_missing_privileges
from taskdeletion.backends.postgres.tables import STEP_COLUMNS, TASK_COLUMNS, CatalogTables
from taskdeletion.backends.postgres.transactions import READ, Transactions
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem

TIME_TYPES: Final = ("timestamp without time zone", "timestamp with time zone", "date")
_COLUMNS = sql.SQL(
    "SELECT a.attname::text, coalesce(nullif(y.typbasetype, 0), y.oid)::regtype::text, y.typcategory::text"
    " , a.attgenerated::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid"
    " WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped"
)
_TABLE = sql.SQL(
    "SELECT c.oid, c.relkind::text, row_security_active(c.oid) FROM pg_catalog.pg_class c"
    " WHERE c.oid = to_regclass(%(name)s)"
)
_READ_ONLY = sql.SQL("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean")


def probe_catalog(transactions: Transactions, tables: CatalogTables) -> list[Problem]:
    """What is wrong; see PostgresCatalog.probe."""
    try:
        _ = tables.zone
        return transactions.run(lambda connection: _examine(connection, tables), mode=READ)
    except Fault as fault:
        return [Problem(fault.reason, fault.message)]


def _examine(connection: CatalogConnection, tables: CatalogTables) -> list[Problem]:
    schema = [
        *_examine_table(connection, tables.tasks_table, tables.quoted_names["tasks"], TASK_COLUMNS),
        *_examine_table(connection, tables.steps_table, tables.quoted_names["steps"], STEP_COLUMNS),
    ]
    # What a table does not have, nobody can have a right to.
    privileges = [] if schema else _examine_privileges(connection, tables)
    return [*schema, *privileges, *_examine_mode(connection)]


def _examine_table(connection: CatalogConnection, table: str, quoted: str, columns: tuple[str, ...]) -> list[Problem]:
    oid, kind, is_hiding = connection.execute(_TABLE, {"name": quoted}).fetchone() or (None, "", False)
    if oid is None:
        return [Problem(reasons.SCHEMA_MISSING, f"the table {table} does not exist")]
    if kind not in ("r", "p"):  # a view hides the foreign keys of the tables below it, and may drop what is written
        return [Problem(reasons.SCHEMA_MISSING, f"{table} is no ordinary table; name the table itself")]
    if is_hiding:
        message = f"row-level security hides rows of {table} from the role; give it BYPASSRLS or another role"
        return [Problem(reasons.PERMISSION_DENIED, message)]
    columns_found = connection.execute(_COLUMNS, {"oid": oid}).fetchall()
    types = {name: (kind, category) for name, kind, category, _ in columns_found}
    generated = [f"{name} is generated" for name, _, _, how in columns_found if how and name in MARKED_COLUMNS]
    missing = [column for column in columns if column not in types]
    wrong = [
        f"{column} is of type {types[column][0]}"
        for column in columns
        if column in types and not _fits(column, *types[column])
    ]
    return [*_missing_columns(table, missing), *_wrong_columns(table, [*wrong, *generated])]


def _fits(column: str, kind: str, category: str) -> bool:
    if column == "task_id":
        return category == "S"
    if column == "directory_exists":
        return kind == "boolean"
    return kind in TIME_TYPES if column.endswith("_at") else True


def _missing_columns(table: str, missing: list[str]) -> list[Problem]:
    if not missing:
        return []
    added = [column for column in missing if column in ("directory_exists", "updated_at")]
    advice = f"; the migration {MIGRATION_FILE} adds {' and '.join(added)}" if added else ""
    return [Problem(reasons.SCHEMA_MISSING, f"the table {table} has no column {', '.join(missing)}{advice}")]


def _wrong_columns(table: str, wrong: list[str]) -> list[Problem]:
    return [Problem(reasons.SCHEMA_MISSING, f"the table {table} cannot be used: {', '.join(wrong)}")] if wrong else []


def _examine_privileges(connection: CatalogConnection, tables: CatalogTables) -> list[Problem]:
    # DELETE is asked for by a claim that will delete rows: a role that cannot is a fine way to keep history.
    missing = find_missing_privileges(connection, tables, with_records=False)
    if not missing:
        return []
    return [Problem(reasons.PERMISSION_DENIED, f"the role lacks {', '.join(missing)}")]


def _examine_mode(connection: CatalogConnection) -> list[Problem]:
    is_standby, is_read_only = connection.execute(_READ_ONLY).fetchone() or (False, False)
    if is_standby or is_read_only:
        connection.retire()  # a session that began before the change would never see it
    if is_standby:
        return [Problem(reasons.READ_ONLY, "the server is a standby; the url has to name the primary")]
    if is_read_only:
        return [Problem(reasons.READ_ONLY, "default_transaction_read_only is on for this role or database")]
    return []
