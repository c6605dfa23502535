"""What a project file may decide, and whose file is obeyed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.run import config
from mopsjobs.errors import ConfigError
from support.home import Home

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "text",
    [
        "color = " + "[" * 3000,
        "color = " + "9" * 5000,
        'cache = "~\\u0000/x"',
        'registry = "sqlite:\\u202e"',
        ".".join(["a"] * 20_000) + " = 1",
        'color = "' + "x" * 10**6 + '"',
    ],
    ids=["depth", "digits", "NUL", "bidirectional mark", "parts", "size"],
)
def test_a_hostile_project_file_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    """It may come with a study, and every command reads it."""
    (tmp_path / config.PROJECT_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"[Tt]he configuration file"):
        config.load({}, {"HOME": str(tmp_path)}, str(tmp_path))


ANOTHER = 65534
"""A user who is neither root nor the one that runs the tests."""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives files away.")


@pytest.mark.claim("Other project files are ignored and named")
@pytest.mark.parametrize(
    ("owner", "mode", "above", "above_mode", "reason"),
    [
        pytest.param(ANOTHER, 0o644, None, 0o755, f"it belongs to another user (uid {ANOTHER})", marks=only_root),
        pytest.param(None, 0o644, ANOTHER, 0o755, "its directory belongs to another user", marks=only_root),
        (None, 0o646, None, 0o755, "every user may write to it"),
        (None, 0o644, None, 0o757, "every user may write its directory"),
        (None, 0o644, None, 0o1777, "every user may write its directory"),
    ],
    ids=["owner", "owner of directory", "file", "directory", "sticky directory"],
)
def test_a_project_file_of_others_is_not_obeyed(
    home: Home, owner: int | None, mode: int, above: int | None, above_mode: int, reason: str
) -> None:
    """In `/tmp` it would reach every user who works below: it is passed and named, with the reason."""
    path = home.write_project('registry = "sqlite:theirs.db"\ncache = "~/.bashrc"\ncolor = 7\n')
    path.chmod(mode)
    home.project.chmod(above_mode)
    if owner is not None:
        os.chown(path, owner, -1)
    if above is not None:
        os.chown(home.project, above, -1)
    settings = home.load(home.below)
    assert (settings.registry.origin, settings.cache.origin, settings.files) == ("default", "default", ())
    assert settings.redirected_by is None
    (sentence,) = settings.ignored
    assert sentence.startswith(f"The project file {path} is ignored: {reason}")
    assert sentence.endswith(" If you trust it, name its registry yourself: MOPS_JOBS_REGISTRY, or config.toml.")


@only_root
def test_a_link_of_another_user_is_not_obeyed(home: Home) -> None:
    """In a directory of a group, a member may link to another project's file, whose paths then lead into this one."""
    path = home.write_project('registry = "sqlite:r.db"')
    link = home.below / config.PROJECT_FILE
    link.symlink_to(path)
    assert home.load(home.below).registry.value == f"sqlite://{home.below}/r.db"
    os.chown(link, ANOTHER, -1, follow_symlinks=False)
    settings = home.load(home.below)
    assert settings.registry.value == f"sqlite://{path.parent}/r.db"
    (sentence,) = settings.ignored
    assert sentence.startswith(f"The project file {link} is ignored: it belongs to another user (uid {ANOTHER}). ")


@only_root
@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_users_file_of_another_user_is_not_obeyed(home: Home, place: str) -> None:
    """As root with the home of a user: that user could have root write a cache anywhere, and trust any record."""
    path = home.write_user('cache = "/etc/profile.d/x.sh"\ntrusted = ["context:prod"]\n')
    path.chmod(0o666)  # as in some mounts of clusters; root may own it there
    assert home.load().trusted == ("context:prod",)
    owned = path if place == "file" else path.parent
    os.chown(owned, ANOTHER, -1)
    settings = home.load()
    assert (settings.cache.origin, settings.trusted, settings.files) == ("default", (), ())
    named = "it" if place == "file" else "its directory"
    told = f"The configuration file {path} is ignored: {named} belongs to another user (uid {ANOTHER})."
    assert settings.ignored == (told,)


@pytest.mark.claim("Other project files are ignored and named")
def test_the_search_goes_on_above_an_ignored_project_file(home: Home) -> None:
    """As if it were not there: who plants one can neither redirect nor hide the registry of the project above."""
    outer = home.write_project('registry = "sqlite:r.db"')
    inner = home.below / ".mops-jobs.toml"
    inner.write_text('registry = "sqlite:theirs.db"')
    inner.chmod(0o666)
    settings = home.load(home.below)
    assert (settings.files, settings.redirected_by) == ((str(outer),), str(outer))
    assert [str(inner) in sentence for sentence in settings.ignored] == [True]


@pytest.mark.claim("Write permission for a group does not count")
def test_a_project_file_that_a_group_may_write_is_obeyed(home: Home) -> None:
    """It is the default of a umask of 002, and the group may change the code of the study as well."""
    path = home.write_project('registry = "sqlite:r.db"\ncache = "c.db"\n')
    path.chmod(0o664)
    home.project.chmod(0o2775)
    assert home.load().files == (str(path),)


@pytest.mark.claim("No secret goes to a port that a group chose")
def test_a_port_of_this_machine_is_not_taken_from_a_file_of_a_group(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each member may listen there, and credentials would go there; in a flag it is the user's own choice."""
    path = home.write_project('registry = "http://127.0.0.1:1234/account/jobs"\n')
    path.chmod(0o664)
    assert home.load(registry="http://localhost:1234/account/jobs").registry.origin == "flag --registry"
    monkeypatch.setattr("mopsjobs.app.run.project_file._is_private_group", lambda group: True)
    assert home.load().registry.value.startswith("http://127.0.0.1:")
    monkeypatch.setattr("mopsjobs.app.run.project_file._is_private_group", lambda group: False)
    with pytest.raises(ConfigError, match="a group may write this file") as caught:
        home.load()
    assert (caught.value.exit_code, caught.value.hint) == (2, f"Run: chmod g-w {path}")
    path.chmod(0o644)
    assert home.load().redirected_by == str(path)


@pytest.mark.claim("A cache of a project file lies below it")
@pytest.mark.parametrize(
    "cache",
    ["~/.vim/plugin/x.vim", "/tmp/x.db", "../x.db", "a/../../x.db", "out/x.db", "link.db", ".", "a/b/../../.."],
)
def test_a_cache_outside_of_the_project_is_refused(home: Home, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path, by `..` or by a link: it would put text of a registry where another program runs it."""
    monkeypatch.setenv("HOME", str(home.root))
    (home.project / "out").symlink_to(home.root)
    (home.project / "link.db").symlink_to(home.root / "elsewhere.db")
    path = home.write_project(f'cache = "{cache}"')
    with pytest.raises(ConfigError) as caught:
        home.load(home.below)
    expected = f"{cache}' in {path}: expected a path below the directory of this project file."
    assert str(caught.value).startswith("invalid cache '")
    assert str(caught.value).endswith(expected)
    assert caught.value.exit_code == 2
    assert home.load(cache="/mine.db").cache.value == "/mine.db"
    home.write_user(f'cache = "{home.root}/users.db"')
    path.unlink()
    assert home.load().cache.value == f"{home.root}/users.db"


@pytest.mark.claim("A cache of a project file lies below it")
def test_a_cache_below_the_project_is_taken(home: Home) -> None:
    """Also through a link that stays within, and where the project is reached by a link."""
    (home.project / "in").symlink_to(home.below)
    home.write_project('cache = "in/c.db"')
    (home.root / "short").symlink_to(home.project)
    for cwd in (home.below, home.root / "short"):
        assert home.load(cwd).cache.value == f"{home.below}/c.db"
