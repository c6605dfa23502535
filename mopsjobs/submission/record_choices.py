"""Choices that only the record makes for the next launch. Others may write it, so the user has to trust each choice."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping

from mopsjobs.engines import ENGINES
from mopsjobs.engines.base import recorded_launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.model_env import active_python
from mopsjobs.engines.slurm.options import SETUP_VARIABLE
from mopsjobs.engines.trust import Trust, choices_of, choices_of_last_launch
from mopsjobs.errors import EngineError, EnginePlaceError, shorten
from mopsjobs.registry.job_state import JobState
from mopsjobs.submission.launching import LaunchOptions, recorded_options
from mopsjobs.submission.session import Session


def record_choices(state: JobState, engine: str, options: LaunchOptions, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the choices that only the record makes for the next launch; see `engines.trust`.

    What options or defaults say too is left out, and what this machine has launched the job with. The interpreter of
    the local engine is not among them: `without_unknown_python` has a default for it.

    Args:
        state: the record.
        engine: the engine that it names, or the default.
        options: what the user asks for.
        env: the environment.

    Raises:
        EnginePlaceError: if the record names an unknown engine.
    """
    if engine not in ENGINES:
        raise EnginePlaceError(
            f"Job {state.job_id} cannot be resumed: its record names the engine '{shorten(engine, 100)}', expected"
            f" {', '.join(ENGINES)}."
        )
    recorded = recorded_launch(state.metadata, engine)
    known = set(choices_of_last_launch(JobDir.for_job(state.job_id, env)))
    found = [] if engine == "local" else [f"engine:{engine}"]
    if engine == "dask" and options.scheduler is None and "scheduler" in recorded:
        found.append(f"dask:{recorded['scheduler']}")
        known |= set(choices_of({"scheduler": env.get("DASK_SCHEDULER_ADDRESS")}))
    if engine == "kubernetes":
        values = recorded_options(engine, recorded, state.k8s_namespace)
        found += choices_of({name: value for name, value in values.items() if name not in options.cluster})
        known |= _defaults_of_cluster(env, options.cluster.get("context") or recorded.get("context"))
    if engine == "slurm":
        named = {*options.cluster, *(() if options.python is None else ("python",))}
        found += choices_of({name: value for name, value in recorded.items() if name not in named})
        known |= set(choices_of({"python": active_python(env), "setup": env.get(SETUP_VARIABLE)}))
    return tuple(choice for choice in found if choice not in known)


def _defaults_of_cluster(env: Mapping[str, str], context: str | None) -> set[str]:
    """Return the choices that a launch on Kubernetes makes without a record, in a context."""
    from mopsjobs.engines.kubernetes.client import current_place
    from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE
    from mopsjobs.engines.kubernetes.options import IMAGE_VARIABLE

    image, default_context = env.get(IMAGE_VARIABLE), env.get(CONTEXT_VARIABLE)
    found = choices_of({"image": image, "context": default_context})
    with contextlib.suppress(EngineError):  # the launch raises it again
        found += choices_of({"context": current_place(env)[0]})
    with contextlib.suppress(EngineError):
        found += choices_of({"namespace": current_place(env, context or default_context)[1]})
    return set(found)


def without_unknown_python(recorded: dict[str, str], job_id: str, session: Session, trust: Trust) -> dict[str, str]:
    """Return a recorded launch without its interpreter, if neither the user nor this machine has named that."""
    python = recorded.get("python")
    choice = f"python:{python}"
    if python is None or trust.allows(choice) or choice in choices_of_last_launch(JobDir.for_job(job_id, session.env)):
        return recorded
    default = active_python(session.env)
    if python != default:
        session.warn(
            f"Only the record of {job_id} names the interpreter {python}; the tasks run in"
            f" {default or 'the Python of mops-jobs'}. To use it: --python {shlex.quote(python)}"
        )
    return {name: value for name, value in recorded.items() if name != "python"}
