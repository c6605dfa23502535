"""Writes down what a release leaves behind, once, for every later version to read: tests/golden/VERSION/.

    python tests/golden/write.py dist/mops-jobs.pyz

The file's own commands fill an embedded registry and its cache, and what they print then is kept beside them. A release
that is written already is refused: these files are never edited, and tests/project/test_golden.py reads each of them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mopsjobs.store.sqlite.store import SQLiteVersionedStore

GOLDEN = Path(__file__).resolve().parent
STUDY = {
    "model": "model:simulate",
    "scenario": "baseline",
    "parameter_sets": [{"x": 1}, {"x": 2, "fail": True}, {"x": 3}],
    "n_replicates": 2,
    "metadata": {"paper": "fig-3"},
}
MODEL = """
def simulate(params, seed):
    print("x is", params["x"], flush=True)
    if params.get("fail"):
        raise ValueError("as asked")
    return {"x": params["x"], "seed": seed}
"""
FOREIGN = {
    "job_id": "foreign-1",
    "status": "running",
    "created_at": "2026-03-01T10:00:00",
    "updated_at": "2026-03-01T11:00:00.250000+00:00",
    "k8s_name": "k8s-foreign-1",
    "k8s_namespace": "modelops",
    "tasks_total": 10,
    "tasks_completed": 4,
    "metadata": {"of": "another program"},
    "theirs": {"kept": [1, 2.5, None, "\u00fc"]},
}
READERS = {
    "list": ["list", "--json", "--limit", "0"],
    "status-done": ["status", "study-1", "--json"],
    "status-cancelled": ["status", "cancelled-1", "--json"],
    "status-foreign": ["status", "foreign-1", "--json"],
    "events": ["events", "study-1", "--json"],
    "results": ["results", "study-1", "--json"],
}
"""What is asked of every version about what an older one wrote, by the name of the answer's file."""


class Release:
    """A release's file at work in a directory of its own."""

    def __init__(self, file: Path, directory: Path) -> None:
        self._file = file
        self._home = directory / "home"
        self.directory = directory / "study"
        self.registry = directory / "registry.db"
        self.cache = directory / "cache.db"
        for path in (self._home, self.directory):
            path.mkdir()

    def run(self, *argv: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run one command, and return what it printed."""
        places = {"MOPS_JOBS_REGISTRY": f"sqlite://{self.registry}", "MOPS_JOBS_CACHE": str(self.cache)}
        ran = subprocess.run(
            [sys.executable, str(self._file), *argv],
            cwd=self.directory,
            env={"HOME": str(self._home), "PATH": "/usr/bin:/bin", "USER": "scientist", **places},
            capture_output=True,
            text=True,
        )
        if ran.returncode not in codes:
            raise SystemExit(f"{argv[0]} ended with {ran.returncode}: {ran.stderr}")
        return ran.stdout

    def fill(self) -> None:
        """Leave jobs in every status, a study that ran and partly failed, events, outputs, and a foreign record."""
        (self.directory / "model.py").write_text(MODEL)
        (self.directory / "study.json").write_text(json.dumps(STUDY))
        self.run("submit", "study.json", "--auto", "--wait", "-q", "--job-id", "study-1", codes=(104,))
        for status in ("pending", "submitting", "scheduled", "running", "validating", "succeeded", "failed"):
            self.run("register", f"{status}-1", "--owner", "ada", "--label", "exp=7", "--namespace", "lab", "-q")
            if status != "pending":
                self.run("update", f"{status}-1", status, "-q")
        self.run("progress", "running-1", "3/10", "-q")
        self.run("register", "cancelled-1", "-q")
        self.run("cancel", "cancelled-1", "--reason", "a typo", "--yes", "-q")
        with contextlib.closing(SQLiteVersionedStore(self.registry)) as store:
            store.create_if_absent("jobs/foreign-1/state.json", json.dumps(FOREIGN).encode())
        self.run("sync", "-q")

    def answers(self) -> dict[str, str]:
        """Return what it prints about all that, by name."""
        return {name: self.run(*argv) for name, argv in READERS.items()}

    def close(self) -> None:
        """Put what is still in write-ahead logs into the two files themselves."""
        for path in (self.registry, self.cache):
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")


def main() -> None:
    """Write one release down."""
    file = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="mops-jobs-golden-") as name:
        release = Release(file, Path(name))
        version = release.run("--version").split()[-1]
        golden = GOLDEN / version
        if golden.exists():
            raise SystemExit(f"{golden} exists: what a release has written is never edited.")
        release.fill()
        answers = release.answers()
        release.close()
        golden.mkdir()
        for path in (release.registry, release.cache):
            shutil.copy(path, golden)
        for answer, text in answers.items():
            (golden / f"{answer}.json").write_text(text, encoding="utf-8")
    print(f"wrote {golden}")


if __name__ == "__main__":
    main()
