"""Manifests: where they are read from, what they may contain, and what their grants imply."""

from pathlib import Path

import pytest

from coinmesh_contracts import serving, topics
from coinmesh_manifests.discovery import ManifestError, discover

COLLECTOR = 'kind = "collector"\ndescription = "d"\n'


def write(tree: Path, place: str, text: str) -> Path:
    path = tree / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_names_come_from_the_directory_or_the_file(tmp_path: Path) -> None:
    ready = '[run]\nready = "x"\ncommand = ["x"]\n'
    write(tmp_path, "services/a/service.toml", COLLECTOR)
    write(tmp_path, "jobs/b/job.toml", f'kind = "job"\ndescription = "d"\n{ready}')
    write(tmp_path, "jobs/b/c.job.toml", f'kind = "stream"\ndescription = "d"\n{ready}')
    write(
        tmp_path, "simulators/d.simulator.toml", f'kind = "simulator"\ndescription = "d"\n{ready}'
    )
    assert {name: one.kind for name, one in discover(tmp_path).items()} == {
        "a": "collector",
        "b": "job",
        "c": "stream",
        "d": "simulator",
    }


def test_two_manifests_of_one_name_are_rejected(tmp_path: Path) -> None:
    first = write(
        tmp_path, "jobs/x/a.job.toml", 'kind = "job"\ndescription = "d"\nrun.command = ["x"]'
    )
    second = write(tmp_path, "services/a/service.toml", COLLECTOR)
    with pytest.raises(ManifestError, match=f"{second}: {first} has the same name"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "kind: Field required"),
        ("not toml at all", "service.toml"),
        (COLLECTOR + "unknown = 1", "unknown: Extra inputs"),
        (COLLECTOR + 'kafka.read = ["market.nothing.v1"]', "no topic 'market.nothing.v1'"),
        (COLLECTOR + 'kafka.read = ["@nothing"]', "no topic group '@nothing'; there are: @all"),
        (COLLECTOR + 'cassandra.select = ["@trades"]', "no table group '@trades'"),
        (COLLECTOR + 's3.read = ["raw"]', "must end in /"),
        (
            COLLECTOR + '[alerts.A]\nexpr = "1"\nsummary = "s"\nseverity = "loud"',
            "'page' or 'ticket'",
        ),
        ('kind = "job"\ndescription = "d"', "a job needs run.command"),
        ('kind = "job"\ndescription = "d"\ngrpc = ["a.B"]', "a job serves no gRPC"),
        ('kind = "web"\ndescription = "d"\nrun.command = ["x"]', "a web needs run.ready"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "services/a/service.toml", text)
    with pytest.raises(ManifestError) as error:
        discover(tmp_path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_grants_imply_others(tmp_path: Path) -> None:
    text = COLLECTOR + 'audit = true\nkafka.read = ["@chain"]\nkafka.write = ["market.trades.v1"]'
    write(tmp_path, "services/collector-x/service.toml", text)
    manifest = discover(tmp_path)["collector-x"]
    granted = manifest.granted()
    assert granted.kafka.read == (*topics.GROUPS["@chain"], "audit.events.v1")
    assert granted.kafka.write == ("market.trades.v1", "audit.events.v1")
    assert granted.kafka.groups == ("collector-x*", "audit-collector-x*")
    assert granted.kafka.transactional_ids == ("audit-collector-x*",)
    assert set(granted.http) == {"registry"}
    assert manifest.serves == ("coinmesh.collector.v1.CollectorService",)
    assert manifest.bound == {"collector": "x"}


def test_table_groups_stand_for_their_tables(tmp_path: Path) -> None:
    text = COLLECTOR + 'cassandra.select = ["@bars", "trades"]\ncassandra.modify = ["@indicators"]'
    write(tmp_path, "services/a/service.toml", text)
    granted = discover(tmp_path)["a"].granted().cassandra
    assert granted.select == (*serving.TABLE_GROUPS["@bars"], "trades")
    assert granted.modify == serving.TABLE_GROUPS["@indicators"]


def test_without_grants_nothing_is_implied(tmp_path: Path) -> None:
    write(tmp_path, "services/a/service.toml", COLLECTOR)
    granted = discover(tmp_path)["a"].granted()
    assert granted == type(granted)()
