"""The page that compares two to five jobs: what differs, and what is not known."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from mopsjobs.web.site import kept
from mopsjobs.web.site.memo import Memo
from support.cli import Cli, Remote, foreign, key
from support.study_jobs import note_environment, run_compared, run_study
from support.web import HOSTILE_ID, Web, hostile_record, text_of

THREE = "/compare?job=base&job=faster&job=wider"


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Web:
    """Return an application over three runs of a study, which reads what its pages ask for when the test says so."""
    run_compared(remote.jobs, tmp_path / "code")
    cli.ok("sync", "-q")
    return Web(cli, capsys, reads=True)


def _rows(page: str) -> dict[str, list[str]]:
    """Return the rows of the comparison by their names, with a mark before those that differ: a text per job."""
    rows = {}
    for name, cells in re.findall(r'<tr data-key[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL):
        texts = [text_of(cell) for cell in re.findall(r"<td>(.*?)</td>", cells, re.DOTALL)]
        rows[text_of(name).replace(" differs:", "")] = [text.partition(" ")[2] for text in texts]
    return rows


def _equal(page: str) -> str:
    """Return what is said to be equal."""
    return " · ".join(map(text_of, re.findall(r'<tr class="equal">(.*?)</tr>', page, re.DOTALL)))


def _between(page: str, letter: str) -> str:
    """Return what `diff` says of A and another job."""
    return page.partition(f"A and {letter}</h2>")[2].partition("</pre>")[0].partition(">")[2]


# --- what differs ----------------------------------------------------------------------------------------------------


def test_a_comparison_names_what_differs(web: Web, cli: Cli) -> None:
    """Outcome and results are rows, of which those that differ have a mark. The rest is what `diff` prints."""
    page = web.complete(THREE)
    rows = _rows(page)
    assert rows["≠ Status"] == ["succeeded", "succeeded", "partial"]
    assert rows["≠ Tasks failed"] == ["0", "0", "8"]
    assert {"≠ Tasks done", "≠ peak"} <= rows.keys()
    for letter, job_id in (("B", "faster"), ("C", "wider")):
        said = cli.ok("diff", "base", job_id, "--without-results").lines
        assert html.unescape(_between(page, letter)).splitlines() == said
    for text in ("scenario: base -&gt; fast", "numpy: 1.26.4 -&gt; 2.1.0", f"git {'a' * 12} -&gt; {'b' * 12}"):
        assert text in _between(page, "B")
        assert text not in _between(page, "C")
    assert "Equal" in _equal(web.complete("/compare?job=base&job=faster")), "sections without a row"


def test_means_are_compared_over_shared_parameter_sets(web: Web) -> None:
    """Replicates with equal seeds have equal noise here, so the difference to the first job is the effect."""
    rows = _rows(web.complete(THREE))
    assert rows["≠ peak"][0].endswith("40 tasks")
    assert rows["≠ peak"][1].endswith("40 tasks +0.275 ± 0 in 10 shared sets")
    assert rows["≠ peak"][2].endswith("52 tasks no difference in 10 shared sets")
    assert _rows(web.ok("/compare?job=faster&job=base"))["≠ peak"][1].endswith("-0.275 ± 0 in 10 shared sets")


def test_the_means_of_all_jobs_are_plotted(web: Web) -> None:
    """Over a parameter that all have, a line for each whose results are known; the form chooses both."""
    web.ok("/compare?job=base&job=wider")
    assert web.read_asked() == 4
    for path, axes, lines in (
        ("/compare?job=base&job=wider", ("peak", "beta"), ["A", "B"]),
        ("/compare?job=base&job=wider&y=population", ("population", "beta"), ["A", "B"]),
        ("/compare?job=base&job=faster&y=nothing", ("peak", "beta"), ["A"]),
    ):
        plot = web.ok(path).partition('<section id="plot"')[2].partition("</section>")[0]
        assert tuple(re.findall(r"<option[^>]* selected[^>]*>([^<]+)<", plot)) == axes
        assert re.findall(r"</svg> <b>(\w)</b>", plot) == lines
        assert len(re.findall(r'class="line series-\d" d="M\d', plot)) == 2 * len(lines), "and their keys"


def test_results_that_have_come_are_not_called_unknown(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the numbers of the other jobs were computed just now, at a cost for which older ones are shown."""
    made: dict[Any, Any] = {}
    get = Memo.get

    def get_old(memo: Memo[Any], key: Any, state: Any, make: Any, **more: Any) -> Any:
        if more:  # a whole page
            return get(memo, key, state, make, **more)
        return made[key] if key in made else made.setdefault(key, make())

    monkeypatch.setattr(Memo, "get", get_old)
    web.ok("/compare?job=base&job=faster")
    assert web.read_asked() == 4
    assert _rows(web.ok("/compare?job=base&job=wider"))["peak"][1] == "being read"
    assert web.read_asked() == 2
    assert _rows(web.ok("/compare?job=base&job=wider"))["\u2260 peak"][1].startswith("7.01064")


# --- what is not known -----------------------------------------------------------------------------------------------


def test_a_comparison_shows_at_once_what_the_cache_has(web: Web, remote: Remote) -> None:
    """It asks the registry nothing, says what is being read, and loads itself again without a script."""
    before = dict(remote.store.calls)
    page = web.ok(THREE)
    assert remote.store.calls == before
    assert "Code, study and packages of A, B, C: Being read from the registry." in page
    assert "Results of A, B, C: Being read from the registry." in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert _rows(page)["≠ Status"] == ["succeeded", "succeeded", "partial"]
    assert "A: being read; B: being read" in _equal(page)
    assert _between(page, "B") == ""
    assert web.read_asked() == 6
    assert not re.findall(r"[Bb]eing read|http-equiv", web.ok(THREE))
    assert web.read_asked() == 0


def test_what_cannot_be_read_says_why(web: Web, cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of another program, one that is too large for the memory of a server, and an outage."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    cli.ok("sync", "-q")
    page = web.complete("/compare?job=base&job=theirs")
    assert _rows(page)["≠ Status"] == ["succeeded", "running"]
    assert _rows(page)["peak"][1] == "not recorded"
    assert "Results of B: mops-jobs did not submit this job: its results are not known." in page
    assert web.read_asked() == 0, "it is not asked for again and again"
    monkeypatch.setattr(kept, "MAX_SETS", 10)
    page = web.complete("/compare?job=base&job=wider")
    assert "packages of B: The page does not compare more than 10 parameter sets. Use: mops-jobs diff wider" in page
    web.ok("/compare?job=base&job=faster")
    remote.store.down = True
    assert web.read_asked() == 2
    page = web.ok("/compare?job=base&job=faster")
    assert "Code, study and packages of B: Cannot reach the registry" in page
    assert _rows(page)["peak"][1] == "not read"


def test_a_job_that_goes_on_is_read_again_at_its_end(web: Web, cli: Cli, remote: Remote) -> None:
    """Its runner may have noted an environment meanwhile."""
    run_study(remote.jobs, "night", [{"beta": 0.1}], lambda _task: "succeeded", status="running")
    note_environment(remote.jobs, "night", numpy="1.26.4")
    cli.ok("sync", "-q")
    path = "/compare?job=base&job=night"
    assert "numpy" not in _between(web.complete(path), "B")
    note_environment(remote.jobs, "night", numpy="2.2.0")
    remote.jobs.update_status("night", "succeeded")
    cli.clock.advance(minutes=2)
    cli.ok("sync", "-q")
    assert "numpy: 1.26.4 -&gt; 1.26.4, 2.2.0" in _between(web.complete(path), "B")


# --- which jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [
        (["base", "faster", "wider", "a", "b", "c"], 400, "invalid number of jobs &#39;6&#39;"),
        (["base", "base"], 400, "invalid job &#39;base&#39;: expected another job than base, which comes before."),
        (["fast", "wider"], 404, "Give the full id. These begin with it: faster"),
    ],
)
def test_a_query_of_other_jobs_keeps_the_form(web: Web, ids: list[str], code: int, message: str) -> None:
    """It says what is wrong in one sentence, and has what was named, and room for another job."""
    answer = web.get(f"/compare?{urlencode({'job': ids}, doseq=True)}")
    assert answer.status_code == code
    assert message in answer.text
    values = re.findall(r'<input name="job" value="([^"]*)"', answer.text)
    assert [value for value in values if value] == ids
    assert len(values) >= 2


def test_ids_with_signs_of_an_address_lead_to_their_jobs(web: Web, cli: Cli, remote: Remote) -> None:
    """No link of the page loses a part of an id."""
    ids = ["R&D=1#x+y%41", HOSTILE_ID]
    for job_id in ids:
        remote.put(key(job_id), hostile_record(job_id))
    cli.ok("sync", "-q")
    page = web.ok(f"/compare?{urlencode({'job': ids}, doseq=True)}")
    assert list(map(html.unescape, re.findall(r'<input name="job" value="([^"]+)"', page))) == ids
    for link in re.findall(r'href="((?:/compare|/jobs/)[^"]+)"', page):
        web.ok(html.unescape(link).partition("#")[0])


def test_a_job_leads_to_comparisons(web: Web, cli: Cli, remote: Remote) -> None:
    """With its parent, and another run of its study."""
    sets = [{"beta": number} for number in range(4)]
    for job_id, only in (("trial", None), ("trial.2", [3])):
        run_study(remote.jobs, job_id, sets, lambda _task: "failed", only=only, scenario="base")
    cli.ok("sync", "-q")
    links = {
        text: html.unescape(link)
        for link, text in re.findall(r'<a href="(/compare[^"]+)">([^<]+)</a>', web.ok("/jobs/trial.2"))
    }
    assert links == {
        "its parent": "/compare?job=trial&job=trial.2",
        "another run of this study": "/compare?job=base&job=trial.2",
    }
    for link in links.values():
        web.ok(link)
