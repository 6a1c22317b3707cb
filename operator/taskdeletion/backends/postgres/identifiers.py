"""The names of tables and columns in statements that have parameters. Used by the other files of this package."""

from psycopg import sql


def identifier(*parts: str) -> sql.Identifier:
    """A name for a statement with parameters, in which a percent sign stands for itself only when it is doubled."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))
