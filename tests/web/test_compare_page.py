"""The page that compares two to five jobs: what differs, and what is not known."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from mopsjobs.ledger.format import chunk_key, encode_attempts
from mopsjobs.web.site import kept
from support.cli import Cli, Remote, foreign, key
from support.compared_jobs import note_environment, run_compared
from support.ledgers import attempt
from support.study_jobs import run_study
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


# --- what differs ----------------------------------------------------------------------------------------------------


def test_a_comparison_names_what_differs(web: Web) -> None:
    """Study, parameters, code, packages, outcome and results: each row that differs has a mark."""
    rows = _rows(web.complete(THREE))
    assert rows["≠ Status"] == ["succeeded", "succeeded", "partial"]
    assert rows["≠ Tasks failed"] == ["0", "0", "8"]
    assert rows["≠ Scenario"] == ["base", "fast", "base"]
    assert rows["≠ beta"] == ["10 values, 0.1 to 1", "10 values, 0.1 to 1", "15 values, 0.1 to 1.5"]
    sets = "15 5 not in all jobs: beta=1.1, gamma=0.25 beta=1.2, gamma=0.25 beta=1.3, gamma=0.25 …"
    assert rows["≠ Parameter sets"] == ["10", "10", sets]
    assert rows["≠ Git commit"] == ["a" * 12, "b" * 12, "a" * 12]
    assert rows["≠ fast.py"] == ["none", "e3b0c44298fc 0 bytes", "none"]
    old, new, same = rows["≠ model.py"]
    assert (old == same, old == new) == (True, False)
    assert rows["≠ numpy"] == ["1.26.4", "2.1.0", "1.26.4"]
    assert {"≠ Bundle", "≠ Tasks done", "≠ peak"} <= rows.keys()


def test_the_precision_of_a_study_is_compared_in_words(web: Web, cli: Cli, remote: Remote) -> None:
    for job_id, width, most in (("narrow", 0.05, 1000), ("wide", 0.1, 2000)):
        until = {"min": 4, "max": most, "until": {"peak": {"relative": width}, "r": {"absolute": 0.3}}}
        run_study(remote.jobs, job_id, [{"beta": 1}], lambda _: None, n_replicates=until)
    cli.ok("sync", "-q")
    assert "≠ Replicates" not in _rows(web.ok("/compare?job=narrow&job=wide"))  # the record has but the largest number
    rows = _rows(web.complete("/compare?job=narrow&job=wide"))
    assert rows["≠ Replicates"] == [
        f"4 to {most}, until peak ± {one} % (95 %), r ± 0.3 (95 %)" for one, most in ((5, "1,000"), (10, "2,000"))
    ]


def test_files_that_no_task_read_say_so(web: Web, remote: Remote) -> None:
    """As in `diff`, if the ledgers of the jobs know which files were read."""
    for job_id, files in (("base", {"model.py"}), ("faster", {"model.py", "data.py"})):
        for old in list(remote.store.inner.list_keys(f"ledger/{job_id}/")):
            remote.store.inner.delete(old)
        chunk = encode_attempts(job_id, 0, [attempt(0)], frozenset(files))
        assert remote.store.inner.create_if_absent(chunk_key(job_id, 0, "cd", 0), chunk)
    rows = _rows(web.complete(THREE))
    assert rows["≠ Files that tasks read"] == ["1", "2", "not recorded"]
    assert rows["≠ fast.py"] == ["none", "e3b0c44298fc 0 bytes no task read it", "none"]
    assert not any("no task" in text for text in rows["≠ model.py"])


def test_what_is_equal_is_left_out(web: Web) -> None:
    """A section without a difference says so."""
    page = web.complete(THREE)
    assert not {"Model", "Replicates", "gamma", "Python", "scipy", "data.py"} & _rows(page).keys()
    assert "Equal" in _equal(web.complete("/compare?job=base&job=wider"))


def test_means_are_compared_over_shared_parameter_sets(web: Web) -> None:
    """Replicates with equal seeds have equal noise here, so the difference is the effect: 0.5 times beta."""
    rows = _rows(web.complete(THREE))
    assert rows["≠ peak"][1].endswith("40 tasks +0.275 ± 0 in 10 shared sets")
    assert rows["≠ peak"][2].endswith("52 tasks no difference in 10 shared sets")
    assert rows["≠ peak"][0].endswith("40 tasks")


def test_the_means_of_all_jobs_are_plotted(web: Web) -> None:
    """A line per job over a parameter that varies, and the same numbers as a table; first a value that differs."""
    assert "Mean of peak over beta" in web.complete(THREE)
    page = web.complete(f"{THREE}&y=population")
    assert 'aria-label="Mean of population over beta for each job' in page
    drawing = page.partition("Mean of population over beta")[2].partition("</svg>")[0]
    assert len(re.findall(r'<path class="line series-\d" d="M[^"]+"></path><path class="point', drawing)) == 3
    assert "<bdi>1.3</bdi></th><td></td><td></td><td>1000" in page
    assert web.get(f"{THREE}&y=nothing").status_code == 400


def test_the_first_job_is_the_one_compared_with(web: Web) -> None:
    web.complete(THREE)
    assert _rows(web.ok("/compare?job=faster&job=base"))["≠ peak"][1].endswith("-0.275 ± 0 in 10 shared sets")


# --- what is not known -----------------------------------------------------------------------------------------------


def test_a_comparison_shows_at_once_what_the_cache_has(web: Web, remote: Remote) -> None:
    """It asks the registry nothing, says what is being read, and loads itself again without a script."""
    before = dict(remote.store.calls)
    page = web.ok(THREE)
    assert remote.store.calls == before
    assert "Code, study and packages of A, B, C: Being read from the registry." in page
    assert "Results of A, B, C: Being read from the registry." in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    rows = _rows(page)
    assert rows["≠ Scenario"] == ["base", "fast", "base"]
    assert "Being read" in _equal(page), "for whole sections"
    assert web.read_asked() == 6
    page = web.ok(THREE)
    assert not {"being read", "Being read", "http-equiv"} & set(re.findall(r"[Bb]eing read|http-equiv", page))
    assert web.read_asked() == 0


def test_a_job_of_another_program_has_what_its_record_says(web: Web, cli: Cli, remote: Remote) -> None:
    """The rest is not recorded. That makes no difference, and is not read again and again."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    cli.ok("sync", "-q")
    page = web.complete("/compare?job=base&job=theirs")
    rows = _rows(page)
    assert rows["≠ Status"] == ["succeeded", "running"]
    assert rows["beta"] == ["10 values, 0.1 to 1", "not recorded"]
    assert rows["Python"] == ["3.12.4", "not recorded"]
    assert rows["peak"][1] == "not recorded"
    assert "Results of B: mops-jobs did not submit this job: its results are not known." in page
    assert web.read_asked() == 0


def test_an_outage_leaves_what_the_cache_has(web: Web, remote: Remote) -> None:
    """The page says why the rest is missing."""
    web.ok(THREE)
    remote.store.down = True
    assert web.read_asked() == 6
    page = web.ok(THREE)
    assert "Code, study and packages of A, B, C: Cannot reach the registry" in page
    assert _rows(page)["≠ Scenario"] == ["base", "fast", "base"]
    assert "Not read" in _equal(page)


def test_too_many_parameter_sets_are_left_to_diff(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor cannot fill the memory of a server."""
    monkeypatch.setattr(kept, "MAX_SETS", 10)
    page = web.complete(THREE)
    assert "packages of C: The page does not compare more than 10 parameter sets. Use: mops-jobs diff wider" in page
    assert _rows(page)["beta"] == ["10 values, 0.1 to 1", "10 values, 0.1 to 1", "not read"]


def test_a_job_that_goes_on_is_read_again_at_its_end(web: Web, cli: Cli, remote: Remote) -> None:
    """Its runner may have noted an environment meanwhile."""
    run_study(remote.jobs, "night", [{"beta": 0.1}], lambda _task: "succeeded", status="running")
    note_environment(remote.jobs, "night", numpy="1.26.4")
    cli.ok("sync", "-q")
    path = "/compare?job=base&job=night"
    assert "≠ numpy" not in _rows(web.complete(path))
    note_environment(remote.jobs, "night", numpy="2.2.0")
    remote.jobs.update_status("night", "succeeded")
    cli.clock.advance(minutes=2)
    cli.ok("sync", "-q")
    assert _rows(web.complete(path))["≠ numpy"] == ["1.26.4", "1.26.4, 2.2.0"]


# --- which jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [
        ([], 400, "invalid number of jobs &#39;0&#39;: expected 2 to 5."),
        (["base", "faster", "wider", "a", "b", "c"], 400, "invalid number of jobs &#39;6&#39;"),
        (["base", "base"], 400, "invalid job &#39;base&#39;: expected another job than base, which comes before."),
        (["base", "nothing"], 404, "Job nothing not found."),
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


def test_a_prefix_is_not_a_job_to_compare(web: Web) -> None:
    """What another job has must not stand under the name that was asked for."""
    answer = web.get("/compare?job=fast&job=wider")
    assert answer.status_code == 404
    assert "Give the full id. These begin with it: faster" in answer.text


def test_a_job_leads_to_comparisons(web: Web, cli: Cli, remote: Remote) -> None:
    """With its parent, its family, and another run of its study."""
    sets = [{"beta": number} for number in range(4)]
    for number, job_id in enumerate(("trial", "trial.2", "trial.3")):
        only = range(4 - number, 4) if number else None
        run_study(remote.jobs, job_id, sets, lambda _task: "failed", only=only, scenario="base")
    cli.ok("sync", "-q")
    links = {
        text: html.unescape(link)
        for link, text in re.findall(r'<a href="(/compare[^"]+)">([^<]+)</a>', web.ok("/jobs/trial.2"))
    }
    assert links == {
        "its parent": "/compare?job=trial&job=trial.2",
        "its family": "/compare?job=trial&job=trial.2&job=trial.3",
        "another run of this study": "/compare?job=base&job=trial.2",
    }
    for link in links.values():
        web.ok(link)
