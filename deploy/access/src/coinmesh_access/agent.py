"""Renew certificates and logins: one task per service, at two thirds of the lifetime."""

import asyncio
import contextlib
import logging
import os
import random
import tomllib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests
from hvac.exceptions import VaultError

from coinmesh_access import certificates, listener_certificate
from coinmesh_access.certificates import RENEW_SHARE, CertificateError, Published
from coinmesh_access.login import Vault, VaultUnavailableError, explained, replace_secret_id
from coinmesh_access.table import AccessError, AccessTable
from meshkit.backoff import Backoff
from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

JITTER_SHARE = 0.1
#: Maximum pause between attempts, as a share of a certificate's lifetime and in seconds.
BACKOFF_SHARE, BACKOFF_CAP_SECONDS = 1 / 60, 30.0
HOOK_SECONDS = 180.0
TURN_SHARE = 0.1

Hooks = Mapping[str, Sequence[Sequence[str]]]


class HookError(Exception):
    """Raised when a hook failed; the message names it."""


@dataclass(frozen=True)
class Place:
    """A certificate to keep valid and its directory.

    Attributes:
        service: The service, or OpenBao.
        directory: The directory that contains `current`.
        issue: Function that issues and publishes a certificate; None to request one from Vault,
            logged in as the service.
    """

    service: str
    directory: Path
    issue: Callable[[Path], Published] | None = None


def read_hooks(path: Path, table: AccessTable) -> Hooks:
    """Return the commands to run after a swap: `service = [["command", "argument"], …]` in TOML."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise AccessError(f"{path}: {error}") from error
    for service, commands in found.items():
        if service != listener_certificate.NAME:
            table.service(service)
        if not isinstance(commands, list) or not all(
            isinstance(c, list) and c and all(isinstance(w, str) for w in c) for c in commands
        ):
            raise AccessError(f'{path}: {service} must be a list of commands: [["a", "b"], …]')
    return found


class Agent:
    """Renew certificates of several services.

    Each service logs in as itself, so that none can request the certificate of another.
    """

    def __init__(
        self,
        vault: Vault,
        secrets_dir: Path,
        table: AccessTable,
        hooks: Hooks,
        metrics: Metrics,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._vault, self._secrets, self._table = vault, secrets_dir, table
        self._hooks, self._now = hooks, now
        self._known: dict[str, Published] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._hooking = asyncio.Lock()
        labels = ("peer",)
        self._renewals = metrics.counter("certificate_renewals", "Certificates renewed", labels)
        self._failures = metrics.counter(
            "certificate_renewal_failures", "Renewals that failed", labels
        )
        self._hook_failures = metrics.counter(
            "certificate_hook_failures", "Commands after a renewal that failed", labels
        )
        self._pending_hooks: dict[tuple[str, ...], float] = {}
        metrics.read_gauge(
            "certificate_hooks_pending",
            "Failed attempts to make a component use its newest certificate; 0 once it does",
            labels,
            lambda: self._pending_hooks,
        )
        metrics.read_gauge(
            "certificate_seconds_left",
            "Seconds until a certificate expires, negative afterwards",
            labels,
            self._left,
        )

    def _left(self) -> Mapping[tuple[str, ...], float]:
        now = self._now()
        return {(name,): found.seconds_left(now) for name, found in self._known.items()}

    async def once(self, places: Sequence[Place]) -> None:
        """Renew certificates that are due and run their hooks.

        A certificate that has not expired is kept when Vault is unreachable. An agent without any
        hooks leaves them to one that has some.

        Raises:
            VaultUnavailableError: A missing or expired certificate can't be renewed.
        """
        await asyncio.gather(*(self._once(place) for place in places))

    async def _once(self, place: Place) -> None:
        published = certificates.current(place.directory)
        if published is None or certificates.is_due(published, RENEW_SHARE):
            try:
                published = await self._renew(place)
            except VaultUnavailableError as error:
                if published is None or published.seconds_left(self._now()) <= 0:
                    raise
                _log.warning("%s keeps its certificate: %s", place.service, error)
        if self._hooks:
            await self._run_hooks(place, published)

    async def run(self, places: Sequence[Place]) -> None:
        """Renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            for place in places:
                group.create_task(self._keep(place), name=f"certificate-{place.service}")

    def renew_now(self) -> None:
        """Renew every certificate that `run` manages, due or not."""
        for asked in self._asked.values():
            asked.set()

    async def _keep(self, place: Place) -> None:
        backoff = Backoff(base=0.5, cap=BACKOFF_CAP_SECONDS)
        share = self._share()
        asked = self._asked[place.service] = asyncio.Event()
        while True:
            published = certificates.current(place.directory)
            if published is not None:
                self._known[place.service] = published
            if not (asked.is_set() or certificates.is_due(published, share)):
                assert published is not None
                await self._hooks_until_done(place, published)
                # Wait in short steps, so that a machine that was suspended soon notices a due
                # renewal.
                step = min(60.0, certificates.until(published.due(share)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(step):
                        await asked.wait()
                continue
            try:
                published = await self._renew(place)
            except VaultUnavailableError as error:
                self._failures.labels(place.service).inc()
                pause = next(backoff)
                left = published.seconds_left(self._now()) if published else 0.0
                _log.warning(
                    "%s, trying again",
                    error,
                    extra={"peer": place.service, "seconds_left": round(left), "pause": pause},
                )
                await asyncio.sleep(pause)
                continue
            asked.clear()
            cap = min(BACKOFF_CAP_SECONDS, max(0.5, published.life_seconds * BACKOFF_SHARE))
            backoff = Backoff(base=0.5, cap=cap)
            share = self._share()

    def _share(self) -> float:
        # Only ever earlier, so that certificates issued together are not all renewed at once.
        return RENEW_SHARE - random.uniform(0.0, JITTER_SHARE)

    async def _renew(self, place: Place) -> Published:
        what = f"renew the certificate of {place.service}"
        try:
            published = await asyncio.to_thread(self._sign, place)
        except (VaultError, requests.RequestException) as error:
            raise explained(error, what, self._vault.address) from error
        except (CertificateError, OSError, ValueError, KeyError) as error:
            raise VaultUnavailableError(f"can't {what}: {error}") from error
        self._known[place.service] = published
        self._renewals.labels(place.service).inc()
        _log.info(
            "certificate renewed",
            extra={
                "peer": place.service,
                "serial": published.serial,
                "not_after": published.not_after.isoformat(),
            },
        )
        return published

    def _sign(self, place: Place) -> Published:
        if place.issue is not None:
            return place.issue(place.directory)
        client = self._vault.login(self._secrets, place.service)
        try:
            replace_secret_id(client, self._secrets, place.service)
            return certificates.renew(client, self._table, place.service, place.directory)
        finally:
            # One token per renewal: no renewal of tokens, and no long-lived token to steal.
            client.logout(revoke_token=False)
            client.adapter.close()

    async def _hooks_until_done(self, place: Place, published: Published) -> None:
        """Run the hooks until they succeed or the next renewal is due."""
        backoff = Backoff(base=0.5, cap=BACKOFF_CAP_SECONDS)
        peer = (place.service,)
        self._pending_hooks[peer] = 0
        while not certificates.is_due(published, RENEW_SHARE):
            try:
                await self._run_hooks(place, published)
            except HookError as error:
                self._pending_hooks[peer] += 1
                _log.error("%s; trying again", error, extra={"peer": place.service})
                await backoff.wait()
            else:
                self._pending_hooks[peer] = 0
                return

    async def _run_hooks(self, place: Place, published: Published) -> None:
        if published.hooks_done:
            return
        if commands := self._hooks.get(place.service):
            async with self._turn(published):
                for command in commands:
                    await self._run_hook(place, published, command)
        published.mark_hooks_done()

    @contextlib.asynccontextmanager
    async def _turn(self, published: Published) -> AsyncGenerator[None, None]:
        """Run the hooks of one service at a time: a restarting component slows down the others.

        The wait is limited to a tenth of the certificate's lifetime.
        """
        mine = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(published.life_seconds * TURN_SHARE):
                mine = await self._hooking.acquire()
        try:
            yield
        finally:
            if mine:
                self._hooking.release()

    async def _run_hook(self, place: Place, published: Published, command: Sequence[str]) -> None:
        environment = {
            **os.environ,
            "COINMESH_CERT_SERVICE": place.service,
            "COINMESH_CERT_DIR": str(published.directory),
            "COINMESH_CERT_SERIAL": published.serial,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            self._hook_failures.labels(place.service).inc()
            raise HookError(f"hook {command[0]} of {place.service}: {error}") from error
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                output, _ = await process.communicate()
        except BaseException as error:
            process.kill()
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
            self._hook_failures.labels(place.service).inc()
            raise HookError(
                f"hook {command[0]} of {place.service} took over {HOOK_SECONDS:.0f} s"
            ) from error
        if process.returncode:
            self._hook_failures.labels(place.service).inc()
            told = output.decode(errors="replace").strip()[-500:]
            raise HookError(
                f"hook {command[0]} of {place.service} ended with {process.returncode}: {told}"
            )
        _log.info("hook done", extra={"peer": place.service, "hook": command[0]})
