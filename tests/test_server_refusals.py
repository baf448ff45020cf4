"""What nobody should send or hand to the server, by its parts: each is refused with the field and the reason."""

import base64
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from grpo.errors import ConfigError, RewardError
from grpo.server import aws_auth, functions, uploads
from grpo.server.catalogue import Catalogue, chat_template
from grpo.server.errors import Invalid, TooLarge
from grpo.server.functions import deploy
from grpo.server.graders import Graders
from grpo.server.plan import _merge
from grpo.server.settings import DataDirectory
from grpo.server.store import Database, Store

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KNOWN = aws_auth.Credentials("AKID", "secret")


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def store(data: DataDirectory):
    database = Database(data.database)
    yield Store(database)
    database.close()


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (None, "g"),
        ({"type": "string_check"}, "g.type"),
        ({"type": "lambda", "lambda": {"function": "f"}, "extra": 1}, "g.extra"),
        ({"type": "lambda", "lambda": {"function": 3}}, "g.lambda.function"),
        ({"type": "lambda", "lambda": {"function": "f", "more": 1}}, "g.lambda.more"),
        ({"type": "lambda", "lambda": {"function": "http://host/elsewhere"}}, "g.lambda.function"),
    ],
)
def test_a_grader(store: Store, data: DataDirectory, grader: Any, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        Graders(store, data, "strong", aws=False).reward(grader, "g")
    assert caught.value.param == param


def test_graders_elsewhere_are_taken_as_they_are(store: Store, data: DataDirectory) -> None:
    graders = Graders(store, data, "strong", aws=True)
    url = "http://127.0.0.1:9000/2015-03-31/functions/f/invocations"
    arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
    for name, section in ((url, {"url": url}), (arn, {"function": arn})):
        assert graders.reward({"type": "lambda", "lambda": {"function": name}}, "g") == section


@pytest.mark.parametrize(
    ("section", "values", "param"),
    [("nowhere", {}, "nowhere"), ("lora", 3, "lora"), ("run", {"dir": "/tmp/x"}, "run")],
)
def test_settings_of_a_request(section: str, values: Any, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        _merge({}, section, values)
    assert str(caught.value.param).rpartition("grpo.")[2].startswith(param)


def token(**changed: str) -> str:
    """A Bedrock token, unsigned; ``Host`` and ``Text`` are not part of its query."""
    query = {
        "Action": "CallWithBearerToken",
        "X-Amz-Algorithm": aws_auth.ALGORITHM,
        "X-Amz-Credential": "AKID/20260101/us-east-1/bedrock/aws4_request",
        "X-Amz-Date": "20260101T120000Z",
        "X-Amz-Expires": "3600",
        "X-Amz-Signature": "0" * 64,
    } | changed
    text = "bedrock.amazonaws.com/?" + "&".join(f"{name}={value}" for name, value in query.items())
    return aws_auth.TOKEN_PREFIX + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X-Amz-Algorithm": "none"}, "not signed with AWS4"),
        ({"X-Amz-Credential": "AKID/20260101/us-east-1/s3/aws4_request"}, "credential scope must end in"),
        ({"X-Amz-Date": "yesterday"}, "not a time like"),
        ({"X-Amz-Expires": "86400"}, "X-Amz-Expires must lie between"),
        ({"X-Amz-Expires": "minus one"}, "X-Amz-Expires must lie between"),
        ({"X-Amz-Credential": "OTHER/20260101/us-east-1/bedrock/aws4_request"}, "not the one this server knows"),
        ({}, "the signature does not match"),
    ],
)
def test_a_token(changed: dict[str, str], message: str) -> None:
    with pytest.raises(aws_auth.BadSignature, match=message):
        aws_auth.check_token(token(**changed), "us-east-1", KNOWN, NOW)


@pytest.mark.parametrize(
    ("fields", "sent", "message"),
    [
        ("SignedHeaders=host", NOW, "the header has no signature"),
        (f"SignedHeaders=host, Signature={'0' * 64}", NOW - timedelta(hours=1), "older than five minutes"),
        (f"SignedHeaders=date, Signature={'0' * 64}", NOW, "the host must be signed"),
    ],
)
def test_a_signed_header(fields: str, sent: datetime, message: str) -> None:
    credential = "Credential=AKID/20260101/us-east-1/bedrock/aws4_request"
    headers = {"authorization": f"{aws_auth.ALGORITHM} {credential}, {fields}"}
    headers["x-amz-date"] = sent.strftime("%Y%m%dT%H%M%SZ")
    with pytest.raises(aws_auth.BadSignature, match=message):
        aws_auth.check_header("GET", "/", "", headers, aws_auth.EMPTY, "us-east-1", KNOWN, NOW)


def zipped(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return path


def test_a_function(store: Store, data: DataDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "reward.py"
    good.write_text("def lambda_handler(event, context): ...\n")
    (tmp_path / "broken.zip").write_text("no zip")
    others = zipped(tmp_path / "other.zip", other="x = 1", more="y = 2")

    def refused(name: str, source: Path, handler: str | None, message: str) -> None:
        limits: Any = {"timeout_s": 1.0, "memory_mb": 512, "environment": {}, "network": False}
        with pytest.raises(RewardError, match=message):
            deploy(store, data, name, source, handler=handler, **limits)

    refused("a name", good, None, "a function's name has up to 64 letters")
    refused("f", tmp_path / "absent.py", None, "no such file")
    refused("f", good, "../x", "expected MODULE.FUNCTION")
    refused("f", tmp_path / "broken.zip", None, "not a zip file that can be unpacked")
    refused("f", others, None, r"it has no lambda_function\.py; set --handler")
    monkeypatch.setattr(functions, "MOST_ENTRIES", 1)
    refused("g", others, None, "more than 1 files")
    assert not [path for path in data.functions.rglob("*") if path.is_file()], "nothing is left behind"


def part(name: str, content: str, more: str = "") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'


FILE = part("file", "12345", '; filename="t.jsonl"')


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (FILE, Invalid, "ends before its last boundary"),
        (FILE + FILE + "--b--\r\n", Invalid, "more than one part called file"),
        (FILE.replace("12345", "1" * 65) + "--b--\r\n", TooLarge, "the file is larger than 64 bytes"),
        (part("purpose", "x" * (uploads.LONGEST_FIELD + 1)), TooLarge, "purpose is longer than"),
        ("".join(part(f"a{i}", "1") for i in range(uploads.MOST_PARTS + 1)), TooLarge, "parts"),
        (part("a", "1", f"\r\nx: {'y' * 3000}" * 3), TooLarge, "bytes of headers"),
        ("nothing like it", Invalid, "not a valid multipart body"),
    ],
)
def test_an_upload(tmp_path: Path, body: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        anyio.run(_received, "multipart/form-data; boundary=b", body.encode(), tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_an_upload_that_is_no_form(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="expected multipart/form-data"):
        anyio.run(_received, "application/json", b"{}", tmp_path)


async def _received(content_type: str, body: bytes, directory: Path) -> uploads.Upload:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    return await uploads.receive(content_type, pieces(), directory, 64)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json there\. Name a model directory"):
        Catalogue({"m": tmp_path})
    assert chat_template(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert chat_template(tmp_path) == "{{ messages }}"
