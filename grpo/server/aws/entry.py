"""The door to Amazon's APIs: which requests go there. What is behind it is loaded when the first one comes.

A request says its service in the scope of its signature. Loading moto and botocore's models takes longer than all the
rest of the server.
"""

import re
from typing import TYPE_CHECKING

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from grpo.server import aws_auth
from grpo.server.aws.blobs import Blobs
from grpo.server.aws.delivery import Delivery
from grpo.server.context import Server
from grpo.server.errors import ApiError

if TYPE_CHECKING:
    from grpo.server.aws.face import Face

CREDENTIAL = re.compile(r"Credential=[^/]+/\d{8}/(?P<region>[a-z0-9-]{1,32})/(?P<signed>[a-z0-9-]{1,32})/aws4_request")
SIGNED = {name: name for name in ("s3", "lambda", "iam", "sts", "logs", "bedrock")} | {"monitoring": "cloudwatch"}
"""What a signature names → the service in botocore."""
BEARER = re.compile("bearer ", re.IGNORECASE)
PATHS = re.compile(
    "/(model|guardrail|guardrail-checks|async-invoke|advanced-prompt-optimization-jobs?|automated-reasoning-policies"
    "|create-foundation-model-agreement|custom-models|data-retention|delete-foundation-model-agreement"
    "|enforcedGuardrailsConfiguration|evaluation-jobs?|foundation-model-availability|foundation-models|guardrails"
    "|imported-models|inference-profiles|list-foundation-model-agreement-offers|listTagsForResource|logging"
    "|marketplace-model|model-copy-jobs|model-customization|model-customization-jobs|model-import-jobs"
    "|model-invocation-jobs?|projects|prompt-routers|provisioned-model-throughputs?|resource-policy|tagResource"
    "|trusted-access-programs|untagResource|use-case-for-model-access)(/|$)"
)
"""How paths of Bedrock begin: a bearer token names no service."""
RUNTIME = re.compile("/(model|guardrail|guardrail-checks|async-invoke)(/|$)")
OPENAI = ("/v1/", "/openai/v1/", "/healthz")


def meant(scope: Scope) -> tuple[str, str | None] | None:
    """Service and region of a request to one of Amazon's APIs; None for any other. A bearer may name no region."""
    authorization, path = Headers(scope=scope).get("authorization", ""), scope["path"]
    if BEARER.match(authorization):
        found = PATHS.match(path)
        return (bedrock(path), aws_auth.token_region(authorization[7:])) if found else None
    match = CREDENTIAL.search(authorization)
    if not match or match["signed"] not in SIGNED:
        return None
    if match["signed"] == "bedrock" and path.startswith(OPENAI):
        return None
    return bedrock(path) if match["signed"] == "bedrock" else SIGNED[match["signed"]], match["region"]


def bedrock(path: str) -> str:
    """Which of its two services."""
    return "bedrock-runtime" if RUNTIME.match(path) else "bedrock"


def meaning(scope: Scope) -> tuple[str, str | None]:
    """Of a request that is known to be one of them."""
    found = meant(scope)
    assert found is not None
    return found


class Amazon:
    """An ASGI application in front of them; results of jobs are delivered whether or not anybody asks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._face: Face | None = None
        blobs = Blobs(server.data.objects)
        blobs.sweep(server.store.objects.blobs())
        delivery = Delivery(server, blobs)
        delivery.overdue()
        server.supervisor.ended.append(delivery.deliver)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._face is None:
            loaded = await run_in_threadpool(self._load)
            self._face = self._face or loaded  # another request may have come first
        await self._face(scope, receive, send)

    def _load(self) -> "Face":
        from grpo.server.aws.face import Face

        return Face(self.server)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that did not come past the guard."""
    from grpo.server.aws import face

    await face.refuse(error, scope, receive, send)
