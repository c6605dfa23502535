"""Bundles, studies and syncs of ModelOps' tools beside mops-jobs: what they run, and which records they end."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from mopsjobs.registry.status import TRANSITIONS, JobStatus
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import load_manifest
from support.cli import Cli, Remote, key, sentences
from support.desk import Desk
from support.kubernetes import Api, kubeconfig
from support.runs import sets_of, tree

WIRE = """
import json, pathlib

def wire_function(entrypoint, params, seed):
    registry = pathlib.Path(".modelops-bundle/registry.yaml")
    if not registry.exists():
        return {"table": b"", "metadata": json.dumps({"error": f"No registry found at {registry}"}).encode()}
    model, _, scenario = entrypoint.partition("/")
    if f"entrypoint: {model}:" not in registry.read_text():
        return {"table": b"", "metadata": json.dumps({"error": f"{model} is not in the registry"}).encode()}
    table = f"scenario,beta,seed\\n{scenario},{params['beta']},{seed}\\n".encode()
    return {"daily cases by age.csv": table, "metadata": json.dumps({"seed": seed}).encode()}
"""

BUNDLE = {
    ".gitignore": "__pycache__/\n.modelops/\nregistry.yaml\n# ModelOps Bundle\n.modelops-bundle/\n",
    ".modelopsignore": "# Ignore patterns for mops-bundle\n__pycache__/\n.venv/\n.env\n",
    ".modelops-bundle/registry.yaml": "models:\n  sir:\n    entrypoint: models.sir:StarsimSIR\ntargets: {}\n",
    "calabaria_like.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: calabaria-like\nVersion: 1\n",
    "calabaria_like.egg-info/entry_points.txt": "[modelops.wire]\nexecute = calabaria_like:wire_function\n",
    "calabaria_like.py": WIRE,
    "models/sir.py": "class StarsimSIR: pass\n",
}
"""A project as `mops bundle init` and `register-model` leave it, with a wire function like that of calabaria."""

STUDY = {
    "kind": "SimulationStudy",
    "model": "models.sir",
    "scenario": "baseline",
    "parameter_sets": [{"params": {"beta": 0.25}}, {"params": {"beta": 0.5}}, {"params": {"beta": 0.5}}],
    "sampling_method": "sobol",
    "n_replicates": 2,
    "outputs": None,
    "targets": None,
    "metadata": {"n_samples": 3, "scramble": True, "seed": 42, "model_class": "models.sir:StarsimSIR"},
}
"""A study with all fields of ModelOps' `SimulationStudy`."""


def test_a_modelops_bundle_and_study_run_unchanged(desk: Desk, tmp_path: Path) -> None:
    """The wire function is that of the entry point, the registry is packed, and names of outputs may have spaces.

    A repeated parameter set has further seeds, as ModelOps runs it.
    """
    tree(desk.home, BUNDLE)
    study = tmp_path / "study.json"
    study.write_text(json.dumps(STUDY, indent=2))
    ran = desk.ok("submit", str(study), "--auto", "--job-id", "job", "--wait")
    assert "The tasks run through the entry point modelops.wire of " in ran.err
    assert desk.ended() == "succeeded"
    out = tmp_path / "out"
    desk.ok("results", "job", "--download", str(out))
    tables = sorted(path.read_text() for path in out.glob("*/*/daily cases by age.csv"))
    seeds = {0.25: [1124470915, 1124470916], 0.5: [531761812, 531761813, 531761814, 531761815]}
    rows = [f"baseline,{beta},{seed}" for beta, some in seeds.items() for seed in some]
    assert tables == [f"scenario,beta,seed\n{row}\n" for row in rows]
    assert ", seeds: modelops\n" in ran.err
    assert "Seeds" in desk.ok("status", "job").out
    assert "6 tasks, seeds: modelops" in desk.ok("provenance", "job").out
    assert "verified" in desk.ok("validate", "job").out


CALIBRATION = {
    "model": "models.sir", "scenario": "baseline", "algorithm": "optuna", "target_data": {"target_ids": ["incidence"]},
    "max_iterations": 100, "convergence_criteria": {}, "algorithm_config": {}, "outputs": None, "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"kind": "CalibrationSpec"}, {"algorithm": None, "kind": "CalibrationSpec"}])
def test_a_calibration_spec_is_refused_by_its_name(desk: Desk, tmp_path: Path, fields: dict[str, object]) -> None:
    """Recognised by its kind, or by its fields as in ModelOps; the hint names the command that runs it."""
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(CALIBRATION | fields))
    ran = desk.ends(2, "submit", str(path), "--auto")
    assert f"invalid study {path}: it is a calibration, whose sampler chooses the parameters" in ran.err
    assert f"Run it with mops-jobs calibrate {path} --auto." in ran.err


def test_targets_are_refused_and_never_ignored(desk: Desk) -> None:
    """Those of the study by an error, those of the registry, which ModelOps evaluates by default, by a warning."""
    ran = desk("submit", desk.write(sets_of(1), targets=["targets.incidence:mean_target"]), "--auto")
    assert (ran.code, sentences(ran.err)[0]) == (
        2,
        "error: invalid study: mops-jobs does not evaluate targets: targets.incidence:mean_target.",
    )
    assert "add --without-targets." in ran.err
    assert list(desk.jobs.list_jobs()) == []
    registry = "models: {}\ntargets:\n  incidence: {entrypoint: 'targets.incidence:mean_target'}\n"
    tree(desk.home, {".modelops-bundle/registry.yaml": registry})
    ran = desk.ok("submit", desk.write(sets_of(1), targets=[]), "--auto", "--dry-run")
    assert "warning: mops-jobs does not evaluate the targets in .modelops-bundle/registry.yaml: incidence." in ran.err


def test_a_study_with_targets_runs_without_them_if_asked(desk: Desk, tmp_path: Path) -> None:
    """A warning names them once, and not those of the registry, which the study overrides. The manifest keeps them."""
    target = "targets.incidence:mean_target"
    registry = BUNDLE[".modelops-bundle/registry.yaml"].replace("{}", f"{{mean: {{entrypoint: '{target}'}}}}")
    tree(desk.home, {**BUNDLE, ".modelops-bundle/registry.yaml": registry})
    study = tmp_path / "study.json"
    study.write_text(json.dumps({**STUDY, "targets": [target]}))
    ran = desk.ok("submit", str(study), "--auto", "--without-targets", "--job-id", "job", "--wait")
    assert sentences(ran.err)[0] == f"warning: The targets of the study are not evaluated: {target}."
    assert ran.err.count("warning") == 1
    assert desk.ended() == "succeeded"
    assert load_manifest(desk.store, "job").study.targets == (target,)


def test_an_error_that_a_wire_function_returns_fails_its_task(desk: Desk, tmp_path: Path) -> None:
    """As of a project whose registry was never written: all tasks succeeded, with empty tables."""
    tree(desk.home, {name: text for name, text in BUNDLE.items() if not name.endswith("registry.yaml")})
    study = tmp_path / "study.json"
    study.write_text(json.dumps(STUDY))
    ran = desk("submit", str(study), "--auto", "--job-id", "job", "--wait")
    reason = "RuntimeError: the model returned an error: No registry found at .modelops-bundle/registry.yaml"
    assert (ran.code, reason in ran.err, desk.ended()) == (100, True, "failed")


def test_what_the_registry_of_a_bundle_lacks_is_named(desk: Desk) -> None:
    """ModelOps' wire function returns an error for an unknown model, so its tasks would all fail."""
    registry = "models:\n  sir: {entrypoint: 'models.sir:SIR', path: models/sir.py, data: [data/pop.csv, model.py]}\n"
    tree(desk.home, {".modelops-bundle/registry.yaml": registry, "data/pop.csv": "1", ".gitignore": "data/*.csv\n"})
    ran = desk.ok("submit", desk.write(sets_of(1)), "--auto", "--dry-run")
    unknown, unpacked = sentences(ran.err)[:2]
    assert unknown == "warning: .modelops-bundle/registry.yaml has no model 'model:simulate'; it has models.sir:SIR."
    assert "registry.yaml names files that are not packed: data/pop.csv, models/sir.py. If a rule" in unpacked
    wire = "def wire(entrypoint, params, seed): return {}\n"
    tree(desk.home, {".modelopsignore": "!data/*.csv\n", "models/sir.py": "", "wire.py": wire})
    assert "warning" not in desk.ok("submit", desk.write(sets_of(1), model="models.sir"), "--auto", "--dry-run").err
    tree(desk.home, {".modelops-bundle/registry.yaml": "models: {"})
    ran = desk.ok("submit", desk.write(sets_of(1)), "--auto", "--dry-run")
    assert "warning: .modelops-bundle/registry.yaml is not checked, since it cannot be read: " in ran.err


def test_missing_data_of_a_target_are_named(desk: Desk) -> None:
    """A reduce function may evaluate the target: `.gitignore` of ModelOps' templates leaves observed data out."""
    target = "{entrypoint: 'targets.incidence:mean_target', path: targets/incidence.py, data: [data/observed.csv]}"
    registry = f"models:\n  m: {{entrypoint: 'model:simulate'}}\ntargets:\n  incidence: {target}\n"
    tree(desk.home, {".modelops-bundle/registry.yaml": registry, "targets/incidence.py": "", "data/observed.csv": "1"})
    tree(desk.home, {".gitignore": "data/*.csv\n"})
    ran = desk.ok("submit", desk.write(sets_of(1)), "--auto", "--dry-run")
    assert "registry.yaml names files that are not packed: data/observed.csv. If a rule" in ran.err


def test_the_environment_beside_the_study_is_used(desk: Desk, tmp_path: Path) -> None:
    """`uv tool install` gives mops-jobs a Python without the model's packages, and no environment is active."""
    wrapper = tmp_path / "project" / ".venv" / "bin" / "python"
    tree(wrapper.parent, {"python": f'#!/bin/sh\nWRAPPED=1 exec {sys.executable} "$@"\n'})
    wrapper.chmod(0o755)
    tree(desk.home, {"model.py": "import os\ndef simulate(params, seed): return {'wrapped': os.environ['WRAPPED']}\n"})
    study = tmp_path / "project" / "study.json"
    study.write_text(json.dumps({"model": "model:simulate", "parameter_sets": [{"x": 1}]}))
    ran = desk.ok("submit", str(study), "--auto", "--job-id", "job", "--wait")
    assert f"The tasks run in the environment beside the project: {wrapper}" in ran.err
    active = desk("submit", str(study), "--auto", "--job-id", "other", "--wait", CONDA_PREFIX=sys.prefix)
    assert "beside the project" not in active.err
    assert "KeyError: 'WRAPPED'" in active.err


ANSWERS = ("a pod succeeded", "a pod failed", "pods are active", "no pod yet", "no such Job", "no answer")
"""What ModelOps distinguishes in the answer of a cluster, in its order."""

STEPS = {
    # answer, with validation: the status that it sets, and the statuses in which it does so (None: all)
    ("a pod succeeded", True): ("validating", {"running"}),
    ("a pod succeeded", False): ("succeeded", None),
    ("a pod failed", True): ("failed", None),
    ("a pod failed", False): ("failed", None),
    ("pods are active", True): ("running", None),
    ("pods are active", False): ("running", None),
    ("no such Job", True): ("failed", {"running"}),
    ("no such Job", False): ("failed", {"running"}),
}
"""The steps of ModelOps' `_perform_sync`. All other answers change nothing. A status that its registry does not allow
as the next one is refused there, with a warning. A record without `k8s_name` is not looked up. The client of Kubernetes
refuses to ask for a Job without a name, and ModelOps warns and goes on."""


def sync_as_modelops(store: VersionedStore, job_id: str, answer: str, *, validate: bool) -> str:
    """Do to one record what ModelOps does when the cluster answers so; return its status then."""
    found = store.get(key(job_id))
    assert found is not None
    record = json.loads(found.value)
    status, only = STEPS.get((answer, validate), (None, None))
    is_looked_up = record["k8s_name"] is not None
    is_meant = only is None or record["status"] in only
    if is_looked_up and status is not None and is_meant and status in TRANSITIONS[JobStatus(record["status"])]:
        record["status"] = status
        store.put(key(job_id), json.dumps(record).encode(), found.version)
    return str(record["status"])


@pytest.fixture
def submitted(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> str:
    """Return a job of four shards that mops-jobs has launched on Kubernetes."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url, namespace="models"))
    Path("study.json").write_text(
        json.dumps({"model": "m:f", "scenario": "s", "parameter_sets": [{"x": x} for x in range(4)]})
    )
    cli.ok(
        "submit", "study.json", "--auto", "--engine", "kubernetes", "--image", "i:1", "--job-id", "a", "--shards", "4"
    )
    return "a"


def test_no_sync_of_modelops_ends_a_job_of_mops_jobs(remote: Remote, submitted: str) -> None:
    """One finished shard of four made the record `validating`, and a Job of another cluster made it `failed`."""
    for status in ("scheduled", "running", "validating"):
        remote.jobs.update_status(submitted, status)
        for answer, validate in itertools.product(ANSWERS, (True, False)):
            assert sync_as_modelops(remote.store.inner, submitted, answer, validate=validate) == status


def test_views_show_the_job_that_the_record_names_elsewhere(cli: Cli, submitted: str) -> None:
    """ModelOps shows it, too: it prints all metadata."""
    job = cli.ok("status", submitted, "--json", "--refresh").json
    assert (job["k8s_name"], job["k8s_namespace"], job["metadata"]["kubernetes_job"]) == ("a", "models", "a")
    assert "models/a" in cli.ok("status", submitted).out
    assert [one["k8s_name"] for one in cli.ok("list", "--name", "a", "--json").json["jobs"]] == ["a"]
