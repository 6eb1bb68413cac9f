"""Cases of the platform's own alerts; those of services are beside their manifests."""

from coinmesh_observability.testing import Case, Series, growing, held, one, steps

HOUR = 120  # samples: one comes every 30 s
KAFKA = 'job="kafka",instance="kafka"'
COLLECTOR = 'job="collector-binance",instance="collector-binance"'
GATEWAY = 'job="query-gateway",instance="query-gateway"'
CASSANDRA = 'job="cassandra",instance="cassandra"'
PROMETHEUS = 'process_start_time_seconds{job="prometheus",instance="prometheus"}'
OPENBAO = 'job="component-exporter",component="openbao",replica="openbao"'
BTC = f'{COLLECTOR},instrument="binance.BTC-USDT"'
RPC = f'{GATEWAY},rpc_service="coinmesh.market.v1.MarketService",rpc_method="ListBars"'
LOOP = f"coinmesh_event_loop_delay_seconds_bucket{{{GATEWAY}"
MATCH = f"coinmesh_binance_book_audits_matching_total{{{BTC}}}"
DIFFER = f"coinmesh_binance_book_audits_differing_total{{{BTC}}}"
OPEN, MOST = f"process_open_fds{{{GATEWAY}}}", f"process_max_fds{{{GATEWAY}}}"
HEAP = f'{CASSANDRA},area="heap"'
HEAP_USED, HEAP_MOST = f"jvm_memory_used_bytes{{{HEAP}}}", f"jvm_memory_max_bytes{{{HEAP}}}"
HEALTHY = 'envoy_cluster_membership_healthy{envoy_cluster_name="query-gateway"}'
MEMBERS = 'envoy_cluster_membership_total{envoy_cluster_name="query-gateway"}'
DLQ = f'kafka_log_logendoffset{{{KAFKA},topic="ingest.dlq.v1",partition="0"}}'
EDGE = 'job="envoy",instance="envoy"'
PUBLIC = f'envoy_http_downstream_rq_xx{{{EDGE},envoy_http_conn_manager_prefix="public"'
BAD, GOOD = (f'{PUBLIC},envoy_response_code_class="{digit}"}}' for digit in (5, 2))
GRPC = f'envoy_cluster_grpc{{{EDGE},envoy_cluster_name="query-gateway"'


def burn(slo: str, fires: float, quiet: float, hours: int) -> Case:
    """Of 100 events in 30 s so many break the promise, for so long."""

    def series(bad: float) -> Series:
        samples = hours * HOUR
        if slo == "availability":
            return {BAD: growing(bad, samples), GOOD: growing(100 - bad, samples)}
        name, labels, bound = DELAYS[slo]
        return {
            f'{name}_bucket{{{labels},le="{bound}"}}': growing(100 - bad, samples),
            f'{name}_bucket{{{labels},le="+Inf"}}': growing(100, samples),
            f"{name}_count{{{labels}}}": growing(100, samples),
        }

    return Case(series(fires), series(quiet), f"{hours}h", f'slo="{slo}"')


#: Objectives on how long something takes: the histogram, its labels, and what is promised.
DELAYS = {
    "latency": ("coinmesh_rpc_seconds", RPC, "0.25"),
    "bar-freshness": ("coinmesh_spark_bar_delay_seconds", 'job="spark-stream"', "3.0"),
    "live-freshness": ("coinmesh_live_delay_seconds", GATEWAY, "0.25"),
}
#: By alert and objective. Of 99.9 % a 1,000th may fail, of 99 % a 100th: 2 % and 20 % are 20 times
#: that and page, 0.5 % and 5 % are 5 times that and don't, but make a ticket.
BURNS: dict[tuple[str, str], Case] = {
    ("ErrorBudgetBurnsFast", "availability"): burn("availability", 2, 0.5, 2),
    ("ErrorBudgetBurnsSlowly", "availability"): burn("availability", 0.5, 0.05, 3),
    **{("ErrorBudgetBurnsFast", slo): burn(slo, 20, 5, 2) for slo in DELAYS},
    **{("ErrorBudgetBurnsSlowly", slo): burn(slo, 5, 0.5, 3) for slo in DELAYS},
}

CASES: dict[str, Case] = {
    "TargetDown": Case(
        {f"up{{{KAFKA}}}": held(0), PROMETHEUS: held(60)},
        {f"up{{{KAFKA}}}": held(1), PROMETHEUS: held(60)},
    ),
    "NotReady": one(f"coinmesh_ready{{{GATEWAY}}}", held(0), steps(0, 0, *[1] * 39)),
    "Restarting": one(
        f"process_start_time_seconds{{{GATEWAY}}}",
        steps(*[1] * 20, *[2] * 5, *[3] * 5, *[4] * 11),
        steps(*[1] * 30, *[2] * 11),
    ),
    "ComponentDown": one(
        f"coinmesh_component_ready{{{OPENBAO}}}", held(0), steps(*[0] * 3, *[1] * 34, *[0] * 4)
    ),
    "ComponentRestarts": one(
        f"coinmesh_component_restarts_total{{{OPENBAO}}}", growing(0.2), steps(*[0] * 30, *[1] * 11)
    ),
    # Time begins at 0: at 20 min it has been silent for 10 min, or for 20 s.
    "SupervisorSilent": one("coinmesh_supervisor_answer_time_seconds", held(600), held(1180)),
    "EventLoopLate": Case(
        {
            f'{LOOP},le="0.25"}}': growing(90),
            f'{LOOP},le="0.5"}}': growing(100),
            f'{LOOP},le="+Inf"}}': growing(100),
        },
        {f'{LOOP},le="0.25"}}': growing(100), f'{LOOP},le="+Inf"}}': growing(100)},
    ),
    "FileDescriptorsLow": Case(
        {OPEN: held(900), MOST: held(1024)}, {OPEN: held(700), MOST: held(1024)}
    ),
    # Time begins at 0: at 20 min 300 s are left, or an hour.
    "CertificateExpires": one(
        f"coinmesh_certificate_not_after_seconds{{{GATEWAY}}}", held(1500), held(4800)
    ),
    "CertificateNotRenewed": one(
        'coinmesh_certificate_renewal_failures_total{peer="kafka"}', growing(1), held(4)
    ),
    "CertificateNotTakenUp": one(
        'coinmesh_certificate_hook_failures_total{peer="kafka"}', growing(1), held(4)
    ),
    "AuditChainFaulty": one('coinmesh_audit_chain_faults_total{fault="changed"}', held(1), held(0)),
    # Time begins at 0: the last anchor is 20 min old, or 2 min.
    "AuditAnchorLate": one("coinmesh_audit_anchor_time_seconds", held(1), held(1080)),
    "AuditRecordsLost": one(f"coinmesh_audit_records_lost_total{{{GATEWAY}}}", growing(1), held(7)),
    "AuditRecordsWait": one(f"coinmesh_audit_records_waiting{{{GATEWAY}}}", held(3), held(0)),
    "NothingCollected": one(
        f'coinmesh_source_events_total{{{BTC},channel="trade"}}', held(7), growing(0.1)
    ),
    "GapsStayOpen": one(
        f"coinmesh_source_open_gaps{{{BTC}}}", held(2), steps(*[0] * 30, *[2] * 11)
    ),
    "ManyGaps": one(
        f'coinmesh_source_gaps_total{{{BTC},channel="trade"}}', growing(1), growing(0.1)
    ),
    "BookDiffers": Case(
        {MATCH: growing(100), DIFFER: growing(5)}, {MATCH: growing(100), DIFFER: growing(1)}
    ),
    "KlinesContradict": one(
        f"coinmesh_binance_kline_mismatches_total{{{BTC}}}",
        steps(*[0] * 30, *[1] * 11),
        held(3),
    ),
    "RecordsRefused": one(
        f'coinmesh_producer_refused_total{{{COLLECTOR},topic="market.trades.v1"}}',
        # The service's last scrape, then another process.
        f"{steps(*[0] * 34)} 1 {steps(*[0] * 6)}",
        f"{steps(*[0] * 20)} 1 {steps(*[0] * 20)}",
    ),
    "DeadLettersArrive": one(DLQ, steps(*[5] * 30, *[8] * 11), held(5)),
    "ReaderBehind": one(
        f'coinmesh_consumer_lag_seconds{{{GATEWAY},topic="market.bars.v1",partition="0"}}',
        held(30),
        steps(*[30] * 30, *[0] * 11),
    ),
    "KafkaUnreachable": one(f"coinmesh_kafka_up{{{GATEWAY}}}", held(0), held(1)),
    "CacheUnreachable": one(f"coinmesh_redis_up{{{GATEWAY}}}", held(0), steps(*[1] * 38, *[0] * 3)),
    "GatewayUnhealthy": Case(
        {HEALTHY: held(0), MEMBERS: held(2)}, {HEALTHY: held(1), MEMBERS: held(2)}
    ),
    "KafkaPartitionsOffline": one(
        f"kafka_controller_offlinepartitionscount{{{KAFKA}}}", held(3), held(0)
    ),
    "KafkaUnderReplicated": one(
        f"kafka_replicas_underreplicatedpartitions{{{KAFKA}}}",
        held(3),
        steps(*[0] * 35, *[3] * 6),
    ),
    "KafkaUnderMinIsr": one(
        f"kafka_replicas_underminisrpartitioncount{{{KAFKA}}}", held(2), held(0)
    ),
    "KafkaNoController": one(
        f"kafka_controller_activecontrollercount{{{KAFKA}}}", held(0), held(1)
    ),
    "KafkaBusy": one(f"kafka_request_handlers_idle_ratio{{{KAFKA}}}", held(0.1), held(0.7)),
    "CassandraErrors": one(
        f'cassandra_request_errors_total{{{CASSANDRA},request="Write",error="Timeouts"}}',
        growing(1),
        held(12),
    ),
    "CassandraDrops": one(
        f'cassandra_dropped_messages_total{{{CASSANDRA},message="MUTATION_REQ"}}',
        growing(1),
        held(12),
    ),
    "CassandraCompactionsWait": one(
        f"cassandra_compactions_pending{{{CASSANDRA}}}", held(80), held(20)
    ),
    "HeapFull": Case(
        {HEAP_USED: held(99), HEAP_MOST: held(100)}, {HEAP_USED: held(80), HEAP_MOST: held(100)}
    ),
    "RedisDown": one('redis_up{instance="redis-exporter"}', held(0), held(1)),
    "RedisRejects": one(
        'redis_rejected_connections_total{instance="redis-exporter"}', growing(1), held(3)
    ),
    "RulesFail": one(
        'prometheus_rule_evaluation_failures_total{rule_group="mesh"}', growing(1), held(0)
    ),
    "AlertsNotDelivered": Case(
        {'alertmanager_notifications_failed_total{integration="webhook"}': growing(1)},
        {
            'alertmanager_notifications_failed_total{integration="webhook"}': held(4),
            'prometheus_notifications_dropped_total{instance="prometheus"}': held(4),
        },
    ),
    **{name: case for (name, slo), case in BURNS.items() if slo == "availability"},
}

#: Of alerts with more than one reason to fire those that `CASES` doesn't have.
OTHERS: list[tuple[str, Case]] = [
    *((name, case) for (name, slo), case in BURNS.items() if slo != "availability"),
    # Time begins at 0: at 20 min Prometheus, of unknown age or 4 min old, hasn't seen it yet.
    (
        "TargetDown",
        Case(
            {f"up{{{KAFKA}}}": held(0)},
            {f"up{{{KAFKA}}}": held(0), PROMETHEUS: held(960)},
        ),
    ),
    # 8 % over six hours is 8 times what is allowed: less than a page in an hour takes.
    ("ErrorBudgetBurnsFast", burn("latency", 8, 4, 7)),
    (
        "FileDescriptorsLow",
        Case(
            {
                f"coinmesh_component_open_fds{{{OPENBAO}}}": held(900),
                f"coinmesh_component_max_fds{{{OPENBAO}}}": held(1024),
            },
            {
                f"coinmesh_component_open_fds{{{OPENBAO}}}": held(900),
                f"coinmesh_component_max_fds{{{OPENBAO}}}": held(4096),
            },
        ),
    ),
    # gRPC fails with HTTP status 200; what its caller asked wrongly is no fault of ours.
    (
        "ErrorBudgetBurnsFast",
        Case(
            {GOOD: growing(100, 2 * HOUR), f'{GRPC},grpc_status="14"}}': growing(2, 2 * HOUR)},
            {GOOD: growing(100, 2 * HOUR), f'{GRPC},grpc_status="5"}}': growing(2, 2 * HOUR)},
            "2h",
            'slo="availability"',
        ),
    ),
    # A failure among few calls must not wake anybody.
    (
        "ErrorBudgetBurnsFast",
        Case(
            {},
            {BAD: steps(*[0] * (2 * HOUR - 20), *[1] * 21), GOOD: growing(0.05, 2 * HOUR)},
            "2h",
        ),
    ),
    # Components show none of their own: the agent knows.
    (
        "CertificateExpires",
        one('coinmesh_certificate_seconds_left{peer="kafka"}', held(300), held(1200)),
    ),
    (
        "AlertsNotDelivered",
        one('prometheus_notifications_dropped_total{instance="prometheus"}', growing(1), held(4)),
    ),
    # A full pool isn't a full heap.
    (
        "HeapFull",
        Case(
            {HEAP_USED: held(99), HEAP_MOST: held(100)},
            {
                f'jvm_memory_used_bytes{{{HEAP},id="Survivor"}}': held(10),
                f'jvm_memory_max_bytes{{{HEAP},id="Survivor"}}': held(10),
                f'jvm_memory_used_bytes{{{HEAP},id="Old"}}': held(50),
                f'jvm_memory_max_bytes{{{HEAP},id="Old"}}': held(90),
            },
        ),
    ),
]
