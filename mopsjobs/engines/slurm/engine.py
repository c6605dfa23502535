"""The slurm engine: run a job of mops-jobs as a job array, a shard per task of the array.

The name of the job array carries the id of the job. By that name, a launch whose reply was lost is found again, and an
array of another cluster or user is told apart. Slurm forgets a job minutes after its end, unless it keeps accounts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mopsjobs.engines.base import (
    EngineState,
    EngineTimes,
    Launch,
    LaunchResult,
    RefusedError,
    engine_of,
    last_launch,
    shard_prefix,
)
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import command, disk_errors
from mopsjobs.engines.slurm.commands import SECONDS, Commands, NotConfiguredError, is_installed
from mopsjobs.engines.slurm.options import sbatch_flags
from mopsjobs.engines.slurm.script import write_script
from mopsjobs.engines.slurm.state import (
    MAX_ID,
    SACCT_FIELDS,
    SlurmShards,
    is_active,
    newest,
    parse_sacct,
    parse_scontrol,
    parse_submission,
    state_of,
    times_of,
)
from mopsjobs.errors import EngineError, EngineUnavailableError, JobBusyError, UsageError
from mopsjobs.utils.files import directory_lock, make_directory, replace_file
from mopsjobs.utils.text import parse_whole_number

SUFFIX = ".mops-jobs"
"""Ends the name of each job array of mops-jobs. Its beginning is what squeue has room for."""

SCRIPT_NAME = "slurm.sh"

MAX_FAILURES = 5
"""Questions in a row that Slurm may leave without an answer before following gives up."""

LOOK_PAUSES = (2.0, 5.0, 10.0)
"""Seconds before each further look for a job array whose submission got no reply."""

HINTS = {
    "invalid job array": "The cluster may allow fewer tasks (scontrol show config | grep MaxArraySize): --shards N",
    "invalid partition": "See its partitions: sinfo --summarize",
    "invalid account": "See your accounts: sacctmgr show associations user=$USER",
    "requested node configuration is not available": "See what its nodes have: sinfo --Node --long",
}
"""What to do about the refusals of sbatch, by parts of its words in small letters."""

LOG_NAME = "slurm-%A_%a.log"
"""The name of a log for sbatch: Slurm puts in the ids of the array and of the shard."""

POLL_SECONDS = 1.0
"""Seconds between two looks at the files to follow."""

POLLS_PER_STATE = 10
"""How often the files are looked at for each question to Slurm: a question loads its controller."""

MAX_LINE_BYTES = 2**20
"""A longer line is cut into several."""

_LOG = re.compile(r"slurm-(\d{1,10})_(\d{1,7})\.log", re.ASCII)

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*", re.ASCII)

_CLUSTER = re.compile(r"^ClusterName\s*=\s*(\S+)", re.ASCII | re.MULTILINE)


def slurm_name(job_id: str) -> str:
    """Return the name of the job array of a job."""
    return job_id + SUFFIX


def show_command(array_id: int) -> str:
    """Return the command that shows a job array."""
    return f"squeue -j {array_id}"


def stop_command(array_id: int) -> str:
    """Return the command that stops a job array."""
    return f"scancel {array_id}"


def stop_by_name_command(job_id: str) -> str:
    """Return the command that stops the job arrays of a job of this user. It needs no number from a record."""
    return f"scancel --name={shlex.quote(slurm_name(job_id))} --user=$USER"


def recorded_array(job: Mapping[str, object]) -> int | None:
    """Return the id of the job array of the last launch, as its record has it; None if it has no valid one."""
    return parse_whole_number(last_launch(job).get("job_id", ""), 1, MAX_ID) if engine_of(job) == "slurm" else None


def cluster_name(commands: Commands) -> str | None:
    """Return the name of the cluster that this machine belongs to.

    Raises:
        EngineError: if Slurm does not answer.
    """
    found = _CLUSTER.search(commands.ask("scontrol", "show", "config"))
    return None if found is None else found[1]


def check_launch(launch: Launch) -> None:
    """Check the options of a launch before anything of its job is stored.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    if not _JOB_ID.fullmatch(launch.job_id):
        raise UsageError(f"invalid job id {launch.job_id!r} for Slurm: expected letters, digits and . _ + = -.")
    sbatch_flags(launch)


class SlurmEngine:
    """Runs jobs on the cluster of this machine, by the commands of Slurm."""

    name = "slurm"

    def __init__(self, env: Mapping[str, str], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._env = env
        self._sleep = sleep
        self._commands = Commands(env)

    def launch(self, launch: Launch) -> LaunchResult:
        """See `Engine.launch`. The lock of the directory keeps a second launch back until this one is known to Slurm.

        Raises:
            UsageError: if an option is unknown or invalid.
            JobBusyError: if a job array of the job has not ended.
        """
        check_launch(launch)
        directory = JobDir.for_job(launch.job_id, self._env)
        with disk_errors(directory):
            make_directory(directory.path)
            with directory_lock(str(directory.path)):
                array_id, cluster = self._submit(launch, directory)
        metadata = {"slurm_job_id": str(array_id)}
        with contextlib.suppress(EngineError):  # the job runs, whatever Slurm calls itself
            if cluster := cluster or cluster_name(self._commands):
                metadata["slurm_cluster"] = cluster
        return LaunchResult(show_command(array_id), metadata=metadata)

    def _submit(self, launch: Launch, directory: JobDir) -> tuple[int, str | None]:
        """Return the id of a new job array, and its cluster if sbatch tells it."""
        name = slurm_name(launch.job_id)
        before = self._arrays_of(name)
        active = newest(one for array_id in before[-1:] for one in self._known(array_id, name))
        if is_active(active):
            raise JobBusyError(
                f"Job {launch.job_id} is in Slurm already, as job {active[0].array_id}; nothing was started.",
                job_id=launch.job_id,
                hint=f"See it: {show_command(active[0].array_id)}",
            )
        script = directory.path / SCRIPT_NAME
        replace_file(str(script), write_script(launch, directory.path, command()).encode())
        place = str(directory.path).replace("%", "%%")  # which sbatch would read as a pattern
        words = ["--parsable", f"--job-name={name}", f"--output={place}/{LOG_NAME}", "--open-mode=append"]
        words += [f"--chdir={directory.path}", *sbatch_flags(launch), str(script)]
        try:
            output = self._commands.submit(*words)
        except EngineUnavailableError as problem:
            return self._find_submitted(name, before, problem), None
        except RefusedError as error:
            words_said = error.message.lower()
            error.hint = next((hint for part, hint in HINTS.items() if part in words_said), None)
            raise
        submitted = parse_submission(output)
        if submitted is None:  # it has taken the job
            unread = EngineUnavailableError(f"unexpected response from sbatch: {output.strip()[:200]!r}.", silent=True)
            return self._find_submitted(name, before, unread), None
        return submitted

    def _find_submitted(self, name: str, before: list[int], problem: EngineUnavailableError) -> int:
        """Return the job array that sbatch has submitted although its reply was lost.

        A controller that did not reply may accept the job later. So this looks several times.

        Raises:
            EngineUnavailableError: if there is none, or if Slurm still does not answer.
        """
        has_answered = False
        for pause in (0.0, *(LOOK_PAUSES if problem.silent else ())):
            self._sleep(pause)
            has_answered = False
            with contextlib.suppress(EngineError):
                new = [array_id for array_id in self._arrays_of(name) if array_id not in before]
                if new:
                    return new[-1]
                has_answered = True
        hint = problem.hint or f"See whether it has started: squeue --name={shlex.quote(name)}"
        may_run = problem.silent or not has_answered
        raise EngineUnavailableError(problem.message, hint=hint, sent=may_run, silent=problem.silent)

    def state(self, job: Mapping[str, object]) -> EngineState:
        """See `Engine.state`. `unknown` on a machine without Slurm, or of another cluster."""
        if is_installed(self._env):
            with self._commands.quick(), contextlib.suppress(NotConfiguredError):
                shards = self._shards(job)
                return state_of(shards) if shards else self._without_shards(job)
        return EngineState("unknown", "NoSlurm", "this machine belongs to no cluster of Slurm")

    def _without_shards(self, job: Mapping[str, object]) -> EngineState:
        """Return the state of a job that this cluster does not know.

        Raises:
            EngineError: if Slurm does not answer.
        """
        recorded = last_launch(job) if engine_of(job) == self.name else {}
        own = cluster_name(self._commands) if "cluster" in recorded else None
        if own is not None and own != recorded["cluster"]:
            return EngineState(
                "unknown", "OtherCluster", f"it runs on cluster {recorded['cluster']}, and this is {own}"
            )
        what = (
            f"job {recorded['job_id']}" if "job_id" in recorded else f"job of the name {slurm_name(str(job['job_id']))}"
        )
        return EngineState("gone", "NotInSlurm", f"Slurm has no {what}; it forgets a job minutes after its end")

    def times(self, job: Mapping[str, object]) -> EngineTimes:
        """See `Engine.times`."""
        with self._commands.quick():
            return times_of(self._shards(job)) if is_installed(self._env) else EngineTimes()

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`. With several shards, `shard N: ` stands in front of each line.

        The lines are in files of the job's directory. A machine or a user without that directory gets none.

        Raises:
            EngineError: if `since` is given.
        """
        if since is not None:
            raise EngineError("The lines in the log files of Slurm have no times to select them by.")
        directory, array_id = JobDir.for_job(str(job["job_id"]), self._env).path, recorded_array(job)
        if not directory.is_dir():
            return
        several = last_launch(job).get("shards") != "1" if engine_of(job) == self.name else True

        failures = 0

        def is_over() -> bool:
            nonlocal failures
            try:
                phase = self.state(job).phase
            except EngineUnavailableError:
                failures += 1
                if failures > MAX_FAILURES:
                    raise
                return False
            failures = 0
            return phase not in ("pending", "running")

        yield from read_lines(
            lambda: log_files(directory, array_id),
            tail,
            several=several,
            sleep=self._sleep,
            is_over=is_over if follow else None,
        )

    def cancel(self, job: Mapping[str, object]) -> bool:
        """See `Engine.cancel`. The runners get SIGTERM, and time to store outputs and report (Slurm's KillWait).

        Raises:
            EngineError: if the job runs on another cluster.
        """
        shards = self._shards(job)
        if not shards and (elsewhere := self._without_shards(job)).phase == "unknown":
            raise EngineError(f"This cluster cannot stop the job: {elsewhere.detail}.")
        if not is_active(shards):
            return False
        self._commands.ask("scancel", str(shards[0].array_id))
        return True

    def newest_array(self, job_id: str) -> int | None:
        """Return the id of the newest job array of a job of this user that the controller knows; None if it knows none.

        Raises:
            EngineError: if Slurm does not answer.
        """
        return next(reversed(self._arrays_of(slurm_name(job_id))), None)

    def _shards(self, job: Mapping[str, object]) -> list[SlurmShards]:
        """Return the shards of a job that Slurm knows, of its newest array; none if it knows none.

        A record may name any job of Slurm, or miss the last launch. So the name decides.

        Raises:
            EngineError: if Slurm does not answer.
        """
        name, recorded = slurm_name(str(job["job_id"])), recorded_array(job)
        shards = parse_whole_number(last_launch(job).get("shards", ""), 1, MAX_ID) or 1
        found = [] if recorded is None else self._known(recorded, name)
        if not is_active(found):
            newer = [array_id for array_id in self._arrays_of(name) if array_id > (recorded or 0)]
            found = (self._known(newer[-1], name) if newer else []) or found
        array_id = found[0].array_id if found else recorded
        if array_id is not None and not is_active(found) and sum(one.shards for one in found) < shards:
            accounted = self._accounted(array_id, name)
            found = accounted if len(accounted) > len(found) else found
        return found

    def _known(self, array_id: int, name: str) -> list[SlurmShards]:
        """Return the shards of a job array that the controller knows, if it has this name."""
        try:
            listed = parse_scontrol(self._commands.ask("scontrol", "--oneliner", "show", "job", str(array_id)))
        except RefusedError as error:
            if "invalid job id" in error.message.lower():
                return []
            raise
        return [one for one in listed if one.name == name]

    def _accounted(self, array_id: int, name: str) -> list[SlurmShards]:
        """Return the shards of a job array by its account; none where Slurm keeps no accounts."""
        form = ("--allocations", "--parsable2", "--noheader", f"--format={','.join(SACCT_FIELDS)}")
        with contextlib.suppress(EngineError):
            # A slow account must not make a job look gone, so it has the full time.
            accounts = self._commands.ask("sacct", *form, f"--jobs={array_id}", seconds=SECONDS)
            return [one for one in parse_sacct(accounts) if one.name == name]
        return []

    def _arrays_of(self, name: str) -> list[int]:
        """Return the ids of the job arrays of this user with a name, as far as the controller knows them, in order."""
        words = ("--noheader", "--states=all", f"--user={os.getuid()}", f"--name={name}", "--format=%F")
        found = (parse_whole_number(line.strip(), 1, MAX_ID) for line in self._commands.ask("squeue", *words).split())
        return sorted({array_id for array_id in found if array_id is not None})


def log_files(directory: Path, array_id: int | None) -> list[tuple[int, Path]]:
    """Return the logs of a job with the numbers of their shards, in their order.

    Args:
        directory: that of the job.
        array_id: the job array whose logs to find; None: the newest that has one.
    """
    with contextlib.suppress(OSError):
        named = [(match, path) for path in directory.iterdir() if (match := _LOG.fullmatch(path.name)) is not None]
        last = max((int(match[1]) for match, _ in named), default=0) if array_id is None else array_id
        return sorted((int(match[2]), path) for match, path in named if int(match[1]) == last)
    return []


def read_lines(
    list_files: Callable[[], list[tuple[int, Path]]],
    tail: int | None,
    *,
    several: bool,
    sleep: Callable[[float], None],
    is_over: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Yield the lines of a job, one shard after the other; to follow them, until it has ended.

    Args:
        list_files: returns the logs so far.
        tail: only the last of the lines so far, this many.
        several: whether the number of the shard stands in front of each line.
        sleep: waits that many seconds.
        is_over: to follow the lines: returns whether the job has ended. It is called after several looks at the files.
    """
    positions: dict[Path, int] = defaultdict(int)
    for look in itertools.count():
        # It is asked before the look: no line comes after it. The lines so far come before the first question.
        ended = is_over is None or (look % POLLS_PER_STATE == 1 and is_over())
        lines = (
            shard_prefix(shard, several=several) + line
            for shard, path in list_files()
            for line in _new_lines(path, positions, is_last=ended)
        )
        yield from lines if tail is None else deque(lines, maxlen=tail)
        if ended:
            return
        tail = None
        if look:
            sleep(POLL_SECONDS)


def _new_lines(path: Path, positions: dict[Path, int], *, is_last: bool) -> Iterator[str]:
    """Yield the lines since the last call. A line without its end waits for that, except the last one."""
    with contextlib.suppress(OSError), open(path, "rb") as file:  # a file that cannot be opened has none
        file.seek(positions[path])
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES and not is_last:
                return
            positions[path] += len(line)
            yield line.decode("utf-8", "replace").rstrip("\r\n")
