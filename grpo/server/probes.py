"""Requests that show how a service behaves, with what is known of the answer and where that is known from. Data.

None starts a job, costs money or leaves anything behind: they read, or ask for what cannot be. What is not under
``known`` is unknown to us until someone with credentials has taken a snapshot (docs/conformance.md).
"""

from dataclasses import dataclass, field
from typing import Any

NOBODY = "ftjob-00000000-0000-4000-8000-000000000000"
BASE = "amazon.nova-2-lite-v1:0:256k"
ARN = "arn:aws:bedrock:{region}:123456789012"
USER_GUIDE = "docs.aws.amazon.com/bedrock/latest/userguide/"
REFERENCE = "docs.aws.amazon.com/bedrock/latest/APIReference/"
OPENAI = "platform.openai.com/docs/api-reference/"
LOGS = "docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/"
LAMBDA = "docs.aws.amazon.com/lambda/latest/api/"
S3 = "docs.aws.amazon.com/AmazonS3/latest/API/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One request."""

    name: str
    service: str
    """``mantle`` for the OpenAI API, else botocore's name."""
    operation: str
    """Method and path of the OpenAI API, or the operation's name in botocore."""
    asked: dict[str, Any] = field(default_factory=dict)
    """``json``, ``query``, ``files`` or ``key`` of the OpenAI API; the operation's input in botocore.
    ``{region}`` in a text stands for the region."""
    known: dict[str, Any] = field(default_factory=dict)
    """Of the answer: status, code, message, or ``has`` for members that must be there."""
    source: str = ""


LISTED = {"status": 200, "has": ["object", "data"]}
JOB: dict[str, Any] = {
    "model": "openai.gpt-oss-20b",
    "training_file": "file-nobody",
    "method": {
        "type": "reinforcement",
        "reinforcement": {
            "grader": {
                "type": "lambda",
                "lambda": {"function": "arn:aws:lambda:us-west-2:123456789012:function:nobody"},
            },
            "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0},
        },
    },
}
NATIVE: dict[str, Any] = {
    "jobName": "probe",
    "customModelName": "probe",
    "roleArn": "arn:aws:iam::123456789012:role/nobody",
    "baseModelIdentifier": BASE,
    "customizationType": "REINFORCEMENT_FINE_TUNING",
    "trainingDataConfig": {"s3Uri": "s3://no-such-bucket-of-a-probe/train.jsonl"},
    "outputDataConfig": {"s3Uri": "s3://no-such-bucket-of-a-probe/out/"},
}


def rft(**hyperparameters: Any) -> dict[str, Any]:
    """A native request with these hyperparameters."""
    grader = {"lambdaGrader": {"lambdaArn": "arn:aws:lambda:us-east-1:123456789012:function:nobody"}}
    return NATIVE | {"customizationConfig": {"rftConfig": {"graderConfig": grader, "hyperParameters": hyperparameters}}}


MANTLE: tuple[tuple[str, str, dict[str, Any], dict[str, Any], str], ...] = (
    ("jobs", "GET /fine_tuning/jobs", {"query": {"limit": 1}}, LISTED, OPENAI + "fine-tuning/list"),
    ("unknown job", f"GET /fine_tuning/jobs/{NOBODY}", {}, {"status": 404}, OPENAI + "fine-tuning/retrieve"),
    ("events of an unknown job", f"GET /fine_tuning/jobs/{NOBODY}/events", {}, {"status": 404}, OPENAI + "fine-tuning"),
    ("checkpoints of an unknown job", f"GET /fine_tuning/jobs/{NOBODY}/checkpoints", {}, {"status": 404}, OPENAI),
    ("cancelling an unknown job", f"POST /fine_tuning/jobs/{NOBODY}/cancel", {}, {"status": 404}, OPENAI),
    ("pausing an unknown job", f"POST /fine_tuning/jobs/{NOBODY}/pause", {}, {}, ""),
    (
        "a job without a file",
        "POST /fine_tuning/jobs",
        {"json": {"model": "openai.gpt-oss-20b"}},
        {"status": 400},
        OPENAI,
    ),
    ("a job with an unknown file", "POST /fine_tuning/jobs", {"json": JOB}, {}, ""),
    ("a job with a suffix", "POST /fine_tuning/jobs", {"json": JOB | {"suffix": "mine"}}, {}, ""),
    ("a job with a seed", "POST /fine_tuning/jobs", {"json": JOB | {"seed": 1}}, {}, ""),
    ("a job of an unknown model", "POST /fine_tuning/jobs", {"json": JOB | {"model": "nobody"}}, {}, ""),
    ("a job with an unknown field", "POST /fine_tuning/jobs", {"json": JOB | {"nobody": 1}}, {}, ""),
    ("files", "GET /files", {"query": {"purpose": "fine-tune"}}, LISTED, OPENAI + "files/list"),
    ("unknown file", "GET /files/file-nobody", {}, {"status": 404}, OPENAI + "files/retrieve"),
    ("deleting an unknown file", "DELETE /files/file-nobody", {}, {"status": 404}, OPENAI + "files/delete"),
    ("content of an unknown file", "GET /files/file-nobody/content", {}, {}, ""),
    (
        "a file for nothing",
        "POST /files",
        {"files": {"purpose": "nothing", "content": "{}\n"}},
        {"status": 400},
        OPENAI,
    ),
    ("models", "GET /models", {}, LISTED, USER_GUIDE + "models-get-info.html"),
    ("unknown model", "GET /models/nobody", {}, {"status": 404}, OPENAI + "models/retrieve"),
    (
        "chat with an unknown model",
        "POST /chat/completions",
        {"json": {"model": "nobody", "messages": [{"role": "user", "content": "hello"}]}},
        {},
        "",
    ),
    ("no key", "GET /fine_tuning/jobs", {"key": None}, {"status": 401}, USER_GUIDE + "api-keys.html"),
    ("a wrong key", "GET /fine_tuning/jobs", {"key": "nobody"}, {"status": 401}, USER_GUIDE + "api-keys.html"),
    ("an unknown path", "GET /fine_tuning/nothing", {}, {"status": 404}, OPENAI),
)
INVALID = {"status": 400, "code": "ValidationException"}
MISSING = {"status": 404, "code": "ResourceNotFoundException"}
BEDROCK: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("customization jobs", "ListModelCustomizationJobs", {"maxResults": 1}, {"status": 200}),
    (
        "an unknown customization job",
        "GetModelCustomizationJob",
        {"jobIdentifier": f"{ARN}:model-customization-job/{BASE}/abcdefghijkl"},
        MISSING,
    ),
    (
        "stopping an unknown customization job",
        "StopModelCustomizationJob",
        {"jobIdentifier": f"{ARN}:model-customization-job/{BASE}/abcdefghijkl"},
        MISSING,
    ),
    ("a batch that is too large", "CreateModelCustomizationJob", rft(batchSize=10_000), INVALID),
    ("a batch that is too small", "CreateModelCustomizationJob", rft(batchSize=1), INVALID),
    ("a rate that is too high", "CreateModelCustomizationJob", rft(learningRate=1.0), INVALID),
    ("an unknown effort", "CreateModelCustomizationJob", rft(reasoningEffort="utmost"), INVALID),
    ("two wrong numbers", "CreateModelCustomizationJob", rft(batchSize=1, epochCount=0), INVALID),
    ("a name that is too long", "CreateModelCustomizationJob", rft() | {"jobName": "a" * 64}, INVALID),
    ("a name with a blank", "CreateModelCustomizationJob", rft() | {"jobName": "a b"}, INVALID),
    ("an unknown type", "CreateModelCustomizationJob", rft() | {"customizationType": "NOTHING"}, INVALID),
    ("no grader", "CreateModelCustomizationJob", NATIVE, {}),
    ("data that are not there", "CreateModelCustomizationJob", rft(), {}),
    ("base models", "ListFoundationModels", {}, {"status": 200, "has": ["modelSummaries"]}),
    ("an unknown base model", "GetFoundationModel", {"modelIdentifier": "no.such-model"}, {}),
    ("custom models", "ListCustomModels", {"maxResults": 1}, {"status": 200}),
    (
        "an unknown custom model",
        "GetCustomModel",
        {"modelIdentifier": f"{ARN}:custom-model/{BASE}/abcdefghijkl"},
        MISSING,
    ),
    (
        "deploying an unknown model",
        "CreateCustomModelDeployment",
        {"modelDeploymentName": "probe", "modelArn": f"{ARN}:custom-model/{BASE}/abcdefghijkl"},
        {},
    ),
    (
        "an unknown deployment",
        "GetCustomModelDeployment",
        {"customModelDeploymentIdentifier": f"{ARN}:custom-model-deployment/abcdefghijkl"},
        MISSING,
    ),
)
SAID = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
OTHERS: tuple[tuple[str, str, str, dict[str, Any], dict[str, Any], str], ...] = (
    ("converse with an unknown model", "bedrock-runtime", "Converse", SAID | {"modelId": "no.such-model"}, {}, ""),
    (
        "invoke with an unknown model",
        "bedrock-runtime",
        "InvokeModel",
        {"modelId": "no.such-model", "body": b"{}"},
        {},
        "",
    ),
    (
        "an unknown function",
        "lambda",
        "GetFunction",
        {"FunctionName": "nobody-of-a-probe"},
        MISSING | {"message": "Function not found: arn:aws:lambda:<region>:<account>:function:nobody-of-a-probe"},
        LAMBDA + "API_GetFunction.html",
    ),
    (
        "invoking an unknown function",
        "lambda",
        "Invoke",
        {"FunctionName": "nobody-of-a-probe"},
        MISSING,
        LAMBDA + "API_Invoke.html",
    ),
    (
        "an unknown log group",
        "logs",
        "DescribeLogStreams",
        {"logGroupName": "/aws/lambda/nobody-of-a-probe"},
        {"code": "ResourceNotFoundException", "message": "The specified log group does not exist."},
        LOGS + "API_DescribeLogStreams.html",
    ),
    (
        "an unknown bucket",
        "s3",
        "ListObjectsV2",
        {"Bucket": "no-such-bucket-of-a-probe-5f2c"},
        {"status": 404, "code": "NoSuchBucket", "message": "The specified bucket does not exist"},
        S3 + "ErrorResponses.html",
    ),
    ("who am I", "sts", "GetCallerIdentity", {}, {"status": 200, "has": ["Account", "Arn", "UserId"]}, ""),
    ("an unknown metric", "cloudwatch", "ListMetrics", {"Namespace": "Nobody/Probe"}, {"status": 200}, ""),
)


def probes() -> list[Probe]:
    """All of them."""
    found = [
        Probe(name=name, service="mantle", operation=operation, asked=asked, known=known, source=source)
        for name, operation, asked, known, source in MANTLE
    ]
    found += [
        Probe(
            name=name,
            service="bedrock",
            operation=operation,
            asked=asked,
            known=known,
            source=f"{REFERENCE}API_{operation}.html" if known else "",
        )
        for name, operation, asked, known in BEDROCK
    ]
    return found + [
        Probe(name=name, service=service, operation=operation, asked=asked, known=known, source=source)
        for name, service, operation, asked, known, source in OTHERS
    ]
