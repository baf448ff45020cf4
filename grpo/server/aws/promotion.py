"""A job tuned here, as a program that starts the same job at Amazon Bedrock: same files, grader and hyperparameters.

The program is what is shown, what runs once it is confirmed, and what stays for its reader. Touches: disk.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pprint import pformat
from typing import Any, Literal

from botocore.loaders import Loader
from botocore.model import ServiceModel

from grpo.errors import ConfigError
from grpo.server.aws import checks
from grpo.server.catalogue import BEDROCK, plain
from grpo.server.plan import BASE_LEARNING_RATE
from grpo.server.records import Customization, Job
from grpo.server.settings import DataDirectory
from grpo.server.store import Store

Api = Literal["openai", "bedrock"]
MANTLE = "https://bedrock-mantle.{region}.api.aws/v1"
RUNTIME = "python3.11"
LAMBDA_MOST_S = 900
BY_OPENAI = ("epochCount", "batchSize", "learningRate")
SOME_FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:made-by-this-program"
"""In the request until the function is there."""

FUNCTION = """
# The reward function. One of that name that is there already gets this code and these settings.
functions = boto3.client("lambda", region_name=REGION, endpoint_url=ENDPOINT)
code = Path({archive}).read_bytes()
function = {asked}
try:
    functions.create_function(**function, Code={{"ZipFile": code}})
except functions.exceptions.ResourceConflictException:
    functions.update_function_code(FunctionName={name}, ZipFile=code)
    functions.get_waiter("function_updated_v2").wait(FunctionName={name})
    functions.update_function_configuration(**function)
    functions.get_waiter("function_updated_v2").wait(FunctionName={name})
functions.get_waiter("function_active_v2").wait(FunctionName={name})
grader = functions.get_function(FunctionName={name})["Configuration"]["FunctionArn"]
print("reward function", grader)
"""
OPENAI = """
# Files and the job, by the OpenAI API.
client = OpenAI(base_url={url}, api_key=provide_token(region=REGION))
files = {{}}
for member, (name, path) in {files}.items():
    with open(path, "rb") as content:
        files[member] = client.files.create(file=(name, content), purpose="fine-tune").id
    print(member, files[member])
grading = {{"type": "lambda", "lambda": {{"function": grader}}}}
asked = {{"grader": grading, "hyperparameters": {hyperparameters}}}
job = client.fine_tuning.jobs.create(
    model={model},
    **files,
    extra_body={{"method": {{"type": "reinforcement", "reinforcement": asked}}}},
)
print("job", job.id)
"""
NATIVE = """
# Files, in the bucket.
s3 = boto3.client("s3", region_name=REGION, endpoint_url=ENDPOINT)
for key, path in {files}.items():
    s3.upload_file(path, {bucket}, key)
    print("uploaded", key)

# The job.
request = {request}
request["customizationConfig"]["rftConfig"]["graderConfig"]["lambdaGrader"]["lambdaArn"] = grader
job = boto3.client("bedrock", region_name=REGION, endpoint_url=ENDPOINT).create_model_customization_job(**request)
print("job", job["jobArn"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What only the user knows of the cloud."""

    region: str
    api: Api | None = None
    """None: the one that the job came by."""
    model: str | None = None
    """None: the one that the job named."""
    function: str | None = None
    """ARN of a reward function that is there already."""
    function_role: str | None = None
    """That the reward function gets, where it is made."""
    job_role: str | None = None
    bucket: str | None = None
    name: str | None = None
    """Of the job and its model; None: as here."""
    changes: Mapping[str, int | float | str] = field(default_factory=dict)
    """Of hyperparameters, in Bedrock's names."""
    endpoint: str | None = None
    """Another than Amazon's: a rehearsal."""


def prepare(store: Store, data: DataDirectory, job: Job, target: Target, directory: Path) -> Path:
    """Write the program, and the reward function's archive beside it. Raises ConfigError that says what is missing."""
    told = store.customizations.all().get(job.id)
    api: Api = target.api or ("bedrock" if told else "openai")
    parts = [_head(job, target, api), _grader(data, job, target, directory)]
    parts.append(
        _native(store, data, job, told, target) if api == "bedrock" else _openai(store, data, job, told, target)
    )
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "promote.py"
    program.write_text("".join(parts))
    return program


def _head(job: Job, target: Target, api: Api) -> str:
    imports = ["import sys", "from pathlib import Path", "", "import boto3"]
    if api == "openai":
        imports += ["from aws_bedrock_token_generator import provide_token", "from openai import OpenAI"]
    lines = [f'"""Starts at Amazon Bedrock what {job.id} was here. Made by grpo promote."""', "", *imports, ""]
    lines += ["sys.excepthook = lambda kind, error, trace: print(f'{kind.__name__}: {error}', file=sys.stderr)"]
    return "\n".join([*lines, f"REGION = {target.region!r}", f"ENDPOINT = {target.endpoint!r}", ""])


def _grader(data: DataDirectory, job: Job, target: Target, directory: Path) -> str:
    """The function with the code that the job was trained with, whatever has come under its name since."""
    if target.function:
        return f"\ngrader = {target.function!r}\n"
    named, reward = job.method["reinforcement"]["grader"]["lambda"]["function"], job.settings["reward"]
    code = Path(reward["file"]) if reward.get("file") else None
    if code is None or not code.is_file() or not code.is_relative_to(data.functions):
        raise ConfigError(f"the job's grader {named!r} has no code here: name a function at AWS with --function ARN")
    name = named.rpartition(":")[2]
    if target.function_role is None:
        raise ConfigError(
            f"{name} would be made at AWS Lambda: say its role with --function-role ARN, or name a function that is "
            "there already with --function ARN"
        )
    home = data.functions / code.relative_to(data.functions).parts[0]
    archive = directory / f"{name}.zip"
    made = {
        "FunctionName": name,
        "Runtime": RUNTIME,
        "Role": target.function_role,
        "Handler": f"{code.relative_to(home).with_suffix('')}.{reward['handler']}",
        "Timeout": min(LAMBDA_MOST_S, max(1, round(reward["timeout_s"]))),
        "MemorySize": round(1024 * reward["memory_gib"]),
        "Environment": {"Variables": {k: v for k, v in reward["environment"].items() if not k.startswith("AWS_")}},
    }
    refuse("lambda", "CreateFunction", made | {"Code": {"ZipFile": b""}})
    pack(home, archive)
    return FUNCTION.format(archive=repr(str(archive)), name=repr(name), asked=pformat(made, sort_dicts=False))


def pack(code: Path, archive: Path) -> None:
    """A function's directory as Lambda takes it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(code.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(code))


def _openai(store: Store, data: DataDirectory, job: Job, told: Customization | None, target: Target) -> str:
    model = target.model or job.model
    if plain(model) not in BEDROCK and target.endpoint is None:
        raise ConfigError(f"{model} is not one of {', '.join(BEDROCK)}: say which with --model ID")
    unknown = set(target.changes) - set(BY_OPENAI)
    if unknown:
        raise ConfigError(f"--set {min(unknown)}: the OpenAI API of Bedrock takes {', '.join(BY_OPENAI)} only")
    ours = {**hyperparameters(job, told), **target.changes}
    asked = {
        "n_epochs": ours["epochCount"],
        "batch_size": ours["batchSize"],
        "learning_rate_multiplier": ours["learningRate"] / BASE_LEARNING_RATE,
    }
    lost = {name: ours[name] for name in ("trainingSamplePerPrompt", "inferenceMaxTokens", "maxPromptLength")}
    found = {
        member: (store_file.filename, str(data.file(store_file.id)))
        for member, store_file in _files(store, job).items()
    }
    url = f"{target.endpoint}/v1" if target.endpoint else MANTLE.format(region=target.region)
    return _unsaid(lost) + OPENAI.format(
        url=repr(url), files=pformat(found), hyperparameters=repr(asked), model=repr(model)
    )


def _unsaid(values: dict[str, Any]) -> str:
    """What the OpenAI API of Bedrock has no names for."""
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"\n# Bedrock chooses these by itself; the job here had: {said}\n"


def _native(store: Store, data: DataDirectory, job: Job, told: Customization | None, target: Target) -> str:
    if target.bucket is None or target.job_role is None:
        raise ConfigError("Bedrock's own API needs --bucket NAME for the data and --job-role ARN")
    came = told.request if told else {}
    name = target.name or (told.name if told else f"grpo-{job.id.removeprefix('ftjob-')[:12]}")
    found = _files(store, job)
    keys = {member: f"{name}/{member}.jsonl" for member in found}
    grader = {"lambdaGrader": {"lambdaArn": target.function or SOME_FUNCTION}}
    rft = {"graderConfig": grader, "hyperParameters": {**hyperparameters(job, told), **target.changes}}
    request: dict[str, Any] = {
        "jobName": name,
        "customModelName": target.name or came.get("customModelName", name),
        "roleArn": target.job_role,
        "baseModelIdentifier": target.model or came.get("baseModelIdentifier", job.model),
        "customizationType": "REINFORCEMENT_FINE_TUNING",
        "trainingDataConfig": {"s3Uri": f"s3://{target.bucket}/{keys['training_file']}"},
        "outputDataConfig": {"s3Uri": f"s3://{target.bucket}/{name}/output/"},
        "customizationConfig": {"rftConfig": rft},
    } | {tags: came[tags] for tags in ("jobTags", "customModelTags") if came.get(tags)}
    if "validation_file" in keys:
        heldout = {"s3Uri": f"s3://{target.bucket}/{keys['validation_file']}"}
        request["validationDataConfig"] = {"validators": [heldout]}
    refuse("bedrock", "CreateModelCustomizationJob", request)
    paths = {keys[member]: str(data.file(file.id)) for member, file in found.items()}
    return NATIVE.format(files=pformat(paths), bucket=repr(target.bucket), request=pformat(request, sort_dicts=False))


def _files(store: Store, job: Job) -> dict[str, Any]:
    wanted = {"training_file": job.training_file, "validation_file": job.validation_file}
    found = {member: store.files.get(file_id) for member, file_id in wanted.items() if file_id}
    lost = [member for member, file in found.items() if file is None]
    if lost:
        raise ConfigError(f"the job's {lost[0]} was deleted")
    return found


def hyperparameters(job: Job, told: Customization | None) -> dict[str, Any]:
    """In Bedrock's names: what the job was asked, and what it took where nothing was said."""
    asked = told.request["customizationConfig"]["rftConfig"].get("hyperParameters", {}) if told else {}
    rollout, data = job.settings["rollout"], job.settings["data"]
    epochs = job.method["reinforcement"].get("hyperparameters", {}).get("n_epochs", 1)
    return {
        "epochCount": int(epochs) if epochs != "auto" else 1,
        "batchSize": rollout["prompts_per_step"],
        "learningRate": job.settings["update"]["learning_rate"],
        "trainingSamplePerPrompt": rollout["completions_per_prompt"],
        "inferenceMaxTokens": rollout["max_tokens"],
        "maxPromptLength": data["max_prompt_tokens"],
        "evalInterval": job.settings["evaluate"]["every"],
    } | asked


def refuse(service: str, operation: str, asked: dict[str, Any]) -> None:
    """Raises ConfigError for what the service would refuse by its model: better known before anything is made."""
    shape = ServiceModel(Loader().load_service_model(service, "service-2")).operation_model(operation).input_shape
    rft = asked.get("customizationConfig", {}).get("rftConfig", {})
    known = ServiceModel(Loader().load_service_model("bedrock", "service-2")).shape_for("RFTHyperParameters").members
    unknown = [
        f"{name} is no hyperparameter of Bedrock's" for name in rft.get("hyperParameters", {}) if name not in known
    ]
    if found := unknown + checks.problems(shape, asked):
        raise ConfigError(
            f"{service} would refuse: {'; '.join(found)}. --set NAME=VALUE changes a hyperparameter, --name the name"
        )
