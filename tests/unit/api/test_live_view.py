"""The live view of a job: in a notebook, on a terminal, and elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import IPython
import IPython.display
import pytest

import mopsjobs as mj
from support.cli import add, during_sleeps

if TYPE_CHECKING:
    from support.cli import Cli, Remote


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Make this process the kernel of a notebook, and return all that is displayed."""
    drawn: list[dict[str, str]] = []
    ids: set[str] = set()

    def display(content: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw
        assert not drawn
        ids.add(display_id)
        drawn.append(content)

    def update_display(content: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw
        assert display_id in ids
        drawn.append(content)

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython.display, "update_display", update_display)
    return drawn


def test_a_notebook_has_one_view_that_is_replaced(
    cli: Cli, reg: mj.Registry, shown: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the HTML of the handle, with escaped texts and without a script. Nothing is printed."""
    add(reg.app.registry, "a", "running", tasks_total=4)
    error = {"code": "X", "message": "<script>1 < 2"}
    during_sleeps(
        cli,
        _1=lambda: reg.app.registry.update_progress("a", 2, 4),
        _2=lambda: reg.app.registry.finalize_job("a", "failed", error_info=error),
    )
    assert reg.job("a").watch().status == "failed"
    counts = [content["text/plain"] for content in shown]
    assert counts == ["a: running, 0/4 tasks; live", "a: running, 2/4 tasks; live", *["a: failed, 2/4 tasks; live"] * 2]
    assert shown[-1]["text/html"] == reg.job("a")._repr_html_()
    assert "X: &lt;script&gt;1 &lt; 2" in shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_a_view_of_an_outage_says_how_old_it_is(cli: Cli, remote: Remote, shown: list[dict[str, str]]) -> None:
    """While the registry does not answer, and when the time is up meanwhile."""
    add(remote.jobs, "a", "running")
    with mj.Registry(cli.app()) as reg:
        during_sleeps(cli, _1=lambda: setattr(remote.store, "down", True))
        with pytest.raises(mj.StoreUnavailableError):
            mj.Job(reg, "a").watch("7s")
    ages = [content["text/plain"].partition("; ")[2] for content in shown]
    assert ages[0] == "live"
    assert ages[1] == "read 5s ago. Cannot reach the registry: connection refused. Trying again"
    assert ages[-1] == "read 7s ago, no longer redrawn; the job goes on"


def test_a_view_says_that_the_time_is_up(reg: mj.Registry, shown: list[dict[str, str]]) -> None:
    """A saved notebook must not show an old view as a live one."""
    add(reg.app.registry, "a", "running")
    assert reg.job("a").watch("3s").status == "running"
    assert shown[-1]["text/plain"].endswith("; live until the time was up; the job goes on")


def test_elsewhere_each_change_is_a_line(cli: Cli, reg: mj.Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, as `wait` has them."""
    add(reg.app.registry, "a", "running")
    during_sleeps(cli, _2=lambda: reg.app.registry.finalize_job("a", "failed"))
    assert reg.job("a").watch().status == "failed"
    assert capsys.readouterr() == ("", "a: running\na: failed\n")
