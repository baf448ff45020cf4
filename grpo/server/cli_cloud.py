"""``grpo promote``, ``grpo conformance``: from this machine to Amazon Bedrock itself.

It reads the data directory, so it works whether a server runs or not.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

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
    name: Annotated[str | None, typer.Option(help="Of the job and its model, by Bedrock's own API.")] = None,
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
        name=name,
        changes=dict(_number(text) for text in changes or []),
        endpoint=endpoint,
    )
    directory = (out or Path(f"promote-{record.id}")).absolute()
    program = promotion.prepare(store, data, record, target, directory)
    print(program.read_text(), flush=True)
    print(f"# {program}", flush=True)
    if not yes and not typer.confirm("Run it?"):
        return
    _installed()
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


def conformance(
    endpoint: Annotated[str | None, typer.Option(help="Of the server to ask; default: Amazon.")] = None,
    region: Annotated[str, typer.Option(help="Whose services to ask.")] = "us-west-2",
    key: Annotated[str | None, typer.Option(envvar="GRPO_API_KEY", help="Default: made of AWS's credentials.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write what was answered to this file: a snapshot.")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with this snapshot.")] = None,
) -> None:
    """Ask a server what shows how it behaves, and compare with what is known and with another server's answers.

    Nothing is started, and nothing is left behind. Fails where an answer is not what is known.
    """
    _installed()
    from rich.console import Console

    from grpo.server import conformance as found
    from grpo.server.probes import probes

    target = found.Target(region, endpoint, key or _token(region))
    before = _read(against) if against else {}
    answers, wrong, console = {}, 0, Console(emoji=False, soft_wrap=True)
    for probe in probes():
        with console.status(probe.name):
            answer = answers[probe.name] = found.observe(probe, target)
        unmet = found.unmet(probe, answer)
        wrong += bool(unmet)
        differs = found.differences(before[probe.name], answer) if probe.name in before else []
        verdict = "wrong" if unmet else "known" if probe.known else "unknown"
        result = answer.get("code") or answer.get("unanswered") or ""
        console.print(
            f"{verdict:<8} {probe.service:<16} {probe.name:<36} {answer.get('status', '-'):<4} {result}", markup=False
        )
        for line in [*unmet, *differs]:
            console.print(f"         {line}", markup=False)
    if out:
        out.write_text(json.dumps(found.snapshot(answers, target), indent=1) + "\n")
    if wrong:
        raise GrpoError(f"{wrong} of {len(answers)} answers are not what is known")


def _read(path: Path) -> dict[str, Any]:
    try:
        answers: dict[str, Any] = json.loads(path.read_text())["answers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a snapshot ({error})") from None
    return answers


def _token(region: str) -> str:
    from aws_bedrock_token_generator import provide_token

    try:
        return str(provide_token(region=region))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"no key: {error}. Set GRPO_API_KEY or AWS's credentials") from None


def _installed() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} not installed: pip install 'grpo[aws]'")
