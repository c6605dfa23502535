"""The report of the benchmarks, and cases that may fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench.measure import Case, in_turn
from bench.report import Line, markdown


def test_a_section_that_was_not_measured_again_stays() -> None:
    """Sections that people wrote by hand stay, too."""
    first = markdown(
        {"Syncs": [Line("old sync", "1 s", "", None)], "Peers": [Line("old peer", "2 s", "", None)]}, {}, ""
    )
    again = markdown({"Peers": [Line("new peer", "3 s", "", None)]}, {}, "", f"{first}## By hand\n\nA remark.\n")
    assert all(text in again for text in ("| old sync |", "| new peer |", "## By hand\n\nA remark."))
    assert "old peer" not in again


def test_a_case_that_may_fail_keeps_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    """The error has what the process printed."""
    failing = Case([sys.executable, "-c", "import sys; sys.exit('cannot start')"], dict(os.environ), may_fail=True)
    other = Case([sys.executable, "-c", "pass"], dict(os.environ))
    in_turn([failing, other], 2, tmp_path, warms_up=False)
    assert "cannot start" in failing.error
    assert (len(failing.samples), len(other.samples)) == (0, 2)
