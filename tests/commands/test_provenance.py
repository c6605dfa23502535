"""`provenance`: code, study, packages and machines of a job, as text, as JSON and as an RO-Crate."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mopsjobs
from mopsjobs.app.origins import ro_crate
from mopsjobs.ledger.environment import encode_environment, environment_of_worker, environments_prefix
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.studies.manifest import Manifest, manifest_key
from support.calibrated import put_calibration
from support.cli import Cli, Remote, add
from support.desk import Desk, make_desk
from support.runs import make_venv, sets_of, study, tree

SECRET = "hunter2"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Yield a desk with a job of two tasks that ran in a venv with two packages, from a dirty git repository."""
    home = tmp_path_factory.mktemp("home")
    words = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
    remote = f"https://me:{SECRET}@example.org/model.git"
    with closing(make_desk(home)) as desk:
        for arguments in (["init", "-q"], ["remote", "add", "origin", remote], ["add", "."], ["commit", "-qm", "one"]):
            subprocess.run([*words, *arguments], cwd=desk.home, env=env, check=True)
        tree(desk.home, {"lib/data.csv": "a,b\n", "na me.txt": ""})
        (desk.home / "link").symlink_to("model.py")
        python = make_venv(home / "venv", numpy="2.1", Other_One="0.1")
        desk.run("succeeded", sets_of(2), "--python", str(python), "--owner", "ada")
        yield desk


def test_json_has_code_study_packages_machines_and_versions(ran: Desk) -> None:
    found = ran.ok("provenance", "job", "--json").json
    model = (ran.home / "model.py").read_bytes()
    assert {file["name"]: file for file in found["files"]}["model.py"] == {
        "name": "model.py",
        "bytes": len(model),
        "sha256": hashlib.sha256(model).hexdigest(),
        "executable": False,
        "link_to": None,
    }
    assert [file["name"] for file in found["files"]] == ["lib/data.csv", "link", "model.py", "na me.txt"]
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ran.home, text=True).strip()
    assert (found["git_commit"], found["git_dirty"]) == (head, True)
    assert found["submitted_by"] == mopsjobs.__version__
    assert found["hosts"] == [socket.gethostname()]
    assert (found["image"], found["image_digest"]) == (None, None)
    assert (found["owner"], found["engine"], found["status"]) == ("ada", "local", "succeeded")
    (environment,) = found["environments"]
    assert environment["packages"] == {"numpy": "2.1", "other-one": "0.1"}
    assert environment["python"] == platform.python_version()
    assert environment["mops_jobs"] == mopsjobs.__version__
    assert found["study"]["digest"].startswith("sha256:")
    counts = {name: found["study"][name] for name in ("parameters", "parameter_sets", "replicates", "tasks")}
    assert counts == {"parameters": 1, "parameter_sets": 2, "replicates": 1, "tasks": 2}


def test_the_text_has_the_same_for_people(ran: Desk) -> None:
    out = ran.ok("provenance", "job").out
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ran.home, text=True).strip()
    expected = (
        f"Git        {head}, with changes",
        f"Hosts      {socket.gethostname()}",
        "Packages   2: numpy 2.1, other-one 0.1",
        f"Python     cpython {platform.python_version()} on linux-",
        "1 parameter, 2 parameter sets, 1 replicate, 2 tasks",
    )
    assert [line for line in expected if line not in out] == []


def test_no_form_has_a_secret_or_a_path_of_the_machine(ran: Desk, tmp_path: Path) -> None:
    crate = tmp_path / "crate"
    text = ran.ok("provenance", "job").out + ran.ok("provenance", "job", "--json").out
    ran.ok("provenance", "job", "--ro-crate", str(crate))
    text += (crate / "ro-crate-metadata.json").read_text() + (crate / "provenance.json").read_text()
    assert not [word for word in (SECRET, str(ran.home.parent), "PATH=", "example.org/model") if word in text]


def entities(crate: Path) -> dict[str, Any]:
    document = json.loads((crate / "ro-crate-metadata.json").read_text())
    assert document["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    found = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(found) == len(document["@graph"]), "each id once"
    return found


def references(value: object) -> list[str]:
    """Return all ids that an entity refers to."""
    if isinstance(value, dict):
        own = [value["@id"]] if set(value) == {"@id"} else []
        return own + [found for name, part in value.items() if name != "@id" for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_the_crate_is_a_process_run_crate(ran: Desk, tmp_path: Path) -> None:
    """It has what roc-validator 0.13.0 requires for the profile process-run-crate 0.5 on RO-Crate 1.1."""
    crate = tmp_path / "crate"
    ran.ok("provenance", "job", "--ro-crate", str(crate), "--license", "CC-BY-4.0")
    found = entities(crate)
    root, run = found["./"], found["#run"]
    assert found["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert found["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert root["conformsTo"] == {"@id": ro_crate.PROFILE}
    assert found[ro_crate.PROFILE]["@type"] == "CreativeWork"
    assert {"name", "description", "datePublished", "license", "hasPart"} <= root.keys()
    assert root["license"] == "CC-BY-4.0"
    assert run["@type"] == "CreateAction"
    assert (run["instrument"], run["object"], run["result"]) == (
        {"@id": "code/"}, {"@id": "study.json"}, {"@id": "results/"},
    )  # fmt: skip
    assert run["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "SoftwareApplication" in found["code/"]["@type"]
    packages = [found[one["@id"]] for one in found["code/"]["softwareRequirements"]]
    assert {(one["name"], one.get("softwareVersion")) for one in packages} >= {("numpy", "2.1"), ("other-one", "0.1")}
    outside = {reference for entity in found.values() for reference in references(entity)} - found.keys()
    assert outside == {"https://w3id.org/ro/crate/1.1"}


def test_the_crate_of_a_calibration_has_its_fit(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """How its sets were found, and their values: those of `provenance --json` and `results --best`."""
    put_calibration(remote.jobs, "earlier", 1, status="succeeded")
    put_calibration(remote.jobs, "fit", 2, status="succeeded", extends="earlier")
    best = cli.ok("results", "fit", "--best", "--json", "--limit", "0").json["sets"]
    cli("provenance", "fit", "--ro-crate", str(tmp_path / "crate"))
    document = json.loads((tmp_path / "crate" / "calibration.json").read_text())
    assert (document["sampler"], document["objective"], document["mode"]) == ("latin-hypercube", "loss", "synchronous")
    assert (document["extends"], document["sets"]) == ("earlier", best)
    found = entities(tmp_path / "crate")
    assert {"@id": "calibration.json"} in found["#run"]["object"]
    assert "It extends calibration earlier." in found["./"]["description"]


def test_each_file_that_the_crate_describes_is_in_it(ran: Desk, tmp_path: Path) -> None:
    """Files have their sizes, and directories end with a slash."""
    crate = tmp_path / "crate"
    ran.ok("provenance", "job", "--ro-crate", str(crate))
    found = entities(crate)
    files = {name: entity for name, entity in found.items() if entity["@type"] == "File"}
    assert {"study.json", "provenance.json", "code/model.py", "code/na%20me.txt", "results/tasks.csv"} <= files.keys()
    for name, entity in files.items():
        assert (crate / name.replace("%20", " ")).stat().st_size == int(entity["contentSize"])
    assert all((crate / name).is_dir() for name, entity in found.items() if "Dataset" in entity["@type"])
    assert len(list((crate / "results").rglob("result.json"))) == 2
    assert json.loads((crate / "study.json").read_text())["parameter_sets"] == [{"params": one} for one in sets_of(2)]


def test_the_crate_can_do_without_outputs_and_takes_no_used_directory(ran: Desk, tmp_path: Path) -> None:
    crate = tmp_path / "crate"
    ran.ok("provenance", "job", "--ro-crate", str(crate), "--without-results")
    assert not (crate / "results").exists()
    assert "result" not in entities(crate)["#run"]
    again = ran("provenance", "job", "--ro-crate", str(crate))
    assert (again.code, "expected a new or an empty one" in again.err) == (2, True)
    file = str(crate / "study.json")
    refused = ran("provenance", "job", "--ro-crate", file)
    assert (refused.code, refused.err) == (1, f"error: Cannot write {file}: File exists.\n")


# --- jobs of other programs and versions ----------------------------------------------------------------------------


def test_what_an_earlier_version_did_not_note_is_not_recorded(jobs: JobRegistry, cli: Cli) -> None:
    """The bundle may be gone, too: the rest is shown, and the exit code is 7."""
    manifest = Manifest(job_id="old", study=study(sets_of(1)), bundle="sha256:" + "0" * 64)
    jobs.store.create_if_absent(manifest_key("old"), manifest.to_json())
    add(jobs, "old", "succeeded")
    ran = cli.ends(7, "provenance", "old")
    assert "is not in the store" in ran.err
    lines = dict(line.split(None, 1) for line in ran.lines)
    assert {lines[name] for name in ("Git", "Hosts", "Python")} == {"not recorded"}
    assert lines["Code"].endswith("which cannot be read")


def test_a_job_that_was_only_reported_has_its_record(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    add(jobs, "reported", "succeeded", owner="ada")
    found = cli.ok("provenance", "reported", "--json").json
    assert {found[name] for name in ("study", "bundle", "git_commit", "files", "hosts", "submitted_by")} == {None}
    assert (found["owner"], found["environments"]) == ("ada", [])
    cli.ok("provenance", "reported", "--ro-crate", str(tmp_path / "crate"))
    assert entities(tmp_path / "crate")["#run"]["instrument"] == {"@id": "#mops-jobs"}


def test_the_image_of_pods_is_shown_with_its_digest(jobs: JobRegistry, cli: Cli, tmp_path: Path) -> None:
    image = "registry.example/model@sha256:" + "ab" * 32
    add(jobs, "pods", "running", engine="kubernetes", metadata={"k8s_image": image})
    found = cli.ok("provenance", "pods", "--json").json
    assert (found["image"], found["image_digest"]) == (image, "sha256:" + "ab" * 32)
    assert f"Image      {image}" in cli.ok("provenance", "pods").out
    cli.ok("provenance", "pods", "--ro-crate", str(tmp_path / "crate"))
    crate = entities(tmp_path / "crate")
    assert crate["#run"]["containerImage"] == {"@id": "#image"}
    assert crate["#image"]["sha256"] == "ab" * 32
    assert "actionStatus" not in crate["#run"]


def test_provenance_says_that_old_checkpoints_were_allowed(jobs: JobRegistry, cli: Cli) -> None:
    """Outputs may then come from two versions of the code."""
    for job_id, metadata in (("old", {"local_allow_old_checkpoints": "yes"}), ("new", {})):
        add(jobs, job_id, "running", engine="local", metadata=metadata)
    told = "Old code   tasks could go on from checkpoints of other code or packages"
    assert [told in cli.ok("provenance", name).out for name in ("old", "new")] == [True, False]
    assert [cli.ok("provenance", name, "--json").json["old_checkpoints"] for name in ("old", "new")] == [True, False]


def test_hostile_notes_are_bounded_and_cleaned(jobs: JobRegistry, cli: Cli) -> None:
    """Every writer of the registry can add notes, and fill them with anything."""
    add(
        jobs, "job", "succeeded", owner="\x1b[31mred", engine="kubernetes", metadata={"k8s_image": "\x1b]0;x\x07" * 999}
    )
    for number in range(30):
        answer = {"python": f"3.{number}", "packages": {"\x1b[2Jx": "\x07" * 500}}
        jobs.store.create_if_absent(*encode_environment("job", environment_of_worker(answer)))
    prefix = environments_prefix("job")
    jobs.store.create_if_absent(f"{prefix}{'0' * 16}.json", b"[" * 100_000)
    jobs.store.create_if_absent(f"{prefix}notes.txt", b"x")
    ran = cli.ends(7, "provenance", "job")
    assert f"{prefix}{'0' * 16}.json" in ran.err
    assert not {"\x1b", "\x07"} & set(ran.out + ran.err)
    assert ran.out.count("Python") == 19
    assert len(ran.out) < 10_000
