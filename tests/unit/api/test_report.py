"""The report of a program's own work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import mopsjobs as mj
from mopsjobs.errors import StoreUnavailableError

if TYPE_CHECKING:
    from support.cli import Cli, Remote


def _writes(reg: mj.Registry, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that takes each report of progress."""
    sent: list[Any] = []
    write = reg.app.registry.update_progress

    def note(job_id: str, done: int, total: int | None, **more: Any) -> Any:
        sent.append((done, total))
        return write(job_id, done, total, **more)

    monkeypatch.setattr(reg.app.registry, "update_progress", note)
    return sent


def test_a_block_becomes_a_job(reg: mj.Registry) -> None:
    """It runs while the block does, and has succeeded when that ends."""
    with mj.report("nightly-1", owner="ada", labels={"exp": 7}, total=3, registry=reg) as r:
        assert (r.job.status().status, r.job.status().tasks_total) == ("running", 3)
        assert list(r.track("abc")) == ["a", "b", "c"]
    with pytest.raises(mj.JobExistsError), mj.report("nightly-1", registry=reg):
        raise AssertionError
    info = reg.job("nightly-1").status()
    assert (info.status, info.tasks_completed, info.owner, info.labels) == ("succeeded", 3, "ada", {"exp": "7"})


def test_progress_is_sent_at_most_once_a_second(cli: Cli, reg: mj.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end has the last counts, however soon it comes."""
    sent = _writes(reg, monkeypatch)
    with mj.report("a", registry=reg) as r:
        for _ in r.track(range(10)):
            cli.clock.advance(seconds=0.4)
    assert sent == [(0, None), (3, 10), (6, 10), (9, 10)]
    assert reg.job("a").status().tasks_completed == 10


def test_a_cancelled_job_ends_the_reports(reg: mj.Registry, caplog: pytest.LogCaptureFixture) -> None:
    """The block goes on, and a warning is logged once."""
    with mj.report("a", total=2, registry=reg) as r:
        r.job.cancel()
        assert list(r.track([1, 2])) == [1, 2]
    assert reg.job("a").status().status == "cancelled"
    assert len([one for one in caplog.records if "Nothing more is reported of it" in one.getMessage()]) == 1


def test_an_outage_never_raises(cli: Cli, remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    """A job that could not be registered is registered later, as of the beginning of the block."""
    with mj.connect(env=cli.env) as reg:
        app = reg.app
        app.now, app.sleep, app.monotonic = cli.clock.now, cli.clock.sleep, cli.clock.monotonic
        start = cli.clock.now()
        remote.store.down = True
        with mj.report("a", total=3, registry=reg) as r:
            for number in r.track(range(3)):
                cli.clock.advance(minutes=2)
                remote.store.down = number != 1
        assert cli.clock.slept, "the end was tried again"
        assert "The end of job a (succeeded) was not reported" in caplog.records[-1].getMessage()
        remote.store.down = False
        state = remote.jobs.require_job("a")
        assert (state.status, state.tasks_completed) == ("running", 2)
        assert state.created_at.startswith(f"{start:%Y-%m-%dT%H:%M:%S}")
        assert len([one for one in caplog.records if "is reported later" in one.getMessage()]) == 2


def test_an_id_that_is_taken_during_an_outage_stops_the_reports(
    cli: Cli, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    """The block goes on: only its beginning refuses an id."""
    with mj.connect(env=cli.env) as reg:
        remote.store.down = True
        with mj.report("a", registry=reg) as r:
            remote.store.down = False
            remote.jobs.register_job("a")
            r.advance()
    assert remote.jobs.require_job("a").status == "pending"
    assert "already registered" in caplog.records[-1].getMessage()


def test_a_lost_reply_is_no_other_job(reg: mj.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration that landed without a reply is known by its token."""
    registry = reg.app.registry
    register = type(registry).register_job
    lost = [True]

    def lose(self: Any, *args: Any, **fields: Any) -> Any:
        state = register(self, *args, **fields)
        if lost and lost.pop():
            raise StoreUnavailableError("The reply was lost.")
        return state

    monkeypatch.setattr(type(registry), "register_job", lose)
    with mj.report("a", registry=reg):
        pass
    assert reg.job("a").status().status == "succeeded"


def test_invalid_progress_is_refused(reg: mj.Registry) -> None:
    """A step beyond the total is an error of the program; `advance` lets the total grow."""
    with mj.report("a", total=1, registry=reg) as r:
        with pytest.raises(mj.UsageError, match="invalid progress 2/1"):
            r.progress(2)
        r.advance(2)
        assert repr(r) == "<Report of a: 2/2>"
        r.advance(np.int64(2))  # type: ignore[arg-type]
        with pytest.raises(mj.UsageError, match=r"invalid steps 4\.5: expected a whole number"):
            r.advance(0.5)  # type: ignore[arg-type]
    with pytest.raises(mj.UsageError, match="has not begun"):
        mj.report("b").advance()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("division by zero"), "division by zero"),
        (FileNotFoundError("no caf\udce9.csv"), "no caf?.csv"),
        (KeyError(), "KeyError"),
    ],
    ids=["usual", "not UTF-8", "without a text"],
)
def test_each_exception_ends_the_job(reg: mj.Registry, error: Exception, message: str) -> None:
    """Also one without a text, and one whose text no record can have: a path that is not UTF-8."""
    with pytest.raises(type(error)), mj.report("a", registry=reg):
        raise error
    job = reg.job("a").status()
    assert (job.status, job.error_code, job.error_message) == ("failed", type(error).__name__, message)


def test_a_report_opens_the_registry_of_the_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closes it at its end."""
    for name, value in cli.env.items():
        monkeypatch.setenv(name, value)
    with mj.report("a") as r:
        job = r.job
    assert "a" in cli.ids()
    with pytest.raises(mj.UsageError, match="closed"):
        job.status()
