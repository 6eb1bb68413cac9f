"""What the certificate agent runs after a renewal."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from issuing import TABLE, agent, live, renew

from coinmesh_access import certificates
from coinmesh_access.agent import HookError, Place, read_hooks
from coinmesh_access.table import AccessError
from coinmesh_local.testing import eventually

pytestmark = pytest.mark.component


async def test_hooks_run_once_for_each_certificate_even_after_a_kill(
    bao: Any, tmp_path: Path
) -> None:
    live(bao, "redis", 3600)
    told = tmp_path / "told"
    hook = ["sh", "-c", f'echo "$COINMESH_CERT_SERVICE $COINMESH_CERT_SERIAL" >> {told}']
    # As after a kill between the swap and the hooks: the certificate is there, unmarked.
    published = renew(bao, "redis", tmp_path / "tls")
    place = Place("redis", tmp_path / "tls")
    for _ in range(2):
        await agent(bao, {"redis": [hook]}).once([place])
    assert told.read_text().splitlines() == [f"redis {published.serial}"]


async def test_a_hook_that_fails_is_told_and_tried_again(bao: Any, tmp_path: Path) -> None:
    live(bao, "redis", 3600)
    flag = tmp_path / "flag"
    hook = ["sh", "-c", f"test -e {flag} || {{ touch {flag}; echo no luck; exit 3; }}"]
    place = Place("redis", tmp_path / "tls")
    with pytest.raises(HookError, match="ended with 3: no luck"):
        await agent(bao, {"redis": [hook]}).once([place])
    flag.unlink()
    keeper = asyncio.create_task(agent(bao, {"redis": [hook]}).run([place]))
    try:
        await asyncio.to_thread(
            eventually,
            lambda: getattr(certificates.current(place.directory), "hooks_done", False),
            "the hook succeeds",
            timeout=30,
        )
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def test_hooks_of_two_services_run_one_after_the_other(bao: Any, tmp_path: Path) -> None:
    names = ("redis", "cassandra")
    for name in names:
        live(bao, name, 3600)
    alone = tmp_path / "alone"
    hook = ["sh", "-c", f"mkdir {alone} && sleep 0.5 && rmdir {alone}"]
    places = [Place(name, tmp_path / name) for name in names]
    await agent(bao, {name: [hook] for name in names}).once(places)
    assert all(getattr(certificates.current(p.directory), "hooks_done", False) for p in places)


def test_hooks_of_an_unknown_service_are_told(tmp_path: Path) -> None:
    path = tmp_path / "hooks.toml"
    path.write_text('rediss = [["true"]]\n')
    with pytest.raises(AccessError, match="rediss"):
        read_hooks(path, TABLE)
    path.write_text('redis = ["true"]\n')
    with pytest.raises(AccessError, match="list of commands"):
        read_hooks(path, TABLE)


async def test_a_hook_waits_for_its_turn_a_tenth_of_its_certificates_life(
    bao: Any, tmp_path: Path
) -> None:
    names = ("redis", "cassandra")
    for name in names:
        live(bao, name, 20)
    both = " -a ".join(f"-e {tmp_path}/{name}.ran" for name in names)
    # Whoever is first keeps its turn until the other runs, too.
    wait = f"touch {tmp_path}/$COINMESH_CERT_SERVICE.ran; until test {both}; do sleep 0.1; done"
    places = [Place(name, tmp_path / name) for name in names]
    await agent(bao, {name: [["sh", "-c", wait]] for name in names}).once(places)
