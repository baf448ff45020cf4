"""/fine_tuning/alpha/graders."""

from typing import Any

from fastapi import APIRouter

from grpo.server.context import Server, ServerDependency
from grpo.server.openai import wire
from grpo.server.trial import try_out

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"])


@router.post("/validate")
def validate(body: wire.ValidateGrader, server: ServerDependency) -> dict[str, Any]:
    """Whether a job with this grader would start: it is resolved, not run."""
    server.graders.reward(body.grader, "grader")
    return {"grader": body.grader}


def hidden(text: str | None, server: Server) -> str | None:
    """An error without the place of the data directory."""
    return text.replace(str(server.data.root), "") if text else text


@router.post("/run")
def run(body: wire.RunGrader, server: ServerDependency) -> dict[str, Any]:
    """Score one completion, by the way a job would."""
    section = server.graders.reward(body.grader, "grader")
    trial = try_out(section, body.model_sample, body.item or {}, server.data.root / "trials.log")
    failed = trial.reward.value is None
    errors = dict.fromkeys(
        (
            "formula_parse_error",
            "invalid_variable_error",
            "model_grader_parse_error",
            "model_grader_refusal_error",
            "model_grader_server_error",
            "other_error",
            "python_grader_runtime_error",
            "python_grader_server_error",
            "sample_parse_error",
            "truncated_observation_error",
            "unresponsive_reward_error",
        ),
        False,
    )
    details = {"other_error": failed, "other_error_details": hidden(trial.reward.error, server)}
    return {
        "reward": trial.reward.value if trial.reward.value is not None else 0.0,
        "sub_rewards": trial.reward.parts,
        "metadata": {
            "name": body.grader.get("name", "lambda"),
            "type": body.grader.get("type"),
            "execution_time": trial.seconds,
            "scores": trial.reward.parts,
            "token_usage": None,
            "sampled_model_name": None,
            "errors": errors | details,
        },
        "model_grader_token_usage_per_model": {},
    }
