"""Anchor the heads of all audit chains: read the topic, sign in Vault, store on S3.

This is the only process that may sign, and it writes no audit records: a writer must not sign its
own chain. While Vault or S3 is unreachable nothing is lost; the next anchor covers the records in
between.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError
from pydantic import Field

from coinmesh_access.login import Vault, VaultUnavailableError, explained
from coinmesh_audit import anchors as audit_anchors
from coinmesh_audit.anchors import Anchor, AnchorError, open_sealed
from coinmesh_audit.chain import Chains, Head
from coinmesh_audit.store import AnchorExists, AnchorStore, AuditStoreSettings
from coinmesh_contracts import topics
from meshkit.consumer import Consumer, Partition
from meshkit.errors import FailedPrecondition, MeshError
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from meshkit.settings import KafkaSettings, ServiceSettings

NAME = "audit-anchor"
TOPIC = (topics.AUDIT.name, 0)
#: An idle topic is still anchored hourly, so that stopped anchoring is noticed.
IDLE_SECONDS = 3600.0
_log = logging.getLogger(__name__)


class AnchorSettings(ServiceSettings, KafkaSettings, AuditStoreSettings):
    """Settings of the anchoring process."""

    audit_anchor_seconds: float = Field(
        60.0, gt=0, description="how often heads are anchored, seconds", examples=["60"]
    )
    vault_addr: str = Field(description="Vault's URL", examples=["https://127.0.0.1:18200"])
    vault_ca: Path = Field(
        description="the authority of Vault's listener",
        examples=[".coinmesh/secrets/openbao/ca.crt"],
    )
    secrets_dir: Path = Field(
        description="the directory with this service's login", examples=[".coinmesh/secrets"]
    )


class Signer:
    """Sign with the audit key and read its public keys; blocking."""

    def __init__(self, vault: Vault, secrets: Path, name: str = NAME) -> None:
        self._vault, self._secrets, self._name = vault, secrets, name

    def sign(self, data: bytes) -> str:
        """Return `vault:v<version>:<base64>`; raise VaultUnavailableError when Vault fails."""
        text = base64.b64encode(data).decode()
        answer = self._ask(
            lambda client: client.write_data(
                f"transit/sign/{audit_anchors.KEY}", data={"input": text}
            ),
            "sign an anchor",
        )
        return answer["data"]["signature"]

    def public_keys(self) -> dict[int, bytes]:
        """Return every version of the public key."""
        found = self._ask(
            lambda client: client.read(f"transit/keys/{audit_anchors.KEY}"), "read the audit key"
        )
        keys: Mapping[str, Mapping[str, str]] = found["data"]["keys"] if found else {}
        return {int(number): base64.b64decode(key["public_key"]) for number, key in keys.items()}

    def _ask(self, step: Callable[[hvac.Client], Any], what: str) -> Any:
        # Once a minute: a login each time is cheaper than keeping a token alive.
        client = self._vault.login(self._secrets, self._name)
        try:
            return step(client)
        except (VaultError, requests.RequestException) as error:
            raise explained(error, what, self._vault.address) from error
        finally:
            client.logout(revoke_token=False)


class Anchoring(Resource):
    """Follow the audit topic and anchor the chain heads read so far."""

    def __init__(
        self, settings: AnchorSettings, store: AnchorStore, signer: Signer, metrics: Metrics
    ) -> None:
        self._settings, self._store, self._signer = settings, store, signer
        self._chains = Chains()
        self._offset = 0
        self._last: Anchor | None = None
        self._faults = metrics.counter(
            "audit_chain_faults", "Faults seen in audit chains while following them", ("fault",)
        )
        self._time = metrics.gauge(
            "audit_anchor_time_seconds",
            "Until when every record that was read is covered by a stored anchor; Unix time",
        )
        self._failures = metrics.counter("audit_anchor_failures", "Anchors that could not be made")
        self._ready = False

    async def is_ready(self) -> bool:
        """Return whether the topic is being followed."""
        return self._ready

    async def run(self) -> None:
        """Follow and anchor until cancelled."""
        await self._resume()
        settings = self._settings
        start: dict[Partition, int] = {TOPIC: await self._start()}
        async with Consumer.assigned(settings, [TOPIC], start, client_id=NAME) as consumer:
            self._ready = True
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(consumer))
                tasks.create_task(self._anchor_on_time())

    async def _resume(self) -> None:
        """Resume from the last stored anchor."""
        while True:
            try:
                self._last = await asyncio.to_thread(self._newest)
                self._time.set(self._last.anchored.time.timestamp() if self._last else time.time())
                if self._last is not None:
                    self._chains = Chains(heads=self._last.anchored.heads)
                    self._offset = self._last.offset
                return
            except AnchorError as error:
                raise FailedPrecondition(
                    "ANCHOR_INVALID",
                    f"the last anchor can't be believed: {error}; see `coinmesh audit verify`",
                ) from error
            except (VaultUnavailableError, MeshError) as error:
                _log.warning("can't read the last anchor: %s; retrying", error)
                await asyncio.sleep(2)

    def _newest(self) -> Anchor | None:
        kept = self._store.listed()
        return open_sealed(self._store.read(kept[-1]), self._signer.public_keys()) if kept else None

    async def _start(self) -> int:
        """Return the first offset to read: after the last anchor, or the start of the topic."""
        async with Consumer.assigned(
            self._settings, [TOPIC], "beginning", client_id=NAME
        ) as consumer:
            low = consumer.positions[TOPIC]
            end = (await consumer.ends())[TOPIC]
        if self._offset > end:
            _log.error("the topic ends at %d, before what was anchored", end)
        return max(low, min(self._offset, end))

    async def _follow(self, consumer: Consumer) -> None:
        async for batch in consumer.batches(max_messages=500):
            for message in batch:
                where = f"{message.partition()}@{message.offset()}"
                for finding in self._chains.add(message.key(), message.value(), where):
                    self._faults.labels(finding.fault.name.lower()).inc()
                    _log.error("audit chain: %s", finding)
            self._offset = consumer.positions[TOPIC]

    async def _anchor_on_time(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.audit_anchor_seconds)
            now, heads = time.time(), self._chains.heads
            idle = time.monotonic() - began < IDLE_SECONDS
            if idle and heads == (self._last.anchored.heads if self._last else {}):
                self._time.set(now)
                continue
            try:
                await self._anchor(heads)
                self._time.set(now)
                began = time.monotonic()
            except AnchorExists:
                # An earlier attempt succeeded but its response was lost.
                self._last = await asyncio.to_thread(self._newest)
            except (VaultUnavailableError, MeshError, AnchorError) as error:
                self._failures.inc()
                _log.warning("no anchor could be made: %s; the next one covers it", error)

    async def _anchor(self, heads: Mapping[str, Head]) -> None:
        last = self._last
        number = last.anchored.number + 1 if last else 1
        document = audit_anchors.document(
            number, datetime.now(UTC), heads, self._offset, last.hash if last else ""
        )
        sealed = audit_anchors.seal(document, await asyncio.to_thread(self._signer.sign, document))
        keys = await asyncio.to_thread(self._signer.public_keys)
        anchor = open_sealed(sealed, keys)
        await asyncio.to_thread(self._store.put, number, sealed)
        self._last = anchor
        _log.info("anchored", extra={"number": number, "offset": self._offset})
