"""`coinmesh-vault`: prepares OpenBao, brings Vault in line with the access table, keeps users."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import hvac
import requests
import typer
from hvac.exceptions import VaultError

from coinmesh_access import accounting, credentials, files, openbao, users
from coinmesh_access import setup as vault_setup
from coinmesh_access.credentials import Kind
from coinmesh_access.login import SETUP, USERS, VaultUnavailableError, explained
from coinmesh_access.pki import Lives
from coinmesh_access.proxies import bypass_for_loopback
from coinmesh_access.settings import (
    DEFAULT_ADDRESS,
    DEFAULT_CA,
    DEFAULT_SECRETS,
    DEFAULT_TABLE,
    AddressOption,
    CaOption,
    SecretsOption,
    TableOption,
    vault,
)
from coinmesh_access.table import AccessError, load
from coinmesh_access.users import UserError
from coinmesh_audit.log import AuditSettings
from meshkit import logs
from meshkit.errors import MeshError
from meshkit.settings import SettingsError, read

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
user_app = typer.Typer(
    no_args_is_help=True,
    help="Users and their API keys; changes go on record as `cli`, by the COINMESH_ settings of "
    "Kafka and the registry, or aren't made.",
)
app.add_typer(user_app, name="user")


@app.callback()
def coinmesh_vault() -> None:
    """Vault as the access table wants it, and its users."""
    bypass_for_loopback()
    logs.configure_command()


@contextmanager
def _told() -> Generator[None]:
    """Errors as one line and exit status 1."""
    try:
        yield
    except (AccessError, VaultUnavailableError, UserError, MeshError, SettingsError) as error:
        logs.tell(__name__, f"error: {error}", logging.ERROR)
        sys.exit(1)


@contextmanager
def _administering(
    address: str, ca: Path, secrets: Path, who: str = SETUP
) -> Generator[hvac.Client]:
    place = vault(address, ca)
    with _told():
        client = place.login(secrets, who)
        try:
            yield client
        except (VaultError, requests.RequestException) as error:
            raise explained(error, "do that", place.address) from error


@app.command()
def prepare(
    *,
    run: Annotated[Path, typer.Option(help="where the configuration goes")],
    data: Annotated[Path, typer.Option(help="raft's directory")],
    audit: Annotated[Path, typer.Option(help="path of the audit logs, without -1.log")],
    listen: Annotated[str, typer.Option(help="the API's host:port")],
    cluster: Annotated[str, typer.Option(help="raft's host:port")],
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Write what a local OpenBao starts from; what exists is kept."""
    written = openbao.prepare(
        run=run, data=data, secrets_dir=secrets, audit=audit, listen=listen, cluster=cluster
    )
    logs.tell(__name__, str(written))


@app.command()
def setup(
    *,
    ttl: Annotated[
        int, typer.Option(envvar="COINMESH_CERT_TTL", help="a certificate's life, seconds", min=2)
    ] = 3600,
    cidr: Annotated[
        list[str] | None, typer.Option(help="from where services may log in; * is anywhere")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="a DNS suffix of services: coinmesh.svc")
    ] = None,
    kubernetes_host: Annotated[
        str | None, typer.Option(help="let pods log in: the API's URL as Vault reaches it")
    ] = None,
    kubernetes_ca: Annotated[
        Path | None, typer.Option(help="its authority, when Vault is outside the cluster")
    ] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Bring Vault in line with the access table: PKI, policies, logins, credentials, users."""
    cidrs = () if cidr == ["*"] else tuple(cidr or vault_setup.Setup().login_cidrs)
    wanted = vault_setup.Setup(Lives(leaf=ttl), login_cidrs=cidrs, domains=tuple(domain or ()))
    place = vault(address, ca)
    with _told():
        known = load(table)
        for line in vault_setup.run(place, secrets, known, wanted):
            logs.tell(__name__, line)
    if kubernetes_host:
        authority = kubernetes_ca.read_text() if kubernetes_ca else None
        with _administering(address, ca, secrets) as client:
            vault_setup.configure_kubernetes(client, known, host=kubernetes_host, ca=authority)


@app.command()
def rotate(
    *,
    service: str,
    kind: Kind,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Make a new static credential; the one before stays valid until the next rotation."""
    with _told():
        known = load(table)
    if (service, kind) not in set(credentials.wanted(known)):
        raise typer.BadParameter(f"{service} has no {kind} credentials in the access table")
    with _administering(address, ca, secrets) as client:
        credentials.rotate(client, service, kind)


@app.command()
def fetch(
    *,
    service: Annotated[list[str] | None, typer.Option(help="a service of the table")] = None,
    every: Annotated[bool, typer.Option("--all", help="every service that has any")] = False,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write services' credentials as <secrets>/<service>/{redis,s3}.json, each by its own login."""
    place = vault(address, ca)
    with _told():
        known = load(table)
        wanted: dict[str, list[Kind]] = {}
        for name, kind in credentials.wanted(known):
            wanted.setdefault(name, []).append(kind)
        for name in wanted if every else service or ():
            client = place.login(secrets, name)
            for kind in wanted.get(name, ()):
                try:
                    valid = credentials.read(client, name, kind)
                except (VaultError, requests.RequestException) as error:
                    raise explained(error, f"read kv/{name}/{kind}", address) from error
                if not valid:
                    raise AccessError(f"kv/{name}/{kind} is empty; run `coinmesh-vault setup`")
                path = credentials.client_path(secrets, name, kind)
                files.write(path, credentials.client_file(kind, valid[0]))


@user_app.command("ensure")
def user_ensure(
    *,
    name: str,
    key: Annotated[Path, typer.Option(help="the file that keeps its API key, 0600")],
    role: Annotated[str, typer.Option(help="viewer, editor or admin")] = "admin",
    tier: Annotated[str, typer.Option(help="the quota's name")] = "unlimited",
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Make a user whose API key is kept in a file; a key that works is left alone."""
    place = vault(address, ca)
    if key.exists():
        with suppress(VaultError, UserError):
            users.exchange(place.client(), key.read_text().strip())
            return
    with _administering(address, ca, secrets, USERS) as client:
        files.private_directory(key.parent.parent)
        files.private_directory(key.parent)
        made = accounting.add_user(read(AuditSettings), client, name, role, tier)
        files.write(key, made + "\n")
        logs.tell(__name__, f"made the user {name}")


if __name__ == "__main__":
    app()
