"""The storage of an environment of ModelOps, from the file in the home directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.app.run.modelops_environment import with_environment
from mopsjobs.errors import ConfigError
from support.runs import tree

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


def test_without_any_environment_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"invalid environment 'dev': .*bundle-env has none"):
        with_environment("dev", {"HOME": str(tmp_path)})


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
