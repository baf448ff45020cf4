"""Lambda: functions in zip files, run in the sandbox of the reward functions. Touches: disk, processes.

docs.aws.amazon.com/lambda/latest/api. A function is this server's reward function of the same name.
"""

import base64
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from grpo.errors import RewardError
from grpo.server import functions
from grpo.server.aws.errors import AwsError
from grpo.server.aws.invocation import Invoker
from grpo.server.aws.names import function_arn
from grpo.server.aws.s3 import S3
from grpo.server.aws.wire import Call
from grpo.server.records import Function
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

Given = dict[str, Any]
NAMED = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:[a-z0-9-]+:)?(?:\d{12}:)?(?:function:)?(?P<name>[A-Za-z0-9_-]{1,64})(:.*)?"
)
PYTHON = re.compile(r"python3\.\d+")
TIMEOUT_S, MEMORY_MB = 3, 128
"""Lambda's defaults."""


class Lambda:
    """The functions of one server."""

    def __init__(self, store: Store, data: DataDirectory, invoker: Invoker, s3: S3) -> None:
        self.store, self.data, self.invoker, self.s3 = store, data, invoker, s3

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "CreateFunction": self.create,
            "GetFunction": self.get,
            "GetFunctionConfiguration": self.get_configuration,
            "UpdateFunctionCode": self.update_code,
            "UpdateFunctionConfiguration": self.update_configuration,
            "ListFunctions": self.list_functions,
            "DeleteFunction": self.delete,
            "Invoke": self.invoke,
        }

    def create(self, call: Call) -> Given:
        given = call.given
        if given.get("PackageType", "Zip") != "Zip" or not PYTHON.fullmatch(given.get("Runtime", "")):
            raise bad("only functions in zip files for Python runtimes can run here")
        name = named(given["FunctionName"])
        if self.store.functions.get(name):
            raise AwsError("ResourceConflictException", f"Function already exist: {name}", 409)
        content = self._content(given["Code"])
        made = self._deploy(name, content, given)
        return configuration(made, call.region)

    def get(self, call: Call) -> Given:
        found = self._function(call)
        code = {"RepositoryType": "S3", "Location": ""}
        return {"Configuration": configuration(found, call.region), "Code": code, "Tags": {}}

    def get_configuration(self, call: Call) -> Given:
        return configuration(self._function(call), call.region)

    def update_code(self, call: Call) -> Given:
        found = self._function(call)
        made = self._deploy(found.name, self._content(call.given), kept(found))
        return configuration(made, call.region)

    def update_configuration(self, call: Call) -> Given:
        found = self._function(call)
        if "Handler" in call.given and call.given["Handler"] != found.handler:
            raise bad("the handler is part of the code here: update the code, or create the function again")
        if "Runtime" in call.given and not PYTHON.fullmatch(call.given["Runtime"]):
            raise bad("only Python runtimes can run here")
        made = changed(found, kept(found) | call.given)
        self.store.functions.put(made)
        return configuration(made, call.region)

    def list_functions(self, call: Call) -> Given:
        found, marker = self.store.functions.all(), call.given.get("Marker", "")
        page = [f for f in found if f.name > marker][: call.given.get("MaxItems", 50)]
        more = page and page[-1].name != found[-1].name
        listed = {"Functions": [configuration(f, call.region) for f in page]}
        return listed | ({"NextMarker": page[-1].name} if more else {})

    def delete(self, call: Call) -> Given:
        found = self._function(call)
        self.store.functions.delete(found.name)
        return {"StatusCode": 204}

    def invoke(self, call: Call) -> Given:
        found, kind = self._function(call), call.given.get("InvocationType", "RequestResponse")
        if kind == "DryRun":
            return {"StatusCode": 204}
        if kind != "RequestResponse":
            raise bad("only InvocationType RequestResponse and DryRun are implemented here")
        result = self.invoker.invoke(found, call.given.get("Payload", b""))
        answer: Given = {"StatusCode": 200, "Payload": result.payload, "ExecutedVersion": "$LATEST"}
        if result.failed:
            answer["FunctionError"] = "Unhandled"
        if call.given.get("LogType") == "Tail":
            answer["LogResult"] = base64.b64encode(result.printed[-4096:]).decode()
        return answer

    def _function(self, call: Call) -> Function:
        name = named(call.given["FunctionName"])
        found = self.store.functions.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Function not found: {function_arn(name, call.region)}", 404)
        return found

    def _content(self, code: Given) -> bytes:
        if "ZipFile" in code:
            return bytes(code["ZipFile"])
        if "S3Bucket" in code and "S3Key" in code:
            try:
                _, content = self.s3.reading(code["S3Bucket"], code["S3Key"], lambda one: self.s3.blobs.read(one.blob))
            except AwsError as error:
                raise bad(f"s3://{code['S3Bucket']}/{code['S3Key']}: {error.message}") from None
            return content
        raise bad("the code must be ZipFile, or S3Bucket and S3Key")

    def _deploy(self, name: str, content: bytes, given: Given) -> Function:
        with tempfile.TemporaryDirectory(dir=self.data.functions, prefix="partial-") as scratch:
            archive = Path(scratch) / f"{uuid.uuid4().hex}.zip"
            archive.write_bytes(content)
            try:
                made = functions.deploy(
                    self.store,
                    self.data,
                    name,
                    archive,
                    handler=given.get("Handler"),
                    timeout_s=given.get("Timeout", TIMEOUT_S),
                    memory_mb=given.get("MemorySize", MEMORY_MB),
                    environment=given.get("Environment", {}).get("Variables", {}),
                    network=False,
                )
            except RewardError as error:
                raise bad(str(error).replace(str(archive), "the zip file")) from None
        digest = base64.b64encode(sha256(content).digest()).decode()
        complete = changed(made, given | {"CodeSha256": digest, "CodeSize": len(content)})
        self.store.functions.put(complete)
        return complete


def named(name: str) -> str:
    """The name in a name, a partial or a whole ARN. Raises AwsError."""
    match = NAMED.fullmatch(name)
    if not match:
        raise AwsError("ValidationException", f"'{name[:140]}' is not a function's name or ARN")
    return match["name"]


def kept(found: Function) -> Given:
    """Of a function whose code or configuration changes: the other."""
    return {
        "Handler": found.handler,
        "Timeout": int(found.timeout_s),
        "MemorySize": found.memory_mb,
        "Environment": {"Variables": found.environment},
        "Runtime": found.runtime,
        "Role": found.role,
        "Description": found.description,
        "CodeSha256": found.code_sha256,
        "CodeSize": found.code_bytes,
    }


def changed(found: Function, given: Given) -> Function:
    """The record with what a request says."""
    return replace(
        found,
        timeout_s=given.get("Timeout", TIMEOUT_S),
        memory_mb=given.get("MemorySize", MEMORY_MB),
        environment=given.get("Environment", {}).get("Variables", {}),
        runtime=given.get("Runtime"),
        role=given.get("Role"),
        description=given.get("Description"),
        code_sha256=given.get("CodeSha256"),
        code_bytes=given.get("CodeSize"),
    )


def configuration(found: Function, region: str) -> Given:
    """As Lambda describes a function. One that was registered by ``grpo lambda deploy`` has no role."""
    return {
        "FunctionName": found.name,
        "FunctionArn": function_arn(found.name, region),
        "Runtime": found.runtime or "python3.11",
        "Role": found.role or "arn:aws:iam::123456789012:role/local",
        "Handler": found.handler,
        "CodeSize": found.code_bytes or 0,
        "CodeSha256": found.code_sha256 or found.sha256,
        "Description": found.description or "",
        "Timeout": int(found.timeout_s),
        "MemorySize": found.memory_mb,
        "LastModified": datetime.fromtimestamp(found.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000"),
        "Version": "$LATEST",
        "Environment": {"Variables": found.environment},
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": str(uuid.UUID(found.sha256[:32])),
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
    }


def bad(message: str) -> AwsError:
    """Lambda's word for a request that cannot be carried out."""
    return AwsError("InvalidParameterValueException", message)
