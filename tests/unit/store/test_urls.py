"""Registry URLs: their forms, what is refused and how it is named, and which registry is which."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.errors import ConfigError
from mopsjobs.store import open_store
from mopsjobs.store.urls import check_url, identity, is_local, sqlite_url
from support.home import ACCOUNT, CONNECTION_STRING

SECRETS = ("SECRET", "s3cr3t")


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("memory:", "memory"),
        ("sqlite:///path/registry.db", "sqlite"),
        ("sqlite:registry.db", "sqlite"),
        ("dynamodb://job-registry", "dynamodb"),
        ("s3://job-registry/team-1/jobs/", "s3"),
        ("azure://job-registry", "azure"),
        ("https://acct.blob.core.windows.net/job-registry", "https"),
        ("http://127.0.0.1:10000/devstoreaccount1/job-registry", "http"),
    ],
)
def test_the_forms_of_a_registry_url(url: str, scheme: str) -> None:
    """Each is accepted, and is local exactly when nothing goes over the network."""
    assert check_url(url) == scheme
    assert is_local(url) == (scheme in ("memory", "sqlite"))


MALFORMED = [
    ("", "''"),
    ("job-registry", "'job-registry'"),
    ("memory://", "'memory://'"),
    ("sqlite:", "'sqlite:'"),
    ("sqlite://relative/registry.db", "three slashes"),
    ("sqlite:///./registry.db", "invalid registry URL 'sqlite:///./registry.db': expected an absolute path"),
    ("sqlite:///a/../registry.db", "invalid registry URL 'sqlite:///a/../registry.db': expected an absolute path"),
    ("file:///registry.db", "'file:///registry.db'"),
    ("gs://bucket", "'gs://bucket'"),
    ("dynamodb:table", "'dynamodb:table'"),
    ("azure://", "'azure://'"),
    ("azure://container/jobs", "'azure://container/jobs'"),
    ("https://acct.blob.core.windows.net", "'https://acct.blob.core.windows.net'"),
    ("https:///container", "'https:///container'"),
    ("https://acct.blob.core.windows.net//container", "invalid container in the registry URL"),
    (" azure://container", "' azure://container'"),
    ("azure://con\ntainer", "'azure://con\\ntainer'"),
    ("azure://con\x1b[31mtainer", "'azure://con\\x1b[31mtainer'"),
    ("azure://\u202ereniatnoc", "'azure://\\u202ereniatnoc'"),
    ("dynamodb://ab", "invalid table"),
    ("dynamodb://k=s3cr3t;x", "invalid table"),
    ("s3://", "invalid bucket"),
    ("s3://A:k=s3cr3t;x@bucket", "invalid bucket"),
    ("s3://bucket/../a", "invalid prefix"),
    ("s3://bucket/a//b", "invalid prefix"),
    ("s3://jobs--use1-az4--x-s3/a", "A directory bucket lists keys in no order"),
    ("azure://UPPER", "'azure://UPPER'"),
    ("azure://c", "'azure://c'"),
    ("https://acct.blob.core.windows.net/c", "'https://acct.blob.core.windows.net/c'"),
    ("azure://a--b", "'azure://a--b'"),
    ("http://acct.blob.core.windows.net/abc", "'http://acct.blob.core.windows.net/abc'"),
    ("https://host:port/abc/def", "'https://host:port/abc/def'"),
    ("https://[::1/abc/def", "'https://[::1/abc/def'"),
    ("https://acct.blob.core.windows.net/c?sv=2022-11-02&sig=SECRET", "registry"),
    ("https://acct.blob.core.windows.net/c#SECRET", "registry"),
    ("azure://c?sig=SECRET", "registry"),
    ("https://user:SECRET@acct.blob.core.windows.net/c", "registry"),
    ("https://SECRET@acct.blob.core.windows.net/c", "registry"),
    ("azure://user:SECRET@c", "registry"),
    ("http://x:SECRET@127.0.0.1:10000/devstoreaccount1/c", "registry"),
    ("ftp://user:SECRET@host/c", "registry"),
    ("sv=2022-11-02&sig=SECRET", "registry"),
    ("?sv=2022-11-02&sig=SECRET", "registry"),
    ("AccountKey=SECRET==;AccountName=acct", "registry"),
    ("DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=SECRET==", "registry"),
    ("BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=SECRET", "registry"),
]


@pytest.mark.claim("Nothing goes over a network in clear", "A secret in a registry URL is refused and not repeated")
@pytest.mark.parametrize(("url", "named"), MALFORMED)
def test_a_malformed_url_is_refused_by_name(url: str, named: str) -> None:
    """One printable line that shows what was given, but for a secret; so does opening it, before anything is sent."""
    for attempt in (lambda: check_url(url), lambda: open_store(url, ACCOUNT)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert named in str(caught.value)
        assert str(caught.value).isprintable()
        assert not any(secret in f"{caught.value} {caught.value.hint}" for secret in SECRETS)


AZURITE = "http://127.0.0.1:10000/devstoreaccount1"
SAS_IN_ENDPOINT = {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://acct.blob.core.windows.net/?sig=SECRET"}
KEY = {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION_STRING}
LOCAL = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=devstoreaccount1;AccountKey=SECRET=;BlobEndpoint={AZURITE};"}
CHINA = {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acct;AccountKey=SECRET;EndpointSuffix=core.chinacloudapi.cn"}


@pytest.mark.parametrize(
    ("url", "env", "expected"),
    [
        ("azure://c", ACCOUNT, "https://acct.blob.core.windows.net/c"),
        ("azure://c", KEY, "https://acct.blob.core.windows.net/c"),
        ("azure://c", SAS_IN_ENDPOINT, "https://acct.blob.core.windows.net/c"),
        ("azure://c", LOCAL, f"{AZURITE}/c"),
        (f"{AZURITE}/c", {}, f"{AZURITE}/c"),
        ("azure://c", {name: text.lower() for name, text in KEY.items()}, "https://acct.blob.core.windows.net/c"),
        ("azure://c", {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}, f"{AZURITE}/c"),
        ("azure://c", {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://u:SECRET@h/;"}, "https://h/c"),
        ("azure://c", {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acct AccountKey=SECRET"}, "azure:///c"),
        ("azure://c", {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://u:SE/CRET@h/"}, "azure:///c"),
        ("azure://c", ACCOUNT | {"AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=SECRET"}, "azure:///c"),
        ("azure://c", {"AZURE_STORAGE_ACCOUNT": CONNECTION_STRING}, "azure:///c"),
        ("azure://c", {}, "azure:///c"),
        ("sqlite:///a/../b/r.db", {}, "sqlite:///b/r.db"),
    ],
)
def test_a_container_is_the_same_by_whatever_name_and_credential(url: str, env: dict[str, str], expected: str) -> None:
    """So one cache serves it; and nothing secret is in what tells it from others."""
    found = identity(url, env)
    assert found == expected
    assert not any(secret in found for secret in SECRETS)


def test_the_location_of_an_open_store_is_its_identity(tmp_path: Path) -> None:
    """What tells registries apart is where their bytes are."""
    for url, env in [("azure://job-registry", KEY), (f"{AZURITE}/job-registry", {}), (f"sqlite://{tmp_path}/r.db", {})]:
        store = open_store(url, env)
        assert identity(url, env).removeprefix("sqlite://") == store.location  # type: ignore[attr-defined]
        store.close()


@pytest.mark.parametrize(
    ("path", "url"),
    [("/lab/registry.db", "sqlite:///lab/registry.db"), (r"C:\lab 1\registry.db", "sqlite:///C:/lab 1/registry.db")],
)
def test_a_path_of_any_system_has_a_url(path: str, url: str) -> None:
    """The URL has one of the accepted forms."""
    assert sqlite_url(path) == url
    assert check_url(url) == "sqlite"
