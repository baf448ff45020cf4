"""A reward function elsewhere: a local Lambda runtime by its URL, or AWS Lambda. Touches: network.

Protocol of both: docs.aws.amazon.com/lambda/latest/api/API_Invoke.html. A handler that raised answers 200 with the
header X-Amz-Function-Error.
"""

import json
from typing import Any

import httpx

from grpo.errors import SetupError
from grpo.reward_process import CallFailed
from grpo.sections import Reward

MOST_ANSWER_BYTES = 6 * 2**20
"""Lambda's own limit."""


class UrlFunction:
    """Lambda's runtime interface emulator, or ``sam local start-lambda``. Safe for several threads."""

    def __init__(self, config: Reward) -> None:
        assert config.url is not None
        self.url, self.timeout_s = config.url, config.timeout_s
        self._client = httpx.Client(timeout=httpx.Timeout(config.timeout_s, connect=10.0), trust_env=False)

    def call(self, events: list[dict[str, Any]]) -> Any:
        """What the function returns for a batch. Raises CallFailed."""
        try:
            with self._client.stream("POST", self.url, json=events) as response:
                content = b""
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MOST_ANSWER_BYTES:
                        raise CallFailed(f"the answer is larger than {MOST_ANSWER_BYTES >> 20} MiB")
        except httpx.TimeoutException:
            raise CallFailed(f"no answer within reward.timeout_s = {self.timeout_s:g} s", timed_out=True) from None
        except httpx.HTTPError as error:
            raise CallFailed(f"{self.url}: {type(error).__name__} {error}") from None
        if response.status_code != 200:
            raise CallFailed(f"{self.url}: HTTP {response.status_code}")
        return result(content, response.headers.get("x-amz-function-error"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AwsFunction:
    """A function at AWS, with boto3 and the credentials it finds. Safe for several threads."""

    def __init__(self, config: Reward) -> None:
        """Raises SetupError without boto3."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise SetupError("reward.function needs boto3: pip install boto3") from None
        self.name = config.function
        patience = Config(
            read_timeout=config.timeout_s, connect_timeout=10, retries={"max_attempts": 3, "mode": "standard"}
        )
        self._client = boto3.client("lambda", config=patience)

    def call(self, events: list[dict[str, Any]]) -> Any:
        """What the function returns for a batch. Raises CallFailed."""
        from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

        try:
            answer = self._client.invoke(
                FunctionName=self.name, InvocationType="RequestResponse", Payload=json.dumps(events).encode()
            )
            content = answer["Payload"].read(MOST_ANSWER_BYTES + 1)
        except ReadTimeoutError as error:
            raise CallFailed(f"{self.name}: {error}", timed_out=True) from None
        except (BotoCoreError, ClientError) as error:
            raise CallFailed(f"{self.name}: {error}") from None
        return result(content, answer.get("FunctionError"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def result(content: bytes, problem: str | None) -> Any:
    """The decoded answer. Raises CallFailed for an error of the handler, or no JSON."""
    text = content[:2000].decode("utf-8", "replace")
    if problem:
        raise CallFailed(f"the function failed ({problem}): {text}")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise CallFailed("the answer is not JSON") from None
