"""Sizes as they are shown."""

import pytest

from tlx.base.memory import size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (37_760, "37.8 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (2_071_000_000, "2.07 GB"),
        (5.5e12, "5.5 TB"),
        (1.2345e16, "12,345 TB"),
    ],
)
def test_no_size_is_shown_as_nothing(num_bytes, text):
    assert size_text(num_bytes) == text
