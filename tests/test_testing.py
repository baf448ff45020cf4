"""The server for other people's tests, as they use it: clients without arguments."""

import json
from pathlib import Path

import boto3
import pytest
from openai import OpenAI

from grpo.testing import Endpoint, bedrock_rft, serving

__all__ = ["bedrock_rft"]


def test_clients_find_it_by_the_environment(bedrock_rft: Endpoint) -> None:
    assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="mine", Key="train.jsonl", Body=json.dumps({"messages": []}).encode())
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["mine"]
    assert list(OpenAI().fine_tuning.jobs.list()) == []
    assert bedrock_rft.data_dir.is_dir()


def test_each_test_has_its_own(bedrock_rft: Endpoint) -> None:
    assert boto3.client("s3").list_buckets()["Buckets"] == []


def test_models_are_those_given(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "data", {"tiny": tiny_model}) as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        assert "local.tiny" in [
            m["modelId"] for m in boto3.client("bedrock").list_foundation_models()["modelSummaries"]
        ]
        assert "tiny" in [model.id for model in OpenAI().models.list()]
