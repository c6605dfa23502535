"""`run` and `submit` killed at random instants: are outputs whole, and does `resume` bring the job to its end?"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine, runner_pid
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.format import ledger_prefix, parse_attempts, parse_chunk_key
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from reliability.crashes.processes import Ended, Forker, Killed, Script, killing
from reliability.trial import hold
from support import runs

TASKS = 8
WORKERS = ("--workers", "2")
PATIENCE = 120.0
"""Seconds after which a job that was resumed counts as stuck."""
EXIT_NO_SUCH_JOB, EXIT_REFUSED = 3, 6

MODEL = '''
"""A model that takes a moment, and leaves what can be told from half of it."""
import time

def simulate(params, seed):
    time.sleep(0.01)
    return {"x": params["x"], "seed": seed, "filler": "x" * 20000}
'''

TEMPORARY = re.compile(r"(^|/)\.unpacking-|\.part$|\.new$|\.tmp$")
"""Files that have no use after the end of a job."""

DRAFTS = ("launched.json.part", "runner.json.part")
"""What one killed while it wrote a note leaves: one file at most, which the next writer of the note takes over."""


class Jobs:
    """Jobs over the same study in one embedded registry."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        """Make the model and an empty registry in a directory of its own."""
        self.code = directory / "code"
        runs.code(self.code, MODEL)
        self._study = runs.study(runs.sets_of(TASKS))
        (self.code / "study.json").write_text(json.dumps(self._study.to_dict()))
        self.job = ""
        self._env = env
        self._number = 0
        self._url = f"sqlite://{directory}/registry.db"
        self._store = open_store(self._url, {})
        self._registry = JobRegistry(self._store)
        self._outputs: dict[str, bytes] = {}
        """What each job has to leave, by what follows its id in the key."""
        self.stored = 0
        """Outputs that were there after kills, each whole."""
        self.attempts = 0
        """Attempts in ledgers of jobs that were killed and resumed."""

    def close(self) -> None:
        """Hang up, when the runner of the last job has ended; one that is stuck is ended."""
        end = time.monotonic() + PATIENCE
        engine = LocalEngine(self._env)
        while engine.state({"job_id": self.job}).phase == "running" and time.monotonic() < end:
            time.sleep(0.02)
        if (pid := runner_pid(self.job, self._env)) is not None:
            runs.kill(pid)
        self._store.close()

    def next_job(self) -> None:
        """Go on with another job."""
        self._number += 1
        self.job = f"job-{self._number}"

    def place(self) -> None:
        """Submit another job, and launch nothing."""
        self.next_job()
        manifest = runs.place(self._store, self.job, self._study, self.code)
        self._registry.register_job(self.job, **manifest.record_fields() | {"engine": "local"})

    def run_script(self) -> Script:
        """Return the runner."""
        return [["run", self.job, *WORKERS, "--registry", self._url]]

    def submit_script(self) -> Script:
        """Return a submission of the code of the current directory."""
        return [["submit", "study.json", "--auto", "--job-id", self.job, *WORKERS, "--registry", self._url]]

    def learn(self) -> None:
        """Take the outputs of the last job, which was not killed, for what each has to leave."""
        self._wait()
        self._outputs = self._found()
        hold(len(self._outputs) == TASKS, f"a job left {len(self._outputs)} outputs of {TASKS}")

    def complete(self, forker: Forker, ended: Ended, *, is_alone: bool) -> None:
        """Check that what is stored is whole: the job is resumed, ends well, and has left all.

        Args:
            forker: runs commands.
            ended: what was killed.
            is_alone: whether no other process may be at work on the job.

        Raises:
            PromiseBroken: not so.
        """
        found = self._found()
        hold(found.items() <= self._outputs.items(), f"{self.job} has a torn output among {sorted(found)}")
        if ended.is_killed:
            self.stored += len(found)
        resumed = forker.run(["resume", self.job, "--yes", *WORKERS, "--registry", self._url])
        hold(
            resumed.code in ((0,) if is_alone else (0, EXIT_REFUSED)),
            f"resume {self.job} ended with {resumed.code}: {resumed.out}",
        )
        hold(resumed.code == 0 or "still running" in resumed.out, f"resume {self.job}: {resumed.out}")
        self._wait()
        hold(self._found() == self._outputs, f"{self.job} has succeeded, and has not all outputs")
        self._check_ledger()
        directory = JobDir.for_job(self.job, self._env).path
        end = time.monotonic() + PATIENCE
        while left := [
            str(path) for path in directory.rglob("*") if TEMPORARY.search(str(path)) and path.name not in DRAFTS
        ]:
            # The runner writes its last file after the record, by which we know that the job has ended.
            hold(time.monotonic() < end, f"{self.job} has left behind {left}")
            time.sleep(0.02)

    def _check_ledger(self) -> None:
        """Check that each task has one attempt that succeeded, and that no attempt is there twice.

        Raises:
            PromiseBroken: not so.
        """
        found: Counter[tuple[str, int, int]] = Counter()
        succeeded: Counter[int] = Counter()
        for entry in self._store.scan(ledger_prefix(self.job)):
            key = parse_chunk_key(entry.key)
            hold(key is not None, f"the ledger of {self.job} has {entry.key}")
            if key is None or key.kind != "attempts":
                continue
            for one in parse_attempts(entry.value or b"", key):
                found[key.name.rpartition("-")[0], one.task, one.attempt] += 1
                succeeded[one.task] += one.outcome is Outcome.SUCCEEDED
        twice = [attempt for attempt, count in found.items() if count > 1]
        hold(not twice, f"the ledger of {self.job} has attempts twice: {twice}")
        hold(succeeded == dict.fromkeys(range(TASKS), 1), f"attempts of {self.job} that succeeded: {succeeded}")
        self.attempts += found.total()

    def look_at_submitted(self, forker: Forker, ended: Ended) -> None:
        """Check that a submission has left nothing, or a job that can be seen and resumed.

        Raises:
            PromiseBroken: not so.
        """
        seen = forker.run(["status", self.job, "--registry", self._url])
        if seen.code == EXIT_NO_SUCH_JOB:
            hold(ended.is_killed, f"a submission ended with {ended.codes}, and there is no job")
            return
        hold(seen.code == 0, f"status {self.job} ended with {seen.code}: {seen.out}")
        self.complete(forker, ended, is_alone=False)

    def _wait(self) -> None:
        """Wait for the job's end, which has to be a good one."""
        end = time.monotonic() + PATIENCE
        state = None
        while time.monotonic() < end:
            state = self._registry.get_job(self.job)
            if state is not None and state.is_terminal:
                break
            time.sleep(0.02)
        log = JobDir.for_job(self.job, self._env).path / "runner.log"
        said = log.read_text()[-500:] if log.exists() else ""
        status = None if state is None else state.status
        hold(status == "succeeded", f"{self.job} is {status} after it was resumed: {said}")

    def _found(self) -> dict[str, bytes]:
        prefix = f"results/{self.job}/"
        return {one.key.removeprefix(prefix): one.value or b"" for one in self._store.scan(prefix)}


def kill_runners(jobs: Jobs, forker: Forker, chance: random.Random, wanted: int) -> Killed:
    """Kill runners, and let `resume` do the rest of their jobs.

    Raises:
        PromiseBroken: an output was torn, or `resume` did not complete the job.
    """
    jobs.place()
    forker.run(*jobs.run_script())
    jobs.learn()
    return killing(
        forker,
        jobs.run_script,
        chance,
        wanted,
        prepare=jobs.place,
        look=lambda ended: jobs.complete(forker, ended, is_alone=True),
    )


def kill_submissions(jobs: Jobs, forker: Forker, chance: random.Random, wanted: int) -> Killed:
    """Kill submissions, and resume what they have left.

    Raises:
        PromiseBroken: what was left could not be seen, or not be resumed.
    """
    jobs.next_job()
    forker.run(*jobs.submit_script(), cwd=jobs.code)
    jobs.learn()
    return killing(
        forker,
        jobs.submit_script,
        chance,
        wanted,
        prepare=jobs.next_job,
        look=lambda ended: jobs.look_at_submitted(forker, ended),
        cwd=jobs.code,
    )
