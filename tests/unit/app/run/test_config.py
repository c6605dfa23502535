"""Settings and registry URLs: who speaks first, what is refused and how it is named, and that no secret is repeated."""

from __future__ import annotations

import os

import pytest

from mopsjobs.app.run import config
from mopsjobs.errors import ConfigError
from mopsjobs.store import open_store
from mopsjobs.store.urls import check_url
from support.home import ACCOUNT, CONNECTION_STRING, Home

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


def test_the_files_together_say_what_each_of_them_says(home: Home) -> None:
    """A project file that speaks of one setting leaves the others to the user's."""
    user = home.write_user('color = "never"\nstale_after = "1h"\n')
    project = home.write_project('stale_after = "2h"\n')
    settings = home.load()
    assert (settings.color.value, settings.stale_after.value) == ("never", "2h")
    assert settings.files == (str(project), str(user))


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


def test_a_relative_path_elsewhere_counts_from_the_working_directory(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As users expect of a flag."""
    monkeypatch.chdir(home.below)
    settings = home.load(registry="sqlite:r.db", env={"MOPS_JOBS_CACHE": "c.db"})
    assert settings.registry_id == f"sqlite://{home.below}/r.db"
    assert settings.cache.value == f"{home.below}/c.db"


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
        ('[registry]\nurl = "memory:"', "invalid registry in the configuration file"),
        ("color = true", "invalid color in the configuration file"),
        ("stale_after = 5", "invalid stale_after in the configuration file"),
        ('cache = ""', "invalid cache in the configuration file"),
        ("registry = memory:", "is not valid TOML: "),
        ("\x00", "is not valid TOML: "),
        ('color = "pink"', "invalid color mode 'pink': expected one of auto, always, never"),
        ('stale_after = "soon"', "invalid duration 'soon'"),
        ('stale_after = "200000d"', "expected at most a century"),
        ("max_local_workers = 0", "invalid number of workers '0'"),
        ("max_local_workers = true", "invalid max_local_workers in the configuration file"),
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


def test_a_file_that_is_no_text_is_refused_by_name(home: Home) -> None:
    """Bytes that are not UTF-8 are not TOML."""
    path = home.write_user("")
    path.write_bytes(b'color = "\xff"')
    with pytest.raises(ConfigError, match="is not valid TOML") as caught:
        home.load()
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_by_name(home: Home) -> None:
    """It is not taken for a file that is not there."""
    path = home.write_user('color = "never"')
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied") as caught:
        home.load()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "env", "origin"),
    [
        ({"registry": "nowhere"}, {}, "registry, from flag --registry"),
        ({}, {"MOPS_JOBS_REGISTRY": "nowhere"}, "registry, from environment MOPS_JOBS_REGISTRY"),
        ({"cache": ""}, {}, "cache, from flag --cache"),
        ({"color": "pink"}, {}, "color, from flag --color"),
        ({}, {"MOPS_JOBS_COLOR": "pink"}, "color, from environment MOPS_JOBS_COLOR"),
        ({}, {"MOPS_JOBS_STALE_AFTER": "soon"}, "stale_after, from environment MOPS_JOBS_STALE_AFTER"),
    ],
)
def test_a_wrong_value_is_refused_with_its_origin(
    home: Home, flags: dict[str, str], env: dict[str, str], origin: str
) -> None:
    """So that a user does not look in the wrong place."""
    with pytest.raises(ConfigError) as caught:
        home.load(env=env, **flags)
    assert origin in str(caught.value)


@pytest.mark.claim("Nothing goes over a network in clear")
@pytest.mark.parametrize(
    "url",
    [
        "azure://UPPER",
        "azure://c",
        "https://acct.blob.core.windows.net/c",
        "azure://a",
        "azure://a--b",
        "azure://con tainer",
        "https://acct.blob.core.windows.net/a/b",
        "http://acct.blob.core.windows.net/abc",
        "https://host:port/abc/def",
        "https://[::1/abc/def",
    ],
)
def test_what_azure_would_refuse_is_refused_before_a_request(home: Home, url: str) -> None:
    """By the settings, and when the registry is opened.

    Before anything is sent: a bad name of a container, plain http across the network, no port.
    """
    for attempt in (lambda: check_url(url), lambda: home.load(registry=url), lambda: open_store(url, ACCOUNT)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert f"'{url}'" in str(caught.value)


@pytest.mark.claim("A secret in a registry URL is refused and not repeated")
@pytest.mark.parametrize(
    "url",
    [
        "https://acct.blob.core.windows.net/c?sv=2022-11-02&sig=SECRET",
        "https://acct.blob.core.windows.net/c#SECRET",
        "azure://c?sig=SECRET",
        "https://user:SECRET@acct.blob.core.windows.net/c",
        "https://SECRET@acct.blob.core.windows.net/c",
        "azure://user:SECRET@c",
        "http://x:SECRET@127.0.0.1:10000/devstoreaccount1/c",
        "ftp://user:SECRET@host/c",
        "sv=2022-11-02&sig=SECRET",
        "?sv=2022-11-02&sig=SECRET",
        "AccountKey=SECRET==;AccountName=acct",
        "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=SECRET==",
        "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=SECRET",
    ],
)
def test_a_secret_in_the_place_of_a_url_is_refused_and_not_repeated(home: Home, url: str) -> None:
    """A URL with a SAS token or a password, and a whole connection string: the message holds none of it."""
    for attempt in (lambda: check_url(url), lambda: home.load(registry=url), lambda: open_store(url, {})):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "SECRET" not in f"{caught.value} {caught.value.hint}"


def test_each_registry_has_a_cache_with_a_recognisable_name(home: Home) -> None:
    """Names differ even where only what a file name cannot hold tells the registries apart."""
    urls = ["azure://abc", "azure://abc-d", "https://other.blob.core.windows.net/abc"]
    urls += ["sqlite:///r/c.db", "sqlite:///r-c.db"]
    urls += ["sqlite:///" + "x" * 300, "sqlite:///" + "y" * 10 + "x" * 300, "memory:", "sqlite:///é", "sqlite:///è"]
    caches = {url: os.path.basename(home.load(registry=url, env=ACCOUNT).cache.value) for url in urls}
    assert len(set(caches.values())) == len(urls)
    assert caches["azure://abc"].startswith("acct-blob-core-windows-net-abc-")
    assert all(len(name) < 70 and name.endswith(".db") and name.isascii() for name in caches.values())
