"""The outputs of a task on the page of a job's results: which are read and shown, and as what file."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

import pytest
from markupsafe import escape

from mopsjobs.app.tasks import task_outputs
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.web.site import job_reads
from support.cli import Cli, Remote, foreign, key
from support.images import png
from support.ledgers import Ledger, attempt
from support.study_jobs import run_study
from support.web import BIDI, HOSTILE, Web


def _leave(remote: Remote, job_id: str, number: int, outputs: Mapping[str, bytes]) -> None:
    """Write outputs of a task, as its runner does."""
    task = next(task for task in load_manifest(remote.store.inner, job_id).study.tasks() if task.number == number)
    for name, value in outputs.items():
        assert remote.store.inner.create_if_absent(output_key(job_id, task, name), value)


def _night(cli: Cli, remote: Remote, outputs: Mapping[str, bytes], **study: object) -> None:
    """Run a job of 20 tasks, of which the last five fail, and leave these outputs of its task 3."""
    run_study(
        remote.jobs, "night", [{"x": number} for number in range(20)],
        lambda task: "failed" if task.number > 14 else "succeeded", outputs=None, **study,
    )  # fmt: skip
    _leave(remote, "night", 3, outputs)
    cli.ok("sync", "-q")


def _section(web: Web, path: str) -> str:
    """Return the outputs of a task on a page, when they were read."""
    web.ok(path)
    web.read_asked()
    found = re.search(r'<div id="chosen".*?<section id="rows"', web.ok(path), re.DOTALL)
    assert found is not None
    return found[0]


# --- what is read, and when ------------------------------------------------------------------------------------------


def test_the_outputs_of_a_task_are_read_between_syncs(web: Web, cli: Cli, remote: Remote) -> None:
    """The page itself asks the registry nothing. It lists all of them, and shows the first."""
    _night(cli, remote, {"curve.csv": b"day,cases\n1,5\n2,8\n", "result.json": b'{"peak": [1, 2]}', "log.txt": b"done"})
    before = dict(remote.store.calls)
    page = web.ok("/jobs/night/results?task=3")
    assert "Being read from the registry." in page.partition('id="task"')[2]
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert web.get("/jobs/night/output?task=3&output=curve.csv").status_code == 503
    assert remote.store.calls == before
    section = _section(web, "/jobs/night/results?task=3")
    assert re.findall(r'href="([^"]+output=[^"]+)#task"', section) == [
        f"?task=3&amp;output={name}" for name in ("result.json", "curve.csv", "log.txt")
    ]
    assert "<bdi>x</bdi> = <bdi>3</bdi>" in section
    assert "{\n  &#34;peak&#34;: [1, 2]\n}" in section
    before = dict(remote.store.calls)
    section = _section(web, "/jobs/night/results?task=3&output=curve.csv")
    table = section.partition('<table class="preview">')[2].partition("</table>")[0]
    assert re.findall(r"<bdi>(.*?)</bdi></t[hd]>", table) == ["day", "cases", "1", "5", "2", "8"]
    assert remote.store.calls == before, "it was read already"
    section = _section(web, "/jobs/night/results?task=3&output=log.txt")
    assert '<pre class="preview" tabindex="0" dir="auto" role="region" aria-label="log.txt">done</pre>' in section


def test_a_child_shows_what_its_parent_left(web: Web, cli: Cli, remote: Remote) -> None:
    """The outputs are those whose row the table of results has, and the page names the job that left them."""
    _night(cli, remote, {"result.json": b"1"})
    run_study(
        remote.jobs, "night.2", [{"x": number} for number in range(20)], lambda _task: "succeeded",
        only=range(15, 20), outputs=None,
    )  # fmt: skip
    _leave(remote, "night.2", 17, {"result.json": b"17"})
    cli.ok("sync", "-q")
    parents = _section(web, "/jobs/night.2/results?task=3")
    assert ' of <a href="/jobs/night">night</a>: succeeded' in parents
    own = _section(web, "/jobs/night.2/results?task=17")
    assert "<bdi>x</bdi> = <bdi>17</bdi>" in own
    assert ">17</pre>" in own
    assert ": failed" in _section(web, "/jobs/night/results?task=17")


def test_outputs_appear_when_the_task_has_ended(web: Web, cli: Cli, remote: Remote) -> None:
    """A task that waits has none yet, and is read again when more is known."""
    run_study(remote.jobs, "night", [{"x": 1}, {"x": 2}], lambda _task: None, status="running", outputs=None)
    cli.ok("sync", "-q")
    assert "It has no outputs yet." in _section(web, "/jobs/night/results?task=1")
    assert web.read_asked() == 0
    _leave(remote, "night", 1, {"result.json": b'"done"'})
    Ledger(remote.store.inner, "night", run="cd")(attempt(1))
    remote.jobs.update_progress("night", 1)
    cli.clock.advance(minutes=1)
    cli.ok("sync", "-q")
    cli.ok("tasks", "night")
    assert "&#34;done&#34;" in _section(web, "/jobs/night/results?task=1")


def test_what_cannot_be_read_says_why(web: Web, cli: Cli, remote: Remote) -> None:
    """An outage, a server that never uses the network, and a job of another program."""
    _night(cli, remote, {"result.json": b"1"})
    remote.put(key("theirs"), foreign("theirs", "running"))
    cli.ok("sync", "-q")
    web.ok("/jobs/night/results?task=3")
    remote.store.down = True
    assert web.read_asked() == 2
    assert "Cannot reach the registry" in web.ok("/jobs/night/results?task=3").partition('id="task"')[2]
    assert "Cannot reach the registry" in web.get("/jobs/night/output?task=3").text
    assert "did not submit this job" in _section(web, "/jobs/theirs/results?task=3")

    web.site.reads = None
    assert "Retry-After" not in web.get("/jobs/night/output?task=3").headers, "it would not help"
    assert "Run: mops-jobs results night --download DIRECTORY" in web.ok("/jobs/night/results?task=3")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("task=20", "invalid task '20': job night has no such task."),
        ("task=x", "invalid task 'x': expected the number of a task"),
        ("task=3&output=../../jobs", "invalid output '../../jobs': expected the name of an output"),
    ],
)
def test_what_names_no_output_is_a_bad_request(web: Web, cli: Cli, remote: Remote, query: str, sentence: str) -> None:
    """Of the page and of the file."""
    _night(cli, remote, {"result.json": b"1"})
    cli.ok("tasks", "night")
    for path in ("results", "output"):
        answer = web.get(f"/jobs/night/{path}?{query}")
        assert answer.status_code == 400
        assert sentence in html.unescape(answer.text)


def test_an_output_that_is_missing_says_so(web: Web, cli: Cli, remote: Remote) -> None:
    """With the names of those that there are."""
    _night(cli, remote, {"result.json": b"1"})
    section = _section(web, "/jobs/night/results?task=3&output=curve.csv")
    assert "The task has no output &#39;curve.csv&#39;." in section
    assert "result.json 1 byte</a>" in section
    assert web.get("/jobs/night/output?task=3&output=curve.csv").status_code == 404
    assert web.get("/jobs/night/output").status_code == 400


def test_a_large_output_names_the_command(web: Web, cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read."""
    monkeypatch.setattr(task_outputs, "MAX_OUTPUT_BYTES", 100)
    _night(cli, remote, {"result.json": b"1", "state.bin": b"x" * 101})
    _section(web, "/jobs/night/results?task=3")
    before = remote.store.calls["get"]
    section = _section(web, "/jobs/night/results?task=3&output=state.bin")
    assert "Too large for a page: 101 bytes, of at most 100." in section
    assert "mops-jobs results night --download DIRECTORY" in section
    assert remote.store.calls["get"] == before


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.claim("Pages read a bounded number of outputs")
def test_pages_have_a_bounded_number_of_outputs_read(
    web: Web, cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an hour: there may be a million tasks, and each read costs requests. Tables are read all the same."""
    monkeypatch.setattr(job_reads, "MAX_OUTPUTS", 3)
    web.site.reads = web.site.make_reads()
    _night(cli, remote, {"result.json": b"1"})
    for number in range(5):
        web.ok(f"/jobs/night/results?task={number}")
    assert web.read_asked() == 3 + 1
    assert "Pages have asked for 3 outputs within an hour." in web.ok("/jobs/night/results?task=4")
    cli.clock.advance(hours=1)
    assert "It has no outputs." in _section(web, "/jobs/night/results?task=4")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.claim("Outputs are text, checked images, or attachments")
def test_a_file_is_an_attachment_of_no_type(web: Web, cli: Cli, remote: Remote) -> None:
    """With the bytes of the output. No browser interprets it, whatever its name says."""
    values = {"page.html": b"<script>alert(1)</script>", "plot.svg": b"<svg/>", "fake.png": b"<svg/>", "a.csv": b"=1\n"}
    _night(cli, remote, values)
    for name, value in values.items():
        _section(web, f"/jobs/night/results?task=3&output={name}")
        answer = web.get(f"/jobs/night/output?task=3&output={name}")
        assert answer.data == value
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{name}"')
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.claim("Outputs are text, checked images, or attachments")
def test_an_image_is_shown_and_is_a_file(web: Web, cli: Cli, remote: Remote) -> None:
    """As the one type that a browser interprets, within `<img>` only: opened by itself, it is downloaded."""
    _night(cli, remote, {"plot.png": png(32, 20)})
    section = _section(web, "/jobs/night/results?task=3")
    assert 'src="/jobs/night/output?task=3&amp;output=plot.png" width="32" height="20"' in section
    assert 'alt="plot.png of task 3"' in section
    answer = web.get("/jobs/night/output?task=3&output=plot.png")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.data == png(32, 20)


@pytest.mark.claim("Outputs are text, checked images, or attachments")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.txt"])
def test_markup_in_outputs_stays_text(web: Web, cli: Cli, remote: Remote, name: str) -> None:
    """So do signs that turn the writing direction."""
    text = f"{HOSTILE}{BIDI}".replace('"', "'")
    value = {"a.csv": f'"{text}",b\n"{text}",2\n', "a.json": f'{{"{text}": "{text}"}}', "a.txt": text}[name]
    if name == "a.json":
        value = value.replace("\x07", "").replace("\x1b", "")
    _night(cli, remote, {name: value.encode()})
    section = _section(web, "/jobs/night/results?task=3")
    assert str(escape(HOSTILE.replace('"', "'")[:40])) in section
    assert "<img" not in section
    assert "<script" not in section
    assert not set(section) & set("\u202e\x1b\x07")
