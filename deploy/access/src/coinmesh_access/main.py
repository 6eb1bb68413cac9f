"""`coinmesh-access`: shows the access table and makes components hold to it."""

import json
import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import requests
import typer
from hvac.exceptions import VaultError

from coinmesh_access import (
    credentials,
    files,
    kafka_acls,
    readme,
    redis_users,
    s3_identities,
    store_key,
)
from coinmesh_access.login import VaultAwayError, VaultUnavailableError, explained
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
from coinmesh_access.table import AccessError, AccessTable, load
from meshkit import logs
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
#: Who applies the table to components.
DEPLOY = "deploy"

TlsOption = Annotated[
    Path, typer.Option("--tls-dir", envvar="COINMESH_TLS_DIR", help="holds current/tls.key …")
]


@app.callback()
def coinmesh_access() -> None:
    """The access table, and what makes components hold to it."""
    bypass_for_loopback()
    logs.configure_command()


@contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except (AccessError, VaultUnavailableError) as error:
        logs.tell(__name__, f"error: {error}", logging.ERROR)
        sys.exit(1)


@app.command()
def show(service: str, table: TableOption = DEFAULT_TABLE) -> None:
    """Print what a service may do, as markdown."""
    with _told():
        typer.echo(readme.markdown(load(table), service), nl=False)


@app.command("readme")
def update_readme(paths: list[Path], table: TableOption = DEFAULT_TABLE) -> None:
    """Bring the marked tables of READMEs in line."""
    with _told():
        known = load(table)
        for path in paths:
            if readme.update(known, path):
                typer.echo(f"changed {path}")


@app.command()
def kafka(
    tls_dir: TlsOption,
    bootstrap: Annotated[str, typer.Option(envvar="COINMESH_KAFKA_BOOTSTRAP_SERVERS")],
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Make Kafka's ACLs equal to the table's."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, tls_dir=tls_dir)
    with _told():
        done = kafka_acls.apply(client_config(settings, "coinmesh-access"), load(table))
    logs.tell(__name__, f"{len(done.create)} ACLs created, {len(done.delete)} deleted")


@app.command()
def cassandra(
    *,
    tls_dir: TlsOption,
    contact_points: Annotated[str, typer.Option(envvar="COINMESH_CASSANDRA_CONTACT_POINTS")],
    adopt: Annotated[
        bool, typer.Option(help="of a new node, under PasswordAuthenticator: only the deployer")
    ] = False,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Make Cassandra's roles, identities and grants equal to the table's."""
    from coinmesh_access import cassandra_roles, cassandra_session

    with _told():
        known = load(table)
        if adopt:
            cassandra_session.adopt(contact_points, tls_dir, known, DEPLOY)
            return
        with cassandra_session.connect(contact_points, tls_dir) as session:
            revoked = cassandra_roles.apply(session, known)
    for statement in revoked:
        logs.tell(__name__, statement)


@app.command()
def redis(
    *,
    out: Annotated[Path, typer.Option(help="the ACL file, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write Redis's ACL file; a running server takes it by ACL LOAD."""
    with _told():
        known = load(table)
        _keep(out, lambda: _with_vault(known, address, ca, secrets, "redis"))


@app.command()
def s3(
    *,
    out: Annotated[Path, typer.Option(help="SeaweedFS's -s3.config, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write SeaweedFS's identities; a running server takes them on SIGHUP."""
    with _told():
        known = load(table)
        _keep(out, lambda: _with_vault(known, address, ca, secrets, "s3"))


@app.command("s3-key")
def s3_key(
    *,
    into: Annotated[Path, typer.Option(help="SeaweedFS's security.toml, to which it is added")],
    kept: Annotated[Path, typer.Option(help="where it is kept for a start without Vault, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Give SeaweedFS the key that it encrypts objects with."""

    def ask() -> str:
        client = vault(address, ca).login(secrets, store_key.SERVICE)
        try:
            return store_key.read(client)
        except (VaultError, requests.RequestException) as error:
            raise explained(error, f"read kv/{store_key.PATH}", address) from error

    with _told():
        key = _keep(kept, ask)
        files.write(into, f'{into.read_text()}\n[s3.sse]\nkek = "{key}"\n')


def _keep(path: Path, ask: Callable[[], str]) -> str:
    """Write what Vault gives; while it is away, what it gave before will do for a start."""
    try:
        text = ask()
    except VaultAwayError as error:
        if not path.exists():
            raise
        logs.tell(__name__, f"{error}; {path} stays as it is", logging.WARNING)
        return path.read_text()
    files.write(path, text)
    return text


def _with_vault(table: AccessTable, address: str, ca: Path, secrets: Path, kind: str) -> str:
    client = vault(address, ca).login(secrets, DEPLOY)
    try:
        if kind == "redis":
            return redis_users.acl_file(table, credentials.redis_passwords(client, table))
        found = s3_identities.identities(table, credentials.s3_keys(client, table))
        return json.dumps(found, indent=2) + "\n"
    except (VaultError, requests.RequestException) as error:
        raise explained(error, f"read the {kind} credentials", address) from error


if __name__ == "__main__":
    app()
