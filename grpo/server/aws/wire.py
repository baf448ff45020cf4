"""HTTP ↔ operations of a service, by botocore's service models. The work is moto's (moto.core, Apache-2.0). Pure.

``given`` and results are dictionaries with the member names of the model, as boto3 has them on its side.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from moto.core.model import OperationModel
from moto.core.parse import PROTOCOL_PARSERS, RequestParserError
from moto.core.request import Request, determine_request_protocol
from moto.core.routing import get_service_router
from moto.core.serialize import ResponseDict, get_serializer_class
from moto.core.utils import get_service_model
from werkzeug.exceptions import NotFound

from grpo.server.aws import cbor, checks, members
from grpo.server.aws.errors import AwsError, invalid, unknown_operation


@dataclass(frozen=True, slots=True)
class Call:
    """One operation with its input."""

    service: str
    operation: OperationModel
    given: dict[str, Any]
    protocol: str
    region: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def read(service: str, request: Request, region: str) -> Call:
    """The operation and its checked input. Raises AwsError."""
    operation, given, protocol = _of_cbor(service, request) if _is_cbor(request) else _parsed(service, request)
    given = {name: value for name, value in given.items() if value is not None}
    problems = checks.problems(operation.input_shape, given) if service in CHECKED else []
    if problems:
        raise invalid(checks.in_words(problems))
    members.check(service, operation.name, given)
    return Call(service, operation, given, protocol, region)


def _parsed(service: str, request: Request) -> tuple[OperationModel, dict[str, Any], str]:
    model = get_service_model(service)
    try:
        protocol = determine_request_protocol(model, request.content_type)
        operation, in_path = get_service_router(service).match(request)
    except (NotFound, NotImplementedError):
        raise unknown_operation(service, asked_for(request)) from None
    asked = {
        "method": request.method,
        "values": request.values,
        "headers": request.headers,
        "body": request.data,
        "url_path": request.path,
        "url_params": in_path,
    }
    try:
        given = PROTOCOL_PARSERS[protocol](operation).parse(asked)
    except RequestParserError as error:
        raise AwsError("MalformedXML", f"the body is not well-formed XML: {str(error)[:100]}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise unreadable(error) from None
    if not isinstance(given, dict):
        raise AwsError("SerializationException", "the body is no object")
    return operation, given, protocol


def _is_cbor(request: Request) -> bool:
    return bool(request.headers.get("smithy-protocol") == cbor.PROTOCOL)


def _of_cbor(service: str, request: Request) -> tuple[OperationModel, dict[str, Any], str]:
    match = cbor.PATH.match(request.path)
    name = match["operation"] if match else request.path[:100]
    if name not in operations(service):
        raise unknown_operation(service, name)
    try:
        given = cbor.loads(request.data)
    except ValueError as error:
        raise unreadable(error) from None
    return get_service_model(service).operation_model(name), given, cbor.PROTOCOL


def unreadable(error: Exception) -> AwsError:
    """What a parser could not read."""
    return AwsError("SerializationException", f"the request cannot be read: {str(error)[:200]}")


BODILESS = (204, 304)
CHECKED = frozenset({"bedrock", "bedrock-runtime", "lambda", "logs", "cloudwatch"})
"""Services whose bounds, patterns and enums are checked here, as boto3 checks few of them; S3 has its own rules."""


def asked_for(request: Request) -> str:
    """What a request wants, where no operation is found."""
    target = request.headers.get("X-Amz-Target", "").rpartition(".")[2] or request.values.get("Action", "")
    return target[:100] or f"{request.method} {request.path[:100]}"


def write(call: Call, result: dict[str, Any]) -> Answer:
    """The result in the protocol that the call came in."""
    if call.protocol == cbor.PROTOCOL:
        return _in_cbor(200, result)
    answer = _answer(_serializer(call.service, call.operation, call.protocol).serialize(result))
    shape = call.operation.output_shape
    members = shape.members if shape is not None else {}
    if "ContentType" in members and "ContentType" in result:  # of the content, not of the form
        answer.headers["Content-Type"] = result["ContentType"]
    for name, member in members.items():
        if member.serialization.get("location") == "statusCode" and name in result:
            return Answer(result[name], answer.headers, answer.body if result[name] not in BODILESS else b"")
    return answer if answer.status not in BODILESS else Answer(answer.status, answer.headers)


def _in_cbor(status: int, content: dict[str, Any]) -> Answer:
    headers = {"Content-Type": "application/cbor", "smithy-protocol": cbor.PROTOCOL}
    return Answer(status, headers, cbor.dumps(content))


def refuse(service: str, request: Request, error: AwsError) -> Answer:
    """The error in the form that the service's clients read."""
    if _is_cbor(request):
        return _in_cbor(error.status, {"__type": error.code, "message": error.message})
    model = get_service_model(service)
    try:
        protocol = determine_request_protocol(model, request.content_type)
    except NotImplementedError:
        protocol = model.protocol
    operation = OperationModel({"name": "Unknown"}, model, "Unknown")
    answer = _answer(_serializer(service, operation, protocol).serialize(error))
    body = answer.body if request.method != "HEAD" and error.status not in BODILESS else b""
    return Answer(error.status, answer.headers, body)


def _serializer(service: str, operation: OperationModel, protocol: str) -> Any:
    return get_serializer_class(service, protocol)(operation)


def _answer(made: ResponseDict) -> Answer:
    body = made["body"]
    return Answer(
        made["status_code"],
        {name: str(value) for name, value in made["headers"].items()},
        body.encode() if isinstance(body, str) else bytes(body or b""),
    )


@cache
def operations(service: str) -> tuple[str, ...]:
    """All operations of a service's model."""
    return tuple(get_service_model(service).operation_names)
