"""Uploads: what is acknowledged is there, what breaks off is not, and every bad line is named."""

import json
import random
import re
import socket
from pathlib import Path

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo.server.errors import Invalid
from grpo.server.training_files import check

from servers import KEY, Served, method, rows


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    folder = tmp_path_factory.mktemp("files")
    server = Served(folder / "data", tiny_model)
    server.deploy(folder)
    yield server
    server.stop()


def test_a_file_comes_back_byte_for_byte_and_goes(served: Served) -> None:
    client, content = served.client(), rows(30)
    file = client.files.create(file=('näme "x".jsonl', content), purpose="fine-tune")
    assert (file.bytes, file.purpose, file.status) == (len(content), "fine-tune", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert client.files.wait_for_processing(file.id).id == file.id
    assert client.files.delete(file.id).deleted
    assert not (served.data / "files" / file.id).exists()
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_pages_of_files(served: Served) -> None:
    client = served.client()
    made = [client.files.create(file=(f"{i}.bin", b"x"), purpose="user_data").id for i in range(5)]
    assert [f.id for f in client.files.list(purpose="user_data", limit=2)] == made[::-1]
    assert [f.id for f in client.files.list(purpose="user_data", limit=2, order="asc")] == made
    with pytest.raises(openai.BadRequestError):
        client.files.list(after="file-none")


def test_a_file_that_a_job_needs_stays(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("t.jsonl", rows(8)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, extra_body={"method": method(n_epochs=50)}
    )
    with pytest.raises(openai.ConflictError):
        client.files.delete(file.id)
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file.id).deleted


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\x00b", "x" * 3000, "%2e%2e%2f", "", "\u202egnp.exe"]
)
def test_a_files_name_is_only_a_name(served: Served, name: str) -> None:
    before = {path for path in served.data.parent.rglob("*") if "jobs" not in path.parts}
    file = served.client().files.create(file=(name, b"x"), purpose="user_data")
    after = {path for path in served.data.parent.rglob("*") if "jobs" not in path.parts}
    assert {p for p in after - before if "state.db" not in p.name} == {served.data / "files" / file.id}
    assert len(file.filename) <= 255


def test_ids_from_outside_find_nothing_else(served: Served) -> None:
    client = served.client()
    for file_id in ("../state.db", "..%2fstate.db", "/etc/passwd", "file-" + "0" * 32, "state.db", "key"):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
            client.files.content(file_id)


EXPIRES = "expires_after[seconds]"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "training"}, "purpose"),
        ({"purpose": "fine-tune", "extra": "1"}, "extra"),
        ({"purpose": "user_data", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"purpose": "user_data", "expires_after[anchor]": "created_at", EXPIRES: "1"}, EXPIRES),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(served: Served, fields: dict[str, str], param: str) -> None:
    client = served.client()
    kind = {"headers": {"Content-Type": "multipart/form-data"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/files", cast_to=object, body=fields, files={"file": ("x", b"x")}, options=kind)
    assert caught.value.param == param


def multipart(content: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
    return head + content + b"\r\n--b--\r\n"


def test_an_upload_that_is_cut_leaves_nothing(served: Served) -> None:
    """At 60 random bytes, with the length announced and without."""
    body = multipart(rows(2000))
    before = set((served.data / "files").iterdir())
    random.seed(7)
    for cut in [random.randrange(len(body)) for _ in range(60)]:
        head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
            connection.sendall(head.encode() + body[:cut])
    served.wait_until(lambda: set((served.data / "files").iterdir()) == before, 10)
    assert served.client().files.create(file=("t.jsonl", rows(10)), purpose="fine-tune").status == "processed"


BAD_LINES = [
    (b"{", "not valid JSON"),
    (b"[1]", "expected a JSON object"),
    (b"{}", "messages: required"),
    (b'{"messages": []}', "messages: required"),
    (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages[0].role"),
    (b'{"messages": [{"role": "user"}]}', "messages[0].content"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "messages[0].content[0]"),
    (b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}', "assistant"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    (b'\xff{"messages": 1}', "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"messages": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "not valid JSON"),
    (b"NaN", "not valid JSON"),
    (b'{"messages": [{"role": "user", "content": "x"}], "n": 1' + b"0" * 5000 + b"}", "not valid JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_with_its_reason(served: Served, line: bytes, reason: str) -> None:
    content = rows(4) + line + b"\n" + rows(4)
    with pytest.raises(openai.BadRequestError) as caught:
        served.client().files.create(file=("t.jsonl", content), purpose="fine-tune")
    assert "line 5: " in caught.value.message
    assert reason in caught.value.message
    assert caught.value.code == "invalid_jsonl"


def test_ten_thousand_bad_lines_are_each_told(tmp_path: Path) -> None:
    """One file a hundred lines: every one is mutated at random, and those that json itself refuses must be named."""
    rng = random.Random(3)
    good = rows(1).rstrip()
    for _ in range(100):
        lines = []
        for _ in range(100):
            line = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                line[rng.randrange(len(line))] = rng.choice(b'{}[]":,\\x00\x00\xff\x80 ')
            lines.append(bytes(line).replace(b"\n", b" ") or b"x")
        path = tmp_path / "t.jsonl"
        expected = {n for n, line in enumerate(lines, 1) if line.strip() and not loads(line)}
        told: set[int] = set()
        remaining = list(lines)
        while True:  # at most twenty are shown at once: mend those and ask again
            path.write_bytes(b"\n".join(remaining) + b"\n")
            try:
                check(path, "t")
                break
            except Invalid as problem:
                shown = {int(number) for number in re.findall(r"(?:^|[.;] )line (\d+): ", str(problem))}
                assert shown
                told |= shown
                for number in shown:
                    remaining[number - 1] = good
        assert expected <= told


def loads(line: bytes) -> bool:
    """Whether Python's own reader takes it."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_file_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        rows_found = check(path, "any")
    except Invalid:
        return
    assert rows_found > 0


def test_a_query_parameter_given_twice_is_refused(served: Served) -> None:
    """Which of the two was meant is not ours to guess."""
    with pytest.raises(openai.BadRequestError, match="'purpose' is given more than once"):
        served.client().get("/files?purpose=evals&purpose=fine-tune", cast_to=object)
