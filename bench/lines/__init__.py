"""The lines of the table, one module per kind of work; each module has `LINES`."""
