"""Instruments of the exchange: names, assets and the filters of exchangeInfo."""

from collections.abc import Iterator
from dataclasses import dataclass

from coinmesh_simulators.exchange.amounts import ONE, SCALE, to_text, to_units

# Longest first, so that FDUSD is not read as USD.
_QUOTES = (
    "FDUSD USDT USDC TUSD BUSD USDP USDE USD1 IDRT BIDR AEUR EURI USD BTC ETH BNB SOL XRP TRX DAI "
    "EUR GBP AUD TRY BRL JPY ARS MXN PLN RON UAH ZAR CZK COP NGN RUB DOGE DOT VAI PAX"
).split()

# symbol, price, tick, lot: the order is the order of activity.
_KNOWN = (
    ("BTCUSDT", "60000", "0.01", "0.00001"),
    ("ETHUSDT", "2600", "0.01", "0.0001"),
    ("SOLUSDT", "150", "0.01", "0.001"),
    ("BNBUSDT", "520", "0.01", "0.001"),
    ("XRPUSDT", "0.6", "0.0001", "0.1"),
    ("DOGEUSDT", "0.1", "0.00001", "1"),
    ("ADAUSDT", "0.35", "0.0001", "0.1"),
    ("AVAXUSDT", "22", "0.01", "0.01"),
    ("LINKUSDT", "10", "0.01", "0.01"),
    ("ETHBTC", "0.043", "0.00001", "0.0001"),
    ("DOTUSDT", "4.5", "0.001", "0.01"),
    ("LTCUSDT", "60", "0.01", "0.001"),
)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A spot symbol; `tick`, `lot` and `price` (an initial reference) are 10^-8 units."""

    symbol: str
    tick: int
    lot: int
    price: int = 0

    @property
    def stream(self) -> str:
        """Return the symbol's form in stream names."""
        return self.symbol.lower()

    def assets(self) -> tuple[str, str]:
        """Return base and quote asset, split at the longest known quote asset."""
        for quote in sorted(_QUOTES, key=len, reverse=True):
            if self.symbol.endswith(quote) and self.symbol != quote:
                return self.symbol.removesuffix(quote), quote
        cut = max(1, len(self.symbol) - 3)
        return self.symbol[:cut], self.symbol[cut:] or self.symbol

    def info(self, status: str = "TRADING") -> dict[str, object]:
        """Return the symbol's entry in `GET /api/v3/exchangeInfo`."""
        base, quote = self.assets()
        return {
            "symbol": self.symbol,
            "status": status,
            "baseAsset": base,
            "baseAssetPrecision": SCALE,
            "quoteAsset": quote,
            "quotePrecision": SCALE,
            "quoteAssetPrecision": SCALE,
            "baseCommissionPrecision": SCALE,
            "quoteCommissionPrecision": SCALE,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "icebergAllowed": True,
            "ocoAllowed": True,
            "otoAllowed": True,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": True,
            "cancelReplaceAllowed": True,
            "amendAllowed": True,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": self._filters(),
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
            "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
        }

    def _filters(self) -> list[dict[str, object]]:
        """Return its filters, in an order that differs between symbols: none is documented."""
        tick, lot = to_text(self.tick), to_text(self.lot)
        most = to_text(90_000_000 * ONE)
        filters: list[dict[str, object]] = [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": to_text(10_000_000 * ONE),
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": most, "stepSize": lot},
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": to_text(0),
                "maxQty": most,
                "stepSize": to_text(0),
            },
            {
                "filterType": "NOTIONAL",
                "minNotional": "5.00000000",
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
        ]
        first = sum(self.symbol.encode()) % len(filters)
        return filters[first:] + filters[:first]


def listed(request: str) -> list[Instrument]:
    """Return instruments for `COINMESH_SIM_SYMBOLS`: a number, or names separated by commas.

    Raises:
        ValueError: The request names no symbol, or one twice.
    """
    known = {
        symbol: Instrument(symbol, to_units(tick), to_units(lot), to_units(price))
        for symbol, price, tick, lot in _KNOWN
    }
    if request.strip().isdigit():
        count = int(request)
        names = list(_numbered(list(known), count))
    else:
        names = [name.strip().upper() for name in request.split(",") if name.strip()]
    if not names:
        raise ValueError(
            f"COINMESH_SIM_SYMBOLS={request!r} names no symbol: give a number or BTCUSDT,ETHUSDT"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"COINMESH_SIM_SYMBOLS={request!r} names a symbol twice")
    return [known.get(name) or _invented(name) for name in names]


def _numbered(known: list[str], count: int) -> Iterator[str]:
    yield from known[:count]
    for number in range(len(known), count):
        yield f"SIM{number + 1}USDT"


def _invented(name: str) -> Instrument:
    # A price between 0.5 and 100, the same for a name in every run.
    price = ONE // 2 + (sum(name.encode()) * 7919 % 995) * ONE // 10
    return Instrument(name, ONE // 10_000, ONE // 100, price)
