"""The certificate of OpenBao's listener, which OpenBao itself can't issue.

Each certificate has a separate CA whose key is never stored, so that nothing else can be signed by
it. The files are those of `certificates`. `<dir>/ca.crt` links to the current and the previous CAs,
so that clients trust the listener until OpenBao has loaded the new certificate.
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinmesh_access import certificates, files
from coinmesh_access.certificates import Published

#: The component's name, in hooks, logs and metrics.
NAME = "openbao"
LIFETIME = timedelta(days=30)
_CA_NAME = "Coinmesh local Vault listener authority"
_PEM = serialization.Encoding.PEM


def ensure(directory: Path) -> None:
    """Renew the certificate if it is missing or due; called before each start of OpenBao."""
    if certificates.is_due(certificates.current(directory), certificates.RENEW_SHARE):
        renew(directory)


def renew(directory: Path, lifetime: timedelta = LIFETIME) -> Published:
    """Issue a certificate for the loopback address from a new CA, and publish both."""
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def builder(
        subject: str, public: ec.EllipticCurvePublicKey, *, is_ca: bool
    ) -> x509.CertificateBuilder:
        path_length = 0 if is_ca else None
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(_CA_NAME))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - min(timedelta(minutes=1), lifetime / 10))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
            .add_extension(_usage(sign_certificates=is_ca), critical=True)
        )

    root = (
        builder(_CA_NAME, ca_key.public_key(), is_ca=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    leaf = (
        builder(NAME, key.public_key(), is_ca=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    roots = [root, *_previous_roots(directory, now)]
    bundle = "".join(each.public_bytes(_PEM).decode() for each in roots)
    chain = leaf.public_bytes(_PEM).decode()
    published = certificates.publish(directory, key, leaf, chain, bundle)
    _link(directory)
    return published


def _previous_roots(directory: Path, now: datetime) -> list[x509.Certificate]:
    """Return the CAs of the certificates that OpenBao may still serve, newest first."""
    try:
        bundle = (directory / certificates.CURRENT / "ca.crt").read_bytes()
        roots = x509.load_pem_x509_certificates(bundle)
    except (OSError, ValueError):
        return []
    return [root for root in roots if root.not_valid_after_utc > now][: certificates.KEPT]


def _link(directory: Path) -> None:
    """Link `<dir>/ca.crt`, the path configured in clients, to the current CAs."""
    link = directory / "ca.crt"
    if not link.is_symlink():
        draft = directory / ".ca.crt.draft"
        draft.unlink(missing_ok=True)
        draft.symlink_to(f"{certificates.CURRENT}/ca.crt")
        draft.replace(link)
        files.sync_directory(directory)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
