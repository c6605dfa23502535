"""`submit --dry-run` as a plan: what the tasks will cost, by earlier jobs or by a probe, and what it rests on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mopsjobs
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from support.cli import Cli, Remote
from support.desk import Desk
from support.ledgers import BUNDLE, Ledger, add_job, attempt
from support.runs import calls, code, sets_of

COSTLY = """
def simulate(params, seed):
    if params["x"] > 5:
        raise ValueError("too much")
    for number in range(params["x"] * 20000):
        number * number
    return {"x": params["x"]}
"""


def planned(desk: Desk, path: str, *words: str, **env: str) -> dict[str, Any]:
    found: dict[str, Any] = desk.ok(
        "submit", path, "--auto", "--workers", "2", "--dry-run", "--json", *words, **env
    ).json
    return found


def keys(desk: Desk) -> list[str]:
    return list(desk.store.list_keys(""))


def test_without_anything_measured_no_number_is_made_up(desk: Desk) -> None:
    plan = planned(desk, desk.write(sets_of(3), n_replicates=2))
    assert plan["tasks"] == {"low": 6, "high": 6}
    names = ("cpu_hours", "wall_seconds", "output_bytes", "requests", "price", "start_up_seconds")
    assert [plan[name] for name in names] == [None] * 6
    assert plan["basis"] == {
        "kind": None, "jobs": [], "same_code": None, "same_engine": None, "tasks": 0, "parameter_sets": 0, "beyond": [],
    }  # fmt: skip
    shown = desk.ok("submit", desk.write(sets_of(3)), "--auto", "--dry-run").out
    assert "CPU      unknown: no ended job of this model is known here. Add --probe 3\n" in shown


def test_the_ledger_of_an_earlier_job_is_the_basis(desk: Desk) -> None:
    """The range is around what its sets have used. Once the code has changed, the plan says so."""
    code(desk.home, COSTLY)
    sets = [{"x": x} for x in range(1, 6)]
    desk.run("succeeded", sets, n_replicates=2)
    path = desk.write(sets, n_replicates=3)
    plan = planned(desk, path)
    basis = plan["basis"]
    assert (basis["kind"], basis["jobs"], basis["same_code"], basis["same_engine"]) == ("ledgers", ["job"], True, True)
    assert (basis["tasks"], basis["parameter_sets"], basis["beyond"]) == (10, 5, [])
    used = desk.ok("query", "SELECT sum(cpu_seconds) AS used FROM attempts", "--json").json["rows"][0]["used"]
    hours = plan["cpu_hours"]
    assert hours["low"] * 3600 <= 1.5 * used <= hours["high"] * 3600
    assert plan["output_bytes"]["low"] < 15 * len(b'{"x": 1}') < plan["output_bytes"]["high"]
    assert plan["start_up_seconds"]["low"] > 0
    assert plan["wall_seconds"]["low"] >= plan["start_up_seconds"]["low"]
    assert plan["workers"] == 2
    assert plan["requests"] is None, "the registry is a file on this machine"
    (desk.home / "notes.txt").write_text("1\n")
    assert planned(desk, path)["basis"]["same_code"] is False
    assert "from 10 tasks of job with other code\n" in desk.ok("submit", path, "--auto", "--dry-run").out


def test_an_extension_plans_what_is_left(desk: Desk) -> None:
    """Reused tasks cost nothing. If all are, nothing is left to measure."""
    desk.run("succeeded", sets_of(2), n_replicates=2)
    plan = planned(desk, desk.write(sets_of(2), n_replicates=5), "--extend", "job")
    assert (plan["tasks"], plan["reused_tasks"]) == ({"low": 6, "high": 6}, 4)
    assert plan["basis"]["tasks"] == 4
    whole = desk.write(sets_of(2), n_replicates=2)
    plan = planned(desk, whole, "--extend", "job")
    assert (plan["cpu_hours"], plan["wall_seconds"]) == ({"low": 0, "high": 0}, {"low": 0, "high": 0})
    shown = desk.ok("submit", whole, "--auto", "--dry-run", "--extend", "job").out
    assert shown.endswith("Tasks    0 to run, 4 reused\n")


def test_where_a_precision_decides_the_plan_has_the_fewest_and_the_most(desk: Desk) -> None:
    """The ranges reach from the lower end for the fewest replicates to the upper end for all that are allowed."""
    desk.run("succeeded", sets_of(2), n_replicates=3)
    least, most = (planned(desk, desk.write(sets_of(2), n_replicates=count)) for count in (3, 40))
    until = {"min": 3, "max": 40, "until": {"x": {"relative": 0.1}}}
    plan = planned(desk, desk.write(sets_of(2), n_replicates=until))
    assert plan["tasks"] == {"low": 6, "high": 80}
    for name in ("cpu_hours", "wall_seconds", "output_bytes"):
        assert plan[name] == {"low": least[name]["low"], "high": most[name]["high"]}
    assert (
        "Tasks    6 to 80 to run\n"
        in desk.ok("submit", desk.write(sets_of(2), n_replicates=until), "--auto", "--dry-run").out
    )


def test_a_probe_runs_tasks_of_all_parts_and_stores_nothing(desk: Desk, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    path = desk.write(sets_of(9, calls=str(noted)), n_replicates=4)
    before = keys(desk)
    plan = planned(desk, path, "--probe", "3", "--job-id", "job")
    assert calls(noted) == {1: 1, 4: 1, 7: 1}
    assert keys(desk) == before
    assert not JobDir.for_job("job", desk.env).path.exists()
    assert desk.jobs.get_job("job") is None
    assert (plan["basis"]["kind"], plan["basis"]["tasks"], plan["basis"]["parameter_sets"]) == ("probe", 3, 3)
    assert plan["cpu_hours"]["high"] >= plan["cpu_hours"]["low"] >= 0
    assert plan["start_up_seconds"] is None
    ran = desk.ok("submit", path, "--auto", "--dry-run", "--probe", "2")
    assert "from 2 tasks on this machine\n" in ran.out
    assert ran.err == "Nothing was submitted.\n"


def test_a_probe_tells_of_failures_and_counts_their_attempts(desk: Desk, tmp_path: Path) -> None:
    """They cost, too: with two retries, each is tried three times."""
    code(desk.home, COSTLY.replace("    if params", "    open(params['log'], 'a').write('x')\n    if params"))
    log = tmp_path / "log"
    path = desk.write([{"x": 9, "log": str(log)}, {"x": 1, "log": str(log)}])
    ran = desk.ok(
        "submit", path, "--auto", "--dry-run", "--probe", "2", "--retries", "2", "--retry-on", "error:ValueError"
    )
    assert "warning: 1 of 2 tasks of the probe failed: task 0 (x=9): ValueError: too much\n" in ran.err
    assert log.read_text() == "xxxx"


def test_prices_of_the_user_are_those_of_the_plan(desk: Desk) -> None:
    """Cores by the hour, and a month of the outputs. Of tasks that wait, the time counts for which they hold a core."""
    config = Path(desk.env["HOME"], ".config", "mops-jobs", "config.toml")
    config.parent.mkdir(parents=True)
    config.write_text('[prices]\ncurrency = "CHF"\ncore_hour = 3600\ngib_month = 1073741824\n')
    code(desk.home, "import time\ndef simulate(params, seed):\n    time.sleep(0.2)\n    return {'x': 1}\n")
    path = desk.write(sets_of(4))
    plan = planned(desk, path, "--probe", "2")
    price = plan["price"]
    assert price["currency"] == "CHF"
    assert price["cores"]["high"] > max(0.8, plan["cpu_hours"]["high"] * 3600)
    assert price["storage_month"] == plan["output_bytes"]
    shown = desk.ok("submit", path, "--auto", "--dry-run", "--probe", "2").out.splitlines()[-1]
    assert shown.startswith("Price    ")
    assert shown.endswith(" CHF per month for storage")


@pytest.mark.parametrize(("budget", "verb"), [("0.00000001", "will"), ("1000", None)])
def test_a_budget_that_the_tasks_exceed_is_a_warning(desk: Desk, budget: str, verb: str | None) -> None:
    code(desk.home, COSTLY)
    words = ("--auto", "--dry-run", "--probe", "2", "--max-cpu-hours", budget)
    err = desk.ok("submit", desk.write([{"x": 5}, {"x": 4}]), *words).err
    assert (f"CPU-hours {verb} end the job" in err) if verb else err == "Nothing was submitted.\n"


def test_jobs_of_a_registry_in_a_network_tell_requests_too(cli: Cli, remote: Remote) -> None:
    """All attempts at a task cost. Those that were stopped or lost say too little, and jobs at work say nothing yet."""
    code(Path.cwd() / "desk")
    study = Path.cwd() / "study.json"
    fields = {"model": "model:simulate", "parameter_sets": sets_of(2), "n_replicates": 10, "outputs": ["result.json"]}
    study.write_text(json.dumps(fields))
    for job_id, status in (("job", "succeeded"), ("busy", "running")):
        add_job(remote.jobs, job_id, sets_of(2), n_replicates=10)
        report = ShardReport(20, 0, is_done=True, usage=ShardUsage(45.0, 50.0, 60.0, None))
        remote.jobs.report_shard(job_id, 0, 1, report)
        if status == "succeeded":
            remote.jobs.update_status(job_id, status)
    Ledger(remote.store.inner)(
        *(attempt(number, "failed") for number in range(18)),
        *(attempt(number, attempt=2) for number in range(18)),
        attempt(18, "cancelled", user_seconds=0.0),
        attempt(19, "lost", user_seconds=None),
    )
    cli.ok("sync")
    plan = cli.ok("submit", str(study), "--bundle", BUNDLE, "--dry-run", "--json", "--engine", "local").json
    assert plan["basis"]["jobs"] == ["job"]
    assert plan["basis"]["tasks"] == 18
    low, high = (plan["cpu_hours"][end] * 3600 for end in ("low", "high"))
    assert low < 20 * 2 * 2.25 < high < 1.6 * low
    assert plan["requests"]["writes"]["low"] > 10
    remote.store.down = True
    again = cli.ok("submit", str(study), "--bundle", BUNDLE, "--dry-run", "--json").json
    assert {**again, "job_id": ""} == {**plan, "job_id": ""}


def test_a_program_gets_the_same_plan(desk: Desk) -> None:
    desk.run("succeeded", sets_of(3), n_replicates=2)
    shown = planned(desk, desk.write(sets_of(3), n_replicates=4))
    study = mopsjobs.Study("model:simulate", sets_of(3), replicates=4, outputs=["result.json"])
    with mopsjobs.connect(env=desk.env) as registry:
        plan = registry.plan(study, desk.home, workers=2)
    changing = ("job_id", "python")
    assert {**plan, **dict.fromkeys(changing)} == {**shown, **dict.fromkeys(changing)}
    with mopsjobs.connect(env=desk.env) as registry, pytest.raises(mopsjobs.UsageError, match="expected 1 or more"):
        registry.plan(study, desk.home, probe=0)


@pytest.mark.parametrize(
    ("words", "workers"),
    [
        (("--workers", "1"), 1),
        (("--engine", "kubernetes", "--image", "sims:1", "--shards", "4", "--cpu", "2"), 8),
        (("--engine", "kubernetes", "--image", "sims:1", "--shards", "4", "--workers", "3"), 12),
        (("--engine", "slurm", "--shards", "2", "--workers", "3"), 6),
        (("--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"), None),
    ],
)
def test_shards_and_workers_decide_how_many_tasks_run_at_once(
    cli: Cli, remote: Remote, words: tuple[str, ...], workers: int | None
) -> None:
    """Earlier jobs of another engine tell what tasks cost, and not how long the engine takes to start."""
    study = Path.cwd() / "study.json"
    study.write_text(
        json.dumps({"model": "model:simulate", "parameter_sets": sets_of(100), "outputs": ["result.json"]})
    )
    add_job(remote.jobs, "job", sets_of(100))
    remote.jobs.update_fields("job", engine="local")
    remote.jobs.report_shard("job", 0, 1, ShardReport(100, 0, is_done=True, usage=ShardUsage(1.0, 1.0, 1.0, None)))
    remote.jobs.update_status("job", "succeeded")
    Ledger(remote.store.inner)(*(attempt(number) for number in range(100)))
    cli.ok("sync")
    plan = cli.ok("submit", str(study), "--bundle", BUNDLE, "--dry-run", "--json", *words).json
    assert plan["workers"] == workers
    assert plan["basis"]["same_engine"] is (len(words) == 2)
    assert (plan["start_up_seconds"] is None) is (len(words) > 2)
    if workers is None:
        assert (plan["wall_seconds"], plan["requests"]) == (None, None)
    else:
        seconds = 100 * 2.5 / workers
        assert plan["wall_seconds"]["low"] < seconds + (plan["start_up_seconds"] or {"low": 0})["low"]
        assert plan["wall_seconds"]["high"] > seconds


def test_a_study_in_the_code_does_not_make_it_other_code(desk: Desk) -> None:
    desk.run("succeeded", sets_of(2))
    path = desk.write(sets_of(2), n_replicates=2)
    (desk.home / "study.json").write_text(Path(path).read_text())
    assert planned(desk, path)["basis"]["same_code"] is True


def test_other_seeds_are_other_tasks(desk: Desk) -> None:
    """With the same seeds, the plan of the same study is surer: each of its tasks was measured."""
    desk.run("succeeded", sets_of(2), n_replicates=3)
    same, other = (
        planned(desk, desk.write(sets_of(2), n_replicates=3, **seeds))["output_bytes"]
        for seeds in ({}, {"seeds": "common"})
    )
    assert same["low"] == same["high"]
    assert other["low"] < same["low"] < other["high"]


def test_a_probe_whose_tasks_all_fail_is_no_plan(desk: Desk) -> None:
    """What it would cost is not known, and a script sees that by the exit code."""
    code(desk.home, COSTLY)
    ran = desk("submit", desk.write([{"x": 9}]), "--auto", "--dry-run", "--probe", "1", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "1 of 1 task of the probe failed: task 0: ValueError: too much. There is no plan.\n" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--probe", "2"), "--probe has no effect without --dry-run."),
        (("--probe", "0", "--dry-run"), "--probe"),
    ],
)
def test_a_probe_that_makes_no_plan_is_refused(desk: Desk, words: tuple[str, ...], message: str) -> None:
    assert message in desk.ends(2, "submit", desk.write(sets_of(1)), "--auto", *words).err


def test_values_beyond_the_measured_ones_are_a_warning(desk: Desk) -> None:
    code(desk.home, COSTLY)
    desk.run("succeeded", [{"x": 1}, {"x": 2}])
    ran = desk.ok("submit", desk.write([{"x": 2}, {"x": 4}]), "--auto", "--dry-run")
    assert "warning: Values of x lie beyond those that were measured." in ran.err
