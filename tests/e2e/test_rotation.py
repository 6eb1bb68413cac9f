"""Certificates and static credentials renewed under load: all take them up, nothing fails."""

import datetime
import itertools
import signal
import threading
from types import TracebackType
from typing import Any

import httpx
import pytest
from redis import Redis

from coinmesh_local import listeners, local_user
from coinmesh_local.static_credentials import rotate
from coinmesh_local.testing import TestMesh, eventually
from meshkit.redis_options import redis_options
from meshkit.s3 import s3_client
from meshkit.settings import RedisSettings, S3Settings

pytestmark = pytest.mark.e2e


class Requests:
    """Requests one after the other until the block ends."""

    def __init__(self, rest: httpx.Client, paths: list[str]) -> None:
        self._rest, self._paths, self._stop = rest, paths, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count, self.failed = 0, list[str]()

    def _run(self) -> None:
        for path in itertools.cycle(self._paths):
            # Not as many as can be: what is restarted needs the CPU.
            if self._stop.wait(0.02):
                return
            try:
                self._rest.get(path).raise_for_status()
            except httpx.HTTPError as error:
                self.failed.append(f"{path}: {error!r}")
            self.count += 1

    def __enter__(self) -> "Requests":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def test_a_renewal_of_everything_costs_no_request_and_no_event(last_run: Any) -> None:
    run, mesh = last_run, last_run.mesh
    mesh.require("ratelimit", "redis-exporter", "audit-anchor")
    closed = listeners.closed(mesh)

    def made(component: str) -> int:
        return listeners.issued_serial(mesh, mesh.mesh.definitions[component].identity)

    before = {each: made(each.component) for each in closed}
    assert len({each.component for each in closed}) > 8
    paths = [
        f"/v1/instruments/{instrument}/{what}"
        for instrument in run.instruments.values()
        for what in ("ticker", "bars?interval=1m&page_size=5", "bars:view?interval=1s", "book")
    ]
    users = {"query-gateway", "ratelimit"}
    eventually(lambda: logged_in(mesh) >= users, f"{users} are logged in")
    pending = list(closed)
    visitor = listeners.of_the_mesh(mesh, "deploy")
    first = {instrument: run.last_trade(symbol) for symbol, instrument in run.instruments.items()}

    def all_serve_the_new_one() -> bool:
        for each in list(pending):
            now = made(each.component)
            if now != before[each] and listeners.served(each, visitor) == now:
                pending.remove(each)
        return not pending

    with Requests(run.rest, paths) as requests:
        rotate(mesh.mesh)
        mesh.component("certs").signal(signal.SIGHUP)
        try:
            eventually(all_serve_the_new_one, "every listener serves its new certificate", 400)
        except AssertionError:
            raise AssertionError(f"with the old certificate: {pending}") from None
        # Now what was valid at the start no longer is.
        rotate(mesh.mesh)
        rotated = datetime.datetime.now(datetime.UTC)
        # It is on record, so there is something to anchor.
        local_user.token(mesh.mesh)
        with redis(mesh) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: logged_in(mesh) >= users, f"{users} are logged in again")
        (port,) = (e.port for e in closed if (e.component, e.name) == ("redis-exporter", "metrics"))
        url = f"https://127.0.0.1:{port}/metrics"
        answer = httpx.get(url, verify=mesh.tls("prometheus"), timeout=30)
        assert "\nredis_up 1.0\n" in answer.text
        for bucket in ("coinmesh", "coinmesh-audit"):
            eventually(
                lambda one=bucket: last_object(mesh, one) > rotated, f"an object in {bucket}"
            )
        # What started again is at work again: trades that are made now come to the readers.
        for symbol, instrument in run.instruments.items():
            last = run.last_trade(symbol)
            eventually(
                lambda one=instrument, least=last: newest(run.rest, one) >= least,
                f"trade {last} of {instrument} is served",
            )
    assert requests.failed == []
    assert requests.count > 100
    for instrument in run.instruments.values():
        eventually(
            lambda one=instrument: is_whole(run.rest, one, first[one]),
            f"no trade of {instrument} lacks",
        )


def redis(mesh: TestMesh) -> Redis:
    """Redis as the deployer."""
    settings = mesh.read(RedisSettings)
    return Redis.from_url(settings.redis_url, **redis_options(settings))


def logged_in(mesh: TestMesh) -> set[str]:
    """Who has a connection to Redis."""
    with redis(mesh) as client:
        return {each["user"] for each in client.client_list()} - {"deploy"}


def last_object(mesh: TestMesh, bucket: str) -> datetime.datetime:
    """When the newest object of a bucket was written."""
    pages = s3_client(mesh.read(S3Settings)).get_paginator("list_objects_v2")
    return max(
        each["LastModified"]
        for page in pages.paginate(Bucket=bucket)
        for each in page.get("Contents", ())
    )


def is_whole(rest: httpx.Client, instrument: str, first: int) -> bool:
    """Whether all trades from `first` on are served, at most the last 1,000."""
    answer = rest.get(f"/v1/instruments/{instrument}/trades", params={"page_size": 1000})
    ids = [int(trade["tradeId"]) for trade in answer.raise_for_status().json()["trades"]]
    if len(ids) < 1000 and ids[0] > first:
        return False
    since = [one for one in ids if one >= first]
    return since == list(range(max(first, ids[0]), ids[-1] + 1))


def newest(rest: httpx.Client, instrument: str) -> int:
    """The id of the last trade that is served."""
    answer = rest.get(f"/v1/instruments/{instrument}/trades", params={"page_size": 1})
    trades = answer.raise_for_status().json()["trades"]
    return int(trades[0]["tradeId"]) if trades else -1
