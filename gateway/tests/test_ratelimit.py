"""The program that runs ratelimit, with a script in its place."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from coinmesh_gateway import ratelimit
from coinmesh_gateway.catalogue import CatalogueError
from coinmesh_local.testing import eventually
from meshkit import rotation
from meshkit.settings import Address, RedisSettings

SCRIPT = '#!/bin/sh\necho "$REDIS_AUTH" >> "$RUNTIME_ROOT/told"\nexec sleep 60\n'


def test_it_is_started_anew_with_each_new_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "CHECK_SECONDS", 0.02)
    program, credentials = tmp_path / "program", tmp_path / "redis.json"
    program.write_text(SCRIPT)
    program.chmod(0o700)

    def rotate(password: str) -> None:
        made = tmp_path / "made.json"
        made.write_text(json.dumps({"username": "ratelimit", "password": password}))
        made.chmod(0o600)
        made.replace(credentials)

    def told() -> list[str]:
        return (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else []

    rotate("first")
    settings = RedisSettings(redis_url="redis://127.0.0.1:1", redis_credentials_file=credentials)
    grpc = Address("127.0.0.1", 1)

    async def run() -> int:
        running = asyncio.create_task(
            ratelimit.run(
                str(program),
                settings,
                lambda: ratelimit.environment(settings, grpc, tmp_path),
            )
        )
        seen = list[str]()
        for password in ("first", "second", "third"):
            rotate(password)
            seen.append(f"ratelimit:{password}")
            await asyncio.to_thread(eventually, lambda: told() == seen, f"it is told {seen}")
        os.kill(os.getpid(), signal.SIGTERM)
        return await running

    assert asyncio.run(run()) == 0


def test_what_it_shows_fails_while_it_is_away_and_no_more_is_shown(tmp_path: Path) -> None:
    told = list[str]()
    app = ratelimit.shown(tmp_path)
    for path in ("/metrics", "/healthcheck", "/json"):
        app({"PATH_INFO": path}, lambda status, headers: told.append(status))
    assert [status[:3] for status in told] == ["503", "503", "404"]


def test_a_directory_too_long_for_sockets_is_told(tmp_path: Path) -> None:
    settings = RedisSettings(redis_url="redis://127.0.0.1:1")
    with pytest.raises(CatalogueError, match="at most 107 bytes"):
        ratelimit.environment(settings, Address("127.0.0.1", 1), tmp_path / ("a" * 100))
