"""Dashboards of the third-party components."""

from coinmesh_observability.panels import Dashboard, Panel
from coinmesh_observability.queries import (
    BAR_DELAY,
    BATCHES,
    RATE,
    increase,
    quantiles,
    rate,
    stat,
)

COMPONENTS = Dashboard(
    "components",
    "Components",
    "Every process group that the supervisor keeps, also those without metrics of their own.",
    {
        "State": [
            Panel(
                "Answers its probe",
                "short",
                {"{{replica}}": "coinmesh_component_ready"},
                text="Those that were stopped on purpose are not shown.",
            ),
            Panel(
                "Restarts after crashes in an hour",
                "short",
                {"{{replica}}": increase("coinmesh_component_restarts_total", "replica")},
                limit=3,
            ),
        ],
        "Use": [
            Panel(
                "CPU",
                "percentunit",
                {"{{replica}}": rate("coinmesh_component_cpu_seconds_total", "replica")},
                stacked=True,
            ),
            Panel(
                "Memory",
                "bytes",
                {"{{replica}}": "coinmesh_component_resident_bytes"},
                stacked=True,
            ),
            Panel(
                "Descriptors of the process nearest to its limit",
                "percentunit",
                {"{{replica}}": "coinmesh_component_open_fds / coinmesh_component_max_fds"},
                limit=0.8,
            ),
            stat(
                "Supervisor silent for",
                "s",
                "time() - coinmesh_supervisor_answer_time_seconds",
                90,
            ),
        ],
    },
)

KAFKA = Dashboard(
    "kafka",
    "Kafka",
    "Brokers and controllers.",
    {
        "Health": [
            stat("Brokers", "short", "max(kafka_controller_activebrokercount)"),
            stat("Active controllers", "short", "sum(kafka_controller_activecontrollercount)"),
            stat(
                "Partitions without leader",
                "short",
                "sum(kafka_controller_offlinepartitionscount)",
                1,
            ),
            stat(
                "Under-replicated partitions",
                "short",
                "sum(kafka_replicas_underreplicatedpartitions)",
                1,
            ),
        ],
        "Traffic": [
            Panel(
                "Records in",
                "cps",
                {"{{topic}}": rate("kafka_topic_messagesin_total", "topic")},
                stacked=True,
            ),
            Panel("Bytes in", "Bps", {"{{topic}}": rate("kafka_topic_bytesin_total", "topic")}),
            Panel("Bytes out", "Bps", {"{{topic}}": rate("kafka_topic_bytesout_total", "topic")}),
            Panel(
                "Size on disk",
                "bytes",
                {"{{topic}}": "sum by (topic) (kafka_log_size)"},
                stacked=True,
            ),
        ],
        "Work": [
            Panel(
                "Requests",
                "s",
                {
                    "{{instance}} {{request}} {{quantile}}": "kafka_request_seconds",
                },
            ),
            Panel(
                "Requests per second",
                "reqps",
                {"{{request}}": rate("kafka_requests_total", "request")},
            ),
            Panel(
                "Idle threads",
                "percentunit",
                {
                    "{{instance}} handlers": "kafka_request_handlers_idle_ratio",
                    "{{instance}} network": "kafka_network_processors_idle_ratio",
                },
            ),
            Panel(
                "Heap",
                "bytes",
                {
                    "{{instance}} {{area}}": 'jvm_memory_used_bytes{job="kafka",area="heap"}',
                },
            ),
        ],
    },
)

CASSANDRA = Dashboard(
    "cassandra",
    "Cassandra",
    "The database.",
    {
        "Requests": [
            Panel(
                "Requests per second",
                "reqps",
                {"{{request}}": rate("cassandra_requests_total", "request")},
            ),
            Panel("Duration", "s", {"{{request}} {{quantile}}": "cassandra_request_seconds"}),
            Panel(
                "Errors",
                "reqps",
                {
                    "{{request}} {{error}}": rate(
                        "cassandra_request_errors_total", "request, error"
                    ),
                },
            ),
            Panel("Clients", "short", {"{{instance}}": "cassandra_clients"}),
        ],
        "Storage": [
            Panel(
                "Live data by table",
                "bytes",
                {"{{table}}": "sum by (table) (cassandra_table_livediskspaceused)"},
                stacked=True,
            ),
            Panel("SSTables", "short", {"{{table}}": "cassandra_table_livesstablecount"}),
            Panel(
                "Compactions waiting",
                "short",
                {"{{instance}}": "cassandra_compactions_pending"},
                limit=50,
            ),
            Panel(
                "Dropped messages",
                "cps",
                {"{{message}}": rate("cassandra_dropped_messages_total", "message")},
            ),
        ],
        "Process": [
            Panel("Waiting in pools", "short", {"{{pool}}": "cassandra_pool_pending"}),
            Panel(
                "Heap and garbage collection",
                "percentunit",
                {
                    "heap": 'sum(jvm_memory_used_bytes{job="cassandra",area="heap"})'
                    ' / sum(jvm_memory_max_bytes{job="cassandra",area="heap"})',
                    "{{gc}}": rate("jvm_gc_collection_seconds_sum", "gc", 'job="cassandra"'),
                },
            ),
        ],
    },
)

SPARK = Dashboard(
    "spark",
    "Spark",
    "The stream and the archive.",
    {
        "Flow": [
            Panel(
                "Records by partition",
                "cps",
                {"{{partition}}": rate("coinmesh_spark_records_total", "partition")},
            ),
            BATCHES,
            BAR_DELAY,
            Panel(
                "Lag",
                "short",
                {"{{query}} {{topic}}": "sum by (query, topic) (coinmesh_spark_lag_records)"},
            ),
        ],
        "State": [
            Panel(
                "State by partition",
                "bytes",
                {"{{partition}}": "coinmesh_spark_snapshot_bytes"},
                stacked=True,
            ),
            Panel(
                "Instruments by partition",
                "short",
                {"{{partition}}": "coinmesh_spark_state_instruments"},
            ),
            Panel(
                "Newest event time",
                "dateTimeAsIso",
                {"{{partition}}": "coinmesh_spark_newest_event_seconds * 1000"},
            ),
            Panel(
                "Restarts of queries in an hour",
                "short",
                {
                    "{{query}}": increase("coinmesh_spark_query_restarts_total", "query"),
                },
            ),
        ],
        "Archive": [
            Panel(
                "Objects",
                "cps",
                {"{{topic}}": rate("coinmesh_spark_archive_objects_total", "topic")},
            ),
            Panel(
                "Records",
                "cps",
                {"{{topic}}": rate("coinmesh_spark_archive_records_total", "topic")},
            ),
        ],
        "Process": [
            Panel(
                "CPU of the driver's Python",
                "percentunit",
                {
                    "{{instance}}": rate("process_cpu_seconds_total", "instance")
                    + " and on (instance) coinmesh_spark_query_up"
                },
            ),
            Panel(
                "Memory of the driver's Python",
                "bytes",
                {
                    "{{instance}}": "process_resident_memory_bytes "
                    "and on (instance) coinmesh_spark_query_up",
                },
            ),
        ],
    },
)

EDGE = Dashboard(
    "edge",
    "Edge and cache",
    "Envoy before the services, Redis behind them.",
    {
        "Envoy": [
            Panel(
                "Requests",
                "reqps",
                {
                    "{{envoy_response_code_class}}xx": rate(
                        "envoy_http_downstream_rq_xx", "envoy_response_code_class"
                    ),
                },
                stacked=True,
            ),
            Panel(
                "Upstream duration",
                "ms",
                quantiles(
                    "envoy_cluster_upstream_rq_time",
                    "envoy_cluster_name",
                    legend="{{envoy_cluster_name}}",
                ),
            ),
            Panel(
                "Healthy upstreams",
                "short",
                {
                    "{{envoy_cluster_name}}": "envoy_cluster_membership_healthy",
                },
            ),
            Panel(
                "Connections",
                "short",
                {
                    "{{envoy_http_conn_manager_prefix}}": "envoy_http_downstream_cx_active",
                },
            ),
        ],
        "Quotas": [
            Panel(
                "Requests counted",
                "reqps",
                {"{{key1}}": rate("ratelimit_service_rate_limit_total_hits", "key1")},
                text="Of users with a limited tier, and attempts to log in.",
            ),
            Panel(
                "Beyond the quota",
                "reqps",
                {
                    "{{key1}}": rate("ratelimit_service_rate_limit_total_hits", "key1")
                    + " - "
                    + rate("ratelimit_service_rate_limit_within_limit", "key1"),
                },
                text="Answered 429.",
            ),
        ],
        "Charts": [
            Panel(
                "Found in",
                "percentunit",
                {
                    "{{found}}": rate("coinmesh_chart_reads_total", "found")
                    + " / ignoring (found) group_left () "
                    + rate("coinmesh_chart_reads_total"),
                },
                stacked=True,
            ),
            Panel(
                "Charts asked for",
                "reqps",
                {
                    "{{instance}}": rate("coinmesh_chart_reads_total", "instance"),
                },
            ),
        ],
        "Redis": [
            Panel("Commands", "reqps", {"redis": "rate(redis_commands_processed_total[5m])"}),
            Panel(
                "Memory",
                "bytes",
                {
                    "used": "redis_memory_used_bytes",
                    "limit": "redis_memory_max_bytes",
                },
            ),
            Panel(
                "Keys found",
                "cps",
                {
                    "hits": f"rate(redis_keyspace_hits_total[{RATE}])",
                    "misses": f"rate(redis_keyspace_misses_total[{RATE}])",
                },
            ),
            Panel("Evicted", "cps", {"keys": f"rate(redis_evicted_keys_total[{RATE}])"}),
        ],
    },
)
