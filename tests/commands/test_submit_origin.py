"""`submit` and `resume` note the git commit of the packed code in the manifest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import mopsjobs
from mopsjobs.bundles.git_state import GitState
from mopsjobs.studies.manifest import Origin, load_manifest
from support.desk import Desk
from support.runs import sets_of


def commit_all(desk: Desk) -> str:
    """Make the model's directory a repository with a commit of all, and a remote with a password; return the commit."""
    words = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    env = {"PATH": os.environ["PATH"], "HOME": str(desk.home), "GIT_CONFIG_NOSYSTEM": "1"}
    for arguments in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://me:hunter2@example.org/model.git"],
        ["add", "."],
        ["commit", "-qm", "one"],
    ):
        subprocess.run([*words, *arguments], cwd=desk.home, env=env, check=True)
    return subprocess.check_output([*words, "rev-parse", "HEAD"], cwd=desk.home, env=env, text=True).strip()


def test_the_manifest_has_commit_and_changes_of_the_code(desk: Desk, tmp_path: Path) -> None:
    """Not the remote, whose URL may have a password. A resumed job without other code has the same commit."""
    commit = commit_all(desk)
    gate = tmp_path / "gate"
    desk.submit([{"x": 0}, {"x": 1, "needs": str(gate)}])
    assert desk.ended() == "partial"
    (desk.home / "model.py").write_text((desk.home / "model.py").read_text() + "\n# changed\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "succeeded"
    desk.submit(sets_of(1), job_id="changed")
    assert desk.ended("changed") == "succeeded"
    for job_id, is_dirty in (("job", False), ("job.2", False), ("changed", True)):
        origin = load_manifest(desk.store, job_id).origin
        assert origin == Origin(mopsjobs.__version__, GitState(commit, is_dirty))
        found = desk.store.get(f"jobs/{job_id}/manifest.json")
        assert found is not None
        assert b"hunter2" not in found.value


def test_code_outside_of_git_has_no_commit(desk: Desk) -> None:
    desk.submit(sets_of(1))
    assert desk.ended() == "succeeded"
    assert load_manifest(desk.store, "job").origin == Origin(mopsjobs.__version__, None)
