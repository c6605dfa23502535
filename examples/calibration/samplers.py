"""Samplers that mops-jobs does not have: scipy's differential evolution and pymoo's NSGA-II, a generation per round.

Name one as `"sampler": "samplers:NSGA2"`. Its options are arguments of scipy's function or pymoo's class.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
from scipy.optimize import differential_evolution


class DifferentialEvolution:
    """The function of scipy calls back for the values of a generation. It waits in a thread until they are told."""

    def __init__(self, space: Any, seed: int, **options: Any) -> None:
        self._space, self._points, self._values = space, queue.Queue(), queue.Queue()
        options = {"bounds": [(0, 1)] * len(space), "rng": seed, "maxiter": 10**6, "tol": 0, **options}
        threading.Thread(target=self._search, args=(options,), daemon=True).start()
        self._next = self._points.get()

    def _search(self, options: dict[str, Any]) -> None:
        differential_evolution(self._evaluate, vectorized=True, updating="deferred", polish=False, **options)
        self._points.put(None)

    def _evaluate(self, points: np.ndarray) -> np.ndarray:
        self._points.put(points.T)
        return self._values.get()

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next generation, whatever its size: `popsize` times the number of parameters."""
        return [self._space.at(point) for point in self._next]

    def tell(self, results: list[Any]) -> None:
        """Give the values of the generation; a set that failed is worse than all others."""
        self._values.put(np.array([np.inf if one.failed else one.value for one in results]))
        self._next = self._points.get()

    def finished(self) -> bool:
        """Return whether there is no further generation."""
        return self._next is None


class NSGA2:
    """Several objectives by pymoo, which has `ask` and `tell` itself."""

    def __init__(self, space: Any, seed: int, objectives: int = 1, **options: Any) -> None:
        from pymoo.algorithms.moo import nsga2
        from pymoo.core.problem import Problem

        self._space, self._algorithm = space, nsga2.NSGA2(**options)
        self._problem = Problem(n_var=len(space), n_obj=objectives, xl=0, xu=1)
        self._algorithm.setup(self._problem, seed=seed)

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next generation, whatever its size: the option `pop_size`."""
        self._asked = self._algorithm.ask()
        return [self._space.at(point) for point in self._asked.get("X")]

    def tell(self, results: list[Any]) -> None:
        """Give the values of the generation; a set that failed is worse than all others."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        values = np.array([one.values or [np.inf] * self._problem.n_obj for one in results])
        Evaluator().eval(StaticProblem(self._problem, F=values), self._asked)
        self._algorithm.tell(infills=self._asked)
