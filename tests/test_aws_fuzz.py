"""Every operation of Amazon's APIs with inputs drawn from the service's own model: no input is an error of the server.

Names, numbers and texts are of the right kind, as boto3 sends them, or hostile; boto3's own checks are off. An answer
is right if it is no error of the server: below 500, or 501 for what is not there.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo.server.aws import members
from grpo.testing import Endpoint, serving

EXAMPLES = int(os.environ.get("AWS_FUZZ_EXAMPLES", "6"))
EXPLORES = "AWS_FUZZ_EXAMPLES" in os.environ
"""New inputs with every run; else the same ones each time, so that what passed here passes elsewhere."""
DRAWN: dict[str, Any] = {
    "max_examples": EXAMPLES,
    "derandomize": not EXPLORES,
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
UNSENDABLE = (
    *(ValueError, TypeError, KeyError, AttributeError),
    *(httpx.InvalidURL, httpx.LocalProtocolError, h11.LocalProtocolError),
)
"""Of inputs that no client could send."""
NAMES = {"bedrock": "bedrock", "bedrock-runtime": "bedrock", "cloudwatch": "monitoring"}
"""What a signature calls a service, where it is not botocore's name."""
OPERATIONS = sorted((service, name) for service, found in members.TAKEN.items() for name in found)
HOSTILE = st.sampled_from(
    ["", "a", "../../etc/passwd", "a\u0000b", "\u202e", "%00", "x" * 5000, "'; DROP TABLE jobs", "$LATEST"]
)
LIKELY = st.sampled_from(
    ["probe", "tiny", "arn:aws:bedrock:us-east-1:123456789012:custom-model/x/abcdefghijkl", "2026-11-27"]
)
TEXT = HOSTILE | LIKELY | st.text(max_size=20)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("fuzz") / "data", {"tiny": tiny_model}) as found:
        yield found


def drawn(shape: Shape, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of a shape: required members always, others now and then."""
    kind = shape.type_name
    if kind == "structure":
        if depth > 4 or getattr(shape, "eventstream", False):
            return st.just({})
        inside = {name: drawn(member, depth + 1) for name, member in shape.members.items()}
        required = {name: inside[name] for name in shape.required_members}
        return st.fixed_dictionaries(required, optional={n: s for n, s in inside.items() if n not in required})
    if kind == "list":
        return st.lists(drawn(shape.member, depth + 1), max_size=2)
    if kind == "map":
        return st.dictionaries(TEXT.filter(bool), drawn(shape.value, depth + 1), max_size=2)
    if kind == "string":
        return st.sampled_from(shape.enum) | TEXT if getattr(shape, "enum", None) else TEXT
    plain = {
        "integer": st.integers(-5, 2**31) | st.sampled_from([0, 1, 16]),
        "long": st.integers(-5, 2**53),
        "boolean": st.booleans(),
        "float": st.floats(allow_nan=False, allow_infinity=False, width=32),
        "double": st.floats(allow_nan=False, allow_infinity=False),
        "timestamp": st.datetimes(),
        "blob": st.binary(max_size=50) | st.just(b"{}"),
    }
    return plain[kind]


def sent(endpoint: Endpoint, service: str, request: dict[str, Any]) -> httpx.Response:
    """A serialised request, signed with any credentials."""
    url = endpoint.url + request["url_path"]
    made = AWSRequest(
        request["method"], url, headers=request["headers"], data=request["body"], params=request["query_string"]
    )
    SigV4Auth(Credentials("any", "thing"), NAMES.get(service, service), "us-east-1").add_auth(made)
    ready = made.prepare()
    body = ready.body if isinstance(ready.body, bytes | str) or ready.body is None else ready.body.read()
    return httpx.request(ready.method, ready.url, headers=dict(ready.headers), content=body, timeout=60)


def right(answer: httpx.Response) -> bool:
    return answer.status_code < 500 or answer.status_code == 501


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_inputs_of_the_models_kind(endpoint: Endpoint, service: str, operation: str) -> None:
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    found = model.operation_model(operation)
    seen: list[int] = []
    serializer = create_serializer(model.resolved_protocol, include_validation=False)

    @settings(**DRAWN)
    @given(drawn(found.input_shape) if found.input_shape else st.just({}))
    def run(asked: dict[str, Any]) -> None:
        try:
            request = serializer.serialize_to_request(asked, found)
            answer = sent(endpoint, service, request)
        except UNSENDABLE:
            return
        seen.append(answer.status_code)
        assert right(answer), (answer.status_code, answer.text, asked)

    run()
    assert seen, "none could be sent"


JSON = [(service, name) for service, name in OPERATIONS if service in ("bedrock", "bedrock-runtime", "lambda", "logs")]


@pytest.mark.parametrize(("service", "operation"), JSON)
def test_bodies_of_any_kind(endpoint: Endpoint, service: str, operation: str) -> None:
    """JSON of every form where an object of the model is expected."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    found = model.operation_model(operation)
    names = list(found.input_shape.members) if found.input_shape else []
    some = st.dictionaries(st.sampled_from(names or ["x"]), ANY, max_size=5) | ANY
    path = "/".join("x" if part.startswith("{") else part for part in found.http["requestUri"].split("?")[0].split("/"))
    headers = {"Content-Type": "application/json"}
    if service == "logs":
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"Logs_20140328.{operation}"}

    @settings(**DRAWN)
    @given(some)
    def run(body: Any) -> None:
        content = json.dumps(body).encode()
        request = {"method": found.http["method"], "url_path": path, "headers": headers, "query_string": {}}
        answer = sent(endpoint, service, request | {"body": content})
        assert right(answer), (answer.status_code, answer.text, body)

    run()


def test_bodies_that_are_no_object_and_no_document(endpoint: Endpoint) -> None:
    """Found by the tests above with more examples."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.DescribeLogGroups"}
    request = {"method": "POST", "url_path": "/", "headers": headers, "query_string": {}, "body": b"null"}
    answer = sent(endpoint, "logs", request)
    assert (answer.status_code, answer.json()["__type"]) == (400, "SerializationException")
    request = {"method": "PUT", "url_path": "/a-bucket", "headers": {}, "query_string": {}, "body": b"{}"}
    answer = sent(endpoint, "s3", request)
    assert answer.status_code == 400
    assert "<Code>MalformedXML</Code>" in answer.text
    request = {"method": "POST", "url_path": "/a-bucket", "headers": {}, "query_string": {"delete": ""}}
    assert sent(endpoint, "s3", {**request, "method": "PUT", "query_string": {}, "body": b""}).status_code == 200
    answer = sent(endpoint, "s3", request | {"body": b"<Delete><Object></Object></Delete>"})
    assert answer.status_code == 400
    assert "<Code>MalformedXML</Code>" in answer.text
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    asked = b"Action=AssumeRole&Version=2011-06-15"
    request = {"method": "POST", "url_path": "/", "headers": headers, "query_string": {}, "body": asked}
    answer = sent(endpoint, "sts", request)
    assert answer.status_code == 400
    assert "<Code>ValidationError</Code>" in answer.text
