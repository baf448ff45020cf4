"""Who may call the server, from where, and how much they may send; over raw sockets, since a client mends requests."""

import contextlib
import http.client
import json
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo.server.protocol import HEAD_SECONDS

from servers import KEY, Served

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path):
    server = Served(tmp_path_factory.mktemp("guard") / "data", tiny_model, "--allowed-origin", "https://ok.example")
    yield server
    server.stop()


def ask(served: Served, head: str, body: bytes = b"") -> tuple[int, dict, bytes]:
    """Send bytes as they are; status, headers, body of the answer."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(connection, method=head.partition(" ")[0])
        answer.begin()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def request(path: str = "/v1/models", method: str = "GET", host: str | None = "127.0.0.1", **headers: str) -> str:
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [] if host is None else [f"Host: {host}"]
    found = {"authorization": f"Bearer {KEY}", "connection": "close"} | headers
    return "\n".join(lines + [f"{name.replace('_', '-')}: {value}" for name, value in found.items() if value != ""])


def routes(served: Served) -> list[tuple[str, str]]:
    _, _, body = ask(served, request("/openapi.json"))
    paths = json.loads(body)["paths"]
    return [(method.upper(), re.sub(r"{[^}]+}", "x", path)) for path, methods in paths.items() for method in methods]


def test_every_route_but_health_needs_the_key(served: Served) -> None:
    inventory = routes(served)
    assert len(inventory) >= 20
    for method, path in [*inventory, ("GET", "/openapi.json"), ("GET", "/v1/nothing"), ("OPTIONS", "/v1/files")]:
        for wrong in ("", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer bedrock-api-key-xxx"):
            status, headers, body = ask(served, request(path, method, authorization=wrong))
            expected = 200 if path == "/healthz" else 401
            assert status == expected, (method, path, wrong)
            if status == 401 and method != "HEAD":
                assert json.loads(body)["error"]["code"] == "invalid_api_key"
                assert headers["www-authenticate"] == "Bearer"


SPELLINGS = """//v1/models /v1//models /V1/models /v1/models/../models /v1/%2e%2e/v1/models /v1/models/
/healthz/../v1/models /%68ealthz/ /healthz%2f..%2fv1%2fmodels /healthz?/v1/models"""
HOSTS = """evil.example evil.example:8321 :8321 127.0.0.1.evil.example localhost.evil.example 0.0.0.0 127.1 0x7f.0.0.1
2130706433 [::2] localhost. user@localhost localhost/evil localhost:x localhost:123456 [::1 ::1 *
evil.example#localhost"""


@pytest.mark.parametrize("path", SPELLINGS.split())
def test_no_spelling_of_a_path_goes_around_the_key(served: Served, path: str) -> None:
    status, _, body = ask(served, request(path, authorization=""))
    assert (status == 401) != (body == b'{"status":"ok"}')


@pytest.mark.parametrize("host", [*HOSTS.split(), "", "local host", "localhost, evil.example"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"])
def test_a_foreign_host_is_refused_on_every_method(served: Served, host: str, method: str) -> None:
    status, _, body = ask(served, request(method=method, host=host))
    assert status in (400, 403)  # 400: h11 itself refuses what is no Host at all
    if status == 403 and method != "HEAD":
        assert "--allowed-host" in json.loads(body)["error"]["message"]


def test_our_own_hosts_are_not(served: Served) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", f"localhost:{served.port}", "[::1]:1"):
        assert ask(served, request(host=host))[0] == 200, host
    assert ask(served, request(host=None))[0] in (400, 403)
    assert ask(served, request(host="127.0.0.1").replace("\n", "\nHost: evil.example\n", 1))[0] in (400, 403)


def test_web_pages_may_not_call(served: Served) -> None:
    for method, path in routes(served):
        assert ask(served, request(path, method, origin="https://evil.example"))[0] == 403, (method, path)
    assert ask(served, request(origin="null"))[0] == 403
    assert ask(served, request(sec_fetch_site="cross-site"))[0] == 403
    assert ask(served, request(origin="https://ok.example"))[0] == 200


def test_bodies_and_heads_are_bounded(served: Served) -> None:
    limit = 8 * 2**20
    for path in ("/v1/chat/completions", "/v1/fine_tuning/jobs"):
        assert ask(served, request(path, "POST", content_length=str(limit + 1)))[0] == 413
        assert ask(served, request(path, "POST", content_length="9" * 30))[0] in (400, 413)
        chunk = b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n"
        with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
            connection.sendall(
                request(path, "POST", transfer_encoding="chunked").replace("\n", "\r\n").encode() + b"\r\n\r\n"
            )
            try:
                for _ in range(9):
                    connection.sendall(chunk)
                connection.sendall(b"0\r\n\r\n")
            except ConnectionError:
                pass  # refused before it was all sent
            answer = connection.makefile("rb").readline()
            assert b" 413 " in answer or answer == b""
    assert ask(served, request() + "".join(f"\nx-{i}: 1" for i in range(200)))[0] == 413
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall((request() + f"\nx-long: {'x' * 70_000}").replace("\n", "\r\n").encode() + b"\r\n\r\n")
        try:
            answer = connection.makefile("rb").readline()
        except ConnectionError:
            answer = b""  # closed while bytes were still on their way: TCP may drop the answer with them
    assert answer == b"" or answer.split()[1] in (b"400", b"413", b"431")
    assert ask(served, request())[0] == 200


def test_deep_json_is_an_error_and_no_crash(served: Served) -> None:
    deep = b'{"model":"tiny","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for path in ("/v1/chat/completions", "/v1/fine_tuning/jobs", "/v1/fine_tuning/alpha/graders/validate"):
        status, _, body = ask(
            served, request(path, "POST", content_type="application/json", content_length=str(len(deep))), deep
        )
        assert status == 400, path
        assert "error" in json.loads(body)


def test_a_request_id_and_no_sniffing(served: Served) -> None:
    _, headers, _ = ask(served, request())
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_unknown_operations_answer_by_name(served: Served) -> None:
    status, _, body = ask(served, request("/v1/assistants", "POST", content_length="0"))
    assert status == 404
    assert json.loads(body)["error"] == {
        "message": "POST /v1/assistants is not an operation of this server",
        "type": "invalid_request_error",
        "param": None,
        "code": "unknown_operation",
    }
    assert ask(served, request("/v1/files", "PUT", content_length="0"))[0] == 405


def test_the_data_directory_is_its_owners_alone(served: Served) -> None:
    for path in (served.data, served.data / "files", served.data / "jobs", served.data / "functions"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_server_on_the_directory_names_the_first(served: Served) -> None:
    assert served.process
    command = [sys.executable, "-m", "grpo", "serve", "--port", "0", "--data-dir", str(served.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"process {served.process.pid}" in done.stderr


def test_the_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path, tiny_model: Path) -> None:
    server = Served(tmp_path / "data", tiny_model, key=None)
    key = re.search(r"key +(grpo-\S+)", server.banner)
    assert key
    try:
        assert [m.id for m in server.client(api_key=key[1]).models.list()][-1] == "tiny"
        server.stop()
        server.start()
        assert key[1] not in server.banner
        assert server.client(api_key=key[1]).models.list()
    finally:
        server.stop()
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not any(key[1].encode() in path.read_bytes() for path in kept)
    assert stat.S_IMODE((tmp_path / "data" / "key").stat().st_mode) == 0o600


def test_other_machines_need_a_key_of_ones_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpo", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run([*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "GRPO_API_KEY" in done.stderr


def test_ready_within_two_seconds_without_torch(tmp_path: Path) -> None:
    """The modules, not the clock: what takes long is not imported."""
    code = (
        "import sys, pathlib\n"
        "from grpo.server.app import Opened, create_app\n"
        "from grpo.server.settings import Settings\n"
        f"app = create_app(Opened(Settings(data_dir=pathlib.Path({str(tmp_path)!r}), api_key='x')))\n"
        "sys.exit(' '.join({'torch', 'vllm', 'transformers', 'boto3', 'scipy', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_allowed_page_reads_answers_and_refusals(served: Served) -> None:
    """What a browser asks first, without a key, and what it needs to hand an answer to the page."""
    origin = "https://ok.example"
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type"}
    status, headers, _ = ask(served, request(method="OPTIONS", authorization="", origin=origin, **asks))
    assert status == 200
    assert headers["access-control-allow-origin"] == origin
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    for authorization, expected in ((f"Bearer {KEY}", 200), ("Bearer wrong", 401)):
        status, headers, _ = ask(served, request(origin=origin, authorization=authorization))
        assert (status, headers["access-control-allow-origin"]) == (expected, origin)
        assert headers["access-control-expose-headers"] == "x-request-id"
    evil = request(method="OPTIONS", authorization="", origin="https://evil.example", **asks)
    assert "access-control-allow-origin" not in ask(served, evil)[1]


def test_a_head_that_does_not_come_loses_its_connection(served: Served) -> None:
    """Nothing at all, a byte now and then, and the same as a second request; a body may take longer than that."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent, trickle, second, patient = (
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 60)) for _ in range(4)
        )
        second.sendall(request("/healthz", connection="keep-alive").replace("\n", "\r\n").encode() + b"\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):  # head and body may come apart
            answer += (part := second.recv(10_000))
            assert part, answer
        second.sendall(b"G")
        head = request("/v1/chat/completions", "POST", content_length="40", content_type="application/json")
        patient.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        while time.monotonic() - started < HEAD_SECONDS + 2:
            for connection, piece in ((trickle, b"X"), (patient, b" ")):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.send(piece)
            time.sleep(0.5)
        for connection in (silent, trickle, second):
            assert closed(connection)
        patient.sendall(b" " * 40)
        assert patient.recv(10_000).startswith(b"HTTP/1.1 400")


def closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
