"""Settings, registry URLs and project files: which wins, what is refused, and that no secret is repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mopsjobs.app.run import config
from mopsjobs.app.run.modelops_environment import with_environment
from mopsjobs.errors import ConfigError
from support.home import ACCOUNT, CONNECTION_STRING, Home
from support.runs import tree

# --- who speaks first -----------------------------------------------------------------------------------------------

VALUES = {
    "registry": [f"sqlite:///{source}.db" for source in ("flag", "env", "project", "user")],
    "cache": ["/cache/flag.db", "/cache/env.db", "PROJECT/project.db", "/cache/user.db"],
    "color": ["always", "never", "auto", "always"],
    "stale_after": ["1m", "2m", "3m", "4m"],
    "max_local_workers": ["1", "2", "3", "cores"],
}


@pytest.mark.parametrize("name", VALUES)
def test_flag_beats_environment_beats_project_file_beats_user_file(home: Home, name: str) -> None:
    """For each setting; and `config show` is told which one it was."""
    flag, environment, project, user = [value.replace("PROJECT", str(home.project)) for value in VALUES[name]]
    variable = f"MOPS_JOBS_{name.upper()}"

    def found(**arguments: object) -> tuple[str, str]:
        setting = home.load(**arguments).by_name()[name]  # type: ignore[arg-type]
        return setting.value, setting.origin

    assert found()[1] == "default"
    user_file = home.write_user(f'{name} = "{user}"')
    assert found() == (user, f"file {user_file}")
    project_file = home.write_project(f'{name} = "{project}"')
    assert found() == (project, f"file {project_file}")
    assert found(env={variable: environment}) == (environment, f"environment {variable}")
    assert found(env={variable: environment}, **{name: flag}) == (flag, f"flag --{name}")
    assert found(env={variable: ""}, **{name: None}) == (project, f"file {project_file}")


def test_the_default_is_an_embedded_registry_in_the_data_directory(home: Home) -> None:
    """To try it needs no account, no file and no variable."""
    settings = home.load()
    assert settings.registry.value == f"sqlite://{home.root}/.local/share/mops-jobs/registry.db"
    assert settings.cache.value.startswith(f"{home.root}/.cache/mops-jobs/")
    assert (settings.color.value, settings.stale_after.value) == ("auto", "15m")
    assert (settings.is_local, settings.files) == (True, ())


@pytest.mark.parametrize("env", [ACCOUNT, {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION_STRING}], ids=["name", "text"])
def test_an_account_in_the_environment_means_the_registry_in_it(home: Home, env: dict[str, str]) -> None:
    """With Azure's settings at hand, the container of ModelOps is the default; a file still beats that."""
    settings = home.load(env=env)
    assert (settings.registry.value, settings.is_local) == ("azure://job-registry", False)
    home.write_user('registry = "sqlite:///r.db"')
    assert home.load(env=env).registry.value == "sqlite:///r.db"


def test_the_directories_of_the_xdg_specification_are_used(home: Home) -> None:
    """An absolute value is taken; a relative one is ignored, as the specification says."""
    names = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
    (home.root / "conf" / "mops-jobs").mkdir(parents=True)
    (home.root / "conf" / "mops-jobs" / "config.toml").write_text('color = "never"')
    xdg = dict(zip(names, [f"{home.root}/conf", f"{home.root}/data", f"{home.root}/cache"], strict=True))
    settings = home.load(env=xdg)
    assert settings.color.value == "never"
    assert settings.registry.value == f"sqlite://{home.root}/data/mops-jobs/registry.db"
    assert settings.cache.value.startswith(f"{home.root}/cache/mops-jobs/")
    assert home.load(env=dict.fromkeys(names, "rel")).registry.value == home.load().registry.value


@pytest.mark.claim("Without a home directory nothing is below `./~`")
@pytest.mark.parametrize("env", [{}, {"HOME": ""}, {"HOME": "~"}, {"HOME": "here"}], ids=str)
def test_without_a_home_the_embedded_registry_has_no_place(
    home: Home, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not put below `./~`, nor below the temporary directory, where it would be lost; a named one works."""

    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if env:
        monkeypatch.setenv("HOME", env["HOME"])
    with pytest.raises(ConfigError, match="There is no place for the embedded registry") as caught:
        config.load({}, env, str(home.project))
    assert caught.value.exit_code == 2
    settings = config.load({"registry": "sqlite:///r.db"}, env, str(home.project))
    assert settings.cache.origin == "default without a home directory"
    assert config.load({"registry": "sqlite:///r.db", "cache": "c.db"}, env, None).cache.origin == "flag --cache"
    if env != {"HOME": ""}:  # which Python takes for `/`
        for url in ("sqlite:~/r.db", "sqlite:~no-such-user/r.db"):
            with pytest.raises(ConfigError, match="invalid path '~") as caught:
                config.load({"registry": url}, env, None)
            assert "flag --registry" in str(caught.value)
        with pytest.raises(ConfigError, match=r"invalid path '~/c\.db'"):
            config.load({"registry": "memory:", "cache": "~/c.db"}, env, None)


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_nearest_project_file_above_is_used_and_no_other(home: Home) -> None:
    """From a directory below it counts; a nearer one replaces it as a whole."""
    outer = home.write_project('color = "never"\nstale_after = "2h"')
    assert home.load(home.below).files == (str(outer),)
    inner = home.below.parent / ".mops-jobs.toml"
    inner.write_text('color = "always"')
    settings = home.load(home.below)
    assert (settings.files, settings.color.value, settings.stale_after.value) == ((str(inner),), "always", "15m")
    assert home.load(home.root).files == ()


def test_a_relative_path_in_a_file_counts_from_the_file(home: Home) -> None:
    """Wherever below it the command is run."""
    home.write_project('registry = "sqlite:data/r.db"\ncache = "cache/c.db"')
    for cwd in (home.project, home.below):
        settings = home.load(cwd)
        assert settings.registry_id == f"sqlite://{home.project}/data/r.db"
        assert settings.cache.value == f"{home.project}/cache/c.db"


def test_a_tilde_is_the_home_directory(home: Home) -> None:
    """In a file no shell has replaced it, nor after the colon of a registry on the command line."""
    meant = f"sqlite://{os.path.expanduser('~/r.db')}"
    home.write_user('cache = "~/c.db"\nregistry = "sqlite:~/r.db"')
    assert home.load().cache.value == os.path.expanduser("~/c.db")
    assert home.load().registry_id == meant
    assert home.load(registry="sqlite:~/r.db").registry_id == meant


@pytest.mark.parametrize("where", ["user", "project"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('regsitry = "memory:"', "an unknown key 'regsitry': expected one of registry, cache, color, stale_after"),
        ('cache = ""', "invalid cache in the configuration file"),
        ("registry = memory:", "is not valid TOML: "),
        ('color = "pink"', "invalid color mode 'pink': expected one of auto, always, never"),
        ('stale_after = "soon"', "invalid duration 'soon'"),
        ("max_local_workers = 0", "invalid number of workers '0'"),
        ('registry = "nowhere"', "invalid registry URL 'nowhere'"),
        ('registry = "sqlite:"', "expected a file"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(home: Home, where: str, text: str, named: str) -> None:
    """A wrong key, a wrong type, no TOML, a value without sense: one line that names the file and what is wrong."""
    path = home.write_user(text) if where == "user" else home.write_project(text)
    with pytest.raises(ConfigError) as caught:
        home.load()
    message = str(caught.value)
    assert named in message
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_each_registry_has_a_cache_with_a_recognisable_name(home: Home) -> None:
    """Names differ even where only what a file name cannot hold tells the registries apart."""
    urls = ["azure://abc", "azure://abc-d", "https://other.blob.core.windows.net/abc"]
    urls += ["sqlite:///r/c.db", "sqlite:///r-c.db"]
    urls += ["sqlite:///" + "x" * 300, "sqlite:///" + "y" * 10 + "x" * 300, "memory:", "sqlite:///é", "sqlite:///è"]
    caches = {url: os.path.basename(home.load(registry=url, env=ACCOUNT).cache.value) for url in urls}
    assert len(set(caches.values())) == len(urls)
    assert caches["azure://abc"].startswith("acct-blob-core-windows-net-abc-")
    assert all(len(name) < 70 and name.endswith(".db") and name.isascii() for name in caches.values())


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


FILE = """\
environment: dev
registry: {provider: acr, login_server: example.azurecr.io, requires_auth: true}
storage:
  provider: azure
  container: bundle-blobs
  connection_string: AccountName=devs;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net
timestamp: '2026-03-01T10:00:00.000000'
"""


def _write(home: Path, text: str, name: str = "dev") -> dict[str, str]:
    tree(home, {f".modelops/bundle-env/{name}.yaml": text})
    return {"HOME": str(home)}


def test_the_file_replaces_what_the_environment_says_about_azure(tmp_path: Path) -> None:
    """Also another account: the flag was written for this command."""
    env = _write(tmp_path, FILE) | {"AZURE_STORAGE_ACCOUNT": "other", "AZURE_STORAGE_KEY": "k", "AZURE_CLIENT_ID": "c"}
    assert with_environment("dev", env) == {
        "HOME": str(tmp_path),
        "AZURE_CLIENT_ID": "c",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=devs;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net",
    }


@pytest.mark.parametrize("name", ["de", "../bundle-env/dev", "", "dev\n", "x" * 300])
def test_an_unknown_environment_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    """A name is never a path."""
    _write(tmp_path, FILE, "prod")
    with pytest.raises(ConfigError, match="expected one of dev, prod") as caught:
        with_environment(name, _write(tmp_path, FILE))
    assert "AZURE_STORAGE_CONNECTION_STRING" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["storage: {", "[]", "storage: 1", "storage: {connection_string: 1}", "a: b: c2VjcmV0"]
)
def test_a_damaged_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"The file .*dev\.yaml of the environment (is not|has no)") as caught:
        with_environment("dev", _write(tmp_path, text))
    assert "c2Vj" not in f"{caught.value} {caught.value.hint}"


def test_a_file_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could send what this user stores to another account."""
    env = _write(tmp_path, FILE)
    monkeypatch.setattr("mopsjobs.app.run.modelops_environment.why_foreign", lambda path: "it belongs to another user")
    with pytest.raises(ConfigError, match="is not used: it belongs to another user"):
        with_environment("dev", env)
