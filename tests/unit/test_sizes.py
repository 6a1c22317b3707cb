"""Bytes for people."""

import pytest

from taskdeletion.domain.sizes import format_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (1051, "1.1 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2_621_440, "2.6 MB"),
        (10**9, "1.0 GB"),
        (10**12, "1.0 TB"),
        (10**15, "1.0 PB"),
        (2**63 - 1, "9.2 EB"),
        (10**22, "10000.0 EB"),
    ],
)
def test_sizes_are_written_in_si_units(size: int, text: str) -> None:
    assert format_size(size) == text


def test_the_longest_text_fits_into_the_field() -> None:
    assert max(len(format_size(10**power - 1)) for power in range(1, 24)) <= 32
