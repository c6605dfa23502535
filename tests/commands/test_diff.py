"""`diff`: what differs between two jobs, from their code to their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.app.origins import compare_jobs
from mopsjobs.bundles.bundle import store_bundle
from mopsjobs.bundles.packing import pack
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from support.cli import Cli, add
from support.desk import Desk
from support.runs import make_venv, sets_of, study, tree

MODEL = "def simulate(params, seed):\n    return {'x': params['x'] * FACTOR, 'seed': seed}\nFACTOR = 1\n"


def submit(jobs: JobRegistry, job_id: str, directory: Path, count: int = 2, **fields: object) -> None:
    """Register a job as a submission of a directory does, with an output of each task."""
    with pack(directory) as packed:
        store_bundle(jobs.store, packed)
        manifest = Manifest(job_id=job_id, study=study(sets_of(count), **fields), bundle=packed.digest)
    jobs.store.create_if_absent(manifest_key(job_id), manifest.to_json())
    for _, task in manifest.tasks():
        jobs.store.create_if_absent(output_key(job_id, task, "result.json"), str(task.params["x"]).encode())
    add(jobs, job_id, "succeeded")


def test_two_runs_differ_in_code_parameters_packages_and_results(desk: Desk, tmp_path: Path) -> None:
    """The outputs of tasks that both have are compared by their bytes."""
    (desk.home / "model.py").write_text(MODEL)
    one = str(make_venv(tmp_path / "one", numpy="1.26", scipy="1.0"))
    other = str(make_venv(tmp_path / "other", numpy="2.1", scipy="1.0"))
    desk.run("succeeded", sets_of(3), "--python", one, job_id="one")
    (desk.home / "model.py").write_text(MODEL.replace("FACTOR = 1", "FACTOR = 2"))
    (desk.home / "new.py").touch()
    desk.run("succeeded", [{"x": 0}, {"x": 1}, {"x": 7}], "--python", other, job_id="two")
    found = desk.ok("diff", "one", "two", "--json").json
    assert found["code"] == {
        "added": ["new.py"],
        "removed": [],
        "changed": ["model.py"],
        "read": ["model.py"],
        "diffs": {},
    }
    assert found["environment"] == {"fields": {}, "packages": {"numpy": ["1.26", "2.1"]}}
    study_ = found["study"]
    assert (study_["fields"], study_["only_first"], study_["only_second"], study_["common"]) == ({}, 1, 1, 2)
    assert (study_["first_sets"], study_["second_sets"]) == (
        [{"params": {"x": 2}, "seed": None}], [{"params": {"x": 7}, "seed": None}],
    )  # fmt: skip
    results = found["results"]
    assert [results[kind] for kind in ("equal", "different", "only_first", "only_second")] == [1, 1, 1, 1]
    text = desk.ok("diff", "one", "two", "--code").out
    expected = (
        "1 file changed, 1 file added",
        "-FACTOR = 1",
        "+FACTOR = 2",
        "1 parameter set only in one, 1 parameter set only in two, 2 in both",
        "numpy: 1.26 -> 2.1",
        "1 task equal, 1 task different, 1 task only in one, 1 task only in two",
    )
    assert [words for words in expected if words not in text] == []
    assert "scipy" not in text


def test_a_job_does_not_differ_from_itself(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    submit(jobs, "a", tree(tmp_path / "code", {"model.py": MODEL}))
    lines = [line.split(None, 1) for line in cli.ok("diff", "a", "a").lines]
    assert lines == [
        ["Jobs", "a -> a"],
        ["Code", "equal"],
        ["Study", "equal"],
        ["Packages", "not recorded of either job"],
        ["Results", "2 tasks equal"],
    ]


def test_outputs_of_a_reduce_function_are_said_not_to_be_compared(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    """Unless the function and the code are the same, so that equal tasks have equal reductions."""
    said, root = "  outputs of the reduce function: not compared", tree(tmp_path / "code", {"model.py": MODEL})
    for job_id, reduce in (("none", None), ("mean", "m:mean"), ("same", "m:mean"), ("sum", "m:sum")):
        submit(jobs, job_id, root, reduce=reduce)
    submit(jobs, "other", tree(root, {"model.py": MODEL + "#\n"}), reduce="m:mean")
    told = {name: said in cli.ok("diff", "mean", name).lines for name in ("none", "same", "sum", "other")}
    assert told == {"none": True, "same": False, "sum": True, "other": True}


def test_results_can_be_left_out(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    submit(jobs, "a", tree(tmp_path / "code", {"model.py": MODEL}))
    assert cli.ok("diff", "a", "a", "--without-results", "--json").json["results"] is None
    assert "Results" not in cli.ok("diff", "a", "a", "--without-results").out


def test_only_texts_of_some_size_are_compared_by_line(
    jobs: JobRegistry, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binary, a long file and a link are named only; the lines of all files together are limited."""
    monkeypatch.setattr(compare_jobs, "MAX_FILE_LINES", 50)
    monkeypatch.setattr(compare_jobs, "MAX_DIFF_LINES", 12)
    root = tree(tmp_path / "code", {"a.py": "1\n", "big.txt": "x\n" * 60, "long.txt": "y\n" * 40, "model.py": MODEL})
    (root / "nul").write_bytes(b"\0")
    (root / "latin").write_bytes(b"\xff")
    (root / "link").symlink_to("a.py")
    submit(jobs, "a", root)
    tree(root, {"a.py": "2\n", "big.txt": "z\n", "long.txt": "z\n" * 40, "model.py": MODEL + "#\n"})
    (root / "nul").write_bytes(b"\0\0")
    (root / "latin").write_bytes(b"\xfe")
    (root / "link").unlink()
    (root / "link").symlink_to("nul")
    submit(jobs, "b", root)
    code = cli.ok("diff", "a", "b", "--code", "--json").json["code"]
    assert sorted(code["changed"]) == ["a.py", "big.txt", "latin", "link", "long.txt", "model.py", "nul"]
    diffs = code["diffs"]
    assert diffs["a.py"] == ["--- a/a.py", "+++ b/a.py", "@@ -1 +1 @@", "-1", "+2"]
    assert len(diffs["long.txt"]) == 7
    assert {name for name, lines in diffs.items() if lines is None} == {"big.txt", "latin", "model.py", "nul"}
    assert diffs["link"] == []


def test_escape_sequences_of_the_code_do_not_reach_the_terminal(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    root = tree(tmp_path / "code", {"a.py": "1\n"})
    submit(jobs, "a", root)
    tree(root, {"a.py": "\x1b[2J\x07\n", "\x1b[31mred": ""})
    submit(jobs, "b", root, metadata={"title": "\x1b[31m"})
    out = cli.ok("diff", "a", "b", "--code").out
    assert not {"\x1b", "\x07"} & set(out)
    assert "+[2J" in out


def test_jobs_that_were_only_reported_have_their_outputs_compared(jobs: JobRegistry, cli: Cli) -> None:
    for job_id, value in (("a", b"1"), ("b", b"2")):
        add(jobs, job_id, "succeeded")
        jobs.store.create_if_absent(f"results/{job_id}/p/1/x", value)
    found = cli.ok("diff", "a", "b", "--json").json
    assert (found["code"], found["study"], found["environment"]) == (None, None, None)
    assert found["results"]["tasks"]["different"] == [{"param_id": "p", "seed": 1, "outputs": ["x"]}]


def test_the_job_that_lacks_a_part_is_named(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    """What one job has is not said to be missing of both."""
    submit(jobs, "a", tree(tmp_path / "code", {"model.py": MODEL}))
    add(jobs, "reported", "succeeded")
    assert [line.split(None, 1) for line in cli.ok("diff", "a", "reported").lines[1:4]] == [
        ["Code", "not recorded of reported"],
        ["Study", "not recorded of reported"],
        ["Packages", "not recorded of either job"],
    ]


def test_images_that_differ_are_shown(jobs: JobRegistry, cli: Cli) -> None:
    for job_id in ("a", "b"):
        add(jobs, job_id, "succeeded", engine="kubernetes", metadata={"k8s_image": f"model:{job_id}"})
    assert "Image      model:a -> model:b" in cli.ok("diff", "a", "b").out
