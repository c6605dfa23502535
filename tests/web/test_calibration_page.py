"""The page of a calibration: its rounds and best set, the best value over time, and each parameter against it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import check_looks, read_axe, shoot
from support.calibrated import grow_calibration, journal_of, put_calibration
from support.cli import Cli, Clock, Remote
from support.web import HOSTILE, Server, Web, flat, serving


def test_a_page_draws_what_it_has_read(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """The first load asks for the journal. A round more is asked for again; offline, a command is named."""
    journal = put_calibration(remote.jobs, "cal", 5)
    cli.ok("sync")
    web = Web(cli, capsys, reads=True)
    first = web.ok("/jobs/cal")
    assert "Its rounds: Being read from the registry." in flat(first)
    page = web.complete("/jobs/cal")
    assert "5 of 20 rounds, 40 sets, 3 failed (ValueError); best" in flat(page)
    assert journal.best is not None
    assert f"beta={journal.best.params['beta']:.4g}" in page
    assert re.findall(r"<h3[^>]*>([^<]*)</h3>", page) == [
        "Best loss over rounds", "loss by beta", "loss by gamma", "loss by mode",
    ]  # fmt: skip
    assert re.search(r"[1-9] of \d+ sets? failed", page)
    assert "days" not in page.partition('id="calibration"')[2].partition("</section>")[0]
    cli.clock.advance(minutes=1)
    grow_calibration(remote.jobs, journal_of("cal", 6))
    cli.ok("sync")
    assert "Being read" in flat(web.ok("/jobs/cal"))
    assert "6 of 20 rounds" in flat(web.complete("/jobs/cal"))
    remote.store.down = True
    alone = Web(cli, capsys)
    assert "Best loss over rounds" in alone.ok("/jobs/cal")


def test_the_best_set_has_a_column_of_its_own(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """In the row of a calibration and in that of its sweep, not beside errors. Without calibrations there is none."""
    remote.jobs.register_job("plain", labels={"sweep": "fit"})
    cli.ok("sync")
    web = Web(cli, capsys)
    assert 'class="best"' not in web.ok("/jobs")
    put_calibration(remote.jobs, "cal", 5, labels={"sweep": "fit"})
    put_calibration(remote.jobs, "alone", 5)
    cli.ok("sync")
    page = web.ok("/jobs")
    cells = {name: re.findall(rf'<td class="{name}"[^>]*>(.*?)</td>', page, re.DOTALL) for name in ("best", "error")}
    assert '<th scope="col" class="best">Best</th>' in page
    assert sorted(map(flat, cells["best"])) == ["0.0059 of cal", "0.0059 ± 0.0020 in round 1"]
    assert not any("best" in cell or "0.0059" in cell for cell in cells["error"])


def test_a_server_without_network_names_the_command(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is drawn that was not read."""
    put_calibration(remote.jobs, "cal", 2)
    cli.ok("sync")
    page = Web(cli, capsys).ok("/jobs/cal")
    assert "Not on this machine yet. Run: mops-jobs results cal --best" in flat(page)
    assert "Best loss over rounds" not in page


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with a calibration, in a sweep with another job."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    put_calibration(jobs, "cal", 5, labels={"sweep": "fit"})
    jobs.register_job("first", labels={"sweep": "fit"})
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


def test_a_browser_follows_a_calibration(page: Page, cli: Cli, server: Server) -> None:
    """Drawings appear when they were read, and a further round shows without a reload. Nothing is wrong for axe."""
    page.goto(f"{server.url}/jobs")
    row = page.get_by_role("row").filter(has_text="sweep=fit")
    expect(row).to_contain_text("1 running, 1 pending")
    expect(row.locator(".best")).to_have_text("0.0059 of cal")
    row.get_by_role("link", name="sweep=fit").click()
    job = page.get_by_role("row").filter(has_text="cal")
    expect(job).to_contain_text("5/20 rounds")
    expect(job.locator(".best")).to_have_text("0.0059 ± 0.0020 in round 1")
    page.get_by_role("link", name="cal", exact=True).click()
    drawings = page.locator("#calibration svg:not(.ticks)")
    expect(drawings).to_have_count(4)
    expect(page.locator("#state")).to_contain_text("5 of 20 rounds, 40 sets")
    boxes = [drawings.nth(place).bounding_box() for place in range(4)]
    assert all(box is not None and box["width"] > 200 and box["height"] > 80 for box in boxes)
    shoot(page, "calibration", full_page=True)
    assert read_axe(page) == []
    grow_calibration(JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})), journal_of("cal", 6))
    expect(page.locator("#state")).to_contain_text("6 of 20 rounds, 48 sets")


def test_hostile_names_do_no_harm_in_any_window(window: Page, cli: Cli, server: Server) -> None:
    """Of a sweep, of parameters and of an objective; the drawings and the row keep within a narrow window."""
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    names = {HOSTILE: {"uniform": [0, 1]}, "x" * 200: {"choice": [HOSTILE, "b"]}}
    labels = {"sweep": HOSTILE + "y" * 200}
    jobs.register_job("even", labels=labels)
    put_calibration(
        jobs, "odd", 2, labels=labels, parameters=names, objective="z" * 150,
        renames={"beta": HOSTILE, "mode": "x" * 200},
    )  # fmt: skip
    cli.ok("sync")
    window.goto(f"{server.url}/jobs")
    expect(window.locator("[data-key^='/sweep/']")).to_have_count(2)
    check_looks(window, "sweeps")
    window.goto(f"{server.url}/jobs/odd")
    expect(window.locator("#calibration svg:not(.ticks)")).to_have_count(3)
    check_looks(window, "calibration")
