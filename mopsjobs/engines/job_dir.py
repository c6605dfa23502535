"""The directory of a job on this machine, and every path in it.

runner.json        the process id of the runner that was launched here, and when that process started
runner.log         the runner's own messages
shard-N.lock       locked by the runner of shard N while it works
shard-N.began      when the first task of shard N began here
shard-N.reports    when the runner of shard N sent its last report, the sign of life in the one before, and the
                   signal that stopped it
own_launch.json    what this machine has launched the job with
outbox.db          bundle, manifest, outputs and events on their way to the registry
launched.json      what the record is to say of the launch, until the registry takes it
notify.json        the rules of notifications that `submit --notify` named
submitted_at       when the job was submitted without the registry
end_tried          when a listing last tried to end the job, since its runner had ended
code/              unpacked bundles
spool/N/           outputs of the tasks of shard N
packages           the digest of the packages of the model in the last run; see ledger/environment.py
checkpoints/       what tasks saved of their state; see runner/checkpoints.py
ledger/N/          attempts at the tasks of shard N that are not in the store yet; see ledger/writer.py
channel.json       the key of the socket beside it, by which a client hears of ended tasks; see submission/channel.py
slurm.sh           the batch script of the last launch on Slurm
slurm-A_N.log      what shard N of job array A prints there
shards/N/          the state directory of shard N on Slurm, with a job directory like this one
drop/              what shards leave that do not reach the registry; see submission/shard_drop.py
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from mopsjobs.utils import user_dirs
from mopsjobs.utils.text import parse_whole_number

MAX_SHARD = 10**6
"""The number of a shard, at most."""


class JobDir:
    """The paths of one job. Nothing is created."""

    def __init__(self, path: Path) -> None:
        """Take the directory itself. `for_job` finds it by the id of a job."""
        self.path = path
        self.runner, self.log = path / "runner.json", path / "runner.log"
        self.own_launch, self.launch_fields = path / "own_launch.json", path / "launched.json"
        self.notify_names, self.submission_time = path / "notify.json", path / "submitted_at"
        self.outbox, self.end_tried = path / "outbox.db", path / "end_tried"
        self.code, self.drop, self.checkpoints = path / "code", path / "drop", path / "checkpoints"
        self.packages, self.channel = path / "packages", path / "channel.json"

    @classmethod
    def for_job(cls, job_id: str, env: Mapping[str, str]) -> JobDir:
        """Return the directory of a job below XDG_STATE_HOME, or in a private directory if there is no home.

        Args:
            job_id: a valid id: it becomes a part of the path.
            env: the environment.
        """
        return cls(Path(user_dirs.state_directory(env)) / "jobs" / job_id)

    @classmethod
    def old_checkpoints(cls, env: Mapping[str, str], before: float) -> Iterator[tuple[str, Path]]:
        """Yield each job with checkpoints on this machine that have not changed since a time, and their directory."""
        jobs = Path(user_dirs.state_directory(env)) / "jobs"
        with contextlib.suppress(OSError):
            for job_id in os.listdir(jobs):
                for directory in cls(jobs / job_id).of_other(job_id):
                    with contextlib.suppress(OSError):
                        own = directory.checkpoints  # a task that saves changes what is in its directory
                        entries = [own, *own.glob("*"), *own.glob("*/*")]
                        if max(entry.stat().st_mtime for entry in entries) < before:
                            yield job_id, own

    @property
    def show_command(self) -> str:
        """Return a command that shows the messages of the runner."""
        return f"tail -f {shlex.quote(str(self.log))}"

    def spool(self, shard: int) -> Path:
        """Return the directory for outputs of a shard: shards may work here side by side."""
        return self.path / "spool" / str(shard)

    def of_other(self, job_id: str) -> Iterator[JobDir]:
        """Yield the directories of another job on this machine: its own, and those of its shards on Slurm.

        Args:
            job_id: a valid id.
        """
        is_shard = len(self.path.parents) > 5 and self.path.parents[3].name == "shards"
        other = JobDir(self.path.parents[5 if is_shard else 0] / job_id)
        yield other
        yield from (directory for _, directory in other.shard_directories())

    def ledger(self, shard: int) -> Path:
        """Return the directory for the journal of a shard's attempts."""
        return self.path / "ledger" / str(shard)

    def ledger_numbers(self) -> Iterator[int]:
        """Yield the numbers of the shards that have a directory for a journal here."""
        return (number for number, _ in self._numbered("ledger/*"))

    def shard_directories(self) -> Iterator[tuple[int, JobDir]]:
        """Yield number and directory of each shard of this job on Slurm. It is in the shard's state directory."""
        for number, state in self._numbered("shards/*"):
            yield number, JobDir.for_job(self.path.name, {"XDG_STATE_HOME": str(state)})

    def _numbered(self, pattern: str) -> Iterator[tuple[int, Path]]:
        for path in sorted(self.path.glob(pattern)):
            if (number := parse_whole_number(path.name, 0, MAX_SHARD)) is not None:
                yield number, path

    def lock_file(self, shard: int) -> Path:
        """Return the lock file of a shard's runner."""
        return self.path / f"shard-{shard}.lock"

    def lock_files(self) -> Iterator[Path]:
        """Yield the lock files of all shards that have run here."""
        return self.path.glob("shard-*.lock")

    def start_file(self, shard: int) -> Path:
        """Return the file with the start of a shard's first task."""
        return self.path / f"shard-{shard}.began"

    def report_file(self, shard: int) -> Path:
        """Return the file with the last reports of a shard's runner."""
        return self.path / f"shard-{shard}.reports"

    def report_files(self) -> Iterator[Path]:
        """Yield the files with the last reports of the runners of all shards that have run here."""
        return self.path.glob("shard-*.reports")

    def start_files(self) -> Iterator[Path]:
        """Yield the files with the starts of all shards that have run here."""
        return self.path.glob("shard-*.began")
