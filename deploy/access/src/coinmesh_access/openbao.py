"""Prepare a local OpenBao: its configuration, listener certificate, seal key and first login.

Existing keys and logins are kept, so that it can run before each start.
"""

import secrets
import uuid
from importlib.resources import files as resources
from pathlib import Path
from string import Template

from coinmesh_access import files, listener_certificate

SEAL_KEY_BYTES = 32


def prepare(
    *, run: Path, data: Path, secrets_dir: Path, audit: Path, listen: str, cluster: str
) -> Path:
    """Write the files for `bao server -config=<result>`.

    Args:
        run: The directory of the configuration.
        data: Raft's directory.
        secrets_dir: Its `openbao/` receives seal key and listener certificate, its `vault-setup/`
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
    listener_certificate.ensure(own)
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
