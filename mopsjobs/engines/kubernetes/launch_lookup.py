"""Look for the Job of a launch that the cluster has already, so that no Job runs beside a failed record.

The reply was lost, late or an error, or the user has applied the printed manifest. Such a Job has the mark of its job,
and none of a launch, and becomes that of the launch.

An API server answers a create by 34 s, or drops it, so a launch waits for 40 s. See
docs/decisions/0086-followers-ask-the-engine.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.engines.base import RefusedError
from mopsjobs.engines.kubernetes.client import Cluster
from mopsjobs.engines.kubernetes.fields import differences
from mopsjobs.engines.kubernetes.manifest import CONTAINER, JOB_ID, LAUNCH_ID, kubectl
from mopsjobs.errors import EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from lightkube.resources.batch_v1 import Job

log = logging.getLogger(__name__)

_RUNNER = f"spec.template.spec.containers[{CONTAINER}]"

DECIDING_FIELDS = re.compile(rf"spec\.completions|{re.escape(_RUNNER)}\.(args|image|resources\b.*)")
"""The fields that say which job a Job runs, in how many shards and from which registry, and what the record names."""

PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each look, after a reply that was an error: what it did is done, but may not be visible yet."""


def find_created(
    cluster: Cluster,
    manifest: Mapping[str, Any],
    problem: EngineError,
    show_command: str,
    sleep: Callable[[float], None],
) -> Job:
    """Return the Job that a launch has created although the reply was lost or says otherwise, or that was applied.

    Args:
        cluster: a connection whose requests take seconds at most.
        manifest: the Job of the launch.
        problem: the error of the request.
        show_command: the command that shows the Job.
        sleep: waits that many seconds.

    Raises:
        EngineUnavailableError: if the Job is not there. With `sent`, the cluster did not say so: it may be there.
        RefusedError: if another Job has the name, or the one that was applied runs something else.
    """
    unavailable = problem if isinstance(problem, EngineUnavailableError) else None
    if unavailable is not None and not unavailable.sent:
        raise unavailable
    metadata: dict[str, dict[str, str]] = manifest["metadata"]
    namespace, name, annotations = str(metadata["namespace"]), str(metadata["name"]), metadata["annotations"]
    existing, is_known = _look(cluster, namespace, name, unavailable, sleep)
    marks = {} if existing is None or existing.metadata is None else existing.metadata.annotations or {}
    if existing is not None and marks.get(LAUNCH_ID) == annotations[LAUNCH_ID]:
        return existing
    if existing is not None and marks.get(JOB_ID) == annotations[JOB_ID] and LAUNCH_ID not in marks:
        _check_applied(manifest, existing)
        return existing
    if marks.get(JOB_ID) == annotations[JOB_ID]:
        raise RefusedError(
            f"Job {annotations[JOB_ID]} is already launched; nothing was started.", hint=f"See it: {show_command}"
        )
    if unavailable is None or existing is not None:
        raise RefusedError(
            f"Namespace {namespace} has another Job {name}; nothing was started.", hint=f"See it: {show_command}"
        )
    raise EngineUnavailableError(
        unavailable.message, hint=f"See whether it has started: {show_command}", sent=not is_known
    )


def _check_applied(manifest: Mapping[str, Any], applied: Job) -> None:
    """Check that a Job that was applied runs what a launch would run.

    Raises:
        RefusedError: if it does not.
    """
    spec = applied.to_dict().get("spec") or {}  # type: ignore[no-untyped-call]
    paths = {difference.path for difference in differences(manifest["spec"], spec, "spec")}
    changed = [path for path in sorted(paths) if DECIDING_FIELDS.fullmatch(path)]
    if changed:
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        raise RefusedError(
            f"The Job {name} that was applied in namespace {namespace} differs in {', '.join(changed)};"
            " nothing was started.",
            hint=f"Submit with flags that agree with the Job, or delete it: {kubectl('delete', name, namespace)}",
        )


def _look(
    cluster: Cluster,
    namespace: str,
    name: str,
    unavailable: EngineUnavailableError | None,
    sleep: Callable[[float], None],
) -> tuple[Job | None, bool]:
    """Return the Job of that name, and whether the last look was answered."""
    # After a silence of `CREATE_READ_SECONDS`, the API server has dropped the request, and one look tells.
    pauses = PAUSES[:1] if unavailable is None or unavailable.silent else PAUSES
    if unavailable is not None:
        log.warning("warning: %s Looking for up to %g s whether the Job is there.", unavailable, sum(pauses))
    is_known = False
    for pause in pauses:
        sleep(pause)
        try:
            existing, is_known = cluster.job(namespace, name), True
        except EngineError:
            is_known = False
            continue
        if existing is not None:
            return existing, True
    return None, is_known
