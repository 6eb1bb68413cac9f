"""The exchange's clock, and the request that changes its speed."""

from collections.abc import Callable
from typing import Any

import pytest

from coinmesh_simulators.exchange.clock import ExchangeClock

SECOND_NS = 10**9


def test_another_speed_goes_on_from_the_present_time() -> None:
    wall = 0
    clock = ExchangeClock(20, 1_000_000, lambda: wall)
    clock.start(1_000_000)
    wall += SECOND_NS
    clock.change_speed(2)
    assert clock.now() == 21_000_000
    wall += SECOND_NS
    assert clock.now() == 23_000_000
    assert clock.wall_seconds_until(25_000_000) == 1


def test_a_standing_clock_starts_with_the_changed_speed() -> None:
    wall = 0
    clock = ExchangeClock(1, 0, lambda: wall)
    clock.change_speed(3)
    wall += SECOND_NS
    assert clock.now() == 0
    clock.start(0)
    wall += SECOND_NS
    assert clock.now() == 3_000_000


@pytest.mark.parametrize("speed", [0, -1, "fast", 20_000])
async def test_a_wrong_speed_is_rejected(local: Callable[..., Any], speed: object) -> None:
    sim = await local()
    body = {"speed": speed}
    async with sim.session.post(f"{sim.admin}/admin/speed", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"][0]["loc"] == ["speed"]


async def test_a_changed_speed_lets_market_time_run(local: Callable[..., Any]) -> None:
    sim = await local(speed=0.001)
    before = (await sim.status())["marketTime"]
    async with sim.session.post(f"{sim.admin}/admin/speed", json={"speed": 10_000}) as response:
        assert response.status == 200
    while (await sim.status())["marketTime"] < before + 60_000_000:
        pass
