"""A directory with a model, and the command in it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.runner_process import read_note
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import Cli, Clock, Ran, command, environment, run_in
from support.runs import PATIENCE, code, is_alive, kill, record, results, until

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore


class Desk:
    """A directory with a model, and the command in it: by the real clock, with runners that are processes."""

    def __init__(self, cli: Cli, home: Path) -> None:
        self.home = home
        self.env = environment(cli)
        self.store: VersionedStore = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
        self.jobs = JobRegistry(self.store)
        self.launched: set[str] = set()
        code(home)

    def write(self, sets: list[dict[str, Any]], **fields: Any) -> str:
        """Write the study, outside of what is packed; returns its path."""
        path = self.home.with_name("study.json")
        document = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"], **fields}
        path.write_text(json.dumps(document))
        return str(path)

    def __call__(self, *argv: str, **env: str) -> Ran:
        """Run the command in this process; one that is a runner itself as a process of its own."""
        if argv[0] == "run" or "--wait" in argv:
            ran = subprocess.run(
                command(*argv), env={**self.env, **env}, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE
            )
            return Ran(ran.returncode, ran.stdout, ran.stderr)
        return run_in(self.home, argv, {**self.env, **env})

    def ends(self, code: int, *argv: str, **env: str) -> Ran:
        ran = self(*argv, **env)
        assert ran.code == code, ran
        return ran

    def ok(self, *argv: str, **env: str) -> Ran:
        return self.ends(0, *argv, **env)

    def run(self, end: str, sets: list[dict[str, Any]], *argv: str, job_id: str = "job", **fields: Any) -> None:
        """Submit a job, and wait for its end, which has to be this one."""
        self.submit(sets, *argv, job_id=job_id, **fields)
        assert self.ended(job_id) == end

    def submit(self, sets: list[dict[str, Any]], *argv: str, job_id: str = "job", **fields: Any) -> None:
        """Submit a job with two workers."""
        self.launched.add(job_id)
        self.ok("submit", self.write(sets, **fields), "--auto", "--job-id", job_id, "--workers", "2", *argv)

    def ended(self, job_id: str = "job") -> str:
        """Return the status of the job, when it has ended and its runner has too."""
        self.launched.add(job_id)
        self.until(lambda: (state := self.jobs.get_job(job_id)) and state.is_terminal, f"job {job_id} to end", job_id)
        until(lambda: not is_alive(self.runner(job_id)), "its runner to end")
        return record(self.jobs, job_id).status

    def until(self, condition: Callable[[], Any], what: str, job_id: str = "job") -> Any:
        """Look until `condition` holds. Fails when the runner of the job has ended before, with what it said."""

        def end() -> str | None:
            directory = JobDir.for_job(job_id, self.env)
            pid = read_note(directory.runner).get("pid")
            if not isinstance(pid, int) or is_alive(pid):
                return None
            said = directory.log.read_text() if directory.log.exists() else "on stderr of the submission"
            return f"its runner has ended: {said}"

        return until(condition, what, end)

    def runner(self, job_id: str = "job") -> int:
        """Return the process of the job's runner."""
        told: dict[str, int] = json.loads((JobDir.for_job(job_id, self.env).path / "runner.json").read_text())
        return told["pid"]

    def results(self, job_id: str = "job") -> dict[str, bytes]:
        return results(self.store, job_id)

    def copy_registry(self, home: Path) -> Desk:
        """Fill the registry of the desk with that of a home in which nothing runs any more, and return the desk."""
        place = Path(self.env["HOME"], "registry.db")
        with (
            contextlib.closing(sqlite3.connect(home / place.name)) as source,
            contextlib.closing(sqlite3.connect(place)) as copy,
        ):
            source.backup(copy)
        return self

    def close(self) -> None:
        self.store.close()
        end_runners(self.env)


def end_runners(env: Mapping[str, str]) -> None:
    """End the runners of all jobs below a home, and print what they said: it is shown if the test fails."""
    for told in JobDir.for_job("x", env).path.parent.glob("*/runner.json"):
        pid = int(json.loads(told.read_text())["pid"])
        if pid == os.getpid():  # in the foreground, this process was the runner
            continue
        if (said := told.with_name("runner.log")).exists():
            print(f"{said}: {said.read_text()[-2000:]}")
        kill(pid)
        until(lambda pid=pid: not is_alive(pid), "the runner to be gone")


def make_desk(home: Path) -> Desk:
    """Return a desk in a home that several tests share."""
    return Desk(Cli(home, Clock(), None), home / "desk")  # type: ignore[arg-type]
