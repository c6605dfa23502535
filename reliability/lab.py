"""What trials of jobs share: a registry, the code of a model, commands, clusters, and kills of what runs tasks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from bench.machine import ROOT
from mopsjobs.engines.local import runner_pid
from mopsjobs.store import network, open_store
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import parse_study
from reliability.trial import hold
from support import slurm
from support.dask import Cluster
from support.kubernetes import kubeconfig
from support.runs import is_alive
from support.stand_in import POD_GC_SECONDS, StandIn

PATIENCE = 600.0

NOTE = """
import os, random, sys, time

def note(number):
    file = os.open(CALLS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    shard = int(os.environ.get("MOPS_JOBS_SHARD", 0))
    os.write(file, b"%d %d %d %d\\n" % (os.getpid(), os.getppid(), shard, number))
    os.close(file)
"""
"""Of each model: it notes its calls."""

KUBERNETES_FLAGS = ("--engine", "kubernetes", "--image", "sims:1", "--secret", "registry")


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Let a read of this process wait for as long as a busy machine may take."""
    with mock.patch.object(network, "BUDGET_SECONDS", PATIENCE):
        yield


class Lab:
    """A registry, the code of a model, and commands."""

    def __init__(
        self,
        directory: Path,
        model: str,
        seed: int,
        *,
        url: str = "",
        env: Mapping[str, str] | None = None,
        reader: tuple[str, Mapping[str, str]] | None = None,
        **constants: object,
    ) -> None:
        """Make the directories, and the model.

        Args:
            directory: where all of it lies.
            model: the source of `simulate`, which calls `note`.
            seed: where chance comes from.
            url: the registry of commands; a file of its own if empty.
            env: further variables of commands.
            reader: the registry and the variables on a good line; None: as commands have them.
            constants: of the model, by name.
        """
        self.chance = random.Random(seed)
        self.directory = directory
        self.home, self.code, self.calls = directory / "home", directory / "code", directory / "calls"
        for path in (self.home, self.code):
            path.mkdir(parents=True)
        values = {"CALLS": str(self.calls), **constants}
        head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        (self.code / "model.py").write_text(head + NOTE + model)
        url = url or f"sqlite://{directory}/registry.db"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "MOPS_JOBS_REGISTRY": url,
            **(env or {}),
        }
        self.store = open_store(*(reader or (url, self.env)))

    # --- commands ---------------------------------------------------------------------------------------------------

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "mops_jobs.py"), *words],
            cwd=self.code,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
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
        return out

    def json(self, *words: str, allowed: Sequence[int] = (0,)) -> Any:
        """Return the document that a command prints."""
        return json.loads(self.run(*words, "--json", allowed=allowed))

    def submit(self, job_id: str, sets: Sequence[Mapping[str, Any]], *flags: str, **fields: Any) -> Study:
        """Submit a study of the model."""
        document = {"model": "model:simulate", "parameter_sets": list(sets), "outputs": ["result.json"], **fields}
        (self.code / "study.json").write_text(json.dumps(document))
        self.run("submit", "study.json", "--auto", "--job-id", job_id, *flags)
        return parse_study(document)

    def status(self, job_id: str) -> dict[str, Any]:
        """Return what `status` says of a job, as the engine knows it."""
        return dict(self.json("status", job_id, "--refresh"))

    @patient()
    def record(self, job_id: str) -> dict[str, Any]:
        """Return the record of a job, on a good line."""
        held = self.store.get(f"jobs/{job_id}/state.json")
        assert held is not None
        return dict(json.loads(held.value))

    # --- what is left -----------------------------------------------------------------------------------------------

    @patient()
    def outputs(self, *family: str) -> dict[str, bytes]:
        """Return the outputs of jobs as a reader sees them, by their names below these."""
        found: dict[str, bytes] = {}
        for job_id in family:
            reader, prefix = PackedStore(self.store), f"results/{job_id}/"
            for entry in reader.scan(prefix):
                name, value = entry.key.removeprefix(prefix), reader.get_entry(entry)
                hold(name not in found, f"{name} is in two jobs of one family")
                hold(value is not None, f"{name} is listed and cannot be read")
                found[name] = b"" if value is None else value.value
        return found

    def hold_views(self, job_id: str, done: Mapping[str, int]) -> dict[str, Any]:
        """Return what `status` says of a job, if all views count its tasks alike, and these numbers are those done.

        Raises:
            PromiseBroken: if not.
        """
        status = self.status(job_id)
        tasks = self.json("tasks", job_id, "--limit", "0")["tasks"]
        listed = {row["job_id"]: row for row in self.json("list", "--limit", "0")["jobs"]}[job_id]
        validated = self.json("validate", job_id, allowed=(0, 7, 104))
        views = {
            "status": (status["tasks_completed"], status["tasks_total"]),
            "list": (listed["tasks_completed"], listed["tasks_total"]),
            "tasks": (sum(task["outcome"] == "succeeded" for task in tasks), len(tasks)),
            "validate": (validated["tasks_verified"], validated["tasks_total"]),
            **{view: (count, status["tasks_total"]) for view, count in done.items()},
        }
        hold(len(set(views.values())) == 1, f"views of {job_id} count differently: {views}")
        return status

    def called(self) -> list[tuple[int, ...]]:
        """Return the calls of the model so far: process, parent, shard and what it noted."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    # --- kills ------------------------------------------------------------------------------------------------------

    def strike(self, job_id: str, whom: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal to a `worker`, which runs tasks, or to a `runner`, and wait for the end of that.

        Return False if there is none. On a cluster, a runner is the parent of a worker.
        """
        alive = sorted({call[:2] for call in self.called()[-64:] if is_alive(call[0])})
        pid = runner_pid(job_id, self.env)
        if whom == "worker" or (pid is None and not self.env.keys().isdisjoint(("SLURM_CONF", "KUBECONFIG"))):
            pid = self.chance.choice(alive)[whom == "runner"] if alive else None
        if pid is None or pid == 1:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        end = time.monotonic() + PATIENCE
        while whom == "runner" and is_alive(pid):
            hold(time.monotonic() < end, "a runner goes on after a signal")
            time.sleep(0.01)
        return True


# --- clusters -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slurm_cluster(lab: Lab, directory: Path, silence: int = slurm.SILENCE_SECONDS) -> Iterator[slurm.Slurm]:
    """Yield a Slurm that commands find."""
    with slurm.running(directory, silence=silence) as cluster:
        lab.env |= cluster.env
        yield cluster


def tell_slurm(cluster: slurm.Slurm, *words: str) -> bool:
    """Run a command of Slurm. Return False if that fails: the shard has ended, or does not run yet."""
    with contextlib.suppress(RuntimeError):
        cluster.run(*words)
        return True
    return False


@contextlib.contextmanager
def dask_cluster(directory: Path, workers: int) -> Iterator[tuple[list[str], Callable[[], bool]]]:
    """Yield the flags for a Dask cluster, and what kills a worker of it, the oldest first. Another one comes then."""
    directory.mkdir()
    with contextlib.closing(Cluster(directory, workers)) as cluster:
        numbers = itertools.count(1)

        def kill_worker() -> bool:
            cluster.kill(next(numbers))
            cluster.add_worker()
            return True

        yield ["--scheduler", cluster.url], kill_worker


@contextlib.contextmanager
def kubernetes_cluster(lab: Lab, secret: Mapping[str, str]) -> Iterator[StandIn]:
    """Yield the stand-in for a cluster, which commands find. Its pods have the Secret `registry`."""
    pods = lab.directory / "pods"
    pods.mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    program = {"mops-jobs": [sys.executable, str(ROOT / "mops_jobs.py")]}
    with contextlib.closing(StandIn(pods, program, env)) as cluster:
        cluster.secrets["registry"] = dict(secret)
        lab.env["KUBECONFIG"] = str(kubeconfig(lab.directory, cluster.url, namespace="models"))
        yield cluster


def lose_node(cluster: StandIn, name: str, shard: int, *, is_partitioned: bool = False) -> None:
    """Let a pod lose its node, which is removed then."""
    cluster.lose_node(name, shard, is_partitioned=is_partitioned)
    cluster.remove_node(name, shard)
    cluster.pass_seconds(POD_GC_SECONDS)
