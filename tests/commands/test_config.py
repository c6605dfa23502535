"""`config show`: each setting and its origin; and the project file that every command names."""

from __future__ import annotations

import pytest

from support.cli import Cli


def test_config_show_says_where_each_setting_came_from(cli: Cli) -> None:
    """Flag, environment, project file, user file, default: the first that speaks wins, and is named."""
    home = cli.cache.parent
    (home / ".mops-jobs.toml").write_text('registry = "sqlite:project.db"\nstale_after = "1h"\n')
    (home / ".config" / "mops-jobs").mkdir(parents=True)
    (home / ".config" / "mops-jobs" / "config.toml").write_text('stale_after = "2h"\ncolor = "never"\n')
    cli.env.pop("MOPS_JOBS_REGISTRY")
    shown = cli.ok("config", "show", "--json", "--cache", "here.db").json
    assert shown == {
        "registry": {"value": f"sqlite://{home}/project.db", "origin": f"file {home}/.mops-jobs.toml"},
        "cache": {"value": f"{home}/here.db", "origin": "flag --cache"},
        "color": {"value": "never", "origin": f"file {home}/.config/mops-jobs/config.toml"},
        "stale_after": {"value": "1h", "origin": f"file {home}/.mops-jobs.toml"},
        "max_local_workers": {"value": "cores", "origin": "default"},
    }
    table = cli.ok("config", "show", MOPS_JOBS_STALE_AFTER="3h").lines
    assert table[0].split() == ["SETTING", "VALUE", "FROM"]
    assert any(line.split() == ["stale_after", "3h", "environment", "MOPS_JOBS_STALE_AFTER"] for line in table)


EVERY = [
    ("list",), ("list", "-q"), ("status", "a"), ("summary",), ("query", "SELECT 1"), ("events",),
    ("sync",), ("doctor",), ("config", "show"), ("metrics",), ("update", "a", "--label", "x=y"), ("schema",),
]  # fmt: skip


@pytest.mark.claim("Each view names the project file that named the registry")
def test_each_command_names_the_project_file_that_it_obeys(cli: Cli) -> None:
    """A file of the study's directory may redirect the registry: each view says which one did, JSON included."""
    path = cli.cache.parent / ".mops-jobs.toml"
    path.write_text('registry = "sqlite:project.db"')
    for name in ("MOPS_JOBS_REGISTRY", "MOPS_JOBS_CACHE"):
        cli.env.pop(name)
    sentence = f"The registry is sqlite://{path.parent}/project.db, named by {path}"
    assert sentence in cli.ok("register", "a").err
    for argv in EVERY:
        assert sentence in cli.ok(*argv).err.splitlines(), argv
    for argv in (("list", "--json"), ("summary", "--json")):
        assert cli.ok(*argv).json["registry_from"] == f"file {path}"
    assert str(path) in cli.ok("doctor").out
    assert sentence not in cli.ok("list", "--registry", "sqlite:other.db").err
    assert cli.ok("sync", "-q").err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prices = 3", "invalid prices in the configuration file"),
        ("[prices]\ncore_hour = 1", "invalid currency in [prices]"),
        ('[prices]\ncurrency = "EUR"', "missing price in [prices]"),
        ('[prices]\ncurrency = "EUR"\ncore_hour = -1', "invalid core_hour in [prices]"),
        ('[prices]\ncurrency = "EUR"\ngib_month = nan', "invalid gib_month in [prices]"),
        ('[prices]\ncurrency = "EUR"\ncore_hours = 1', "Did you mean 'core_hour'?"),
    ],
)
def test_a_table_of_prices_that_means_nothing_is_refused(cli: Cli, text: str, message: str) -> None:
    (cli.cache.parent / ".mops-jobs.toml").write_text(text)
    assert message in cli.fails(2, "config", "show")


def test_prices_are_settings_of_the_nearest_file(cli: Cli) -> None:
    home = cli.cache.parent
    (home / ".config" / "mops-jobs").mkdir(parents=True)
    (home / ".config" / "mops-jobs" / "config.toml").write_text('[prices]\ncurrency = "EUR"\ncore_hour = 0.05\n')
    shown = cli.ok("config", "show", "--json").json["prices"]
    assert shown == {"value": "0.05 EUR per core-hour", "origin": f"file {home}/.config/mops-jobs/config.toml"}
    (home / ".mops-jobs.toml").write_text('[prices]\ncurrency = "USD"\ncore_hour = 2\ngib_month = 0.02\n')
    shown = cli.ok("config", "show", "--json").json["prices"]
    assert shown["value"] == "2 USD per core-hour, 0.02 USD per GiB and month"
