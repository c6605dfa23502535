"""Fields of requests as flags of the command line."""

from __future__ import annotations

import pytest

from mopsjobs.cli.flags import with_flags
from mopsjobs.errors import EXIT_USAGE, OptionError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OptionError("invalid workers '0': expected 1 or more.", "workers"),
         "invalid --workers '0': expected 1 or more."),
        (OptionError("service_account has no effect.", "service_account"), "--service-account has no effect."),
        (OptionError("invalid python 'python': expected a program.", "python"),
         "invalid --python 'python': expected a program."),
        (OptionError("follow and offline contradict each other.", "follow", "offline"),
         "--follow and --offline contradict each other."),
    ],
)  # fmt: skip
def test_an_error_names_the_flag(error: OptionError, message: str) -> None:
    """Each field becomes its flag once. A value of the same text stays as it is."""
    found = with_flags(error, ["submit", "study.json"])
    assert (str(found), found.exit_code) == (message, EXIT_USAGE)


def test_the_hint_stays() -> None:
    """The next thing to try is the same."""
    assert with_flags(OptionError("x has no effect.", "x", hint="Leave it out."), []).hint == "Leave it out."


def test_an_error_names_a_flag_as_it_was_typed() -> None:
    """Slurm has other names for some flags. The last one has set the field."""
    error = OptionError("invalid memory '1foo': expected a size.", "memory")
    for words, flag in (("submit --memory 4G --mem=1foo", "--mem"), ("submit --mem 4G --memory 1foo", "--memory")):
        assert str(with_flags(error, words.split())) == f"invalid {flag} '1foo': expected a size."
