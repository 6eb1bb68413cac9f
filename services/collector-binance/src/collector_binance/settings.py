"""The collector's settings."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from coinmesh_sources.settings import SourceSettings
from meshkit.settings import HttpUrl

MARKET_DATA_HOST: Final = "data-api.binance.vision"
HISTORY_URL: Final = "https://api.binance.com"


def _ws_url(text: str) -> str:
    if not text.startswith(("ws://", "wss://")):
        raise ValueError("expected a URL that begins with wss:// or ws://")
    return text.rstrip("/")


def _symbols(text: str) -> str:
    names = [name.strip().upper() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError("expected symbols separated by commas, or *")
    return ",".join(dict.fromkeys(names))


class CollectorSettings(SourceSettings):
    """Settings of collector-binance, read from the environment with the prefix COINMESH_."""

    service_name: str = Field(
        "collector-binance", min_length=1, description="the service's name", examples=["binance"]
    )
    binance_ws_url: Annotated[str, AfterValidator(_ws_url)] = Field(
        "wss://data-stream.binance.vision",
        description="the exchange's WebSocket address without a path",
        examples=["wss://data-stream.binance.vision"],
    )
    binance_rest_url: HttpUrl = Field(
        "https://data-api.binance.vision",
        description="the exchange's REST address without a path",
        examples=["https://data-api.binance.vision"],
    )
    binance_history_url: HttpUrl | None = Field(
        None,
        description="the REST address for historicalTrades, where it differs: the market-data "
        "host does not serve it; default https://api.binance.com beside that host, else the same",
        examples=["https://api1.binance.com"],
    )
    binance_mtls: bool = Field(
        False,
        description="1 for an exchange of our own mesh: it sees our certificate and must have one",
        examples=["1"],
    )
    binance_symbols: Annotated[str, AfterValidator(_symbols)] = Field(
        "*",
        description="what is collected: the venue's symbols, or * for all that trade",
        examples=["BTCUSDT,ETHUSDT"],
    )
    binance_snapshot_limit: Literal[100, 500, 1000, 5000] = Field(
        1000, description="levels a side of a REST book snapshot", examples=["1000"]
    )
    binance_stall_seconds: float = Field(
        60.0, gt=0, description="silence after which a connection is replaced", examples=["60"]
    )
    binance_rotation_seconds: float = Field(
        82_800.0,
        gt=0,
        description="age at which a connection is replaced, before the venue's 24 h; ± 2 %; "
        "with binance_mtls earlier, as its certificate wants",
        examples=["82800"],
    )
    binance_catalogue_seconds: float = Field(
        300.0, gt=0, description="how often exchangeInfo is read", examples=["300"]
    )
    binance_compiled: bool = Field(
        True, description="use the compiled core where it was built", examples=["true"]
    )
    binance_waiting_records: int = Field(
        20_000,
        gt=0,
        description="events that wait for Kafka before reading from the exchange pauses",
        examples=["20000"],
    )

    @property
    def history_url(self) -> str:
        """Return the REST address that serves historicalTrades.

        https://github.com/binance/binance-spot-api-docs/blob/master/faqs/market_data_only.md lists
        the endpoints of the market-data host; alternates of the other: api-gcp, api1 to api4.
        """
        if self.binance_history_url is not None:
            return self.binance_history_url
        is_market_data = urlsplit(self.binance_rest_url).hostname == MARKET_DATA_HOST
        return HISTORY_URL if is_market_data else self.binance_rest_url

    @property
    def symbols(self) -> list[str] | None:
        """Return the requested symbols; None for all that trade."""
        return None if self.binance_symbols == "*" else self.binance_symbols.split(",")
