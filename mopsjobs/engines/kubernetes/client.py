"""A cluster as the Kubernetes engine sees it: a handful of questions by lightkube, and our errors for what goes wrong.

The only importer of lightkube and httpx: no exception of theirs leaves this module.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import yaml
from lightkube import Client, KubeConfig
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod
from lightkube.types import CascadeType

from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError
from mopsjobs.utils import user_dirs

log = logging.getLogger(__name__)


CONNECT_SECONDS = 2.0


READ_SECONDS = 2.5
"""Together below the five seconds in which a command has to fail."""


FOLLOW_READ_SECONDS = 30.0
"""A log that says nothing for so long is asked for anew: the line may have gone dead without a word."""


JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


OF_POD = "of this pod"


_UNVERIFIED: set[tuple[str, str]] = set()
"""Contexts of kubeconfigs of which this process has said that they switch the check of the certificate off."""


_NO_LOG = (400, 404)
"""The container has not started; the pod is gone."""


class MissingError(EngineError):
    """404."""


class ConflictError(EngineError):
    """409."""


class Cluster:
    """An open connection to a cluster. `server` is its address, `namespace` the one to use when nobody names one."""

    def __init__(self, client: Client, config: SingleConfig) -> None:
        self._client = client
        self.server = re.sub(r"//.*@", "//", config.cluster.server)  # it is shown
        self.namespace = config.namespace

    def create(self, manifest: Mapping[str, Any]) -> Job:
        """Create a Job.

        Raises:
            ConflictError: there is one by that name.
        """
        with self._explained():
            wanted: Job = Job.from_dict(dict(manifest))  # type: ignore[no-untyped-call]
            made = self._client.create(wanted)
        if made.metadata is None or wanted.metadata is None or made.metadata.name != wanted.metadata.name:
            raise self._nonsense()
        return made

    def job(self, namespace: str, name: str) -> Job | None:
        """A Job; None when there is none."""
        try:
            with self._explained():
                found = self._client.get(Job, name, namespace=namespace)
        except MissingError:
            return None
        if found.metadata is None or found.metadata.name != name:
            raise self._nonsense()
        return found

    def pods(self, namespace: str, job_name: str) -> list[Pod]:
        """The pods of a Job by their shards, a shard's older ones first."""
        with self._explained():
            found = list(self._client.list(Pod, namespace=namespace, labels={JOB_NAME_LABEL: job_name}))
            return sorted(found, key=lambda pod: (shard_of(pod), _created(pod)))

    def delete(self, namespace: str, name: str) -> bool:
        """Delete a Job, and in the background its pods. False when there is none."""
        try:
            with self._explained():
                self._client.delete(Job, name, namespace=namespace, cascade=CascadeType.BACKGROUND)
        except MissingError:
            return False
        return True

    def log(
        self, pod: Pod, container: str | None, *, follow: bool, tail: int | None, since: int | None
    ) -> Iterator[str | None]:
        """The lines of a pod's log, each with its time in front, and None at the end if the end was reached.

        None is missing when the line broke off while following, and when there is no log: it has not begun, or the
        pod is gone.
        """
        assert pod.metadata is not None  # noqa: S101 - it came from a listing
        with self._explained():
            try:
                yield from self._client.log(
                    str(pod.metadata.name),
                    namespace=pod.metadata.namespace,
                    container=container,
                    follow=follow,
                    since=since,
                    tail_lines=tail,
                    timestamps=True,
                    newlines=False,
                )
                yield None
            except httpx.TransportError:
                if not follow:
                    raise
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _NO_LOG:
                    raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The one place where what lightkube and httpx raise becomes ours."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise _refusal(error, self.server) from None
        except httpx.LocalProtocolError:  # whose text is the header, token and all
            raise EngineAccessError(
                f"The credentials for the cluster at {self.server} cannot be sent: no header can hold them.",
                hint="Is there a line break in the token? Sign in anew, for example with: az aks get-credentials",
            ) from None
        except httpx.TransportError as error:
            raise EngineUnavailableError(
                f"Cannot reach the cluster at {self.server}: {_short(error)}.",
                hint="Try again, or look with: kubectl cluster-info",
            ) from None
        except (ConfigError, OSError) as error:  # from the program that the kubeconfig names for signing in
            raise EngineAccessError(f"Cannot sign in to the cluster at {self.server}: {_short(error)}.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError):
            raise self._nonsense() from None
        except (TypeError, LookupError, AttributeError, RecursionError):  # JSON of another shape, or nested without end
            raise self._nonsense() from None

    def _nonsense(self) -> EngineError:
        return EngineError(f"What answers at {self.server} is no Kubernetes: its answer makes no sense.")


@contextlib.contextmanager
def open_cluster(
    env: Mapping[str, str], context: str | None = None, *, noted: str | None = None, follow: bool = False
) -> Iterator[Cluster]:
    """Connect to a cluster. Nothing is sent yet.

    Args:
        env: where KUBECONFIG, HOME and what Kubernetes tells its pods are found.
        context: a context of the kubeconfig; None for `noted`.
        noted: the context that a job's record names; None for the current one. A pod, which has no kubeconfig, takes
            it for its own cluster: that is the only one it can be asked about.
        follow: whether answers may take longer, as those that follow a log do.

    Raises:
        EngineAccessError: there is no configuration, or it cannot be used.
    """
    config = _config(env, context, noted)
    read = FOLLOW_READ_SECONDS if follow else READ_SECONDS
    try:
        # Not lazy: an answer that is none should be noticed where it is asked for.
        client = Client(
            config=config, timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=read), lazy=False
        )
    except (ConfigError, OSError, ValueError, httpx.InvalidURL) as error:
        raise EngineAccessError(
            f"The certificates or the address of the cluster cannot be used: {_short(error)}."
        ) from None
    try:
        yield Cluster(client, config)
    finally:
        client.close()


def current_place(env: Mapping[str, str], context: str | None = None) -> tuple[str | None, str]:
    """The context that is in force where none is named, or the one that is, and its namespace. Nothing is sent or run.

    Raises:
        EngineAccessError: there is no configuration, or it cannot be used.
    """
    config = _config(env, context, None)
    return config.context_name, config.namespace


def is_other_context(env: Mapping[str, str], context: str) -> bool:
    """Whether the kubeconfig has this context, and another is in force. False where it cannot be used: opening says so.

    A pod has none: there, a record's context has no effect.
    """
    try:
        known, where = _known(env)
    except EngineAccessError:
        return False
    return where is not None and context in known.contexts and context != known.current_context


def shard_of(pod: Pod) -> int:
    """Which shard a pod works on."""
    known = {} if pod.metadata is None else {**(pod.metadata.annotations or {}), **(pod.metadata.labels or {})}
    text = str(known.get(INDEX_LABEL, ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def _created(pod: Pod) -> float:
    made = None if pod.metadata is None else pod.metadata.creationTimestamp
    return 0.0 if made is None else made.timestamp()


def _known(env: Mapping[str, str]) -> tuple[KubeConfig, str | None]:
    """The kubeconfig and its path; None: there is none, and this is the service account of the pod we are in."""
    home = user_dirs.home(env)
    default = [] if home is None else [os.path.join(home, ".kube", "config")]
    named = [path for path in env.get("KUBECONFIG", "").split(os.pathsep) if path]
    paths = [path for path in named or default if os.path.exists(path)]
    if not paths and (named or not env.get("KUBERNETES_SERVICE_HOST")):
        raise EngineAccessError(
            f"There is no cluster to talk to: {named[0] if named else '~/.kube/config'} is missing.",
            hint="Write one, for example with: az aks get-credentials; or name it in KUBECONFIG.",
        )
    where = paths[0] if paths else None
    with _readable(where):
        return (KubeConfig.from_service_account() if where is None else KubeConfig.from_file(where)), where


def _config(env: Mapping[str, str], context: str | None, noted: str | None) -> SingleConfig:
    """Which cluster, and as whom: the kubeconfig, or else the service account of the pod that this process is in."""
    known, where = _known(env)
    with _readable(where):
        wanted = context or (None if where is None else noted)
        if wanted is not None and wanted not in known.contexts:
            raise EngineAccessError(
                f"The cluster's configuration {where or OF_POD} has no context {wanted}.",
                hint="Name the one that it has for this cluster in MOPS_JOBS_KUBE_CONTEXT.",
            )
        found = known.get(wanted)
    assert found is not None  # noqa: S101 - None would be a default, and we give none
    _warn_if_unverified(found, where or OF_POD)
    return found._replace(user=found.user or User())


@contextlib.contextmanager
def _readable(where: str | None) -> Iterator[None]:
    """Turn what is wrong with the cluster's configuration into one kind of error."""
    try:
        yield
    except (ConfigError, OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise EngineAccessError(
            f"The cluster's configuration {where or OF_POD} cannot be used: {_short(error)}.",
            hint="Look at it with: kubectl config view",
        ) from None


def _warn_if_unverified(config: SingleConfig, where: str) -> None:
    """Say once that the kubeconfig switches the check of the certificate off: that is for its owner to decide.

    Through logging, as everything that is deep inside and none of a call's results: a program that has set up none
    sees it on stderr.
    """
    named = (where, str(config.context_name))
    if config.cluster.insecure and named not in _UNVERIFIED:
        _UNVERIFIED.add(named)
        log.warning(
            "warning: Context %s of %s has insecure-skip-tls-verify: whoever answers at %s is believed, and gets the"
            " credentials.",
            " ".join(named[1].split()),
            where,
            re.sub(r"//.*@", "//", config.cluster.server),
        )


def _refusal(error: httpx.HTTPStatusError, where: str) -> EngineError:
    code = error.response.status_code
    said = ""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError, httpx.StreamError):
        said = str(error.response.json()["message"])
    said = f": {' '.join(said.split())[:500].rstrip('.')}" if said else ""
    if code == 404:
        return MissingError(f"The cluster at {where} has no such object{said}.")
    if code == 409:
        return ConflictError(f"The cluster at {where} has one by that name{said}.")
    if code == 401:
        return EngineAccessError(
            f"The cluster at {where} does not accept our credentials{said}.",
            hint="Sign in anew, for example with: az aks get-credentials",
        )
    if code == 403:
        return EngineAccessError(f"The cluster at {where} does not permit this{said}.")
    if code in (408, 429) or code >= 500:
        return EngineUnavailableError(f"The cluster at {where} cannot answer now ({code}){said}.")
    return EngineError(f"The cluster at {where} refuses ({code}){said}.")


def _short(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # Its own text shows the line, and what stands in a kubeconfig's lines are tokens.
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
