"""``grpo serve``, ``grpo files``, ``grpo lambda``.

The commands read and write the data directory itself, so they need no key and work whether a server runs or not.
"""

import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from grpo.errors import ConfigError, printable
from grpo.server.cli_jobs import AsJson, DataDir, open_data

files = typer.Typer(no_args_is_help=True, help="Uploaded files.")
functions = typer.Typer(no_args_is_help=True, help="Registered reward functions.")


def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1: only this machine.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8321; 0: one that is free.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="HTTPS; `grpo trust` says how clients trust it.")] = False,
    data_dir: DataDir = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="MODEL_ID=DIRECTORY of a base model.")] = None,
    fidelity: Annotated[str, typer.Option(help="strict: refuse all that Bedrock is known to refuse.")] = "relaxed",
    region: Annotated[str | None, typer.Option(help="That AWS signatures must name.")] = None,
    aws_lambda: Annotated[bool, typer.Option("--aws-lambda", help="Call ARNs not registered here at AWS.")] = False,
    function_network: Annotated[
        bool, typer.Option("--function-network", help="Functions made by Lambda's API may use the network.")
    ] = False,
    concurrent_jobs: Annotated[int | None, typer.Option(min=1)] = None,
    engines: Annotated[int | None, typer.Option(min=1, help="Base models in memory for inference.")] = None,
    engine_dtype: Annotated[str | None, typer.Option(help="For inference: auto, float32, bfloat16.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Of the jobs: auto, vllm, transformers.")] = None,
    engine_memory: Annotated[float | None, typer.Option(help="GiB of tokens of a job's engine on a CPU.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Another name of this server.")] = None,
    allowed_origin: Annotated[list[str] | None, typer.Option(help="A web origin that may call it.")] = None,
) -> None:
    """A local Bedrock RFT: the OpenAI API for files, fine-tuning jobs and inference."""
    if fidelity not in ("relaxed", "strict"):
        raise ConfigError(f"--fidelity {fidelity}: relaxed or strict")
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "tls": tls or None,
        "data_dir": data_dir,
        "models": dict(_pair(text) for text in map_) if map_ else None,
        "strict": fidelity == "strict" or None,
        "region": region,
        "aws_lambda": aws_lambda or None,
        "function_network": function_network or None,
        "concurrent_jobs": concurrent_jobs,
        "engines": engines,
        "engine_dtype": engine_dtype,
        "sampler": sampler,
        "engine_memory_gib": engine_memory,
        "allowed_hosts": tuple(allowed_host) if allowed_host else None,
        "allowed_origins": tuple(allowed_origin) if allowed_origin else None,
    }
    from pydantic import ValidationError

    from grpo.server import serve as server
    from grpo.server.settings import Settings

    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        detail = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']} (got {detail['input']!r})") from None
    server.serve(settings)


def trust(data_dir: DataDir = None) -> None:
    """Let this shell's clients trust ``grpo serve --tls``: eval "$(grpo trust)"."""
    from grpo.server import tls

    _, data = open_data(data_dir)
    found = tls.files(data.certificates)
    if not found.bundle.exists():
        raise ConfigError(
            f"{data.certificates}: no certificate yet. Start the server once with --tls, or say its --data-dir"
        )
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        print(f"export {name}={shlex.quote(str(found.bundle))}")
    print(f"export NODE_EXTRA_CA_CERTS={shlex.quote(str(found.authority))}")


def console(data_dir: DataDir = None) -> None:
    """A link that logs one browser in to the console of ``grpo serve``, within a quarter of an hour."""
    from grpo.console.gate import Gate

    _, data = open_data(data_dir)
    if not data.address.exists():
        raise ConfigError(f"{data.root}: no server was started here yet. Start one with: grpo serve")
    url = data.address.read_text()
    print(Gate(data.root / "console", secure=url.startswith("https")).link(url))


@files.command("ls")
def list_files(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All files, newest first."""
    store, _ = open_data(data_dir)
    found, _more = store.files.page(after=None, limit=10_000, newest_first=True, purpose=None)
    if as_json:
        print(json.dumps([asdict(file) for file in found]))
        return
    for file in found:
        rows = "" if file.rows is None else f"{file.rows} rows"
        print(printable(f"{file.id}  {file.bytes:>10} bytes  {rows:>12}  {file.purpose:<10} {file.filename}"))


@files.command("check")
def check(file: Annotated[Path, typer.Argument(help="A JSONL file.")]) -> None:
    """Say whether a job could train on a file, and name every line that is wrong."""
    from grpo.server.errors import Invalid
    from grpo.server.training_files import check as check_file

    try:
        rows = check_file(file, file.name)
    except Invalid as problem:
        raise ConfigError(f"{file}: {problem}") from None
    print(f"{file}: {rows} rows")


@functions.command("deploy")
def deploy(
    name: Annotated[str, typer.Argument(help="By which jobs will name it, alone or at the end of an ARN.")],
    source: Annotated[Path, typer.Argument(help="A .py file, or a .zip as for Lambda.")],
    handler: Annotated[str | None, typer.Option(help="MODULE.FUNCTION.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one batch.", min=0.1)] = 60.0,
    memory: Annotated[int, typer.Option(help="MiB.", min=128)] = 2048,
    environment: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE")] = None,
    network: Annotated[bool, typer.Option("--network", help="Let the code use the network.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Register a reward function, or a new version of it."""
    from grpo.server.functions import deploy as register

    store, data = open_data(data_dir)
    variables = dict(_pair(text) for text in environment or [])
    function = register(
        store,
        data,
        name,
        source,
        handler=handler,
        timeout_s=timeout,
        memory_mb=memory,
        environment=variables,
        network=network,
    )
    print(f"{function.name}  {function.sha256[:16]}  {function.handler}")


@functions.command("ls")
def list_functions(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All registered reward functions."""
    store, _ = open_data(data_dir)
    found = store.functions.all()
    if as_json:
        print(json.dumps([asdict(function) for function in found]))
        return
    for function in found:
        print(f"{function.name}  {function.sha256[:16]}  {function.handler}  {function.timeout_s:g} s")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{text}: expected NAME=VALUE")
    return name, os.path.expanduser(value)
