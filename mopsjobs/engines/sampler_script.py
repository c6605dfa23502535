"""The script that runs the sampler and the objective of a calibration in the model's own interpreter.

Like engines/worker.py and engines/reduce_script.py, which lie beside it, it may be started by a Python as old as 3.8.
It reads JSON lines, and answers each with one:

    <- {"root": DIR, "sampler": NAME, "space": {NAME: [KIND, [BOUND, ...]]}, "seed": N, "options": {...},
        "objectives": N, "function": "MODULE:FUNCTION" | null, "target": "MODULE:FUNCTION" | null}
    -> {"ready": true, "posterior": true | false}
    <- {"ask": N}                  -> {"sets": [{NAME: VALUE, ...}, ...]}
    <- {"tell": [[{NAME: VALUE, ...}, [VALUE, ...] | null, N, HALF_WIDTH | null], ...]}
                                   -> {"finished": true | false}
    <- {"params": {...}, "tasks": [{"task": N, "params": {...}, "param_id": ID, "seed": N, "outputs": {...}}, ...]}
                                   -> {"value": VALUE}
    <- {"posterior": N}            -> {"sets": [{NAME: VALUE, ...}, ...]}

An error of the model's code is `{"broken": {"type", "message", "traceback"}}`. One of the objective is the value's.

A sampler is an object with `ask(n)`, `tell(results)` and maybe `finished()`, as ModelOps' AdaptiveAlgorithm. It may
have `suggest(n)` and `ingest(points)` in their place, as generators of gest-api have. If it has `posterior(n)`, this
returns draws from the posterior distribution. Its factory is called as `factory(space, seed=seed, **options)`, with
`objectives=n` if there are several.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import math
import os
import random
import sys
import threading
import warnings
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

PARTS = ("worker", "reduce_script")


class Parameter(NamedTuple):
    """A parameter of the space of a sampler."""

    kind: str
    """`uniform`, `log`, `integer` or `choice`."""
    bounds: tuple[Any, ...]
    """The lowest and the highest value; all values of a choice."""

    def at(self, place: float) -> Any:
        """Return the value at a place from 0 to 1."""
        if self.kind in ("choice", "integer"):
            first = 0 if self.kind == "choice" else self.bounds[0]
            count = len(self.bounds) if self.kind == "choice" else self.bounds[1] - first + 1
            number = first + min(int(place * count), count - 1)
            return self.bounds[number] if self.kind == "choice" else number
        low, high = map(math.log, self.bounds) if self.kind == "log" else self.bounds
        value = low + (high - low) * place
        value = math.exp(value) if self.kind == "log" else value
        return min(max(float(value), self.bounds[0]), self.bounds[1])


class Space(dict):  # type: ignore[type-arg] # Python 3.8 has no generic one
    """The parameters by their names."""

    def at(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the parameter set at a point of the unit cube."""
        return {name: one.at(float(place)) for (name, one), place in zip(self.items(), point)}  # noqa: B905 - 3.8


class Result(NamedTuple):
    """A parameter set that was asked for, and what came of it."""

    params: dict[str, Any]
    values: list[float] | None
    """The value of each objective; None if the evaluation failed."""
    n: int
    """The replicates that have outputs."""
    half_width: float | None
    """Half of the 95 % confidence interval of a single objective, if it is known."""

    @property
    def value(self) -> float | None:
        """Return the value of the first objective; None if the evaluation failed."""
        return None if self.values is None else self.values[0]

    @property
    def failed(self) -> bool:
        """Return whether there is no value."""
        return self.values is None


class Random:
    """Independent draws."""

    def __init__(self, space: Space, seed: int, objectives: int = 1) -> None:
        self._space, self._draw = space, random.Random(seed)  # noqa: S311 - the same sets each time

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next sets."""
        return [self._space.at([self._draw.random() for _ in self._space]) for _ in range(n)]

    def tell(self, results: list[Result]) -> None:
        """Learn nothing."""


class LatinHypercube(Random):
    """Draws of which each round has one in each of n parts of a parameter's range."""

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the sets of the next round."""
        columns = []
        for _ in self._space:
            column = [(place + self._draw.random()) / n for place in range(n)]
            self._draw.shuffle(column)
            columns.append(column)
        return [self._space.at(point) for point in zip(*columns)]  # noqa: B905 - Python 3.8


class Sobol(Random):
    """A scrambled Sobol sequence, by scipy."""

    def __init__(self, space: Space, seed: int, objectives: int = 1, **options: Any) -> None:
        super().__init__(space, seed)
        self._sequence = importlib.import_module("scipy.stats.qmc").Sobol(len(space), seed=seed, **options)

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next sets."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other numbers than powers of 2
            return [self._space.at(point) for point in self._sequence.random(n)]


class Optuna:
    """A sampler of Optuna, by its name in `optuna.samplers`, with its arguments as options."""

    def __init__(
        self, space: Space, seed: int, objectives: int = 1, sampler: str = "TPESampler", **options: Any
    ) -> None:
        optuna: Any = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._optuna = optuna
        chosen = getattr(optuna.samplers, sampler)(seed=seed, **options)
        self._study = optuna.create_study(sampler=chosen, directions=["minimize"] * objectives)
        kinds = optuna.distributions
        self._distributions = {
            name: kinds.CategoricalDistribution(one.bounds)
            if one.kind == "choice"
            else kinds.IntDistribution(*one.bounds)
            if one.kind == "integer"
            else kinds.FloatDistribution(*one.bounds, log=one.kind == "log")
            for name, one in space.items()
        }
        self._asked: list[Any] = []

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the parameters of the next trials."""
        asked = [self._study.ask(self._distributions) for _ in range(n)]
        self._asked += asked
        return [trial.params for trial in asked]

    def tell(self, results: list[Result]) -> None:
        """Tell the ends of the trials. A set that was not asked here becomes a trial too."""
        states = self._optuna.trial.TrialState
        for result in results:
            state = states.FAIL if result.failed else states.COMPLETE
            place = next((n for n, trial in enumerate(self._asked) if trial.params == result.params), None)
            if place is not None:
                self._study.tell(self._asked.pop(place), result.values, state=state)
                continue
            trial = self._optuna.trial.create_trial(
                params=result.params, distributions=self._distributions, values=result.values, state=state
            )
            self._study.add_trial(trial)


BOX = {"random": Random, "latin-hypercube": LatinHypercube, "sobol": Sobol, "optuna": Optuna}


class Calibrator:
    """The sampler and the objective of a calibration."""

    def __init__(self, setup: dict[str, Any], worker: Any) -> None:
        self._worker = worker
        os.chdir(setup["root"])
        sys.path.insert(0, setup["root"])
        space = Space((name, Parameter(kind, tuple(bounds))) for name, (kind, bounds) in setup["space"].items())
        factory: Any = BOX.get(setup["sampler"])
        if factory is None:
            factory = self._function(setup["sampler"])
        several = {"objectives": setup["objectives"]} if setup["objectives"] > 1 else {}
        self._sampler = factory(space, seed=setup["seed"], **several, **setup["options"])
        self._is_gest = not hasattr(self._sampler, "ask")
        self._proposals: dict[str, Any] = {}
        """What an algorithm of ModelOps asked for, by parameters: it is told their ids."""
        self._judge: Callable[..., Any] | None = None
        if setup["function"] is not None:
            self._judge = self._function(setup["function"])
        elif setup["target"] is not None:
            target = self._function(setup["target"])()
            self._judge = lambda _params, tasks: target.evaluate([_tables(task) for task in tasks]).loss

    @property
    def has_posterior(self) -> bool:
        """Return whether the sampler has draws from the posterior distribution."""
        return callable(getattr(self._sampler, "posterior", None))

    def answer(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a line."""
        if "ask" in line:
            asked = self._sampler.suggest(line["ask"]) if self._is_gest else self._sampler.ask(line["ask"])
            return {"sets": [self._params_of(one) for one in asked]}
        if "posterior" in line:
            return {"sets": [self._params_of(one) for one in self._sampler.posterior(line["posterior"])]}
        if "tell" in line:
            self._tell([Result(*one) for one in line["tell"]])
            finished = getattr(self._sampler, "finished", None)
            return {"finished": bool(finished()) if callable(finished) else False}
        tasks = [sys.modules["mops_jobs_reduce_script"].TaskOutputs(task) for task in line["tasks"]]
        try:
            value = self._judge(line["params"], tasks) if self._judge else None
            return {"value": float(self._plain(value))}
        except Exception as error:  # noqa: BLE001 - it is the evaluation that has failed
            return {"broken": self._worker._error_fields(error, os.getcwd())}  # noqa: SLF001

    def _function(self, place: str) -> Any:
        module, _, name = place.partition(":")
        function = self._worker.at_work["function"] = getattr(importlib.import_module(module), name)
        return function

    def _plain(self, value: Any) -> Any:
        return value.tolist() if callable(getattr(value, "tolist", None)) else value

    def _params_of(self, asked: Any) -> dict[str, Any]:
        params = asked if isinstance(asked, dict) else dict(asked.params)
        plain = {name: self._plain(value) for name, value in params.items()}
        if asked is not params:
            self._proposals[json.dumps(plain, sort_keys=True)] = asked
        return plain

    def _tell(self, results: list[Result]) -> None:
        if self._is_gest:
            names = getattr(getattr(self._sampler, "vocs", None), "objective_names", None) or ["value"]
            self._sampler.ingest(
                [
                    {**one.params, **dict(zip(names, one.values or [math.nan] * len(names)))}  # noqa: B905 - 3.8
                    for one in results
                ]
            )
            return
        proposals = [self._proposals.pop(json.dumps(one.params, sort_keys=True), None) for one in results]
        if not any(proposals):
            self._sampler.tell(results)
            return
        contracts: Any = importlib.import_module("modelops_contracts")
        self._sampler.tell(
            [
                contracts.TrialResult(
                    param_id=proposal.param_id,
                    loss=math.inf if one.value is None else one.value,
                    status=contracts.TrialStatus.FAILED if one.failed else contracts.TrialStatus.COMPLETED,
                )
                for one, proposal in zip(results, proposals)  # noqa: B905 - Python 3.8
                if proposal is not None
            ]
        )


def _tables(task: Any) -> dict[str, Any]:
    """Return the tables of a task of ModelOps, as its targets take them."""
    polars = importlib.import_module("polars")
    return {name: polars.read_ipc(io.BytesIO(value)) for name, value in task.outputs.items() if name != "metadata"}


def _import_part(name: str) -> ModuleType:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec: Any = importlib.util.spec_from_file_location(f"mops_jobs_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Answer lines until the input ends."""
    worker: Any
    worker, _ = map(_import_part, PARTS)
    lines, answers = worker._take_over_streams()  # noqa: SLF001 - its other half
    own = os.path.dirname(os.path.abspath(__file__))
    reader = threading.Thread(target=worker._end_with_reader, args=(answers, own), daemon=True)  # noqa: SLF001
    reader.start()  # a sampler may think for hours, and have threads of its own
    setup = json.loads(lines.readline())
    try:
        calibrator = Calibrator(setup, worker)
        ready = {"ready": True, "posterior": calibrator.has_posterior}
        worker._write_answer(answers, ready)  # noqa: SLF001
        for line in lines:
            worker._write_answer(answers, calibrator.answer(json.loads(line)))  # noqa: SLF001
    except BaseException as error:  # noqa: BLE001 - the code of the model may raise anything
        worker._write_answer(answers, {"broken": worker._error_fields(error, setup["root"])})  # noqa: SLF001
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
