"""Numbers of a config are finite and within their bounds."""

from __future__ import annotations

from collections.abc import Mapping

from videogpt_plus.types import UserError

#: No number of a config is larger.
MOST = 2.0**63


def check_numbers(config: object, least: Mapping[str, float], most: Mapping[str, float] | None = None) -> None:
    """UserError unless these values of a config are finite numbers within their bounds."""
    most = most or {}
    for name, low in least.items():
        value, high = getattr(config, name), most.get(name, MOST)
        if not low <= value <= high:  # NaN is neither
            told = f"{low:g} to {high:g}" if name in most else f"at least {low:g}"
            raise UserError(f"{type(config).__name__} has {name} {value!r:.60}: choose {told}")
