"""Name a store in AWS by its settings. Pure, and without the SDK: a listing that reads the cache needs the identity."""

from __future__ import annotations

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
