"""Smithy RPC v2 in CBOR, which newer clients of CloudWatch speak. Pure.

smithy.io/2.0/additional-specs/protocols/smithy-rpc-v2.html
"""

import re
from datetime import UTC, datetime
from typing import Any

import cbor2

PROTOCOL = "rpc-v2-cbor"
PATH = re.compile(r"^/service/[A-Za-z0-9_.]+/operation/(?P<operation>[A-Za-z0-9_]{1,128})$")


def loads(body: bytes) -> dict[str, Any]:
    """The input, with times in UTC. Raises ValueError."""
    try:
        found = cbor2.loads(body) if body else {}
    except (cbor2.CBORDecodeError, RecursionError) as error:
        raise ValueError(f"not CBOR: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("expected a map")
    return found


def dumps(result: Any) -> bytes:
    """Times as seconds since 1970, with tag 1; members that are None are left out."""
    return cbor2.dumps(_told(result), datetime_as_timestamp=True, timezone=UTC)


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _told(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
