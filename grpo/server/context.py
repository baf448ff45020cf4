"""What a request handler works with: the parts of one running server, handed to it by FastAPI."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from grpo.server.catalogue import Catalogue
from grpo.server.engines import EnginePool
from grpo.server.errors import Invalid
from grpo.server.graders import Graders
from grpo.server.settings import DataDirectory, Settings
from grpo.server.store import Store
from grpo.server.supervisor import Supervisor

METADATA = re.compile(r"metadata(\[.*\])?")
"""Of a list of jobs: its names are the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server's parts."""

    settings: Settings
    data: DataDirectory
    store: Store
    catalogue: Catalogue
    graders: Graders
    supervisor: Supervisor
    engines: EnginePool


def of_request(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server


def known_query(request: Request) -> None:
    """Nothing is ignored: a query parameter that is unknown, or there twice, is an error. Raises Invalid."""
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params}
    for name in request.query_params:
        if name not in known and not (METADATA.fullmatch(name) and route.name == "list_jobs"):
            raise Invalid(f"unknown query parameter {name[:64]!r}", param=name[:64], code="unknown_parameter")
        if len(request.query_params.getlist(name)) > 1:
            raise Invalid(f"query parameter {name[:64]!r} is given more than once", param=name[:64])


ServerDependency = Annotated[Server, Depends(of_request)]
