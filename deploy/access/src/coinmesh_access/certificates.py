"""A service's certificate: a local key, a request signed by Vault, one directory per serial.

`<dir>/current` is a symbolic link to `<dir>/<serial>/`, swapped by one rename: a reader sees a
complete set of files, the old or the new. Files: tls.key (PKCS#8), tls.crt (certificate, then the
signing CA), ca.crt (the trust anchor), keystore.pem (key and chain in the format of Kafka and
Cassandra). The key is written only there and never sent anywhere.
"""

import ipaddress
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hvac
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coinmesh_access import files, pki
from coinmesh_access.table import AccessTable

CURRENT = "current"
#: The share of its lifetime after which a certificate is renewed.
RENEW_SHARE = 2 / 3
#: Number of directories kept beside the current one, for readers that are still opening files.
KEPT = 2
#: Created in a directory once all hooks have run for its certificate.
_HOOKS_DONE = ".hooks-done"


class CertificateError(Exception):
    """Raised when Vault returned another certificate than requested."""


@dataclass(frozen=True)
class Published:
    """A certificate published in its own directory."""

    directory: Path
    not_before: datetime
    not_after: datetime

    @property
    def serial(self) -> str:
        """Return the serial number, lower-case hexadecimal: the directory's name."""
        return self.directory.name

    @property
    def life_seconds(self) -> float:
        """Return its total lifetime in seconds."""
        return (self.not_after - self.not_before).total_seconds()

    def seconds_left(self, now: datetime) -> float:
        """Return the seconds until it expires, negative afterwards."""
        return (self.not_after - now).total_seconds()

    def due(self, share: float) -> datetime:
        """Return the time at which `share` of its lifetime has passed."""
        return self.not_before + share * (self.not_after - self.not_before)

    @property
    def hooks_done(self) -> bool:
        """Return whether its hooks have run, also across restarts of the agent."""
        return (self.directory / _HOOKS_DONE).exists()

    def mark_hooks_done(self) -> None:
        """Record that its hooks have run."""
        (self.directory / _HOOKS_DONE).touch(mode=0o600)


def current(directory: Path) -> Published | None:
    """Return the certificate at `directory/current`, None when there is no complete one."""
    try:
        target = (directory / CURRENT).resolve(strict=True)
        leaf = x509.load_pem_x509_certificate((target / "tls.crt").read_bytes())
    except (OSError, ValueError):
        return None
    return Published(target, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def renew(client: hvac.Client, table: AccessTable, service: str, directory: Path) -> Published:
    """Create a key, have Vault sign a certificate and publish both.

    The current certificate stays in place until the swap.

    Raises:
        CertificateError: The response isn't for this key, identity and root.
        hvac.exceptions.VaultError: Vault rejects the request or is sealed.
        requests.RequestException: Vault is unreachable.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    uris = [table.spiffe_id(service)]
    answer = client.secrets.pki.sign_certificate(
        service,
        _request(table, service, key, uris),
        service,
        {"exclude_cn_from_sans": True},
        mount_point=pki.INTERMEDIATE,
    )["data"]
    root = pki.root_certificate(client)
    chain = "".join(_one(pem) for pem in (answer["certificate"], answer["issuing_ca"]))
    leaf = _checked(chain, root, key, uris)
    return publish(directory, key, leaf, chain, root)


def _one(pem: str) -> str:
    return pem.strip() + "\n"


def _request(
    table: AccessTable, service: str, key: ec.EllipticCurvePrivateKey, uris: list[str]
) -> str:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    if table.service(service).listens:
        names += [
            x509.DNSName("localhost"),
            x509.DNSName(service),
            *(x509.DNSName(name) for name in table.service(service).also_named),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
    request = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    )
    if names:
        request = request.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _checked(
    chain: str, root: str, key: ec.EllipticCurvePrivateKey, uris: list[str]
) -> x509.Certificate:
    """Return the leaf of `chain` if it is for `key` and `uris` and the chain ends at `root`."""
    leaf, authority = x509.load_pem_x509_certificates(chain.encode())
    anchor = x509.load_pem_x509_certificate(root.encode())
    try:
        leaf.verify_directly_issued_by(authority)
        authority.verify_directly_issued_by(anchor)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise CertificateError(f"the chain of {uris} doesn't end at Vault's root") from error
    if leaf.public_key() != key.public_key():
        raise CertificateError(f"Vault certified another key than the one of {uris}")
    found: list[str] = []
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            found = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    if found != uris:
        raise CertificateError(f"the certificate names {found}, not {uris}")
    return leaf


def publish(
    directory: Path, key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate, chain: str, roots: str
) -> Published:
    """Write key, chain and trusted roots to a new directory and swap `current` to it."""
    files.private_directory(directory)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    draft = Path(tempfile.mkdtemp(dir=directory, prefix=".draft-"))
    target = directory / f"{leaf.serial_number:040x}"
    try:
        files.write(draft / "tls.key", private)
        files.write(draft / "tls.crt", chain)
        files.write(draft / "ca.crt", roots)
        files.write(draft / "keystore.pem", private + chain.encode())
        files.sync_directory(draft)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _point_to(directory, target.name)
    _prune(directory, target)
    return Published(target, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _point_to(directory: Path, name: str) -> None:
    """Swap `current` by one rename."""
    link = directory / f".{CURRENT}.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(directory / CURRENT)
    files.sync_directory(directory)


def _prune(directory: Path, kept: Path) -> None:
    """Remove all but the last few old directories, and drafts left by a killed agent."""
    entries = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    olds = sorted(
        (path for path in entries if path != kept and not path.name.startswith(".")),
        key=lambda path: path.stat().st_mtime_ns,
    )
    drafts = [path for path in entries if path.name.startswith(".draft-")]
    for path in (*olds[: max(0, len(olds) - KEPT)], *drafts):
        shutil.rmtree(path, ignore_errors=True)


def is_due(published: Published | None, share: float) -> bool:
    """Return whether a new certificate is needed now."""
    return published is None or datetime.now(UTC) >= published.due(share)


def until(moment: datetime) -> float:
    """Return the seconds from now to `moment`, at least 0."""
    return max(0.0, (moment - datetime.now(UTC)) / timedelta(seconds=1))
