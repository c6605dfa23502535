"""The search box: which words are filters, and what the page shows of them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mopsjobs.errors import UsageError
from mopsjobs.web.queries.search_box import box_filters, describe_filters, expand_search, switches, token


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("night 7", None),
        ('"owner:ada"', None),
        ("owner:ada night", [("owner", "ada"), ("q", "night")]),
        ('owner:"ada l" is:stuck', [("owner", "ada l"), ("stuck", "true")]),
        ("status:failed status:partial", [("status", "failed,partial")]),
        ("label:a label:b=1 label:a", [("label", "a"), ("label", "b=1")]),
        ("hours:2 hours:3", [("hours", "3")]),
    ],
)
def test_words_with_a_name_are_filters(text: str, params: list[tuple[str, str]] | None) -> None:
    assert expand_search([("q", text)]) == params


@pytest.mark.parametrize("text", ["ownr:ada", "is:nothing", "a b:c"])
def test_a_filter_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected one of"):
        expand_search([("q", text)])


@given(st.sampled_from(sorted({*box_filters()} - {*switches()})), st.text("ab=:><", min_size=1, max_size=6))
def test_a_chip_is_written_as_it_is_read(name: str, value: str) -> None:
    """What a chip shows can be typed into the box, and leads to the same filter."""
    assert expand_search([("q", token(name, value))]) == [(name, value)]


def test_each_chip_removes_its_own_filter() -> None:
    """A list has one. Order and the page number have none."""
    params = [("owner", "ada,bob"), ("stuck", "true"), ("sort", "name"), ("page", "2"), ("q", "x y"), ("hours", "")]
    chips = dict(describe_filters(params))
    assert set(chips) == {"owner:ada,bob", "is:stuck", '"x y"'}
    assert "owner" not in dict(chips["owner:ada,bob"])
    assert not [one for others in chips.values() for one in others if one[0] == "page"]
    assert ("stuck", "true") not in chips["is:stuck"]
    assert describe_filters([("stuck", "false")]) == []
    assert all(dict(describe_filters([(flag, "true")])) == {f"is:{flag}": []} for flag in switches())


def test_a_filter_that_another_one_replaces_has_no_chip() -> None:
    """Of several values only the last one counts, unless all of them must hold. Its chip removes them all."""
    params = [("owner", "ada"), ("label", "a"), ("owner", "bob"), ("label", "b"), ("owner", "")]
    assert [(text, dict(others).get("owner")) for text, others in describe_filters(params)] == [
        ("label:a", ""),
        ("owner:bob", None),
        ("label:b", ""),
    ]
