"""Certificates of a server that speaks HTTPS: an authority of its own, which its users may trust. Touches: disk.

The authority's key stays in the data directory; it may sign for nothing but this server's names, which its certificate
says (RFC 5280, 4.2.1.10), so that who trusts it trusts it for no other site.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from grpo.runlog import write_atomic

AUTHORITY_DAYS, SERVER_DAYS, LEFT_DAYS = 3650, 397, 30
"""How long they hold, and how long before their end they are made again. 397 is the most that browsers take."""
PRIVATE = 0o600
NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Files:
    """Where they lie."""

    authority: Path
    bundle: Path
    """The authority among those that Python's clients trust anyway: a client's setting replaces these."""
    certificate: Path
    key: Path


def files(directory: Path) -> Files:
    """Below a data directory, whether or not they are there."""
    return Files(directory / "ca.pem", directory / "bundle.pem", directory / "server.pem", directory / "server.key")


def prepare(directory: Path, names: Iterable[str]) -> Files:
    """Certificates for these names that hold for some time yet; made where they are missing."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found, wanted, now = files(directory), sorted({*NAMES, *names}), datetime.now(UTC)
    authority_key = directory / "ca.key"
    if not (_holds(found.authority, now) and authority_key.exists() and _stands_for(found.certificate, wanted)):
        _make_authority(found.authority, authority_key, wanted, now)
        found.certificate.unlink(missing_ok=True)
    if not (_holds(found.certificate, now) and found.key.exists()):
        _make_server(found, authority_key, wanted, now)
    write_atomic(found.bundle, Path(certifi.where()).read_bytes() + found.authority.read_bytes(), PRIVATE)
    return found


def _holds(path: Path, now: datetime) -> bool:
    if not path.exists():
        return False
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc > now + timedelta(days=LEFT_DAYS)


def _stands_for(path: Path, wanted: list[str]) -> bool:
    if not path.exists():
        return False
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == _names(wanted)


def _names(wanted: list[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in wanted:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _make_authority(path: Path, key_path: Path, wanted: list[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"grpo serve, {path.parent}"[:64])])
    permitted = [
        x509.IPAddress(ipaddress.ip_network(name.value)) if isinstance(name, x509.IPAddress) else name
        for name in _names(wanted)
    ]
    made = (
        _begun(subject, subject, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write_key(key_path, key)
    write_atomic(path, made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), PRIVATE)


def _make_server(found: Files, authority_key: Path, wanted: list[str], now: datetime) -> None:
    authority = x509.load_pem_x509_certificate(found.authority.read_bytes())
    signer = load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "grpo serve")])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = (
        _begun(subject, authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_names(wanted)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(identifier, critical=False)
    )
    _write_key(found.key, key)
    write_atomic(found.certificate, made.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM), PRIVATE)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), PRIVATE)
