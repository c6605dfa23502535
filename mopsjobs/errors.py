"""Every exception that mops-jobs raises on purpose.

One root, few classes. A class exists because its callers act on it. A shell script acts on the exit code, a retry loop
on `StoreUnavailableError`, and ported ModelOps code on the four names of its registry. The message is one sentence for
a person. The facts are attributes. `hint` says what to do next. This module imports nothing.

Exit codes are a contract with scripts (docs/reference/exit-codes.md). They are defined here, and nowhere else.
"""

EXIT_DONE = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_NO_SUCH_JOB = 3
EXIT_SIGN_IN = 4
EXIT_UNREACHABLE = 5
EXIT_REFUSED = 6
EXIT_PARTLY_DONE = 7
EXIT_NOT_FINISHED = 8
EXIT_DIFFERENT = 9
EXIT_JOB_FAILED = 100
EXIT_JOB_CANCELLED = 103
EXIT_JOB_PARTIAL = 104
EXIT_INTERRUPTED = 130

JOB_EXIT_CODES = {
    "failed": EXIT_JOB_FAILED,
    "partial": EXIT_JOB_PARTIAL,
    "cancelled": EXIT_JOB_CANCELLED,
    "succeeded": EXIT_DONE,
}
"""The exit codes for the statuses of jobs that have ended, the worst first."""


def exit_code_of(status: object) -> int:
    """Return the exit code for the status of a job."""
    return JOB_EXIT_CODES.get(str(status), EXIT_NOT_FINISHED)


INSTALL = "Install mops-jobs with what it needs: python -m pip install ."
"""The hint if a library is missing."""

IF_PIP_REFUSES = "If pip refuses that, make a virtual environment, and start mops-jobs with its Python."
"""What else to do if a library of an engine or a store is missing. Many systems keep pip away from their own Python."""

MAX_MESSAGE = 2000
"""Characters of a message. It may quote text of any length."""

_registry_flags: dict[str, str] = {}
"""The flags of this run that name its registry. One process has one run."""


def repeat_registry(*, registry: str | None, env: str | None) -> None:
    """Repeat `--registry` and `--env` in each suggested command: without them, it would ask another registry.

    Hints of any layer need them, also those of errors, which know no run.

    Args:
        registry: the URL that the user gave by the flag; None without the flag.
        env: the environment of ModelOps that the user gave by the flag; None without the flag.
    """
    _registry_flags.clear()
    flags = {"--registry": registry, "-e": env}
    _registry_flags.update({flag: value for flag, value in flags.items() if value is not None})


def modelops_environment() -> str:
    """Return the environment of ModelOps that the user gave by the flag; without it, ModelOps' own default."""
    return _registry_flags.get("-e", "dev")


def command_line(verb: str, job_id: object = None, options: str = "") -> str:
    """Return the command line of a mops-jobs command.

    Args:
        verb: the command, with flags in front of the id.
        job_id: the job; another program may have given it any id. None for a command without a job.
        options: flags behind the id.
    """
    command, _, flags = verb.partition(" ")  # a flag stays beside its value
    words = [f"mops-jobs {command}", *(f"{flag} {_quote(value)}" for flag, value in _registry_flags.items()), flags]
    words += [options] if job_id is None else [job_word(job_id), options]
    return " ".join(word for word in words if word)


class ShortName(str):
    """A name that a user typed for a command that only reads: an id, or the beginning of one.

    Any other text that names a job is its full id. See docs/decisions/0089-a-prefix-is-not-an-id.md.
    """

    __slots__ = ()


LATEST = ShortName("@latest")
"""The job that was created last, as a user names it. `is` tells it from a job with this id."""


def read_job_name(text: str) -> str:
    """Return the job that a user names: `LATEST`, a `ShortName`, or the full id behind `./`. No id begins so."""
    if text == LATEST:
        return LATEST
    return text[2:] if text.startswith("./") else ShortName(text)


def job_word(job_id: object) -> str:
    """Return an id as `read_job_name` reads it from a command line, quoted."""
    text = str(job_id)
    return _quote(f"./{text}" if text.startswith("-") or text == LATEST else text)


def _quote(word: object) -> str:
    import shlex  # here: a listing needs none

    return shlex.quote(str(word))


def shorten(text: str, limit: int) -> str:
    """Return the text, without its middle if it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit * 3 // 4]} … {text[len(text) - limit // 4 :]}"


class MopsJobsError(Exception):
    """The root. `str(error)` is one sentence. `hint` is the next thing to try, or None; a traceback ends with it."""

    exit_code = EXIT_UNEXPECTED

    _hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = shorten(message, MAX_MESSAGE)
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def hint(self) -> str | None:
        """Return the next thing to try, or None."""
        return self._hint

    @hint.setter
    def hint(self, hint: str | None) -> None:
        # A note (PEP 678): a program that does not catch the error shows nothing else than its traceback.
        notes = [note for note in getattr(self, "__notes__", ()) if note != _note_of(self._hint)]
        self.__notes__ = notes if hint is None else [_note_of(hint), *notes]
        self._hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross processes. The arguments of most are keyword-only, which the default cannot pickle.
        return _rebuilt, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        # KeyError, which JobNotFoundError also is, would print the repr of its argument.
        return self.message


def _note_of(hint: str | None) -> str:
    return f"hint: {hint}"


def _rebuilt(kind: type[MopsJobsError], args: tuple[object, ...], facts: dict[str, object]) -> MopsJobsError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class UsageError(MopsJobsError, ValueError):
    """The caller gave a malformed value, or two that contradict each other."""

    exit_code = EXIT_USAGE


class OptionError(UsageError):
    """A field of a request is invalid, or has no effect. The message names it; the command line names its flag."""

    def __init__(self, message: str, *fields: str, hint: str | None = None) -> None:
        """Describe the problem.

        Args:
            message: one sentence. It names each field before it quotes any value.
            fields: the fields, in the order of the message.
            hint: the next thing to try.
        """
        super().__init__(message, hint=hint)
        self.fields = fields


class ConfigError(UsageError):
    """A configuration file, an environment variable or a registry URL is invalid. Names its origin."""


class CacheError(MopsJobsError):
    """The local cache cannot be used: a newer version has written it, or its directory is read-only."""


# --- the store ---------------------------------------------------------------------------------------------------


class StoreError(MopsJobsError):
    """The store sent an unexpected response, or cannot be used as it is."""


class StoreUnavailableError(StoreError):
    """The store could not be reached, or throttled the request.

    After a write the outcome is unknown: the write may have landed, and only its reply was lost.
    """

    exit_code = EXIT_UNREACHABLE

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        sent: bool = True,
        silent: bool = False,
        throttled: bool = False,
    ) -> None:
        """Describe the outage.

        Args:
            message: one sentence.
            hint: the next thing to try.
            sent: whether anything may have reached the store. If not, nothing was written.
            silent: whether the store sent no reply until the timeout, so that another attempt would be as slow.
            throttled: whether the store throttled the request.
        """
        super().__init__(message, hint=hint)
        self.sent = sent
        self.silent = silent
        self.throttled = throttled


class StoreAccessError(StoreError):
    """The store refused the credentials, or there are none. Names the source of the credentials."""

    exit_code = EXIT_SIGN_IN


class InvalidKeyError(StoreError, ValueError):
    """A key is outside the contract: 1 to 900 bytes, printable, no leading `/`, no empty, `.` or `..` segment."""

    exit_code = EXIT_USAGE


class KeyNotFoundError(StoreError, KeyError):
    """The store does not have the key of an update."""

    exit_code = EXIT_NO_SUCH_JOB


class ValueTooLargeError(StoreError):
    """A value is larger than the backend, or the reader, allows."""

    exit_code = EXIT_REFUSED


VALUE_ERRORS = (ValueTooLargeError, InvalidKeyError)
"""What is wrong with one value, and with no other."""


class UnusableStoreError(StoreError):
    """The settings name a store that cannot keep a registry, and never will by waiting. Nothing was written."""

    exit_code = EXIT_USAGE


class TooManyRetriesError(MopsJobsError):
    """The compare-and-swap race on `key` was lost `attempts` times in a row. Nothing was written."""

    exit_code = EXIT_REFUSED

    def __init__(self, message: str, *, key: str, attempts: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.attempts = attempts


MAX_REASON = 500
"""Characters of the reason why a record is unreadable: a cache keeps one for each such record."""


class RecordError(MopsJobsError, ValueError):
    """A record, or other JSON, is unreadable. `reason` says why, without the key, so that reports can group it."""

    exit_code = EXIT_REFUSED

    def __init__(self, reason: str, *, key: str | None = None) -> None:
        reason = shorten(reason, MAX_REASON)
        super().__init__(f"{key}: {reason}" if key else reason, hint=f"See: {command_line('doctor')}" if key else None)
        self.key = key
        self.reason = reason


# --- jobs --------------------------------------------------------------------------------------------------------


class JobError(MopsJobsError):
    """A rule about jobs was broken. `job_id` names the job."""

    def __init__(self, message: str, *, job_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.job_id = job_id


class JobNotFoundError(JobError, KeyError):
    """No job has this id. `candidates` has ids that begin with it. Also a KeyError, as ModelOps' registry raises."""

    exit_code = EXIT_NO_SUCH_JOB

    def __init__(self, job_id: str, *, hint: str | None = None, candidates: tuple[str, ...] = ()) -> None:
        near = f"Give the full id. These begin with it: {', '.join(candidates)}" if candidates else None
        hint = hint or near or f"To see the ids, run: {command_line('list')}"
        super().__init__(f"Job {job_id} not found.", job_id=job_id, hint=hint)
        self.candidates = candidates


class AmbiguousJobError(JobError):
    """A prefix matches several jobs. `candidates` has some of their ids."""

    exit_code = EXIT_NO_SUCH_JOB

    def __init__(self, message: str, *, job_id: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message, job_id=job_id, hint="Use a longer prefix, or one of: " + ", ".join(candidates))
        self.candidates = candidates


class JobExistsError(JobError):
    """The id belongs to another job."""

    exit_code = EXIT_REFUSED

    def __init__(self, job_id: str, message: str | None = None, *, hint: str | None = None) -> None:
        if message is None:
            message = f"Job {job_id} is already registered."
            hint = hint or f"Choose another id. To see that job, run: {command_line('status', job_id)}"
        super().__init__(message, job_id=job_id, hint=hint)


class JobBusyError(JobError):
    """A runner works on the job, may work on it elsewhere, or has done the work."""

    exit_code = EXIT_REFUSED
    is_question = False
    """Whether the user may know better: that the runner has died."""


class JobEndError(JobError):
    """The job has not succeeded, or not ended. A caller asked for an error in this case. `status` is its status."""

    def __init__(self, message: str, *, job_id: str, status: str, hint: str | None = None) -> None:
        super().__init__(message, job_id=job_id, hint=hint)
        self.status = status


class JobFailedError(JobEndError):
    """The job has failed."""

    exit_code = EXIT_JOB_FAILED


class JobCancelledError(JobEndError):
    """The job was cancelled."""

    exit_code = EXIT_JOB_CANCELLED


class JobPartialError(JobEndError):
    """The job has ended, and some of its tasks have no complete outputs."""

    exit_code = EXIT_JOB_PARTIAL


class JobNotFinishedError(JobEndError):
    """The job has not ended."""

    exit_code = EXIT_NOT_FINISHED


class TaskFailedError(JobError):
    """A task has failed whose result was asked for."""

    exit_code = EXIT_JOB_FAILED

    def __init__(self, message: str, *, job_id: str, task: int, error: dict[str, object]) -> None:
        super().__init__(message, job_id=job_id)
        self.task = task
        """Its number."""
        self.error = error
        """`type` and `message`, and maybe `at` and `traceback`."""


class NoOutputsError(JobError):
    """The job has no outputs so far."""

    exit_code = EXIT_REFUSED


class NoManifestError(JobError):
    """The job was reported, not submitted, so it has no manifest."""

    exit_code = EXIT_REFUSED


class InvalidTransitionError(JobError):
    """No transition leads from `from_status` to `to_status`."""

    exit_code = EXIT_REFUSED

    def __init__(self, message: str, *, job_id: str, from_status: str, to_status: str, hint: str | None = None) -> None:
        super().__init__(message, job_id=job_id, hint=hint)
        self.from_status = from_status
        self.to_status = to_status


class TerminalStateError(InvalidTransitionError):
    """The job has ended. Only its labels and its note can change."""


# --- engines -----------------------------------------------------------------------------------------------------


class EngineError(MopsJobsError):
    """An engine refused a request, or sent an unexpected response."""


class EngineUnavailableError(EngineError):
    """An engine could not be reached, or throttled the request."""

    exit_code = EXIT_UNREACHABLE

    def __init__(self, message: str, *, hint: str | None = None, sent: bool = False, silent: bool = False) -> None:
        """Describe the outage. If `sent`, a launch may have had an effect; if `silent`, no reply came in time."""
        super().__init__(message, hint=hint)
        self.sent = sent
        self.silent = silent


class EngineAccessError(EngineError):
    """An engine refused the credentials, or there are none."""

    exit_code = EXIT_SIGN_IN


class EnginePlaceError(EngineError):
    """A record names a place where the engine cannot have jobs. No request was sent."""

    exit_code = EXIT_REFUSED
