"""An exact id wins: each command, a Python program and the page act on the job of that id, or on none.

Some ids begin with others. The cache lacks one: it was pruned, another machine has registered it, or no job has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import mops_jobs
import mopsjobs
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import load_manifest
from support.cli import REMOTE_URL, Cli, LineStore, Ran, add, key
from support.ledgers import leave_outputs
from support.machines import Machines
from support.study_jobs import run_study
from support.web import Web

IDS = ("exp", "exp-2", "exp-2.2", "exp-2.3", "exp-20", "exp-200", "exp-3")
"""Each begins with the first one. Those with a dot continue the job before it."""

PRUNED, ELSEWHERE, NOWHERE = "pruned", "registered by another machine", "no job"

WORDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "JOB", "--exit-status"),
    "tasks": ("tasks", "JOB", "--json"),
    "failures": ("failures", "JOB"),
    "query": ("query", "SELECT job_id, status FROM results", "--job", "JOB"),
    "wait": ("wait", "JOB", "--timeout", "0s"),
    "events": ("events", "JOB"),
    "logs": ("logs", "JOB"),
    "validate": ("validate", "JOB"),
    "results": ("results", "JOB", "--table", "-"),
    "provenance": ("provenance", "JOB"),
    "diff": ("diff", "JOB", "JOB"),
    "replay": ("replay", "JOB", "0"),
    "note": ("note", "JOB", "as noted"),
    "label": ("label", "JOB", "paper=fig2"),
    "progress": ("progress", "JOB", "1/2"),
    "update": ("update", "JOB", "--error", "as asked"),
    "reconcile": ("reconcile", "JOB"),
    "submit": ("submit", "study.json", "--bundle", f"sha256:{0:064}", "--extend", "JOB"),
    "calibrate": ("calibrate", "JOB"),
    "resume": ("resume", "JOB"),
    "run": ("run", "JOB", "--workers", "1"),
    "cancel": ("cancel", "JOB"),
}
"""How each command names a job here. Those that end it come last."""

PAGES = (
    "/jobs/JOB", "/jobs/JOB/results?rows=tasks", "/jobs/JOB/logs", "/jobs/JOB/results", "/api/v1/jobs/JOB",
    "/api/v1/tasks?job=JOB", "/api/v1/results?job=JOB",
    "/api/v1/failures?job=JOB",
)  # fmt: skip


def _commands() -> dict[str, list[argparse.Action]]:
    """Return the arguments of each command that name jobs."""
    parser = mops_jobs.build_parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    found = {
        name: [one for one in command._actions if one.metavar in ("JOB", "OTHER")]
        for name, command in commands.choices.items()
        if name != "register"  # whose job is new
    }
    return {name: actions for name, actions in found.items() if actions}


def test_every_command_that_takes_a_job_is_tried() -> None:
    """A command that is new gets its words here, or this fails."""
    assert set(WORDS) == set(_commands())


class World:
    """A registry with some jobs, and a machine whose cache lacks one."""

    def __init__(self, cli: Cli, store: VersionedStore, others: list[str], name: str, way: str) -> None:
        self.cli, self.store, self.name, self.way = cli, store, name, way
        self._jobs = JobRegistry(store, now=cli.clock.now, sleep=cli.clock.sleep)
        self._others = [job_id for job_id in others if job_id != name]
        study = {"model": "model:simulate", "parameter_sets": [{"n": 1}], "outputs": ["result.json"]}
        self._study = cli.cache.with_name("study.json")
        self._study.write_text(json.dumps(study))
        if way == PRUNED:
            self._submit(name, "partial")
            cli.clock.advance(hours=1)
        for job_id in self._others:
            parent, is_child, _ = job_id.rpartition(".")
            add(self._jobs, job_id, "running", **({"parent_job_id": parent} if is_child else {}))
        cli.ok("sync")
        if way == PRUNED:
            cli.ok("prune", "--older-than", "30m", "--yes")
        if way == ELSEWHERE:
            self._submit(name, "succeeded")
        self.is_cached = name in cli.ids("--offline", "--limit", "0")  # a family is pruned as one
        self._kept = cli.cache.with_name("kept.db")
        shutil.copy(cli.cache, self._kept)

    def _submit(self, job_id: str, status: str) -> None:
        """Submit a job whose one task has left its output."""
        run_study(self._jobs, job_id, [{"who": job_id}], lambda _task: "succeeded", status=status)
        leave_outputs(self.store, load_manifest(self.store, job_id), 0)

    def forget(self) -> None:
        """Give the cache its first state: each command finds it as the first one did."""
        for ending in ("-wal", "-shm"):
            self.cli.cache.with_name(self.cli.cache.name + ending).unlink(missing_ok=True)
        shutil.copy(self._kept, self.cli.cache)

    def records(self) -> dict[str, bytes]:
        found = ((job_id, self.store.get(key(job_id))) for job_id in IDS)
        return {job_id: record.value for job_id, record in found if record is not None}

    def run(self, command: str, *flags: str) -> Ran:
        """Run a command on the job, and check that it changed no other."""
        self.forget()
        before, ids = self.records(), set(self.store.list_keys("jobs/"))
        values = {"JOB": self.name, "study.json": str(self._study)}
        ran = self.cli(*(values.get(word, word) for word in WORDS[command]), *flags)
        after = self.records()
        assert {job_id for job_id in before | after if before.get(job_id) != after.get(job_id)} <= {self.name}, ran
        assert set(self.store.list_keys("jobs/")) == ids, ran
        return ran

    def is_other_named(self, text: str) -> bool:
        """Return whether a text names another job."""
        words = {word.rstrip(".,:") for word in re.findall(r"exp[\w.-]*", text)}
        return not words.isdisjoint(self._others)

    def check_command(self, command: str, *flags: str) -> None:
        ran = self.run(command, *flags)
        if self.way != NOWHERE:
            assert not self.is_other_named(_without_family(ran.out)), ran
            assert ran.code != 3 or "--offline" in flags, ran
        elif f"{self.name} is short for " in ran.err:
            assert all(action.help.startswith(JOB_HELP) for action in _commands()[command][:1]), ran
            assert "--offline" not in flags or self.cli.app().settings.is_local
        else:
            assert (ran.code, ran.out) == (3, ""), ran

    def check_outage(self, command: str) -> None:
        """Check that a command which reads shows no other job while the registry does not answer."""
        self.forget()
        ran = self.cli(*(self.name if word == "JOB" else word for word in WORDS[command]))
        assert not self.is_other_named(_without_family(ran.out)), ran
        assert self.is_cached or ran.code == 5, ran

    def check_python(self) -> None:
        """Check the handle, and one that was made without a look at the registry."""
        self.forget()
        with mopsjobs.connect(env=self.cli.env) as reg:
            if self.way != NOWHERE:
                assert reg.job(self.name).status()["job_id"] == self.name
                return
            for ask in (
                lambda: reg.job(self.name),
                lambda: mopsjobs.Job(reg, self.name).status(),
                lambda: mopsjobs.Job(reg, self.name).wait(0),
                lambda: mopsjobs.Job(reg, self.name).results(),
                lambda: mopsjobs.Job(reg, self.name).cancel(),
            ):
                with pytest.raises(KeyError) as caught:
                    ask()
                assert isinstance(caught.value, mopsjobs.JobNotFoundError)

    def check_page(self, web: Web) -> None:
        self.forget()
        for path in PAGES:
            answer = web.client.get(path.replace("JOB", self.name))
            assert (answer.status_code == 404) is not self.is_cached, (path, answer.text)


def _without_family(text: str) -> str:
    """Return the output of `status` without the lines about the job's relatives."""
    return re.sub(r"(?m)^(Parent|Children|Family|  exp).*\n?", "", text)


def _try(
    make: Callable[[], tuple[Cli, VersionedStore]],
    capsys: pytest.CaptureFixture[str],
    examples: int,
    outage: contextlib.AbstractContextManager[object] | None = None,
) -> None:
    """Try all commands, Python and all pages on some sets of ids; what reads also in an outage."""

    @settings(max_examples=examples, phases=[Phase.explicit, Phase.generate], deadline=None)
    @example(others=["exp-20"], name="exp-2", way=PRUNED)
    @example(others=["exp-20"], name="exp-2", way=ELSEWHERE)
    @example(others=["exp-2", "exp-2.2", "exp-2.3"], name="exp", way=NOWHERE)
    @given(
        others=st.lists(st.sampled_from(IDS), min_size=1, unique=True),
        name=st.sampled_from(IDS),
        way=st.sampled_from([PRUNED, ELSEWHERE, NOWHERE]),
    )
    def check(others: list[str], name: str, way: str) -> None:
        cli, store = make()
        world = World(cli, store, sorted(others), name, way)
        world.check_page(Web(cli, capsys))
        world.check_python()
        for command, actions in _commands().items():
            world.check_command(command)
            if not actions[0].help.startswith(JOB_HELP):
                continue
            if command in ("status", "tasks", "failures", "results", "events"):
                world.check_command(command, "--offline")
            if outage is not None:
                with outage:
                    world.check_outage(command)

    check()


def test_an_exact_id_wins_across_a_network(
    machines: Machines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[VersionedStore] = []
    line = mock.Mock(down=False)

    def opened(_url: str, _env: object, **_options: object) -> LineStore:
        store = LineStore(current[-1])
        store.down = line.down
        return store

    monkeypatch.setattr("mopsjobs.store.open_store", opened)

    def make() -> tuple[Cli, VersionedStore]:
        current.append(InMemoryVersionedStore())
        return machines(MOPS_JOBS_REGISTRY=REMOTE_URL), current[-1]

    _try(make, capsys, 8, mock.patch.object(line, "down", new=True))


def test_an_exact_id_wins_in_an_embedded_registry(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> tuple[Cli, VersionedStore]:
        cli = machines()
        return cli, open_store(cli.env["MOPS_JOBS_REGISTRY"], {})

    _try(make, capsys, 4)
