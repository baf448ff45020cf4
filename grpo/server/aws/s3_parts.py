"""S3's objects that arrive in parts. Touches: disk."""

import time
import uuid
from collections.abc import Callable, Mapping
from hashlib import md5

from grpo.server.aws.errors import AwsError
from grpo.server.aws.s3 import S3
from grpo.server.aws.s3_rules import Given, check_digest, checked_key, echoed, source_of, unchanged, wanted_range, when
from grpo.server.aws.wire import Call
from grpo.server.records import Multipart, Object, Part

MOST_PARTS = 10_000


class S3Parts:
    """Of the same buckets."""

    def __init__(self, whole: S3) -> None:
        self.whole, self.objects, self.blobs = whole, whole.objects, whole.blobs

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "CreateMultipartUpload": self.create_multipart,
            "UploadPart": self.upload_part,
            "UploadPartCopy": self.copy_part,
            "ListMultipartUploads": self.list_uploads,
            "ListParts": self.list_parts,
            "CompleteMultipartUpload": self.complete_multipart,
            "AbortMultipartUpload": self.abort_multipart,
        }

    def create_multipart(self, call: Call) -> Given:
        upload = Multipart(
            id=uuid.uuid4().hex,
            bucket=self.whole.bucket(call),
            key=checked_key(call.given["Key"]),
            content_type=call.given.get("ContentType", "binary/octet-stream"),
            metadata=call.given.get("Metadata", {}),
            created_at=int(time.time()),
        )
        self.objects.begin(upload)
        return {"Bucket": upload.bucket, "Key": upload.key, "UploadId": upload.id}

    def upload_part(self, call: Call) -> Given:
        content = call.given.get("Body", b"")
        check_digest(call.given, content)
        return {"ETag": self._put(call, content)} | echoed(call.given)

    def copy_part(self, call: Call) -> Given:
        bucket, key = source_of(call.given["CopySource"])

        def read(found: Object) -> bytes:
            unchanged(call.given.get("CopySourceIfMatch"), found)
            span = wanted_range(call.given.get("CopySourceRange"), found.bytes)
            first, last = span or (0, found.bytes - 1)
            return self.blobs.read(found.blob, first, last - first + 1)

        _, content = self.whole.reading(bucket, key, read)
        return {"CopyPartResult": {"ETag": self._put(call, content), "LastModified": when(int(time.time()))}}

    def list_uploads(self, call: Call) -> Given:
        bucket = self.whole.bucket(call)
        found = [
            {"UploadId": one.id, "Key": one.key, "Initiated": when(one.created_at)}
            for one in self.objects.uploads(bucket)
            if one.key.startswith(call.given.get("Prefix", ""))
        ]
        return {"Bucket": bucket, "Uploads": found, "IsTruncated": False}

    def _put(self, call: Call, content: bytes) -> str:
        """Store a part; its ETag."""
        upload, number = self._upload(call), call.given["PartNumber"]
        if not 1 <= number <= MOST_PARTS:
            raise AwsError("InvalidArgument", f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive")
        written = self.blobs.write([content])
        replaced = [part.blob for part in self.objects.parts(upload.id) if part.number == number]
        etag = f'"{written.md5}"'
        self.objects.put_part(
            Part(multipart=upload.id, number=number, blob=written.name, bytes=written.bytes, etag=etag)
        )
        for blob in replaced:
            self.blobs.remove(blob)
        return etag

    def list_parts(self, call: Call) -> Given:
        upload = self._upload(call)
        parts = [{"PartNumber": p.number, "ETag": p.etag, "Size": p.bytes} for p in self.objects.parts(upload.id)]
        return {"Bucket": upload.bucket, "Key": upload.key, "UploadId": upload.id, "Parts": parts, "IsTruncated": False}

    def complete_multipart(self, call: Call) -> Given:
        upload = self._upload(call)
        there = {part.number: part for part in self.objects.parts(upload.id)}
        asked = call.given.get("MultipartUpload", {}).get("Parts", [])
        numbers = [entry.get("PartNumber") for entry in asked]
        for entry in asked:
            part = there.get(entry.get("PartNumber"))
            if part is None or part.etag.strip('"') != str(entry.get("ETag")).strip('"'):
                raise AwsError("InvalidPart", "One or more of the specified parts could not be found.")
        if not numbers or numbers != sorted(set(numbers)):
            raise AwsError("InvalidPartOrder", "The list of parts was not in ascending order.")
        chosen = [there[number] for number in numbers]
        written = self.blobs.write(self.blobs.pieces(part.blob for part in chosen))
        digest = md5(b"".join(bytes.fromhex(part.etag.strip('"')) for part in chosen), usedforsecurity=False)
        described = {"ContentType": upload.content_type, "Metadata": upload.metadata}
        stored = self.whole.store(call.given | described, written, f'"{digest.hexdigest()}-{len(chosen)}"')
        self._forget(upload)
        return {"Bucket": upload.bucket, "Key": upload.key, "ETag": stored.etag}

    def abort_multipart(self, call: Call) -> Given:
        self._forget(self._upload(call))
        return {}

    def _forget(self, upload: Multipart) -> None:
        blobs = [part.blob for part in self.objects.parts(upload.id)]
        self.objects.end(upload.id)
        for blob in blobs:
            self.blobs.remove(blob)

    def _upload(self, call: Call) -> Multipart:
        found = self.objects.multipart(call.given["UploadId"])
        if found is None or (found.bucket, found.key) != (call.given["Bucket"], call.given["Key"]):
            raise AwsError("NoSuchUpload", "The specified multipart upload does not exist.", 404)
        return found
