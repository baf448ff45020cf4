"""Amazon's APIs with boto3 itself, unmodified, over a real socket: credentials are dummies, the endpoint is ours."""

import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from grpo.server.store import Database, Store

from servers import Served
from servers import amazon as client

REWARD = """
import json, os

def lambda_handler(event, context):
    print("scoring", len(event), "for", os.environ.get("WHO"))
    if event == "fail":
        raise ValueError("no such thing")
    if event == "leave":
        os._exit(3)
    return [{"id": s["id"], "aggregate_reward_score": score(s["messages"][-1]["content"])} for s in event]

def score(text):
    return round(sum(c.isalpha() for c in text) / (len(text) or 1), 3)
"""
ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / ".cache" / "clients"
BUCKET = "training-data"
ROLE = "arn:aws:iam::123456789012:role/Bedrock"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    served = Served(
        tmp_path_factory.mktemp("aws") / "data", tiny_model, "--map", f"amazon.nova-2-lite-v1:0={tiny_model}"
    )
    yield served
    served.stop()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def zipped(source: str = REWARD, name: str = "reward.py") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, source)
    return out.getvalue()


def test_who_am_i_and_roles(served: Served) -> None:
    assert client(served, "sts").get_caller_identity()["Account"] == "123456789012"
    iam = client(served, "iam")
    allowed = {"Effect": "Allow", "Principal": {"Service": "bedrock.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    made = iam.create_role(RoleName="Bedrock", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    assert made == ROLE
    with pytest.raises(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName="Bedrock", AssumeRolePolicyDocument=trust)
    policy = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    iam.attach_role_policy(RoleName="Bedrock", PolicyArn=policy)
    granted = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b/*"]}
    document = json.dumps({"Version": "2012-10-17", "Statement": [granted]})
    iam.put_role_policy(RoleName="Bedrock", PolicyName="p", PolicyDocument=document)
    assert iam.get_role(RoleName="Bedrock")["Role"]["Arn"] == made


def test_objects(served: Served, tmp_path: Path) -> None:
    s3 = client(served, "s3")
    s3.create_bucket(Bucket="objects")
    assert "objects" in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    keys = ["a/1 ü+&%.txt", "a/2.txt", "b.txt", "c/d/e.txt"]
    for key in keys:
        s3.put_object(Bucket="objects", Key=key, Body=key.encode(), Metadata={"who": "me"}, ContentType="text/plain")
    got = s3.get_object(Bucket="objects", Key=keys[0])
    assert got["Body"].read() == keys[0].encode()
    assert (got["Metadata"], got["ContentType"]) == ({"who": "me"}, "text/plain")
    assert s3.get_object(Bucket="objects", Key="b.txt", Range="bytes=1-2")["Body"].read() == b".t"
    assert s3.head_object(Bucket="objects", Key="b.txt")["ContentLength"] == 5
    listed = s3.list_objects_v2(Bucket="objects", Delimiter="/")
    assert [entry["Key"] for entry in listed["Contents"]] == ["b.txt"]
    assert [entry["Prefix"] for entry in listed["CommonPrefixes"]] == ["a/", "c/"]
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="objects", PaginationConfig={"PageSize": 1})
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
    s3.copy_object(Bucket="objects", Key="copy", CopySource={"Bucket": "objects", "Key": keys[0]})
    assert s3.get_object(Bucket="objects", Key="copy")["Body"].read() == keys[0].encode()
    with pytest.raises(ClientError) as missing:
        s3.head_object(Bucket="objects", Key="none")
    assert code_of(missing) == "404"
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="objects", Key="none")
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.list_objects_v2(Bucket="nowhere")
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket="objects")
    assert code_of(full) == "BucketNotEmpty"
    s3.delete_objects(Bucket="objects", Delete={"Objects": [{"Key": key} for key in [*keys, "copy"]]})
    s3.delete_bucket(Bucket="objects")


def test_conditions_of_a_read(served: Served) -> None:
    """boto3 reads large objects in pieces, and asks that no piece be another object's."""
    s3 = client(served, "s3")
    s3.create_bucket(Bucket="conditions")
    etag = s3.put_object(Bucket="conditions", Key="a", Body=b"first")["ETag"]
    asked = {"Bucket": "conditions", "Key": "a"}
    assert s3.get_object(IfMatch=etag, **asked)["Body"].read() == b"first"
    with pytest.raises(ClientError) as caught:
        s3.get_object(IfMatch='"another"', **asked)
    assert code_of(caught) == "PreconditionFailed"
    with pytest.raises(ClientError) as caught:
        s3.get_object(IfNoneMatch=etag, **asked)
    assert code_of(caught) in ("304", "NotModified")
    for refused in ({"VersionId": "1"}, {"ExpectedBucketOwner": "999999999999"}):
        with pytest.raises(ClientError) as caught:
            s3.get_object(**refused, **asked)
        assert code_of(caught) in ("NotImplemented", "AccessDenied")


def test_large_files_come_in_parts(served: Served, tmp_path: Path) -> None:
    """upload_file sends more than 8 MiB in parts; an object's tag then ends in their number."""
    s3 = client(served, "s3")
    s3.create_bucket(Bucket="large")
    content = bytes(range(256)) * 40_000
    (tmp_path / "large").write_bytes(content)
    s3.upload_file(str(tmp_path / "large"), "large", "in/parts")
    assert s3.head_object(Bucket="large", Key="in/parts")["ETag"].endswith('-2"')
    s3.download_file("large", "in/parts", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    upload = s3.create_multipart_upload(Bucket="large", Key="broken")["UploadId"]
    s3.upload_part(Bucket="large", Key="broken", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="large", Key="broken", UploadId=upload)
    with pytest.raises(ClientError) as gone:
        s3.list_parts(Bucket="large", Key="broken", UploadId=upload)
    assert code_of(gone) == "NoSuchUpload"


def test_a_function_runs_and_fails_as_lambda_says(served: Served) -> None:
    functions, logs = client(served, "lambda"), client(served, "logs")
    with pytest.raises(functions.exceptions.ResourceNotFoundException):
        functions.get_function(FunctionName="reward")
    made = functions.create_function(
        FunctionName="reward",
        Runtime="python3.11",
        Role=ROLE,
        Handler="reward.lambda_handler",
        Code={"ZipFile": zipped()},
        Timeout=30,
        MemorySize=512,
        Environment={"Variables": {"WHO": "us"}},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="reward")
    assert functions.get_function(FunctionName=made["FunctionArn"])["Configuration"]["Timeout"] == 30
    sample = [{"id": "1", "messages": [{"role": "assistant", "content": "ab12"}]}]
    answer = functions.invoke(FunctionName="reward", Payload=json.dumps(sample), LogType="Tail")
    assert json.loads(answer["Payload"].read()) == [{"id": "1", "aggregate_reward_score": 0.5}]
    assert "FunctionError" not in answer
    failed = functions.invoke(FunctionName="reward", Payload=json.dumps("fail"))
    body = json.loads(failed["Payload"].read())
    assert (failed["StatusCode"], failed["FunctionError"]) == (200, "Unhandled")
    assert (body["errorType"], body["errorMessage"]) == ("ValueError", "no such thing")
    assert "lambda_handler" in "".join(body["stackTrace"])
    left = json.loads(functions.invoke(FunctionName="reward", Payload=json.dumps("leave"))["Payload"].read())
    assert left["errorType"] == "Runtime.ExitError"
    (group,) = logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/reward")["logGroups"]
    (stream,) = logs.describe_log_streams(logGroupName=group["logGroupName"])["logStreams"]
    lines = logs.get_log_events(logGroupName=group["logGroupName"], logStreamName=stream["logStreamName"])["events"]
    assert "scoring 1 for us" in [line["message"] for line in lines]
    found = logs.filter_log_events(logGroupName=group["logGroupName"], filterPattern="scoring us")["events"]
    assert len(found) == 3


def test_code_and_configuration_change(served: Served) -> None:
    functions = client(served, "lambda")
    functions.create_function(
        FunctionName="changing",
        Runtime="python3.12",
        Role=ROLE,
        Handler="reward.lambda_handler",
        Code={"ZipFile": zipped("def lambda_handler(event, context):\n    return 1\n")},
    )
    assert functions.get_function_configuration(FunctionName="changing")["Timeout"] == 3
    functions.update_function_configuration(FunctionName="changing", Timeout=9)
    other = zipped("def lambda_handler(event, context):\n    return 2\n")
    functions.update_function_code(FunctionName="changing", ZipFile=other)
    functions.get_waiter("function_updated_v2").wait(FunctionName="changing")
    assert functions.invoke(FunctionName="changing", Payload=b"{}")["Payload"].read() == b"2"
    assert functions.get_function_configuration(FunctionName="changing")["Timeout"] == 9
    assert "changing" in [f["FunctionName"] for f in functions.list_functions()["Functions"]]
    functions.delete_function(FunctionName="changing")
    with pytest.raises(functions.exceptions.ResourceNotFoundException):
        functions.invoke(FunctionName="changing", Payload=b"{}")


def job(name: str, arn: str, **more: Any) -> dict[str, Any]:
    """The request that AWS's notebooks send, on a smaller scale."""
    asked = {"batchSize": 16, "epochCount": 1, "evalInterval": 1, "inferenceMaxTokens": 8, "learningRate": 5e-5}
    asked |= {"maxPromptLength": 310, "reasoningEffort": "high", "trainingSamplePerPrompt": 2}
    grader = {"lambdaGrader": {"lambdaArn": arn}}
    return {
        "jobName": name,
        "customModelName": f"model-{name}",
        "roleArn": ROLE,
        "baseModelIdentifier": "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-2-lite-v1:0:256k",
        "customizationType": "REINFORCEMENT_FINE_TUNING",
        "trainingDataConfig": {"s3Uri": f"s3://{BUCKET}/train.jsonl"},
        "validationDataConfig": {"validators": [{"s3Uri": f"s3://{BUCKET}/val.jsonl"}]},
        "outputDataConfig": {"s3Uri": f"s3://{BUCKET}/out/"},
        "customizationConfig": {"rftConfig": {"graderConfig": grader, "hyperParameters": asked}},
    } | more


@pytest.fixture(scope="module")
def ready(served: Served) -> str:
    """Data in a bucket and a reward function; the function's ARN."""
    s3, functions = client(served, "s3"), client(served, "lambda")
    s3.create_bucket(Bucket=BUCKET)
    rows = [{"messages": [{"role": "user", "content": f"Say {n}"}], "reference_answer": {"n": n}} for n in range(32)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for key in ("train.jsonl", "val.jsonl"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    s3.put_object(Bucket=BUCKET, Key="bad.jsonl", Body=b'{"no": "messages"}\n')
    made = functions.create_function(
        FunctionName="scorer",
        Runtime="python3.11",
        Role=ROLE,
        Handler="reward.lambda_handler",
        Code={"ZipFile": zipped()},
        Timeout=60,
    )
    return str(made["FunctionArn"])


def test_a_job_runs_to_its_end(served: Served, ready: str) -> None:
    """Two steps of a tiny model; the OpenAI API shows the same job, under the same identity."""
    bedrock = client(served, "bedrock")
    arn = bedrock.create_model_customization_job(**job("first", ready))["jobArn"]
    deadline = time.monotonic() + 120
    while (found := bedrock.get_model_customization_job(jobIdentifier="first"))["status"] == "InProgress":
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert (found["status"], found["jobArn"]) == ("Completed", arn), found
    assert found["statusDetails"]["trainingDetails"]["status"] == "Completed"
    assert ":custom-model/" in found["outputModelArn"]
    assert isinstance(found["trainingMetrics"]["trainingLoss"], float)
    (same,) = served.client().fine_tuning.jobs.list().data
    assert same.status == "succeeded"
    assert arn.endswith(same.id.removeprefix("ftjob-")[:12])
    (listed,) = bedrock.list_model_customization_jobs(nameContains="fir")["modelCustomizationJobSummaries"]
    assert (listed["jobName"], listed["status"]) == ("first", "Completed")
    outputs = client(served, "s3").list_objects_v2(Bucket=BUCKET, Prefix="out/first/")["Contents"]
    left = [entry["Key"].removeprefix("out/first/") for entry in outputs]
    assert {"adapter/adapter_model.safetensors", "metrics.jsonl", "result.json"} <= set(left), left
    with pytest.raises(ClientError) as twice:
        bedrock.create_model_customization_job(**job("first", ready))
    assert code_of(twice) == "ConflictException"
    with pytest.raises(ClientError) as over:
        bedrock.stop_model_customization_job(jobIdentifier=arn)
    assert code_of(over) == "ConflictException"


def test_a_failure_names_the_callers_file(served: Served, ready: str) -> None:
    """Not where its copy lies here."""
    bedrock = client(served, "bedrock")
    made = job("too-long", ready)
    made["customizationConfig"]["rftConfig"]["hyperParameters"] = {"batchSize": 16, "maxPromptLength": 2}
    bedrock.create_model_customization_job(**made)
    deadline = time.monotonic() + 90
    while (found := bedrock.get_model_customization_job(jobIdentifier="too-long"))["status"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert found["status"] == "Failed"
    assert f"{made['trainingDataConfig']['s3Uri']}:1: messages: 7 tokens" in found["failureMessage"]
    assert "more than data.max_prompt_tokens = 2" in found["failureMessage"]
    assert str(served.data) not in found["failureMessage"]


def test_hyperparameters_become_settings(served: Served, ready: str) -> None:
    """By hand: 32 rows in batches of 16 are 2 steps an epoch; the settings are those that the worker runs by."""
    bedrock = client(served, "bedrock")
    asked = {
        "batchSize": 16,
        "epochCount": 3,
        "learningRate": 0.0002,
        "trainingSamplePerPrompt": 2,
        "inferenceMaxTokens": 12,
        "maxPromptLength": 50,
        "evalInterval": 7,
    }
    made = job("mapped", ready)
    made["customizationConfig"]["rftConfig"]["hyperParameters"] = asked
    settings = settings_of(served, bedrock.create_model_customization_job(**made)["jobArn"])
    assert settings["rollout"]["prompts_per_step"] == 16
    assert settings["run"]["steps"] == 6
    assert settings["update"]["learning_rate"] == pytest.approx(0.0002, rel=1e-6)
    assert settings["rollout"]["completions_per_prompt"] == 2
    assert settings["rollout"]["max_tokens"] == 12
    assert settings["data"]["max_prompt_tokens"] == 50
    assert settings["evaluate"]["every"] == 7
    made = job("by-default", ready)
    made["customizationConfig"]["rftConfig"]["hyperParameters"] = {"batchSize": 16}
    settings = settings_of(served, bedrock.create_model_customization_job(**made)["jobArn"])
    assert settings["rollout"]["completions_per_prompt"] == 4  # user guide: four responses a prompt by default
    for name in ("mapped", "by-default"):
        bedrock.stop_model_customization_job(jobIdentifier=name)


def settings_of(served: Served, arn: str) -> dict[str, Any]:
    """What a job runs by, from the server's own store."""
    store = Store(Database(served.data / "state.db"))
    found = store.jobs.beginning(f"ftjob-{arn[-12:]}")
    store.database.close()
    assert found
    return found.settings


def test_the_same_token_makes_one_job_and_stop_stops_it(served: Served, ready: str) -> None:
    bedrock = client(served, "bedrock")
    asked = job("second", ready, clientRequestToken="token-1")
    first = bedrock.create_model_customization_job(**asked)["jobArn"]
    assert bedrock.create_model_customization_job(**asked)["jobArn"] == first
    bedrock.stop_model_customization_job(jobIdentifier=first)
    deadline = time.monotonic() + 60
    while (status := bedrock.get_model_customization_job(jobIdentifier=first)["status"]) == "Stopping":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status == "Stopped"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"jobName": "-" * 60 + "!"}, "at 'jobName' failed to satisfy constraint: Member must satisfy regular expr"),
        ({"jobName": "a" * 64}, "Member must have length less than or equal to 63"),
        ({"customizationType": "BAD"}, "Member must satisfy enum value set: [FINE_TUNING"),
        ({"customizationType": "FINE_TUNING"}, "only REINFORCEMENT_FINE_TUNING is implemented"),
        ({"trainingDataConfig": {"s3Uri": f"s3://{BUCKET}/none"}}, "there is no object at"),
        ({"trainingDataConfig": {"s3Uri": f"s3://{BUCKET}/bad.jsonl"}}, "trainingDataConfig.s3Uri: 1 unusable line"),
        ({"baseModelIdentifier": "amazon.other-v1:0"}, "stands for no local model"),
        ({"vpcConfig": {"subnetIds": ["subnet-12345678"], "securityGroupIds": ["sg-12345678"]}}, "vpcConfig is not"),
    ],
)
def test_what_a_job_may_not_ask(served: Served, ready: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ClientError) as refused:
        client(served, "bedrock").create_model_customization_job(**job("refused", ready) | change)
    assert code_of(refused) == "ValidationException"
    assert said in str(refused.value)


def test_bounds_that_boto3_does_not_check(served: Served, ready: str) -> None:
    """By hand, from the service's model: batchSize to 512, learningRate to 1e-3, three efforts."""
    asked = job("bounds", ready)
    asked["customizationConfig"]["rftConfig"]["hyperParameters"] |= {
        "batchSize": 10_000,
        "learningRate": 1.0,
        "reasoningEffort": "xx",
    }
    with pytest.raises(ClientError) as refused:
        client(served, "bedrock").create_model_customization_job(**asked)
    said, where = str(refused.value), "customizationConfig.rftConfig.hyperParameters"
    assert "3 validation errors detected" in said
    failed = "failed to satisfy constraint: Member must"
    assert f"'10000' at '{where}.batchSize' {failed} have value less than or equal to 512" in said
    assert f"'1.0' at '{where}.learningRate' {failed} have value less than or equal to 0.001" in said
    assert f"'{where}.reasoningEffort' {failed} satisfy enum value set: [low, medium, high]" in said


def test_the_models_of_a_job(served: Served, ready: str) -> None:
    """After the first job: its model, a deployment, tags."""
    bedrock = client(served, "bedrock", "eu-central-1")
    bases = [one["modelId"] for one in bedrock.list_foundation_models()["modelSummaries"]]
    assert "amazon.nova-2-lite-v1:0" in bases
    (model,) = bedrock.list_custom_models()["modelSummaries"]
    assert model["modelName"] == "model-first"
    assert bedrock.get_custom_model(modelIdentifier="model-first")["modelArn"] == model["modelArn"]
    made = bedrock.create_custom_model_deployment(
        modelDeploymentName="live", modelArn=model["modelArn"], tags=[{"key": "team", "value": "us"}]
    )["customModelDeploymentArn"]
    assert bedrock.get_custom_model_deployment(customModelDeploymentIdentifier="live")["status"] in (
        "Creating",
        "Active",
        "Failed",  # on a machine without vLLM, and then it says so
    )
    assert bedrock.list_tags_for_resource(resourceARN=made)["tags"] == [{"key": "team", "value": "us"}]
    bedrock.untag_resource(resourceARN=made, tagKeys=["team"])
    assert bedrock.list_tags_for_resource(resourceARN=made)["tags"] == []
    with pytest.raises(ClientError) as needed:
        bedrock.delete_custom_model(modelIdentifier="model-first")
    assert code_of(needed) == "ConflictException"
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier=made)
    assert bedrock.list_custom_model_deployments()["modelDeploymentSummaries"] == []


def test_metrics_of_a_job(served: Served, ready: str) -> None:
    """Two steps of the first job; the same numbers as its events have."""
    cloudwatch = client(served, "cloudwatch")
    dimensions = [{"Name": "JobName", "Value": "first"}]
    namespace = "AWS/Bedrock/ModelCustomization"
    names = [
        one["MetricName"] for one in cloudwatch.list_metrics(Namespace=namespace, Dimensions=dimensions)["Metrics"]
    ]
    assert {"critic_rewards_mean", "actor_pg_loss", "response_length_mean"} <= set(names)
    now = time.time()
    metric = {"Namespace": namespace, "MetricName": "critic_rewards_mean", "Dimensions": dimensions}
    (job_id,) = [one.id for one in served.client().fine_tuning.jobs.list() if one.status == "succeeded"]
    events = served.client().fine_tuning.jobs.list_events(job_id).data
    rewards = [event.data["critic_rewards_mean"] for event in events if event.type == "metrics"]
    asked = {"Id": "r", "MetricStat": {"Metric": metric, "Period": 86_400, "Stat": "Maximum"}}
    (found,) = cloudwatch.get_metric_data(MetricDataQueries=[asked], StartTime=now - 86_400, EndTime=now + 60)[
        "MetricDataResults"
    ]
    assert max(found["Values"]) == pytest.approx(max(rewards), abs=1e-12)
    whole = cloudwatch.get_metric_statistics(
        **metric, Period=172_800, Statistics=["SampleCount", "Sum"], StartTime=now - 86_400, EndTime=now + 60
    )["Datapoints"]
    assert sum(point["SampleCount"] for point in whole) == len(rewards) == 2
    assert sum(point["Sum"] for point in whole) == pytest.approx(sum(rewards), abs=1e-12)
    times = [event.created_at for event in events if event.type == "metrics"]
    for start, end in ((max(times) + 1, now + 60), (now - 86_400, min(times))):  # the end is not part of the span
        asked |= {"MetricStat": asked["MetricStat"] | {"Period": 60}}
        found = cloudwatch.get_metric_data(MetricDataQueries=[asked], StartTime=start, EndTime=end)
        assert found["MetricDataResults"][0]["Values"] == []
    (found,) = cloudwatch.get_metric_data(MetricDataQueries=[asked], StartTime=min(times), EndTime=max(times) + 1)[
        "MetricDataResults"
    ]
    assert found["Values"]


def test_a_boto3_of_two_years_ago(served: Served, ready: str) -> None:
    """Which speaks CloudWatch's query form; after the first job."""
    python = CLIENTS / "boto3-1.35.70" / "bin" / "python"
    words = [str(python), str(ROOT / "tests" / "clients" / "old_boto3.py"), served.url.removesuffix("/v1")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "first" in found.pop("jobs")
    assert found.pop("points") >= 1
    assert found == {"boto3": "1.35.70", "account": "123456789012", "object": "content", "answer": [3]}


def aws(served: Served, *words: str) -> Any:
    """The AWS CLI, with dummy credentials from the environment, as its users have them."""
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-west-2"}
    environment |= {"AWS_ENDPOINT_URL": served.url.removesuffix("/v1"), "PATH": os.environ["PATH"], "HOME": "/nowhere"}
    command = [str(CLIENTS / "awscli" / "bin" / "aws"), "--output", "json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout


def test_the_aws_cli(served: Served, ready: str, tmp_path: Path) -> None:
    """Unmodified, from PyPI; after the first job."""
    (tmp_path / "up").write_text("up and down")
    aws(served, "s3", "mb", "s3://from-cli")
    aws(served, "s3", "cp", str(tmp_path / "up"), "s3://from-cli/a/b")
    aws(served, "s3", "sync", "s3://from-cli", str(tmp_path / "back"))
    assert (tmp_path / "back" / "a" / "b").read_text() == "up and down"
    aws(served, "s3", "rb", "--force", "s3://from-cli")
    job = aws(served, "bedrock", "get-model-customization-job", "--job-identifier", "first")
    assert job["status"] == "Completed"
    aws(served, "lambda", "invoke", "--function-name", "scorer", "--payload", "[]", str(tmp_path / "answer"))
    assert json.loads((tmp_path / "answer").read_text()) == []
    metrics = aws(served, "cloudwatch", "list-metrics", "--dimensions", "Name=JobName,Value=first")["Metrics"]
    assert "critic_rewards_mean" in [metric["MetricName"] for metric in metrics]
    assert aws(served, "logs", "describe-log-groups")["logGroups"]


def test_cloudwatch_in_cbor(served: Served, ready: str) -> None:
    """As newer clients send it: written and read by botocore's own code for that protocol, signed by its signer."""
    model = ServiceModel(Loader().load_service_model("cloudwatch", "service-2"), "cloudwatch")
    operation = model.operation_model("GetMetricStatistics")
    now = int(time.time())
    asked = {
        "Namespace": "AWS/Bedrock/ModelCustomization",
        "MetricName": "critic_rewards_mean",
        "Dimensions": [{"Name": "JobName", "Value": "first"}],
        "Period": 172_800,
        "Statistics": ["SampleCount"],
        "StartTime": now - 86_400,
        "EndTime": now + 60,
    }
    told = create_serializer("smithy-rpc-v2-cbor").serialize_to_request(asked, operation)
    url = served.url.removesuffix("/v1") + told["url_path"]
    request = AWSRequest(method="POST", url=url, data=told["body"], headers=told["headers"])
    SigV4Auth(Credentials("a", "b"), "monitoring", "us-west-2").add_auth(request)
    answer = httpx.post(url, content=told["body"], headers=dict(request.headers))
    parts = {"status_code": answer.status_code, "headers": dict(answer.headers), "body": answer.content}
    found = create_parser("smithy-rpc-v2-cbor").parse(parts, operation.output_shape)
    assert sum(point["SampleCount"] for point in found["Datapoints"]) == 2
    assert isinstance(found["Datapoints"][0]["Timestamp"], datetime)


def test_signatures_are_verified_when_the_secret_is_known(tmp_path: Path, tiny_model: Path) -> None:
    """botocore signs: keys that need quoting, queries without values, bodies in parts; a wrong secret is refused."""
    known = {"GRPO_AWS_ACCESS_KEY_ID": "AKID", "GRPO_AWS_SECRET_ACCESS_KEY": "secret"}
    served = Served(tmp_path / "data", tiny_model, environment=known)
    try:
        for service in ("s3", "lambda", "bedrock", "logs", "cloudwatch", "sts"):
            right = client(served, service, key="AKID", secret="secret")
            wrong = client(served, service, key="AKID", secret="other")
            call = {
                "s3": "list_buckets",
                "lambda": "list_functions",
                "bedrock": "list_model_customization_jobs",
                "logs": "describe_log_groups",
                "cloudwatch": "list_metrics",
                "sts": "get_caller_identity",
            }[service]
            getattr(right, call)()
            with pytest.raises(ClientError) as refused:
                getattr(wrong, call)()
            assert code_of(refused) == "UnrecognizedClientException", service
            assert "does not match" in str(refused.value)
        stranger = client(served, "bedrock", key="OTHER", secret="secret")
        with pytest.raises(ClientError) as refused:
            stranger.tag_resource(resourceARN="arn:aws:bedrock:us-east-1:123456789012:custom-model/x", tags=[])
        assert "the access key id is not the one" in str(refused.value), "before its body is read"
        s3 = client(served, "s3", key="AKID", secret="secret")
        s3.create_bucket(Bucket="signed")
        s3.put_object(Bucket="signed", Key="a b/ü+&=%~.txt", Body=b"x")
        upload = s3.create_multipart_upload(Bucket="signed", Key="parts")["UploadId"]
        s3.list_parts(Bucket="signed", Key="parts", UploadId=upload)
        assert s3.get_object(Bucket="signed", Key="a b/ü+&=%~.txt")["Body"].read() == b"x"
        bedrock = client(served, "bedrock", key="AKID", secret="secret")
        arn = "arn:aws:bedrock:us-east-1:123456789012:model-customization-job/local.tiny/aaaaaaaaaaaa"
        with pytest.raises(bedrock.exceptions.ResourceNotFoundException):
            bedrock.get_model_customization_job(jobIdentifier=arn)
    finally:
        served.stop()


REFUSED = {
    "no such nextToken": ("bedrock", "list_model_customization_jobs", {"nextToken": "x"}),
    "a custom model further": (
        "bedrock",
        "get_foundation_model",
        {"modelIdentifier": "arn:aws:bedrock:us-east-1::foundation-model/no.model"},
    ),
    "no custom model": ("bedrock", "get_custom_model", {"modelIdentifier": "none"}),
    "tags of what": ("bedrock", "list_tags_for_resource", {"resourceARN": "arn:aws:bedrock:us-east-1:1:guardrail/a"}),
    "an expression": (
        "cloudwatch",
        "get_metric_data",
        {"MetricDataQueries": [{"Id": "e", "Expression": "1"}], "StartTime": 0, "EndTime": 1},
    ),
    "no statistics": (
        "cloudwatch",
        "get_metric_statistics",
        {"Namespace": "n", "MetricName": "m", "StartTime": 0, "EndTime": 1, "Period": 60, "ExtendedStatistics": ["p9"]},
    ),
    "no such NextToken": ("cloudwatch", "list_metrics", {"NextToken": "x"}),
    "a pattern": ("logs", "filter_log_events", {"logGroupName": "/aws/lambda/reward", "filterPattern": "{ a }"}),
    "no such token": ("logs", "filter_log_events", {"logGroupName": "/aws/lambda/reward", "nextToken": "x"}),
    "no function's name": ("lambda", "get_function", {"FunctionName": "arn:what"}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_other_refusals(served: Served, ready: str, why: str) -> None:
    service, operation, given = REFUSED[why]
    with pytest.raises(ClientError) as refused:
        getattr(client(served, service), operation)(**given)
    assert 400 <= refused.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500


def test_other_ways_to_ask(served: Served, ready: str) -> None:
    """Of what the tests above left: after the first job and the first function."""
    bedrock, logs, s3 = client(served, "bedrock"), client(served, "logs"), client(served, "s3")
    details = bedrock.get_foundation_model(modelIdentifier="amazon.nova-2-lite-v1:0")["modelDetails"]
    assert details["modelId"] == "amazon.nova-2-lite-v1:0"
    assert client(served, "cloudwatch").list_metrics(Namespace="other")["Metrics"] == []
    model = bedrock.get_custom_model(modelIdentifier="model-first")["modelArn"]
    bedrock.tag_resource(resourceARN=model, tags=[{"key": "k", "value": "v"}])
    assert bedrock.list_tags_for_resource(resourceARN=model)["tags"] == [{"key": "k", "value": "v"}]
    asked = {"modelDeploymentName": "again", "modelArn": model, "clientRequestToken": "t1"}
    first = bedrock.create_custom_model_deployment(**asked)["customModelDeploymentArn"]
    assert bedrock.create_custom_model_deployment(**asked)["customModelDeploymentArn"] == first
    bedrock.update_custom_model_deployment(modelArn=model, customModelDeploymentIdentifier="again")
    bedrock.delete_custom_model_deployment(customModelDeploymentIdentifier="again")
    group = {"logGroupName": "/aws/lambda/reward"}
    (stream,) = logs.describe_log_streams(**group, orderBy="LastEventTime", descending=True)["logStreams"]
    page = logs.get_log_events(**group, logStreamName=stream["logStreamName"], limit=1)
    assert len(page["events"]) == 1
    back = logs.get_log_events(**group, logStreamName=stream["logStreamName"], nextToken=page["nextBackwardToken"])
    assert back["events"] == []
    s3.create_bucket(Bucket="ways")
    assert s3.head_bucket(Bucket="ways")["ResponseMetadata"]["HTTPStatusCode"] == 200
    etag = s3.put_object(Bucket="ways", Key="k", Body=b"x")["ETag"]
    with pytest.raises(ClientError) as same:
        s3.get_object(Bucket="ways", Key="k", IfNoneMatch=etag)
    assert code_of(same) == "304"
    assert [entry["Key"] for entry in s3.list_objects(Bucket="ways")["Contents"]] == ["k"]
    upload = s3.create_multipart_upload(Bucket="ways", Key="m")["UploadId"]
    for content in (b"a", b"b"):
        part = s3.upload_part(Bucket="ways", Key="m", UploadId=upload, PartNumber=1, Body=content)
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(Bucket="ways", Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket="ways", Key="m")["Body"].read() == b"b"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"baseModelIdentifier": "arn:aws:bedrock:us-east-1:123456789012:custom-model/amazon.nova/aaaaaaaaaaaa"},
            "further",
        ),
        ({"customizationConfig": {"rftConfig": {}}}, "lambdaGrader: required"),
        (
            {"validationDataConfig": {"validators": [{"s3Uri": "s3://bucket/a"}, {"s3Uri": "s3://bucket/b"}]}},
            "than one",
        ),
        (
            {"trainingDataConfig": {"invocationLogsConfig": {"invocationLogSource": {"s3Uri": "s3://bucket/a"}}}},
            "trainingDataConfig.s3Uri: invocationLogsConfig is not implemented here",
        ),
    ],
)
def test_what_else_a_job_may_not_ask(served: Served, ready: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ClientError) as refused:
        client(served, "bedrock").create_model_customization_job(**job("refused", ready) | change)
    assert code_of(refused) == "ValidationException"
    assert said in str(refused.value)


def test_a_function_that_is_not_there_and_a_batch_too_large(served: Served, ready: str) -> None:
    bedrock = client(served, "bedrock")
    with pytest.raises(ClientError, match="no function"):
        bedrock.create_model_customization_job(**job("refused", ready.replace("scorer", "none")))
    asked = job("refused", ready)
    asked["customizationConfig"]["rftConfig"]["hyperParameters"]["batchSize"] = 64
    with pytest.raises(ClientError, match="more than the 32 rows"):
        bedrock.create_model_customization_job(**asked)
    with pytest.raises(ClientError, match="was used with another request"):
        bedrock.create_model_customization_job(**job("third", ready, clientRequestToken="token-1"))


@pytest.mark.parametrize(
    ("body", "status", "left"),
    [
        (b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", 200, b"abc"),
        (b"9\r\nabc\r\n0\r\n\r\n", 400, None),
        (b"", 400, None),
    ],
)
def test_bodies_in_chunks(served: Served, ready: str, body: bytes, status: int, left: bytes | None) -> None:
    """As clients frame them over TLS: by hand, signed by botocore. A broken one is an error of the request."""
    url = f"{served.url.removesuffix('/v1')}/{BUCKET}/framed-{len(body)}"
    headers = {"content-encoding": "aws-chunked", "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    request = AWSRequest(method="PUT", url=url, data=body, headers=headers)
    SigV4Auth(Credentials("a", "b"), "s3", "us-east-1").add_auth(request)
    assert httpx.put(url, content=body, headers=dict(request.headers)).status_code == status
    if left is not None:
        got = client(served, "s3").get_object(Bucket=BUCKET, Key=f"framed-{len(body)}")
        assert got["Body"].read() == left
    bad = dict(request.headers) | {"Authorization": request.headers["Authorization"][:-4]}
    refused = httpx.put(url, content=body, headers=bad)
    assert (refused.status_code, "has no signature" in refused.text) == (403, True)


def test_an_operation_we_lack_says_its_name(served: Served) -> None:
    for service, call, name in (
        ("bedrock", "list_guardrails", "ListGuardrails"),
        ("lambda", "list_layers", "ListLayers"),
        ("logs", "describe_queries", "DescribeQueries"),
    ):
        with pytest.raises(ClientError) as lacking:
            getattr(client(served, service), call)()
        assert name in str(lacking.value)
        assert lacking.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_all_of_it_survives_a_kill(tmp_path: Path, tiny_model: Path) -> None:
    served = Served(tmp_path / "data", tiny_model)
    try:
        s3, functions = client(served, "s3"), client(served, "lambda")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
        handler = {"Runtime": "python3.11", "Role": ROLE, "Handler": "reward.lambda_handler"}
        functions.create_function(FunctionName="scorer", Code={"ZipFile": zipped()}, **handler)
        functions.invoke(FunctionName="scorer", Payload=b"[]")
        served.kill()
        served.start()
        s3, functions, logs = client(served, "s3"), client(served, "lambda"), client(served, "logs")
        assert s3.get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"
        assert functions.get_function(FunctionName="scorer")["Configuration"]["Role"] == ROLE
        assert logs.filter_log_events(logGroupName="/aws/lambda/scorer", filterPattern="scoring")["events"]
    finally:
        served.stop()


def test_refusals_of_objects(served: Served) -> None:
    s3 = client(served, "s3")
    s3.create_bucket(Bucket="refusals")
    put = {"Bucket": "refusals", "Key": "k", "Body": b"x"}
    upload = s3.create_multipart_upload(Bucket="refusals", Key="m")["UploadId"]
    part = {"Bucket": "refusals", "Key": "m", "UploadId": upload}
    etag = s3.upload_part(**part, PartNumber=1, Body=b"x")["ETag"]
    refused = {
        "InvalidBucketName": lambda: s3.create_bucket(Bucket="UPPER"),
        "KeyTooLongError": lambda: s3.put_object(**put | {"Key": "k" * 1025}),
        "BadDigest": lambda: s3.put_object(**put, ContentMD5="AAAAAAAAAAAAAAAAAAAAAA=="),
        "InvalidArgument": lambda: s3.list_objects_v2(Bucket="refusals", ContinuationToken="!"),
        "NoSuchKey": lambda: s3.get_object(Bucket="refusals", Key="none"),
        "NoSuchUpload": lambda: s3.abort_multipart_upload(Bucket="refusals", Key="other", UploadId=upload),
        "InvalidPart": lambda: s3.complete_multipart_upload(
            **part, MultipartUpload={"Parts": [{"PartNumber": 2, "ETag": etag}]}
        ),
        "InvalidPartOrder": lambda: s3.complete_multipart_upload(**part, MultipartUpload={"Parts": []}),
        "BucketNotEmpty": lambda: s3.delete_bucket(Bucket="refusals"),
    }
    for code, call in refused.items():
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == code
    for token in ("\u202e", "gA=="):  # not even ASCII; base64 of what is no UTF-8
        with pytest.raises(ClientError, match="InvalidArgument"):
            s3.list_objects_v2(Bucket="refusals", ContinuationToken=token)
    other = client(served, "s3", "us-west-2")
    with pytest.raises(other.exceptions.BucketAlreadyOwnedByYou):
        other.create_bucket(Bucket="refusals", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})


def test_refusals_of_functions(served: Served, ready: str) -> None:
    functions, logs = client(served, "lambda"), client(served, "logs")
    made = {"FunctionName": "refused", "Role": ROLE, "Handler": "reward.lambda_handler", "Code": {"ZipFile": zipped()}}
    for change in (
        {"Runtime": "nodejs22.x"},
        {"Runtime": "python3.11", "Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:a:1"]},
        {"Runtime": "python3.11", "Code": {"ZipFile": b"no zip"}},
        {"Runtime": "python3.11", "Code": {"S3Bucket": BUCKET, "S3Key": "none"}},
        {"Runtime": "python3.11", "Code": {}},
        {"Runtime": "python3.11", "Handler": "other.lambda_handler"},
    ):
        with pytest.raises(functions.exceptions.InvalidParameterValueException):
            functions.create_function(**made | change)
    with pytest.raises(functions.exceptions.ResourceConflictException):
        functions.create_function(**made | {"FunctionName": "scorer", "Runtime": "python3.11"})
    with pytest.raises(functions.exceptions.InvalidParameterValueException):
        functions.update_function_configuration(FunctionName="scorer", Handler="else.where")
    with pytest.raises(functions.exceptions.InvalidParameterValueException):
        functions.invoke(FunctionName="scorer", InvocationType="Event", Payload=b"[]")
    assert functions.invoke(FunctionName="scorer", InvocationType="DryRun")["StatusCode"] == 204
    answer = functions.invoke(FunctionName="scorer", Payload=b"{")
    assert json.loads(answer["Payload"].read())["errorType"] == "Runtime.UnmarshalError"
    with pytest.raises(logs.exceptions.ResourceNotFoundException):
        logs.get_log_events(logGroupName="none", logStreamName="none")
    logs.delete_log_group(logGroupName="/aws/lambda/scorer")
    assert logs.describe_log_groups(logGroupNamePrefix="/aws/lambda/scorer")["logGroups"] == []


def test_a_function_from_a_bucket_that_is_slow(served: Served, ready: str) -> None:
    """Code from S3; a call that takes longer than its time."""
    s3, functions = client(served, "s3"), client(served, "lambda")
    source = "import time\n\ndef lambda_handler(event, context):\n    time.sleep(9)\n"
    s3.put_object(Bucket=BUCKET, Key="slow.zip", Body=zipped(source, "slow.py"))
    functions.create_function(
        FunctionName="slow",
        Runtime="python3.11",
        Role=ROLE,
        Handler="slow.lambda_handler",
        Code={"S3Bucket": BUCKET, "S3Key": "slow.zip"},
        Timeout=1,
    )
    answer = functions.invoke(FunctionName="slow", Payload=b"{}")
    assert json.loads(answer["Payload"].read())["errorType"] == "Sandbox.Timedout"
    functions.update_function_code(FunctionName="slow", ZipFile=zipped("nonsense =", "slow.py"))
    answer = functions.invoke(FunctionName="slow", Payload=b"{}")
    assert json.loads(answer["Payload"].read())["errorType"] == "Runtime.ImportModuleError"


CALLS = """
import boto3
from botocore.config import Config

def lambda_handler(event, context):
    quick = Config(retries={"max_attempts": 0}, connect_timeout=5)
    found = boto3.client("bedrock", region_name="us-east-1", config=quick).list_foundation_models()["modelSummaries"]
    return sorted(model["modelId"] for model in found)
"""


@pytest.mark.parametrize("network", [True, False])
def test_a_function_calls_bedrock_where_functions_have_a_network(
    tmp_path: Path, tiny_model: Path, network: bool
) -> None:
    """As at Lambda, with no word about an endpoint; only where the server's owner said so."""
    server = Served(tmp_path / "data", tiny_model, *(["--function-network"] if network else []))
    try:
        functions = client(server, "lambda")
        made = {"FunctionName": "judge", "Role": ROLE, "Runtime": "python3.11", "Timeout": 60}
        functions.create_function(Handler="reward.lambda_handler", Code={"ZipFile": zipped(CALLS)}, **made)
        answer = functions.invoke(FunctionName="judge", Payload=b"[]")
        told = json.loads(answer["Payload"].read())
    finally:
        server.stop()
    if network:
        assert "FunctionError" not in answer, told
        assert "local.tiny" in told
    else:
        assert answer["FunctionError"] == "Unhandled"
        assert told["errorType"] in ("NoCredentialsError", "EndpointConnectionError")
