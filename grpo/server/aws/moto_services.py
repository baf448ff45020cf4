"""IAM and STS: moto's, in this process and in memory. Roles are gone after a restart; nothing here depends on them.

docs.getmoto.org. Pure but for moto's own state.
"""

from moto.core.config import default_user_config
from moto.core.request import Request
from moto.iam.responses import IamResponse
from moto.sts.responses import TokenResponse

from grpo.server.aws.errors import AwsError, unknown_operation
from grpo.server.aws.wire import Answer

RESPONSES = {"iam": IamResponse, "sts": TokenResponse}


def prepare() -> None:
    """Have IAM know Amazon's own policies, which moto leaves out unless asked."""
    default_user_config["iam"] = {"load_aws_managed_policies": True}


def answer(service: str, request: Request) -> Answer:
    """What moto answers to a request."""
    url = f"https://{service}.amazonaws.com{request.raw_path}"
    try:
        status, headers, body = RESPONSES[service].dispatch(request, url, request.headers)
    except NotImplementedError:
        raise unknown_operation(service, request.values.get("Action", "")[:100]) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # moto's way of missing an argument
        raise AwsError("ValidationError", f"the request lacks something, or has it in a wrong form: {error}") from None
    kept = {name: str(value) for name, value in headers.items() if name.lower() not in ("status", "content-length")}
    return Answer(int(status), kept, body.encode() if isinstance(body, str) else bytes(body or b""))
