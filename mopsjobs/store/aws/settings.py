"""Name a store in AWS by its settings. Pure, and without the SDK: a listing that reads the cache needs the identity."""

from __future__ import annotations

import sys

from mopsjobs.errors import IF_PIP_REFUSES, UsageError

MIN_BOTO3 = "1.41"
"""The first version whose errors of signing in are all known here. pyproject.toml names it, too."""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


ACCOUNT = ("account", ("AWS_ACCOUNT_ID",))

PROFILE = ("profile", ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"))

REGION = ("region", ("AWS_DEFAULT_REGION",))


def endpoint(variable: str) -> tuple[str, tuple[str, ...]]:
    """Return the fact of the endpoint, and the variables that set it: that of the service, then that of all."""
    return "endpoint", (variable, "AWS_ENDPOINT_URL")


def facts_of(naming: Sequence[tuple[str, tuple[str, ...]]], env: Mapping[str, str]) -> str:
    """Return the facts that the environment sets, as `name=value/` one after the other, without secrets."""
    facts = []
    for name, variables in naming:
        value = next((env[variable].strip() for variable in variables if env.get(variable, "").strip()), "")
        if name == "endpoint":
            value = value.partition("://")[2].partition("?")[0].rpartition("@")[2]
        if value:
            facts.append(f"{name}={value.rstrip('/')}/")
    return "".join(facts)


def check_boto3(service: str) -> None:
    """Check that boto3 is installed and recent enough, without importing it.

    Raises:
        UsageError: if it is not. The message names the service.
    """
    from importlib.util import find_spec

    if find_spec("boto3") is None:
        raise UsageError(
            f"A registry in {service} needs the package boto3, which this Python does not have.",
            hint=f"Install it: {sys.executable} -m pip install boto3. {IF_PIP_REFUSES}",
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("boto3")
    except PackageNotFoundError:
        return  # not installed by pip: its version is unknown
    if _release(installed) < _release(MIN_BOTO3):
        raise UsageError(
            f"A registry in {service} needs the package boto3 {MIN_BOTO3} or later; this Python has {installed}.",
            hint=f"Install it: {sys.executable} -m pip install 'boto3>={MIN_BOTO3}'. {IF_PIP_REFUSES}",
        )


def _release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(number) for number in version.split(".")[:2] if number.isdecimal())
