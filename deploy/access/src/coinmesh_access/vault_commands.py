"""Commands of `coinmesh-vault`: prepare OpenBao, configure Vault, rotate and fetch credentials."""

from pathlib import Path
from typing import Annotated

import requests
import typer
from hvac.exceptions import VaultError

from coinmesh_access import credentials, files, openbao
from coinmesh_access import setup as vault_setup
from coinmesh_access.administration import administering, exit_on_error
from coinmesh_access.credentials import Kind
from coinmesh_access.login import explained
from coinmesh_access.pki import Lives
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
from meshkit import logs


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(prepare)
    app.command()(setup)
    app.command()(rotate)
    app.command()(fetch)


def prepare(
    *,
    run: Annotated[Path, typer.Option(help="where the configuration goes")],
    data: Annotated[Path, typer.Option(help="raft's directory")],
    audit: Annotated[Path, typer.Option(help="path of the audit logs, without -1.log")],
    listen: Annotated[str, typer.Option(help="the API's host:port")],
    cluster: Annotated[str, typer.Option(help="raft's host:port")],
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Write the files for the start of a local OpenBao; keep existing keys and logins."""
    written = openbao.prepare(
        run=run, data=data, secrets_dir=secrets, audit=audit, listen=listen, cluster=cluster
    )
    logs.tell(__name__, str(written))


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
    """Apply the access table to Vault: PKI, policies, logins, credentials, users."""
    cidrs = () if cidr == ["*"] else tuple(cidr or vault_setup.Setup().login_cidrs)
    wanted = vault_setup.Setup(Lives(leaf=ttl), login_cidrs=cidrs, domains=tuple(domain or ()))
    place = vault(address, ca)
    with exit_on_error():
        known = load(table)
        for line in vault_setup.run(place, secrets, known, wanted):
            logs.tell(__name__, line)
    if kubernetes_host:
        authority = kubernetes_ca.read_text() if kubernetes_ca else None
        with administering(address, ca, secrets) as client:
            vault_setup.configure_kubernetes(client, known, host=kubernetes_host, ca=authority)


def rotate(
    *,
    service: str,
    kind: Kind,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Create a new static credential; the previous one is valid until the next rotation."""
    with exit_on_error():
        known = load(table)
    if (service, kind) not in set(credentials.wanted(known)):
        raise typer.BadParameter(f"{service} has no {kind} credentials in the access table")
    with administering(address, ca, secrets) as client:
        credentials.rotate(client, service, kind)


def fetch(
    *,
    service: Annotated[list[str] | None, typer.Option(help="a service of the table")] = None,
    every: Annotated[bool, typer.Option("--all", help="every service that has any")] = False,
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write services' credentials to <secrets>/<service>/{redis,s3}.json, each by its own login."""
    place = vault(address, ca)
    with exit_on_error():
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
