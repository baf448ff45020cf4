"""What pages ask for: runs, their curves, steps and completions. Changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from grpo.console import exports, settings
from grpo.console.index import ORDERS, Filter
from grpo.console.replies import HEADERS, answer, real, whole
from grpo.console.run_view import RunView
from grpo.console.sources import Source
from grpo.errors import CheckpointError

MOST_POINTS, MOST_ROWS, MOST_COMPARED = 2000, 200, 4
POLL_S, BEAT_S, PATIENCE_S = 0.5, 15.0, 0.25
EVER = 1_000_000_000


class Reads:
    """The routes of one source of runs; they are for those who are logged in."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def routes(self) -> list[Route]:
        """All of them."""
        one = "/console/api/runs/{run}"
        return [
            Route("/console/api/place", self.place),
            Route("/console/api/runs", self.runs),
            Route("/console/api/compare", self.compare),
            Route(one, self.run),
            Route(f"{one}/series", self.series),
            Route(f"{one}/steps/{{step:int}}", self.step),
            Route(f"{one}/steps/{{step:int}}/tokens", self.tokens),
            Route(f"{one}/prompts/{{prompt:int}}", self.prompt),
            Route(f"{one}/completions", self.completions),
            Route(f"{one}/export", self.export),
            Route(f"{one}/adapter", self.adapter),
            Route(f"{one}/live", self.live),
        ]

    async def place(self, request: Request) -> Response:
        """What can be done here."""
        return answer(await run_in_threadpool(self.source.place))

    async def runs(self, request: Request) -> Response:
        return answer(await run_in_threadpool(self.source.runs))

    async def compare(self, request: Request) -> Response:
        """``run``: two to four times, an id each."""
        ids = request.query_params.getlist("run")
        if not 2 <= len(ids) <= MOST_COMPARED:
            raise HTTPException(400, f"run: two to {MOST_COMPARED} can be compared")
        views = [await self._view(one) for one in ids]
        summaries = await run_in_threadpool(lambda: [self.source.summary(one) for one in ids])
        differ = await run_in_threadpool(lambda: settings.differences([view.config() for view in views]))
        return answer({"runs": summaries, "differences": differ})

    async def run(self, request: Request) -> Response:
        run_id = request.path_params["run"]
        view = await self._view(run_id)
        details, summary = await run_in_threadpool(lambda: (view.details(), self.source.summary(run_id)))
        return answer(details | (summary or {}))

    async def series(self, request: Request) -> Response:
        """``name``: of a metric, any number of times; ``first``, ``last``: steps from 0; ``points``."""
        view = await self._view(request.path_params["run"])
        names = request.query_params.getlist("name")
        first, last = whole(request, "first", 0) or 0, whole(request, "last", EVER) or 0
        points = min(MOST_POINTS, max(1, whole(request, "points", 600) or 0))
        await run_in_threadpool(view.table.refresh)
        return answer(await run_in_threadpool(view.table.thinned, names, first, last, points))

    async def step(self, request: Request) -> Response:
        view = await self._view(request.path_params["run"])
        found = await run_in_threadpool(view.step, request.path_params["step"])
        if found is None:
            raise HTTPException(404, "the run has no such step yet")
        return answer(found)

    async def tokens(self, request: Request) -> Response:
        """``place``: of which group of the step, from 0; for each of its completions."""
        view = await self._view(request.path_params["run"])
        found = await run_in_threadpool(view.pieces, request.path_params["step"], whole(request, "place", 0) or 0)
        if found is None:
            raise HTTPException(404, "no such group, or the model has no tokenizer.json where it was")
        return answer({"completions": found})

    async def prompt(self, request: Request) -> Response:
        view, prompt = await self._view(request.path_params["run"]), request.path_params["prompt"]

        def found() -> dict[str, Any]:
            done, steps = view.completions_in(PATIENCE_S)
            means = [{"step": step, "reward": reward} for step, reward in view.index.means(prompt)]
            return {"means": means, "indexed": done, "steps": steps}

        return answer(await run_in_threadpool(found))

    async def completions(self, request: Request) -> Response:
        """A part of the list: a filter (see ``wanted_by``), ``order``, ``offset``, ``limit``.

        ``newest`` of the answer is the next question's ``upto``, so that the list does not move while it is read.
        """
        view, wanted = await self._view(request.path_params["run"]), wanted_by(request)
        order = request.query_params.get("order", "newest")
        if order not in ORDERS:
            raise HTTPException(400, f"order: one of {', '.join(ORDERS)}")
        offset, limit = whole(request, "offset", 0) or 0, min(MOST_ROWS, whole(request, "limit", 50) or 0)

        def found() -> dict[str, Any]:
            done, steps = view.completions_in(PATIENCE_S)
            newest = view.index.newest() if wanted.upto is None else wanted.upto
            total, rows = view.index.page(replace(wanted, upto=newest), order, offset, limit)
            return {"total": total, "rows": rows, "newest": newest, "indexed": done, "steps": steps}

        return answer(await run_in_threadpool(found))

    async def export(self, request: Request) -> Response:
        """All completions that a filter leaves, oldest first; ``form``: jsonl or csv."""
        run_id, form = request.path_params["run"], request.query_params.get("form", "jsonl")
        view, wanted = await self._view(run_id), wanted_by(request)
        if form not in exports.FORMS:
            raise HTTPException(400, f"form: one of {', '.join(exports.FORMS)}")
        done, steps = 0, 1
        while done < steps and not await request.is_disconnected():
            done, steps = await run_in_threadpool(view.completions_in, PATIENCE_S)
        kind, lines = exports.FORMS[form]
        headers = HEADERS | {"content-disposition": f'attachment; filename="completions.{form}"'}
        return StreamingResponse(lines(view.index.every(wanted)), media_type=kind, headers=headers)

    async def adapter(self, request: Request) -> Response:
        """The adapter of a checkpoint as an archive; ``step``: of which, else the one the run chose, else the last."""
        view = await self._view(request.path_params["run"])
        try:
            name, content = await run_in_threadpool(exports.adapter, view.directory, whole(request, "step"))
        except CheckpointError as error:
            raise HTTPException(404, str(error).replace(str(view.directory), "")) from None
        headers = HEADERS | {"content-disposition": f'attachment; filename="{name}.zip"'}
        return StreamingResponse(content, media_type="application/zip", headers=headers)

    async def live(self, request: Request) -> Response:
        """Server-sent events: the run's summary, whenever its steps or its status change; their id says both."""
        run_id = request.path_params["run"]
        await self._view(run_id)
        told = request.headers.get("last-event-id", "")
        return StreamingResponse(self._events(run_id, request, told), media_type="text/event-stream", headers=HEADERS)

    async def _events(self, run_id: str, request: Request, told: str) -> AsyncIterator[str]:
        quiet = 0.0
        while not await request.is_disconnected():
            summary = await run_in_threadpool(self.source.summary, run_id)
            if summary is None:
                return
            now = f"{summary['steps']}.{summary['status']}"
            if now != told or quiet >= BEAT_S:
                told, quiet = now, 0.0
                yield f"id: {told}\ndata: {json.dumps(summary)}\n\n"
            await asyncio.sleep(POLL_S)
            quiet += POLL_S

    async def _view(self, run_id: str) -> RunView:
        found = await run_in_threadpool(self.source.run, run_id)
        if found is None:
            raise HTTPException(404, "no such run")
        return found


def wanted_by(request: Request) -> Filter:
    """The filter of a query: ``text``, ``least``, ``most``, ``first``, ``last``, ``prompt``, ``cut``, ``failed``."""
    query = request.query_params
    return Filter(
        text=query.get("text") or None,
        least=real(request, "least"),
        most=real(request, "most"),
        first=whole(request, "first"),
        last=whole(request, "last"),
        prompt=whole(request, "prompt"),
        cut=query.get("cut") == "1",
        failed=query.get("failed") == "1",
        upto=whole(request, "upto"),
    )
