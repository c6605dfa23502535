"""Check that the server of the registry keeps the conditions of writes, if it is one that may ignore them."""

from __future__ import annotations

from mopsjobs.app.care.checks import CheckResult, Diagnosis
from mopsjobs.errors import MopsJobsError, StoreAccessError

NAME = "conditions"


def check_conditions(diagnosis: Diagnosis) -> CheckResult | None:
    """Probe the server with a key of its own, if it can be read. The check does not fail if writes are refused."""
    app = diagnosis.app
    if app.settings.is_local or diagnosis.state_of("access") == "fail":
        return None
    try:
        result = getattr(app.store, "check_conditions", lambda: None)()
    except StoreAccessError as error:
        return CheckResult(NAME, "ok", f"not probed, since writes are refused: {error}")
    except MopsJobsError as error:
        return CheckResult(NAME, "fail", str(error), error.hint or "check the network, and try again", error.exit_code)
    if result is None:
        return None
    if result.left_key is not None:
        detail = f"kept; the key of the probe stays, since the credentials may not delete {result.left_key}"
        return CheckResult(NAME, "warn", detail, "remove that key, or allow the credentials to delete keys")
    return CheckResult(NAME, "ok", "kept: the server refuses second creations and updates of stale versions")
