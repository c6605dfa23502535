"""The parts of a page that have changed: with the earlier version, they give the later one."""

from __future__ import annotations

import re

import hypothesis
from hypothesis import strategies

from mopsjobs.web.page_parts import Element, PageVersion

Rows = list[tuple[str, str]]


def page(rows: Rows, *, title: str = "Jobs", head: str = "", others: str = "", state: str = "quiet") -> str:
    """Return a page with a table of two bodies, whose rows have keys, and a section without keys."""
    half = len(rows) // 2
    bodies = "\n".join(
        f'  <tbody data-key="{name}">\n'
        + "".join(
            f'  <tr data-key="{key}"><td>{text}</td><td><time title="x">{text}</time></td></tr>\n' for key, text in part
        )
        + "  </tbody>"
        for name, part in (("running", rows[:half]), ("ended", rows[half:]))
    )
    return (
        f'<!doctype html><html><head><title>{title}</title></head><body data-follow="page" data-version="">'
        f'<p id="fresh" data-live data-now="1">{head}</p><h1>Jobs</h1><div class="wide">'
        f'<table id="jobs" data-live>\n<caption>{others}</caption>\n{bodies}\n</table></div>'
        f'<section class="a" id="state" data-live><section><p>{state}</p></section></section><p>{head}</p>'
        "</body></html>"
    )


def applied(delta: str, old: PageVersion) -> dict[str, str]:
    """Return the parts of a page after its script has taken a delta: marks stand for elements of the old page."""
    parts = {key: "".join(part.pieces()) for key, part in old.parts.items()}
    for key, part in PageVersion(delta).parts.items():
        if key != "fresh":
            parts[key] = "".join(_resolved(part, old.parts.get(key)))
    return parts


def _resolved(part: Element, old: Element | None) -> str:
    before = {} if old is None else {one.key: one for one in old.children if isinstance(one, Element)}
    order = list(before.values())
    text = part.open
    for child in part.children:
        if isinstance(child, Element):
            text += _resolved(child, before.get(child.key))
            continue
        for piece in re.split(r"(<\w+ data-same=[^>]*></\w+>)", child):
            mark = re.fullmatch(r'<(\w+) data-same="(.*?)" data-count="(\d+)"></\1>', piece)
            if mark is None:
                text += piece
                continue
            first = order.index(before[mark[2]])
            run = order[first : first + int(mark[3])]
            assert len(run) == int(mark[3])
            text += "".join("".join(one.pieces()) for one in run)
    return text + f"</{part.tag}>"


def comparable(text: str) -> str:
    """Return a text without white space and without the texts of times, which the script counts."""
    return re.sub(r"\s+", "", re.sub(r"(<time [^>]*>)[^<]*", r"\1", text))


ROWS = strategies.lists(
    strategies.tuples(strategies.sampled_from("abcdefgh"), strategies.sampled_from(("1/2", "2/2", "&lt;b&gt;"))),
    unique_by=lambda row: row[0],
    max_size=8,
)


@hypothesis.given(before=ROWS, after=ROWS, others=strategies.sampled_from(("3 jobs", "4 jobs")))
def test_old_parts_and_changes_give_the_new_page(before: Rows, after: Rows, others: str) -> None:
    """Whatever rows came, went, moved or changed."""
    old, new = PageVersion(page(before, others="3 jobs")), PageVersion(page(after, others=others, title="(1 failed)"))
    delta = new.changes(old)
    assert f'data-base="{old.token}"' in delta
    expected = {key: comparable("".join(part.pieces())) for key, part in new.parts.items() if key != "fresh"}
    found = {key: comparable(text) for key, text in applied(delta, old).items() if key != "fresh"}
    assert found == expected


def test_one_row_of_many_costs_one_row() -> None:
    """All others are two marks; the section, and what lies outside of parts, is not sent."""
    rows = [(f"job-{number}", "1/2") for number in range(100)]
    changed = [*rows[:70], ("job-70", "2/2"), *rows[71:]]
    delta = PageVersion(page(changed)).changes(PageVersion(page(rows)))
    assert delta.count("<td>") == 2
    assert 'data-same="job-50" data-count="20"' in delta
    assert 'data-same="job-71" data-count="29"' in delta
    assert 'data-same="running" data-count="1"' in delta
    assert "<section" not in delta
    assert "<h1>" not in delta


def test_time_alone_is_no_change() -> None:
    """Neither the age of the data, nor how long ago something was: the script counts both."""
    old = PageVersion(page([("a", "1")], head="synced 1s ago"))
    new = PageVersion(page([("a", "1")], head="synced 9s ago").replace(">1</time>", ">2</time>"))
    assert old.digest == new.digest
    assert PageVersion(page([("a", "1")], title="(1 failed)")).digest != old.digest
    assert PageVersion(page([("a", "1")], state="busy")).digest != old.digest


def test_elements_with_equal_keys_are_sent_whole() -> None:
    """A mark could stand for either of them."""
    rows = [("a", "1"), ("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("d", "1")]
    assert "data-same" not in PageVersion(page([*rows, ("e", "1"), ("f", "1")])).changes(PageVersion(page(rows)))


def test_a_new_part_is_sent_whole() -> None:
    """The script then loads the page anew."""
    old = PageVersion(page([("a", "1")]))
    text = page([("a", "1")]).replace("</body>", '<section id="failures" data-live><p>3</p></section></body>')
    assert '<section id="failures" data-live><p>3</p></section>' in PageVersion(text).changes(old)


def test_text_of_a_record_is_no_mark_and_no_part() -> None:
    """Values are escaped: no tag, no quotes."""
    value = "&lt;tr data-same=&#34;a&#34; data-count=&#34;9&#34;&gt; data-live id=x data-key=&#34;b&#34;"
    old, new = PageVersion(page([("a", "1")])), PageVersion(page([("a", value), (value, "2")], others=value))
    assert set(new.parts) == {"fresh", "jobs", "state"}
    assert comparable(applied(new.changes(old), old)["jobs"]) == comparable("".join(new.parts["jobs"].pieces()))
