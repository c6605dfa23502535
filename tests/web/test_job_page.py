"""The pages of one job: what it is, what failed and where, its tasks, its log and its results."""

from __future__ import annotations

import gzip
import html
import math
import re

import pytest
from markupsafe import escape

from mopsjobs.engines.worker import real_numbers
from mopsjobs.events.writer import record_event
from mopsjobs.ledger.attempt import Resumed
from mopsjobs.web.pages import logs_page, readings
from mopsjobs.web.pages.compare_page import summarize_scalars
from mopsjobs.web.site import kept
from support.cli import Cli, Remote, foreign, key
from support.ledgers import Ledger, add_job, attempt, leave_output
from support.runs import sets_of
from support.study_jobs import HOSTILE_NAMES, LONG, TOO_LARGE, run_grid, run_hostile, run_study
from support.web import HOSTILE, Web, flat, text_of


@pytest.fixture
def grid(web: Web, cli: Cli, remote: Remote) -> Web:
    """Return the application over a job of 200 tasks too, of which 18 failed."""
    run_grid(remote.jobs)
    cli.ok("sync", "-q")
    return web


def _links(page: str, end: str) -> list[str]:
    """Return the addresses on a page whose path ends so."""
    return [
        link for link in map(html.unescape, re.findall(r'href="([^"]+)"', page)) if link.partition("?")[0].endswith(end)
    ]


def _tasks(web: Web, link: str) -> list[int]:
    """Return the numbers of all tasks on the pages from this one on."""
    found: list[int] = []
    while link:
        page = web.ok(link)
        found += map(int, re.findall(r'<tr data-key="(\d+)"', page))
        following = re.findall(r'<a href="([^"#]+)(?:#rows)?" rel="next">', page)
        link = link.partition("?")[0] + html.unescape(following[0]) if following else ""
    return found


# --- what is read, and when ------------------------------------------------------------------------------------------


def test_a_look_at_a_job_has_its_failures_read(grid: Web, cli: Cli, remote: Remote) -> None:
    """The page itself asks the registry nothing. What the syncer reads is what `failures` would show."""
    before = dict(remote.store.calls)
    page = grid.ok("/jobs/grid")
    assert "Being read from the registry." in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert remote.store.calls == before
    assert grid.read_asked() == 1
    page = grid.ok("/jobs/grid")
    assert "Being read" not in page
    assert "http-equiv" not in page
    assert "18 of 200 tasks</a> failed, for 1 reason." in flat(page)
    assert "all 18 have beta &gt; 0.6 and gamma &gt; 0.6; no other has" in page
    assert "all 18 have beta > 0.6 and gamma > 0.6; no other has" in cli.ok("failures", "grid", "--offline").out
    assert grid.read_asked() == 0


def test_a_read_writes_nothing_to_the_registry(grid: Web, remote: Remote) -> None:
    """Neither that of failures nor that of results, also of a job that still runs."""
    before = {name: remote.store.inner.get(name).value for name in remote.store.inner.list_keys("")}  # type: ignore[union-attr]
    for path in ("", "/results?rows=tasks", "/results"):
        grid.ok(f"/jobs/grid{path}")
    assert grid.read_asked() == 2
    after = {name: remote.store.inner.get(name).value for name in remote.store.inner.list_keys("")}  # type: ignore[union-attr]
    assert after == before


def test_an_outage_is_shown_where_the_tasks_would_be(grid: Web, remote: Remote) -> None:
    """The page has all that the cache knows, and why the rest is missing."""
    grid.ok("/jobs/grid")
    remote.store.down = True
    assert grid.read_asked() == 1
    page = grid.ok("/jobs/grid")
    assert "The tasks of this job: Cannot reach the registry" in page
    assert "182/200, 18 failed" in page
    assert grid.read_asked() == 0, "the next attempt comes after a pause"


def test_a_job_of_another_program_has_nothing_to_read(web: Web, cli: Cli, remote: Remote) -> None:
    """mops-jobs does not know its tasks, and says so where they would be."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    cli.ok("sync", "-q")
    assert "The tasks of this job" not in web.ok("/jobs/theirs")
    assert "did not submit this job: its tasks" in web.ok("/jobs/theirs/results?rows=tasks")
    assert "did not submit this job" in web.ok("/jobs/theirs/results")
    for file in ("results.csv", "output?task=3"):
        answer = web.get(f"/jobs/theirs/{file}")
        assert (answer.status_code, "did not submit this job" in answer.text) == (404, True)
    assert web.read_asked() == 0


def test_an_offline_server_names_the_command(grid: Web, cli: Cli) -> None:
    """It reads nothing itself."""
    grid.site.reads = None
    assert "Not on this machine yet. Run: mops-jobs failures grid" in grid.ok("/jobs/grid")
    assert "Run: mops-jobs tasks grid" in grid.ok("/jobs/grid/results?rows=tasks")
    assert "Run: mops-jobs results grid --table FILE.csv" in grid.ok("/jobs/grid/results?sort=.mean")
    cli.ok("failures", "grid")
    assert "all 18 have beta" in grid.ok("/jobs/grid")


def test_the_tasks_of_a_huge_job_are_left_to_the_command(grid: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor cannot fill the cache of a server."""
    monkeypatch.setattr(readings, "MAX_READ_TASKS", 199)
    assert "does not read more than 199 tasks. Run: mops-jobs failures grid" in grid.ok("/jobs/grid")
    assert grid.read_asked() == 0


def test_failures_stay_while_newer_ones_are_read(web: Web, cli: Cli, remote: Remote) -> None:
    """A page of a running job never loses its groups."""
    run_study(
        remote.jobs, "night", [{"x": number} for number in range(40)],
        lambda task: None if task.number == 39 else "failed" if task.number > 30 else "succeeded", status="running",
    )  # fmt: skip
    cli.ok("sync", "-q")
    web.complete("/jobs/night")
    assert "8 of 40 tasks</a> failed" in web.ok("/jobs/night")
    Ledger(remote.store.inner, "night", run="cd")(attempt(39, "failed", error=TOO_LARGE))
    cli.clock.advance(minutes=2)
    cli.ok("tasks", "night")
    assert "8 of 40 tasks</a> failed" in web.ok("/jobs/night")
    assert web.read_asked() == 1
    assert "9 of 40 tasks</a> failed" in web.ok("/jobs/night")


# --- what it is, and how it stands -----------------------------------------------------------------------------------


def test_a_group_leads_to_its_tasks_and_their_logs(web: Web, cli: Cli, remote: Remote) -> None:
    """The tasks with that error, and no others."""
    run_study(
        remote.jobs, "night", [{"x": number} for number in range(40)],
        lambda task: "failed" if task.number > 30 else "oom" if task.number in (3, 4) else "succeeded",
    )  # fmt: skip
    cli.ok("sync", "-q")
    page = web.complete("/jobs/night")
    by_error = [link for link in _links(page, "/results") if "error=" in link]
    assert [_tasks(web, link) for link in by_error] == [[*range(31, 40)], [3, 4]]
    logs = [link.partition("task=")[2] for link in _links(page, "/logs") if "task=" in link]
    assert logs == ["31", "32", "33", "34", "35", "3", "4"]


# --- the map ---------------------------------------------------------------------------------------------------------


def _map(page: str) -> str:
    found = re.search(r'<section id="map".*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_a_map_of_ten_thousand_tasks_takes_15_kb(web: Web, cli: Cli, remote: Remote) -> None:
    """With its links and its legend, as it is sent compressed."""
    run_grid(remote.jobs, side=50, replicates=4)
    cli.ok("sync", "-q")
    section = _map(web.complete("/jobs/grid/results"))
    assert "failed <b>1,156</b>" in section
    assert "succeeded <b>8,844</b>" in section
    assert len(gzip.compress(section.encode())) < 15_000


def test_a_cell_of_a_map_leads_to_its_tasks(grid: Web) -> None:
    """Each cell of a small map is a link, and has the counts as its title."""
    page = grid.complete("/jobs/grid/results?rows=tasks")
    cells = re.findall(
        r'<a href="([^"]+)" tabindex="-1"><title>([^<]+): (\d+) of (\d+) tasks failed</title>', _map(page)
    )
    assert len(cells) == 100
    assert sum(int(failed) for *_, failed, _ in cells) == 18
    link = next(html.unescape(link) for link, _, failed, _ in cells if failed != "0")
    assert len(_tasks(grid, f"/jobs/grid/results{link}".partition("#")[0])) == 2


def test_what_separates_a_part_of_the_failures_leads_to_its_sets(web: Web, cli: Cli, remote: Remote) -> None:
    """The failed ones alone, below the banner that names it."""
    sets = [{"x": number} for number in range(60)]
    run_study(remote.jobs, "odd", sets, lambda task: "failed" if task.number > 44 or task.number == 3 else "succeeded")
    cli.ok("sync", "-q")
    page = web.complete("/jobs/odd/results")
    assert "16 of 60 tasks failed, 15 with x > 44: this mean leaves them out. Show them" in text_of(page)
    [link] = re.findall(r'<a href="([^"]+)">only x &gt; 44</a>', page)
    assert "Parameter sets 1 to 15 of 15" in web.ok("/jobs/odd/results" + html.unescape(link))


def test_the_address_of_tasks_leads_to_their_table(grid: Web) -> None:
    """With its filters."""
    answer = grid.get("/jobs/grid/tasks?status=failed&param=beta>0.9")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/jobs/grid/results?rows=tasks&status=failed&param=beta%3E0.9"


def test_axes_are_chosen_in_the_address(grid: Web) -> None:
    """Among the parameters that vary; another one is a bad request."""
    grid.complete("/jobs/grid/results")
    assert 'aria-label="Tasks by gamma and beta;' in grid.ok("/jobs/grid/results?x=gamma&up=beta")
    assert 'aria-label="Tasks by gamma;' in grid.ok("/jobs/grid/results?x=gamma&up=gamma")
    answer = grid.get("/jobs/grid/results?x=delta")
    assert answer.status_code == 400
    assert "invalid parameter &#39;delta&#39;" in answer.text


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_are_those_of_the_command(grid: Web, cli: Cli) -> None:
    """By status and parameters, in each order, over all pages."""
    grid.complete("/jobs/grid/results?rows=tasks")
    for query, flags in (
        ("", ()),
        ("&status=failed", ("--status", "failed")),
        (
            "&param=beta>0.6&param=gamma=0.9&sort=-seconds",
            ("--param", "beta>0.6", "--param", "gamma=0.9", "--sort", "-seconds"),
        ),
    ):
        expected = cli.ok("tasks", "grid", "--ids", "--limit", "0", *flags).lines
        assert _tasks(grid, f"/jobs/grid/results?rows=tasks{query}") == [int(line) for line in expected]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/results?rows=tasks&param=beta", "invalid condition"),
        ("/results?rows=tasks&page=0", "invalid page"),
        ("/results?rows=dots", "invalid rows"),
        ("/results?param=betta>1", "Did you mean &#39;beta&#39;?"),
        ("/results?rows=tasks&param=betta>1", "Did you mean &#39;beta&#39;?"),
        ("/results?sort=peak", "invalid scalar &#39;peak&#39;"),
        ("/results?y=attack_rat", "Did you mean &#39;attack_rate&#39;?"),
        ("/logs?before=x", "invalid before"),
        ("/results.csv?y=1", "unknown parameter"),
        ("?log=1", "unknown parameter &#39;log&#39;: expected none here."),
    ],
)
def test_what_makes_no_sense_is_a_bad_request(grid: Web, path: str, sentence: str) -> None:
    """A sentence says what was expected."""
    grid.complete("/jobs/grid/results")
    answer = grid.get(f"/jobs/grid{path}")
    assert answer.status_code == 400
    assert sentence in answer.text


def test_a_task_that_went_on_says_so(web: Web, cli: Cli, remote: Remote) -> None:
    """In the words of the command: its time is that of the last attempt alone."""
    add_job(remote.jobs, "job", sets_of(2))
    on = {"attempt": 2, "resumed": Resumed(1, "20", 7.6)}
    Ledger(remote.store.inner)(attempt(0, "preempted"), attempt(0, **on), attempt(1))
    cli.ok("sync", "-q")
    page = web.complete("/jobs/job/results?rows=tasks")
    assert "<td>2, resumed at 7.6 s, once</td>" in page
    assert "<td>1</td>" in page
    assert "at 7.6 s, once" in cli.ok("tasks", "job").out


# --- the log ---------------------------------------------------------------------------------------------------------


def _lines(page: str) -> list[str]:
    return [
        html.unescape(re.sub(r"<[^>]+>", "", line)).strip()
        for line in re.findall(r"<li(?: [^>]*)?>(.*?)</li>", page, re.DOTALL)
    ]


@pytest.fixture
def logged(web: Web, cli: Cli, remote: Remote) -> Web:
    """Return an application with a job of 450 lines, of which task 7 failed."""
    run_grid(remote.jobs)
    for number in range(450):
        cli.clock.advance(seconds=1)
        text = f"Step {number} of the model"
        record_event(remote.store.inner, "grid", "log", now=cli.clock.now, text=text, task=number % 40)
    error = {"type": "ValueError", "message": "no", "traceback": "Traceback\n  model.py\nValueError: no"}
    record_event(remote.store.inner, "grid", "task_failed", now=cli.clock.now, task=7, error=error)
    cli.ok("sync", "-q")
    return web


def test_the_log_is_read_page_by_page(logged: Web) -> None:
    """Each line is on one page; the lines of a page are in the order of their times."""
    link, seen = "/jobs/grid/logs", list[str]()
    while link:
        page = logged.ok(link)
        lines = _lines(page)
        assert lines == sorted(lines, key=lambda line: line.split()[0])
        seen += lines
        older = re.findall(r'<a href="([^"]+)" rel="prev">', page)
        link = "/jobs/grid/logs" + html.unescape(older[0]) if older else ""
    steps = [line.partition("Step ")[2].split()[0] for line in seen if "Step" in line]
    assert sorted(map(int, steps)) == list(range(450))
    assert "The log begins here." in page


def test_lines_are_found_by_task_and_words(logged: Web) -> None:
    """In any case of letters. Signs of regular expressions are plain text, and failed tasks have all their lines."""
    assert len(_lines(logged.ok("/jobs/grid/logs?task=7,8"))) == 12 + 12 + 1
    assert len(_lines(logged.ok("/jobs/grid/logs?q=sTEP+44"))) == 11
    assert _lines(logged.ok("/jobs/grid/logs?q=step+.%2A")) == ["No line matches."]
    assert len(_lines(logged.ok("/jobs/grid/logs?failed=true"))) == 12 + 1
    page = logged.ok("/jobs/grid/logs?failed=true&q=valueerror")
    assert page.count("task 7</a>") == 1
    assert "Traceback\n  model.py\nValueError: no</span>" in page


def test_a_line_of_a_log_has_an_address(logged: Web) -> None:
    """Its link leads to a page that has the line, also from a page further down, and with the search."""
    for path in ("/jobs/grid/logs", "/jobs/grid/logs?before=200", "/jobs/grid/logs?q=step+44"):
        anchors = re.findall(r'<li id="(e\d+)"', logged.ok(path))
        links = [html.unescape(link) for link in re.findall(r'class="line" href="([^"]+)"', logged.ok(path))]
        assert len(anchors) == len(links) > 0
        query, _, anchor = links[-1].partition("#")
        assert anchor == anchors[-1]
        assert f'<li id="{anchor}"' in logged.ok(f"/jobs/grid/logs{query}")
        assert ("q=step+44" in query) == ("q=" in path)


def test_the_log_is_a_file_too(logged: Web) -> None:
    """All the lines that match, with their tasks, under the name of the job."""
    answer = logged.get("/jobs/grid/logs.txt?task=7")
    assert answer.mimetype == "text/plain"
    assert (
        answer.headers["Content-Disposition"] == "attachment; filename=\"grid.log.txt\"; filename*=UTF-8''grid.log.txt"
    )
    lines = answer.text.splitlines()
    assert len(lines) == 12 + 3
    assert any(re.fullmatch(r"\S+Z \[7\] Step 47 of the model", line) for line in lines)
    assert len(logged.get("/jobs/grid/logs.txt").text.splitlines()) == 450 + 3


def test_a_long_search_goes_on_by_a_link(logged: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page searches a bounded number of lines, and says so."""
    monkeypatch.setattr(logs_page, "MAX_SEARCHED", 100)
    monkeypatch.setattr(logs_page, "SEARCHED_AT_ONCE", 100)
    link, found = "/jobs/grid/logs?q=Step+3+of", list[str]()
    pages = 0
    while link:
        page = logged.ok(link)
        assert "100 lines were searched." in page or pages == 4
        found += [line for line in _lines(page) if "Step 3 of" in line]
        older = re.findall(r'<a href="([^"]+)" rel="prev">', page)
        link = "/jobs/grid/logs" + html.unescape(older[0]) if older else ""
        pages += 1
    assert (pages, len(found)) == (5, 1)


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_scalar_is_plotted_and_the_table_is_a_file(grid: Web, cli: Cli) -> None:
    """The file is what `results --table` writes; the statistics are those of the tasks at each value."""
    waiting = grid.get("/jobs/grid/results.csv")
    assert (waiting.status_code, waiting.headers["Retry-After"]) == (503, "5")
    assert "Being read" in grid.ok("/jobs/grid/results")
    assert grid.read_asked() == 1
    page = grid.ok("/jobs/grid/results")
    assert "<h2><bdi>attack_rate</bdi> over <bdi>beta</bdi></h2>" in page
    rows = re.findall(r'<th scope="row"><bdi>([^<]+)</bdi></th><td>(\d+)</td><td>([^<]+)</td>', flat(page))
    assert [(name, count) for name, count, _ in rows[:7]] == [("0", "20"), *((f"0.{one}", "20") for one in range(1, 7))]
    assert all(abs(float(mean) - float(name)) < 0.1 for name, _, mean in rows)
    assert "over <bdi>gamma</bdi>" in grid.ok("/jobs/grid/results?y=attack_rate&x=gamma")
    answer = grid.get("/jobs/grid/results.csv")
    assert answer.mimetype == "text/csv"
    assert answer.text == cli.ok("results", "grid", "--table", "-").out
    assert grid.read_asked() == 0


def _sets(page: str) -> list[list[str]]:
    """Return the cells of the table of parameter sets."""
    table = page.partition('<div id="listed"')[2].partition("</table>")[0].partition("<tbody>")[2]
    return [
        [text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]


def test_an_adaptive_study_shows_how_precise_its_sets_are(web: Web, cli: Cli, remote: Remote) -> None:
    """Four replicates of each set have ended. Those of the second one differ too much."""
    run_study(
        remote.jobs,
        "adaptive",
        [{"beta": 0.1}, {"beta": 0.9}],
        lambda task: "succeeded" if task.number % 40 < 4 else None,
        lambda task: {"result.json/peak": 10.0 + task.params["beta"] * (task.number % 2)},
        n_replicates={"min": 4, "max": 40, "until": {"peak": {"relative": 0.05}}},
    )
    cli.ok("sync", "-q")
    page = web.complete("/jobs/adaptive/results")
    assert [row[1:4] for row in _sets(page)] == [["0.1", "4", "10.05"], ["0.9", "4", "10.45"]]
    assert [row[-1] for row in _sets(page)] == ["precise", "more: peak ± 8.6 %"]
    assert "0 of 2 sets precise; 8 of at most 80 tasks" in flat(text_of(web.ok("/jobs/adaptive")))
    assert "x up to 40 replicates" in flat(text_of(web.ok("/jobs/adaptive")))


def test_a_mean_says_what_it_leaves_out(web: Web, cli: Cli, remote: Remote) -> None:
    """With the conditions of the failed tasks, or without if they follow no rule; nothing if all succeeded."""
    sets = [{"x": number} for number in range(40)]
    for job_id, failed in (("rule", range(30, 40)), ("chance", (3, 17)), ("whole", ())):
        run_study(
            remote.jobs, job_id, sets, lambda task, which=failed: "failed" if task.number in which else "succeeded",
            lambda task: {"result.json/y": task.number},
        )  # fmt: skip
    cli.ok("sync", "-q")
    told = "10 of 40 tasks failed, all with x &gt; 29: this mean leaves them out."
    assert told in web.complete("/jobs/rule/results")
    assert "2 of 40 tasks failed: this mean leaves them out." in web.complete("/jobs/chance/results")
    page = web.complete("/jobs/whole/results")
    assert "leaves them out" not in page
    heads = page.partition('<div id="listed"')[2].count('<th scope="col"')
    assert heads == len(_sets(page)[0]) == 6, "without failures, they have no columns"


def test_the_table_of_sets_has_the_numbers_of_the_command(grid: Web, cli: Cli) -> None:
    """A row per set, in any order, with the task that a click opens; page by page, and by conditions."""
    grid.complete("/jobs/grid/results")
    for sort, flag in ((".mean", "attack_rate.mean"), ("-failed", "-failed"), ("-gamma", "-gamma")):
        rows = cli.ok("results", "grid", "--by", "set", "--sort", flag, "--limit", "0", "--json").json["sets"]
        expected = [
            [f"{one['beta']}", f"{one['gamma']}", f"{one['done']}", f"{one['failed']}"]
            + [form % one[f"attack_rate.{name}"] if one["attack_rate.n"] else "" for form, name in (
                ("%.5g", "mean"), ("%.2g", "half_width"), ("%.3g", "sd"))]
            for one in rows
        ]  # fmt: skip
        found = [row for number in (1, 2) for row in _sets(grid.ok(f"/jobs/grid/results?sort={sort}&page={number}"))]
        assert [row[1:8] for row in found] == expected
    page = grid.ok("/jobs/grid/results?status=failed&param=beta>0.8")
    assert [(row[1], row[4], row[8]) for row in _sets(page)] == [("0.9", "2", "ValueError: beta is too large")] * 3
    assert "Parameter sets 1 to 3 of 3" in page
    assert 'aria-label="Set 98"' in page


def test_results_of_a_family_are_one_table(web: Web, cli: Cli, remote: Remote) -> None:
    """Those of the child, and of its parent where that did the task."""
    sets = [{"x": number} for number in range(20)]
    for job_id, only in (("night", None), ("night.2", [*range(15, 20)])):
        run_study(
            remote.jobs, job_id, sets,
            lambda task, last=only: "failed" if last is None and task.number > 14 else "succeeded",
            lambda task: {"result.json/y": task.number * 2}, only=only,
        )  # fmt: skip
    cli.ok("sync", "-q")
    web.ok("/jobs/night.2/results")
    assert web.read_asked() == 1
    assert "20 tasks" in web.ok("/jobs/night.2/results")
    assert '<a href="/jobs/night.2/results">night.2</a>' in web.ok("/jobs/night/results")
    assert web.get("/jobs/night.2/results.csv").text == cli.ok("results", "night.2", "--table", "-").out


def test_results_too_large_for_a_page_name_the_command(grid: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is kept."""
    monkeypatch.setattr(kept, "MAX_TASKS", 50)
    page = grid.complete("/jobs/grid/results")
    assert "a table of more than 50 tasks. Use: mops-jobs results grid --table FILE.csv" in page
    assert grid.get("/jobs/grid/results.csv").status_code == 503
    assert "The page does not" not in page.partition('id="rows"')[2]


def test_statistics_of_the_page_count_a_repeated_task_once(web: Web, cli: Cli, remote: Remote) -> None:
    """As means of the command do. The table has all rows."""
    manifest = add_job(remote.jobs, "job", [{"x": 1}, {"x": 2}, {"x": 1}], attempts=[attempt(0), attempt(1)])
    for number in (0, 1):
        leave_output(remote.jobs, manifest, number, y=number + 1)
    cli.ok("sync", "-q")
    assert "3 parameter sets (2 different) x 1 replicate" in web.ok("/jobs/job")
    results = kept.read_results("job", web.app)
    assert [row[-2:] for row in results.rows.read()] == [[None, 1], [None, 2], [0, 1]]
    assert summarize_scalars(results, ["y"])["y"].tasks == 2


def test_numbers_that_are_not_finite_are_no_points(web: Web, cli: Cli, remote: Remote) -> None:
    """The plot says how many. The API names them, and the table on the page has the real values."""
    manifest = add_job(remote.jobs, "job", [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}], attempts=map(attempt, range(4)))
    for number, y in enumerate((1.0, math.nan, -math.inf, 2.0)):
        leave_output(remote.jobs, manifest, number, y=y)
    cli.ok("sync", "-q")
    page = web.complete("/jobs/job/results")
    assert "2 of 4 values are NaN or infinite: not drawn, and in no mean." in flat(page)
    assert "y over x: 2 tasks" in page
    rows = web.get("/api/v1/results?job=job").get_json()["rows"]
    assert rows[1]["$not_finite"] == {"/y": "nan"}
    assert [str(real_numbers(row)["y"]) for row in rows] == ["1.0", "nan", "-inf", "2.0"]


# --- hostile names ---------------------------------------------------------------------------------------------------


@pytest.mark.claim("Markup stays text in pages")
def test_names_of_parameters_and_outputs_stay_text(web: Web, cli: Cli, remote: Remote) -> None:
    """Markup in each name and text of a study adds no element, and each can be chosen and filtered by."""
    run_hostile(remote.jobs, "hostile", cli.clock.now)
    cli.ok("sync", "-q")
    for path in ("", "/results"):
        web.complete(f"/jobs/hostile{path}")
    results = web.ok("/jobs/hostile/results")
    for path in ("", "/logs", "/results", "/results?rows=tasks"):
        page = web.ok(f"/jobs/hostile{path}")
        assert HOSTILE not in page
        assert str(escape(HOSTILE)) in page, path
        assert not set(page) & set("\u202e\x1b\x07")
        assert "<img" not in page
    for link in [link for link in _links(results, "") if "param=" in link][:12]:
        assert _tasks(web, "/jobs/hostile/results?rows=tasks&" + link.partition("#")[0].removeprefix("?"))
    for name in HOSTILE_NAMES:
        shown = name.replace("\u202e", "").replace("\x07", "").replace("\x1b", "")
        for query in ({"x": shown}, {"up": shown}):
            assert web.client.get("/jobs/hostile/results", query_string=query).status_code == 200
    assert LONG[:150] in web.ok("/jobs/hostile/results")
