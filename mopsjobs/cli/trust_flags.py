"""`--trust`, and the question about what only a record chooses: shared by cancel, logs, reconcile and resume."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping

from mopsjobs.app.app import App
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import NotTrustedError, Trust, check_choice, flags_for
from mopsjobs.errors import ConfigError, UsageError

CONFIG_HINT = "Or for good, in ~/.config/mops-jobs/config.toml: trusted = [{}]"


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
    """What the user trusts: by `--trust`, and by the list in the configuration of the user.

    Raises:
        UsageError: if one of them has another form.
    """
    try:
        patterns = [check_choice(one) for one in app.settings.trusted]
    except UsageError as error:
        raise ConfigError(f"{error.message} (trusted, from the user's configuration file)") from None
    return Trust([check_choice(one) for one in args.trust], patterns)


def contexts_of(jobs: Iterable[Mapping[str, object]], app: App, trust: Trust) -> dict[str, list[str]]:
    """The contexts that only records name, each with the jobs whose records do."""
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
    """Ask a person whether to use what only records name; None without a terminal to ask at.

    Args:
        app: the run.
        found: the choices, each with the jobs whose records name it; not empty.
    """
    jobs = list(dict.fromkeys(job for names in found.values() for job in names))
    return app.out.ask(f"Use {', '.join(found)}, which only the record of {_some(jobs)} names?")


def refusal(found: Mapping[str, list[str]], done: str) -> NotTrustedError:
    """Return the error for choices without the user's agreement."""
    jobs = list(dict.fromkeys(job for names in found.values() for job in names))
    choices = list(found)
    listed = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return NotTrustedError(
        f"Only the record of {_some(jobs)} names {', '.join(choices)}; {done}."
        f" If you trust {'it' if len(choices) == 1 else 'them'}, add: {flags_for(choices)}",
        hint=CONFIG_HINT.format(listed),
    )


def _some(jobs: list[str]) -> str:
    return ", ".join(jobs[:3]) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
