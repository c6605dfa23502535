"""The coordinator of a calibration, over a growing job in memory and samplers in their own process."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.engines.model_process import SAMPLER_SOURCE
from mopsjobs.engines.sampler_script import Parameter, Random, Space
from mopsjobs.errors import JobBusyError, JobCancelledError, UsageError
from mopsjobs.registry.calibration_counts import calibration_text
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.calibration import Calibration
from mopsjobs.studies.journal import Journal, Told, counts_of, read_journal
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.precision import PRECISE, judge
from mopsjobs.studies.rounds import as_sets
from mopsjobs.submission.calibrating import Coordinator, SamplerProcess, sampler_setup
from support.calibrations import JobInMemory, archive, read_back, run_in_memory, simulate, spec
from support.docs import ROOT
from support.runs import is_alive, until

RECIPES = (ROOT / "examples" / "calibration" / "samplers.py").read_text(encoding="utf-8")

SAMPLERS: list[Any] = [
    pytest.param({"sampler": "random"}, id="random"),
    pytest.param({"sampler": "latin-hypercube"}, id="latin-hypercube"),
    pytest.param({"sampler": "sobol"}, id="sobol"),
    pytest.param({"sampler": "optuna"}, id="TPE"),
    pytest.param({"sampler": "optuna", "options": {"sampler": "CmaEsSampler"}}, id="CMA-ES"),
    pytest.param({"sampler": "samplers:DifferentialEvolution", "options": {"popsize": 2}}, id="evolution"),
]


def _cut(journal: Journal, rounds: int) -> Journal:
    """Return a journal whose last round was asked, and not told."""
    kept = [*journal.rounds[: rounds - 1], journal.rounds[rounds - 1]._replace(told=None)]
    return dataclasses.replace(journal, rounds=tuple(kept), stored=rounds)


@pytest.mark.parametrize("choice", SAMPLERS)
def test_a_sampler_goes_on_from_its_journal(choice: dict[str, Any]) -> None:
    """Rebuilt from a journal whose last round was not told, it asks for what it would have asked for undisturbed."""
    calibration = spec(**choice)
    whole, first, warnings = run_in_memory(calibration, {"samplers.py": RECIPES})
    again, second, more_warnings = run_in_memory(calibration, {"samplers.py": RECIPES}, _cut(whole, 3))
    assert again == whole
    assert second.values == {key: first.values[key] for key in sorted(first.values)[2:]}
    assert (warnings, more_warnings, first.is_over, whole.rounds_done) == ([], [], True, 6)
    assert whole.best is not None
    assert all(calibration.parameters[name].has(value) for name, value in whole.best.params.items())


def test_a_set_with_a_failed_replicate_is_told_as_failed() -> None:
    """Its value is null in the journal, with the type of the error and the replicates that have outputs."""

    def model(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return simulate({**params, "d": "bad" if params["d"] == "bad" and seed == 1 else "good"}, seed)

    journal, job, _ = run_in_memory(spec(n_replicates=3), model=model)
    told = {one.params["d"]: one.told for one in journal.evaluations()}
    assert told["bad"] == Told(None, 2, error="ValueError")
    assert told["good"].values is not None
    results = [row for value in job.values.values() for row in json.loads(value)["results"]]
    assert {"values": None, "n": 2, "error": "ValueError"} in results


@pytest.mark.parametrize("objective", ["loss", "model:loss", {"loss": {"observed": 0, "sd": 2}}])
def test_each_form_of_an_objective_gives_a_value(objective: object) -> None:
    """A scalar is averaged over the replicates, a function gets them all, and distances are squared."""
    code = {"model.py": "def loss(params, tasks):\n    return sum(t.json()['loss'] for t in tasks) / len(tasks)\n"}
    journal, _, _ = run_in_memory(spec(objective=objective, n_replicates=2), code)
    one = next(one for one in journal.evaluations() if one.told.values is not None)
    mean = sum(simulate(one.params, seed)["loss"] for seed in (0, 1)) / 2
    assert one.told.value == pytest.approx(mean if isinstance(objective, str) else (mean / 2) ** 2)
    assert (one.told.half_width is None) is (objective == "model:loss")


def test_several_objectives_have_a_front_and_no_half_width() -> None:
    """The values are told in the order of the objectives; no evaluation of the front beats another one."""
    journal, _, _ = run_in_memory(spec(objective=["loss", "cost"], sampler="optuna"))
    front = [one.told.values for one in journal.front()]
    assert front
    assert all(one.told.half_width is None for one in journal.evaluations())
    pairs = [values for values in front if values is not None]
    assert not any(a[0] < b[0] and a[1] < b[1] for a in pairs for b in pairs)


def test_the_script_runs_in_python_3_8() -> None:
    """In its grammar; a model may have an old interpreter."""
    assert ast.parse(SAMPLER_SOURCE, feature_version=(3, 8))


def test_an_objective_without_a_finite_value_has_failed() -> None:
    """A NaN of a function, or an error of it, is a failure of the evaluation, not of the calibration."""
    code = {"model.py": "def loss(params, tasks):\n    return 1 / 0 if params['a'] > 1 else float('nan')\n"}
    journal, _, warnings = run_in_memory(spec(objective="model:loss", rounds=2), code)
    assert warnings == ["The objective fails: ZeroDivisionError: division by zero (at model.py:2)"]
    assert {one.told.error for one in journal.evaluations()} == {"NoValue", "ZeroDivisionError", "ValueError"}
    assert (journal.rounds_done, journal.best) == (2, None)


@pytest.mark.parametrize("objective", ["los", ["cost", "los"], {"los": {"observed": 0, "sd": 1}}])
def test_a_scalar_that_no_task_leaves_ends_the_search_after_one_round(objective: object) -> None:
    """The error has the scalars that there are. A NaN is a value: such a search goes on."""
    calibration, job = spec(objective=objective), JobInMemory()
    with (
        SamplerProcess(sys.executable, archive({}), sampler_setup(calibration), {}) as sampler,
        pytest.raises(UsageError, match=r"names 'los', but no result has it. The numbers are: cost, loss\. Did you"),
    ):
        Coordinator(job, Journal(calibration, ()), sampler).run()
    assert (len(job.values), job.is_over) == (1, True)
    assert job.stopped is not None
    assert job.stopped.code == "TARGET"
    journal, _, _ = run_in_memory(spec(rounds=4), model=lambda _params, _seed: {"loss": math.nan})
    assert (journal.rounds_done, journal.best) == (4, None)


def test_a_search_without_a_value_ends_after_some_sets() -> None:
    """The error tells how many sets have none, and the first reason: of a task, or that the value is not finite."""

    def fail(_params: Mapping[str, Any], _seed: int) -> dict[str, Any]:
        raise ValueError("as asked")

    for model, why in ((fail, "ValueError: as asked"), (lambda _params, _seed: {"loss": math.nan}, "it is not finite")):
        with pytest.raises(UsageError, match=f"None of the first 20 sets has a value: {why}"):
            run_in_memory(spec(), model=model)


UNTIL = {"min": 4, "max": 12, "until": {"loss": {"absolute": 0.5}}}


def noisy(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a result whose noise grows with `c`: sets get 4 replicates, more, or 12 that are not precise enough."""
    if params["d"] == "bad" and seed % 3 == 0:
        raise ValueError("as asked")
    return {"loss": params["a"] ** 2 + params["c"] * (seed * 7919 % 101) / 101}


def test_a_precision_decides_the_replicates_of_each_set() -> None:
    """By the rule of adaptive studies. A failed replicate and the largest number prevent "precise", and are told."""
    calibration = spec(n_replicates=UNTIL, sampler="optuna")
    journal, job, _ = run_in_memory(calibration, model=noisy)
    told = [one.told for one in journal.evaluations()]
    for one in journal.evaluations():
        (params,) = as_sets([{"params": one.params}])
        seeds = [*range(4), *(calibration.study.seed_of(params, number) for number in range(4, 12))]
        scalars = [noisy(one.params, seed) if one.told.values is not None else None for seed in seeds]
        verdict = judge(calibration.study.precision, scalars)  # type: ignore[arg-type]
        if one.told.values is not None:
            assert (one.told.n, one.told.precise) == (verdict.n, verdict.verdict == PRECISE)
    assert {one.precise for one in told} == {True, False, None}
    assert {one.n for one in told if one.precise is False} == {12}
    assert {one.precise for one in told if one.error} == {None}
    assert sum(len(numbers) for one in journal.rounds for numbers in one.tasks) == len(job.tasks)
    counts = counts_of(journal)
    assert counts["not_precise"] == sum(one.precise is False for one in told)
    assert f"failed (ValueError), {counts['not_precise']} not precise; best" in calibration_text(counts)


def _asked(journal: Journal) -> list[object]:
    return [one.sets for one in sorted(journal.rounds, key=lambda one: one.number)]


class RandomHere:
    """The sampler `random` without a process, which tests that begin it often would wait for."""

    def __init__(self, calibration: Calibration) -> None:
        space = {name: Parameter(one.kind, tuple(one.bounds)) for name, one in calibration.parameters.items()}
        self._sampler = Random(Space(space), calibration.seed)

    def ask(self, count: int) -> list[dict[str, Any]]:
        return self._sampler.ask(count)

    def tell(self, _results: object) -> bool:
        return False

    def judge(self, _params: object, _tasks: object) -> float:
        raise NotImplementedError

    def draw(self, _count: int) -> list[dict[str, Any]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"n_replicates": UNTIL}, id="synchronous"),
        pytest.param({"mode": "asynchronous"}, id="asynchronous"),
        pytest.param({"mode": "asynchronous", "n_replicates": UNTIL}, id="asynchronous-until"),
    ],
)
def test_a_client_goes_on_from_any_object_of_the_journal(choice: dict[str, Any]) -> None:
    """Wherever another one was killed, the sampler asks what it has asked, and each set is told once.

    In synchronous mode the journal is the same in the end. In asynchronous mode, what was stored before stays.
    """
    calibration = spec(sampler="random", rounds=2, **choice)
    whole, first, _ = run_in_memory(calibration, model=noisy)
    for count in range(len(first.written) + 1):
        journal, job = read_back(calibration, first.written[:count], noisy)
        warnings: list[str] = []
        again = Coordinator(job, journal, RandomHere(calibration), warnings.append).run()
        assert (warnings, again.rounds_done, len(list(again.evaluations()))) == ([], whole.rounds_done, 8)
        assert job.written[:count] == first.written[:count]
        assert _asked(again) == _asked(whole)
        if not calibration.is_asynchronous:
            assert job.written == first.written


def test_an_asynchronous_calibration_is_extended_as_it_was_told() -> None:
    """The sampler is asked and told in the order of the journal, so it asks for what comes after that."""
    calibration = spec(sampler="random", mode="asynchronous", rounds=2)
    short = Coordinator(JobInMemory(), Journal(calibration, ()), RandomHere(calibration)).run()
    longer = spec(sampler="random", mode="asynchronous", rounds=3)
    inherited = dataclasses.replace(short, calibration=longer, inherited=8, stored=0)
    warnings: list[str] = []
    job = JobInMemory(job_id="seir-2")
    whole = Coordinator(job, inherited, RandomHere(longer), warnings.append, [True] * 8).run()
    drawn = RandomHere(longer).ask(12)
    assert (warnings, whole.rounds_done) == ([], 12)
    asked = [one for one in whole.rounds if one.job_id == "seir-2"]
    assert [one.sets[0] for one in sorted(asked, key=lambda one: one.number)] == drawn[8:]


def test_an_extension_of_a_cut_asynchronous_calibration_does_not_warn() -> None:
    """Wherever that was cut, sets that were never told are asked for as before, so the sampler goes on as it was."""
    calibration, longer = (spec(sampler="random", mode="asynchronous", rounds=rounds) for rounds in (2, 3))
    _, first, _ = run_in_memory(calibration)
    for count in range(len(first.written) + 1):
        store = InMemoryVersionedStore()
        read_back(calibration, first.written[:count], simulate, store)
        manifest = Manifest(
            job_id="seir-1", study=calibration.first_study, bundle=f"sha256:{'0' * 64}", engine="local", owner="ada",
            labels={}, grows=3600.0, calibration={"spec": calibration.to_dict()},
        )  # fmt: skip
        store.create_if_absent(manifest_key("seir-1"), manifest.to_json())
        extension = {"spec": longer.to_dict(), "extends": "seir-1"}
        journal = read_journal(store, dataclasses.replace(manifest, job_id="seir-2", calibration=extension))
        assert journal is not None
        warnings: list[str] = []
        job, replays = JobInMemory(job_id="seir-2"), [True] * journal.inherited
        whole = Coordinator(job, journal, RandomHere(longer), warnings.append, replays).run()
        assert (count, warnings, whole.rounds_done) == (count, [], 12)


def test_a_worker_waits_for_no_other_set_in_asynchronous_mode() -> None:
    """As soon as one set has ended, it is told and the next one asked. The journal has what was told in this order."""
    calibration = spec(sampler="optuna", mode="asynchronous")
    journal, job, _ = run_in_memory(calibration)
    kinds = ["told" if "told" in key else "asked" for key, _ in job.written]
    assert kinds == ["asked"] * 4 + ["told", "asked"] * 20 + ["told"] * 4
    assert [json.loads(value)["round"] for key, value in job.written if "told" in key][:3] == [4, 3, 2]
    assert [one.number for one in journal.rounds][:3] == [4, 3, 2]
    assert "24 of 24 sets, " in calibration_text(counts_of(journal))
    assert "asynchronous: the order in which sets end decides what is asked" in calibration_text(counts_of(journal))


def test_the_search_stops_below_a_value() -> None:
    """The round that reaches it is the last one."""
    journal, job, _ = run_in_memory(spec(rounds=50, stop_below=9.0))
    assert job.is_over
    assert journal.rounds_done < 50
    values = [one.value for one in journal.rounds[-1].told or () if one.value is not None]
    assert min(values) < 9


CUSTOM = """
class Own:
    def __init__(self, space, seed, step=1, told=0):
        self.space, self.step, self.told = space, step, told
    def ask(self, n):
        return [self.space.at([self.step / 10] * 4)] if self.told < 3 else []
    def tell(self, results):
        self.told += len(results)
    def finished(self):
        return self.told >= 3

class Gest:
    def __init__(self, space, seed):
        self.space, self.points = space, []
    def suggest(self, num_points):
        return [self.space.at([len(self.points) / 10] * 4)]
    def ingest(self, points):
        self.points += points
        assert set(points[0]) == {"a", "b", "c", "d", "value"}

class Other(Own):
    def __init__(self, space, seed):
        super().__init__(space, seed, step=__import__("os").getpid() % 7)

def outside(space, seed):
    sampler = Own(space, seed)
    sampler.ask = lambda n: [{"a": 9, "b": 1, "c": 0, "d": "good"}]
    return sampler
"""


def test_a_sampler_of_the_models_code_may_finish_early() -> None:
    """It has its options, returns fewer sets than it was asked for, and ends the calibration."""
    journal, job, _ = run_in_memory(spec(sampler="own:Own", options={"step": 5}), {"own.py": CUSTOM})
    assert [one.params["a"] for one in journal.evaluations()] == [0.0, 0.0, 0.0]
    assert (job.is_over, journal.rounds_done) == (True, 3)


def test_a_generator_of_gest_api_is_asked_in_its_words() -> None:
    """`suggest` and `ingest` stand in place of `ask` and `tell`."""
    journal, _, _ = run_in_memory(spec(sampler="own:Gest"), {"own.py": CUSTOM})
    assert [one.params["a"] for one in journal.evaluations()] == pytest.approx([-5, -4, -3, -2, -1, 0])


CONTRACTS = """
import enum, typing

class TrialStatus(str, enum.Enum):
    COMPLETED = "completed"
    FAILED = "failed"

class TrialResult(typing.NamedTuple):
    param_id: str
    loss: float
    status: TrialStatus
"""
"""The public names of modelops-contracts that an algorithm is told its results by."""

ALGORITHM = """
import math, types
from modelops_contracts import TrialResult, TrialStatus

class Algorithm:
    def __init__(self, space, seed):
        self.space, self.told = space, {}
    def ask(self, n):
        sets = [self.space.at([number / 10 + 0.1] * 4) for number in range(len(self.told), len(self.told) + n)]
        return [types.SimpleNamespace(param_id=f"id-{len(self.told) + n}", params=one) for n, one in enumerate(sets)]
    def tell(self, results):
        assert all(isinstance(one, TrialResult) for one in results)
        assert all((one.status == TrialStatus.FAILED) == (one.loss == math.inf) for one in results)
        self.told.update((one.param_id, one.loss) for one in results)
    def finished(self):
        return sorted(self.told) == [f"id-{number}" for number in range(8)]
"""


def test_an_algorithm_of_modelops_is_told_its_own_results() -> None:
    """Those of modelops-contracts, by the ids of the parameter sets that it asked for."""
    code = {"modelops_contracts.py": CONTRACTS, "own.py": ALGORITHM}
    journal, job, warnings = run_in_memory(spec(sampler="own:Algorithm"), code)
    assert (journal.rounds_done, job.is_over, warnings) == (2, True, [])
    assert {one.told.error for one in journal.evaluations()} == {None, "ValueError"}


def test_a_set_out_of_bounds_ends_the_calibration() -> None:
    """The error names the parameter, its value and where it is searched."""
    with pytest.raises(ModelError, match=r"asks for a = 9: expected \{'uniform': \[-5, 5\]\}"):
        run_in_memory(spec(sampler="own:outside"), {"own.py": CUSTOM})


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("own:Missing", "AttributeError"),
        ("missing:Own", "ModuleNotFoundError"),
    ],
)
def test_a_sampler_that_cannot_be_loaded_is_named(sampler: str, message: str) -> None:
    """Nothing is asked for before."""
    with pytest.raises(ModelError, match=f"sampler cannot be loaded: {message}"):
        run_in_memory(spec(sampler=sampler), {"own.py": CUSTOM})


def test_a_sampler_that_asks_otherwise_is_told_the_journal() -> None:
    """One warning says so, and the rounds of the journal stay as they are."""
    calibration = spec(sampler="random")
    whole, _, _ = run_in_memory(calibration)
    other = spec(sampler="random", seed=2)
    journal = dataclasses.replace(_cut(whole, 3), calibration=other)
    again, _, warnings = run_in_memory(other, None, journal)
    assert [one.sets for one in again.rounds[:3]] == [one.sets for one in whole.rounds[:3]]
    assert again.rounds[3].sets != whole.rounds[3].sets
    assert len(warnings) == 1
    assert "asks for other sets than in round 1 of seir-1" in warnings[0]


def test_an_extension_is_a_longer_run_and_a_fork_learns() -> None:
    """Inherited rounds are replayed for the same sampler, and told alone to another one, which asks for new sets."""
    whole, _, _ = run_in_memory(spec(sampler="optuna"))
    short, _, _ = run_in_memory(spec(sampler="optuna", rounds=3))
    inherited = dataclasses.replace(short, calibration=whole.calibration, inherited=3, stored=0)
    longer, job, _ = run_in_memory(whole.calibration, None, inherited, replays=[True] * 3)
    assert [one.sets for one in longer.rounds] == [one.sets for one in whole.rounds]
    assert (len(job.tasks), longer.rounds_done) == (12, 6)
    fork = dataclasses.replace(short, calibration=spec(sampler="sobol"), inherited=3, stored=0)
    forked, job, warnings = run_in_memory(fork.calibration, None, fork, replays=[False] * 3)
    assert (len(job.tasks), forked.rounds_done, warnings) == (12, 6, [])


def test_another_client_that_told_otherwise_is_an_error() -> None:
    """A value of the journal is never replaced."""
    job, calibration = JobInMemory(), spec(sampler="random")
    job.values = dict.fromkeys((f"rounds/seir-1/{n:06d}.told.json" for n in range(1, 7)), b'{"version":1,"results":[]}')

    class Fixed:
        def ask(self, count: int) -> list[dict[str, Any]]:
            return [{"a": 0, "b": 1, "c": 0, "d": "good"}] * count

    with pytest.raises(JobBusyError, match="Another client has told other values of seir-1"):
        Coordinator(job, Journal(calibration, ()), Fixed()).run()  # type: ignore[arg-type]


def test_counts_are_noted_before_the_first_round_and_after_each() -> None:
    """So the record has them while a round runs, and a client that goes on notes what a killed one has not."""
    noted: list[dict[str, Any]] = []
    whole, _, _ = run_in_memory(spec(rounds=3), note=noted.append)
    assert [one["rounds"] for one in noted] == [0, 1, 2, 3]
    assert noted[-1] == counts_of(whole)
    again: list[dict[str, Any]] = []
    run_in_memory(spec(rounds=3), None, whole, note=again.append)
    assert again == [counts_of(whole)]


HELD = """
import os, threading, time

class Own:
    def __init__(self, space, seed, note):
        threading.Thread(target=time.sleep, args=(600,)).start()
        with open(note, "w") as file:
            file.write(str(os.getpid()))
"""


def test_a_sampler_ends_with_a_coordinator_that_was_killed(tmp_path: Path) -> None:
    """Also one that thinks, or has a thread of its own. It removes the files that the coordinator has left."""
    note, code = tmp_path / "pid", tmp_path / "code.tgz"
    code.write_bytes(archive({"own.py": HELD}))
    setup = sampler_setup(spec(sampler="own:Own", options={"note": str(note)}))
    program = (
        "import os, pathlib, sys; from mopsjobs.submission.calibrating import SamplerProcess\n"
        f"SamplerProcess(sys.executable, pathlib.Path({str(code)!r}).read_bytes(), {setup!r}, {{}})\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env={"TMPDIR": str(tmp_path)}, check=False)
    until(lambda: not is_alive(int(note.read_text())), "the sampler to end")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.tgz", "pid"]


def test_a_set_whose_model_diverges_has_failed() -> None:
    """Its squared distance from what was observed is beyond every float. The search goes on with the others."""

    def model(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {"loss": 1e200 if params["d"] == "bad" else 1.0}

    journal, _, _ = run_in_memory(spec(objective={"loss": {"observed": 0, "sd": 2}}, n_replicates=2), model=model)
    told = {one.params["d"]: one.told for one in journal.evaluations()}
    assert told["bad"] == Told(None, 2, error="NoValue")
    assert told["good"] == Told((0.25,), 2, 0.0)


def test_a_function_that_fails_for_each_set_ends_the_search() -> None:
    code = {"model.py": "def wrong(params, tasks):\n    1 / 0\n"}
    calibration, job = spec(objective="model:wrong"), JobInMemory()
    with (
        SamplerProcess(sys.executable, archive(code), sampler_setup(calibration), {}) as sampler,
        pytest.raises(UsageError, match=r"The objective fails: ZeroDivisionError: division by zero \(at model.py:2\)"),
    ):
        Coordinator(job, Journal(calibration, ()), sampler).run()
    assert job.stopped is not None
    assert job.stopped.code == "TARGET"


def test_a_scalar_of_a_precision_that_no_task_leaves_ends_the_search() -> None:
    """As one of the objective does."""
    until = {**UNTIL, "until": {"los": {"absolute": 0.5}}}
    with pytest.raises(UsageError, match=r"n_replicates.until names 'los', but no result has it. The numbers are: lo"):
        run_in_memory(spec(n_replicates=until), model=noisy)


def test_an_extension_asks_for_no_more_sets_than_its_budget_has() -> None:
    """An earlier calibration may have ended within a round: fewer sets than its size are left."""
    calibration = spec(sampler="random", mode="asynchronous", rounds=2)
    short = Coordinator(JobInMemory(), Journal(calibration, ()), RandomHere(calibration)).run()
    inherited = dataclasses.replace(short, rounds=short.rounds[:6], inherited=6, stored=0)
    whole = Coordinator(JobInMemory(job_id="seir-2"), inherited, RandomHere(calibration), replays=[True] * 6).run()
    assert (whole.rounds_done, whole.rounds_planned) == (8, 8)


class Growing(InMemoryVersionedStore):
    """A store whose calibration goes on while it is read."""

    def __init__(self, left: Iterable[tuple[str, bytes]]) -> None:
        super().__init__()
        self._left = iter(left)

    def scan(self, prefix: str) -> Iterator[Any]:
        """List, and have the next objects stored after that."""
        yield from list(super().scan(prefix))
        for key, value in itertools.islice(self._left, 5):
            self.create_if_absent(key, value)


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
def test_a_journal_that_grows_while_it_is_read_is_whole(mode: str) -> None:
    """Each set that was told is in it with its round."""
    calibration = spec(sampler="random", mode=mode)
    job = JobInMemory()
    Coordinator(job, Journal(calibration, ()), RandomHere(calibration)).run()
    store = Growing(job.written)
    done = [read_back(calibration, (), simulate, store)[0].rounds_done for _ in range(20)]
    assert done == sorted(done)
    assert done[-1] == calibration.most_rounds


def test_a_sampler_that_asks_for_nothing_has_failed() -> None:
    code = {"own.py": CUSTOM + "\ndef empty(space, seed):\n    return Own(space, seed, 1, 3)\n"}
    with pytest.raises(ModelError, match="The sampler asks for no set in the first round"):
        run_in_memory(spec(sampler="own:empty"), code)


def test_the_processs_files_are_gone_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code lies in a directory of its own, which is removed, also if the sampler cannot be loaded."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_in_memory(spec(rounds=1))
    with pytest.raises(ModelError):
        run_in_memory(spec(sampler="own:Missing"))
    assert list(tmp_path.iterdir()) == []


def test_a_client_whose_job_was_cancelled_notes_what_it_has_told() -> None:
    """So the record has as many sets as the journal, also between whole rounds of asynchronous mode."""
    noted: list[dict[str, Any]] = []
    calibration, job = spec(mode="asynchronous"), JobInMemory()
    store = job.add

    def add(sets: Sequence[Mapping[str, Any]], replicates: int | None = None) -> range:
        if len(job.values) == 3:
            raise JobCancelledError("cancelled", job_id=job.job_id, status="cancelled")
        return store(sets, replicates)

    job.add = add  # type: ignore[method-assign]
    with (
        SamplerProcess(sys.executable, archive({}), sampler_setup(calibration), {}) as sampler,
        pytest.raises(JobCancelledError),
    ):
        Coordinator(job, Journal(calibration, ()), sampler, note=noted.append).run()
    assert [one["sets"] for one in noted] == [0, 3]
