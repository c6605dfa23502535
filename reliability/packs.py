"""Jobs whose outputs go into packs, on each engine, while the store goes away and what runs their tasks is killed.

Each storm is a job of trivial tasks in several shards, on an Azurite behind a bad line. Runners, workers, pods and
deliveries are killed, and shards are requeued and cancelled. A second runner works at the first shard. In the middle of
it, the store is away for `OUTAGE_SECONDS`. The same study with `"packs": false` has run before, without any of this.

What must hold: all tasks have the same results, byte for byte. No output that a reader has seen is lost. All views
count the same. Each task also tells which process has run it, which differs between two runners: see `look`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import azurite
from bench.machine import ROOT
from mopsjobs.engines.local import runner_pid
from mopsjobs.registry.keys import PACK
from mopsjobs.store import open_store
from mopsjobs.studies.packed_store import PackedStore
from reliability.storm.proxy import Plan, Proxy, faulty
from reliability.trial import Figure, PromiseBroken, Trial, hold
from support import slurm
from support.dask import Cluster
from support.kubernetes import kubeconfig
from support.runs import calls, kill, until
from support.stand_in import POD_GC_SECONDS, StandIn

TASKS = 600
SHARDS = 3
WORKERS = 2
OUTAGE_SECONDS = 12.0
REFUSALS = Plan(1.0, ("busy", "throttled"))
"""All requests fail."""

LOSSES = Plan(1.0, ("busy", "gateway", "lost", "cut", "late"))
"""All requests fail. Of most, the server has done what was asked."""

TASK_SECONDS = 0.15
EXIT_PARTIAL = 104
RESUMES = 3
"""Jobs that may follow on a cancelled shard."""

MODEL = """
import json, os, time

def simulate(params, seed):
    file = os.open({calls!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"%d %d\\n" % (params["x"], os.getpid()))
    os.close(file)
    time.sleep({seconds})
    result = {{"x": params["x"], "seed": seed, "text": "x" * (params["x"] % 100)}}
    return {{"result.json": json.dumps(result).encode(), "by.json": b"%d" % time.time_ns()}}
"""

RESULT, BY = "result.json", "by.json"

Deed = Callable[[], object]


class Deeds(NamedTuple):
    """The deeds that a job suffers on an engine."""

    flags: Sequence[str]
    """Of its submission."""
    early: Deed
    """After a quarter of its tasks."""
    away: Deed
    """In the middle of the outage."""
    late: Deed
    """After three fifths."""
    rival: Sequence[str] | None
    """The flags of a second runner of the first shard; None: there is none."""
    keeping: Sequence[int] = ()
    """Shards with one runner at a time and a disk that outlives it. What they have counted never runs again."""


class Storm:
    """A job in a registry, commands, and what readers have seen of the outputs."""

    def __init__(self, directory: Path, server: azurite.Azurite, line: Proxy, tasks: int) -> None:
        """Make the model, and a registry of its own.

        Args:
            directory: where all of it lies.
            server: where the registry is.
            line: the way to it.
            tasks: of the job.
        """
        self.tasks, self._line = tasks, line
        self.home, self.code, self.calls = directory / "home", directory / "code", directory / "calls"
        for path in (self.home, self.code):
            path.mkdir(parents=True)
        (self.code / "model.py").write_text(MODEL.format(calls=str(self.calls), seconds=TASK_SECONDS))
        container, bad = azurite.new_container(), azurite.Azurite(line.port)
        self.secret = bad.env
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "MOPS_JOBS_REGISTRY": bad.url(container),
            **self.secret,
        }
        self.store = PackedStore(open_store(server.url(container), server.env))
        self._seen: dict[str, bytes] = {}
        self.replaced = 0
        """Outputs of which readers saw that of one runner, and later that of another one."""
        self.exit_code = 0
        """Of the last command."""

    # --- commands ---------------------------------------------------------------------------------------------------

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "mops_jobs.py"), *words],
            cwd=self.code,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, allowed: Sequence[int] = (0,)) -> str:
        """Run a command to its end, and return what it printed.

        Raises:
            PromiseBroken: if it ends with an exit code that is not allowed.
        """
        with self.start(*words) as process:
            out, err = process.communicate()
        hold(process.returncode in allowed, f"{' '.join(words)} ended with {process.returncode}: {err[-2000:]}")
        self.exit_code = process.returncode
        return out

    def submit(self, job_id: str, *flags: str, packs: bool) -> None:
        """Submit the study."""
        study = {
            "model": "model:simulate",
            "parameter_sets": [{"x": number} for number in range(self.tasks)],
            "outputs": [RESULT, BY],
            "packs": packs,
        }
        (self.code / "study.json").write_text(json.dumps(study))
        self.run("submit", "study.json", "--auto", "--job-id", job_id, *flags)

    # --- what happens -----------------------------------------------------------------------------------------------

    def suffer(self, deeds: Deeds, outage_seconds: float) -> None:
        """Submit the job, and let it all happen."""
        self.submit("job", *deeds.flags, packs=True)
        with contextlib.ExitStack() as stack:
            self.await_part(0.15)
            if deeds.rival is not None:
                home = self.home.parent / "rival"
                home.mkdir()
                words = ("run", "job", *deeds.rival)
                rival = stack.enter_context(self.start(*words, HOME=str(home)))
                stack.callback(self._end_rival, rival)
            self.await_part(0.25)
            deeds.early()
            self.look()
            self.await_part(0.4)
            self._line.follow(REFUSALS)
            time.sleep(outage_seconds / 2)
            deeds.away()
            self._line.follow(LOSSES)
            time.sleep(outage_seconds / 2)
            self._line.calm()
            self.look()
            self.await_part(0.6)
            deeds.late()
            self.look()

    def _end_rival(self, rival: subprocess.Popen[str]) -> None:
        _, err = rival.communicate()
        hold(rival.returncode == 0, f"the second runner ended with {rival.returncode}: {err[-2000:]}")

    def await_part(self, part: float) -> None:
        """Wait until this part of the tasks has begun once."""
        until(lambda: len(calls(self.calls)) >= part * self.tasks, f"{part:.0%} of the tasks")

    def look(self) -> None:
        """Read all outputs as a reader does, on a good line. What was seen before is there still.

        Two runners may store a task at the same moment, one of them as an object. Then readers see that of the pack.

        Raises:
            PromiseBroken: if an output is gone.
        """
        found = self.outputs("job")
        lost = self._seen.keys() - found.keys()
        hold(not lost, f"{len(lost)} outputs that readers have seen are gone, such as {sorted(lost)[:1]}")
        self.replaced += sum(found[key] != value for key, value in self._seen.items())
        self._seen = found

    def outputs(self, *job_ids: str) -> dict[str, bytes]:
        """Return the outputs of jobs, by their names below these."""
        found: dict[str, bytes] = {}
        reader = PackedStore(self.store.unpacked)
        for job_id in job_ids:
            prefix = f"results/{job_id}/"
            for entry in reader.scan(prefix):
                name = entry.key.removeprefix(prefix)
                value = reader.get_entry(entry)
                hold(name not in found, f"{name} is in two jobs of one family")
                hold(value is not None, f"{name} is listed and cannot be read")
                found[name] = b"" if value is None else value.value
        return found

    # --- what must hold ---------------------------------------------------------------------------------------------

    def judge(self, plain: dict[str, bytes], keeping: Sequence[int]) -> Iterator[Figure]:
        """Bring the job to its end, and compare it with the same job without packs.

        Raises:
            PromiseBroken: if they differ, or views count other numbers than these.
        """
        family = ["job"]
        for _ in range(RESUMES + 1):
            self.run("wait", family[-1], allowed=(0, 100, 103, EXIT_PARTIAL))
            if self.exit_code == 0:
                break
            hold(len(family) <= RESUMES, f"{family[-1]} does not come to its end")
            self.run("resume", family[-1])
            family.append(f"job.{len(family) + 1}")
        self.look()
        found = self.outputs(*family)
        names = plain.keys() | found.keys()
        differing = [name for name in names if plain.get(name) != found.get(name) and not is_by(name, plain, found)]
        hold(not differing, f"{len(differing)} outputs differ from those of plain objects, such as {differing[:3]}")
        called = calls(self.calls)
        # Of each stop: tasks at work, and such as had ended and were not in the journal yet.
        again = sum(count - 1 for number, count in called.items() if number % SHARDS in keeping)
        hold(again <= 2 * WORKERS * len(keeping), f"{again} tasks ran again, most of which had been counted")
        packs = {pack.key: pack for job in family for pack in self.store.list_packs(job).indexes.values()}
        stored = Counter(row[:3] for pack in packs.values() for row in pack.rows())
        alone = [
            key for job in family for key in self.store.unpacked.list_keys(f"results/{job}/") if not PACK.parse(key)
        ]
        self._judge_views(family)
        twice = sum(count - 1 for count in stored.values())
        yield Figure("outputs, each once, and results byte for byte as without packs", len(found))
        yield Figure("packs; outputs that are in two; objects", f"{len(packs)}; {twice}; {len(alone)}")
        yield Figure("outputs that readers saw replaced by those of the second runner", self.replaced)
        yield Figure("calls of the model beyond one per task", sum(called.values()) - len(called))
        yield Figure("jobs of the family", len(family))

    def _judge_views(self, family: Sequence[str]) -> None:
        """Ask all views of each job for its tasks that are done."""
        told: Counter[str] = Counter()
        for job in family:
            status = json.loads(self.run("status", job, "--json", "--refresh"))
            tasks = json.loads(self.run("tasks", job, "--json", "--limit", "0"))["tasks"]
            done = status["tasks_completed"]
            listed = [
                row for row in json.loads(self.run("list", "--json", "--limit", "0"))["jobs"] if row["job_id"] == job
            ]
            views = {
                "status": done,
                "verified": status["tasks_verified"],
                "list": listed[0]["tasks_completed"],
                "tasks": sum(task["outcome"] == "succeeded" for task in tasks),
                "validate": json.loads(self.run("validate", job, "--json", allowed=(0, EXIT_PARTIAL, 7)))[
                    "tasks_verified"
                ],
                "outputs": len(self.outputs(job)) // 2,
            }
            hold(len(set(views.values())) == 1, f"views of {job} count differently: {views}")
            told["done"] += done
        hold(told["done"] == self.tasks, f"the jobs count {told['done']} tasks, expected {self.tasks}")
        last = family[-1]
        rows = [json.loads(line) for line in self.run("results", last, "--json").splitlines()]
        hold(len(rows) == 2 * self.tasks, f"results of {last} has {len(rows)} outputs, expected {2 * self.tasks}")
        table = json.loads(
            self.run(
                "query",
                "--job",
                last,
                "--json",
                "SELECT count(*) AS n, count(DISTINCT x) AS d FROM results WHERE status = 'succeeded'",
            )
        )
        hold(table["rows"] == [{"n": self.tasks, "d": self.tasks}], f"query of {last} says {table['rows']}")
        target = self.home.parent / "download"
        self.run("results", last, "--download", str(target))
        files = list(target.rglob("*.json"))
        hold(len(files) == 2 * self.tasks, f"the download has {len(files)} outputs")


def is_by(name: str, *outputs: dict[str, bytes]) -> bool:
    """Return whether an output tells who has run its task, and all have it."""
    return name.endswith(f"/{BY}") and all(name in found for found in outputs)


# --- engines --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_slurm(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of a Slurm: a runner is killed, a shard requeued in the outage, and one cancelled."""
    with slurm.running(directory / "slurm") as cluster:
        storm.env |= cluster.env

        def array(shard: int) -> str:
            state = json.loads(storm.store.get("jobs/job/state.json").value)  # type: ignore[union-attr]
            return f"{state['metadata']['slurm_job_id']}_{shard}"

        yield Deeds(
            ["--engine", "slurm", "--shards", str(SHARDS), "--workers", str(WORKERS), "--requeue"],
            early=lambda: cluster.run("scancel", array(2)),
            away=lambda: cluster.run("scontrol", "requeue", array(1)),
            late=lambda: cluster.run("scontrol", "requeue", array(0)),
            rival=["--shard", f"0/{SHARDS}", "--workers", "1"],
            keeping=(1, 2),
        )


@contextlib.contextmanager
def with_drop(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of a Slurm whose shards report by files: two deliver at once, and one of them is killed."""
    with on_slurm(storm, directory) as deeds:

        def deliver() -> None:
            with storm.start("reconcile", "job") as killed, storm.start("reconcile", "job") as other:
                until(lambda: killed.poll() is not None or storm.outputs("job"), "a delivery")
                killed.kill()
                killed.communicate()
                other.communicate()

        def early() -> None:
            deeds.early()
            deliver()

        def away() -> None:
            deeds.away()
            storm.run("reconcile", "job", allowed=(0, 5, 7))

        def late() -> None:
            deliver()
            deeds.late()

        yield Deeds([*deeds.flags, "--file-drop"], early, away, late, None, keeping=range(SHARDS))


@contextlib.contextmanager
def on_kubernetes(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of a cluster: a node is lost, a pod evicted in the outage, and another one cut off."""
    pods = directory / "pods"
    pods.mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    programs = {"mops-jobs": [sys.executable, str(ROOT / "mops_jobs.py")]}
    with contextlib.closing(StandIn(pods, programs, env)) as cluster:
        cluster.secrets["registry"] = storm.secret
        storm.env["KUBECONFIG"] = str(kubeconfig(directory, cluster.url, namespace="models"))

        def lose(shard: int, *, is_partitioned: bool = False) -> None:
            cluster.lose_node("job", shard, is_partitioned=is_partitioned)
            cluster.remove_node("job", shard)
            cluster.pass_seconds(POD_GC_SECONDS)

        words = ["--engine", "kubernetes", "--image", "sims:1", "--secret", "registry", "--workers", "2"]
        yield Deeds(
            [*words, "--shards", str(SHARDS)],
            early=lambda: lose(1),
            away=lambda: cluster.delete_pod("job", 2),
            late=lambda: lose(0, is_partitioned=True),
            rival=["--shard", f"0/{SHARDS}", "--workers", "1"],
        )


@contextlib.contextmanager
def on_dask(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of Dask: workers are killed, and the runner is killed in the outage and started again."""
    (directory / "dask").mkdir()
    with contextlib.closing(Cluster(directory / "dask", 4)) as cluster, contextlib.ExitStack() as stack:

        def kill_worker(number: int) -> None:
            cluster.kill(number)
            cluster.add_worker()

        def kill_runner() -> None:
            pid = runner_pid("job", storm.env)
            hold(pid is not None, "the runner has ended before its kill")
            kill(pid or 0)
            again = stack.enter_context(storm.start("run", "job", "--scheduler", cluster.url))
            stack.callback(again.communicate)

        yield Deeds(
            ["--engine", "dask", "--scheduler", cluster.url],
            early=lambda: kill_worker(1),
            away=kill_runner,
            late=lambda: kill_worker(2),
            rival=["--scheduler", cluster.url],
        )


ENGINES = {"Slurm": on_slurm, "Slurm with a drop of files": with_drop, "Kubernetes": on_kubernetes, "Dask": on_dask}


def run(trial: Trial) -> Iterator[Figure]:
    """Run a storm on each engine.

    Raises:
        PromiseBroken: if an output is lost, differs or counts twice.
    """
    broken: list[str] = []
    with azurite.running(trial.directory) as server, faulty(server.port, Plan(0.0)) as line:
        for name in ENGINES:
            begun = time.monotonic()
            try:
                for figure in over(trial, name, server, line):
                    yield Figure(f"{name}: {figure.what}", figure.count)
            except PromiseBroken as error:
                yield Figure(f"{name}: BROKEN", str(error))
                broken.append(f"{name}: {error}")
            yield Figure(f"{name}: seconds", round(time.monotonic() - begun))
    hold(not broken, "; ".join(broken))


def over(trial: Trial, name: str, server: azurite.Azurite, line: Proxy) -> Iterator[Figure]:
    """Run the storm on an engine.

    Raises:
        PromiseBroken: if an output is lost, differs or counts twice.
    """
    directory = trial.directory / str([*ENGINES].index(name))  # a short path, since a Slurm has sockets there
    storm = Storm(directory, server, line, trial.times(TASKS, least=60))
    storm.submit("plain", "--workers", "4", packs=False)
    storm.run("wait", "plain")
    plain = storm.outputs("plain")
    storm.calls.unlink()
    with ENGINES[name](storm, directory) as deeds:
        storm.suffer(deeds, OUTAGE_SECONDS * min(1.0, trial.scale))
        yield from storm.judge(plain, deeds.keeping)
