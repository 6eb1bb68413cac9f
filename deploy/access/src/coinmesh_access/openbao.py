"""Prepares a local OpenBao: its configuration, listener certificate, seal key and first login.

Whatever exists is kept, so that it can run before each start.
"""

import ipaddress
import secrets
import uuid
from datetime import UTC, datetime, timedelta
from importlib.resources import files as resources
from pathlib import Path
from string import Template

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinmesh_access import files

#: Clients reach Vault by this certificate alone, so it can't come from Vault: it is made here.
LISTENER_LIFE = timedelta(days=365)
#: A start renews it from here on; `coinmesh status` reports it as due.
LISTENER_LEFT = LISTENER_LIFE / 3
SEAL_KEY_BYTES = 32


def prepare(
    *, run: Path, data: Path, secrets_dir: Path, audit: Path, listen: str, cluster: str
) -> Path:
    """Write what `bao server -config=<result>` needs.

    Args:
        run: Where the configuration goes.
        data: Raft's directory.
        secrets_dir: Below it `openbao/` gets seal key and listener certificate, `vault-setup/`
            the login of `coinmesh-vault setup`.
        audit: Path of the audit logs without `-1.log` and `-2.log`.
        listen: The API's host:port.
        cluster: Raft's host:port.
    """
    own = files.private_directory(files.private_directory(secrets_dir) / "openbao")
    login = files.private_directory(secrets_dir / "vault-setup")
    files.private_directory(data)
    run.mkdir(parents=True, exist_ok=True)
    audit.parent.mkdir(parents=True, exist_ok=True)
    _once(own / "seal.key", secrets.token_bytes(SEAL_KEY_BYTES))
    _once(login / "role-id", str(uuid.uuid4()))
    _once(login / "secret-id", secrets.token_urlsafe(32))
    _listener_certificate(own)
    package = resources("coinmesh_access")
    policy = run / "setup-policy.hcl"
    files.write(policy, package.joinpath("setup-policy.hcl").read_text(), 0o644)
    configuration = run / "openbao.hcl"
    text = Template(package.joinpath("openbao.hcl").read_text()).substitute(
        listen=listen,
        cluster_listen=cluster,
        data=data,
        tls=own,
        seal_key=own / "seal.key",
        audit=audit,
        policy=policy,
        login=login,
    )
    files.write(configuration, text)
    return configuration


def _once(path: Path, content: str | bytes) -> None:
    if not path.exists():
        files.write(path, content)


def _listener_certificate(directory: Path) -> None:
    """A certificate for the loopback address and the authority that vouches for it alone.

    The authority's key is forgotten at once, so nothing else can ever be signed by it.
    """
    path = directory / "tls.crt"
    now = datetime.now(UTC)
    if path.exists():
        known = x509.load_pem_x509_certificate(path.read_bytes())
        if known.not_valid_after_utc - now > LISTENER_LEFT:
            return
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("Coinmesh local Vault listener authority")

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + LISTENER_LIFE)
        )

    root = (
        certificate(authority, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    leaf = (
        certificate(_name("openbao"), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    # The certificate last: it decides whether all of this is made again.
    files.write(directory / "ca.crt", root.public_bytes(pem), 0o644)
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.write(directory / "tls.key", private)
    files.write(path, leaf.public_bytes(pem), 0o644)


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
