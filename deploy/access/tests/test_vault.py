"""Vault after the setup: what each service may do, and what it may not."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hvac.exceptions import Forbidden, InvalidRequest

from coinmesh_access import credentials, setup, table
from coinmesh_access.anchoring import Signer
from coinmesh_access.credentials import Kind
from coinmesh_access.login import SETUP, USERS, Vault, VaultUnavailableError, replace_secret_id
from coinmesh_access.pki import ForeignMountError
from coinmesh_access.testing import Server
from coinmesh_audit import anchors as audit_anchors

pytestmark = pytest.mark.component
TABLE = table.load()
ME = "collector-binance"


def request(
    name: str | None = ME,
    uris: tuple[str, ...] = (f"spiffe://coinmesh/svc/{ME}",),
    dns: tuple[str, ...] = ("localhost",),
    ips: tuple[str, ...] = ("127.0.0.1",),
    key: Any = None,
) -> str:
    """A certificate signing request."""
    import ipaddress

    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(text) for text in dns]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ips]
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def sign(client: hvac.Client, role: str, csr: str, **more: object) -> x509.Certificate:
    answer = client.write_data(f"pki_int/sign/{role}", data={"csr": csr, **more})
    return x509.load_pem_x509_certificate(answer["data"]["certificate"].encode())


def test_a_second_setup_changes_nothing(bao: Any) -> None:
    before = _contents(bao.secrets)
    anchor = bao.admin().secrets.pki.read_ca_certificate(mount_point="pki")
    assert bao.setup() == []
    after = _contents(bao.secrets)
    # But for the logins of those who administer.
    assert {p.parent.name for p in before | after if before.get(p) != after.get(p)} == {
        SETUP,
        USERS,
    }
    assert bao.admin().secrets.pki.read_ca_certificate(mount_point="pki") == anchor


def _contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_secrets_are_their_owners_alone(bao: Any) -> None:
    for path in bao.secrets.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.stat().st_mode & 0o777 == wanted, path


def test_a_certificate_says_who_it_is_and_what_for(bao: Any) -> None:
    leaf = sign(bao.service(ME), ME, request())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://coinmesh/svc/{ME}"
    ]
    assert leaf.subject.rfc4514_string() == f"CN={ME},OU=svc,O=coinmesh"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert life.total_seconds() <= 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"uris": ("spiffe://coinmesh/svc/envoy",)},
        {"uris": ("spiffe://coinmesh/svc/collector-binance/x",)},
        {"uris": ("spiffe://elsewhere/svc/collector-binance",)},
        {"uris": (f"spiffe://coinmesh/svc/{ME}", "spiffe://coinmesh/svc/kafka")},
        {"name": "kafka"},
        {"name": f"x.{ME}"},
        {"dns": ("kafka",)},
        {"dns": ("example.com",)},
        {"dns": ("*.localhost",)},
        {"ips": ("10.0.0.1",)},
        {"key": "rsa"},
        {"key": "p384"},
    ],
    ids=str,
)
def test_a_foreign_request_is_refused(bao: Any, wrong: dict[str, Any]) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    keys: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP256K1()),
    }
    if "key" in wrong:
        wrong = {"key": keys[wrong["key"]]()}
    client = bao.service(ME)
    with pytest.raises((InvalidRequest, hvac.exceptions.InternalServerError)):
        sign(client, ME, request(**wrong))


def test_a_longer_life_is_not_given(bao: Any) -> None:
    leaf = sign(bao.service(ME), ME, request(), ttl="24h")
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 7


def test_a_service_that_does_not_listen_names_no_host(bao: Any) -> None:
    uris = ("spiffe://coinmesh/svc/cli",)
    client = bao.service("cli")
    assert sign(client, "cli", request("cli", uris, (), ()))
    with pytest.raises(InvalidRequest):
        sign(client, "cli", request("cli", uris, ("localhost",), ()))
    with pytest.raises(InvalidRequest):
        sign(client, "cli", request("cli", uris, (), ("127.0.0.1",)))


def test_each_service_is_refused_what_is_anothers(bao: Any) -> None:
    for name in TABLE.services:
        other = "envoy" if name != "envoy" else "kafka"
        client = bao.service(name)
        uris = (f"spiffe://coinmesh/svc/{other}",)
        with pytest.raises(Forbidden):
            sign(client, other, request(other, uris))
        for path in (
            f"pki_int/issue/{name}",
            f"pki_int/sign-verbatim/{name}",
            f"pki_int/roles/{name}",
            "pki/root/sign-intermediate",
            "sys/policies/acl/x",
            f"auth/approle/role/{other}/secret-id",
            "transit/keys/audit",
            "identity/oidc/key/coinmesh-users",
        ):
            with pytest.raises(Forbidden):
                client.write_data(path, data={})
        with pytest.raises(Forbidden):
            client.read(f"auth/approle/role/{other}/role-id")


def test_static_credentials_are_read_by_their_owner_and_the_deployer(bao: Any) -> None:
    wanted = set(credentials.wanted(TABLE))
    assert ("query-gateway", Kind.REDIS) in wanted
    for name in TABLE.services:
        client = bao.service(name)
        for owner, kind in wanted:
            if name in (owner, "deploy"):
                assert len(credentials.read(client, owner, kind)) >= 1
            else:
                with pytest.raises(Forbidden):
                    credentials.read(client, owner, kind)
            with pytest.raises(Forbidden):
                client.secrets.kv.v2.create_or_update_secret(
                    f"{owner}/{kind}", {}, mount_point="kv"
                )


def test_two_credentials_are_valid_at_once(bao: Any) -> None:
    admin = bao.admin()
    (first, *_) = credentials.read(admin, "query-gateway", Kind.REDIS)
    second = credentials.rotate(admin, "query-gateway", Kind.REDIS)
    assert credentials.read(admin, "query-gateway", Kind.REDIS) == [second, first]
    third = credentials.rotate(admin, "query-gateway", Kind.REDIS)
    assert credentials.read(admin, "query-gateway", Kind.REDIS) == [third, second]
    assert len({first["password"], second["password"], third["password"]}) == 3


def test_interrupted_rotation_is_completed_without_dropping_what_clients_hold(
    bao: Any, tmp_path: Path
) -> None:
    admin = bao.admin()
    for name, kind in credentials.wanted(TABLE):
        (tmp_path / name).mkdir(exist_ok=True)
        (current, *_) = credentials.read(admin, name, kind)
        path = credentials.client_path(tmp_path, name, kind)
        path.write_text(credentials.client_file(kind, current))
    path = credentials.client_path(tmp_path, "query-gateway", Kind.REDIS)
    for _ in range(2):  # the first one ended before clients got the new ones
        credentials.rotate_all(admin, TABLE, tmp_path)
        valid = credentials.read(admin, "query-gateway", Kind.REDIS)
        assert path.read_text() in {credentials.client_file(Kind.REDIS, pair) for pair in valid}
    path.write_text(credentials.client_file(Kind.REDIS, valid[0]))
    credentials.rotate_all(admin, TABLE, tmp_path)
    assert credentials.read(admin, "query-gateway", Kind.REDIS)[1:] == valid[:1]


def test_only_the_anchoring_process_may_sign_anchors(bao: Any) -> None:
    signer = Signer(bao.vault, bao.secrets)
    document = audit_anchors.document(1, datetime.now(UTC), {}, 0, "")
    sealed = audit_anchors.seal(document, signer.sign(document))
    keys = Signer(bao.vault, bao.secrets, "cli").public_keys()
    assert audit_anchors.open_sealed(sealed, keys).anchored.number == 1
    for name in TABLE.services:
        if name != "audit-anchor":
            with pytest.raises(VaultUnavailableError, match="permission denied"):
                Signer(bao.vault, bao.secrets, name).sign(document)
    with pytest.raises(VaultUnavailableError, match="permission denied"):
        Signer(bao.vault, bao.secrets, "redis").public_keys()
    for client in (bao.admin(), bao.users()):
        with pytest.raises(Forbidden):
            client.write_data("transit/sign/audit", data={"input": ""})


def test_pods_may_log_in_as_their_service_only(bao: Any) -> None:
    admin = bao.admin()
    authority = (bao.secrets / "openbao" / "ca.crt").read_text()
    for _ in range(2):
        setup.configure_kubernetes(admin, TABLE, host="https://127.0.0.1:6443", ca=authority)
    for name in TABLE.services:
        role = admin.read(f"auth/kubernetes/role/{name}")["data"]
        assert role["bound_service_account_names"] == [name]
        assert role["bound_service_account_namespaces"] == ["coinmesh"]
        assert role["token_policies"] == [name]


def test_a_service_that_left_the_table_loses_its_access(bao: Any) -> None:
    extra = table.Service(description="left later")
    more = TABLE.model_copy(update={"services": {**TABLE.services, "leaver": extra}})
    wanted = setup.Setup(setup.Lives(leaf=6))
    setup.run(bao.vault, bao.secrets, more, wanted)
    assert bao.service("leaver")
    assert setup.run(bao.vault, bao.secrets, TABLE, wanted) == ["took the access of leaver away"]
    with pytest.raises(VaultUnavailableError):
        bao.service("leaver")


def test_what_others_keep_in_the_same_vault_is_left_alone(bao: Any) -> None:
    admin = bao.admin()
    rules = 'path "secret/billing" { capabilities = ["read"] }'
    admin.sys.create_or_update_acl_policy("billing", rules)
    admin.auth.approle.create_or_update_approle("billing", token_policies=["billing"])
    assert bao.setup() == []
    assert admin.sys.read_acl_policy("billing")["data"]["policy"] == rules
    assert admin.auth.approle.read_role("billing")["data"]["token_policies"] == ["billing"]


def test_another_authority_is_not_adopted(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start()
        admin = server.admin()
        admin.sys.enable_secrets_engine("pki", "pki")
        admin.secrets.pki.generate_root("internal", "Somebody's root", {"key_type": "ec"})
        before = admin.sys.list_mounted_secrets_engines()["data"]
        for _ in range(2):
            with pytest.raises(
                ForeignMountError, match=r"mount pki/ .*Somebody's root.*bao secrets move"
            ):
                server.setup()
        assert admin.sys.list_mounted_secrets_engines()["data"] == before
        assert "collector-binance" not in admin.sys.list_acl_policies()["data"]["keys"]
    finally:
        server.stop()


def test_a_mount_of_another_kind_is_not_touched(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start()
        server.admin().sys.enable_secrets_engine("kv", "pki_int")
        with pytest.raises(ForeignMountError, match="mount pki_int/ holds a kv engine"):
            server.setup()
    finally:
        server.stop()


def test_a_secret_id_that_was_destroyed_is_replaced(bao: Any) -> None:
    path = bao.secrets / ME / "secret-id"
    seen = path.read_text()
    bao.admin().auth.approle.destroy_secret_id(ME, seen)
    with pytest.raises(VaultUnavailableError, match="invalid"):
        bao.service(ME)
    assert bao.setup() == [f"made the login of {ME}"]
    assert path.read_text() != seen
    assert bao.service(ME)


@pytest.mark.parametrize(("login", "role"), [(ME, ME), (USERS, USERS), (SETUP, "setup")])
def test_a_replaced_login_is_good_once_more(bao: Any, login: str, role: str) -> None:
    path, seen = bao.secrets / login / "secret-id", list[str]()
    role_id = (bao.secrets / login / "role-id").read_text()
    for _ in range(3):
        seen.append(path.read_text())
        if login == ME:
            replace_secret_id(bao.service(ME), bao.secrets, ME)
        else:
            bao.setup()
    assert len(set(seen)) == 3
    bao.vault.client().auth.approle.login(role_id, seen[-1])
    bao.vault.login(bao.secrets, login)
    with pytest.raises(InvalidRequest):
        bao.vault.client().auth.approle.login(role_id, seen[-2])
    keys = bao.admin().auth.approle.list_secret_id_accessors(role)["data"]["keys"]
    assert len(keys) == 2


def test_every_request_is_recorded_twice_and_no_secret_in_clear(bao: Any) -> None:
    secret = (bao.secrets / ME / "secret-id").read_text()
    bao.service(ME)
    for number in (1, 2):
        path = Path(f"{bao.audit}-{number}.log")
        text = path.read_text()
        assert "auth/approle/login" in text
        assert secret not in text
        assert path.stat().st_mode & 0o777 == 0o600


def test_plaintext_and_a_strange_authority_are_refused(bao: Any, tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailableError):
        Vault(bao.vault.address.replace("https", "http"), bao.vault.ca).login(bao.secrets, ME)
    strange = tmp_path / "ca.crt"
    strange.write_text(bao.admin().secrets.pki.read_ca_certificate(mount_point="pki"))
    with pytest.raises(VaultUnavailableError, match="SSLError"):
        Vault(bao.vault.address, strange).login(bao.secrets, ME)


def test_a_killed_vault_comes_back_unsealed_with_all_it_held(bao: Any) -> None:
    before = credentials.read(bao.admin(), "deploy", Kind.S3)
    bao.stop(signal.SIGKILL)
    with pytest.raises(VaultUnavailableError, match="doesn't answer"):
        bao.service(ME)
    bao.start()
    assert credentials.read(bao.admin(), "deploy", Kind.S3) == before
    assert sign(bao.service(ME), ME, request())
