"""Every exception that mops-jobs raises on purpose.

One root, few kinds. A kind exists because somebody acts on it differently: a shell script by its exit code, a retry
loop by `StoreUnavailableError`, ported ModelOps code by the four names of its registry. The message is one sentence
for a person; the facts are attributes; `hint` says what to do next. This module imports nothing.

Exit codes are a contract with scripts (docs/reference/exit-codes.md). They are told apart here, and nowhere else.
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
EXIT_JOB_FAILED = 100
EXIT_JOB_CANCELLED = 103
EXIT_JOB_PARTIAL = 104
EXIT_INTERRUPTED = 130


INSTALL = "Install mops-jobs with what it needs: python -m pip install ."
"""The hint where a library is missing."""

MAX_MESSAGE = 2000
"""Characters of a message. What comes from elsewhere and is quoted in one may be of any length."""


def shortened(text: str, limit: int) -> str:
    """The text, without its middle where it is longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit * 3 // 4]} … {text[len(text) - limit // 4 :]}"


class MopsJobsError(Exception):
    """The root. `str(error)` is one sentence; `hint` is the next thing to try, or None."""

    exit_code = EXIT_UNEXPECTED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = shortened(message, MAX_MESSAGE)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross processes; the arguments of most are keyword-only, which the default cannot bring along.
        return _rebuilt, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        # KeyError, which JobNotFoundError also is, would print the repr of its argument.
        return self.message


def _rebuilt(kind: type[MopsJobsError], args: tuple[object, ...], facts: dict[str, object]) -> MopsJobsError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class UsageError(MopsJobsError, ValueError):
    """What the caller asked for makes no sense: a malformed value, or two that contradict each other."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration file, an environment variable or a registry URL that cannot be used. Names its origin."""


class CacheError(MopsJobsError):
    """The local cache cannot be used: written by a newer version, or its directory is not writable."""


# --- the store ---------------------------------------------------------------------------------------------------


class StoreError(MopsJobsError):
    """The store answered, and the answer is no answer: it cannot be used as it stands."""


class StoreUnavailableError(StoreError):
    """The store could not be reached, or asked us to come back later. Trying again may help.

    After a write this leaves the outcome unknown: the write may have landed and only its reply been lost.
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
        """Say what happened.

        Args:
            message: one sentence.
            hint: the next thing to try.
            sent: whether anything may have reached the store. If not, nothing was written.
            silent: whether the store kept silent until the time was up, so that asking it again is as slow.
            throttled: whether it answered that it should be asked again later.
        """
        super().__init__(message, hint=hint)
        self.sent = sent
        self.silent = silent
        self.throttled = throttled


class StoreAccessError(StoreError):
    """The store refused our credentials, or there are none. Says which source of credentials was tried."""

    exit_code = EXIT_SIGN_IN


class InvalidKeyError(StoreError, ValueError):
    """A key outside the contract: 1 to 900 printable characters, no leading `/`, no empty, `.` or `..` segment."""

    exit_code = EXIT_USAGE


class KeyNotFoundError(StoreError, KeyError):
    """An update was asked for a key that the store does not have."""

    exit_code = EXIT_NO_SUCH_JOB


class ValueTooLargeError(StoreError):
    """A value is larger than the backend, or the reader, takes."""

    exit_code = EXIT_REFUSED


# --- jobs --------------------------------------------------------------------------------------------------------


class JobError(MopsJobsError):
    """A rule about jobs was broken. `job_id` names the job."""

    def __init__(self, message: str, *, job_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.job_id = job_id


class JobNotFoundError(JobError, KeyError):
    """No job has this id. Also a KeyError, as ModelOps' registry raises."""

    exit_code = EXIT_NO_SUCH_JOB


class AmbiguousJobError(JobError):
    """A prefix fits several jobs. `candidates` are their ids, at most a handful."""

    exit_code = EXIT_NO_SUCH_JOB

    def __init__(self, message: str, *, job_id: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message, job_id=job_id, hint="Candidates: " + ", ".join(candidates))
        self.candidates = candidates


class JobExistsError(JobError):
    """A job with this id is registered already."""

    exit_code = EXIT_REFUSED


class JobBusyError(JobError):
    """Somebody is at work on the job, or has done the work."""

    exit_code = EXIT_REFUSED


class NoOutputsError(JobError):
    """The job has left nothing so far."""

    exit_code = EXIT_REFUSED


class NoManifestError(JobError):
    """The job was reported, not submitted: nothing says what it was to run."""

    exit_code = EXIT_REFUSED


class InvalidTransitionError(JobError):
    """The state machine has no way from `from_status` to `to_status`."""

    exit_code = EXIT_REFUSED

    def __init__(self, message: str, *, job_id: str, from_status: str, to_status: str, hint: str | None = None) -> None:
        super().__init__(message, job_id=job_id, hint=hint)
        self.from_status = from_status
        self.to_status = to_status


class TerminalStateError(InvalidTransitionError):
    """The job has ended; its record does not change any more."""


class TooManyRetriesError(MopsJobsError):
    """The compare-and-swap race on `key` was lost `attempts` times in a row. Nothing was written."""

    exit_code = EXIT_REFUSED

    def __init__(self, message: str, *, key: str, attempts: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.attempts = attempts


MAX_REASON = 500
"""Characters of the reason why bytes are no record: a cache keeps one for each."""


class RecordError(MopsJobsError, ValueError):
    """Bytes that are no record. `reason` says why, without the key, so that a report can group them."""

    exit_code = EXIT_REFUSED

    def __init__(self, reason: str, *, key: str | None = None) -> None:
        reason = shortened(reason, MAX_REASON)
        super().__init__(f"{key}: {reason}" if key else reason, hint="See: mops-jobs doctor" if key else None)
        self.key = key
        self.reason = reason


# --- engines -----------------------------------------------------------------------------------------------------


class EngineError(MopsJobsError):
    """An engine refused, or gave an answer that makes no sense."""


class EngineUnavailableError(EngineError):
    """An engine could not be reached, or asked us to come back later."""

    exit_code = EXIT_UNREACHABLE


class EngineAccessError(EngineError):
    """An engine refused our credentials, or there are none."""

    exit_code = EXIT_SIGN_IN


class EnginePlaceError(EngineError):
    """A record says that its job is where the engine cannot have one. Nothing was asked."""

    exit_code = EXIT_REFUSED
