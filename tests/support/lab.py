"""A job whose tasks note their calls, and the command as processes, in any registry."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import command
from support.runs import PATIENCE, code, record, sets_of

if TYPE_CHECKING:
    from mopsjobs.registry.job_state import JobState

TASKS = 6


class Lab:
    """A job whose tasks note their calls, and the command as processes."""

    def __init__(
        self, env: dict[str, str], home: Path, sets: list[dict[str, Any]] | None = None, **params: Any
    ) -> None:
        """Write the study: of these parameter sets, and of `params` in each."""
        self.env = env
        self.home = code(home)
        self.calls = home.with_name("calls")
        path = home.with_name("study.json")
        common = sets_of(TASKS, calls=str(self.calls), **params)
        found = [{**own, **more} for own, more in zip(common, sets or [{}] * TASKS, strict=True)]
        path.write_text(json.dumps({"model": "model:simulate", "parameter_sets": found, "outputs": ["result.json"]}))
        self.submit = ("submit", str(path), "--auto", "--job-id", "job", "--workers", "1")

    def start(self, *argv: str, **how: Any) -> subprocess.Popen[str]:
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command(*argv), env=self.env, cwd=self.home, text=True, **out, **how)

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Return exit code, output and messages of a command."""
        return end(self.start(*argv))

    def job(self, job_id: str = "job") -> JobState:
        """Return the record as the registry has it."""
        with contextlib.closing(open_store(self.env["MOPS_JOBS_REGISTRY"], self.env)) as store:
            return record(JobRegistry(store), job_id)

    def journals(self) -> Iterable[Path]:
        """Return the files in which the runner has noted attempts."""
        return JobDir.for_job("job", self.env).ledger(0).glob("*.jsonl")

    def runner(self, job_id: str = "job") -> int:
        return int(json.loads(JobDir.for_job(job_id, self.env).runner.read_text())["pid"])


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err
