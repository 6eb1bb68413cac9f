"""What operators do by command, on record: without its audit record an action isn't done."""

import asyncio
import getpass
import os
import re
import socket
from collections.abc import Callable
from typing import TypeVar

from coinmesh_cli.records import settings_of
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from meshkit.audit import AuditLog, AuditSettings

T = TypeVar("T")


def operator() -> str:
    """Who sits at the terminal, as the operating system has it; behind sudo the one who called."""
    return f"os:{os.environ.get('SUDO_USER') or getpass.getuser()}"


def operator_log() -> AuditLog:
    """The log of this machine's operators; use it as an asynchronous context manager."""
    host = re.sub(r"[^a-zA-Z0-9.-]", "-", socket.gethostname())[:100]
    settings = settings_of(AuditSettings)
    return AuditLog(settings.model_copy(update={"audit_writer": f"cli@{host}"}), source="cli")


def on_record(
    action: pb.AuditAction.ValueType, what: str, do: Callable[[], T], detail: str = ""
) -> T:
    """Put an action on record and do it; when that fails, put this on record too.

    Raises:
        AuditUnavailable: There can be no record, and nothing was done.
    """

    async def run() -> T:
        async with operator_log() as log:
            recorded = log.recorded(action, actor=operator(), object=what, detail=detail)
            async with recorded:
                return await asyncio.to_thread(do)

    return asyncio.run(run())
