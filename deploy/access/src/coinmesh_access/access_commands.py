"""Commands of `coinmesh-access`: show the access table and apply it to components."""

import json
import logging
from collections.abc import Callable
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
from coinmesh_access.administration import exit_on_error
from coinmesh_access.login import VaultAwayError, explained
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
from coinmesh_access.table import AccessTable, load
from meshkit import logs
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

#: The identity that applies the table to components.
DEPLOY = "deploy"

TlsOption = Annotated[
    Path, typer.Option("--tls-dir", envvar="COINMESH_TLS_DIR", help="holds current/tls.key …")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(show)
    app.command("readme")(update_readme)
    app.command()(kafka)
    app.command()(cassandra)
    app.command()(redis)
    app.command()(s3)
    app.command("s3-key")(s3_key)


def show(service: str, table: TableOption = DEFAULT_TABLE) -> None:
    """Print a service's grants as markdown."""
    with exit_on_error():
        typer.echo(readme.markdown(load(table), service), nl=False)


def update_readme(paths: list[Path], table: TableOption = DEFAULT_TABLE) -> None:
    """Update the marked tables of READMEs."""
    with exit_on_error():
        known = load(table)
        for path in paths:
            if readme.update(known, path):
                typer.echo(f"changed {path}")


def kafka(
    tls_dir: TlsOption,
    bootstrap: Annotated[str, typer.Option(envvar="COINMESH_KAFKA_BOOTSTRAP_SERVERS")],
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Apply the table's ACLs to Kafka and delete all others."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, tls_dir=tls_dir)
    with exit_on_error():
        done = kafka_acls.apply(client_config(settings, "coinmesh-access"), load(table))
    logs.tell(__name__, f"{len(done.create)} ACLs created, {len(done.delete)} deleted")


def cassandra(
    *,
    tls_dir: TlsOption,
    contact_points: Annotated[str, typer.Option(envvar="COINMESH_CASSANDRA_CONTACT_POINTS")],
    adopt: Annotated[
        bool, typer.Option(help="of a new node, under PasswordAuthenticator: only the deployer")
    ] = False,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Apply the table's roles, identities and grants to Cassandra."""
    from coinmesh_access import cassandra_roles, cassandra_session

    with exit_on_error():
        known = load(table)
        if adopt:
            cassandra_session.adopt(contact_points, tls_dir, known, DEPLOY)
            return
        with cassandra_session.connect(contact_points, tls_dir) as session:
            revoked = cassandra_roles.apply(session, known)
    for statement in revoked:
        logs.tell(__name__, statement)


def redis(
    *,
    out: Annotated[Path, typer.Option(help="the ACL file, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write Redis's ACL file; a running server loads it on ACL LOAD."""
    with exit_on_error():
        known = load(table)
        _keep(out, lambda: _with_vault(known, address, ca, secrets, "redis"))


def s3(
    *,
    out: Annotated[Path, typer.Option(help="SeaweedFS's -s3.config, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
    table: TableOption = DEFAULT_TABLE,
) -> None:
    """Write SeaweedFS's identities; a running server loads them on SIGHUP."""
    with exit_on_error():
        known = load(table)
        _keep(out, lambda: _with_vault(known, address, ca, secrets, "s3"))


def s3_key(
    *,
    into: Annotated[Path, typer.Option(help="SeaweedFS's security.toml, to which it is added")],
    kept: Annotated[Path, typer.Option(help="where it is kept for a start without Vault, 0600")],
    address: AddressOption = DEFAULT_ADDRESS,
    ca: CaOption = DEFAULT_CA,
    secrets: SecretsOption = DEFAULT_SECRETS,
) -> None:
    """Add the key that encrypts objects to SeaweedFS's configuration."""

    def ask() -> str:
        client = vault(address, ca).login(secrets, store_key.SERVICE)
        try:
            return store_key.read(client)
        except (VaultError, requests.RequestException) as error:
            raise explained(error, f"read kv/{store_key.PATH}", address) from error

    with exit_on_error():
        key = _keep(kept, ask)
        files.write(into, f'{into.read_text()}\n[s3.sse]\nkek = "{key}"\n')


def _keep(path: Path, ask: Callable[[], str]) -> str:
    """Write the text that `ask` reads from Vault and return it.

    While Vault is unreachable, the text of an earlier call is returned, so that the component can
    start.
    """
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
