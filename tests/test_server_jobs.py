"""Files and jobs through the unmodified openai client, with real trainings of a tiny model behind them."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest

from grpo.server import plan
from grpo.server.errors import Invalid

from runs import alive
from servers import Served, method, rows, wait_for

BEDROCK_KEYS = (
    "step",
    "total_steps",
    "critic_rewards_mean",
    "critic_advantages_mean",
    "actor_pg_loss",
    "actor_entropy",
    "actor_grad_norm",
    "response_length_mean",
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("server")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def finished(served: Served):
    """A job that ran to its end; (client, job)."""
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        seed=3,
        metadata={"team": "a"},
        extra_body={"method": method("arn:aws:lambda:us-west-2:123456789012:function:letters", eval_interval=2)},
    )
    assert job.status in ("validating_files", "queued")
    return client, wait_for(client, job.id, "succeeded")


def test_a_job_runs_to_its_end_and_says_why(finished) -> None:
    _, job = finished
    assert job.fine_tuned_model.startswith("ft:tiny:local:")
    assert job.verdict["status"] == "budget_exhausted"
    assert job.error is None
    assert job.seed == 3
    assert job.trained_tokens > 0
    assert job.method.reinforcement.grader is not None


def test_metrics_events_have_bedrocks_keys_once_a_step(finished) -> None:
    client, job = finished
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    metrics = [e for e in reversed(events) if e.type == "metrics"]
    assert [e.message for e in metrics] == [f"Step {i}/4: training metrics" for i in (1, 2, 3, 4)]  # 16 rows / 4
    assert all(key in metrics[0].data for key in BEDROCK_KEYS)
    assert events[0].message == "The job has successfully completed"


def test_pages_of_events_join_to_the_whole(finished) -> None:
    client, job = finished
    whole = [e.id for e in client.fine_tuning.jobs.list_events(job.id, limit=100).data]
    assert [e.id for e in client.fine_tuning.jobs.list_events(job.id, limit=2)] == whole
    assert len(set(whole)) == len(whole)


def test_checkpoints_are_listed_and_complete(finished, served: Served) -> None:
    client, job = finished
    found = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [c.step_number for c in found] == [4, 2]  # every eval_interval, newest first
    known = {m.id for m in client.models.list()}
    assert {c.fine_tuned_model_checkpoint for c in found} | {job.fine_tuned_model, "tiny"} <= known
    for c in found:
        assert (served.data / "jobs" / job.id / "run" / "checkpoints" / f"step_{c.step_number:06d}").is_dir()


def test_jobs_are_listed_by_metadata(finished) -> None:
    client, job = finished
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [job.id]
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"team": "b"})] == []
    assert [j.id for j in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})] == []


def test_a_finished_job_cannot_be_cancelled_and_the_client_does_not_retry(finished) -> None:
    client, job = finished
    with pytest.raises(openai.ConflictError) as caught:
        client.fine_tuning.jobs.cancel(job.id)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_cancel_ends_the_training_within_ten_seconds(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, extra_body={"method": method(n_epochs=50)}
    )
    wait_for(client, job.id, "running")
    served.wait_until(lambda: bool(alive(str(served.data / "jobs" / job.id))), 30)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    served.wait_until(lambda: not alive(str(served.data / "jobs" / job.id)), 10)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"  # twice is no error


def test_a_failing_grader_fails_the_job_by_name(served: Served, tmp_path: Path) -> None:
    served.deploy(tmp_path, "def lambda_handler(event, context):\n    raise KeyError('nothing')\n", name="broken")
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": method("broken")})
    served.wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "failed", 90)
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error.code == "training_failed"
    assert "nothing" in error.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "openai.gpt-oss-20b"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"method": {"type": "supervised"}}, "method.type"),
        ({"method": method("nobody")}, "method.reinforcement.grader.lambda.function"),
        ({"method": method(reasoning_effort="high")}, "method.reinforcement.hyperparameters.reasoning_effort"),
        ({"method": method(batch_size=17)}, "method.reinforcement.hyperparameters.batch_size"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_what_cannot_be_done_is_said_by_field(served: Served, change: dict, param: str) -> None:
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    body = {"model": "tiny", "training_file": file.id, "method": method()} | change
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.post("/fine_tuning/jobs", cast_to=object, body=body)
    assert caught.value.param == param


def test_the_first_words_of_our_own_section_are_checked_too(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    wrong = method()
    wrong["reinforcement"]["grpo"]["rollout"]["temprature"] = 1.0
    with pytest.raises(openai.BadRequestError, match=r"Did you mean rollout[.]temperature") as caught:
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": wrong})
    assert caught.value.param == "method.reinforcement.grpo.rollout.temprature"


def test_a_job_resumes_to_the_byte_and_so_compiles_nothing(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    asked = method()
    asked["reinforcement"]["grpo"]["update"] = {"compile": True}
    with pytest.raises(openai.BadRequestError, match="the server's to decide") as caught:
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"method": asked})
    assert caught.value.param == "method.reinforcement.grpo.update.compile"


def test_graders_can_be_tried(served: Served) -> None:
    client = served.client()
    grader = {"type": "lambda", "lambda": {"function": "letters"}}
    assert client.fine_tuning.alpha.graders.validate(grader=grader).grader is not None
    result = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="ab12")
    assert result.reward == 0.5  # two letters of four
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.alpha.graders.validate(grader={"type": "lambda", "lambda": {"function": "nobody"}})


def test_reasoning_effort_reaches_the_chat_template(tmp_path: Path, tiny_model: Path) -> None:
    request = plan.Request(
        model=tiny_model,
        train=tmp_path / "t.jsonl",
        rows=16,
        heldout=None,
        seed=0,
        reward={"builtin": "exact"},
        hyperparameters={"reasoning_effort": "low"},
    )
    with pytest.raises(Invalid, match="has no reasoning_effort"):
        plan.settings(request, tmp_path / "run")
    thinking = shutil.copytree(tiny_model, tmp_path / "thinking")
    (thinking / "chat_template.jinja").write_text("{{ reasoning_effort }}")
    found = plan.settings(dataclasses.replace(request, model=thinking), tmp_path / "run")
    assert found["model"]["template"] == {"reasoning_effort": "low"}


def test_passes_on_a_cpu_are_small(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory runs out and is found again, a CPU's kills. What is asked for is done."""

    def tokens(where: str, **grpo: Any) -> int:
        monkeypatch.setattr(plan, "device", lambda: where)
        request = plan.Request(
            model=tiny_model,
            train=tmp_path / "t.jsonl",
            rows=20,
            heldout=None,
            seed=0,
            reward={"builtin": "exact"},
            hyperparameters={},
            grpo=grpo,
        )
        return int(plan.settings(request, tmp_path / "run")["update"]["tokens_per_microbatch"])

    assert tokens("cuda") == 8192
    assert tokens("cpu") == 2048
    assert tokens("cpu", data={"max_prompt_tokens": 2500}, rollout={"max_tokens": 500}) == 2048
    assert tokens("cpu", update={"tokens_per_microbatch": 512}) == 512
