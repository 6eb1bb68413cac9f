"""Redis users as an ACL file, with hashed passwords: two are valid during a rotation."""

import hashlib
from collections.abc import Mapping, Sequence

from coinmesh_access.table import AccessError, AccessTable

#: Commands that every client sends for authentication and liveness. CLIENT SETINFO is excluded:
#: Redis before 7.2 doesn't load a file that names it, and clients tolerate its rejection.
CONNECTION = ("auth", "hello", "ping", "quit", "reset", "select", "client|setname")


def acl_file(table: AccessTable, passwords: Mapping[str, Sequence[str]]) -> str:
    """Return the text of `aclfile`; only the table's users can log in.

    Args:
        table: The access table.
        passwords: The valid passwords of each service that uses Redis.
    """
    lines = ["user default off resetkeys resetchannels -@all"]
    for name, entry in table.services.items():
        if not entry.uses_redis:
            continue
        valid = passwords.get(name, ())
        if not valid:
            raise AccessError(f"Redis: {name} has no password; run `coinmesh-vault setup`")
        hashes = [f"#{hashlib.sha256(password.encode()).hexdigest()}" for password in valid]
        access = entry.redis
        if access.all:
            rights = ["~*", "&*", "+@all"]
        else:
            rights = [f"~{pattern}" for pattern in access.keys]
            rights += ["resetchannels", "-@all"]
            rights += [f"+{command}" for command in (*CONNECTION, *access.commands)]
        lines.append(" ".join(["user", name, "on", "sanitize-payload", *hashes, *rights]))
    return "\n".join(lines) + "\n"
