"""ARNs, and what they name. Pure."""

import re

from grpo.server.records import Job

ACCOUNT = "123456789012"
"""The one account there is; moto's."""
CONTEXT = re.compile(r":\d+k$")
"""What follows a version where a model can be tuned at a context length: ``amazon.nova-2-lite-v1:0:256k``."""
LAST = re.compile(r"[a-z0-9]{12}$")


def function_arn(name: str, region: str) -> str:
    """Of a Lambda function."""
    return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"


def in_arn(model: str) -> str:
    """A base model's id as ARNs can bear it: one that has no provider gets ``local``."""
    plain = re.sub(r"[^a-z0-9.:-]", "-", model.lower())
    return plain if "." in plain else f"local.{plain}"


def foundation_arn(model: str, region: str) -> str:
    """Of a base model."""
    return f"arn:aws:bedrock:{region}::foundation-model/{in_arn(model)}"


def short(job: Job) -> str:
    """The twelve characters at the end of the ARNs of a job and of its model."""
    return job.id.removeprefix("ftjob-")[:12]


def job_arn(job: Job, region: str) -> str:
    """Of a customization job."""
    return f"arn:aws:bedrock:{region}:{ACCOUNT}:model-customization-job/{in_arn(job.model)}/{short(job)}"


def model_arn(job: Job, region: str) -> str:
    """Of the model that a job made."""
    return f"arn:aws:bedrock:{region}:{ACCOUNT}:custom-model/{in_arn(job.model)}/{short(job)}"


def deployment_arn(deployment_id: str, region: str) -> str:
    """Of a deployment of a tuned model."""
    return f"arn:aws:bedrock:{region}:{ACCOUNT}:custom-model-deployment/{deployment_id}"


def ends_with(arn: str) -> str | None:
    """The twelve characters at the end of an ARN."""
    match = LAST.search(arn) if arn.startswith("arn:") else None
    return match.group() if match else None


def ends_of_base(arn: str) -> str:
    """The id of a base model in its ARN."""
    return arn.rpartition("foundation-model/")[2]
