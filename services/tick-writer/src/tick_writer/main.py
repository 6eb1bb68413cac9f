"""The tick-writer process: read settings, construct objects, serve."""

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.cassandra_session import CassandraSession
from meshkit.decoding import Decoder
from meshkit.dlq import DeadLetterCounter
from meshkit.registry import Registry
from meshkit.service import configure, run, serve
from meshkit.tracing import Tracing
from tick_writer.settings import TickWriterSettings
from tick_writer.tick_writer import STATEMENTS, TickWriter


async def run_tick_writer(settings: TickWriterSettings) -> int:
    """Run tick-writer until shutdown and return the exit status."""
    tracing = Tracing(settings)
    registry, rejections = Registry(settings), DeadLetterCounter()
    messages = {topics.TRADES.name: Trade}
    decoder = Decoder(messages, await registry.resolve(messages), registry, rejections)
    cassandra = CassandraSession(settings, STATEMENTS, tracing)
    writer = TickWriter(settings, decoder, rejections, cassandra)
    return await serve(settings, resources=[rejections, cassandra, writer], tracing=tracing)


def main() -> None:
    """Run the command `tick-writer`."""
    raise SystemExit(run(run_tick_writer(configure(TickWriterSettings))))
