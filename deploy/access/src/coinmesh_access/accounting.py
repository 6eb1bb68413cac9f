"""Audited actions of operators: an action whose audit record can't be written is not executed."""

import asyncio
import os
import pwd
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hvac

from coinmesh_access import users
from coinmesh_audit.log import AuditLog, AuditSettings
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb

T = TypeVar("T")


#: The user id at login: set once by PAM, inherited through sudo and su (audit(8)).
LOGIN_UID = Path("/proc/self/loginuid")
_NO_UID = 2**32 - 1


def operator() -> str:
    """Return this process's operating system user; behind sudo the user who logged in.

    The kernel is the only source: a caller could set variables such as SUDO_USER.
    """
    uid = os.getuid()
    try:
        login = int(LOGIN_UID.read_text())
    except (OSError, ValueError):  # a kernel without auditing
        login = _NO_UID
    if login != _NO_UID:
        uid = login
    try:
        return f"os:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"os:uid-{uid}"


def operator_log(settings: AuditSettings) -> AuditLog:
    """Return this machine's operator log, under the identity `cli`; use it with `async with`."""
    host = re.sub(r"[^a-zA-Z0-9.-]", "-", socket.gethostname())[:100]
    return AuditLog(settings.model_copy(update={"audit_writer": f"cli@{host}"}), source="cli")


def on_record(
    settings: AuditSettings,
    action: pb.AuditAction.ValueType,
    what: str,
    do: Callable[[], T],
    detail: str = "",
) -> T:
    """Record an action in the audit log, execute it, and record a failure too.

    Raises:
        AuditUnavailable: The record can't be written; the action was not executed.
    """

    async def run() -> T:
        async with operator_log(settings) as log:
            recorded = log.recorded(action, actor=operator(), object=what, detail=detail)
            async with recorded:
                return await asyncio.to_thread(do)

    return asyncio.run(run())


def add_user(settings: AuditSettings, client: hvac.Client, name: str, role: str, tier: str) -> str:
    """Call `users.add` with an audit record and return the API key."""
    return on_record(
        settings,
        pb.AUDIT_ACTION_USER_PUT,
        f"user:{name}",
        lambda: users.add(client, name, role, tier),
        detail=f"role {role}, tier {tier}",
    )


def remove_user(settings: AuditSettings, client: hvac.Client, name: str) -> None:
    """Call `users.remove` with an audit record."""
    on_record(
        settings,
        pb.AUDIT_ACTION_USER_REMOVE,
        f"user:{name}",
        lambda: users.remove(client, name),
    )
