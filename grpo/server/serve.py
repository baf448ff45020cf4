"""``grpo serve``: bind, say where everything is, answer until told to stop. Touches: network, processes."""

import logging
import socket
import sys
from typing import Any

import structlog
import uvicorn
from rich.console import Console

from grpo import engine
from grpo.doctor import device
from grpo.errors import SetupError
from grpo.sandbox import strongest, why_not
from grpo.server import tls
from grpo.server.app import Opened, create_app
from grpo.server.protocol import PatientProtocol
from grpo.server.settings import Settings

MOST_CONNECTIONS = 512
HEAD_BYTES = 32 * 1024
WILDCARDS = {"0.0.0.0", "::"}


def serve(settings: Settings) -> None:
    """Until SIGINT or SIGTERM. Raises SetupError when the port or the directory is taken."""
    configure_logging()
    listener = bind(settings)
    opened = Opened(settings.model_copy(update={"port": listener.getsockname()[1]}))
    config = uvicorn.Config(
        create_app(opened),
        **certificates(opened),
        http=PatientProtocol,
        ws="none",
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        server_header=False,
        log_config=None,
        access_log=False,
    )
    opened.server.data.address.write_text(opened.settings.url)
    show(Console(emoji=False), opened)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        opened.close()


def certificates(opened: Opened) -> dict[str, Any]:
    """uvicorn's settings for HTTPS, where it is wanted."""
    settings = opened.settings
    if not settings.tls:
        return {}
    found = tls.prepare(opened.server.data.certificates, {settings.host, *settings.allowed_hosts} - WILDCARDS)
    return {"ssl_certfile": found.certificate, "ssl_keyfile": found.key}


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises SetupError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SetupError(f"{settings.host}:{settings.port}: {error.strerror}. Choose another with --port") from None
    listener.listen(256)
    return listener


def show(console: Console, opened: Opened) -> None:
    """What a person needs at the start."""
    settings = opened.settings
    url = f"{settings.url}/v1"
    key = opened.new_key or "$GRPO_API_KEY"
    level = strongest()
    weaker = f" ({why_not('strong')})" if level != "strong" else ""
    usual = Settings.model_fields["data_dir"].get_default(call_default_factory=True)
    where = "" if settings.data_dir == usual else f" --data-dir {settings.data_dir}"
    lines = [
        f"url        {url}",
        f"key        {opened.new_key}   shown only now: export GRPO_API_KEY={opened.new_key}"
        if opened.new_key
        else f"key        {'GRPO_API_KEY' if settings.api_key else 'as shown at the first start'}",
        f"aws        export AWS_ENDPOINT_URL={settings.url}   and any credentials: docs/aws.md",
        f"console    {opened.gate.link(settings.url)}   logs one browser in; `grpo console{where}` makes another link",
        *([f'trust      eval "$(grpo trust{where})"   so that clients know the certificate'] if settings.tls else []),
        f"data       {opened.server.data.root}",
        f"models     {', '.join(sorted(opened.server.catalogue.table)) or 'none: --map ID=DIRECTORY adds one'}",
        f"device     {device()}, {engine.installed() or 'transformers'}",
        f"sandbox    {level}{weaker}",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}", api_key="{key if opened.new_key else "..."}")',
        "print(client.models.list())",
        "",
        f'curl -H "Authorization: Bearer {key}" {url}/models',
        "",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def configure_logging() -> None:
    """One line an event on standard error; of the libraries, warnings only.

    Through the logging package, which bears a log that cannot be written: where the disk is full, the log's is too.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    events, lines = logging.getLogger("grpo"), logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter("%(message)s"))
    events.addHandler(lines)
    events.setLevel(logging.INFO)
    events.propagate = False
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
