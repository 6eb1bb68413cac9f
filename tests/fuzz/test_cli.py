"""What a person types: an answer or a sentence, never a traceback."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import FUZZ
from typer.testing import CliRunner

from coinmesh_cli.expected_errors import EXPECTED
from coinmesh_cli.main import app
from meshkit.settings import Address, KafkaSettings, SettingsError, read

WORDS = st.sampled_from(
    ["tail", "dlq", "list", "show", "replay", "--all", "--topic", "audit", "-n", "0:17", "--last"]
) | st.text(max_size=12)


@pytest.fixture(scope="module")
def no_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What gets past the arguments finds no mesh."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COINMESH_HOME", str(tmp_path_factory.mktemp("home")))
        environment.setenv("COINMESH_KAFKA_BOOTSTRAP_SERVERS", "no address")
        yield


@FUZZ
@given(st.lists(WORDS, max_size=5))
def test_commands(no_mesh: None, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["dlq", *arguments])
    known = result.exception is None or isinstance(result.exception, (*EXPECTED, SystemExit))
    assert known, result.exception


@FUZZ
@given(st.text(max_size=30).filter(lambda text: "\0" not in text and text.isprintable()))
def test_settings(value: str) -> None:
    before = os.environ.get("COINMESH_KAFKA_BOOTSTRAP_SERVERS")
    try:
        os.environ["COINMESH_KAFKA_BOOTSTRAP_SERVERS"] = value
        servers = read(KafkaSettings).kafka_bootstrap_servers
        assert all(Address.parse(part) for part in servers.split(","))
    except SettingsError as error:
        assert "COINMESH_KAFKA_BOOTSTRAP_SERVERS" in str(error)
    except UnicodeEncodeError:
        pass  # no environment can hold it
    finally:
        os.environ.pop("COINMESH_KAFKA_BOOTSTRAP_SERVERS", None)
        if before is not None:
            os.environ["COINMESH_KAFKA_BOOTSTRAP_SERVERS"] = before
