"""The prices of a user: the table `[prices]` of a configuration file, by which a plan tells what a job will cost.

Every command of a user who has one reads it, so this module imports little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.utils.text import did_you_mean

MAX_CURRENCY = 20
"""Characters of a currency."""

_KEYS = ("currency", "core_hour", "gib_month")


class Prices:
    """The prices of a user. None: the table does not say."""

    def __init__(self, currency: str, core_hour: float | None, gib_month: float | None) -> None:
        self.currency = currency
        """Any text, like `EUR`."""
        self.core_hour = core_hour
        """For an hour of a core."""
        self.gib_month = gib_month
        """For a GiB that is kept for a month."""

    def describe(self) -> str:
        """Return the prices in words, for `config show`."""
        units = (("core-hour", self.core_hour), ("GiB and month", self.gib_month))
        return ", ".join(f"{price:g} {self.currency} per {unit}" for unit, price in units if price is not None)


def parse_prices(path: str, table: object) -> Prices:
    """Return the prices of the table `prices` of a configuration file.

    Args:
        path: the file, for messages.
        table: the table.

    Raises:
        ConfigError: if it is malformed.
    """
    where = f"[prices] of the configuration file {path}"
    if not isinstance(table, Mapping):
        raise ConfigError(f"invalid prices in the configuration file {path}: expected a table [prices].")
    for key in table:
        if key not in _KEYS:
            expected = f"expected one of {', '.join(_KEYS)}.{did_you_mean(key, _KEYS)}"
            raise ConfigError(f"unknown key '{key[:40]}' in {where}: {expected}")
    currency = table.get("currency")
    if not isinstance(currency, str) or not currency.isprintable() or not 0 < len(currency) <= MAX_CURRENCY:
        raise ConfigError(f"invalid currency in {where}: expected a text of at most {MAX_CURRENCY} characters.")
    prices = Prices(currency, *(_read_price(where, key, table.get(key)) for key in _KEYS[1:]))
    if prices.core_hour is prices.gib_month is None:
        raise ConfigError(f"missing price in {where}: expected core_hour, gib_month or both.")
    return prices


def _read_price(where: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ConfigError(f"invalid {key} in {where}: expected a number, 0 or more.")
    return float(value)
