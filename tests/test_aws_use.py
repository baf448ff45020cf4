"""What users of Amazon's APIs do beside the straight way: found by somebody who used this server as its user."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from grpo.server.aws import members
from grpo.server.aws.blobs import Blobs
from grpo.server.aws.errors import AwsError
from grpo.server.aws.s3 import S3
from grpo.server.store import Database, Store

from servers import Served, amazon

ROLE = "arn:aws:iam::123456789012:role/Bedrock"
REWARD = """
def lambda_handler(event, context):
    print("scoring", len(event))
    return [{"id": s["id"], "aggregate_reward_score": len(set(s["messages"][-1]["content"])) / 20} for s in event]
"""
CONTEXT = """
import os

def lambda_handler(event, context):
    print("to the log")
    if event == "fail":
        raise ValueError("no such thing")
    names = ("function_name", "invoked_function_arn", "aws_request_id", "log_group_name", "memory_limit_in_mb")
    return {name: getattr(context, name) for name in names} | {"named": os.environ["AWS_LAMBDA_FUNCTION_NAME"]}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("use")
    words = [f"--map=amazon.nova-2-lite-v1:0={tiny_model}", "--engine-memory", "2"]
    served = Served(folder / "data", tiny_model, *words)
    yield served
    served.stop()


def zipped(source: str, name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, source)
    return out.getvalue()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_prefixes_know_upper_and_lower_case(served: Served) -> None:
    s3 = boto3.resource(
        "s3",
        endpoint_url=served.url.removesuffix("/v1"),
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="thing",
    )
    bucket = s3.create_bucket(Bucket="letters")
    for key in ("runs/keep", "Runs/gone", "RUNS", "runs%/other", "runs\U0010ffff\U0010ffff", "rüns/x"):
        bucket.put_object(Key=key, Body=b"x")
    assert [o.key for o in bucket.objects.filter(Prefix="runs")] == [
        "runs%/other",
        "runs/keep",
        "runs\U0010ffff\U0010ffff",
    ]
    assert [o.key for o in bucket.objects.filter(Prefix="rü")] == ["rüns/x"]
    bucket.objects.filter(Prefix="Runs/").delete()
    assert {o.key for o in bucket.objects.all()} == {
        "runs/keep",
        "RUNS",
        "runs%/other",
        "runs\U0010ffff\U0010ffff",
        "rüns/x",
    }


def test_large_objects_are_copied_in_parts(served: Served) -> None:
    """boto3 copies what is above 8 MiB part by part, with what the object says of itself."""
    s3 = amazon(served, "s3")
    s3.create_bucket(Bucket="copies")
    content = bytes(range(256)) * (9 * 2**12)
    s3.put_object(Bucket="copies", Key="a", Body=content, ContentType="text/plain", Metadata={"by": "us"})
    s3.copy({"Bucket": "copies", "Key": "a"}, "copies", "b")
    found = s3.get_object(Bucket="copies", Key="b")
    assert found["Body"].read() == content
    assert "CacheControl" not in found
    upload = s3.create_multipart_upload(Bucket="copies", Key="left")["UploadId"]
    assert [one["UploadId"] for one in s3.list_multipart_uploads(Bucket="copies")["Uploads"]] == [upload]
    for number in (0, 10_001):
        with pytest.raises(ClientError) as caught:
            s3.upload_part(Bucket="copies", Key="left", UploadId=upload, PartNumber=number, Body=b"x")
        assert code_of(caught) == "InvalidArgument"
    s3.abort_multipart_upload(Bucket="copies", Key="left", UploadId=upload)
    for source, code in (("no-bucket/a", "NoSuchBucket"), ("copies/a?versionId=1", "NotImplemented")):
        with pytest.raises(ClientError) as caught:
            s3.copy_object(Bucket="copies", Key="c", CopySource=source)
        assert code_of(caught) == code
    with pytest.raises(ClientError) as caught:
        s3.delete_objects(Bucket="copies", Delete={"Objects": [{"Key": "a", "VersionId": "v"}]})
    assert code_of(caught) == "NotImplemented"
    assert s3.head_object(Bucket="copies", Key="a")
    with pytest.raises(ClientError) as caught:
        s3.create_bucket(Bucket="192.168.0.1")
    assert code_of(caught) == "InvalidBucketName"


def test_an_object_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    """Its bytes went between the look at the record and the read: the new ones are read."""
    (tmp_path / "objects").mkdir()
    s3 = S3(Store(Database(tmp_path / "state.db")), Blobs(tmp_path / "objects"))
    s3.objects.add_bucket("b", 0)
    s3.store({"Bucket": "b", "Key": "k"}, s3.blobs.write([b"old"]), '"1"')

    def read(found: Any) -> bytes:
        if found.etag == '"1"':
            s3.store({"Bucket": "b", "Key": "k"}, s3.blobs.write([b"new"]), '"2"')
        return s3.blobs.read(found.blob)

    found, content = s3.reading("b", "k", read)
    assert (found.etag, content) == ('"2"', b"new")
    s3.blobs.remove(found.blob)
    with pytest.raises(AwsError) as caught:
        s3.reading("b", "k", read)
    assert caught.value.code == "SlowDown"


@pytest.mark.parametrize("service", ["dynamodb", "sqs", "kms"])
def test_a_service_that_is_not_here_says_so(served: Served, service: str) -> None:
    once = Config(retries={"max_attempts": 1, "mode": "standard"})
    options = {"region_name": "us-east-1", "aws_access_key_id": "any", "aws_secret_access_key": "thing"}
    client: Any = boto3.client(service, endpoint_url=served.url.removesuffix("/v1"), config=once, **options)  # type: ignore[call-overload]
    call = {"dynamodb": "list_tables", "sqs": "list_queues", "kms": "list_keys"}[service]
    with pytest.raises(ClientError) as caught:
        getattr(client, call)()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert f"{service} is not a service of this server" in str(caught.value)


def test_a_presigned_url_says_that_it_is_none(served: Served) -> None:
    options = {"ExpiresIn": 60, "Params": {"Bucket": "any", "Key": "thing"}}
    url = amazon(served, "s3").generate_presigned_url("get_object", **options)
    answer = httpx.get(url)
    assert answer.status_code == 501
    assert "presigned URLs are not implemented here" in answer.text


def test_what_moto_lacks_is_no_error_of_the_server(served: Served) -> None:
    with pytest.raises(ClientError) as caught:
        amazon(served, "iam").generate_organizations_access_report(EntityPath="o-abcdefghij/r-abcdefg")
    assert code_of(caught) == "NotImplemented"
    assert "GenerateOrganizationsAccessReport" in str(caught.value)


def test_the_context_of_lambda_and_its_logs(served: Served) -> None:
    """A handler in a package; what fails leaves its error in the log; a deletion leaves none in the server's."""
    functions, logs = amazon(served, "lambda"), amazon(served, "logs")
    code = {"ZipFile": zipped(CONTEXT, "pkg/mod.py")}
    made = {"FunctionName": "told", "Role": ROLE, "Runtime": "python3.11", "Timeout": 30}
    functions.create_function(Handler="pkg.mod.lambda_handler", Code=code, **made)
    answer = functions.invoke(FunctionName="told", Payload=b"{}", LogType="Tail")
    told = json.loads(answer["Payload"].read())
    assert (told["function_name"], told["named"]) == ("told", "told")
    assert told["invoked_function_arn"].endswith(":function:told")
    assert told["log_group_name"] == "/aws/lambda/told"
    functions.invoke(FunctionName="told", Payload=b'"fail"')
    group = {"logGroupName": "/aws/lambda/told"}
    (stream,) = logs.describe_log_streams(**group)["logStreams"]
    name = {"logStreamName": stream["logStreamName"], **group}
    whole = [e["message"] for e in logs.get_log_events(startFromHead=True, **name)["events"]]
    assert whole[0] == f"START RequestId: {told['aws_request_id']} Version: $LATEST"
    assert "[ERROR] ValueError: no such thing" in whole
    assert [e["message"] for e in logs.get_log_events(limit=1, **name)["events"]] == whole[-1:]
    with pytest.raises(ClientError) as caught:
        functions.update_function_configuration(FunctionName="told", Runtime="nodejs20.x")
    assert code_of(caught) == "InvalidParameterValueException"
    functions.delete_function(FunctionName="told")
    assert "Too much data" not in served.log.read_text()


def asked(name: str, arn: str, **more: Any) -> dict[str, Any]:
    """A small job."""
    numbers = {"batchSize": 16, "trainingSamplePerPrompt": 2, "inferenceMaxTokens": 6, "maxPromptLength": 60}
    grader = {"graderConfig": {"lambdaGrader": {"lambdaArn": arn}}, "hyperParameters": numbers}
    return {
        "jobName": name,
        "customModelName": "the-model",
        "roleArn": ROLE,
        "baseModelIdentifier": "amazon.nova-2-lite-v1:0",
        "customizationType": "REINFORCEMENT_FINE_TUNING",
        "trainingDataConfig": {"s3Uri": "s3://jobs/train.jsonl"},
        "outputDataConfig": {"s3Uri": "s3://jobs/out/"},
        "customizationConfig": {"rftConfig": grader},
    } | more


def test_a_job_its_prints_its_results_and_its_name(served: Served) -> None:
    """A stopped job leaves its model name; prints are in the logs; what is deleted of the results stays deleted."""
    s3, bedrock, logs = amazon(served, "s3"), amazon(served, "bedrock"), amazon(served, "logs")
    functions = amazon(served, "lambda")
    s3.create_bucket(Bucket="jobs")
    rows = [{"messages": [{"role": "user", "content": f"Say {n}"}]} for n in range(16)]
    s3.put_object(Bucket="jobs", Key="train.jsonl", Body="".join(json.dumps(r) + "\n" for r in rows).encode())
    code = {"ZipFile": zipped(REWARD, "reward.py")}
    made = {"FunctionName": "prints", "Role": ROLE, "Runtime": "python3.11", "Timeout": 30, "MemorySize": 512}
    arn = functions.create_function(Handler="reward.lambda_handler", Code=code, **made)["FunctionArn"]
    with pytest.raises(ClientError) as caught:
        bedrock.create_model_customization_job(**asked("lost", arn, outputDataConfig={"s3Uri": "s3://nobody/x/"}))
    assert "there is no bucket nobody" in str(caught.value)
    with pytest.raises(ClientError) as caught:
        bedrock.create_model_customization_job(**asked("none", arn, trainingDataConfig={}))
    assert code_of(caught) == "ValidationException"
    bedrock.create_model_customization_job(**asked("first", arn))
    with pytest.raises(ClientError) as caught:
        bedrock.create_model_customization_job(**asked("second", arn))
    assert "a custom model 'the-model' is there already, or is being made" in str(caught.value)
    bedrock.stop_model_customization_job(jobIdentifier="first")
    bedrock.create_model_customization_job(**asked("second", arn))
    deadline = time.monotonic() + 120
    while (job := bedrock.get_model_customization_job(jobIdentifier="second"))["status"] == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert job["status"] == "Completed", job
    store = Store(Database(served.data / "state.db"))
    found_job = store.jobs.beginning(f"ftjob-{job['jobArn'][-12:]}")
    store.database.close()
    assert found_job
    assert found_job.settings["rollout"]["engine_memory_gib"] == 2.0
    base = bedrock.get_foundation_model(modelIdentifier="amazon.nova-2-lite-v1:0")["modelDetails"]
    assert base["customizationsSupported"] == ["REINFORCEMENT_FINE_TUNING"]
    assert bedrock.get_custom_model(modelIdentifier="the-model")["jobName"] == "second"
    found = logs.filter_log_events(logGroupName="/aws/lambda/prints")["events"]
    printed = [e for e in found if e["logStreamName"].startswith("job/")]
    assert {e["message"] for e in printed} >= {"scoring 32"}
    assert len(logs.filter_log_events(logGroupName="/aws/lambda/prints")["events"]) == len(found), "taken once"
    assert s3.list_objects_v2(Bucket="jobs", Prefix="out/second/")["KeyCount"] > 3
    for entry in s3.list_objects_v2(Bucket="jobs", Prefix="out/")["Contents"]:
        s3.delete_object(Bucket="jobs", Key=entry["Key"])
    served.stop()
    served.start()
    assert amazon(served, "s3").list_objects_v2(Bucket="jobs", Prefix="out/")["KeyCount"] == 0
    shown = served.cli("jobs", "show", "second", "--json")
    assert json.loads(shown)["id"] == json.loads(served.cli("jobs", "show", job["jobArn"], "--json"))["id"]


def s3_answers(served: Served) -> dict[str, set[str]]:
    """Every operation of S3, and the members of its answers as boto3 read them."""
    s3, seen = amazon(served, "s3"), {}
    s3.meta.events.register(
        "after-call.s3",
        lambda model, parsed, **_: seen.setdefault(model.name, set()).update(set(parsed) - {"ResponseMetadata"}),
    )
    s3.create_bucket(Bucket="members")
    where = {"Bucket": "members", "Key": "a/b"}
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        s3.put_object(**where, Body=b"content", ChecksumAlgorithm=algorithm)
        upload = s3.create_multipart_upload(**where)["UploadId"]
        part = {**where, "UploadId": upload, "PartNumber": 1}
        etag = s3.upload_part(**part, Body=b"x", ChecksumAlgorithm=algorithm)["ETag"]
        s3.list_multipart_uploads(Bucket="members")
        s3.list_parts(**where, UploadId=upload)
        told = {"Parts": [{"ETag": etag, "PartNumber": 1}]}
        s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=told)
    upload = s3.create_multipart_upload(**where)["UploadId"]
    s3.upload_part_copy(**where, UploadId=upload, PartNumber=1, CopySource="members/a/b")
    s3.abort_multipart_upload(**where, UploadId=upload)
    s3.copy_object(Bucket="members", Key="c", CopySource="members/a/b")
    s3.copy_object(Bucket="members", Key="d", CopySource="members/a/b")
    s3.get_object(**where, Range="bytes=0-0")["Body"].read()
    s3.head_object(**where)
    s3.list_buckets()
    s3.head_bucket(Bucket="members")
    s3.get_bucket_location(Bucket="members")
    for more in ({"Delimiter": "/", "MaxKeys": 1}, {"Delimiter": "/"}, {"MaxKeys": 1, "EncodingType": "url"}):
        s3.list_objects(Bucket="members", **more)
        first = s3.list_objects_v2(Bucket="members", **more)
        if first["IsTruncated"]:
            s3.list_objects_v2(Bucket="members", ContinuationToken=first["NextContinuationToken"])
    s3.delete_object(Bucket="members", Key="c")
    s3.delete_objects(Bucket="members", Delete={"Objects": [{"Key": "a/b"}, {"Key": "d"}]})
    s3.delete_bucket(Bucket="members")
    return seen


def test_what_the_table_says_is_sent_is_sent(served: Served) -> None:
    """No more and no less."""
    seen = s3_answers(served)
    seen["GetBucketLocation"].discard("LocationConstraint")  # botocore puts it in, whatever the answer
    assert set(seen) == set(members.TAKEN["s3"])
    wrong = {name: found ^ set(members.SENT["s3"].get(name, "").split()) for name, found in seen.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
