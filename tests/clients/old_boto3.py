"""What a boto3 of two years ago does with the server: ``old_boto3.py URL``. Prints what it found as JSON."""

import io
import json
import sys
import time
import zipfile

import boto3

SOURCE = "def lambda_handler(event, context):\n    return [len(event)]\n"


def client(service: str):  # type: ignore[no-untyped-def]
    return boto3.client(
        service, endpoint_url=sys.argv[1], region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b"
    )


def main() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("old.py", SOURCE)
    s3, functions, cloudwatch = client("s3"), client("lambda"), client("cloudwatch")
    s3.create_bucket(Bucket="old", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="old", Key="key", Body=b"content")
    functions.create_function(
        FunctionName="old",
        Runtime="python3.11",
        Role="arn:aws:iam::123456789012:role/r",
        Handler="old.lambda_handler",
        Code={"ZipFile": packed.getvalue()},
    )
    answer = functions.invoke(FunctionName="old", Payload=b"[1, 2, 3]")
    metric = cloudwatch.list_metrics(Dimensions=[{"Name": "JobName", "Value": "first"}])["Metrics"][0]
    points = cloudwatch.get_metric_statistics(
        **metric, Period=60, Statistics=["Average"], StartTime=time.time() - 86_400, EndTime=time.time() + 60
    )["Datapoints"]
    found = {
        "boto3": boto3.__version__,
        "account": client("sts").get_caller_identity()["Account"],
        "object": s3.get_object(Bucket="old", Key="key")["Body"].read().decode(),
        "answer": json.loads(answer["Payload"].read()),
        "jobs": [
            job["jobName"]
            for job in client("bedrock").list_model_customization_jobs()["modelCustomizationJobSummaries"]
        ],
        "points": len(points),
    }
    print(json.dumps(found))


main()
