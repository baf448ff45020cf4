"""What a service's model says of its input and boto3 does not check: bounds, patterns, enums. Pure.

The wording is that of AWS's services; see docs/aws.md for what is known of Bedrock's.
"""

from collections.abc import Iterator
from typing import Any

import regex
from botocore.model import Shape

PATTERN_S = 0.2
"""Patterns of the models can take for ever on hostile text; one that takes longer does not match."""
LONGEST_SHOWN = 200


def problems(shape: Shape | None, given: dict[str, Any]) -> list[str]:
    """Each constraint that the input breaks."""
    return list(_structure(shape, given, "")) if shape is not None else []


def in_words(found: list[str]) -> str:
    """As AWS says it."""
    count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected"
    return f"{count}: {'; '.join(found)}"


def _structure(shape: Any, given: dict[str, Any], path: str) -> Iterator[str]:
    for name in shape.required_members:
        if given.get(name) is None:
            yield f"Value null at '{_under(path, name)}' failed to satisfy constraint: Member must not be null"
    if getattr(shape, "is_tagged_union", False) and len(given) != 1:
        yield f"Value at '{path}' failed to satisfy constraint: Member must have exactly one of its members set"
    for name, value in given.items():
        if name in shape.members and value is not None:
            yield from _value(shape.members[name], value, _under(path, name))


def _value(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        if isinstance(value, dict):
            yield from _structure(shape, value, path)
        else:
            yield _broken(value, path, "Member must be a structure")
    elif kind == "list":
        yield from _length(shape, value, path)
        for number, item in enumerate(value if isinstance(value, list) else ()):
            yield from _value(shape.member, item, f"{path}.{number + 1}.member")
    elif kind == "map":
        yield from _length(shape, value, path)
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from _value(shape.value, item, _under(path, key))
    elif kind == "string":
        yield from _string(shape, value, path)
    elif kind in ("integer", "long", "float", "double"):
        yield from _number(shape, value, path)
    elif kind == "boolean" and not isinstance(value, bool):
        yield _broken(value, path, "Member must be a boolean")


def _string(shape: Any, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield _broken(value, path, "Member must be a string")
        return
    too_long = list(_length(shape, value, path))
    yield from too_long
    if shape.enum and value not in shape.enum:
        yield _broken(value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and not too_long and not _matches(pattern, value):
        yield _broken(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _matches(pattern: str, value: str) -> bool:
    try:
        return regex.fullmatch(pattern, value, timeout=PATTERN_S) is not None
    except TimeoutError:
        return False


def _number(shape: Any, value: Any, path: str) -> Iterator[str]:
    whole = shape.type_name in ("integer", "long")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        yield _broken(value, path, f"Member must be {'an integer' if whole else 'a number'}")
        return
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and value < low:
        yield _broken(value, path, f"Member must have value greater than or equal to {low}")
    if high is not None and value > high:
        yield _broken(value, path, f"Member must have value less than or equal to {high}")


def _length(shape: Any, value: Any, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and len(value) < low:
        yield _broken(value, path, f"Member must have length greater than or equal to {low}")
    if high is not None and len(value) > high:
        yield _broken(value, path, f"Member must have length less than or equal to {high}")


def _broken(value: Any, path: str, constraint: str) -> str:
    return f"Value '{str(value)[:LONGEST_SHOWN]}' at '{path}' failed to satisfy constraint: {constraint}"


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
