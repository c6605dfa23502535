"""Tables are fitted to a width: ids whole, other cells cut, then columns dropped."""

from __future__ import annotations

import pytest

from mopsjobs.console.result import Table
from mopsjobs.console.table import format_table
from mopsjobs.console.terminal import display_width

ID = "i" * 63


def _table(job_id: str = ID, owner: str = "田中太郎") -> Table:
    headers = ("JOB", "STATUS", "OWNER", "NOTE")
    rows = [["a", "running", "ada", "x" * 30], [job_id, "failed", owner, "🚀 e\u0301"]]
    return Table(headers, rows, never_cut=("JOB",), drop_order=("NOTE", "OWNER"))


def _format(table: Table, width: int | None) -> tuple[list[str], list[str]]:
    return format_table(table, width, lambda text, _style: text)


def test_a_pipe_gets_every_cell_whole() -> None:
    """The columns are aligned by what a terminal shows."""
    assert _format(_table("job.2"), None) == (
        [
            "JOB    STATUS   OWNER     NOTE",
            "a      running  ada       " + "x" * 30,
            "job.2  failed   田中太郎  🚀 e\u0301",
        ],
        [],
    )


def test_cells_are_cut_before_a_column_is_dropped() -> None:
    """The widest column gives way first."""
    lines, dropped = _format(_table("job.2"), 45)
    assert lines[1] == "a      running  ada       xxxxxxxxxxxxxxxxxx…"
    assert not dropped
    assert _format(_table("job.2"), 37) == (
        ["JOB    STATUS   OWNER", "a      running  ada", "job.2  failed   田中太郎"],
        ["NOTE"],
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("job_id", ["a", "i" * 25, "i" * 40, ID])
def test_lines_fit_and_ids_are_whole(job_id: str, width: int) -> None:
    """A line is longer than the terminal only where an id alone is."""
    lines, _ = _format(_table(job_id, "田" * 50), width)
    assert all(display_width(line) <= width or line == job_id for line in lines)
    assert any(line.startswith(job_id) for line in lines)
    assert any("failed" in line for line in lines)


def test_an_id_without_room_beside_it_has_its_own_line() -> None:
    """The other columns follow below, all that fit into the width."""
    lines, dropped = _format(_table(), 60)
    assert lines[:2] == ["JOB", "  STATUS   OWNER     NOTE"]
    assert lines[4:] == [ID, "  failed   田中太郎  🚀 e\u0301"]
    assert not dropped


def test_a_table_that_cannot_fit_is_not_cut() -> None:
    """Cutting would lose text and win nothing: the terminal breaks the lines."""
    table = Table(("WHAT", "VALUE"), [("prometheus-client", "v" * 90)], never_cut=("VALUE",))
    assert _format(table, 60)[0][1] == "prometheus-client  " + "v" * 90
