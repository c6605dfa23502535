"""Sizes of memory and factors of growth, as texts."""

from __future__ import annotations

import pytest

from mopsjobs.utils.sizes import format_size, parse_factor, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("2 gib", 2 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("512Mi", 2**29),
        ("4G", 4_000_000_000),
        ("64k", 64_000),
        ("1000B", 1000),
    ],
)
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "2", "GiB", "-1GiB", "0GiB", "0.0001B", "2GiBs", "1e3MB", "x2", "٢GiB", "9" * 15 + "TiB"]
)
def test_other_texts_are_no_sizes(text: str) -> None:
    assert parse_size(text) is None


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    """Of 1,000 or of 1,024, whichever takes fewer characters: as it was typed."""
    sizes = (2**31, 3 * 2**29, 200_000_000, 1_500_000_000, 300_000_001)
    assert [format_size(size) for size in sizes] == ["2GiB", "1536MiB", "200MB", "1500MB", "300000001B"]


@pytest.mark.parametrize(("text", "factor"), [("x2", 2.0), ("x1.5", 1.5), ("x1000", 1000.0)])
def test_a_factor_is_above_one(text: str, factor: float) -> None:
    assert parse_factor(text) == factor
