"""What the collector's tests share: frames made of few values, and the recorded capture."""

import gzip
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def capture() -> Path:
    """The recorded BTCUSDT capture."""
    folder = Path(os.environ.get("COINMESH_RECORDED", CHECKOUT.parent / "shared" / "recorded"))
    path = folder / "binance" / "spot_btcusdt_20240808.gz"
    if not path.exists():
        pytest.skip(f"no recorded capture at {path}; set COINMESH_RECORDED to its folder")
    return path


@pytest.fixture(scope="session")
def capture_lines(capture: Path) -> list[bytes]:
    """The recorded capture, line by line."""
    with gzip.open(capture) as file:
        return file.read().splitlines()


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    """A directory for a replay's output."""
    return tmp_path / "out"
