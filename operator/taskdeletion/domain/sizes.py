"""Bytes for people: SI units, as disks are sold and `ls --si` prints. Pure; used for status fields."""

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def format_size(size_bytes: int) -> str:
    """`0 B`, `999 B`, `2.6 MB`: SI units with one decimal from kB on."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in _UNITS:
        value /= 1000
        if value < 999.95 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}"
    raise AssertionError("the last unit ends the loop")
