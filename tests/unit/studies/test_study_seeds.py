"""Tasks by their seeds."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.studies import study


@pytest.mark.parametrize("chunk", [1, 3, 500_000])
@given(
    drawn=st.lists(st.integers(0, 5) | st.just(2**32 - 1), max_size=12),
    named=st.lists(st.sampled_from([0, 3, 2**32 - 1, 2**32, 2**64 - 1]), max_size=6),
)
def test_the_index_of_seeds_tells_what_a_dict_would(chunk: int, drawn: list[int], named: list[int]) -> None:
    """Whatever is sorted at once; a seed that was named may be one that was drawn."""
    tasks = [(seed, number) for number, seed in enumerate([*drawn, *named])]
    expected: dict[int, list[int]] = {}
    for seed, number in tasks:
        expected.setdefault(seed, []).append(number)
    with mock.patch.object(study, "_CHUNK", chunk):
        index = study.SeedIndex(tasks[: len(drawn)], tasks[len(drawn) :])
    for seed in (*range(7), 2**32 - 1, 2**32, 2**64 - 1, 2**70):
        assert index.numbers(seed) == index.numbers_of_text(str(seed)) == expected.get(seed, [])
    assert sorted(index.duplicate_groups()) == sorted(numbers for numbers in expected.values() if len(numbers) > 1)


@pytest.mark.parametrize("text", ["", "00", "01", "+1", "1_0", "-0", " 1", "\u0661", "1" * 21])
def test_what_is_no_seed_in_its_one_form_is_that_of_no_task(text: str) -> None:
    """Else two keys would be outputs of one task."""
    assert study.SeedIndex([(seed, seed) for seed in range(20)], ()).numbers_of_text(text) == []
