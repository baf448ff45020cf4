"""``grpo promote``: a job of one server, started at another that plays the cloud, by the program that was shown."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo.server.store import Database, Store

from servers import REWARD, Served, amazon, method, rows, wait_for

ROLE = "arn:aws:iam::123456789012:role/Any"
REGION = "us-west-2"
FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:f"
NATIVE = ["--function", FUNCTION, "--api", "bedrock", "--bucket", "bucket", "--job-role", ROLE]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Served, str]:
    """A server with one finished job of the OpenAI API; the server is stopped: the command needs none."""
    folder = tmp_path_factory.mktemp("here")
    served = Served(folder / "data", tiny_model, "--map", f"qwen.qwen3-32b={tiny_model}")
    served.deploy(folder)
    client = served.client()
    train = client.files.create(file=("train.jsonl", rows(16)), purpose="fine-tune")
    heldout = client.files.create(file=("heldout.jsonl", rows(3)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="qwen.qwen3-32b",
        training_file=train.id,
        validation_file=heldout.id,
        extra_body={"method": method(learning_rate_multiplier=0.5)},
    )
    wait_for(client, job.id, "succeeded")
    served.stop()
    return served, job.id


@pytest.fixture
def cloud(tmp_path: Path, tiny_model: Path) -> Iterator[Served]:
    """What stands in for Amazon: it takes only what Bedrock takes."""
    mapped = [f"--map=qwen.qwen3-32b={tiny_model}", f"--map=amazon.nova-2-lite-v1:0={tiny_model}"]
    served = Served(tmp_path / "cloud" / "data", tiny_model, *mapped, "--region", REGION)
    yield served
    served.stop()


def promote(
    here: tuple[Served, str], tmp_path: Path, *words: str, said: str = "y\n"
) -> subprocess.CompletedProcess[str]:
    served, job = here
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing"}
    command = [sys.executable, "-m", "grpo", "promote", job, "--region", REGION, "--data-dir", str(served.data)]
    command += ["--out", str(tmp_path / "promoted"), *words]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=120, env=environment)


def test_the_same_job_by_the_openai_api(here: tuple[Served, str], cloud: Served, tmp_path: Path) -> None:
    endpoint = cloud.url.removesuffix("/v1")
    done = promote(here, tmp_path, "--endpoint", endpoint, "--function-role", ROLE)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (tmp_path / "promoted" / "promote.py").read_text()
    assert shown in done.stdout
    client = cloud.client()
    (job,) = client.fine_tuning.jobs.list().data
    asked = job.method.to_dict()["reinforcement"]
    wanted: dict[str, Any] = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert asked["hyperparameters"] == wanted
    assert asked["grader"]["lambda"]["function"].endswith(":function:letters")
    assert job.model == "qwen.qwen3-32b"
    assert client.files.content(job.training_file).read() == rows(16)
    assert client.files.content(job.validation_file).read() == rows(3)
    sample = [{"id": "1", "messages": [{"role": "assistant", "content": "ab12"}]}]
    answer = amazon(cloud, "lambda").invoke(FunctionName="letters", Payload=json.dumps(sample).encode())
    assert json.loads(answer["Payload"].read()) == [{"id": "1", "aggregate_reward_score": 0.5}]


def test_the_same_job_by_bedrocks_own_api(here: tuple[Served, str], cloud: Served, tmp_path: Path) -> None:
    """Which has names for all that the job was: nothing is left to the cloud's choice."""
    amazon(cloud, "s3").create_bucket(Bucket="promoted")
    words = ["--endpoint", cloud.url.removesuffix("/v1"), "--function-role", ROLE, "--api", "bedrock"]
    words += [
        "--model",
        "amazon.nova-2-lite-v1:0",
        "--bucket",
        "promoted",
        "--job-role",
        ROLE,
        "--yes",
        "--set",
        "batchSize=16",
    ]
    done = promote(here, tmp_path, *words, said="")
    assert done.returncode == 0, done.stdout + done.stderr
    bedrock = amazon(cloud, "bedrock", REGION)
    (summary,) = bedrock.list_model_customization_jobs()["modelCustomizationJobSummaries"]
    job = bedrock.get_model_customization_job(jobIdentifier=summary["jobArn"])
    asked = job["customizationConfig"]["rftConfig"]["hyperParameters"]
    assert asked == {
        "epochCount": 1,
        "batchSize": 16,
        "learningRate": pytest.approx(5e-5),
        "trainingSamplePerPrompt": 4,
        "inferenceMaxTokens": 8,
        "maxPromptLength": 60,
        "evalInterval": 10,
    }
    train = job["trainingDataConfig"]["s3Uri"].removeprefix("s3://promoted/")
    assert amazon(cloud, "s3").get_object(Bucket="promoted", Key=train)["Body"].read() == rows(16)
    assert len(job["validationDataConfig"]["validators"]) == 1


def test_nothing_happens_without_a_word(here: tuple[Served, str], cloud: Served, tmp_path: Path) -> None:
    done = promote(here, tmp_path, "--endpoint", cloud.url.removesuffix("/v1"), "--function-role", ROLE, said="n\n")
    assert done.returncode == 0, done.stderr
    assert "create_function" in done.stdout
    assert cloud.client().fine_tuning.jobs.list().data == []
    assert amazon(cloud, "lambda").list_functions()["Functions"] == []


def test_a_program_that_fails_is_an_error(here: tuple[Served, str], tmp_path: Path) -> None:
    done = promote(here, tmp_path, "--endpoint", "http://127.0.0.1:9", "--function-role", ROLE, "--yes")
    assert done.returncode != 0
    assert "the program ended with code 1" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--function-role"),
        (["--function", FUNCTION, "--api", "bedrock"], "--bucket"),
        (["--function", FUNCTION, "--model", "tiny"], "--model"),
        (["--api", "both"], "openai or bedrock"),
        ([*NATIVE, "--set", "evalInterval=5"], "hyperParameters.batchSize' failed to satisfy"),
        ([*NATIVE, "--set", "batchSize=16", "--set", "epochs=2"], "epochs is no hyperparameter"),
        (
            [*NATIVE, "--set", "batchSize=16", "--set", "reasoningEffort=utmost"],
            "hyperParameters.reasoningEffort' failed to satisfy",
        ),
        ([*NATIVE, "--set", "batchSize=16", "--name", "a b"], "'jobName' failed to satisfy"),
        ([*NATIVE, "--set", "batchSize=16", "--bucket", "No_Such"], "'trainingDataConfig.s3Uri' failed to satisfy"),
        (["--function", FUNCTION, "--set", "maxPromptLength=9"], "takes epochCount, batchSize, learningRate only"),
        (["--function-role", "no-role"], "'Role' failed to satisfy"),
    ],
)
def test_what_is_missing_is_named(here: tuple[Served, str], tmp_path: Path, words: list[str], said: str) -> None:
    done = promote(here, tmp_path, *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / "promoted" / "promote.py").exists()


def test_what_was_deleted_here_cannot_go_there(here: tuple[Served, str], tmp_path: Path) -> None:
    """The function's code, then a file: each is named, and nothing is made."""
    served, job = here
    copy = tmp_path / "copy"
    shutil.copytree(served.data, copy)
    store = Store(Database(copy / "state.db"))
    record = store.jobs.get(job)
    assert record
    settings = json.dumps(record.settings).replace(str(served.data), str(copy))  # as where the directory was moved
    with sqlite3.connect(copy / "state.db") as database:
        database.execute("UPDATE jobs SET settings = ? WHERE id = ?", (settings, job))
    assert store.files.delete(record.training_file)
    words = ["promote", job, "--region", REGION, "--data-dir", str(copy), "--out", str(tmp_path / "out"), "--yes"]

    def refusal() -> str:
        command = [sys.executable, "-m", "grpo", *words, "--function-role", ROLE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        return done.stderr

    assert "training_file was deleted" in refusal()
    store.database.close()
    shutil.rmtree(copy / "functions")
    assert "has no code here" in refusal()


def test_the_code_is_that_which_the_job_was_trained_with(here: tuple[Served, str], tmp_path: Path) -> None:
    """What has come under the function's name since stays here."""
    served, _ = here
    served.deploy(tmp_path, "def lambda_handler(event, context):\n    return 'another'\n")
    done = promote(here, tmp_path, "--function-role", ROLE, said="n\n")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "promoted" / "letters.zip") as archive:
        assert archive.read("letters.py").decode() == REWARD
