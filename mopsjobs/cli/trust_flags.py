"""`--trust`, and the question about what only a record chooses: shared by cancel, logs, reconcile and resume."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from mopsjobs.app.app import App
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import Trust, check_choice, first_jobs, refusal
from mopsjobs.errors import ConfigError, UsageError


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare `--trust`."""
    parser.add_argument(
        "--trust",
        metavar="KIND:VALUE",
        action="append",
        default=[],
        help="use this value, though only a record names it, like context:prod; repeat for more (default: ask)",
    )


def trust_of(args: argparse.Namespace, app: App) -> Trust:
    """Return what the user trusts: by `--trust`, and by the list in the configuration of the user.

    Raises:
        UsageError: if a flag is not valid.
        ConfigError: if an entry of the list is not valid.
    """
    try:
        patterns = [check_choice(pattern) for pattern in app.settings.trusted]
    except UsageError as error:
        message = error.message.rstrip(".")
        raise ConfigError(f"{message} (trusted, from the user's configuration file).") from None
    return Trust([check_choice(choice) for choice in args.trust], patterns)


def contexts_of(jobs: Iterable[Mapping[str, object]], app: App, trust: Trust) -> dict[str, list[str]]:
    """Return the contexts that only records name, each with the jobs of these records."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        if engine_of(job) != "kubernetes":
            continue
        from mopsjobs.engines.kubernetes.engine import unknown_context

        choice = unknown_context(job, app.env, trust)
        if choice is not None:
            found.setdefault(choice, []).append(str(job["job_id"]))
    return found


def is_agreed(app: App, found: Mapping[str, list[str]]) -> bool | None:
    """Ask the user whether to use what only records name.

    Args:
        app: the command.
        found: the choices, each with the jobs whose records name it; not empty.

    Returns:
        None if there is no terminal to ask at.
    """
    return app.out.ask(f"Use {', '.join(found)}, which only the record of {first_jobs(found)} names?")


def agreed_trust(trust: Trust, found: Mapping[str, list[str]], app: App, outcome: str) -> Trust | None:
    """Return the user's trust with the choices of records, after asking for each that the user has not named.

    Args:
        trust: what the user has named.
        found: choices that the user has not named, each with the jobs whose records name it.
        app: the command.
        outcome: what happens without trust, for the error: "nothing was launched".

    Returns:
        None if the user does not agree.

    Raises:
        NotTrustedError: if there is no terminal to ask at.
    """
    if not found:
        return trust
    answer = is_agreed(app, found)
    if answer is None:
        raise refusal(found, outcome)
    return trust.plus(found) if answer else None
