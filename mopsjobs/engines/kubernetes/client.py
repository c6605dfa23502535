"""Talk to a cluster by its API in JSON: the few requests of the engine, with errors of mops-jobs.

lightkube reads the kubeconfig. No exception of lightkube or httpx leaves this module.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import ssl
import subprocess
from collections.abc import Collection, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import ConnectionParams, ExecAuth
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from mopsjobs.engines.base import RefusedError
from mopsjobs.engines.kubernetes.kubeconfig import SERVICE_HOST, existing_kubeconfigs, listed_kubeconfigs
from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError, shorten
from mopsjobs.utils.text import last_line, parse_whole_number
from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from lightkube.config.models import UserExec

SIGN_IN_SECONDS = 30.0
"""How long the program may take. It may talk to a server of its own, but not wait for a user."""

HINT = "Sign in again, and try: kubectl get jobs"

CHECK_HINT = "Check command, args and env with: kubectl config view"

MAX_SHOWN = 300
"""Characters of what the program has printed that a message shows, at most."""

_TOKENS: dict[tuple[str, ...], str] = {}
"""The tokens of this process, by server, program and arguments."""


class SignIn(httpx.Auth):
    """Adds the token of a program to requests.

    It is the program that the kubeconfig names, run as kubectl runs it, but within a time limit. It prints an
    ExecCredential with a token. A process runs it once, and again when the cluster refuses the token. It cannot ask the
    user anything: its output is read, and it has no input.
    """

    def __init__(self, program: UserExec, server: str) -> None:
        """Take the program. It is run at the first request.

        Args:
            program: the program, as the kubeconfig has it.
            server: the address of the cluster, without secrets.
        """
        self._program = program
        self._server = server
        self._env = {variable.name: variable.value for variable in program.env or ()}
        self._key = (server, program.command, *(program.args or ()), *(f"{k}={v}" for k, v in self._env.items()))

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`. A token that is refused is replaced once."""
        token = _TOKENS.get(self._key)
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if response.status_code != httpx.codes.UNAUTHORIZED:
                return
        token = _TOKENS[self._key] = self._new_token()
        request.headers["Authorization"] = f"Bearer {token}"
        yield request

    def _new_token(self) -> str:
        """Run the program, and return the token that it prints.

        Raises:
            EngineAccessError: if there is none.
            EngineUnavailableError: if the program does not end. For another job, it would not either.
        """
        program = self._program
        info = {"apiVersion": program.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = {**os.environ, **self._env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubeconfig names it
                [program.command, *(program.args or ())],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SIGN_IN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = self._error_text(f"did not answer within {SIGN_IN_SECONDS:g} s", error.stderr)
            raise EngineUnavailableError(message, hint=HINT, sent=False) from None
        except OSError as error:
            raise EngineAccessError(self._error_text(f"cannot be started ({error.strerror})"), hint=HINT) from None
        except (TypeError, ValueError):  # a number, or a text with NUL
            message = self._error_text("cannot be started (invalid user in the kubeconfig)")
            raise EngineAccessError(message, hint=CHECK_HINT) from None
        if done.returncode:
            raise EngineAccessError(self._error_text(f"ended with {done.returncode}", done.stderr), hint=HINT)
        try:
            token = json.loads(done.stdout)["status"]["token"]
        except (ValueError, LookupError, TypeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token:
            raise EngineAccessError(self._error_text("printed no token", done.stderr), hint=HINT)
        return token

    def _error_text(self, problem: str, stderr: bytes | None = None) -> str:
        """Return the sentence of an error, with the last line that the program has printed."""
        line = shorten(" ".join(last_line(stderr or b"").split()), MAX_SHOWN).rstrip(".")
        return (
            f"Cannot sign in to the cluster at {self._server}: {self._program.command} {problem}{line and f': {line}'}."
        )


log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0

READ_SECONDS = 2.5
"""Both together stay below the five seconds in which a command has to fail."""

CREATE_READ_SECONDS = 40.0
"""How long a cluster may take to admit a Job. Its API server answers a create by 34 s, and drops it then."""

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

UID_LABEL = "batch.kubernetes.io/controller-uid"

MAX_INDEX = 2**31 - 1
"""Of a pod in an Indexed Job: Kubernetes counts them in 32 bits."""

MERGED = "(combined from similar events): "
"""Begins the message of an event that stands for later ones."""

POD_CONFIG = "of this pod"

_UNVERIFIED: set[tuple[str, str]] = set()
"""Contexts, by kubeconfig, for which this process has warned that they do not verify certificates."""

_NO_LOG = (400, 404)
"""Status codes without a log: the container has not started, or the pod is gone."""

REFUSAL = re.compile(r" is forbidden: (?!User )|denied the request")
"""In the message of a 403 that no permission changes: of a quota, a webhook, or a namespace that is being deleted."""

_OTHER_SHAPE = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""Errors of reading JSON of another shape than Kubernetes has it."""

Object = Mapping[str, Any]
"""An object of the cluster, as its JSON has it."""


class MissingError(RefusedError):
    """The cluster has no such object (404)."""

    is_stated = True
    """Whether an API server says so. A proxy in front of it may not know the cluster."""


class ConflictError(RefusedError):
    """The cluster has another object of that name (409)."""


class Cluster:
    """A connection to a cluster. `server` is its address, `namespace` the default one."""

    def __init__(self, session: httpx.Client, config: SingleConfig) -> None:
        self._session = session
        self.server = _shown_server(config)
        self.namespace = config.namespace
        self.has_answered = False
        """Whether the server has sent a response."""

    def request(
        self, method: str, path: str, body: Object | None = None, params: Mapping[str, str] | None = None
    ) -> tuple[Object, Mapping[str, str]]:
        """Return the JSON document and the headers of a response."""
        with self._translate_errors():
            response = self._session.request(method, path, json=body, params=params)
            self.has_answered = True
            response.raise_for_status()
            document = response.json()
            if not isinstance(document, Mapping):
                raise TypeError
        return document, response.headers

    def items(self, path: str, params: Mapping[str, str] | None = None) -> list[Object]:
        """Return the objects of a list.

        Raises:
            MissingError: if the cluster does not have the kind.
        """
        document, _ = self.request("GET", path, params=params)
        return list(document["items"])

    def create(self, manifest: Object) -> Object:
        """Create a Job. A webhook of the cluster may change it, also its name.

        Raises:
            ConflictError: if there is a Job of that name.
        """
        metadata = manifest["metadata"]
        created, _ = self.request("POST", _jobs(metadata["namespace"]), manifest)
        if field(created, "metadata.name") != metadata["name"]:
            marks = field(created, "metadata.annotations") or {}
            if not metadata["annotations"].items() <= marks.items():
                raise self.unexpected_response()
        return created

    def job(self, namespace: str, name: str) -> Object | None:
        """Return a Job; None if there is none."""
        try:
            job, _ = self.request("GET", f"{_jobs(namespace)}/{name}")
        except MissingError as error:
            if not error.is_stated:
                raise self.unexpected_response() from None
            return None
        if field(job, "metadata.name") != name:
            raise self.unexpected_response()
        job["metadata"]["namespace"] = namespace  # the answer does not choose what is asked for next
        return job

    def pods(self, job: Object) -> list[Object]:
        """Return the pods of a Job by shard, and by age within a shard.

        An earlier Job of that name may have left pods.
        """
        namespace, name, uid = (job["metadata"].get(part) for part in ("namespace", "name", "uid"))
        selector = f"batch.kubernetes.io/job-name={name}"
        pods = self.items(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})
        own = [pod for pod in pods if pod["metadata"]["labels"].get(UID_LABEL, uid) == uid]
        return sorted(own, key=lambda pod: (shard_of(pod), creation_time(pod)))

    def newest_event(
        self, namespace: str, kind: str, name: str, reasons: Collection[str] | None = None
    ) -> Object | None:
        """Return the newest event of an object, of those with these reasons; None: with any.

        A later event says that the object has gone on: that a pod was created, or that its image is being pulled.
        """
        about = f"involvedObject.kind={kind},involvedObject.name={name}"
        events = self.items(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": about})
        own = (event for event in events if field(event, "involvedObject.name") == name)
        return max(
            (event for event in own if reasons is None or event.get("reason") in reasons),
            key=lambda event: (event_time(event), event["type"] == "Warning"),
            default=None,
        )

    def delete(self, namespace: str, name: str) -> bool:
        """Delete a Job, and in the background its pods. Return False if there is none."""
        try:
            self.request("DELETE", f"{_jobs(namespace)}/{name}", params={"propagationPolicy": "Background"})
        except MissingError:
            return False
        return True

    def log(self, namespace: str, pod: Object, params: Mapping[str, str]) -> Iterator[str]:
        """Yield the lines of a pod's log so far, each behind its time.

        Without a log, nothing is yielded: the container has not started, or the pod is gone.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{field(pod, 'metadata.name')}/log"
        with (
            self._translate_errors(),
            self._session.stream("GET", path, params={"timestamps": "true", **params}) as response,
        ):
            self.has_answered = True
            if response.status_code in _NO_LOG:
                return
            if response.is_error:
                response.read()  # the reason
            response.raise_for_status()
            yield from response.iter_lines()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn the exceptions of lightkube and httpx into errors of mops-jobs."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise _status_error(error, self.server) from None
        except httpx.LocalProtocolError:  # its text has the header with the token
            raise EngineAccessError(
                f"The credentials for the cluster at {self.server} cannot be sent: they are invalid in an HTTP header.",
                hint="Remove line breaks from the token, or sign in again, for example with: az aks get-credentials",
            ) from None
        except httpx.TransportError as error:
            if _is_of_certificate(error):  # a later try gets the same answer
                raise EngineAccessError(
                    f"The certificate of the cluster at {self.server} cannot be verified: {_error_text(error)}.",
                    hint="Get its certificate authority anew, for example with: az aks get-credentials",
                ) from None
            raise EngineUnavailableError(
                f"Cannot reach the cluster at {self.server}: {_error_text(error)}.",
                hint="Try again, or check with: kubectl cluster-info",
                sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout),
                silent=isinstance(error, httpx.ReadTimeout),
            ) from None
        except (ConfigError, OSError) as error:  # of the file with the token that the kubeconfig names
            raise EngineAccessError(f"Cannot sign in to the cluster at {self.server}: {_error_text(error)}.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, *_OTHER_SHAPE):
            raise self.unexpected_response() from None

    def unexpected_response(self) -> EngineError:
        """Return the error of a server that is another one."""
        return EngineError(
            f"unexpected response from {self.server}: the server does not answer as a Kubernetes API server."
        )


def field(value: Object | None, path: str) -> Any:
    """Return the field of an object at a path like `status.phase`; None if it has none."""
    found: Any = value
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def true_conditions(status: Object) -> dict[str, Object]:
    """Return the conditions of a Job or a pod that hold, by their types."""
    return {one["type"]: one for one in status.get("conditions") or () if one["status"] == "True"}


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


@contextlib.contextmanager
def open_cluster(
    env: Mapping[str, str],
    context: str | None = None,
    *,
    recorded: str | None = None,
    read_seconds: float | None = None,
) -> Iterator[Cluster]:
    """Connect to a cluster. Nothing is sent yet.

    Args:
        env: the environment, with KUBECONFIG, HOME and what Kubernetes sets in its pods.
        context: a context of the kubeconfig; None for `recorded`.
        recorded: the context that a job's record names; None for the current one. In a pod, which has no kubeconfig, it
            stands for the pod's own cluster, the only one that the pod can reach.
        read_seconds: how long a response may take; None for `READ_SECONDS`.

    Raises:
        EngineAccessError: if there is no configuration, or it cannot be used.
        EngineError: if an object that the block reads has another shape than those of Kubernetes.
    """
    config = _load_config(env, context, recorded)
    read = READ_SECONDS if read_seconds is None else read_seconds
    try:
        parts = ConnectionParams(httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=read)).httpx_params(config)
        if config.cluster.certificate_auth or config.cluster.certificate_auth_data:
            # As kubectl does: some clusters sign with an authority that lacks key identifiers, or a key usage. From
            # Python 3.13 on, a context refuses these. All else is verified.
            parts["verify"].verify_flags &= ~ssl.VERIFY_X509_STRICT
        if isinstance(parts["auth"], ExecAuth):  # which runs the program without a limit, and not by v1
            parts["auth"] = SignIn(parts["auth"]._exec, _shown_server(config))  # noqa: SLF001
        session = httpx.Client(**parts)
    except (ConfigError, OSError, ValueError, httpx.InvalidURL) as error:
        raise EngineAccessError(
            f"The certificates or the address of the cluster cannot be used: {_error_text(error)}."
        ) from None
    cluster = Cluster(session, config)
    with session:
        try:
            yield cluster
        except _OTHER_SHAPE as error:
            if not cluster.has_answered:  # then it is an error of this program
                raise
            raise cluster.unexpected_response() from error


def current_place(env: Mapping[str, str], context: str | None = None) -> tuple[str | None, str]:
    """Return the name of a context, or of the current one, and its namespace. Nothing is sent or run.

    Raises:
        EngineAccessError: if there is no configuration, or it cannot be used.
    """
    config = _load_config(env, context, None)
    return config.context_name, config.namespace


def is_other_context(env: Mapping[str, str], context: str) -> bool:
    """Return True if the kubeconfig has this context, and it is not the current one.

    False if the kubeconfig cannot be used (`open_cluster` then raises the error), and in a pod, which has none.
    """
    try:
        config, path = _read_kubeconfig(env, context)
    except EngineAccessError:
        return False
    return path is not None and context in config.contexts and context != config.current_context


def shard_of(pod: Object) -> int:
    """Return the shard of a pod."""
    metadata = pod.get("metadata") or {}
    text = (metadata.get("labels") or {}).get(INDEX_LABEL) or (metadata.get("annotations") or {}).get(INDEX_LABEL, "")
    return parse_whole_number(str(text), 0, MAX_INDEX) or 0


def creation_time(pod: Object) -> float:
    """Return when a pod was created, in seconds since 1970; 0 if its cluster does not tell."""
    return _seconds(field(pod, "metadata.creationTimestamp"))


def event_time(event: Object) -> float:
    """Return when an event was seen last, in seconds since 1970; 0 if its cluster does not tell."""
    last = field(event, "series.lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return _seconds(last)


def _seconds(time: str | None) -> float:
    return 0.0 if time is None else parse_time(time).timestamp()


def _read_kubeconfig(env: Mapping[str, str], context: str | None = None) -> tuple[KubeConfig, str | None]:
    """Return the kubeconfig and its path; in a pod without one, the service account and None.

    Of several files, it is the first one with the context, as kubectl has it; None: with the current one.
    """
    listed, paths = listed_kubeconfigs(env), existing_kubeconfigs(env)
    if not paths and (listed or not env.get(SERVICE_HOST)):
        raise EngineAccessError(
            f"There is no cluster to talk to: {listed[0] if listed else '~/.kube/config'} is missing.",
            hint="Create it, for example with: az aks get-credentials; or name another file in KUBECONFIG.",
        )
    if not paths:
        with _translate_config_errors(None):
            return KubeConfig.from_service_account(), None
    found = []
    for path in paths:
        with _translate_config_errors(path):
            found.append((KubeConfig.from_file(path), path))
    current = next((config.current_context for config, _ in found if config.current_context), None)
    for config, _ in found:
        config.current_context = current
    wanted = context or current
    return next(((config, path) for config, path in found if wanted in config.contexts), found[0])


def _load_config(env: Mapping[str, str], context: str | None, recorded: str | None) -> SingleConfig:
    """Return cluster and user: of the kubeconfig, else of the service account of this pod."""
    config, path = _read_kubeconfig(env, context or recorded)
    with _translate_config_errors(path):
        name = context or (None if path is None else recorded)
        if name is not None and name not in config.contexts:
            raise EngineAccessError(
                f"The cluster's configuration {path or POD_CONFIG} has no context {name}.",
                hint="Name its context for this cluster in MOPS_JOBS_KUBE_CONTEXT.",
            )
        single = config.get(name)
    assert single is not None  # noqa: S101 - None only stands for a default, and there is none
    _warn_if_unverified(single, path or POD_CONFIG)
    return single._replace(user=single.user or User())


@contextlib.contextmanager
def _translate_config_errors(path: str | None) -> Iterator[None]:
    """Turn the exceptions about a kubeconfig into `EngineAccessError`."""
    try:
        yield
    except (ConfigError, OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise EngineAccessError(
            f"The cluster's configuration {path or POD_CONFIG} cannot be used: {_error_text(error)}.",
            hint="Check it with: kubectl config view",
        ) from None


def _warn_if_unverified(config: SingleConfig, path: str) -> None:
    """Warn once if the kubeconfig disables the verification of the server's certificate.

    The warning goes through logging, so that a Python program sees it on stderr, too.
    """
    context = (path, str(config.context_name))
    if config.cluster.insecure and context not in _UNVERIFIED:
        _UNVERIFIED.add(context)
        log.warning(
            "warning: Context %s of %s has insecure-skip-tls-verify: any server at %s gets the credentials.",
            " ".join(context[1].split()),
            path,
            _shown_server(config),
        )


def _shown_server(config: SingleConfig) -> str:
    """Return the address of a cluster as messages show it: without the user and the password that it may have."""
    return re.sub(r"//.*@", "//", config.cluster.server)


def _status_error(error: httpx.HTTPStatusError, server: str) -> EngineError:
    code = error.response.status_code
    reason, word, kind = "", None, None
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError, httpx.StreamError):
        body = error.response.json()
        reason, word, kind = str(body["message"]), body.get("reason"), body.get("kind")
    reason = f": {' '.join(reason.split())[:500].rstrip('.')}" if reason else ""
    if code == 404:
        missing = MissingError(f"The cluster at {server} has no such object{reason}.")
        missing.is_stated = kind == "Status"
        return missing
    if code == 409 and word != "Conflict":
        return ConflictError(f"The cluster at {server} has another object of that name{reason}.")
    if code == 401:
        return EngineAccessError(
            f"The cluster at {server} does not accept the credentials{reason}.",
            hint="Sign in again, for example with: az aks get-credentials",
        )
    if code == 403 and not REFUSAL.search(reason):
        return EngineAccessError(f"The cluster at {server} does not permit this{reason}.")
    if code in (408, 409, 429) or code >= 500:
        message = f"The cluster at {server} cannot answer now ({code}){reason}."
        return EngineUnavailableError(message, sent=code not in (409, 429))
    return RefusedError(f"The cluster at {server} refuses the request ({code}){reason}.")


def _is_of_certificate(error: BaseException) -> bool:
    """Return whether an error of a request is one of the server's certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _error_text(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # The text of the error shows the line, which may have a token.
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
