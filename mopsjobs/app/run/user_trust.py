"""What the user trusts among the choices of records: named in the command, in the configuration, or in a reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mopsjobs.app.run.app import App
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import Trust, check_choice, first_jobs, not_trusted_error
from mopsjobs.errors import ConfigError, UsageError


def user_trust(named: Iterable[str], app: App) -> Trust:
    """Return what the user trusts.

    Args:
        named: the choices that the user names, as `KIND:VALUE`.
        app: the run, whose configuration lists more.

    Raises:
        UsageError: if a choice is not valid.
        ConfigError: if an entry of the list is not valid.
    """
    try:
        patterns = [check_choice(pattern) for pattern in app.settings.trusted]
    except UsageError as error:
        message = f"{error.message.rstrip('.')} (trusted, from the user's configuration file)."
        raise ConfigError(message, hint=error.hint) from None
    return Trust([check_choice(choice) for choice in named], patterns)


def unknown_contexts(jobs: Iterable[Mapping[str, object]], app: App, trust: Trust) -> dict[str, list[str]]:
    """Return the contexts that only records name, each with the jobs of these records."""
    jobs_by_choice: dict[str, list[str]] = {}
    for job in jobs:
        if engine_of(job) == "kubernetes":
            from mopsjobs.engines.kubernetes.engine import unknown_context

            if (choice := unknown_context(job, app.env, trust)) is not None:
                jobs_by_choice.setdefault(choice, []).append(str(job["job_id"]))
    return jobs_by_choice


def trust_after_question(jobs: Iterable[Mapping[str, object]], app: App, trust: Trust) -> Trust:
    """Return the trust with the contexts that only records name, if the user agrees.

    Without a terminal, and after a no, it stays as it is. The engine then refuses the contexts.
    """
    jobs_by_choice = unknown_contexts(jobs, app, trust)
    return trust.plus(jobs_by_choice) if jobs_by_choice and _is_agreed(app, jobs_by_choice) else trust


def agreed_trust(trust: Trust, jobs_by_choice: Mapping[str, list[str]], app: App, outcome: str) -> Trust | None:
    """Return the user's trust with the choices of records, after asking for each that the user has not named.

    Args:
        trust: what the user has named.
        jobs_by_choice: the choices that the user has not named, each with the jobs whose records name it.
        app: the run.
        outcome: what happens without trust, for the error: "nothing was launched".

    Returns:
        None if the user does not agree.

    Raises:
        NotTrustedError: if there is no terminal to ask at.
    """
    if not jobs_by_choice:
        return trust
    answer = _is_agreed(app, jobs_by_choice)
    if answer is None:
        raise not_trusted_error(jobs_by_choice, outcome)
    return trust.plus(jobs_by_choice) if answer else None


def _is_agreed(app: App, jobs_by_choice: Mapping[str, list[str]]) -> bool | None:
    """Ask the user whether to use what only records name. Return None if there is no terminal to ask at."""
    return app.out.ask(f"Use {', '.join(jobs_by_choice)}, which only the record of {first_jobs(jobs_by_choice)} names?")
