"""Dashboards of the data flow: throughput, completeness, freshness and correctness."""

from coinmesh_observability.alerts import objectives
from coinmesh_observability.panels import Dashboard, Panel
from coinmesh_observability.queries import (
    BAR_DELAY,
    BATCHES,
    EVENTS,
    LAG_SECONDS,
    LIVE_DELAY,
    newest,
    quantiles,
    rate,
)

THROUGHPUT = Dashboard(
    "throughput",
    "Throughput",
    "What flows through the mesh, from the exchange to readers.",
    {
        "In": [
            EVENTS,
            Panel(
                "Acknowledged by Kafka",
                "cps",
                {"{{topic}}": rate("coinmesh_producer_acked_total", "topic")},
                stacked=True,
            ),
            Panel(
                "Waiting in producers",
                "short",
                {
                    "{{instance}} queue": newest("coinmesh_producer_queue_records"),
                    "{{instance}} backpressure": newest("coinmesh_source_waiting_records"),
                },
            ),
            Panel(
                "Quota used",
                "percentunit",
                {
                    "{{instance}}": "coinmesh_source_rest_weight_used"
                    " / coinmesh_source_rest_weight_limit",
                },
                limit=0.85,
            ),
        ],
        "Through": [
            Panel(
                "Stream",
                "cps",
                {
                    "records": rate("coinmesh_spark_records_total"),
                    "trades in bars": rate("coinmesh_spark_trades_total"),
                },
            ),
            Panel(
                "Rows to Cassandra",
                "wps",
                {"{{table}}": rate("coinmesh_spark_rows_total", "table")},
            ),
            Panel(
                "Archive",
                "Bps",
                {"{{topic}}": rate("coinmesh_spark_archive_bytes_total", "topic")},
                stacked=True,
            ),
            Panel(
                "Into live views",
                "cps",
                {"{{instance}} {{topic}}": rate("coinmesh_live_events_total", "instance, topic")},
            ),
        ],
        "Out": [
            Panel(
                "RPCs",
                "reqps",
                {
                    "{{rpc_method}}": rate(
                        "coinmesh_rpc_handled_total", "rpc_method", 'rpc_service=~"coinmesh.*"'
                    )
                },
            ),
            Panel(
                "Readers of the live stream", "short", {"{{instance}}": "coinmesh_stream_readers"}
            ),
        ],
    },
)

LAG = Dashboard(
    "lag",
    "Consumer lag",
    "Who is behind, by how many records and how many seconds.",
    {
        "Seconds": [LAG_SECONDS, LIVE_DELAY],
        "Records": [
            Panel(
                "Readers",
                "short",
                {
                    "{{instance}} {{topic}}": newest(
                        "coinmesh_consumer_lag_records", by="instance, topic"
                    ),
                },
            ),
            Panel(
                "Stream and archive",
                "short",
                {
                    "{{query}} {{topic}}": "sum by (query, topic) (coinmesh_spark_lag_records)",
                },
            ),
            Panel(
                "Kept in Kafka",
                "short",
                {
                    "{{topic}}": "sum by (topic) ("
                    "max by (topic, partition) (kafka_log_logendoffset)"
                    " - max by (topic, partition) (kafka_log_logstartoffset))",
                },
                width=24,
            ),
        ],
    },
)

JOBS = Dashboard(
    "jobs",
    "Job latency",
    "How long batches and their steps take.",
    {
        "Batches": [BATCHES, BAR_DELAY],
        "Inside": [
            Panel(
                "Steps of a task",
                "s",
                quantiles("coinmesh_spark_task_step_seconds", "step", legend="{{step}}"),
            ),
            Panel(
                "Share of time in batches",
                "percentunit",
                {
                    "{{query}}": rate("coinmesh_spark_batch_seconds_sum", "query"),
                },
                limit=1,
            ),
        ],
    },
)

FRESHNESS = Dashboard(
    "freshness",
    "Freshness and objectives",
    "Whether the promises hold, and how fast their budgets burn.",
    {
        "Budgets": [
            Panel(
                f"{name}: {each.promise}",
                "percentunit",
                {
                    window: f'coinmesh:slo_bad:ratio{window}{{slo="{name}"}}'
                    for window in ("5m", "1h", "6h", "3d")
                },
                limit=round(1 - each.objective, 6),
            )
            for name, each in objectives().items()
        ],
        "Freshness": [
            BAR_DELAY,
            LIVE_DELAY,
            Panel(
                "Age of the newest event in the view",
                "s",
                {
                    "{{instance}} {{topic}}": "time() - coinmesh_live_newest_seconds",
                },
                width=24,
                text="Since Kafka took it; instruments and indicators change rarely.",
            ),
        ],
    },
)

QUALITY = Dashboard(
    "quality",
    "Data quality",
    "Whether everything arrived, once, in time and right.",
    {
        "Complete": [
            Panel(
                "Gaps found",
                "cps",
                {
                    "{{instrument}} {{channel}}": rate(
                        "coinmesh_source_gaps_total", "instrument, channel"
                    )
                },
            ),
            Panel("Gaps open", "short", {"{{instrument}}": "coinmesh_source_open_gaps"}, limit=1),
        ],
        "Once": [
            Panel(
                "Duplicates dropped by collectors",
                "cps",
                {
                    "{{instrument}} {{channel}}": rate(
                        "coinmesh_source_duplicates_total", "instrument, channel"
                    )
                },
            ),
            Panel(
                "Duplicates dropped by the stream",
                "cps",
                {"{{partition}}": rate("coinmesh_spark_duplicate_trades_total", "partition")},
            ),
        ],
        "In time": [
            Panel(
                "Late trades",
                "cps",
                {"{{partition}}": rate("coinmesh_spark_late_trades_total", "partition")},
            ),
            Panel(
                "The exchange's clock minus ours",
                "s",
                {"{{instance}}": "coinmesh_source_clock_offset_seconds"},
            ),
        ],
        "Right": [
            Panel(
                "Book audits",
                "cps",
                {
                    "{{instrument}} match": rate(
                        "coinmesh_binance_book_audits_matching_total", "instrument"
                    ),
                    "{{instrument}} differ": rate(
                        "coinmesh_binance_book_audits_differing_total", "instrument"
                    ),
                },
            ),
            Panel(
                "Klines that contradict our trades",
                "cps",
                {"{{instrument}}": rate("coinmesh_binance_kline_mismatches_total", "instrument")},
            ),
            Panel(
                "Holes in books of the live view", "short", {"{{instance}}": "coinmesh_book_holes"}
            ),
            Panel(
                "Messages of streams not collected",
                "cps",
                {"{{instance}}": rate("coinmesh_source_ignored_messages_total", "instance")},
            ),
        ],
    },
)
