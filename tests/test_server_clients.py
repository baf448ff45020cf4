"""The other clients: async, raw, streaming, the Bedrock provider, AWS tokens and signatures, older SDKs, Node."""

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path

import openai
import pytest
from botocore.credentials import Credentials
from openai.providers import bedrock

from servers import KEY, Served, rows

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / ".cache" / "clients"
ACCESS, SECRET = "AKIDEXAMPLE000000000", "wJalrXUtnFEMI+secret/example"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("clients")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    """A server that knows an AWS secret."""
    secrets = {"GRPO_AWS_ACCESS_KEY_ID": ACCESS, "GRPO_AWS_SECRET_ACCESS_KEY": SECRET}
    server = Served(tmp_path_factory.mktemp("aws") / "data", tiny_model, environment=secrets)
    yield server
    server.stop()


class Provider:
    """Static credentials for the token generator."""

    def __init__(self, secret: str = SECRET, access: str = ACCESS) -> None:
        self.credentials = Credentials(access, secret)

    def load(self) -> Credentials:
        return self.credentials


def token(secret: str = SECRET, region: str = "us-west-2", **options) -> str:
    from aws_bedrock_token_generator import provide_token

    return provide_token(region=region, aws_credentials_provider=Provider(secret), **options)


def test_async_raw_and_streamed_answers(served: Served) -> None:
    async def scenario() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=KEY) as client:
            made = [await client.files.create(file=(f"{i}.bin", b"x"), purpose="user_data") for i in range(3)]
            return [f.id async for f in client.files.list(purpose="user_data", limit=2)] + [m.id for m in made[::-1]]

    ids = asyncio.run(scenario())
    assert ids[:3] == ids[3:]
    client = served.client()
    raw = client.models.with_raw_response.list()
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse().data[-1].id == "tiny"
    file = client.files.create(file=("t.jsonl", rows(2000)), purpose="fine-tune")
    with client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join(answer.iter_bytes()) == rows(2000)


def test_the_bedrock_provider_with_a_key(served: Served) -> None:
    url = served.url.replace("/v1", "/openai/v1")
    client = openai.OpenAI(provider=bedrock(base_url=url, api_key=KEY, region="us-west-2"))
    assert client.models.list().data[-1].id == "tiny"
    legacy = openai.BedrockOpenAI(base_url=url, api_key=KEY, aws_region="us-west-2")
    assert legacy.models.list().data[-1].id == "tiny"


def test_aws_tokens_are_checked_as_far_as_they_can_be(served: Served) -> None:
    assert served.client(api_key=token()).models.list()
    for wrong in (
        token(region="us-east-1"),
        token()[:-40],
        "bedrock-api-key-" + "A" * 100,
        token().replace("bedrock-api-key-", "bedrock-key-"),
    ):
        with pytest.raises(openai.AuthenticationError):
            served.client(api_key=wrong).models.list()


def test_an_expired_token_is_refused(served: Served) -> None:
    import time

    short = token(expiry=timedelta(seconds=1))
    time.sleep(2.1)
    with pytest.raises(openai.AuthenticationError, match="expired"):
        served.client(api_key=short).models.list()


def test_a_known_secret_is_verified(knowing: Served) -> None:
    assert knowing.client(api_key=token()).models.list()
    with pytest.raises(openai.AuthenticationError, match="does not match"):
        knowing.client(api_key=token(secret="another")).models.list()


def signed(served: Served, secret: str, region: str = "us-west-2") -> openai.OpenAI:
    url = served.url.replace("/v1", "/openai/v1")
    provider = bedrock(base_url=url, access_key_id=ACCESS, secret_access_key=secret, region=region)
    return openai.OpenAI(provider=provider, max_retries=0)


def test_signatures_are_verified(knowing: Served, served: Served) -> None:
    client = signed(knowing, SECRET)
    assert client.models.list().data[-1].id == "tiny"
    assert list(client.files.list(purpose="user data&x=1", limit=5, order="asc")) == []
    with pytest.raises(openai.NotFoundError):  # a signed body; the client cannot sign an upload
        client.fine_tuning.alpha.graders.validate(grader={"type": "lambda", "lambda": {"function": "nobody"}})
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a b:c/d")
    for server, secret, region in (
        (knowing, "another", "us-west-2"),
        (knowing, SECRET, "eu-west-1"),
        (served, SECRET, "eu-west-1"),
    ):
        with pytest.raises(openai.AuthenticationError):
            signed(server, secret, region).models.list()


def test_ids_arrive_encoded(served: Served) -> None:
    client = served.client()
    for model in ("ft:tiny:local:a/b:1", "arn:aws:bedrock:us-west-2:1:custom-model/x", "a b%2Fc?d#e"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(model)
        assert model in caught.value.message


@pytest.mark.parametrize("name", ["openai-2.54.0", "openai-3.54.0", "node"])
def test_other_clients_run_the_same_scenario(served: Served, name: str) -> None:
    home = CLIENTS / name
    assert home.exists(), "make clients installs them; make test does so by itself"
    program = (
        ["node", str(home / "scenario.mjs")]
        if name == "node"
        else [str(home / "bin" / "python"), str(ROOT / "tests" / "clients" / "scenario.py")]
    )
    done = subprocess.run([*program, served.url, KEY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "scenario complete"
