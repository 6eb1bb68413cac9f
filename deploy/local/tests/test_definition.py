"""Component files: mistakes are named, placeholders filled, the shipped ones within limits."""

from pathlib import Path

import pytest

from coinmesh_access import readme_tables
from coinmesh_local import definition as defs
from coinmesh_local.definition import DefinitionError
from coinmesh_local.kinds import declared
from coinmesh_local.mesh import Mesh, OptionError, Options
from coinmesh_local.paths import COMPONENTS, LOCAL, Home

MINIMAL = 'description = "x"\ncommand = ["true"]\n'


def load(directory: Path, **files: str) -> dict[str, defs.Definition]:
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)
    return declared([directory])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "comand = 1", "comand"),
        (MINIMAL + 'depends_on = {ghost = "ready"}', "unknown component ghost"),
        (MINIMAL + 'depends_on = {a = "ready"}', "cycle: a → a"),
        ("not toml at all", "a.toml"),
        ('description = "x"', "command"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load(tmp_path, a=text)


def test_a_step_cannot_be_ready(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="a step can be completed, not ready"):
        load(tmp_path, a=MINIMAL + 'kind = "step"', b=MINIMAL + 'depends_on = {a = "ready"}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[exports]\nREDIS_URL = "x"', "a and b both have the exported setting REDIS_URL"),
        ('[endpoints.rest]\nurl = "x"', "a and b both have the endpoint rest"),
    ],
)
def test_two_components_with_the_same_thing_are_both_named(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        load(tmp_path, a=MINIMAL + text, b=MINIMAL + text)


def test_two_components_with_one_port_are_both_named(tmp_path: Path) -> None:
    text = MINIMAL + 'replicas = "2"\n[ports]\n'
    load(tmp_path, a=text + "one = 7000", b=text + "other = 7001")
    with pytest.raises(DefinitionError, match=r"a \(one\) and b \(other\) both have port 7001"):
        Mesh(Home(tmp_path / "home"), components=(tmp_path,))


def test_nothing_can_depend_on_what_comes_later(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="b: a comes later"):
        load(tmp_path, a=MINIMAL + "later = true", b=MINIMAL + 'depends_on = {a = "ready"}')


def test_an_unknown_placeholder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('description = "x"\ncommand = ["${port.none}"]\n')
    mesh = Mesh(Home(tmp_path / "home"), components=(tmp_path,))
    with pytest.raises(DefinitionError, match=r"a: command: unknown placeholder \$\{port\.none\}"):
        mesh.instances("a")


def test_an_unknown_target_lists_what_there_is(tmp_path: Path) -> None:
    load(tmp_path, a=MINIMAL)
    mesh = Mesh(Home(tmp_path / "home"), components=(tmp_path,))
    with pytest.raises(DefinitionError, match="unknown component 'b'; there are: a"):
        mesh.closure(["b"])


def test_live_source_does_without_the_simulator(tmp_path: Path) -> None:
    mesh = Mesh(Home(tmp_path), Options(source="live"))
    assert "sim-exchange" not in mesh.definitions
    collector = mesh.instances("collector-binance")[0]
    assert not [key for key in collector.environment if key.startswith("COINMESH_BINANCE_")]


def test_the_full_profile_adds_components_to_the_default_one(tmp_path: Path) -> None:
    load(tmp_path, a=MINIMAL, b=MINIMAL + 'profile = "full"\ndepends_on = {a = "ready"}')
    home = Home(tmp_path / "home")
    assert list(Mesh(home, components=(tmp_path,)).definitions) == ["a"]
    Mesh(home, Options(profile="full"), components=(tmp_path,)).save()
    assert Mesh.recorded(home).closure() == ["a", "b"]


def test_an_unknown_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="profile is default or full, not 'huge'"):
        Mesh(Home(tmp_path), Options(profile="huge"))  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=r"a\.toml(.|\n)*profile"):
        load(tmp_path, a=MINIMAL + 'profile = "huge"')


def test_ha_runs_three_brokers_with_replicated_topics(tmp_path: Path) -> None:
    mesh = Mesh(Home(tmp_path), Options(ha=True))
    names = [instance.name for instance in mesh.instances("kafka")]
    assert names == ["kafka-1", "kafka-2", "kafka-3"]
    assert mesh.settings()["COINMESH_KAFKA_BOOTSTRAP_SERVERS"].count(",") == 2
    properties = mesh.instances("kafka")[1].files["kafka.properties"]
    assert "node.id=2\n" in properties
    assert "min.insync.replicas=2" in properties


def test_data_of_a_plaintext_mesh_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.write_json("mesh.json", {"options": {}, "environment": {}})
    (tmp_path / "data" / "kafka").mkdir()
    with pytest.raises(OptionError, match=r"by a mesh without TLS.*coinmesh reset"):
        Mesh(home).save()


def test_who_has_an_identity_waits_for_its_certificate(tmp_path: Path) -> None:
    load(tmp_path, certs=MINIMAL, a=MINIMAL + 'identity = "envoy"')
    mesh = Mesh(Home(tmp_path / "home"), components=(tmp_path,))
    assert mesh.closure(["a"]) == ["certs", "a"]
    (instance,) = mesh.instances("a")
    assert instance.environment["COINMESH_TLS_DIR"] == str(tmp_path / "home" / "tls" / "envoy")


def test_data_of_another_mode_is_not_mixed(tmp_path: Path) -> None:
    Mesh(Home(tmp_path)).save()
    (tmp_path / "data" / "kafka").mkdir()
    with pytest.raises(OptionError, match=r"made with HA=0.*coinmesh reset"):
        Mesh(Home(tmp_path), Options(ha=True)).save()


@pytest.mark.parametrize("options", [Options(gateways=2), Options(ha=True, gateways=2)])
def test_memory_stays_below_8_gib(tmp_path: Path, options: Options) -> None:
    mesh = Mesh(Home(tmp_path), options)
    assert all(d.memory for d in mesh.definitions.values() if d.kind == "service")
    assert sum(d.memory * mesh.replicas[name] for name, d in mesh.definitions.items()) < 8192


def test_no_two_listeners_share_a_port(tmp_path: Path) -> None:
    mesh = Mesh(Home(tmp_path), Options(ha=True, gateways=8, profile="full"))
    numbers = [n for ports in mesh.ports.values() for many in ports.values() for n in many]
    assert len(numbers) == len(set(numbers))
    assert max(numbers) < 32_768, "the ephemeral range begins there"


def test_free_ports_are_kept_and_differ_between_homes(tmp_path: Path) -> None:
    free = Options(ports="free")
    one, other = Mesh(Home(tmp_path / "a"), free), Mesh(Home(tmp_path / "b"), free)
    assert Mesh(Home(tmp_path / "a"), free).ports == one.ports != other.ports


def test_the_table_of_ports_has_those_of_the_full_profile() -> None:
    expected = [
        f"| {component.name} | {listener} | {number} |"
        for component in (shipped.with_addition() for shipped in defs.load(COMPONENTS))
        for listener, number in component.ports.items()
    ]
    assert expected
    assert readme_tables.ports(COMPONENTS).splitlines()[2:] == expected
    assert readme_tables.ports(COMPONENTS) in (LOCAL / "README.md").read_text()
