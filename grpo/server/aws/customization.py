"""From a request for a customization job to a job: data from S3, grader, hyperparameters. Touches: disk."""

import time
import uuid
from hashlib import sha256
from pathlib import Path
from secrets import randbelow
from typing import Any

from grpo.server import plan, training_files
from grpo.server.aws import names
from grpo.server.aws.blobs import Blobs
from grpo.server.aws.errors import invalid
from grpo.server.catalogue import chat_template
from grpo.server.context import Server
from grpo.server.errors import Invalid, NotFound
from grpo.server.records import VALIDATING, File, Job

Given = dict[str, Any]
RFT = "REINFORCEMENT_FINE_TUNING"
SAMPLES = 4
"""Responses a prompt, where a request names no number (Bedrock user guide, reinforcement fine-tuning)."""
WHERE = "customizationConfig.rftConfig"


class Intake:
    """Makes jobs of requests."""

    def __init__(self, server: Server, blobs: Blobs) -> None:
        self.server, self.blobs = server, blobs

    def job(self, given: Given) -> Job:
        """The record of a valid request. Raises AwsError that names the member."""
        rft = checked(given)
        asked = rft.get("hyperParameters", {})
        wanted = given["baseModelIdentifier"]
        model = self.base_model(wanted)
        path = self.server.catalogue.find(model)
        train = self.file(training_uri(given), "trainingDataConfig.s3Uri")
        validators = given.get("validationDataConfig", {}).get("validators", [])
        heldout = self.file(validators[0]["s3Uri"], "validationDataConfig.validators") if validators else None
        self._output(given["outputDataConfig"]["s3Uri"])
        job_id, seed = f"ftjob-{uuid.uuid4().hex}", randbelow(2**31)
        request = plan.Request(
            model=path,
            train=self.server.data.file(train.id),
            rows=train.rows or 0,
            heldout=self.server.data.file(heldout.id) if heldout else None,
            seed=seed,
            reward=self._reward(rft),
            hyperparameters=hyperparameters(asked, path),
            sampler=self.server.settings.sampler,
            engine_memory_gib=self.server.settings.engine_memory_gib,
            grpo=ours(asked),
        )
        try:
            settings = plan.settings(request, self.server.data.run(job_id))
        except Invalid as problem:
            raise invalid(f"{WHERE}.hyperParameters: {problem}") from None
        return Job(
            id=job_id,
            status=VALIDATING,
            created_at=int(time.time()),
            model=model,
            local_model=str(path),
            training_file=train.id,
            validation_file=heldout.id if heldout else None,
            seed=seed,
            method=method(rft),
            settings=settings,
        )

    def base_model(self, identifier: str, member: str = "baseModelIdentifier") -> str:
        """The id of a base model of this server, of an id or an ARN in that member. Raises AwsError."""
        if ":custom-model/" in identifier:
            raise invalid(f"{member}: training a custom model further is not implemented here")
        asked = identifier.rpartition("foundation-model/")[2]
        for wanted in (asked, names.CONTEXT.sub("", asked)):
            for model in self.server.catalogue.table:
                if names.in_arn(model) == names.in_arn(wanted):
                    return model
            try:
                self.server.catalogue.find(wanted)
            except NotFound:
                continue
            return wanted
        known = ", ".join(sorted(self.server.catalogue.table)) or "none"
        raise invalid(
            f"{member}: {asked[:200]!r} stands for no local model (known: {known}). "
            f"Start the server with --map {asked[:64]}=DIRECTORY"
        )

    def file(self, uri: str, member: str) -> File:
        """An object of S3 as a training file of this server: checked, and there when this returns. Raises AwsError."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        found = self.server.store.objects.get(bucket, key)
        if found is None:
            raise invalid(f"{member}: there is no object at {uri[:200]}")
        target = self.server.data.files / f"partial-{uuid.uuid4().hex}"
        content = self.blobs.read(found.blob)
        try:
            write(target, content)
            rows = training_files.check(target, Path(key).name)
            record = File(
                id=f"file-{uuid.uuid4().hex}",
                filename=Path(key).name[-255:],
                purpose="fine-tune",
                bytes=len(content),
                sha256=sha256(content).hexdigest(),
                created_at=int(time.time()),
                rows=rows,
            )
            target.rename(self.server.data.file(record.id))
        except Invalid as problem:
            raise invalid(f"{member}: {problem}") from None
        finally:
            target.unlink(missing_ok=True)
        self.server.store.files.add(record)
        return record

    def _output(self, uri: str) -> None:
        bucket = uri.removeprefix("s3://").partition("/")[0]
        if not self.server.store.objects.has_bucket(bucket):
            raise invalid(f"outputDataConfig.s3Uri: there is no bucket {bucket}: the results would be lost")

    def _reward(self, rft: Given) -> dict[str, Any]:
        arn = rft["graderConfig"]["lambdaGrader"]["lambdaArn"]
        where = f"{WHERE}.graderConfig.lambdaGrader"
        try:
            return self.server.graders.reward({"type": "lambda", "lambda": {"function": arn}}, where)
        except (Invalid, NotFound) as problem:
            raise invalid(f"{where}.lambdaArn: {problem}") from None


def checked(given: Given) -> Given:
    """The rftConfig. Raises AwsError for what is not done here, by name."""
    kind = given.get("customizationType")
    if kind != RFT:
        raise invalid(f"customizationType: only {RFT} is implemented here, not {kind}")
    rft = given.get("customizationConfig", {}).get("rftConfig")
    if not rft or "lambdaGrader" not in rft.get("graderConfig", {}):
        raise invalid(f"{WHERE}.graderConfig.lambdaGrader: required for {RFT}")
    if len(given.get("validationDataConfig", {}).get("validators", [])) > 1:
        raise invalid("validationDataConfig.validators: more than one is not implemented here")
    return dict(rft)


def training_uri(given: Given) -> str:
    """Where the training data lie. Raises AwsError."""
    if "s3Uri" not in given["trainingDataConfig"]:
        said = "invocationLogsConfig is not implemented here" if given["trainingDataConfig"] else "required"
        raise invalid(f"trainingDataConfig.s3Uri: {said}")
    return str(given["trainingDataConfig"]["s3Uri"])


def hyperparameters(asked: Given, model: Path) -> dict[str, Any]:
    """In OpenAI's names. An effort that the local model's template does not know has no effect on it."""
    theirs = {"epochCount": "n_epochs", "batchSize": "batch_size", "evalInterval": "eval_interval"}
    found = {ours_: asked[name] for name, ours_ in theirs.items() if name in asked}
    if "learningRate" in asked:
        found["learning_rate_multiplier"] = asked["learningRate"] / plan.BASE_LEARNING_RATE
    if "reasoningEffort" in asked and "reasoning_effort" in chat_template(model):
        found["reasoning_effort"] = asked["reasoningEffort"]
    return found


def ours(asked: Given) -> dict[str, Any]:
    """What OpenAI has no name for."""
    rollout = {"completions_per_prompt": asked.get("trainingSamplePerPrompt", SAMPLES)}
    if "inferenceMaxTokens" in asked:
        rollout["max_tokens"] = asked["inferenceMaxTokens"]
    data = {"max_prompt_tokens": asked["maxPromptLength"]} if "maxPromptLength" in asked else {}
    return {"rollout": rollout} | ({"data": data} if data else {})


def method(rft: Given) -> dict[str, Any]:
    """As the OpenAI API shows it."""
    function = rft["graderConfig"]["lambdaGrader"]["lambdaArn"]
    grader = {"type": "lambda", "lambda": {"function": function}}
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {}}}


def write(path: Path, content: bytes) -> None:
    """For the server's eyes only."""
    path.touch(mode=0o600)
    path.write_bytes(content)
