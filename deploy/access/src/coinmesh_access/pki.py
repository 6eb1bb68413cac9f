"""Vault's PKI: a root CA, an intermediate CA that signs, and one role per service."""

from collections.abc import Sequence
from dataclasses import dataclass

import hvac
from cryptography import x509
from cryptography.x509.oid import NameOID

from coinmesh_access.table import AccessError, AccessTable

ROOT, INTERMEDIATE = "pki", "pki_int"
ORGANIZATION, UNIT = "coinmesh", "svc"
_NAMES = {ROOT: "Coinmesh root", INTERMEDIATE: "Coinmesh services"}


class ForeignMountError(AccessError):
    """Raised when a required mount is used otherwise; the message names it and the remedy."""


@dataclass(frozen=True)
class Lives:
    """Lifetimes in seconds.

    Attributes:
        leaf: A service's certificate.
        intermediate: The signing CA.
        root: The trust anchor.
    """

    leaf: int = 3600
    intermediate: int = 5 * 365 * 86_400
    root: int = 10 * 365 * 86_400

    @property
    def backdated(self) -> int:
        """Return how long before issuance validity begins, for clocks that lag: at most 30 s."""
        return min(30, max(1, self.leaf // 10))


def ensure_authorities(client: hvac.Client, lives: Lives) -> bool:
    """Create the root and intermediate CAs on first use; return whether any was created.

    Both keys are created inside Vault and never leave it. An interrupted run is completed.

    Raises:
        ForeignMountError: A mount is used otherwise; nothing was changed.
    """
    pki = client.secrets.pki
    mounted = client.sys.list_mounted_secrets_engines()["data"]
    for mount in _NAMES:
        if entry := mounted.get(f"{mount}/"):
            _refuse_foreign(client, mount, entry["type"])
    for mount, life in ((ROOT, lives.root), (INTERMEDIATE, lives.intermediate)):
        if f"{mount}/" not in mounted:
            client.sys.enable_secrets_engine("pki", mount, config={"max_lease_ttl": f"{life}s"})
    key = {"key_type": "ec", "key_bits": 256, "organization": ORGANIZATION}
    made = False
    if _certificate(client, ROOT) is None:
        pki.generate_root(
            "internal", _NAMES[ROOT], {**key, "ttl": f"{lives.root}s"}, mount_point=ROOT
        )
        made = True
    if _certificate(client, INTERMEDIATE) is None:
        request = pki.generate_intermediate(
            "internal", _NAMES[INTERMEDIATE], key, mount_point=INTERMEDIATE
        )["data"]["csr"]
        signed = pki.sign_intermediate(
            request,
            _NAMES[INTERMEDIATE],
            # It signs services only, no further CAs.
            {
                "ttl": f"{lives.intermediate}s",
                "max_path_length": 0,
                "use_csr_values": False,
                "organization": ORGANIZATION,
            },
            mount_point=ROOT,
        )["data"]["certificate"]
        pki.set_signed_intermediate(signed, mount_point=INTERMEDIATE)
        made = True
    for mount in (ROOT, INTERMEDIATE):
        pki.set_urls(
            {
                "issuing_certificates": f"{client.url}/v1/{mount}/ca",
                "crl_distribution_points": f"{client.url}/v1/{mount}/crl",
            },
            mount_point=mount,
        )
        pki.set_crl_configuration(
            extra_params={"expiry": "72h", "auto_rebuild": True}, mount_point=mount
        )
    client.write_data(
        f"{INTERMEDIATE}/config/auto-tidy",
        data={
            "enabled": True,
            "tidy_cert_store": True,
            "tidy_revoked_certs": True,
            "safety_buffer": "1h",
        },
    )
    return made


def _certificate(client: hvac.Client, mount: str) -> x509.Certificate | None:
    text: str = client.secrets.pki.read_ca_certificate(mount_point=mount)
    return x509.load_pem_x509_certificate(text.encode()) if text else None


def _refuse_foreign(client: hvac.Client, mount: str, kind: str) -> None:
    """Raise ForeignMountError unless the mount is empty or holds the CA of this setup."""
    found = _certificate(client, mount) if kind == "pki" else None
    if kind == "pki" and found is None:
        return
    if found is not None:
        holds = f"the authority {found.subject.rfc4514_string()!r}"
        names = {each.oid: each.value for each in found.subject}
        if names.get(NameOID.COMMON_NAME) == _NAMES[mount] and (
            names.get(NameOID.ORGANIZATION_NAME) == ORGANIZATION
        ):
            return
    else:
        holds = f"a {kind} engine"
    raise ForeignMountError(
        f"Vault's mount {mount}/ holds {holds}, not {_NAMES[mount]!r} of this setup: nothing was "
        f"changed. Move that elsewhere (`bao secrets move {mount}/ …/`), or give the mesh a Vault "
        "of its own (COINMESH_VAULT_ADDR, COINMESH_VAULT_CA)"
    )


def root_certificate(client: hvac.Client) -> str:
    """Return the trust anchor, PEM; needs no login."""
    return client.secrets.pki.read_ca_certificate(mount_point=ROOT).strip() + "\n"


def ensure_role(
    client: hvac.Client, table: AccessTable, name: str, lives: Lives, domains: Sequence[str] = ()
) -> None:
    """Create or update a role that signs requests of one service only.

    Args:
        client: Logged in as the setup.
        table: The access table.
        name: The service.
        lives: Lifetime of its certificates.
        domains: DNS suffixes under which the service is also reachable (`coinmesh.svc`).
    """
    listens = table.service(name).listens
    also = table.service(name).also_named
    names = [name, *also, *(f"{name}.{domain}" for domain in domains)]
    client.secrets.pki.create_or_update_role(
        name,
        {
            "allowed_uri_sans": [table.spiffe_id(name)],
            # The common name, by which Kafka identifies clients, is restricted to these too.
            "allowed_domains": names,
            "allow_bare_domains": True,
            "allow_subdomains": False,
            "allow_glob_domains": False,
            "allow_wildcard_certificates": any(each.startswith("*.") for each in also),
            "allow_any_name": False,
            "allow_localhost": listens,
            "allow_ip_sans": listens,
            "allowed_ip_sans_cidr": ["127.0.0.1/32"],
            "allowed_other_sans": [],
            "require_cn": False,
            "use_csr_common_name": True,
            "use_csr_sans": True,
            "organization": [ORGANIZATION],
            "ou": [UNIT],
            "key_type": "ec",
            "key_bits": 256,
            "key_usage": ["DigitalSignature"],
            "server_flag": True,
            "client_flag": True,
            # Marks the certificate explicitly as not a CA.
            "basic_constraints_valid_for_non_ca": True,
            "code_signing_flag": False,
            "email_protection_flag": False,
            "ttl": f"{lives.leaf}s",
            "max_ttl": f"{lives.leaf}s",
            "not_before_duration": f"{lives.backdated}s",
            # Such short-lived certificates expire; none needs to be stored for a revocation.
            "no_store": True,
            "generate_lease": False,
        },
        mount_point=INTERMEDIATE,
    )
