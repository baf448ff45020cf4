"""S3, as far as training jobs need it: buckets, objects, and objects that arrive in parts. Touches: disk.

docs.aws.amazon.com/AmazonS3/latest/API. No versions, no ACLs, no encryption, no regions: a bucket is there for all.
"""

import base64
import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from grpo.server.aws.blobs import Blobs, Written
from grpo.server.aws.errors import AwsError
from grpo.server.aws.names import ACCOUNT
from grpo.server.aws.s3_rules import (
    Given,
    check_digest,
    checked_key,
    echoed,
    folder_of,
    listing,
    source_of,
    unchanged,
    wanted_range,
    when,
)
from grpo.server.aws.wire import Call
from grpo.server.records import Object
from grpo.server.store import Store

ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
MOST_KEYS = 1000
TRIES = 5
Found = TypeVar("Found")


class S3:
    """The buckets of one server."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.objects, self.blobs = store.objects, blobs

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "CreateBucket": self.create_bucket,
            "ListBuckets": self.list_buckets,
            "HeadBucket": self.head_bucket,
            "GetBucketLocation": self.head_bucket,
            "DeleteBucket": self.delete_bucket,
            "PutObject": self.put_object,
            "CopyObject": self.copy_object,
            "GetObject": self.get_object,
            "HeadObject": self.head_object,
            "DeleteObject": self.delete_object,
            "DeleteObjects": self.delete_objects,
            "ListObjects": self.list_objects,
            "ListObjectsV2": self.list_objects_v2,
        }

    def create_bucket(self, call: Call) -> Given:
        name = call.given["Bucket"]
        if not BUCKET.fullmatch(name) or ".." in name or ADDRESS.fullmatch(name):
            raise AwsError("InvalidBucketName", "The specified bucket is not valid.")
        if not self.objects.add_bucket(name, int(time.time())) and call.region != "us-east-1":
            raise AwsError(
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own it.",
                409,
            )
        return {"Location": f"/{name}"}

    def list_buckets(self, call: Call) -> Given:
        found = [{"Name": name, "CreationDate": when(at)} for name, at in self.objects.buckets().items()]
        return {"Buckets": found, "Owner": {"DisplayName": "local", "ID": "local"}}

    def head_bucket(self, call: Call) -> Given:
        self.bucket(call)
        return {}

    def delete_bucket(self, call: Call) -> Given:
        if not self.objects.delete_bucket(self.bucket(call)):
            raise AwsError("BucketNotEmpty", "The bucket you tried to delete is not empty", 409)
        return {}

    def put_object(self, call: Call) -> Given:
        self.bucket(call)
        content = call.given.get("Body", b"")
        check_digest(call.given, content)
        written = self.blobs.write([content])
        self.store(call.given, written, f'"{written.md5}"')
        return {"ETag": f'"{written.md5}"'} | echoed(call.given)

    def copy_object(self, call: Call) -> Given:
        self.bucket(call)
        bucket, key = source_of(call.given["CopySource"])

        def copy(found: Object) -> Written:
            unchanged(call.given.get("CopySourceIfMatch"), found)
            return self.blobs.write(self.blobs.pieces([found.blob]))

        source, written = self.reading(bucket, key, copy)
        described = {"ContentType": source.content_type, "Metadata": source.metadata}
        replaced = call.given.get("MetadataDirective") == "REPLACE"
        stored = self.store(call.given | ({} if replaced else described), written, f'"{written.md5}"')
        return {"CopyObjectResult": {"ETag": stored.etag, "LastModified": when(stored.created_at)}}

    def get_object(self, call: Call) -> Given:
        _, answer = self.reading(self.bucket(call), call.given["Key"], lambda one: self._answer(call, one))
        return answer

    def _answer(self, call: Call, found: Object) -> Given:
        unchanged(call.given.get("IfMatch"), found)
        if call.given.get("IfNoneMatch") == found.etag:
            raise AwsError("NotModified", "Not Modified", 304)
        span = wanted_range(call.given.get("Range"), found.bytes)
        described = self._described(found)
        if span is None:
            return described | {"Body": self.blobs.read(found.blob)}
        start, end = span
        body = self.blobs.read(found.blob, start, end - start + 1)
        return described | {
            "Body": body,
            "ContentLength": len(body),
            "ContentRange": f"bytes {start}-{end}/{found.bytes}",
        }

    def head_object(self, call: Call) -> Given:
        return self._described(self._object(self.bucket(call), call.given["Key"]))

    def delete_object(self, call: Call) -> Given:
        self.blobs.remove(self.objects.delete(self.bucket(call), call.given["Key"]))
        return {}

    def delete_objects(self, call: Call) -> Given:
        bucket = self.bucket(call)
        entries = call.given["Delete"].get("Objects", [])
        if any("Key" not in entry for entry in entries):
            raise AwsError("MalformedXML", "The XML you provided was not well-formed")
        if any(entry.get("VersionId") for entry in entries):
            raise AwsError("NotImplemented", "VersionId is not implemented here", 501)
        keys = [entry["Key"] for entry in entries]
        for key in keys:
            self.blobs.remove(self.objects.delete(bucket, key))
        return {"Deleted": [] if call.given["Delete"].get("Quiet") else [{"Key": key} for key in keys]}

    def list_objects(self, call: Call) -> Given:
        listed = self._listed(call, call.given.get("Marker", ""))
        last = listed.pop("last")
        return listed | {"Marker": call.given.get("Marker", "")} | ({"NextMarker": last} if last else {})

    def list_objects_v2(self, call: Call) -> Given:
        token = call.given.get("ContinuationToken")
        try:
            after = base64.b64decode(token, validate=True).decode() if token else call.given.get("StartAfter", "")
        except ValueError:  # no base64, no ASCII, or no UTF-8 in it
            raise AwsError("InvalidArgument", "The continuation token provided is incorrect") from None
        listed = self._listed(call, after)
        last = listed.pop("last")
        count = len(listed["Contents"]) + len(listed["CommonPrefixes"])
        following = {"NextContinuationToken": base64.b64encode(last.encode()).decode()} if last else {}
        return listed | {"KeyCount": count} | following | ({"ContinuationToken": token} if token else {})

    def _listed(self, call: Call, after: str) -> Given:
        """One page: objects, and with a delimiter what their keys have in common up to it."""
        bucket, given = self.bucket(call), call.given
        prefix, delimiter = given.get("Prefix", ""), given.get("Delimiter", "")
        most = max(0, min(given.get("MaxKeys", MOST_KEYS), MOST_KEYS))
        encode = quote if given.get("EncodingType") == "url" else str
        contents: list[Given] = []
        common: list[str] = []
        more = False
        while most and (found := self.objects.after(bucket, prefix, after, MOST_KEYS)):
            for entry in found:
                folder = folder_of(entry.key, prefix, delimiter)
                if folder and (common[-1:] == [folder] or after.startswith(folder)):
                    continue  # told on this page, or on the one before
                if len(contents) + len(common) == most:
                    more = True
                    break
                after = entry.key
                if folder:
                    common.append(folder)
                else:
                    contents.append(listing(entry, encode))
            if more or len(found) < MOST_KEYS:
                break
            after = found[-1].key
        return {
            "Name": bucket,
            "Prefix": encode(prefix),
            "MaxKeys": most,
            "IsTruncated": more,
            "Contents": contents,
            "CommonPrefixes": [{"Prefix": encode(folder)} for folder in common],
            "last": after if more else "",
            **({"Delimiter": encode(delimiter)} if delimiter else {}),
            **({"EncodingType": "url"} if encode is quote else {}),
        }

    def store(self, given: Given, written: Written, etag: str) -> Object:
        stored = Object(
            bucket=given["Bucket"],
            key=checked_key(given["Key"]),
            blob=written.name,
            bytes=written.bytes,
            etag=etag,
            content_type=given.get("ContentType", "binary/octet-stream"),
            metadata=given.get("Metadata", {}),
            created_at=int(time.time()),
        )
        self.blobs.remove(self.objects.put(stored))
        return stored

    def bucket(self, call: Call) -> str:
        name: str = call.given["Bucket"]
        if call.given.get("ExpectedBucketOwner", ACCOUNT) != ACCOUNT:
            raise AwsError("AccessDenied", "Access Denied", 403)
        if not self.objects.has_bucket(name):
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404)
        return name

    def reading(self, bucket: str, key: str, read: Callable[[Object], Found]) -> tuple[Object, Found]:
        """What ``read`` makes of an object; another try where it was replaced meanwhile. Raises AwsError."""
        for _ in range(TRIES):
            found = self._object(bucket, key)
            try:
                return found, read(found)
            except FileNotFoundError:
                continue
        raise AwsError("SlowDown", "Please reduce your request rate.", 503)

    def _object(self, bucket: str, key: str) -> Object:
        if not self.objects.has_bucket(bucket):
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404)
        found = self.objects.get(bucket, key)
        if found is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404)
        return found

    def _described(self, found: Object) -> Given:
        return {
            "ETag": found.etag,
            "ContentLength": found.bytes,
            "ContentType": found.content_type,
            "LastModified": when(found.created_at),
            "Metadata": found.metadata,
            "AcceptRanges": "bytes",
        }
