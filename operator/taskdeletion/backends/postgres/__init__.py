"""The PostgreSQL catalog: tasks and their steps as rows of two tables, of which the operator is only a guest.

Imported by `bootstrap` and the workflow. No other room imports psycopg; no session state is relied on (PgBouncer).
"""

from taskdeletion.backends.postgres.catalog import PostgresCatalog
from taskdeletion.backends.postgres.connection import PostgresConnection, Timeouts
from taskdeletion.backends.postgres.migration import MIGRATION_FILE, read_migration
from taskdeletion.backends.postgres.tables import CatalogTables

__all__ = [
    "MIGRATION_FILE",
    "CatalogTables",
    "PostgresCatalog",
    "PostgresConnection",
    "Timeouts",
    "read_migration",
]
