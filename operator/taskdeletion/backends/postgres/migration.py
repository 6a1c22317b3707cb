"""The migration that adds the columns which a pipeline's own schema may lack. Named in messages, printed in the docs.

Called by the probe and whoever writes documentation. Never applied by the operator: the tables belong to the pipeline.
"""

from importlib.resources import files

MIGRATION_FILE = "0001_directory_exists_and_updated_at.sql"


def read_migration() -> str:
    """The text of the migration, for the default table names."""
    return (files("taskdeletion") / "migrations" / MIGRATION_FILE).read_text(encoding="utf-8")
