"""S3 buckets, by boto3: objects in and out.

The endpoint and the keys come from the environment, as boto3 reads them (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, profiles, roles). Large objects travel in parts, and
failed requests are repeated with growing pauses. Local copies of files and folders are in
:mod:`gearnn.store.copies`.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from gearnn.errors import StoreError
from gearnn.store.files import written_whole

SCHEME = "s3://"
_PART = 8 << 20
AT_A_TIME = 16
"""Objects that are moved at the same time."""
_ATTEMPTS = 15
"""With pauses that grow to 20 s these last for over a minute, in which a server may be started again."""
_FIRST_ATTEMPTS = 3
"""To find out whether there is a server at all."""
_ADVICE = {
    "NoSuchBucket": "create it, or correct its name",
    "AccessDenied": "the keys are valid, but may not do this",
    "403": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": "check AWS_ENDPOINT_URL and whether the server runs",
}


def is_remote(location: str | Path) -> bool:
    """Whether a location is in a bucket."""
    return str(location).startswith(SCHEME)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An object in a bucket.

    Attributes:
        key: its name below the location.
        size: in bytes.
        etag: changes with its content.
    """

    key: str
    size: int
    etag: str


class Bucket:
    """A bucket, or the part of it below a prefix.

    Args:
        location: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises (every method): StoreError, saying in one line which object, what came and what to check.
    """

    def __init__(self, location: str) -> None:
        if "@" in location.removeprefix(SCHEME).partition("/")[0]:
            raise StoreError(
                f"{SCHEME}...@{location.rpartition('@')[2]}: expected no keys in a location; "
                f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.name, _, prefix = location.removeprefix(SCHEME).partition("/")
        self.location = location.rstrip("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        if not is_remote(location) or not self.name:
            raise StoreError(f"{location}: expected s3://bucket or s3://bucket/prefix")

    def size(self, key: str) -> int | None:
        """Size of an object in bytes, or None if there is none."""
        with self._telling(key) as client:
            try:
                return int(client.head_object(Bucket=self.name, Key=self._prefix + key)["ContentLength"])
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey") and self._exists():
                    return None
                raise

    def read(self, key: str) -> bytes | None:
        """Content of a small object, or None if there is none."""
        content = io.BytesIO()
        with self._telling(key) as client:
            try:
                client.download_fileobj(self.name, self._prefix + key, content, Config=_transfer())
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey") and self._exists():
                    return None
                raise
        return content.getvalue()

    def write(self, key: str, content: bytes | Path) -> None:
        """Store an object, whole or not at all; large files in parts."""
        with self._telling(key) as client:
            if isinstance(content, bytes):
                client.put_object(Bucket=self.name, Key=self._prefix + key, Body=content)
            else:
                client.upload_file(str(content), self.name, self._prefix + key, Config=_transfer())

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._telling(key) as client:
            client.delete_object(Bucket=self.name, Key=self._prefix + key)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file, whole or not at all; large objects in parts."""
        with self._telling(key) as client, written_whole(path) as file:
            client.download_fileobj(self.name, self._prefix + key, file, Config=_transfer())

    def items(self, below: str = "") -> list[Item]:
        """Every object whose key starts so, sorted by key."""
        with self._telling(below) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._prefix + below)
            found = [entry for page in pages for entry in page.get("Contents", [])]
        cut = len(self._prefix)
        return sorted(
            (Item(key=e["Key"][cut:], size=e["Size"], etag=e["ETag"].strip('"')) for e in found), key=lambda i: i.key
        )

    def check(self) -> None:
        """Make sure that the bucket exists, and that objects can be written to it and read from it."""
        probe = f"scratch/.probe-{uuid4().hex[:8]}"  # others may be doing the same
        with self._telling(probe):
            _client(_FIRST_ATTEMPTS).list_objects_v2(Bucket=self.name, Prefix=self._prefix, MaxKeys=1)
        self.write(probe, b"probe")
        found = self.read(probe)
        if found != b"probe":
            raise StoreError(f"{self.location}/{probe}: expected to read what was written, but got {found!r}")
        self.delete(probe)

    def _exists(self) -> bool:
        """Whether the bucket itself exists; raises botocore's error if not, which names it."""
        _client().list_objects_v2(Bucket=self.name, Prefix=self._prefix, MaxKeys=1)
        return True

    @contextmanager
    def _telling(self, key: str) -> Iterator[Any]:
        """The client, with boto3's errors, and those of its settings, as one line."""
        what = f"{self.location}/{key}" if key else self.location
        with _telling_of_settings(what):
            client = _client()
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError as Broken
        from s3transfer.exceptions import S3DownloadFailedError, TransferNotDoneError

        try:
            yield client
        except (ClientError, BotoCoreError, Boto3Error, Broken, S3DownloadFailedError, TransferNotDoneError) as error:
            raise StoreError(f"{what}: {_reason(error)}") from error


@contextmanager
def _telling_of_settings(what: str) -> Iterator[None]:
    """What is wrong with the environment's settings for S3, such as a profile that does not exist, as one line."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # boto3 raises its own kinds and ValueError on settings that it cannot use
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{what}: expected settings that boto3 can use, but got: {reason}; check AWS_*") from error


def _reason(error: Exception) -> str:
    """What S3 said, in one line, and what to check."""
    response = getattr(error, "response", None) or getattr(error.__cause__ or error.__context__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", type(error).__name__))
    text = " ".join(str(error).split())[:200]
    return f"expected S3 to answer, but got: {text}" + (f"; {_ADVICE[code]}" if code in _ADVICE else "")


@cache
def _client(attempts: int | None = None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StoreError(f"s3: expected boto3, but it cannot be imported ({error}); `pip install boto3`") from error
    own = bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts or _ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=2 * AT_A_TIME,
        # Servers other than Amazon's: bucket names in paths, and no checksums that they do not know.
        s3={"addressing_style": "path" if own else "auto"},
        request_checksum_calculation="when_required" if own else "when_supported",
        response_checksum_validation="when_required" if own else "when_supported",
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if own else None)
    return boto3.session.Session().client("s3", config=config, region_name=region)


@cache
def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=8)
