"""Queries and panels shared by several dashboards."""

from typing import Final

from coinmesh_observability.panels import Panel

RATE: Final = "$__rate_interval"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Return the summed rate of a counter, by labels."""
    selected = f"{metric}{{{where}}}" if where else metric
    return f"sum{f' by ({by}) ' if by else ''}(rate({selected}[{RATE}]))"


def stat(title: str, unit: str, expr: str, limit: float | None = None, text: str = "") -> Panel:
    """Return a panel with one number."""
    return Panel(title, unit, {title: expr}, "stat", width=6, limit=limit, text=text)


def quantiles(metric: str, by: str = "", where: str = "", legend: str = "") -> dict[str, str]:
    """Return the queries for median and 99th percentile of a histogram, by labels."""
    labels = f"{by}, le" if by else "le"
    selected = f"{metric}_bucket{{{where}}}" if where else f"{metric}_bucket"
    return {
        f"{legend} p{share * 100:g}".strip(): (
            f"histogram_quantile({share}, sum by ({labels}) (rate({selected}[{RATE}])))"
        )
        for share in (0.5, 0.99)
    }


def increase(counter: str, by: str, over: str = "1h") -> str:
    """Return the increase of a counter, by labels."""
    return f"sum by ({by}) (increase({counter}[{over}]))"


def newest(metric: str, how: str = "sum", by: str = "instance") -> str:
    """Return the present values of a gauge, aggregated by labels."""
    return f"{how} by ({by}) ({metric})"


EVENTS = Panel(
    "Events published",
    "cps",
    {"{{instrument}} {{channel}}": rate("coinmesh_source_events_total", "instrument, channel")},
    stacked=True,
)
LAG_SECONDS = Panel(
    "Readers' lag in seconds",
    "s",
    {
        "{{instance}} {{topic}}": "max by (instance, topic) (coinmesh_consumer_lag_seconds)",
        "{{query}} {{topic}}": "max by (query, topic) (coinmesh_spark_lag_seconds)",
    },
    limit=10,
    text="Age of the newest record taken while there are newer ones; 0 for who has them all.",
)
BATCHES = Panel(
    "Micro-batches",
    "s",
    quantiles("coinmesh_spark_batch_seconds", "query", legend="{{query}}"),
    limit=3,
)
BAR_DELAY = Panel(
    "Trade to bar",
    "s",
    quantiles("coinmesh_spark_bar_delay_seconds"),
    limit=3,
    text="From Kafka's append to the end of the batch that has written the bar.",
)
LIVE_DELAY = Panel(
    "Append to live view",
    "s",
    quantiles("coinmesh_live_delay_seconds", "topic", legend="{{topic}}"),
    limit=0.25,
    exemplars=True,
)
RPC_SECONDS = Panel(
    "RPC duration",
    "s",
    quantiles("coinmesh_rpc_seconds", "rpc_method", 'rpc_service=~"coinmesh.*"', "{{rpc_method}}"),
    exemplars=True,
    text="Points lead to the trace of a sampled call.",
)
