"""Calling base models, tuned models and checkpoints through vLLM, by the unmodified client."""

import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from botocore.exceptions import ClientError
from transformers import AutoModelForCausalLM

from grpo import engine
from grpo.process_host import descendants

import families
from conftest import TEMPLATE, tiny_tokenizer
from servers import Served, amazon, method, rows, wait_for

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(engine.installed() is None, reason="vLLM is not installed; `grpo doctor` says how"),
]
ASK = [{"role": "user", "content": "say 3"}]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    """A server whose one job has ended, with a learning rate that shows: (server, client, job)."""
    folder = tmp_path_factory.mktemp("inference")
    server = Served(folder / "data", tiny_model, "--engines", "1")
    server.deploy(folder)
    client = server.client()
    file = client.files.create(file=("t.jsonl", rows(16)), purpose="fine-tune")
    asked = method(learning_rate_multiplier=300.0, eval_interval=1)
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, seed=1, extra_body={"method": asked})
    yield server, client, wait_for(client, job.id, "succeeded")
    server.stop()


def logprobs(client: openai.OpenAI, model: str) -> list[float]:
    """Of a greedy answer."""
    answer = client.chat.completions.create(model=model, messages=ASK, temperature=0, max_tokens=4, logprobs=True)
    assert answer.model == model
    return [token.logprob for token in answer.choices[0].logprobs.content]


def kill_engines(server: Served) -> None:
    """With everything below the server."""
    assert server.process
    for pid in descendants(server.process.pid):
        os.kill(pid, signal.SIGKILL)


def test_base_tuned_and_checkpoint_answer_differently(tuned) -> None:
    _, client, job = tuned
    newest, _, _, older = client.fine_tuning.jobs.checkpoints.list(job.id).data
    found = {
        m: logprobs(client, m) for m in ("tiny", newest.fine_tuned_model_checkpoint, older.fine_tuned_model_checkpoint)
    }
    assert len({tuple(values) for values in found.values()}) == 3
    assert (
        logprobs(client, job.fine_tuned_model) in list(found.values())[1:]
    )  # the job's model is one of its checkpoints


def test_the_usual_options(tuned) -> None:
    _, client, job = tuned
    model = job.fine_tuned_model
    several = client.chat.completions.create(model=model, messages=ASK, n=3, max_tokens=5, seed=4, temperature=1.0)
    assert [c.index for c in several.choices] == [0, 1, 2]
    again = client.chat.completions.create(model=model, messages=ASK, n=3, max_tokens=5, seed=4, temperature=1.0)
    assert [c.message.content for c in several.choices] == [c.message.content for c in again.choices]
    assert several.usage.completion_tokens == 15
    text = several.choices[0].message.content
    assert client.completions.create(model=model, prompt="say", max_tokens=5).choices[0].text is not None
    cut = client.chat.completions.create(
        model=model, messages=ASK, n=3, max_tokens=5, seed=4, temperature=1.0, stop=[text[1]]
    )
    assert len(cut.choices[0].message.content) <= len(text)
    assert cut.choices[0].finish_reason in ("stop", "length")


def test_json_mode_answers_in_json(tuned) -> None:
    """Random weights write no JSON by themselves: the engine holds them to it, blanks between the signs aside."""
    _, client, job = tuned
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    named = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    options = {"model": job.fine_tuned_model, "messages": ASK, "max_tokens": 40, "temperature": 0}
    answer = client.chat.completions.create(response_format=named, **options)
    written = "".join(answer.choices[0].message.content.split())
    assert written
    assert any(whole.startswith(written) for whole in ('{"a":1}', '{"a":2}'))
    free = client.chat.completions.create(response_format={"type": "json_object"}, **options).choices[0]
    assert free.message.content.lstrip().startswith("{")
    assert free.finish_reason == "length" or json.loads(free.message.content) is not None


def test_streams_join_to_the_whole(tuned) -> None:
    _, client, job = tuned
    options = {"model": job.fine_tuned_model, "temperature": 0, "max_tokens": 6}
    whole = client.chat.completions.create(messages=ASK, **options).choices[0].message.content
    stream = client.chat.completions.create(
        messages=ASK, stream=True, stream_options={"include_usage": True}, **options
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens == 6


def test_responses_whole_and_streamed(tuned) -> None:
    _, client, job = tuned
    options = {"model": job.fine_tuned_model, "input": "say 3", "temperature": 0, "max_output_tokens": 6}
    whole = client.responses.create(**options)
    assert whole.output_text
    events = list(client.responses.create(stream=True, **options))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text


def test_what_is_wrong_is_the_clients_error(tuned) -> None:
    _, client, job = tuned
    for body in (
        {"messages": []},
        {"messages": ASK, "max_tokens": 100_000},
        {"messages": ASK, "temperature": -1},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": ASK, "chat_template": "{{ 1 }}"},
        {"messages": ASK, "no_such_field": 1},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.post("/chat/completions", cast_to=object, body={"model": job.fine_tuned_model} | body)
        assert "Traceback" not in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="openai.gpt-oss-20b", messages=ASK)


@pytest.mark.slow
def test_a_killed_engine_is_started_again(tuned) -> None:
    server, client, _ = tuned
    before = logprobs(client, "tiny")
    kill_engines(server)
    assert client.with_options(max_retries=5).chat.completions.create(model="tiny", messages=ASK, max_tokens=1)
    assert logprobs(client, "tiny") == before


def test_a_damaged_adapter_is_refused(tuned) -> None:
    server, client, job = tuned
    never_called = client.fine_tuning.jobs.checkpoints.list(job.id).data[1]
    checkpoints = server.data / "jobs" / job.id / "run" / "checkpoints"
    adapter = checkpoints / f"step_{never_called.step_number:06d}" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(content)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=never_called.fine_tuned_model_checkpoint, messages=ASK)
    assert caught.value.code == "model_damaged"


def test_the_log_holds_no_prompts(tuned) -> None:
    server, client, _ = tuned
    secret = "a-secret-of-the-user"
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": secret}], max_tokens=1)
    logs = [server.log, *server.data.glob("*.log")]
    assert not any(secret in log.read_text(errors="replace") for log in logs)


@pytest.mark.slow
def test_thoughts_have_events_of_their_own(tmp_path: Path) -> None:
    """A model whose template has it think first; random weights never stop thinking, so all they say is reasoning."""
    tokenizer, size = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE + "{# </think> #}"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(families.config("qwen3", size + 2)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    server = Served(tmp_path / "data", tmp_path / "model")
    try:
        client = server.client()
        options = {"model": "tiny", "input": "say 3", "max_output_tokens": 6, "temperature": 0}
        whole = client.responses.create(**options)
        assert [item.type for item in whole.output] == ["reasoning"]
        assert whole.output_text == ""
        kinds = [event.type for event in client.responses.create(stream=True, **options)]
        assert kinds[0] == "response.created"
        assert "response.reasoning_text.delta" in kinds
        assert "response.reasoning_text.done" in kinds
        assert "response.output_text.delta" not in kinds
        answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=6, temperature=0)
        message = answer.choices[0].message
        assert not message.content
        assert message.model_extra["reasoning"]
    finally:
        server.stop()


def spoken(events: Iterable[dict[str, Any]]) -> str:
    """The text of ConverseStream's events."""
    return "".join(e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e)


def test_converse_says_what_chat_says(tuned) -> None:
    """On a base model, a custom model's ARN and a deployment's, whole and streamed; boto3's parser reads the frames."""
    server, client, job = tuned
    runtime, bedrock = amazon(server, "bedrock-runtime"), amazon(server, "bedrock")
    (model,) = bedrock.list_custom_models()["modelSummaries"]
    deployed = bedrock.create_custom_model_deployment(modelDeploymentName="d", modelArn=model["modelArn"])
    asked = {"customModelDeploymentIdentifier": deployed["customModelDeploymentArn"]}
    statuses = []
    while statuses[-1:] != ["Active"]:
        assert len(statuses) < 300, statuses
        statuses.append(bedrock.get_custom_model_deployment(**asked)["status"])
        time.sleep(0.1)
    assert set(statuses) <= {"Creating", "Active"}
    names = {"tiny": "tiny", model["modelArn"]: job.fine_tuned_model}
    names |= {deployed["customModelDeploymentArn"]: job.fine_tuned_model}
    said = [{"role": "user", "content": [{"text": "say 3"}]}]
    limits = {"maxTokens": 6, "temperature": 0.0}
    for theirs, ours in names.items():
        wanted = client.chat.completions.create(model=ours, messages=ASK, temperature=0, max_tokens=6)
        whole = runtime.converse(modelId=theirs, messages=said, inferenceConfig=limits)
        assert whole["output"]["message"]["content"] == [{"text": wanted.choices[0].message.content}]
        assert whole["stopReason"] == "max_tokens"
        assert whole["usage"]["outputTokens"] == wanted.usage.completion_tokens == 6
        events = list(runtime.converse_stream(modelId=theirs, messages=said, inferenceConfig=limits)["stream"])
        assert spoken(events) == wanted.choices[0].message.content
        assert events[0] == {"messageStart": {"role": "assistant"}}
        assert events[-1]["metadata"]["usage"] == whole["usage"]


def test_invoke_model_in_both_forms(tuned) -> None:
    """OpenAI's, which Bedrock takes for GPT-OSS and Qwen, and Nova's; whole and streamed."""
    server, client, _ = tuned
    runtime = amazon(server, "bedrock-runtime")
    wanted = client.chat.completions.create(model="tiny", messages=ASK, temperature=0, max_tokens=6)
    text = wanted.choices[0].message.content
    theirs = json.dumps({"messages": ASK, "temperature": 0, "max_tokens": 6})
    nova = json.dumps(
        {
            "schemaVersion": "messages-v1",
            "messages": [{"role": "user", "content": [{"text": "say 3"}]}],
            "inferenceConfig": {"maxTokens": 6, "temperature": 0},
        }
    )
    answer = json.loads(runtime.invoke_model(modelId="tiny", body=theirs)["body"].read())
    assert answer["choices"][0]["message"]["content"] == text
    answer = json.loads(runtime.invoke_model(modelId="tiny", body=nova)["body"].read())
    assert answer["output"]["message"]["content"] == [{"text": text}]
    chunks = runtime.invoke_model_with_response_stream(modelId="tiny", body=nova)["body"]
    assert spoken(json.loads(chunk["chunk"]["bytes"]) for chunk in chunks) == text
    chunks = runtime.invoke_model_with_response_stream(modelId="tiny", body=theirs)["body"]
    parts = [json.loads(chunk["chunk"]["bytes"]) for chunk in chunks]
    assert "".join(c["delta"].get("content") or "" for part in parts for c in part["choices"]) == text


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"modelId": "no.model"}, "ValidationException", "stands for no local model"),
        ({"modelId": "tiny", "inferenceConfig": {"maxTokens": 100_000}}, "ValidationException", "max_model_len"),
        (
            {"modelId": "tiny", "toolConfig": {"tools": [{"cachePoint": {"type": "default"}}]}},
            "ValidationException",
            "toolConfig",
        ),
        (
            {"modelId": "tiny", "inferenceConfig": {"temperature": 7.0}},
            "ValidationException",
            "less than or equal to 1",
        ),
        (
            {"modelId": "arn:aws:bedrock:us-east-1:123456789012:custom-model-deployment/aaaaaaaaaaaa"},
            "ResourceNotFoundException",
            "no deployment",
        ),
    ],
)
def test_what_converse_refuses(tuned, given: dict[str, Any], code: str, said: str) -> None:
    server, _, _ = tuned
    messages = [{"role": "user", "content": [{"text": "say 3"}]}]
    with pytest.raises(ClientError) as refused:
        amazon(server, "bedrock-runtime").converse(messages=messages, **given)
    assert refused.value.response["Error"]["Code"] == code
    assert said in str(refused.value)


def test_a_deleted_model_is_not_called(tuned) -> None:
    """Under either face. The last test of the file: the others call this model."""
    server, client, job = tuned
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=job.fine_tuned_model, messages=ASK)
    assert amazon(server, "bedrock").list_custom_models()["modelSummaries"] == []
