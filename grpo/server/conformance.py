"""Runs the probes against a server, keeps what it answered, and compares two such snapshots. Touches: network.

A snapshot holds no values of its owner's: of what succeeded the names and types of the members, of what failed status,
code and message, with accounts, regions and ids masked.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3
import httpx
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from grpo.server.probes import Probe

MANTLE = "https://bedrock-mantle.{region}.api.aws/v1"
TIMEOUT_S = 60.0
MASKS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b\d{12}\b"), "<account>"),
    (re.compile(r"\breq_[0-9a-f]{32}\b"), "<id>"),
)
Answer = dict[str, Any]
"""``status``, and of a failure ``code`` and ``message``, of a success ``shape``; or ``unanswered``."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask."""

    region: str
    endpoint: str | None
    """None: Amazon itself."""
    key: str
    """Bearer key of the OpenAI API."""

    @property
    def mantle(self) -> str:
        """Where the OpenAI API is."""
        return f"{self.endpoint}/v1" if self.endpoint else MANTLE.format(region=self.region)


def observe(probe: Probe, target: Target) -> Answer:
    """What a server answers to one probe."""
    asked = json.loads(_text(probe.asked).replace("{region}", target.region), object_hook=_bytes_again)
    try:
        return _of_openai(probe, asked, target) if probe.service == "mantle" else _of_amazon(probe, asked, target)
    except (httpx.HTTPError, BotoCoreError) as error:
        return {"unanswered": f"{type(error).__name__}: {error}"[:300]}


def snapshot(answers: Mapping[str, Answer], target: Target) -> dict[str, Any]:
    """As it is written to a file."""
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = {"boto3": boto3.__version__, "httpx": httpx.__version__}
    asked = target.endpoint or "Amazon"
    return {"asked": asked, "region": target.region, "date": today, "clients": versions, "answers": dict(answers)}


def unmet(probe: Probe, answer: Answer) -> list[str]:
    """Where an answer is not what is known."""
    found = []
    for name, wanted in probe.known.items():
        if name == "has":
            found += [f"{member} is missing" for member in wanted if member not in answer.get("shape", {})]
        elif answer.get(name) != wanted:
            found.append(f"{name}: {answer.get(name)!r}, known: {wanted!r}")
    return found


def differences(theirs: Answer, ours: Answer) -> list[str]:
    """Where two answers to one probe differ. Members that only one has may be data that only one has."""
    found = [
        f"{name}: {ours.get(name)!r}, in the snapshot {theirs.get(name)!r}"
        for name in ("status", "code", "message", "unanswered")
        if theirs.get(name) != ours.get(name)
    ]
    mine, other = ours.get("shape", {}), theirs.get("shape", {})
    found += [f"{name} is missing" for name in sorted(set(other) - set(mine))]
    found += [f"{name} is more" for name in sorted(set(mine) - set(other))]
    return found + [
        f"{name} is {mine[name]}, not {other[name]}"
        for name in sorted(set(mine) & set(other))
        if mine[name] != other[name]
    ]


def _of_openai(probe: Probe, asked: dict[str, Any], target: Target) -> Answer:
    method, _, path = probe.operation.partition(" ")
    key = asked.get("key", target.key)
    files = asked.get("files")
    answer = httpx.request(
        method,
        target.mantle + path,
        headers={"authorization": f"Bearer {key}"} if key else {},
        params=asked.get("query"),
        json=asked.get("json"),
        data={"purpose": files["purpose"]} if files else None,
        files={"file": ("probe.jsonl", files["content"])} if files else None,
        timeout=TIMEOUT_S,
    )
    try:
        content = answer.json()
    except ValueError:
        return {"status": answer.status_code, "code": None, "message": _masked(answer.text[:300], target)}
    if answer.status_code < 400:
        return {"status": answer.status_code, "shape": dict(sorted(_shape(content, "")))}
    error = content.get("error", content) if isinstance(content, dict) else {}
    error = error if isinstance(error, dict) else {"message": error}
    told = {"status": answer.status_code, "code": error.get("code"), "type": error.get("type")}
    return told | {"param": error.get("param"), "message": _masked(str(error.get("message")), target)}


def _of_amazon(probe: Probe, asked: dict[str, Any], target: Target) -> Answer:
    once = Config(parameter_validation=False, retries={"max_attempts": 1, "mode": "standard"}, read_timeout=TIMEOUT_S)
    client: Any = boto3.client(probe.service, region_name=target.region, endpoint_url=target.endpoint, config=once)
    try:
        content = getattr(client, xform_name(probe.operation))(**asked)
    except ClientError as error:
        told = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return {"status": status, "code": told.get("Code"), "message": _masked(told.get("Message", ""), target)}
    status = content.pop("ResponseMetadata")["HTTPStatusCode"]
    return {"status": status, "shape": dict(sorted(_shape(content, "")))}


def _shape(content: Any, path: str) -> Iterator[tuple[str, str]]:
    """Names of members and their types; of a list, those of its first entry."""
    if isinstance(content, dict):
        for name, value in content.items():
            here = f"{path}.{name}" if path else str(name)
            yield here, type(value).__name__
            yield from _shape(value, here)
    elif isinstance(content, list) and content:
        yield from _shape(content[0], f"{path}[]")


def _masked(text: str, target: Target) -> str:
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text.replace(target.region, "<region>")


def _text(asked: dict[str, Any]) -> str:
    return json.dumps(asked, default=lambda content: {"bytes": content.decode()})


def _bytes_again(found: dict[str, Any]) -> Any:
    return found["bytes"].encode() if set(found) == {"bytes"} else found
