"""Samplers that mops-jobs does not have: scipy's differential evolution, pymoo's NSGA-II and pyABC's ABC-SMC.

Name one as `"sampler": "samplers:NSGA2"`. Its options are arguments of scipy's function, or of the class.
"""

from __future__ import annotations

import queue
import random
import tempfile
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


class ABCSMC:
    """Approximate Bayesian computation by pyABC. The objective is the distance, and the bounds are a flat prior.

    `mops-jobs calibrate spec.json --auto --then draws=100 study.json` runs the model on draws from the posterior.
    """

    def __init__(self, space: Any, seed: int, generations: int = 5, **options: Any) -> None:
        self._space, self._seed, self._generations, self._options = space, seed, generations, options
        self._points, self._values = queue.Queue(), queue.Queue()
        self._next: list[Any] | None = None
        self._size = 0
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Return the next proposals, of which a generation takes as many rounds as it needs."""
        if not self._size:
            self._size = n
            threading.Thread(target=self._run, daemon=True).start()
            self._next = self._await()
        return [self._space.at([point[name] for name in self._space]) for point in self._next or []]

    def tell(self, results: list[Any]) -> None:
        """Give the distances; a set that failed is never accepted."""
        self._values.put([np.inf if one.failed else one.value for one in results])
        self._next = self._await()

    def finished(self) -> bool:
        """Return whether all generations have ended."""
        return self._size > 0 and self._next is None

    def posterior(self, n: int) -> list[dict[str, Any]]:
        """Return draws from the last generation that has ended, by the weights of its particles."""
        particles, weights = self._abc.history.get_distribution()
        chosen = np.random.default_rng(self._seed).choice(len(particles), n, p=weights / weights.sum())
        return [self._space.at(particles.iloc[place][list(self._space)]) for place in chosen]

    def _await(self) -> list[Any] | None:
        asked = self._points.get()
        if isinstance(asked, Exception):
            raise asked
        return asked

    def _run(self) -> None:
        try:
            self._search()
            self._points.put(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the sampler is asked
            self._points.put(error)

    def _search(self) -> None:
        import pyabc

        random.seed(self._seed)
        np.random.seed(self._seed)  # noqa: NPY002 - pyABC draws from it
        batch = self._batch

        class Rounds(pyabc.sampler.Sampler):
            """Proposals in rounds. Those that come first count, whichever were accepted."""

            def sample_until_n_accepted(self, n: int, simulate_one: Any, t: int, **_: Any) -> Any:
                sample, self.nr_evaluations_ = self._create_empty_sample(), 0
                while sample.n_accepted < n:
                    for particle in batch(simulate_one):
                        self.nr_evaluations_ += 1
                        if sample.n_accepted < n:
                            sample.append(particle)
                return sample

        prior = pyabc.Distribution(**{name: pyabc.RV("uniform", 0, 1) for name in self._space})
        self._abc = pyabc.ABCSMC(
            _Proposal.distance, prior, lambda simulated, _: simulated["distance"], sampler=Rounds(), **self._options
        )
        self._abc.new(f"sqlite:///{self._directory.name}/abc.db", {"distance": 0.0})
        self._abc.run(max_nr_populations=self._generations)

    def _batch(self, simulate_one: Any) -> list[Any]:
        """Run proposals up to their simulation, one after the other, and go on once all distances are known."""
        proposals = [_Proposal(simulate_one) for _ in range(self._size)]
        self._points.put([one.begin() for one in proposals])
        return [one.go_on(value) for one, value in zip(proposals, self._values.get(), strict=True)]


class _Proposal(threading.Thread):
    """A proposal of pyABC. Only one of them computes at a time, so that random numbers are the same each time."""

    def __init__(self, simulate_one: Any) -> None:
        super().__init__(daemon=True)
        self._simulate, self.asked, self.value = simulate_one, queue.Queue(), queue.Queue()

    def run(self) -> None:
        self.asked.put(self._simulate())

    def begin(self) -> Any:
        self.start()
        return self.asked.get()

    def go_on(self, value: float) -> Any:
        self.value.put(value)
        return self.asked.get()

    @staticmethod
    def distance(point: Any) -> dict[str, float]:
        """Stand for the model: ask for a point, and wait for its distance."""
        proposal: Any = threading.current_thread()
        proposal.asked.put(point)
        return {"distance": proposal.value.get()}
