"""Dashboards of the services: calls, processes and failures."""

from collections.abc import Iterator
from pathlib import Path

from coinmesh_manifests.discovery import CHECKOUT, discover
from coinmesh_manifests.manifest import Manifest
from coinmesh_observability.panels import Dashboard, Panel
from coinmesh_observability.queries import RPC_SECONDS, quantiles, rate

#: Kinds that run as `meshkit.service`, and those that also export process metrics.
CHASSIS = frozenset({"service", "collector"})
SCRAPED = CHASSIS | {"stream"}

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
                    "book {{instrument}}": "increase(coinmesh_binance_book_resyncs_total[1h])",
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


def _calls(where: str) -> list[Panel]:
    return [
        Panel(
            "Rate",
            "reqps",
            {"{{rpc_method}}": rate("coinmesh_rpc_handled_total", "rpc_method", where)},
        ),
        Panel(
            "Errors",
            "reqps",
            {"{{code}}": rate("coinmesh_rpc_handled_total", "code", where)},
            stacked=True,
        ),
        Panel(
            "Duration",
            "s",
            quantiles("coinmesh_rpc_seconds", "rpc_method", where, "{{rpc_method}}"),
            exemplars=True,
        ),
        Panel(
            "Running",
            "short",
            {"{{rpc_method}}": f"sum by (rpc_method) (coinmesh_rpc_running{{{where}}})"},
        ),
    ]


def _process(where: str) -> list[Panel]:
    return [
        Panel(
            "CPU",
            "percentunit",
            {"{{instance}}": rate("process_cpu_seconds_total", "instance", where)},
            limit=1,
        ),
        Panel("Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{where}}}"}),
        Panel("File descriptors", "short", {"{{instance}}": f"process_open_fds{{{where}}}"}),
    ]


def _loop(where: str) -> Panel:
    return Panel(
        "Event loop's delay",
        "s",
        quantiles("coinmesh_event_loop_delay_seconds", "instance", where, "{{instance}}"),
        limit=0.25,
    )


def _ready(where: str) -> Panel:
    return Panel("Ready", "short", {"{{instance}}": f"coinmesh_ready{{{where}}}"})


def _log(where: str) -> Panel:
    return Panel(
        "Warnings and errors in the log",
        "cps",
        {"{{level}}": rate("coinmesh_log_records_total", "level", where)},
        stacked=True,
    )


def _answers(where: str) -> Panel:
    return Panel(
        "Probe",
        "short",
        {"{{replica}}": f"coinmesh_component_ready{{{where}}}"},
        text="1 while it answers the supervisor's probe.",
    )


def _component(where: str) -> list[Panel]:
    """Return panels from the supervisor's metrics, for a process without its own."""
    use = rate("coinmesh_component_cpu_seconds_total", "replica", where)
    return [
        Panel("CPU", "percentunit", {"{{replica}}": use}, limit=1),
        Panel("Memory", "bytes", {"{{replica}}": f"coinmesh_component_resident_bytes{{{where}}}"}),
        Panel(
            "File descriptors", "short", {"{{replica}}": f"coinmesh_component_open_fds{{{where}}}"}
        ),
        Panel(
            "Restarts",
            "short",
            {"{{replica}}": f"increase(coinmesh_component_restarts_total{{{where}}}[1h])"},
        ),
    ]


def of_manifest(manifest: Manifest) -> Dashboard:
    """Return the dashboard of one service; its kind determines the panels."""
    rows = dict(_rows(manifest))
    return Dashboard(f"service-{manifest.name}", manifest.name, manifest.description, rows)


def of_manifests(tree: Path = CHECKOUT) -> tuple[Dashboard, ...]:
    """Return a dashboard for each manifest of a tree."""
    return tuple(of_manifest(manifest) for manifest in discover(tree).values())


def _rows(manifest: Manifest) -> Iterator[tuple[str, list[Panel]]]:
    own, component = f'job="{manifest.name}"', f'component="{manifest.name}"'
    if manifest.kind in CHASSIS:
        yield "Calls", _calls(own)
        yield "Process", [*_process(own), _loop(own)]
        yield "State", [_ready(own), _log(own)]
    elif manifest.kind in SCRAPED:
        yield "Process", _process(own)
        yield "State", [_answers(component), _log(own)]
    else:
        yield "Process", _component(component)
        yield "State", [_answers(component)]


SERVICE = Dashboard(
    "service",
    "Service",
    "One service: its calls (rate, errors, duration) and its process (use, saturation, errors).",
    {
        "Calls": _calls(ONE),
        "Process": [*_process(ONE), _loop(ONE)],
        "State": [
            _ready(ONE),
            _log(ONE),
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
