"""``grpo promote``: from this machine to Amazon Bedrock itself.

It reads the data directory, so it works whether a server runs or not.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from grpo.errors import ConfigError, GrpoError, SetupError
from grpo.server.cli_jobs import DataDir, JobId, find_job, open_data

PACKAGES = ("boto3", "openai", "aws_bedrock_token_generator")


def promote(
    job: JobId,
    region: Annotated[str, typer.Option(help="Of the cloud, for instance us-west-2.")],
    api: Annotated[str | None, typer.Option(help="openai or bedrock; default: the one that the job came by.")] = None,
    model: Annotated[str | None, typer.Option(help="Bedrock's id of the model, where the job's is not.")] = None,
    function: Annotated[str | None, typer.Option(help="ARN of a reward function that is at Lambda already.")] = None,
    function_role: Annotated[str | None, typer.Option(help="ARN of the role that a new function gets.")] = None,
    job_role: Annotated[str | None, typer.Option(help="ARN of the job's role; of Bedrock's own API only.")] = None,
    bucket: Annotated[str | None, typer.Option(help="For data and results; of Bedrock's own API only.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of a hyperparameter, in Bedrock's names.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Another than Amazon's: a rehearsal.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the program goes; default: promote-JOB.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run it without asking.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Start a job that was tuned here at Amazon Bedrock: shows the program that does it, and runs it once confirmed."""
    from grpo.server.aws import promotion

    if api not in (None, "openai", "bedrock"):
        raise ConfigError(f"--api {api}: openai or bedrock")
    store, data = open_data(data_dir)
    record = find_job(store, job)
    target = promotion.Target(
        region=region,
        api=api,  # type: ignore[arg-type]
        model=model,
        function=function,
        function_role=function_role,
        job_role=job_role,
        bucket=bucket,
        changes=dict(_number(text) for text in changes or []),
        endpoint=endpoint,
    )
    directory = (out or Path(f"promote-{record.id}")).absolute()
    program = promotion.prepare(store, data, record, target, directory)
    print(program.read_text(), flush=True)
    print(f"# {program}", flush=True)
    if not yes and not typer.confirm("Run it?"):
        return
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} not installed: pip install 'grpo[aws]'")
    if code := subprocess.run([sys.executable, str(program)], check=False).returncode:
        raise GrpoError(f"the program ended with code {code}; what it had done by then is done: see above")


def _number(text: str) -> tuple[str, int | float | str]:
    name, _, value = text.partition("=")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
