"""REST paths follow from the contracts."""

import re

import pytest

from coinmesh_contracts.sources import descriptor_set
from coinmesh_gateway.bindings import Binding, bindings
from coinmesh_gateway.catalogue import CatalogueError


def binding(template: str) -> Binding:
    return Binding("x.S.M", "GET", template, streams=False, raw=False)


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/i/{i}/bars", "/v1/i/binance.BTC-USDT/bars", True),
        ("/v1/i/{i}/bars", "/v1/i/binance.%E5%B8%81-USDT/bars", True),
        ("/v1/i/{i}/bars", "/v1/i/a/b/bars", False),
        ("/v1/i/{i}/bars", "/v1/i//bars", False),
        ("/v1/i/{i}/bars:view", "/v1/i/a/bars:view", True),
        ("/v1/i/{i}/bars:view", "/v1/i/a/bars", False),
        ("/v1/i.x", "/v1/iyx", False),
        ("/v1/{name=a/*}", "/v1/a/b", True),
        ("/v1/{name=a/*}", "/v1/a/b/c", False),
        ("/v1/{name=**}", "/v1/a/b/c", True),
    ],
)
def test_a_template_matches_its_paths_only(template: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(binding(template).path_regex({}), path)) is matches


def test_a_bound_variable_has_one_value() -> None:
    pattern = binding("/v1/collectors/{collector}/status").path_regex({"collector": "a.b"})
    assert re.fullmatch(pattern, "/v1/collectors/a.b/status")
    assert not re.fullmatch(pattern, "/v1/collectors/axb/status")


def test_a_verb_is_looked_for_before_the_variable_that_would_swallow_it() -> None:
    found = bindings(descriptor_set(), ["coinmesh.collector.v1.CollectorService"])
    assert [b.template.rpartition("/")[2] for b in found[:2]] == [
        "{collector}:backfill",
        "{collector}:drain",
    ]


def test_what_the_contracts_say_is_kept() -> None:
    found = {b.rpc.rpartition(".")[2]: b for b in _market()}
    assert found["ListBars"].method == "GET"
    assert found["ListBars"].variables == ("instrument",)
    assert (found["ListBars"].streams, found["ListBars"].raw) == (False, False)
    assert (found["ViewBars"].streams, found["ViewBars"].raw) == (False, True)
    assert (found["StreamMarket"].streams, found["StreamMarket"].raw) == (True, False)


def _market() -> list[Binding]:
    return bindings(descriptor_set(), ["coinmesh.market.v1.MarketService"])


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(CatalogueError, match=r"no gRPC service coinmesh\.x\.v1\.Nope"):
        bindings(descriptor_set(), ["coinmesh.x.v1.Nope"])
