"""A run's configuration beside the defaults, beside other runs', and what its stop rule can promise. Pure."""

import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from grpo.config import Config, is_table
from grpo.sections import Convergence

HIDDEN = "(hidden)"
SECRET = re.compile(r"key|secret|token$|password|credential", re.IGNORECASE)
VARIABLES = (".reward.environment", ".reward.graders.environment", ".environment.variables")


def against_defaults(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every setting of a resolved configuration, in its order, with the default and whether it differs from it."""
    defaults = dict(_defaults(Config))
    return [
        {
            "name": name,
            "value": value,
            "default": defaults.get(name),
            "changed": name in defaults and value != defaults[name],
        }
        for name, value in flat(without_secrets(config))
    ]


def differences(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings in which runs differ: {name, values}, a value each; None where a run has no such setting."""
    tables = [dict(flat(without_secrets(config))) for config in configs]
    names = dict.fromkeys(name for table in tables for name in table)
    found = [{"name": name, "values": [table.get(name) for table in tables]} for name in names]
    return [row for row in found if any(value != row["values"][0] for value in row["values"])]


def rule(config: dict[str, Any]) -> dict[str, float | int | None]:
    """What the stop rule certifies, and the smallest gain that it could at best; None: none, or not known."""
    if not config:
        return {}
    try:
        convergence = Convergence.model_validate(config.get("convergence", {}))
    except ValidationError:  # of another version
        return {}
    told: dict[str, float | int | None] = {
        "delta": convergence.delta,
        "alpha": convergence.alpha,
        "horizon": convergence.horizon,
    }
    from grpo.outlook import smallest_gain  # scipy takes a second to load

    try:
        gain = smallest_gain(Config.model_validate(config))
    except ValidationError:
        return told
    return told | {"certifiable": gain if math.isfinite(gain) else None}


def without_secrets(content: Any, above: str = "") -> Any:
    """The same without what a page or a file for others must not show: keys, and variables of reward functions."""
    if isinstance(content, list):
        return [without_secrets(value, above) for value in content]
    if not isinstance(content, dict):
        return content
    variables = above in VARIABLES
    return {
        name: HIDDEN if value and (variables or SECRET.search(name)) else without_secrets(value, f"{above}.{name}")
        for name, value in content.items()
    }


def flat(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots, and their values."""
    for name, value in content.items():
        if isinstance(value, dict) and value and not above:
            yield from flat(value, f"{name}.")
        else:
            yield f"{above}{name}", value


def _defaults(kind: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """As JSON has them; None for what must be given."""
    for name, field in kind.model_fields.items():
        inner = next((k for k in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_table(k)), None)
        if inner is not None and not above:
            yield from _defaults(inner, f"{name}.")
            continue
        value = field.get_default(call_default_factory=True, validated_data={})
        value = None if value is PydanticUndefined else value
        yield f"{above}{name}", list(value) if isinstance(value, tuple) else value
