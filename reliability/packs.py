"""Jobs whose outputs go into packs, on each engine, while the store goes away and what runs their tasks is killed.

Each storm is a job of trivial tasks in several shards, on an Azurite behind a bad line. Runners, workers, pods and
deliveries are killed, and shards are requeued and cancelled. A second runner works at the first shard. In the middle of
it, the store is away for `OUTAGE_SECONDS`. The same study with `"packs": false` has run before, without any of this.

What must hold: all tasks have the same results, byte for byte. No output that a reader has seen is lost. All views
count the same. Each task also tells which process has run it, which differs between two runners: see `look`.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import azurite
from mopsjobs.registry.keys import PACK
from mopsjobs.studies.packed_store import PackedStore
from reliability.lab import KUBERNETES_FLAGS, Lab, dask_cluster, kubernetes_cluster, lose_node, slurm_cluster
from reliability.storm.proxy import Plan, Proxy, faulty
from reliability.trial import Figure, Trial, hold, in_turn
from support.runs import until

TASKS = 600
SHARDS = 3
WORKERS = 2
OUTAGE_SECONDS = 12.0
REFUSALS = Plan(1.0, ("busy", "throttled"))
"""All requests fail."""

LOSSES = Plan(1.0, ("busy", "gateway", "lost", "cut", "late"))
"""All requests fail. Of most, the server has done what was asked."""

TASK_SECONDS = 0.15
RESUMES = 3
"""Jobs that may follow on a cancelled shard."""

MODEL = """
import json

def simulate(params, seed):
    note(params["x"])
    time.sleep(SECONDS)
    result = {"x": params["x"], "seed": seed, "text": "x" * (params["x"] % 100)}
    return {"result.json": json.dumps(result).encode(), "by.json": b"%d" % time.time_ns()}
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


class Storm(Lab):
    """A job in a registry of its own, and what readers have seen of the outputs."""

    def __init__(self, directory: Path, server: azurite.Azurite, line: Proxy, tasks: int) -> None:
        """Make the model.

        Args:
            directory: where all of it lies.
            server: where the registry is.
            line: the way to it.
            tasks: of the job.
        """
        container, bad = azurite.new_container(), azurite.Azurite(line.port)
        self.secret, good = bad.env, (server.url(container), server.env)
        super().__init__(directory, MODEL, 1, url=bad.url(container), env=bad.env, reader=good, SECONDS=TASK_SECONDS)
        self.tasks, self._line = tasks, line
        self._seen: dict[str, bytes] = {}
        self.replaced = 0
        """Outputs of which readers saw that of one runner, and later that of another one."""

    def submit_packs(self, job_id: str, *flags: str, packs: bool) -> None:
        """Submit the study."""
        sets = [{"x": number} for number in range(self.tasks)]
        self.submit(job_id, sets, *flags, outputs=[RESULT, BY], packs=packs)

    def suffer(self, deeds: Deeds, outage_seconds: float) -> None:
        """Submit the job, and let it all happen."""
        self.submit_packs("job", *deeds.flags, packs=True)
        with contextlib.ExitStack() as stack:
            self.await_part(0.15)
            if deeds.rival is not None:
                home = self.home.parent / "rival"
                home.mkdir()
                words = ("run", "job", *deeds.rival)
                rival = stack.enter_context(self.start(*words, HOME=str(home)))
                stack.callback(_end_rival, rival)
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

    def await_part(self, part: float) -> None:
        """Wait until this part of the tasks has begun once."""
        until(lambda: len({x for *_, x in self.called()}) >= part * self.tasks, f"{part:.0%} of the tasks")

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

    def judge(self, plain: dict[str, bytes], keeping: Sequence[int]) -> Iterator[Figure]:
        """Bring the job to its end, and compare it with the same job without packs.

        Raises:
            PromiseBroken: if they differ, or views count other numbers than these.
        """
        family = ["job"]
        while True:
            self.run("wait", family[-1], allowed=(0, 100, 103, 104))
            if self.record(family[-1])["status"] == "succeeded":
                break
            hold(len(family) <= RESUMES, f"{family[-1]} does not come to its end")
            self.run("resume", family[-1])
            family.append(f"job.{len(family) + 1}")
        self.look()
        found = self.outputs(*family)
        names = plain.keys() | found.keys()
        differing = [name for name in names if plain.get(name) != found.get(name) and not is_by(name, plain, found)]
        hold(not differing, f"{len(differing)} outputs differ from those of plain objects, such as {differing[:3]}")
        called = Counter(x for *_, x in self.called())
        # Of each stop: tasks at work, and such as had ended and were not in the journal yet.
        again = sum(count - 1 for number, count in called.items() if number % SHARDS in keeping)
        hold(again <= 2 * WORKERS * len(keeping), f"{again} tasks ran again, most of which had been counted")
        packs = {pack.key: pack for job in family for pack in PackedStore(self.store).list_packs(job).indexes.values()}
        stored = Counter(row[:3] for pack in packs.values() for row in pack.rows())
        alone = [key for job in family for key in self.store.list_keys(f"results/{job}/") if not PACK.parse(key)]
        self._judge_views(family)
        twice = sum(count - 1 for count in stored.values())
        yield Figure("outputs, each once, and results byte for byte as without packs", len(found))
        yield Figure("packs; outputs that are in two; objects", f"{len(packs)}; {twice}; {len(alone)}")
        yield Figure("outputs that readers saw replaced by those of the second runner", self.replaced)
        yield Figure("calls of the model beyond one per task", sum(called.values()) - len(called))
        yield Figure("jobs of the family", len(family))

    def _judge_views(self, family: Sequence[str]) -> None:
        """Ask all views of each job for its tasks that are done, and those of the last one for all outputs."""
        done = 0
        for job in family:
            status = self.hold_views(job, {"outputs": len(self.outputs(job)) // 2})
            done += status["tasks_completed"]
        hold(done == self.tasks, f"the jobs count {done} tasks, expected {self.tasks}")
        last, target = family[-1], self.home.parent / "download"
        rows = self.run("results", last, "--json").splitlines()
        sql = "SELECT count(*) AS n, count(DISTINCT x) AS d FROM results WHERE status = 'succeeded'"
        table = self.json("query", "--job", last, sql)
        hold(table["rows"] == [{"n": self.tasks, "d": self.tasks}], f"query of {last} says {table['rows']}")
        self.run("results", last, "--download", str(target))
        counts = {"results": len(rows), "download": len(list(target.rglob("*.json")))}
        hold(set(counts.values()) == {2 * self.tasks}, f"{last} has {counts} of {2 * self.tasks} outputs")


def _end_rival(rival: subprocess.Popen[str]) -> None:
    _, err = rival.communicate()
    hold(rival.returncode == 0, f"the second runner ended with {rival.returncode}: {err[-2000:]}")


def is_by(name: str, *outputs: dict[str, bytes]) -> bool:
    """Return whether an output tells who has run its task, and all have it."""
    return name.endswith(f"/{BY}") and all(name in found for found in outputs)


# --- engines --------------------------------------------------------------------------------------------------------

RIVAL = ("--shard", f"0/{SHARDS}", "--workers", "1")


@contextlib.contextmanager
def on_slurm(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of a Slurm: a shard is cancelled, one requeued in the outage, and another one later."""
    with slurm_cluster(storm, directory / "slurm") as cluster:

        def tell(shard: int, *words: str) -> Deed:
            return lambda: cluster.run(*words, f"{storm.record('job')['metadata']['slurm_job_id']}_{shard}")

        yield Deeds(
            ["--engine", "slurm", "--shards", str(SHARDS), "--workers", str(WORKERS), "--requeue"],
            early=tell(2, "scancel"),
            away=tell(1, "scontrol", "requeue"),
            late=tell(0, "scontrol", "requeue"),
            rival=RIVAL,
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
def on_kubernetes(storm: Storm, _directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of a cluster: a node is lost, a pod deleted in the outage, and another one cut off."""
    with kubernetes_cluster(storm, storm.secret) as cluster:
        yield Deeds(
            [*KUBERNETES_FLAGS, "--workers", str(WORKERS), "--shards", str(SHARDS)],
            early=lambda: lose_node(cluster, "job", 1),
            away=lambda: cluster.delete_pod("job", 2),
            late=lambda: lose_node(cluster, "job", 0, is_partitioned=True),
            rival=RIVAL,
        )


@contextlib.contextmanager
def on_dask(storm: Storm, directory: Path) -> Iterator[Deeds]:
    """Yield the deeds of Dask: workers are killed, and the runner is killed in the outage and started again."""
    with dask_cluster(directory / "dask", 4) as (flags, kill_worker), contextlib.ExitStack() as stack:

        def kill_runner() -> None:
            hold(storm.strike("job", "runner"), "the runner has ended before its kill")
            again = stack.enter_context(storm.start("run", "job", *flags))
            stack.callback(again.communicate)

        yield Deeds(["--engine", "dask", *flags], early=kill_worker, away=kill_runner, late=kill_worker, rival=flags)


ENGINES = {"Slurm": on_slurm, "Slurm with a drop of files": with_drop, "Kubernetes": on_kubernetes, "Dask": on_dask}


def run(trial: Trial) -> Iterator[Figure]:
    """Run a storm on each engine.

    Raises:
        PromiseBroken: if an output is lost, differs or counts twice.
    """
    with azurite.running(trial.directory) as server, faulty(server.port, Plan(0.0)) as line:
        yield from in_turn((name, partial(over, trial, name, server, line)) for name in ENGINES)


def over(trial: Trial, name: str, server: azurite.Azurite, line: Proxy) -> Iterator[Figure]:
    """Run the storm on an engine.

    Raises:
        PromiseBroken: if an output is lost, differs or counts twice.
    """
    directory = trial.directory / str([*ENGINES].index(name))  # a short path, since a Slurm has sockets there
    storm = Storm(directory, server, line, trial.times(TASKS, least=60))
    storm.submit_packs("plain", "--workers", "4", packs=False)
    storm.run("wait", "plain")
    plain = storm.outputs("plain")
    storm.calls.unlink()
    with ENGINES[name](storm, directory) as deeds:
        storm.suffer(deeds, OUTAGE_SECONDS * min(1.0, trial.scale))
        yield from storm.judge(plain, deeds.keeping)
