"""AWS signatures and the bearer tokens made from them, as far as they can be checked here. Pure.

Signature Version 4: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html. A Bedrock bearer token is a presigned
URL of ``CallWithBearerToken`` in base64 behind ``bedrock-api-key-`` (PyPI aws-bedrock-token-generator).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

TOKEN_PREFIX = "bedrock-api-key-"
ALGORITHM = "AWS4-HMAC-SHA256"
LONGEST_TOKEN_S = 43_200
CLOCK_SKEW = timedelta(minutes=5)
SERVICES = ("bedrock", "bedrock-mantle")
ANY_REGION = ("s3", "lambda", "iam", "sts", "logs", "monitoring")
"""Services that are the same for all regions here."""
SIGNATURE = re.compile("[0-9a-f]{64}")
REGION = re.compile("[a-z0-9-]{1,32}")
EMPTY = hashlib.sha256(b"").hexdigest()


class BadSignature(Exception):
    """Why it is not accepted."""


class NotHere(BadSignature):
    """Signed for a service that this server does not have."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair that the server knows."""

    access_key_id: str
    secret: str


def check_token(token: str, region: str, known: Credentials | None, now: datetime) -> None:
    """Raises BadSignature unless it is a Bedrock token of this region that has not expired."""
    try:
        url = base64.b64decode(token.removeprefix(TOKEN_PREFIX), validate=True).decode()
        parts = urlsplit(f"https://{url}")
    except ValueError:  # no base64, no text, no URL
        raise BadSignature("the token is not one of Bedrock's") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.hostname != "bedrock.amazonaws.com" or query.get("Action") != "CallWithBearerToken":
        raise BadSignature("the token is not one of Bedrock's")
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise BadSignature(f"the token is not signed with {ALGORITHM}")
    scope = _scope(query.get("X-Amz-Credential", ""), region, ("bedrock",))
    lifetime = _seconds(query.get("X-Amz-Expires", ""))
    signed_at = _time(query.get("X-Amz-Date", ""))
    if not SIGNATURE.fullmatch(query.get("X-Amz-Signature", "")):
        raise BadSignature("the token has no signature")
    if not 0 < lifetime <= LONGEST_TOKEN_S:
        raise BadSignature(f"X-Amz-Expires must lie between 1 and {LONGEST_TOKEN_S} seconds")
    if not signed_at - CLOCK_SKEW <= now <= signed_at + timedelta(seconds=lifetime):
        raise BadSignature("the token has expired, or the clocks differ")
    if known:
        signed = {name: value for name, value in query.items() if name not in ("X-Amz-Signature", "Version")}
        request = "\n".join(["POST", "/", _query(signed), "host:bedrock.amazonaws.com\n", "host", EMPTY])
        _compare(request, query.get("X-Amz-Signature", ""), query["X-Amz-Date"], scope, known)


def check_key_id(headers: Mapping[str, str], known: Credentials) -> None:
    """Raises BadSignature unless the request names the known key: before anything is read for a stranger."""
    if f"Credential={known.access_key_id}/" not in headers["authorization"]:
        raise BadSignature("the access key id is not the one this server knows")


def token_region(token: str) -> str | None:
    """The region that a Bedrock token was made for; None of any other key."""
    try:
        text = base64.b64decode(token.removeprefix(TOKEN_PREFIX), validate=True).decode()
        query = urlsplit(f"https://{text}").query
    except ValueError:
        return None
    scope = dict(parse_qsl(query)).get("X-Amz-Credential", "").split("/")
    return scope[2] if len(scope) == 5 and REGION.fullmatch(scope[2]) else None


def check_header(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body_sha256: str,
    region: str,
    known: Credentials | None,
    now: datetime,
) -> None:
    """Raises BadSignature unless the Authorization header signs this request for this region, now.

    ``path`` and ``query`` are as sent. Bedrock's own API, unlike the OpenAI one, is there for all regions.
    """
    words = headers["authorization"].removeprefix(ALGORITHM).strip().split(",")
    fields = dict(word.strip().partition("=")[::2] for word in words)
    openai = path.startswith(("/v1/", "/openai/v1/"))
    scope = _scope(fields.get("Credential", ""), region if openai else None, SERVICES + ANY_REGION)
    date = headers.get("x-amz-date", "")
    if not SIGNATURE.fullmatch(fields.get("Signature", "")):
        raise BadSignature("the header has no signature")
    if abs(_time(date) - now) > CLOCK_SKEW:
        raise BadSignature("the signature is older than five minutes, or the clocks differ")
    if known:
        names = fields.get("SignedHeaders", "").split(";")
        if "host" not in names or not date.startswith(scope[1]):
            raise BadSignature("the host must be signed, and the scope must have the date of X-Amz-Date")
        lines = "".join(f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names)
        pairs = sorted(pair.partition("=") for pair in query.split("&"))  # as sent: clients sign their own spelling
        canonical = "&".join(f"{name}={value}" for name, _, value in pairs) if query else ""
        canonical_path = path if scope[3] == "s3" else quote(path, safe="/-_.~")  # S3 alone signs it as it is sent
        request = "\n".join([method, canonical_path, canonical, lines, ";".join(names), body_sha256])
        _compare(request, fields.get("Signature", ""), date, scope, known)


def _compare(request: str, signature: str, date: str, scope: list[str], known: Credentials) -> None:
    if scope[0] != known.access_key_id:
        raise BadSignature("the access key id is not the one this server knows")
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join([ALGORITHM, date, "/".join(scope[1:]), digest])
    key = f"AWS4{known.secret}".encode()
    for part in scope[1:]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signature):
        raise BadSignature("the signature does not match")


def _scope(credential: str, region: str | None, services: tuple[str, ...]) -> list[str]:
    scope = unquote_plus(credential).split("/")
    if len(scope) == 5 and scope[3] not in services and services != ("bedrock",):
        raise NotHere(f"{scope[3][:64]} is not a service of this server")
    if len(scope) != 5 or scope[4] != "aws4_request" or scope[3] not in services:
        raise BadSignature(f"the credential scope must end in REGION/{services[-1]}/aws4_request")
    if region is not None and scope[2] != region:
        raise BadSignature(f"signed for region {scope[2][:32]}, this server is {region}; see --region")
    return scope


def _time(date: str) -> datetime:
    try:
        found = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return max(found, datetime(2000, 1, 1, tzinfo=UTC))  # far from where subtraction ends
    except ValueError:
        raise BadSignature("X-Amz-Date is not a time like 20261124T114300Z") from None


def _seconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _query(values: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in values.items())
    return "&".join(f"{name}={value}" for name, value in pairs)
