"""Cases of the stream's alerts."""

from coinmesh_observability.testing import Case, growing, held, one, steps

BATCH = 'coinmesh_spark_batch_seconds_bucket{query="bars"'
STREAM = 'coinmesh_spark_records_total{partition="0"}'
ACKED = (
    'coinmesh_producer_acked_total{job="collector",instance="collector",topic="market.trades.v1"}'
)
LATE, TRADES = (
    'coinmesh_spark_late_trades_total{partition="0"}',
    'coinmesh_spark_trades_total{partition="0"}',
)

CASES = {
    "StreamStands": Case(
        {STREAM: held(100), ACKED: growing(100)}, {STREAM: held(100), ACKED: held(100)}
    ),
    "QueryDown": one('coinmesh_spark_query_up{query="bars"}', held(0), steps(*[0] * 38, *[1] * 3)),
    # Time begins at 0.
    "QueryHangs": one(
        'coinmesh_spark_query_progress_time_seconds{query="bars"}', held(600), held(1190)
    ),
    "StreamBehind": one(
        'coinmesh_spark_lag_seconds{query="bars",topic="market.trades.v1",partition="0"}',
        held(60),
        held(2),
    ),
    "ArchiveBehind": one(
        'coinmesh_spark_lag_seconds{query="archive-ingest",topic="ingest.frames.v1",partition="0"}',
        held(3600),
        held(60),
    ),
    "ArchiveTopicStopped": one(
        'coinmesh_spark_archive_stopped{topic="market.trades.v1"}', held(1), held(0)
    ),
    "BatchesSlow": Case(
        {
            f'{BATCH},le="3.0"}}': growing(8),
            f'{BATCH},le="5.0"}}': growing(10),
            f'{BATCH},le="+Inf"}}': growing(10),
        },
        {
            f'{BATCH},le="3.0"}}': growing(10),
            f'{BATCH},le="5.0"}}': growing(10),
            f'{BATCH},le="+Inf"}}': growing(10),
        },
    ),
    "QueryRestarts": one(
        'coinmesh_spark_query_restarts_total{query="bars"}',
        growing(0.2),
        steps(*[0] * 30, *[1] * 11),
    ),
    "LateTrades": Case(
        {LATE: growing(1), TRADES: growing(500)}, {LATE: growing(1), TRADES: growing(5000)}
    ),
    "StateGrows": one('coinmesh_spark_snapshot_bytes{partition="0"}', held(6e8), held(4e8)),
}

OTHERS = [
    # A new process has no counters before its first batch.
    ("StreamStands", Case({ACKED: growing(100)}, {ACKED: held(100)})),
]
