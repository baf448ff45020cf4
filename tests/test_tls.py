"""HTTPS with an authority of the server's own: boto3, openai and curl trust it by one command, and it for no other."""

import os
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import openai
import pytest
from aws_bedrock_token_generator import provide_token
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from grpo.server import tls
from grpo.server.aws import entry

from servers import KEY, Served, amazon, rows

REGION = "us-west-2"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("tls") / "data", tiny_model, "--tls")
    yield served
    served.stop()


@pytest.fixture
def trusted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``eval "$(grpo trust)"`` sets."""
    for line in served.cli("trust").splitlines():
        word, assignment = shlex.split(line)
        assert word == "export"
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(name, value)


def bedrock(served: Served, token: str, monkeypatch: pytest.MonkeyPatch, service: str = "bedrock") -> Any:
    """boto3 with a bearer token and no other credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", token)
    once = Config(retries={"max_attempts": 1, "mode": "standard"})
    return boto3.client(service, region_name=REGION, endpoint_url=served.url.removesuffix("/v1"), config=once)


@pytest.mark.usefixtures("trusted")
def test_bearer_tokens_of_boto3(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the server's key and a token made from credentials; ARNs bear the token's region."""
    for bearer in (KEY, _token(REGION)):
        found = bedrock(served, bearer, monkeypatch).list_foundation_models()["modelSummaries"]
        assert "local.tiny" in {model["modelId"] for model in found}
        assert f":{REGION}:" in found[0]["modelArn"]
    runtime = bedrock(served, KEY, monkeypatch, "bedrock-runtime")
    said = [{"role": "user", "content": [{"text": "hello"}]}]
    with pytest.raises(ClientError) as caught:
        runtime.converse(modelId="no-such-model", messages=said)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError) as caught:
        bedrock(served, "another key", monkeypatch).list_custom_models()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (401, 403)


def _token(region: str) -> str:
    """Made by AWS's own package, with any credentials."""

    class Provider:
        def load(self) -> Credentials:
            return Credentials("any", "thing")

    return str(provide_token(region=region, aws_credentials_provider=Provider()))


@pytest.mark.usefixtures("trusted")
def test_openai_and_signed_requests(served: Served) -> None:
    """Objects too: over HTTPS boto3 leaves their bodies unsigned, in chunks with a trailer."""
    client = openai.OpenAI(base_url=served.url, api_key=KEY, max_retries=0)
    assert client.files.create(file=("t.jsonl", rows(4)), purpose="fine-tune").id
    s3 = amazon(served, "s3")
    s3.create_bucket(Bucket="over-https")
    s3.put_object(Bucket="over-https", Key="a", Body=b"x" * 70_000)
    assert s3.get_object(Bucket="over-https", Key="a")["Body"].read() == b"x" * 70_000
    done = subprocess.run(
        ["curl", "-sS", "-H", f"Authorization: Bearer {KEY}", f"{served.url}/models"], capture_output=True, text=True
    )
    assert '"tiny"' in done.stdout, done.stderr


def test_who_does_not_trust_is_not_served(served: Served) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(served.url)
    with pytest.raises(httpx.HTTPError):
        httpx.get(served.url.replace("https", "http"))


def test_keys_are_for_their_owner(served: Served) -> None:
    found = sorted((served.data / "tls").iterdir())
    assert [path.name for path in found] == ["bundle.pem", "ca.key", "ca.pem", "server.key", "server.pem"]
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}


def test_certificates_are_kept_until_names_or_time_change(tmp_path: Path) -> None:
    first = tls.prepare(tmp_path / "tls", ["a.example"])
    made = first.authority.read_bytes(), first.certificate.read_bytes()
    again = tls.prepare(tmp_path / "tls", ["a.example"])
    assert (again.authority.read_bytes(), again.certificate.read_bytes()) == made
    other = tls.prepare(tmp_path / "tls", ["b.example"])
    assert other.authority.read_bytes() != made[0]
    context = ssl.create_default_context(cafile=str(other.authority))
    assert context.cert_store_stats()["x509_ca"] == 1
    _expire(other)
    renewed = tls.prepare(tmp_path / "tls", ["b.example"])
    left = x509.load_pem_x509_certificate(renewed.certificate.read_bytes()).not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=300)
    renewed.certificate.unlink()
    assert tls.prepare(tmp_path / "tls", ["b.example"]).certificate.exists()


def _expire(found: tls.Files) -> None:
    """Put a certificate in place that ends within the month."""
    old = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    key = load_pem_private_key(found.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(old.issuer, old.subject, key.public_key(), old.serial_number)
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(datetime.now(UTC) + timedelta(days=9))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    found.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_the_authority_may_sign_for_no_other_site(tmp_path: Path) -> None:
    """Judged by an independent verifier: a certificate for a bank, signed with the stolen key, is refused."""
    found = tls.prepare(tmp_path / "tls", [])
    authority = x509.load_pem_x509_certificate(found.authority.read_bytes())
    signer = load_pem_private_key((tmp_path / "tls" / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    ours = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    for name, good in (("bank.example", False), ("localhost", True)):
        builder = x509.CertificateBuilder(authority.subject, ours.subject, key.public_key(), 7)
        builder = builder.not_valid_before(ours.not_valid_before_utc).not_valid_after(ours.not_valid_after_utc)
        for extension in ours.extensions:
            mine = isinstance(extension.value, x509.SubjectAlternativeName)
            value = x509.SubjectAlternativeName([x509.DNSName(name)]) if mine else extension.value
            builder = builder.add_extension(value, extension.critical)
        forged = builder.sign(signer, hashes.SHA256())
        leaf, root, bundle = tmp_path / "leaf.pem", found.authority, ["openssl", "verify", "-CAfile"]
        leaf.write_bytes(forged.public_bytes(Encoding.PEM))
        done = subprocess.run([*bundle, str(root), str(leaf)], capture_output=True, text=True)
        assert (done.returncode == 0) == good, done.stdout + done.stderr


def test_trust_before_the_first_start_says_what_to_do(tmp_path: Path) -> None:
    environment = {**os.environ, "GRPO_DATA_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "grpo", "trust"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "--tls" in done.stderr


def test_paths_of_bedrock_are_all_known() -> None:
    """By botocore's models: a bearer token says no service, so the path must."""
    for service in ("bedrock", "bedrock-runtime"):
        model = ServiceModel(Loader().load_service_model(service, "service-2"))
        for name in model.operation_names:
            path = model.operation_model(name).http["requestUri"]
            if not path.startswith("/v1/"):
                assert entry.PATHS.match(path), path
                assert entry.bedrock(path) == service, path


def test_functions_with_a_network_and_https_do_not_go_together(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "grpo", "serve", "--tls", "--function-network", "--data-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "leave out --function-network or --tls" in done.stderr
