"""`submit --extend JOB`: tasks that an earlier job has done are not run again, and are shown as what they are."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.errors import EXIT_USAGE, JobBusyError
from mopsjobs.ledger.format import chunk_key, encode_attempts
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import results_prefix
from support.desk import Desk, make_desk
from support.ledgers import attempts_in
from support.runs import calls, kill, record, sets_of

SETS, REPLICATES = 4, 3


@pytest.fixture(scope="module")
def home_of_finished_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a job of 4 parameter sets and 3 replicates that has succeeded. Each test copies its registry.

    Its file `calls`, in which the model notes its calls, is a parameter: tasks that are reused have the same one.
    """
    home = tmp_path_factory.mktemp("finished")
    with closing(make_desk(home)) as desk:
        desk.run("succeeded", sets_of(SETS, calls=str(home / "calls")), n_replicates=REPLICATES)
    assert calls(home / "calls").total() == SETS * REPLICATES
    shutil.copy(home / "calls", home / "calls-of-job")
    return home


@pytest.fixture
def calls_file(home_of_finished_job: Path) -> Path:
    """Return the file in which the model notes its calls. It has those of the job."""
    return Path(shutil.copy(home_of_finished_job / "calls-of-job", home_of_finished_job / "calls"))


@pytest.fixture
def ran(desk: Desk, home_of_finished_job: Path) -> Desk:
    """Return a desk with the job that has succeeded."""
    return desk.copy_registry(home_of_finished_job)


def extend(desk: Desk, calls_file: Path, *argv: str, sets: int = SETS, replicates: int, job_id: str = "more") -> str:
    """Submit a study with other numbers, wait for its end, and return what the command said."""
    study = desk.write(sets_of(sets, calls=str(calls_file)), n_replicates=replicates)
    words = (study, "--auto", "--job-id", job_id, "--workers", "2", "--extend", "job", *argv)
    said = desk.ok("submit", *words).err
    assert desk.ended(job_id) == "succeeded"
    return said


def test_more_replicates_and_sets_run_only_what_is_new(ran: Desk, calls_file: Path) -> None:
    """The model counts its calls: 12 of 25 tasks exist, so 13 run."""
    said = extend(ran, calls_file, sets=5, replicates=5)
    assert "12 of 25 tasks reused from job\n" in said
    assert "Launched 13 of 25 tasks with " in said
    assert calls(calls_file) == {0: 5, 1: 5, 2: 5, 3: 5, 4: 5}
    state = record(ran.jobs, "more")
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (25, 25, 25)
    assert (state.metadata["n_reused_tasks"], state.metadata["reused_from"]) == (12, ["job"])
    assert len(ran.results("more")) == 13


@pytest.mark.parametrize(
    "rule",
    [
        "common",
        "modelops",
        pytest.param([7, 5, 3, 1], marks=pytest.mark.long),
        pytest.param({"base": 9}, marks=pytest.mark.long),
    ],
)
def test_an_extension_keeps_the_seeds_of_a_rule(desk: Desk, tmp_path: Path, rule: object) -> None:
    """More replicates and more sets run only what is new. Another rule reuses nothing, and says why."""
    noted = tmp_path / "calls"
    desk.submit(sets_of(2, calls=str(noted)), "--wait", n_replicates=2, seeds=rule)
    sets = desk.write(sets_of(3, calls=str(noted)), n_replicates=4, seeds=rule)
    said = desk.ok("submit", sets, "--auto", "--job-id", "more", "--extend", "job", "--wait").err
    assert "4 of 12 tasks reused from job\n" in said
    assert calls(noted) == {0: 4, 1: 4, 2: 4}
    other = desk.write(sets_of(2, calls=str(noted)), seeds={"base": 2**40})
    said = desk("submit", other, "--auto", "--extend", "job", "--dry-run").err
    assert "No task of job is reused: `seeds` of its study differs.\n" in said


def test_the_study_of_failures_with_more_sets_proves_their_region(desk: Desk, tmp_path: Path) -> None:
    """`failures --design` prints it, `submit --extend` runs it as it is, and the failures of both have a condition."""
    draw = random.Random(3)
    sets = [{"x": draw.randrange(5), "rate": round(draw.random(), 3), "mode": draw.choice("xyz")} for _ in range(20)]
    failing = 'if params["x"] >= 3 and params["rate"] > 0.5: raise ValueError("no bed")'
    (desk.home / "model.py").write_text(f"def simulate(params, seed):\n    {failing}\n    return {{}}\n")
    desk.run("partial", sets, n_replicates=2)
    more = tmp_path / "more.json"
    ran = desk.ok("failures", "job")
    assert "8 failed sets are too few to name a region: about 8 more near x > 2 and rate > 0.4 would tell" in ran.out
    assert "Print a study with 8 further parameter sets: mops-jobs failures job --design" in ran.lines
    ran = desk.ok("failures", "job", "--design")
    assert "8 further parameter sets (16 tasks), inside and beside x > 2 and rate > 0.4: " in ran.err
    assert "Run them from more.json, if this was written there: mops-jobs submit more.json --extend job\n" in ran.err
    more.write_text(ran.out)
    desk.launched.add("more")
    assert "24 of 56 tasks reused from job\n" in desk.ok("submit", str(more), "--extend", "job", "--job-id", "more").err
    assert desk.ended("more") == "partial"
    assert "all 24 have x > 2 and rate > 0.4; no other has" in desk.ok("failures", "more").out
    assert desk("failures", "more", "--design").code == EXIT_USAGE


def test_the_study_of_failures_with_more_replicates_reaches_its_width(desk: Desk, tmp_path: Path) -> None:
    """`failures --design --within` prints it, and each set has as many as it needs. Those that exist are reused."""
    noise = 'return {"result.json": json.dumps({"peak": 10 + params["x"] * random.Random(seed).gauss(0, 1)}).encode()}'
    (desk.home / "model.py").write_text(f"import json, random\ndef simulate(params, seed):\n    {noise}\n")
    desk.run("succeeded", [{"x": 0}, {"x": 2}], n_replicates=4)
    more = tmp_path / "more.json"
    more.write_text(desk.ok("failures", "job", "--design", "--within", "peak=10%").out)
    desk.launched.add("more")
    assert "8 of " in desk.ok("submit", str(more), "--extend", "job", "--job-id", "more").err
    assert desk.ended("more") == "succeeded"
    state = record(desk.jobs, "more")
    precision = state.metadata["precision"]
    assert (precision["sets"], precision["precise"]) == (2, 2)
    assert 8 < state.tasks_completed < json.loads(more.read_text())["n_replicates"]["max"]
    rows = desk.ok("results", "more", "--by", "set", "--json").json["sets"]
    assert all(row["peak.half_width"] <= 0.1 * row["peak.mean"] for row in rows)


def test_a_job_of_known_tasks_alone_runs_none(ran: Desk, calls_file: Path) -> None:
    said = extend(ran, calls_file, replicates=1)
    assert "4 of 4 tasks reused from job\nLaunched none of 4 tasks: all are reused\n" in said
    assert calls(calls_file).total() == 12
    assert ran.results("more") == {}


def test_changed_code_runs_all_tasks_and_says_why(ran: Desk, calls_file: Path) -> None:
    with (ran.home / "model.py").open("a") as file:
        file.write("# changed\n")
    said = extend(ran, calls_file, replicates=REPLICATES)
    assert "No task of job is reused: its code differs in model.py.\n" in said
    assert "0 of 12 tasks reused from job\n" in said
    assert calls(calls_file).total() == 24


def test_a_study_beside_its_model_is_not_code(desk: Desk, tmp_path: Path) -> None:
    """The directory that is packed has the study, which an extension changes. Other files count until they are ignored.

    Leaving a file out helps only if the earlier job has none of this name.
    """
    calls_file = tmp_path / "calls"
    study = desk.home / "study.json"
    desk.launched.update(("job", "more"))
    study.write_bytes(Path(desk.write(sets_of(2, calls=str(calls_file)))).read_bytes())
    (desk.home / "table.csv").write_text("1\n")
    desk.ok("submit", str(study), "--auto", "--job-id", "job")
    assert desk.ended() == "succeeded"
    study.write_text(json.dumps(json.loads(study.read_text()) | {"n_replicates": 2}))
    said = desk.ok("submit", str(study), "--auto", "--job-id", "more", "--extend", "job").err
    assert "2 of 4 tasks reused from job\n" in said
    assert desk.ended("more") == "succeeded"
    assert calls(calls_file) == {0: 2, 1: 2}
    (desk.home / "rates.json").write_text("[0.1, 0.2]")
    said = desk.ok("submit", str(study), "--auto", "--dry-run", "--extend", "job").err
    advice = "; list files other than code in .modelopsignore"
    assert f"No task of job is reused: its code differs in rates.json{advice}.\n" in said
    (desk.home / ".modelopsignore").write_text("rates.json\n")
    said = desk.ok("submit", str(study), "--auto", "--dry-run", "--extend", "job").err
    assert "2 of 4 tasks reused from job\n" in said
    (desk.home / "table.csv").write_text("2\n")
    said = desk.ok("submit", str(study), "--auto", "--dry-run", "--extend", "job").err
    assert "No task of job has read table.csv, which changed.\n2 of 4 tasks reused from job\n" in said


def test_tables_and_downloads_beside_the_model_are_not_code(ran: Desk, calls_file: Path) -> None:
    """Until the user changes them, or brings them back by a rule."""
    table = ran.home / "r.csv"
    ran.ok("results", "job", "--table", str(table))
    ran.ok("results", "job", "--download", str(ran.home))
    ran.ok("provenance", "job", "--ro-crate", str(ran.home / "crate"))
    study = ran.write(sets_of(SETS, calls=str(calls_file)), n_replicates=REPLICATES)
    again = ("submit", study, "--auto", "--dry-run", "--extend", "job")
    said = ran.ok(*again).err
    assert "Left out of the bundle, as written by mops-jobs: crate/, r.csv, tasks.csv. To pack one, add" in said
    assert "12 of 12 tasks reused from job\n" in said
    (ran.home / ".modelopsignore").write_text("!r.csv\n")
    assert "No task of job is reused: its code differs in r.csv; " in ran.ok(*again).err
    (ran.home / ".modelopsignore").unlink()
    table.write_text("x\n")
    assert "No task of job is reused: its code differs in r.csv; " in ran.ok(*again).err


READER = """
import subprocess

def simulate(params, seed):
    return {"said": subprocess.check_output(["cat", "data.csv"], text=True)}
"""


@pytest.fixture(scope="module")
def home_of_readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a job whose tasks read `data.csv` by a program, and nothing of `README.md`."""
    home = tmp_path_factory.mktemp("readers")
    with closing(make_desk(home)) as desk:
        _write_reader(desk)
        desk.run("succeeded", sets_of(2))
    return home


def _write_reader(desk: Desk) -> None:
    (desk.home / "model.py").write_text(READER)
    (desk.home / "data.csv").write_text("1\n")
    (desk.home / "README.md").write_text("1\n")


@pytest.fixture
def readers(desk: Desk, home_of_readers: Path) -> Desk:
    """Return a desk with the job of the readers."""
    _write_reader(desk)
    return desk.copy_registry(home_of_readers)


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are opened")


@LINUX
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["README.md"], "No task of job has read README.md, which changed.\n2 of 2 tasks reused from job\n"),
        (["README.md", "data.csv"], "No task of job is reused: its code differs in data.csv.\n0 of 2 "),
        (["new.md"], "No task of job is reused: its code differs in new.md; list files "),
        (["new.py", "README.md"], "No task of job is reused: its code differs in new.py.\n0 of 2 "),
        (["new.py", "data.csv"], "No task of job is reused: its code differs in data.csv, new.py.\n0 of 2 "),
    ],
)
def test_changed_files_matter_to_tasks_that_may_have_read_them(readers: Desk, changed: list[str], said: str) -> None:
    """Also if a program read them that the model started. A new file matters: a model may ask whether it exists."""
    for name in changed:
        (readers.home / name).write_text("2\n")
    assert said in readers.ok("submit", readers.write(sets_of(2)), "--auto", "--dry-run", "--extend", "job").err


@LINUX
@pytest.mark.parametrize("sets", [[{"x": 0.5}], []])
def test_a_job_with_nothing_to_reuse_blames_no_file(readers: Desk, sets: list[dict[str, float]]) -> None:
    """Neither if none of its tasks is of the new study, nor if it has lost all outputs."""
    for name in ("README.md", "new.py"):
        (readers.home / name).write_text("2\n")
    if not sets:
        for key in list(readers.store.list_keys(results_prefix("job"))):
            readers.store.delete(key)
    study = readers.write(sets or sets_of(2))
    said = readers.ok("submit", study, "--auto", "--dry-run", "--extend", "job").err
    assert "No task of job is reused: it has complete outputs of no task of the study.\n0 of " in said
    assert "new.py" not in said


@LINUX
def test_a_study_that_tasks_read_matters_to_them(desk: Desk) -> None:
    """A model may take settings from the study beside it. A study that no task opened still matters to none."""
    reader = "def simulate(params, seed):\n    return {'said': open('study.json').read()}\n"
    (desk.home / "model.py").write_text(reader)
    study, other = desk.home / "study.json", desk.home / "other.json"
    for path in (study, other):
        path.write_bytes(Path(desk.write(sets_of(2))).read_bytes())
    desk.launched.add("job")
    desk.ok("submit", str(study), "--auto", "--job-id", "job")
    assert desk.ended() == "succeeded"
    more = json.dumps(json.loads(study.read_text()) | {"n_replicates": 2})
    for path, reused in ((other, "2 of 4 tasks reused from job\n"), (study, "code differs in study.json.\n0 of 4 ")):
        path.write_text(more)
        assert reused in desk.ok("submit", str(path), "--auto", "--dry-run", "--extend", "job").err


@LINUX
def test_provenance_and_diff_tell_which_files_tasks_read(readers: Desk) -> None:
    found = readers.ok("provenance", "job", "--json").json
    assert found["files_read"] == ["data.csv", "model.py"]
    assert ", 3 files of " in (text := readers.ok("provenance", "job").out)
    assert ", of which tasks read 2\n" in text
    readers.ok("provenance", "job", "--ro-crate", str(readers.home.parent / "crate"))
    crate = json.loads((readers.home.parent / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    unread = [one["@id"] for one in crate if one.get("description") == "No task has read it"]
    assert unread == ["code/README.md"]
    (readers.home / "README.md").write_text("2\n")
    (readers.home / "data.csv").write_text("2\n")
    readers.submit(sets_of(2), job_id="more")
    assert readers.ended("more") == "succeeded"
    found = readers.ok("diff", "job", "more", "--json").json["code"]
    assert (found["changed"], found["read"]) == (["README.md", "data.csv"], ["data.csv"])
    assert "  ~ README.md, which no task read\n  ~ data.csv\n" in readers.ok("diff", "job", "more").out


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            (None, None),
            [
                "code differs in README.md, data.csv, and the files that its tasks read are not known.",
                "0 of 2 ",
            ],
        ),
        (
            ({"model.py"}, None),
            [
                "No task of job has read README.md, data.csv, which changed.",
                "1 task of job cannot be reused: the files read there are not known.",
                "1 of 2 ",
            ],
        ),
        (
            ({"model.py"}, {"model.py", "data.csv"}),
            [
                "No task of job has read README.md, which changed.",
                "Tasks of job that may have read data.csv, which changed, are not reused.",
                "1 of 2 ",
            ],
        ),
    ],
)
def test_reuse_goes_by_what_the_ledger_knows_of_each_task(
    readers: Desk, files: tuple[set[str] | None, ...], said: list[str]
) -> None:
    """It knows nothing of what a killed runner did last, of jobs of earlier versions, and where tasks ran on macOS."""
    attempts = attempts_in(readers.store)
    for key in list(readers.store.list_keys("ledger/job/")):
        readers.store.delete(key)
    for number, (attempt, opened) in enumerate(zip(attempts, files, strict=True)):
        value = encode_attempts("job", 0, [attempt], None if opened is None else frozenset(opened))
        assert readers.store.create_if_absent(chunk_key("job", 0, "ab", number), value)
    (readers.home / "README.md").write_text("2\n")
    (readers.home / "data.csv").write_text("2\n")
    err = readers.ok("submit", readers.write(sets_of(2)), "--auto", "--dry-run", "--extend", "job").err
    assert "\n".join(said) in err


def test_without_code_the_job_has_that_of_the_extended_one(ran: Desk, calls_file: Path) -> None:
    (ran.home / "model.py").unlink()
    study = ran.write(sets_of(SETS, calls=str(calls_file)), n_replicates=4)
    ran.launched.add("more")
    ran.ok("submit", study, "--job-id", "more", "--extend", "job")
    assert ran.ended("more") == "succeeded"
    assert calls(calls_file).total() == 16


def test_other_names_of_outputs_run_all_tasks(ran: Desk, calls_file: Path) -> None:
    study = ran.write(sets_of(SETS, calls=str(calls_file)), outputs=None)
    said = ran.ok("submit", study, "--auto", "--dry-run", "--extend", "job", "--json")
    assert said.json["reused_tasks"] == 0
    assert "No task of job is reused: `outputs` of its study differs.\n" in said.err


def test_lost_and_damaged_outputs_are_computed_again(ran: Desk, calls_file: Path) -> None:
    """One output is gone, another one is cut: their tasks run, the ten others do not."""
    lost, cut, *_ = (entry for entry in ran.store.scan(results_prefix("job")))
    ran.store.delete(lost.key)
    assert ran.store.put(cut.key, b"{", cut.version)
    assert "10 of 12 tasks reused from job\n" in extend(ran, calls_file, replicates=REPLICATES)
    assert calls(calls_file).total() == 14


def test_a_damaged_output_is_a_matter_of_resume(ran: Desk, calls_file: Path) -> None:
    """Its task runs again, and the family has its new output."""
    cut = next(iter(ran.store.scan(results_prefix("job"))))
    assert ran.store.put(cut.key, b"{", cut.version)
    assert "resume job" in ran("validate", "job").err
    child = ran.ok("resume", "job", "--json").json["job_id"]
    assert ran.ended(child) == "succeeded"
    assert calls(calls_file).total() == 13
    keys = [json.loads(line)["key"] for line in ran.ok("results", child, "--json").lines]
    assert (len(keys), cut.key in keys) == (12, False)
    assert ran.ok("resume", child).err == f"{child}: nothing is missing\n"


def test_killed_half_way_no_task_runs_twice(desk: Desk, tmp_path: Path) -> None:
    """The runner of the extension is killed with three tasks done, and resumed. Two tasks were at work.

    Its workers may outlive it, so their calls are noted in a file of this test.
    """
    gate, calls_file = tmp_path / "gate", tmp_path / "calls"
    known = sets_of(SETS, calls=str(calls_file))
    desk.run("succeeded", known)
    sets = [*known, *({"x": x, "calls": str(calls_file)} for x in (10, 11, 12))]
    sets += [{"x": x, "calls": str(calls_file), "gate": str(gate)} for x in (20, 21, 22)]
    desk.launched.add("more")
    desk.ok("submit", desk.write(sets), "--auto", "--job-id", "more", "--workers", "2", "--extend", "job")
    desk.until(lambda: len(desk.results("more")) == 3, "three tasks to be done", "more")
    desk.until(lambda: calls(calls_file).total() == SETS + 5, "two tasks that wait", "more")
    kill(desk.runner("more"))
    gate.touch()
    desk.ok("resume", "more")
    assert desk.ended("more") == "succeeded"
    made = calls(calls_file)
    assert [made[x] for x in (*range(SETS), 10, 11, 12)] == [1] * (SETS + 3)
    assert max(made[x] for x in (20, 21, 22)) <= 2  # those that the killed workers had begun
    assert record(desk.jobs, "more").tasks_verified == 10


def test_an_extension_can_be_extended(ran: Desk, calls_file: Path) -> None:
    """Each task is attributed to the job that has done it, not to one that reuses it."""
    extend(ran, calls_file, replicates=4)
    study = ran.write(sets_of(SETS, calls=str(calls_file)), n_replicates=5)
    ran.launched.add("most")
    said = ran.ok("submit", study, "--auto", "--job-id", "most", "--extend", "more").err
    assert "16 of 20 tasks reused from more, job\n" in said
    assert ran.ended("most") == "succeeded"
    assert calls(calls_file).total() == 20
    found = {one.job_id: one.task_count for one in load_manifest(ran.store, "most").reused}
    assert found == {"more": 4, "job": 12}


def test_a_job_at_work_cannot_be_extended(desk: Desk, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    desk.submit(sets_of(2, gate=str(gate)))
    ran = desk("submit", desk.write(sets_of(3, gate=str(gate))), "--auto", "--extend", "job")
    gate.touch()
    assert (ran.code, ran.out) == (JobBusyError.exit_code, "")
    assert "Job job has not ended: its tasks would be computed twice." in ran.err
    assert [state.job_id for state in desk.jobs.list_jobs()] == ["job"]


# --- what other views show ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_twice(home_of_finished_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with `job`, and with `more`, which has a replicate more of each parameter set."""
    home = tmp_path_factory.mktemp("finished-twice")
    with closing(make_desk(home)) as desk:
        extend(desk.copy_registry(home_of_finished_job), home_of_finished_job / "calls", replicates=4)
    return home


@pytest.fixture
def extended(desk: Desk, finished_twice: Path) -> Desk:
    """Return a desk with the two jobs."""
    return desk.copy_registry(finished_twice)


def test_outputs_of_reused_tasks_are_those_of_their_source(extended: Desk, tmp_path: Path) -> None:
    listed = [json.loads(line) for line in extended.ok("results", "more", "--json").out.splitlines()]
    assert len(listed) == 16
    assert sorted(one["task"] for one in listed) == list(range(16))
    assert sum(one["key"].startswith("results/job/") for one in listed) == 12
    extended.ok("results", "more", "--download", str(tmp_path / "out"))
    rows = list(csv.DictReader((tmp_path / "out" / "tasks.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"complete"}
    assert [row["job_id"] for row in rows] == ["job", "job", "job", "more"] * SETS
    assert len(list((tmp_path / "out").glob("*/*/result.json"))) == 16
    assert extended.ok("results", "more", "--download", str(tmp_path / "out")).code == 0


@pytest.mark.parametrize("is_ledger_lost", [False, True], ids=["by chunks", "by outputs"])
def test_the_table_of_results_has_reused_tasks(extended: Desk, *, is_ledger_lost: bool) -> None:
    """Their scalars come from the chunks of the source. If these are gone, they come from the outputs."""
    if is_ledger_lost:
        for key in list(extended.store.list_keys("ledger/job/")):
            extended.store.delete(key)
    table = extended.ok("results", "more", "--table", "-").out
    rows = list(csv.DictReader(table.splitlines()))
    assert [(int(row["task"]), row["status"], int(row["result.x"])) for row in rows] == [
        (number, "succeeded", number // 4) for number in range(16)
    ]
    assert all(row["result.seed"] == row["seed"] for row in rows)
    assert [bool(row["seconds"]) for row in rows] == [False, False, False, True] * SETS


def test_diff_and_provenance_know_reused_tasks(extended: Desk, tmp_path: Path) -> None:
    results = extended.ok("diff", "job", "more", "--json").json["results"]
    assert (results["equal"], results["different"], results["only_second"]) == (12, 0, 4)
    assert extended.ok("provenance", "more", "--json").json["reused"] == [{"job_id": "job", "tasks": 12}]
    assert "12 tasks of job" in extended.ok("provenance", "more").out
    extended.ok("provenance", "more", "--ro-crate", str(tmp_path / "crate"))
    crate = (tmp_path / "crate" / "ro-crate-metadata.json").read_text()
    assert "12 of them were done by job" in crate


def test_lost_outputs_of_reused_tasks_are_missing(extended: Desk) -> None:
    """Without the ledger of the earlier job, too: no sentence says then that their values are still there."""
    lost = list(extended.store.list_keys(results_prefix("job")))[:3]
    for key in [*lost, *extended.store.list_keys("ledger/job/")]:
        extended.store.delete(key)
    assert extended("validate", "more").code == 7
    ran = extended("results", "more", "--by", "set", "--json").json
    assert (ran["tasks"]["done"], ran["tasks"]["missing"]) == (13, 3)
    assert not any("has their values" in problem for problem in ran["problems"])


def test_outputs_lost_after_the_submission_are_a_matter_of_resume(extended: Desk, calls_file: Path) -> None:
    """Its tasks run again."""
    lost = [entry.key for entry in extended.store.scan(results_prefix("job"))]
    for key in lost:
        extended.store.delete(key)
    before = calls(calls_file)
    first = extended.ok("resume", "more", "--json").json["job_id"]
    assert extended.ended(first) == "succeeded"
    assert calls(calls_file) - before == dict.fromkeys(range(SETS), REPLICATES)
    assert len(extended.ok("results", first, "--json").out.splitlines()) == 16


def test_reused_tasks_succeeded_and_used_nothing(extended: Desk) -> None:
    """The job used the seconds of its own attempts alone."""
    ran = extended.ok("tasks", "more", "--json", "--limit", "0")
    assert [(one["outcome"], one["attempt"]) for one in ran.json["tasks"]] == [
        ("succeeded", 0), ("succeeded", 0), ("succeeded", 0), ("succeeded", 1),
    ] * SETS  # fmt: skip
    measured = [one["seconds"] for one in ran.json["tasks"] if one["attempt"]]
    used = extended.ok("status", "more", "--json").json["task_seconds"]
    assert used == pytest.approx(sum(measured), abs=0.01)


def test_reused_tasks_are_done_while_others_wait(ran: Desk, calls_file: Path, tmp_path: Path) -> None:
    """Also once the job has a ledger, in which they have no attempt."""
    gate = tmp_path / "gate"
    sets = [*sets_of(SETS, calls=str(calls_file)), {"x": 8}, {"x": 9, "gate": str(gate)}]
    ran.launched.add("more")
    ran.ok("submit", ran.write(sets), "--auto", "--job-id", "more", "--extend", "job")
    ran.until(lambda: list(ran.store.list_keys("ledger/more/")), "the ledger to have the short task", "more")
    found = ran.ok("tasks", "more", "--json").json["tasks"]
    gate.touch()
    assert [one["outcome"] for one in found[: SETS + 1]] == ["succeeded"] * (SETS + 1)
