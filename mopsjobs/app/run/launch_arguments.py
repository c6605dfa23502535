"""The arguments of a launch, the same on the command line and in a Python program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.app.run.notify_rules import check_rules
from mopsjobs.submission.launch_options import LaunchOptions, read_options


def launch_options(values: Mapping[str, Any], app: App, *, may_grow: bool = False) -> LaunchOptions:
    """Return the options of a launch for the values of flags or of arguments.

    Args:
        values: the values, by the names of options.
        app: the run, whose configuration has the rules of notifications.
        may_grow: whether limits may be factors, like `x2`, of those of an earlier launch.

    Raises:
        UsageError: if a value is not valid, or if there is no usable rule of a name.
    """
    options = read_options(values, may_grow=may_grow)
    check_rules(app.settings.rules, options.notify or (), app.env)
    return options
