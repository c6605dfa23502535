"""The rules of the configuration: what they may say, where they may stand, and that no secret is repeated."""

from __future__ import annotations

import pytest

from mopsjobs.app.run.notify_rules import check_rules
from mopsjobs.errors import ConfigError, UsageError
from support.home import Home

SECRET = "https://hooks.example.org/services/T0/B0/hunter2"

WORD = "hunter2"


def test_a_rule_says_what_it_says(home: Home) -> None:
    """Each key of a rule, and the defaults of the others."""
    home.write_user(
        '[notify.team-a]\ntype = "slack"\non = ["failed", "suspect"]\njobs = "all"\nlabel = ["exp=7", "nightly"]\n'
        '[notify.me]\ntype = "email"\nto = "me@example.org"\nserver = "smtp.example.org"\nuser = "me"\n'
        '[notify.desk]\ntype = "command"\ncommand = ["notify-me", "--now"]\n'
    )
    team, me, desk = home.load().rules
    assert (team.occasions, team.jobs, team.labels) == (("failed", "suspect"), "all", ("exp=7", "nightly"))
    assert (team.variable, team.needs_secret) == ("MOPS_JOBS_NOTIFY_TEAM_A", True)
    assert (me.to, me.sender, me.server, me.user) == (
        ("me@example.org",), "me@example.org", ("smtp.example.org", 587), "me",
    )  # fmt: skip
    assert (me.occasions, me.jobs, me.needs_secret) == (("end", "failures", "suspect"), "named", True)
    assert (desk.command, desk.needs_secret) == (("notify-me", "--now"), False)


REFUSED = {
    "a text": 'notify = "x"',
    "no type": "[notify.me]",
    "another type": '[notify.me]\ntype = "pager"',
    "a name with a slash": '[notify."a/b"]\ntype = "slack"',
    "other jobs": '[notify.me]\ntype = "slack"\njobs = "ours"',
    "a command as a text": '[notify.me]\ntype = "command"\ncommand = "notify-me"',
    "a command with a line": '[notify.me]\ntype = "command"\ncommand = ["a\\nb"]',
    "no address": '[notify.me]\ntype = "email"',
    "two addresses in one": '[notify.me]\ntype = "email"\nto = "a@example.org, b@example.org"',
    "an address with a line": '[notify.me]\ntype = "email"\nto = "a@example.org\\r\\nBcc: b@example.org"',
    "an address with a name": '[notify.me]\ntype = "email"\nto = "Me <me@example.org>"',
    "a server as a URL": '[notify.me]\ntype = "email"\nto = "a@example.org"\nserver = "smtp://example.org"',
    "a key of another type": '[notify.me]\ntype = "slack"\nto = "a@example.org"',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_malformed_rule_is_refused(home: Home, text: str) -> None:
    """With the file, and what is expected; and by every command, as any other mistake of the file."""
    path = home.write_user(text)
    with pytest.raises(ConfigError, match=str(path)):
        home.load()


LITERALS = {
    "a URL as the type": f'[notify.me]\ntype = "{SECRET}"',
    "a URL": f'[notify.me]\ntype = "slack"\nurl = "{SECRET}"',
    "a URL under the name of the type": f'[notify.me]\ntype = "slack"\nslack = "{SECRET}"',
    "a password": f'[notify.me]\ntype = "email"\nto = "a@example.org"\npassword = "{WORD}"',
    "a server with a password": f'[notify.me]\ntype = "email"\nto = "a@example.org"\nserver = "me:{WORD}@example.org"',
    "a URL among events": f'[notify.me]\ntype = "slack"\non = ["{SECRET}"]',
    "a URL among jobs": f'[notify.me]\ntype = "slack"\njobs = "{SECRET}"',
}


@pytest.mark.claim("A secret in a rule is refused")
@pytest.mark.parametrize("text", LITERALS.values(), ids=LITERALS)
def test_a_secret_in_the_file_is_refused_and_not_repeated(home: Home, text: str) -> None:
    """There is no key for one: it belongs into the environment."""
    home.write_user(text)
    with pytest.raises(ConfigError) as caught:
        home.load()
    assert WORD not in "".join([str(caught.value), str(caught.value.hint)])


@pytest.mark.claim("A project file has no rule of notifications")
def test_a_project_file_tells_nobody(home: Home) -> None:
    """It may come with the study of another person, and a command in it would run."""
    home.write_project('[notify.me]\ntype = "command"\ncommand = ["touch", "here"]')
    with pytest.raises(ConfigError, match="only the user's configuration file"):
        home.load()


def test_a_rule_has_to_exist_to_be_named(home: Home) -> None:
    """The nearest name is suggested."""
    home.write_user('[notify.team]\ntype = "slack"')
    rules = home.load().rules
    with pytest.raises(UsageError, match="invalid rule 'taem': expected one of team"):
        check_rules(rules, ["taem"], {})
    with pytest.raises(UsageError, match="MOPS_JOBS_NOTIFY_TEAM is not set"):
        check_rules(rules, ["team"], {})
    check_rules(rules, ["team"], {"MOPS_JOBS_NOTIFY_TEAM": SECRET})
    with pytest.raises(UsageError, match="there is no rule"):
        check_rules((), ["team"], {})
