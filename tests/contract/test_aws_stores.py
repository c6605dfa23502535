"""What the stores in DynamoDB and S3 have in common: settings, sign-in, refusals, outages, and the command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
from pathlib import Path

import pytest
from botocore.credentials import SSOProvider
from botocore.exceptions import EndpointConnectionError

from mopsjobs.errors import ConfigError, MopsJobsError, StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.aws.client import explain
from support.cli import Cli
from support.doubles import RecordingSleep
from support.replies import Reply, playing
from support.services import IN_DYNAMODB, IN_S3, SECRET, Service, refused_by_dynamodb, refused_by_s3

ROLE = (
    "[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = x\n"
    "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/lab\nsource_profile = base\nregion = eu-west-1\n"
)
"""The configuration of a profile with a role, which STS gives."""


@pytest.fixture(params=[IN_DYNAMODB, IN_S3], ids=lambda service: service.name)
def service(request: pytest.FixtureRequest) -> Service:
    service: Service = request.param
    return service


# --- outages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "host", "is_of_store"),
    [
        ("s3://jobs at storage.example.org:9000", "jobs.storage.example.org:9000", True),
        ("dynamodb://jobs at dynamodb.eu-west-1.amazonaws.com", "123456789012.ddb.eu-west-1.amazonaws.com", True),
        ("dynamodb://jobs at dynamodb.eu-west-1.amazonaws.com", "sts.eu-west-1.amazonaws.com", False),
        ("dynamodb://jobs at dynamodb.eu-west-1.amazonaws.com", "portal.sso.eu-west-1.amazonaws.com", False),
    ],
)
def test_an_outage_of_a_host_of_a_bucket_or_account_is_one_of_the_store(
    location: str, host: str, *, is_of_store: bool
) -> None:
    """boto3 makes them a part of the host where it can. Keys and signatures in the URL are not repeated."""
    error = EndpointConnectionError(endpoint_url=f"https://{host}/a?{SECRET}", error="")
    failure = explain(error, location, "the AWS settings", "AWS_ENDPOINT_URL", "")
    assert str(failure) == f"Cannot reach {'' if is_of_store else f'{host} for '}{location}: the connection broke."
    where = "the region (AWS_DEFAULT_REGION) or AWS_ENDPOINT_URL" if is_of_store else "region and sso_region in"
    assert where in (failure.hint or "")


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_PROFILE", "missing"),
        ("AWS_DEFAULT_REGION", "no region"),
        ("AWS_CA_BUNDLE", "/nowhere/authorities.pem"),
    ],
)
def test_settings_that_cannot_be_used_are_reported_as_settings(
    service: Service, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with contextlib.closing(service.open()) as store, pytest.raises(ConfigError) as caught:
        store.get("a")
    assert name in f"{caught.value} {caught.value.hint}"


@pytest.mark.claim("Nothing goes over a network in clear")
@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    "endpoint",
    [
        "http://storage.example.org:9000",
        "https://",
        "http://127.0.0.1:0",
    ],
)
def test_an_endpoint_is_https_or_on_this_machine(
    service: Service, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """By plain http, values could be read and changed on the way, bundles of code among them. Nothing is sent."""
    monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service.name.upper()}", endpoint)
    with contextlib.closing(service.open()) as store:
        for call in (service.writes | service.reads).values():
            with pytest.raises(ConfigError, match=r"invalid endpoint of .*: expected https"):
                call(store)


def test_without_credentials_one_sentence_says_how_to_get_them(
    service: Service, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    said = cli.fails(4, "sync", MOPS_JOBS_REGISTRY=f"{service.name}://jobs")
    assert f"There are no usable AWS credentials for {service.name}://jobs" in said
    assert "aws sso login" in said


@pytest.fixture
def lab_profile(service: Service, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the AWS configuration of a home in which the profile `lab` is chosen. No name server is asked."""
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service.name.upper()}", "http://127.0.0.1:1")
    config = Path.home() / ".aws" / "config"
    config.parent.mkdir()
    return config


def _sign_in_by_sso(config: Path, monkeypatch: pytest.MonkeyPatch, expires_at: str) -> None:
    """Write a profile and its token, as `aws sso login` leaves it."""
    start = "https://lab.awsapps.com/start"
    config.write_text(
        f"[profile lab]\nsso_start_url = {start}\nsso_region = eu-west-1\nregion = eu-west-1\n"
        "sso_account_id = 123456789012\nsso_role_name = Reader\n"
    )
    token = {"startUrl": start, "region": "eu-west-1", "accessToken": SECRET, "expiresAt": expires_at}
    cache = config.parent / "sso" / "cache"
    cache.mkdir(parents=True)
    name = hashlib.sha1(start.encode(), usedforsecurity=False).hexdigest()
    (cache / f"{name}.json").write_text(json.dumps(token))
    monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))  # found when the module was loaded


def test_an_expired_sign_in_is_reported_with_the_command_that_renews_it(
    service: Service, cli: Cli, lab_profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sign_in_by_sso(lab_profile, monkeypatch, "2020-01-01T00:00:00Z")
    for argv in (("sync",), ("register", "a")):
        said = cli.fails(4, *argv, MOPS_JOBS_REGISTRY=f"{service.name}://jobs")
        assert f"There are no usable AWS credentials for {service.name}://jobs at " in said
        assert "aws sso login" in said
        assert SECRET not in said


@pytest.mark.parametrize(
    ("reply", "kind", "hint"),
    [
        (refused_by_s3(403, "AccessDenied"), StoreAccessError, "whom the role trusts"),
        (refused_by_s3(403, "ExpiredToken"), StoreAccessError, "aws sso login"),
        (refused_by_s3(403, "SignatureDoesNotMatch"), StoreAccessError, "secret key"),
        (refused_by_s3(400, "Throttling"), StoreUnavailableError, ""),
    ],
    ids=["refused", "expired", "wrong key", "throttled"],
)
def test_a_refused_role_is_reported_as_that_of_signing_in(
    service: Service,
    lab_profile: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    reply: Reply,
    kind: type[StoreError],
    hint: str,
) -> None:
    """AWS's sign-in service refused, not the store. Permissions of the store would not help. It is asked once."""
    lab_profile.write_text(ROLE)
    with playing(reply._replace(body=b"<ErrorResponse>%b</ErrorResponse>" % reply.body)) as (port, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        with contextlib.closing(service.open(sleep=RecordingSleep())) as store, pytest.raises(StoreError) as caught:
            store.create_if_absent("a", b"")
    assert requests == ["POST"]
    assert type(caught.value) is kind
    assert hint in (caught.value.hint or "")
    is_refused = kind is StoreAccessError
    assert str(caught.value).startswith("AWS refused the role in the AWS settings" if is_refused else "Signing in for ")
    assert SECRET not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("by", ["STS", "SSO"])
def test_an_outage_of_signing_in_names_the_host_that_signs_in(
    service: Service, lab_profile: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The store may be reachable, and got no request."""
    if by == "SSO":
        _sign_in_by_sso(lab_profile, monkeypatch, "2999-01-01T00:00:00Z")
    else:
        lab_profile.write_text(ROLE)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, but no server listens
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{by}", f"http://{host}")
        for call in (service.writes | service.reads).values():
            with (
                contextlib.closing(service.open(sleep=RecordingSleep())) as store,
                pytest.raises(StoreUnavailableError) as caught,
            ):
                call(store)
            place = f"{store.location.partition(' ')[0]} at 127.0.0.1:1"
            assert str(caught.value) == f"Cannot reach {host} for {place}: connection refused."
            assert caught.value.hint == "Check the network, and region and sso_region in ~/.aws/config."
            assert not caught.value.sent


def test_an_unknown_role_of_sso_is_never_an_empty_registry(
    service: Service, lab_profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign-in service says `ResourceNotFoundException`, as DynamoDB does of a missing table."""
    _sign_in_by_sso(lab_profile, monkeypatch, "2999-01-01T00:00:00Z")
    calls = [*service.writes.values(), *service.reads.values()]
    with playing(*[refused_by_dynamodb(404, "ResourceNotFoundException")] * len(calls)) as (port, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", f"http://127.0.0.1:{port}")
        for call in calls:
            with contextlib.closing(service.open(sleep=RecordingSleep())) as store:
                with pytest.raises(StoreAccessError, match="AWS refused the role in the AWS settings") as caught:
                    call(store)
                assert "sso_role_name" in (caught.value.hint or "")
                assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert len(requests) == len(calls)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("web_identity_token_file = /nowhere/token", StoreAccessError),
        ("credential_process = /nowhere/program", StoreAccessError),
        ("source_profile = missing", ConfigError),
    ],
)
def test_settings_of_signing_in_that_lead_nowhere_are_no_outage(
    service: Service, lab_profile: Path, setting: str, kind: type[MopsJobsError]
) -> None:
    role = "" if "process" in setting else "role_arn = arn:aws:iam::123456789012:role/lab\n"
    lab_profile.write_text(f"[profile lab]\n{role}{setting}\nregion = eu-west-1\n")
    with contextlib.closing(service.open()) as store:
        for call in (service.writes | service.reads).values():
            with pytest.raises(kind) as caught:
                call(store)
            assert setting.partition(" ")[0].upper() in f"{caught.value.hint}".upper() or kind is ConfigError


@pytest.mark.parametrize("argv", [("sync",), ("doctor",)], ids=" ".join)
def test_without_the_library_one_sentence_says_how_to_get_it(
    service: Service, cli: Cli, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    # As the interpreter notes what cannot be imported. An older boto3 lacks an error of signing in.
    monkeypatch.setitem(sys.modules, f"mopsjobs.store.{service.name}.store", None)
    ran = cli.ends(2, *argv, MOPS_JOBS_REGISTRY=f"{service.name}://jobs")
    assert "needs the package boto3 1.41 or later, which this Python does not have." in ran.out + ran.err
    assert f"{sys.executable} -m pip install 'boto3>=1.41'" in ran.out + ran.err


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [pytest.param("dynalite", marks=pytest.mark.dynalite), pytest.param("moto", marks=pytest.mark.s3)],
)
def test_a_job_lives_from_end_to_end_by_the_command(cli: Cli, request: pytest.FixtureRequest, server: str) -> None:
    place = request.getfixturevalue(server)
    url = place.new_table() if server == "dynalite" else place.new_prefix()
    cli.env |= {"MOPS_JOBS_REGISTRY": url, **place.env}
    assert "reachable, no jobs yet, signed in by the AWS settings (env, us-east-1)" in cli("doctor").out
    assert url in cli.ok("config", "show").out
    cli.ok("register", "a", "--owner", "ada")
    cli.ok("register", "b")
    cli.ok("update", "a", "running")
    cli.ok("progress", "a", "5/10")
    cli.ok("sync")
    assert [(job["job_id"], job["status"]) for job in cli.ok("list", "--json", "--sort", "name").json["jobs"]] == [
        ("a", "running"),
        ("b", "pending"),
    ]
    cli.ok("cancel", "b")
    cli.ok("update", "a", "succeeded")
    assert cli("update", "a", "running").code == 6
    cli.ok("sync")
    assert set(cli.ids("--status", "done")) == {"a", "b"}
    assert cli.ok("status", "a", "--json").json["tasks_completed"] == 5
    assert cli("doctor").code == 0
    for ran in (cli.ok("config", "show", "--json"), cli("doctor", "--json")):
        assert place.env["AWS_SECRET_ACCESS_KEY"] not in ran.out
    with contextlib.closing(open_store(url, {})) as store:
        assert JobRegistry(store).get_job("a") is not None
