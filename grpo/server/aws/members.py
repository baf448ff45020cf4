"""Which members of a request have an effect here, which are known to have none; any other is refused by its name. Pure.

docs/aws-parity.md is made of this and of the services' models (scripts/parity.py).
"""

from collections.abc import Mapping
from typing import Any

from grpo.server.aws.errors import AwsError

TAKEN: Mapping[str, Mapping[str, str]] = {
    "bedrock": {
        "CreateModelCustomizationJob": "jobName customModelName roleArn clientRequestToken baseModelIdentifier "
        "customizationType jobTags customModelTags trainingDataConfig validationDataConfig outputDataConfig "
        "customizationConfig",
        "GetModelCustomizationJob": "jobIdentifier",
        "ListModelCustomizationJobs": "creationTimeAfter creationTimeBefore statusEquals nameContains maxResults "
        "nextToken sortBy sortOrder",
        "StopModelCustomizationJob": "jobIdentifier",
        "ListFoundationModels": "byProvider byCustomizationType byOutputModality byInferenceType",
        "GetFoundationModel": "modelIdentifier",
        "ListCustomModels": "creationTimeBefore creationTimeAfter nameContains baseModelArnEquals "
        "foundationModelArnEquals maxResults nextToken sortBy sortOrder modelStatus",
        "GetCustomModel": "modelIdentifier",
        "DeleteCustomModel": "modelIdentifier",
        "CreateCustomModelDeployment": "modelDeploymentName modelArn description tags clientRequestToken",
        "GetCustomModelDeployment": "customModelDeploymentIdentifier",
        "ListCustomModelDeployments": "createdBefore createdAfter nameContains maxResults nextToken sortBy sortOrder "
        "statusEquals modelArnEquals",
        "UpdateCustomModelDeployment": "modelArn customModelDeploymentIdentifier",
        "DeleteCustomModelDeployment": "customModelDeploymentIdentifier",
        "TagResource": "resourceARN tags",
        "UntagResource": "resourceARN tagKeys",
        "ListTagsForResource": "resourceARN",
    },
    "bedrock-runtime": {
        "Converse": "modelId messages system inferenceConfig additionalModelRequestFields",
        "ConverseStream": "modelId messages system inferenceConfig additionalModelRequestFields",
        "InvokeModel": "modelId body contentType accept",
        "InvokeModelWithResponseStream": "modelId body contentType accept",
    },
    "s3": {
        "CreateBucket": "Bucket",
        "ListBuckets": "",
        "HeadBucket": "Bucket ExpectedBucketOwner",
        "GetBucketLocation": "Bucket ExpectedBucketOwner",
        "DeleteBucket": "Bucket ExpectedBucketOwner",
        "PutObject": "Bucket Key Body ContentLength ContentMD5 ContentType Metadata ExpectedBucketOwner "
        "ChecksumCRC32 ChecksumSHA1 ChecksumSHA256",
        "CopyObject": "Bucket Key CopySource CopySourceIfMatch ContentType Metadata MetadataDirective "
        "ExpectedBucketOwner",
        "GetObject": "Bucket Key Range IfMatch IfNoneMatch ExpectedBucketOwner",
        "HeadObject": "Bucket Key ExpectedBucketOwner",
        "DeleteObject": "Bucket Key ExpectedBucketOwner",
        "DeleteObjects": "Bucket Delete ExpectedBucketOwner",
        "ListObjects": "Bucket Delimiter EncodingType Marker MaxKeys Prefix ExpectedBucketOwner",
        "ListObjectsV2": "Bucket Delimiter EncodingType MaxKeys Prefix ContinuationToken StartAfter "
        "ExpectedBucketOwner",
        "CreateMultipartUpload": "Bucket Key ContentType Metadata ExpectedBucketOwner",
        "UploadPart": "Bucket Key UploadId PartNumber Body ContentLength ContentMD5 ChecksumCRC32 ChecksumSHA1 "
        "ChecksumSHA256",
        "UploadPartCopy": "Bucket Key UploadId PartNumber CopySource CopySourceRange CopySourceIfMatch",
        "ListMultipartUploads": "Bucket Prefix",
        "ListParts": "Bucket Key UploadId",
        "CompleteMultipartUpload": "Bucket Key UploadId MultipartUpload",
        "AbortMultipartUpload": "Bucket Key UploadId",
    },
    "lambda": {
        "CreateFunction": "FunctionName Runtime Role Handler Code Description Timeout MemorySize PackageType "
        "Environment",
        "GetFunction": "FunctionName",
        "GetFunctionConfiguration": "FunctionName",
        "UpdateFunctionCode": "FunctionName ZipFile S3Bucket S3Key",
        "UpdateFunctionConfiguration": "FunctionName Role Handler Description Timeout MemorySize Environment Runtime",
        "ListFunctions": "Marker MaxItems",
        "DeleteFunction": "FunctionName",
        "Invoke": "FunctionName InvocationType LogType Payload",
    },
    "logs": {
        "DescribeLogGroups": "logGroupNamePrefix logGroupNamePattern nextToken limit",
        "DescribeLogStreams": "logGroupName logGroupIdentifier logStreamNamePrefix orderBy descending nextToken limit",
        "GetLogEvents": "logGroupName logGroupIdentifier logStreamName startTime endTime nextToken limit startFromHead",
        "FilterLogEvents": "logGroupName logGroupIdentifier logStreamNames startTime endTime filterPattern nextToken "
        "limit",
        "DeleteLogGroup": "logGroupName",
    },
    "cloudwatch": {
        "ListMetrics": "Namespace MetricName Dimensions NextToken",
        "GetMetricData": "MetricDataQueries StartTime EndTime ScanBy",
        "GetMetricStatistics": "Namespace MetricName Dimensions StartTime EndTime Period Statistics",
    },
}
"""Service → operation → members of its input that have their effect. A member inside a member is another matter."""
STORED = "ACL StorageClass ServerSideEncryption BucketKeyEnabled SSEKMSKeyId"
WITHOUT_EFFECT: Mapping[str, Mapping[str, str]] = {
    "bedrock": {"ListCustomModels": "isOwned"},
    "s3": {
        "CreateBucket": "CreateBucketConfiguration ObjectOwnership ACL",
        "PutObject": f"{STORED} ChecksumAlgorithm ChecksumCRC32C ChecksumCRC64NVME",
        "CopyObject": f"{STORED} ChecksumAlgorithm ExpectedSourceBucketOwner",
        "GetObject": "ChecksumMode",
        "HeadObject": "ChecksumMode",
        "DeleteObjects": "ChecksumAlgorithm",
        "ListObjectsV2": "FetchOwner",
        "CreateMultipartUpload": f"{STORED} ChecksumAlgorithm ChecksumType",
        "UploadPart": "ChecksumAlgorithm ChecksumCRC32C ChecksumCRC64NVME ExpectedBucketOwner",
        "UploadPartCopy": "ExpectedBucketOwner ExpectedSourceBucketOwner",
        "ListMultipartUploads": "ExpectedBucketOwner EncodingType MaxUploads",
        "ListParts": "ExpectedBucketOwner",
        "CompleteMultipartUpload": "ChecksumCRC32 ChecksumCRC64NVME ChecksumType MpuObjectSize ExpectedBucketOwner",
        "AbortMultipartUpload": "ExpectedBucketOwner",
    },
    "lambda": {
        "CreateFunction": "Architectures TracingConfig Publish LoggingConfig",
        "UpdateFunctionCode": "Architectures Publish",
        "UpdateFunctionConfiguration": "TracingConfig LoggingConfig",
        "ListFunctions": "FunctionVersion",
    },
    "logs": {"FilterLogEvents": "interleaved"},
    "cloudwatch": {"ListMetrics": "IncludeLinkedAccounts RecentlyActive", "GetMetricData": "MaxDatapoints"},
}
"""Where what they ask for makes no difference on one machine with one account, or clients send them by themselves."""
DESCRIBED = "AcceptRanges LastModified ContentLength ETag ContentType Metadata"
LISTED = "Name Prefix MaxKeys IsTruncated Contents CommonPrefixes Delimiter EncodingType"
ECHOED = "ChecksumCRC32 ChecksumSHA1 ChecksumSHA256"
SENT: Mapping[str, Mapping[str, str]] = {
    "s3": {
        "CreateBucket": "Location",
        "ListBuckets": "Buckets Owner",
        "PutObject": f"ETag {ECHOED}",
        "CopyObject": "CopyObjectResult",
        "GetObject": f"Body ContentRange {DESCRIBED}",
        "HeadObject": DESCRIBED,
        "DeleteObjects": "Deleted",
        "ListObjects": f"Marker NextMarker {LISTED}",
        "ListObjectsV2": f"KeyCount ContinuationToken NextContinuationToken {LISTED}",
        "CreateMultipartUpload": "Bucket Key UploadId",
        "UploadPart": f"ETag {ECHOED}",
        "UploadPartCopy": "CopyPartResult",
        "ListMultipartUploads": "Bucket Uploads IsTruncated",
        "ListParts": "Bucket Key UploadId Parts IsTruncated",
        "CompleteMultipartUpload": "Bucket Key ETag",
    },
}
"""Members of the output, for services whose operations write members of the same name with other meanings."""
CODES = {
    "s3": ("NotImplemented", 501),
    "lambda": ("InvalidParameterValueException", 400),
    "logs": ("InvalidParameterException", 400),
    "cloudwatch": ("InvalidParameterValue", 400),
}
FRAMING = "aws-chunked"
"""Content-Encoding of a body in chunks; it is no property of the object."""


def check(service: str, operation: str, given: Mapping[str, Any]) -> None:
    """Raises AwsError that names a member which would be passed over in silence. Empty ones ask for nothing."""
    if operation not in TAKEN.get(service, {}):
        return  # the operation is refused as a whole
    known = known_members(service, operation)
    asked = {name for name, value in given.items() if value not in ("", FRAMING) and not _empty(value)}
    if unknown := sorted(asked - known):
        code, status = CODES.get(service, ("ValidationException", 400))
        raise AwsError(code, f"{unknown[0]} is not implemented here", status)


def known_members(service: str, operation: str) -> set[str]:
    """With or without an effect."""
    without = WITHOUT_EFFECT.get(service, {}).get(operation, "")
    return {*TAKEN[service][operation].split(), *without.split()}


def _empty(value: Any) -> bool:
    return isinstance(value, list | dict | bytes) and not value
