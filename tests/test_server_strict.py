"""``--fidelity strict``: what Bedrock is known to refuse is refused here, so that local success means something."""

from pathlib import Path

import openai
import pytest

from servers import Served, method, rows


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("strict")
    maps = ("--map", f"qwen.qwen3-32b={tiny_model}", "--fidelity", "strict")
    server = Served(folder / "data", tiny_model, *maps)
    server.deploy(folder)
    yield server
    server.stop()


def bedrocks(**hyperparameters) -> dict:
    """The notebooks' method, without anything of ours."""
    asked = method(**hyperparameters)
    del asked["reinforcement"]["grpo"]
    return asked


def test_the_notebooks_request_is_taken(strict: Served) -> None:
    client = strict.client()
    file = client.files.create(file=("t.jsonl", rows(300)), purpose="fine-tune")
    for model in ("qwen.qwen3-32b", "qwen.qwen3-32b-v1:0"):
        job = client.fine_tuning.jobs.create(model=model, training_file=file.id, extra_body={"method": bedrocks()})
        client.fine_tuning.jobs.cancel(job.id)
        assert (job.model, job.local_model) == (model, strict.model.name)
        assert job.method.model_dump(exclude_none=True)["type"] == "reinforcement"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "mine"}, "suffix"),
        ({"model": "tiny"}, "model"),
        ({"method": method()}, "method.reinforcement.grpo"),
        ({"rows": 99}, "training_file"),
    ],
)
def test_what_bedrock_refuses_is_refused(strict: Served, change: dict, param: str) -> None:
    client = strict.client()
    file = client.files.create(file=("t.jsonl", rows(change.pop("rows", 100))), purpose="fine-tune")
    body = {"model": "qwen.qwen3-32b", "training_file": file.id, "method": bedrocks()} | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/fine_tuning/jobs", cast_to=object, body=body)
    assert caught.value.param == param
