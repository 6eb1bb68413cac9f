"""`coinmesh audit`: list audited actions and verify the audit log."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import Message
from google.protobuf.message import DecodeError

from coinmesh_audit.anchors import Anchor, AnchorError, broken_links, open_sealed
from coinmesh_audit.chain import Chains
from coinmesh_audit.log import name_of
from coinmesh_cli.records import TopicReader, settings_of
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from meshkit.settings import KafkaSettings, MeshSettings

READERS = 8
TOPIC = topics.AUDIT.name
app = typer.Typer(no_args_is_help=True, help="Who did what: list, verify.")


class VaultSettings(MeshSettings):
    """Address of Vault and the directory of the login there."""

    vault_addr: str
    vault_ca: Path
    secrets_dir: Path


def register(parent: typer.Typer) -> None:
    """Add the command group to `parent`."""
    parent.add_typer(app, name="audit")


@app.command("list")
def list_events(
    actor: Annotated[str | None, typer.Option(help="Only this one's, e.g. user:ann.")] = None,
    last: Annotated[int, typer.Option("-n", "--last", min=1, help="So many records.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List audited actions, oldest first."""
    found = [event for _, event in events() if actor in (None, event.actor)]
    for event in found[-last:]:
        action = name_of(pb.AuditAction.Name(event.action))
        outcome = name_of(pb.AuditOutcome.Name(event.outcome))
        moment = time_of(event)
        times = f" × {event.count}" if event.count > 1 else ""
        if as_json:
            told = {
                "time": moment,
                "writer": event.writer,
                "sequence": event.sequence,
                "actor": event.actor,
                "action": action,
                "outcome": outcome,
                "object": event.object,
                "detail": event.detail,
                "count": event.count,
                "metadata": dict(event.metadata),
            }
            print(json.dumps(told, ensure_ascii=False))
        else:
            print(
                f"{moment}  {event.actor:<20} {action:<20} {outcome:<8} {event.object}"
                f"{times}  {event.detail}"
            )


@app.command()
def verify() -> None:
    """Verify every chain by its links and the signed anchors; exit status 1 for faults.

    Changed, removed, reordered or truncated records are listed. Records written since the last
    anchor (a minute at most) are protected by their links alone.
    """
    anchors, faults = read_anchors()
    chains = Chains(anchor.anchored for anchor in anchors)
    for message in messages():
        where = f"{message.partition()}@{message.offset()}"
        faults += map(str, chains.add(message.key(), message.value(), where))
    faults += map(str, chains.finish(datetime.now(UTC)))
    for fault in faults:
        print(fault)
    newest = f"the newest of {_time_of(anchors[-1])}" if anchors else "none yet"
    print(
        f"{chains.records} records in {len(chains.heads)} chains, {len(anchors)} anchors "
        f"({newest}): {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}"
    )
    if faults:
        sys.exit(1)


def events() -> Iterator[tuple[Message, pb.AuditEvent]]:
    """Yield the readable audit records, in the topic's order."""
    for message in messages():
        try:
            yield message, pb.AuditEvent.FromString(framing.split(message.value())[1])
        except (framing.FramingError, DecodeError):
            continue  # reported by `verify`


def read_anchors() -> tuple[list[Anchor], list[str]]:
    """Return the valid anchors, in order, and the faults of the others."""
    # S3's and Vault's clients are slow to import: no other command waits for them.
    from coinmesh_access.anchoring import Signer
    from coinmesh_access.login import Vault
    from coinmesh_audit.store import AnchorStore, AuditStoreSettings, Kept

    store, vault = AnchorStore(settings_of(AuditStoreSettings)), settings_of(VaultSettings)
    signer = Signer(Vault(vault.vault_addr, vault.vault_ca), vault.secrets_dir, "cli")
    keys, kept = signer.public_keys(), store.listed()
    faults = [
        f"anchor {one.number} was {one.tampered}; its first version is still there and counts"
        for one in kept
        if one.tampered
    ]
    anchors: list[Anchor] = []

    def opened(one: Kept) -> Anchor | str:
        try:
            anchor = open_sealed(store.read(one), keys)
        except AnchorError as error:
            return f"anchor {one.number} can't be believed: {error}"
        number = anchor.anchored.number
        return anchor if number == one.number else f"anchor {one.number} says that it is {number}"

    with ThreadPoolExecutor(READERS) as pool:
        for result in pool.map(opened, kept):
            if isinstance(result, str):
                faults.append(result)
            else:
                anchors.append(result)
    return anchors, [*faults, *broken_links(anchors)]


def messages() -> Iterator[Message]:
    """Yield the records of the audit topic, in its order."""
    with closing(TopicReader(settings_of(KafkaSettings), TOPIC)) as reader:
        yield from reader.existing()


def time_of(event: pb.AuditEvent) -> str:
    """Return the event's time, RFC 3339."""
    moment = datetime.fromtimestamp(event.event_time / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_of(anchor: Anchor) -> str:
    return anchor.anchored.time.isoformat(timespec="seconds").replace("+00:00", "Z")
