"""Dashboards of the services: their calls and processes, and what goes wrong."""

from coinmesh_observability.panels import Dashboard, Panel
from coinmesh_observability.queries import RPC_SECONDS, quantiles, rate

OK = 'rpc_service=~"coinmesh.*",code=~"OK|CANCELLED|INVALID_ARGUMENT|NOT_FOUND"'
ERRORS = Dashboard(
    "errors",
    "Error rate",
    "What goes wrong, where.",
    {
        "Calls": [
            Panel(
                "RPCs not answered well",
                "percentunit",
                {
                    "{{job}}": f"1 - ({rate('coinmesh_rpc_handled_total', 'job', OK)} / "
                    + rate("coinmesh_rpc_handled_total", "job", 'rpc_service=~"coinmesh.*"')
                    + ")",
                },
            ),
            Panel(
                "RPCs by code",
                "reqps",
                {"{{code}}": rate("coinmesh_rpc_handled_total", "code")},
                stacked=True,
            ),
            Panel(
                "HTTP by class, at Envoy",
                "reqps",
                {
                    "{{envoy_response_code_class}}xx": rate(
                        "envoy_http_downstream_rq_xx", "envoy_response_code_class"
                    ),
                },
                stacked=True,
            ),
            Panel(
                "gRPC by status, at Envoy",
                "reqps",
                {"{{grpc_status}}": rate("envoy_cluster_grpc", "grpc_status")},
                stacked=True,
                text="Of users who speak gRPC; 0 is OK. Its HTTP status is always 200.",
            ),
            RPC_SECONDS,
        ],
        "Records": [
            Panel(
                "Dead letters kept",
                "short",
                {
                    "records": "sum(max by (partition) "
                    '(kafka_log_logendoffset{topic="ingest.dlq.v1"}) - max by (partition) '
                    '(kafka_log_logstartoffset{topic="ingest.dlq.v1"}))',
                },
                limit=1,
            ),
            Panel(
                "Restarts and rebuilds",
                "short",
                {
                    "process {{instance}}": "changes(process_start_time_seconds[1h])",
                    "book {{instrument}}": "increase(coinmesh_collector_book_resyncs_total[1h])",
                },
            ),
        ],
        "Alerts": [
            Panel(
                "Alerts' rules",
                "short",
                {
                    "evaluated/s {{rule_group}}": rate(
                        "prometheus_rule_evaluations_total", "rule_group"
                    ),
                },
            ),
            Panel(
                "Notifications",
                "cps",
                {
                    "sent": rate("prometheus_notifications_sent_total"),
                    "dropped": rate("prometheus_notifications_dropped_total"),
                },
            ),
        ],
    },
)

ONE = 'job=~"$job",instance=~"$instance"'
SERVICE = Dashboard(
    "service",
    "Service",
    "One service: its calls (rate, errors, duration) and its process (use, saturation, errors).",
    {
        "Calls": [
            Panel(
                "Rate",
                "reqps",
                {"{{rpc_method}}": rate("coinmesh_rpc_handled_total", "rpc_method", ONE)},
            ),
            Panel(
                "Errors",
                "reqps",
                {"{{code}}": rate("coinmesh_rpc_handled_total", "code", ONE)},
                stacked=True,
            ),
            Panel(
                "Duration",
                "s",
                quantiles("coinmesh_rpc_seconds", "rpc_method", ONE, "{{rpc_method}}"),
                exemplars=True,
            ),
            Panel(
                "Running",
                "short",
                {"{{rpc_method}}": f"sum by (rpc_method) (coinmesh_rpc_running{{{ONE}}})"},
            ),
        ],
        "Process": [
            Panel(
                "CPU",
                "percentunit",
                {"{{instance}}": rate("process_cpu_seconds_total", "instance", ONE)},
                limit=1,
            ),
            Panel("Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{ONE}}}"}),
            Panel(
                "Event loop's delay",
                "s",
                quantiles("coinmesh_event_loop_delay_seconds", "instance", ONE, "{{instance}}"),
                limit=0.25,
            ),
            Panel("File descriptors", "short", {"{{instance}}": f"process_open_fds{{{ONE}}}"}),
        ],
        "State": [
            Panel("Ready", "short", {"{{instance}}": f"coinmesh_ready{{{ONE}}}"}),
            Panel(
                "Certificate's life left",
                "s",
                {
                    "{{instance}}": f"coinmesh_certificate_not_after_seconds{{{ONE}}} - time()",
                },
                text="Renewed when a third of its life is left.",
            ),
        ],
    },
    {"job": "coinmesh_ready", "instance": 'coinmesh_ready{job=~"$job"}'},
)
