"""Requests to Amazon's APIs: body, operation, answer. Operations run in threads, inference in the event loop."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from fastapi.concurrency import run_in_threadpool
from moto.core.request import Request
from sqlalchemy.exc import OperationalError
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Incoming
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from grpo.server.aws import moto_services, wire
from grpo.server.aws.bedrock import Jobs
from grpo.server.aws.blobs import Blobs
from grpo.server.aws.cloudwatch import CloudWatch
from grpo.server.aws.customization import Intake
from grpo.server.aws.entry import meaning
from grpo.server.aws.errors import AwsError, of_api, unknown_operation
from grpo.server.aws.invocation import Invoker
from grpo.server.aws.lambda_ import Lambda
from grpo.server.aws.logs import Logs
from grpo.server.aws.models import Models
from grpo.server.aws.runtime import Runtime
from grpo.server.aws.s3 import S3
from grpo.server.aws.s3_parts import S3Parts
from grpo.server.aws.s3_rules import dechunked
from grpo.server.aws.wire import Answer, Call
from grpo.server.context import Server
from grpo.server.errors import ApiError

Operation = Callable[[Call], dict[str, Any]]
log = structlog.get_logger()


class Face:
    """An ASGI application."""

    def __init__(self, server: Server) -> None:
        self.server = server
        blobs = Blobs(server.data.objects)
        jobs = Jobs(server, Intake(server, blobs))
        models = Models(server, jobs)
        s3, invoker = S3(server.store, blobs), Invoker(server.store, server.graders)
        moto_services.prepare()
        self.runtime = Runtime(server, models)
        self.services: Mapping[str, Mapping[str, Operation]] = {
            "s3": {**s3.operations(), **S3Parts(s3).operations()},
            "lambda": Lambda(server.store, server.data, invoker, s3).operations(),
            "logs": Logs(server.store, server.data).operations(),
            "cloudwatch": CloudWatch(jobs).operations(),
            "bedrock": {**jobs.operations(), **models.operations()},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        service, named = meaning(scope)
        region = named or self.server.settings.region
        incoming = Incoming(scope, receive)
        problem: AwsError | None = None
        body = b""
        try:
            body = unframed(incoming, await incoming.body())
        except ClientDisconnect:
            return
        except ApiError as error:  # the guard counted more than it allows, or another digest
            problem = of_api(error)
        except AwsError as error:
            problem = error
        request = as_moto(incoming, body)
        if service == "bedrock-runtime":
            response = await self.infer(request, region, problem)
        else:
            answer = await run_in_threadpool(self.answer, service, request, region, problem)
            response = Response(answer.body, answer.status, answer.headers)
        response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
        await response(scope, receive, send)

    async def infer(self, request: Request, region: str, problem: AwsError | None) -> Response:
        """The answer of bedrock-runtime, which may be a stream."""
        try:
            if problem:
                raise problem
            return await self.runtime.answer(await run_in_threadpool(wire.read, "bedrock-runtime", request, region))
        except AwsError as error:
            told = wire.refuse("bedrock-runtime", request, error)
            return Response(told.body, told.status, told.headers)

    def answer(self, service: str, request: Request, region: str, problem: AwsError | None = None) -> Answer:
        """The answer to a request that may have a problem already."""
        try:
            if problem:
                raise problem
            if service in moto_services.RESPONSES:
                return moto_services.answer(service, request)
            call = wire.read(service, request, region)
            operation = self.services[service].get(call.operation.name)
            if operation is None:
                raise unknown_operation(service, call.operation.name)
            return wire.write(call, operation(call))
        except ApiError as error:
            return wire.refuse(service, request, of_api(error))
        except AwsError as error:
            return wire.refuse(service, request, error)
        except (OSError, OperationalError) as error:
            log.error("disk", error=str(error).splitlines()[0])
            return wire.refuse(service, request, AwsError("InternalServerException", "the disk is full or fails", 500))
        except Exception as error:
            log.exception("unexpected", path=request.path, error=repr(error))
            return wire.refuse(service, request, AwsError("InternalServerException", "see the server's log", 500))


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that did not come past the guard."""
    service, _ = meaning(scope)
    told = wire.refuse(service, as_moto(Incoming(scope, receive), b""), of_api(error))
    await Response(told.body, told.status, told.headers)(scope, receive, send)


def unframed(incoming: Incoming, body: bytes) -> bytes:
    """Without the framing of S3's chunks. Raises AwsError."""
    return dechunked(body) if "aws-chunked" in incoming.headers.get("content-encoding", "") else body


def as_moto(incoming: Incoming, body: bytes) -> Request:
    """With the path as it was sent."""
    path = incoming.scope["raw_path"].decode("latin-1")
    query = incoming.scope["query_string"].decode("latin-1")
    url = f"http://{incoming.headers.get('host', 'localhost')}{path}" + (f"?{query}" if query else "")
    return Request.from_primitives(incoming.method, url, incoming.headers, body)
