"""Cases of the collector's alerts."""

from coinmesh_observability.testing import Case, held, one

COLLECTOR = 'job="collector-binance",instance="collector-binance"'
USED = f"coinmesh_source_rest_weight_used{{{COLLECTOR}}}"
LIMIT = f"coinmesh_source_rest_weight_limit{{{COLLECTOR}}}"

CASES = {
    "ExchangeDisconnected": one(f"coinmesh_source_connections{{{COLLECTOR}}}", held(0), held(1)),
    "QuotaLow": Case({USED: held(5500), LIMIT: held(6000)}, {USED: held(4000), LIMIT: held(6000)}),
}
