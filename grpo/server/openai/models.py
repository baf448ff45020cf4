"""/models."""

from typing import Any

from fastapi import APIRouter

from grpo.server.context import ServerDependency
from grpo.server.errors import Forbidden, NotFound
from grpo.server.openai import wire

router = APIRouter(tags=["models"])


@router.get("/models")
def list_models(server: ServerDependency) -> dict[str, Any]:
    """Base models and tuned ones, checkpoints included; each can be called."""
    base = [wire.model(name, 0, "local") for name in sorted(server.catalogue.table)]
    return {
        "object": "list",
        "data": base + [wire.model(m.id, m.created_at, m.job_id) for m in server.store.models.all()],
    }


@router.get("/models/{model_id:path}")
def retrieve(model_id: str, server: ServerDependency) -> dict[str, Any]:
    """One model."""
    tuned = server.store.models.get(model_id)
    if tuned:
        return wire.model(tuned.id, tuned.created_at, tuned.job_id)
    server.catalogue.find(model_id)
    return wire.model(model_id, 0, "local")


@router.delete("/models/{model_id:path}")
def delete(model_id: str, server: ServerDependency) -> dict[str, Any]:
    """A tuned model is not called any more; its weights stay in the job's directory."""
    if not server.store.models.delete(model_id):
        if any(model_id == name for name in server.catalogue.table):
            raise Forbidden("base models are the server's own; leave out --map to remove one")
        raise NotFound(f"no model {model_id[:100]!r}", param="model", code="model_not_found")
    return {"id": model_id, "object": "model", "deleted": True}
