"""`kill -9` at random instants, to whatever writes: syncs, prunes, writers, runners, submissions.

Each kill takes the whole process group of a real process of the command, at an instant within the time that the command
takes. After each, everything that a user could look at is looked at, and the next command has to heal it.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bench import azurite
from bench.registry_data import states
from mopsjobs.cache import rows, totals
from mopsjobs.cache.database import APPLICATION_ID, SCHEMA_VERSION
from mopsjobs.cache.job_row import JobRow
from mopsjobs.cache.sync.mirror import SMALL_REGISTRY
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine, runner_pid
from mopsjobs.errors import EXIT_PARTLY_DONE, EXIT_UNREACHABLE, StoreUnavailableError
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.format import ledger_prefix, parse_attempts, parse_chunk_key
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.store import open_store
from mopsjobs.store.base import Entry, VersionToken
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils.times import record_time, utc_now
from reliability.crashes.processes import OWN_SUFFIXES, Ended, Forker, Killed, Script, check_leftovers, forker, killing
from reliability.trial import Figure, Trial, hold
from support import runs

JOBS = 1100
"""More than a listing of all costs one request for: so deltas are worth while."""
BUSY = 20
"""Active jobs, which change again and again: few enough for a delta."""
CHANGES = 4
"""Changes between two syncs."""
ATTEMPTS = 10

T = TypeVar("T")


class Mirrored:
    """A registry, all states that its records have ever had, and a cache of it."""

    def __init__(self, url: str, env: dict[str, str], cache: Path, chance: random.Random, jobs: int = JOBS) -> None:
        """Fill an empty registry with this many jobs."""
        self.url = url
        self.cache = cache
        self.had: dict[tuple[str, str], bytes] = {}
        """What each record was at each of its versions."""
        self.can_be_delta = jobs > SMALL_REGISTRY
        self._rows: dict[tuple[str, str], rows.MirroredJob] = {}
        self._chance = chance
        self.store = open_store(url, env)
        self.registry = JobRegistry(self.store)
        self.busy = [f"busy-{number:02}" for number in range(BUSY)]
        busy = [
            JobState(
                job_id=job_id,
                status=JobStatus.RUNNING,
                created_at=record_time(utc_now()),
                updated_at=record_time(utc_now()),
                tasks_total=1_000_000,
                labels={"kind": "busy", "of": job_id},
            )
            for job_id in self.busy
        ]
        # With the mark of a record that mops-jobs wrote: of others, a sync of an embedded registry is always full.
        made = [
            (f"jobs/{state.job_id}/state.json", replace(state, write_id=f"{chance.getrandbits(64):016x}").to_json())
            for state in [*states(jobs, utc_now()), *busy]
        ]
        with ThreadPoolExecutor(1 if url.startswith("sqlite:") else 8) as writers:
            list(writers.map(lambda one: patiently(lambda: self.store.create_if_absent(*one)), made))
        self._note(patiently(lambda: list(self.store.scan("jobs/"))))

    def close(self) -> None:
        """Hang up."""
        self.store.close()

    def change(self) -> None:
        """Let some records change, as another machine does."""
        for job_id in self._chance.sample(self.busy, CHANGES):
            done = self._chance.randrange(1_000_000)
            patiently(lambda job_id=job_id, done=done: self.registry.update_progress(job_id, tasks_completed=done))
            key = f"jobs/{job_id}/state.json"
            found = patiently(lambda key=key: self.store.get(key))
            assert found is not None
            self.had[key, found.version.value] = found.value

    def command(self, *words: str) -> tuple[str, ...]:
        """Return a command on this registry and this cache."""
        return (*words, "--registry", self.url, "--cache", str(self.cache))

    def forget(self) -> None:
        """Take the cache away."""
        for suffix in OWN_SUFFIXES:
            Path(f"{self.cache}{suffix}").unlink(missing_ok=True)

    def check(self) -> None:
        """Check that each row is what its record really was, that sums fit, and that no file is left.

        Raises:
            PromiseBroken: not so.
        """
        with contextlib.closing(_opened(self.cache)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            hold(found == "ok", f"the cache is damaged: {found}")
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            hold(mark in (0, APPLICATION_ID), f"the cache is marked as another program's: {mark}")
            if version == SCHEMA_VERSION:
                self._check_rows(connection)
        check_leftovers(self.cache)

    def check_equal(self) -> None:
        """Check that the cache has each record as the registry has it, or has pruned it as that, and no other.

        Raises:
            PromiseBroken: not so.
        """
        self.check()
        there = patiently(lambda: {entry.key: entry.version.value for entry in self.store.scan("jobs/")})
        with contextlib.closing(_opened(self.cache)) as connection:
            cached = dict(connection.execute("SELECT key, version FROM job UNION ALL SELECT key, version FROM pruned"))
        differing = {key for key in there.keys() | cached.keys() if there.get(key) != cached.get(key)}
        hold(not differing, f"a sync has left {len(differing)} jobs unlike the registry, such as {differing}"[:300])

    def _check_rows(self, connection: sqlite3.Connection) -> None:
        labels = defaultdict(list)
        for label, value, job_id in connection.execute("SELECT label, value, job_id FROM job_label"):
            labels[job_id].append((label, value, job_id))
        columns = ", ".join(JobRow._fields)
        seen = set()
        for row in connection.execute(f"SELECT {columns} FROM job"):
            key, job_id, version = row[:3]  # and after them the generation, which is the cache's own
            seen.add(job_id)
            made = self._made(key, job_id, version)
            hold(made.row[:3] + made.row[4:] == row[:3] + row[4:], f"the row of {job_id} is none of its states")
            hold(sorted(made.labels) == sorted(labels.get(job_id, [])), f"the labels of {job_id} are not its own")
        hold(labels.keys() <= seen, "there are labels without their jobs")
        both = connection.execute("SELECT count(*) FROM job JOIN pruned USING (key)").fetchone()[0]
        hold(not both, f"{both} jobs are there and pruned as well")
        sums = connection.execute(f"{totals.SUMS} {totals.GROUPED}").fetchall()
        kept = connection.execute("SELECT * FROM tally WHERE jobs > 0").fetchall()
        hold(sorted(sums) == sorted(kept), "the sums are not those of the jobs")

    def _made(self, key: str, job_id: str, version: str) -> rows.MirroredJob:
        """Return what the cache has to hold of a record at a version that it really had."""
        if (made := self._rows.get((key, version))) is None:
            value = self.had.get((key, version))
            hold(value is not None, f"{job_id} never had the version {version}")
            found = rows.to_row(key, job_id, value or b"", VersionToken(version), 0)
            assert isinstance(found, rows.MirroredJob)
            made = self._rows[key, version] = found
        return made

    def _note(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            assert entry.value is not None  # these are small, so listings have them
            self.had[entry.key, entry.version.value] = entry.value


def patiently(act: Callable[[], T]) -> T:
    """Return what `act` gives, when the server answers: on a busy machine it may take longer than its clients wait."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(StoreUnavailableError):
            return act()
    return act()


def synced(forker: Forker, sync: Sequence[str]) -> str:
    """Sync to the end, again where the exit code says so, and return what it said.

    Raises:
        PromiseBroken: it does not succeed.
    """
    for _ in range(ATTEMPTS):
        ended = forker.run(sync)
        if ended.codes != [EXIT_UNREACHABLE]:
            break
    hold(ended.codes == [0], f"a sync ended with {ended.codes}: {ended.out}")
    is_refused = '"already_running": true' in ended.out or "Another sync is running" in ended.out
    hold(not is_refused, "a sync takes one that was killed for one that is running")
    return ended.out


def kill_syncs(
    mirrored: Mirrored,
    forker: Forker,
    chance: random.Random,
    wanted: int,
    *,
    full: bool,
    fresh: bool = False,
) -> Killed:
    """Kill syncs of one kind, look at the cache after each, and let another sync heal it.

    Args:
        mirrored: the registry and its cache.
        forker: runs the syncs.
        chance: where all chance comes from.
        wanted: how many kills are to fall inside.
        full: whether every record is read again.
        fresh: whether there is no cache before.

    Raises:
        PromiseBroken: the cache was wrong, or the next sync did not heal it.
    """
    sync = mirrored.command("sync", "--json", *(["--full"] if full else []))
    heal = mirrored.command("sync", "--json")
    for _ in range(3):  # until announcements are trusted
        synced(forker, heal)

    def prepare() -> None:
        mirrored.change()
        if fresh:
            mirrored.forget()

    def look(_ended: Ended) -> None:
        if mirrored.cache.exists():
            mirrored.check()
        said = synced(forker, heal)
        hold(full or fresh or not mirrored.can_be_delta or '"mode": "delta"' in said, f"this was to be a delta: {said}")
        mirrored.check_equal()

    # A busy server may keep a sync from its end, or from the events.
    ends = (0,) if mirrored.url.startswith("sqlite:") else (0, EXIT_UNREACHABLE, EXIT_PARTLY_DONE)
    return killing(forker, lambda: [sync], chance, wanted, prepare=prepare, look=look, ends=ends)


def kill_prunes(mirrored: Mirrored, forker: Forker, chance: random.Random, wanted: int) -> Killed:
    """Kill prunes of a cache that has much to prune, look at it, prune again to the end, and sync.

    Raises:
        PromiseBroken: the cache was wrong, or what came after did not heal it.
    """
    full = mirrored.cache.with_name("unpruned.db")
    mirrored.forget()
    synced(forker, mirrored.command("sync", "--full"))
    shutil.copyfile(mirrored.cache, full)
    # All that ended: half of the jobs are younger than fifteen days, and the trial is of much work.
    prune = mirrored.command("prune", "--older-than", "1s", "--yes")

    def prepare() -> None:
        mirrored.forget()
        shutil.copyfile(full, mirrored.cache)

    def look(_ended: Ended) -> None:
        mirrored.check()
        hold(forker.run(prune).codes == [0], "the next prune does not succeed")
        synced(forker, mirrored.command("sync"))
        mirrored.check_equal()
        with contextlib.closing(_opened(mirrored.cache)) as connection:
            left = connection.execute("SELECT count(*) FROM job WHERE is_active = 0").fetchone()[0]
        hold(not left, f"{left} jobs came back that were pruned")

    return killing(forker, lambda: [prune], chance, wanted, prepare=prepare, look=look)


def _opened(path: Path) -> sqlite3.Connection:
    """Return the cache as any reader opens it."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


# --- writers ----------------------------------------------------------------------------------------------------------

STEPS = (
    ("register", "JOB", "--owner", "ada", "--label", "kind=crash"),
    ("update", "JOB", "running"),
    ("progress", "JOB", "1/10"),
    ("progress", "JOB", "5/10"),
    ("update", "JOB", "failed", "--error-code", "OOM", "--error", "killed at 12 GiB"),
)
"""One command after the other, each acknowledged by its exit code."""

Told = tuple[str, int, str | None]

STATES: tuple[Told | None, ...] = (
    None,
    ("pending", 0, None),
    ("running", 0, None),
    ("running", 1, None),
    ("running", 5, None),
    ("failed", 5, "OOM"),
)
"""The content of the record after this many of them."""


class Writers:
    """Writers of one registry, and what they were told to have written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = path
        self._number = 0
        self.acknowledged = 0
        """Writes that were acknowledged before a kill, and found again."""
        self._jobs: dict[str, int] = {}
        """How many steps of each job have landed."""

    def script(self) -> Script:
        """Return the writes of a job of its own."""
        return [[self._job if word == "JOB" else word for word in (*step, *self._where)] for step in STEPS]

    def prepare(self) -> None:
        """Take another job, every third time in a registry that is still to be made."""
        if self._number % 3 == 0:
            self.check_all()
            self._jobs = {}
            # One that was there and is not would be missed.
            self.path = self._first.parent / str(self._number) / self._first.name
            self.path.parent.mkdir(parents=True)
        self._number += 1

    def look(self, ended: Ended) -> None:
        """Check that what was acknowledged is there; of what was under way, all or nothing.

        Raises:
            PromiseBroken: not so.
        """
        hold(set(ended.codes) <= {0}, f"a write was refused: {ended.codes} {ended.out}")
        acknowledged = len(ended.codes)
        found = self._told(self._job)
        possible = STATES[acknowledged : acknowledged + 2]
        hold(found in possible, f"{acknowledged} writes were acknowledged, and the record says {found}")
        if ended.is_killed:
            self.acknowledged += acknowledged
        self._jobs[self._job] = STATES.index(found)
        check_leftovers(self.path)

    def check_all(self) -> None:
        """Check that the file is sound, and that what landed earlier is there still, after every kill.

        Raises:
            PromiseBroken: not so.
        """
        if not self.path.exists():
            hold(not any(self._jobs.values()), "the registry is gone")
            return
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            (sound,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        hold(sound == "ok", f"the registry is damaged: {sound}")
        for job, steps in self._jobs.items():
            hold(self._told(job) == STATES[steps], f"{job} had {steps} writes, and says {self._told(job)} later")

    @property
    def _job(self) -> str:
        return f"job-{self._number}"

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--registry", f"sqlite://{self.path}")

    def _told(self, job: str) -> Told | None:
        with contextlib.closing(SQLiteVersionedStore(self.path)) as store:
            found = store.get(f"jobs/{job}/state.json")
        if found is None:
            return None
        state = JobState.from_json(found.value)
        return (str(state.status), state.tasks_completed, state.error_code)


# --- runners and submissions ------------------------------------------------------------------------------------------

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
        is_at_work = any(words in resumed.out for words in ("still running", "already at work"))
        hold(resumed.code == 0 or is_at_work, f"resume {self.job}: {resumed.out}")
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


# --- the trial --------------------------------------------------------------------------------------------------------

KILLS = 200
"""Of each kind, in the whole trial."""


def run(trial: Trial) -> Iterator[Figure]:
    """Kill everything, `KILLS` times each, and tell of each kind at its end.

    Raises:
        PromiseBroken: something that a killed command left was wrong.
    """
    wanted = trial.times(KILLS)
    with contextlib.ExitStack() as stack:
        # Hours of writes lie before the last kills.
        server = stack.enter_context(azurite.running(trial.directory, collects_garbage=False))
        home = trial.directory / "home"
        home.mkdir()
        env = {"HOME": str(home), **server.env}
        made = stack.enter_context(forker(trial.directory, env))
        yield from syncs(trial, made, "embedded", f"sqlite://{trial.directory}/mirrored.db", env, wanted)
        yield from syncs(trial, made, "Azurite", server.url(azurite.new_container()), env, wanted)
        yield from writes(trial, made, wanted)
        yield from jobs(trial, made, env, wanted)


def syncs(
    trial: Trial, forker: Forker, name: str, url: str, env: dict[str, str], wanted: int, jobs: int = JOBS
) -> Iterator[Figure]:
    """Kill syncs of one registry, of all kinds, and prunes of its cache."""
    chance = random.Random(f"{trial.seed} {name}")
    mirrored = Mirrored(url, env, trial.directory / f"cache-{name}.db", chance, jobs)
    with contextlib.closing(mirrored):
        yield _killed(f"sync, delta, {name}", kill_syncs(mirrored, forker, chance, wanted, full=False))
        yield _killed(f"sync --full, {name}", kill_syncs(mirrored, forker, chance, wanted, full=True))
        yield _killed(f"first sync, {name}", kill_syncs(mirrored, forker, chance, wanted, full=False, fresh=True))
        if name == "embedded":
            yield _killed("prune", kill_prunes(mirrored, forker, chance, wanted))


def writes(trial: Trial, forker: Forker, wanted: int) -> Iterator[Figure]:
    """Kill writers of an embedded registry, and look for what they had written.

    Raises:
        PromiseBroken: if an acknowledged write is missing, a half one is there, the file is damaged or locked.
    """
    chance = random.Random(f"{trial.seed} writers")
    writers = Writers(trial.directory / "written" / "registry.db")
    killed = killing(forker, writers.script, chance, wanted, prepare=writers.prepare, look=writers.look)
    writers.check_all()
    yield _killed("register, update, progress", killed)
    yield Figure("writes acknowledged before a kill, and found again", writers.acknowledged)


def jobs(trial: Trial, forker: Forker, env: dict[str, str], wanted: int) -> Iterator[Figure]:
    """Kill runners and submissions."""
    chance = random.Random(f"{trial.seed} jobs")
    with contextlib.closing(Jobs(Path(trial.directory, "jobs"), env)) as made:
        yield _killed("run, then resume", kill_runners(made, forker, chance, wanted))
        yield Figure("outputs there after the kill of a runner, each whole", made.stored)
        yield _killed("submit --auto, then resume", kill_submissions(made, forker, chance, wanted))
        yield Figure("attempts in the ledgers of these jobs, none missing or doubled", made.attempts)


def _killed(what: str, killed: Killed) -> Figure:
    return Figure(f"{what}: killed inside, healed (of kills tried)", f"{killed.landed} ({killed.tried})")
