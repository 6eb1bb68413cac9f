"""`coinmesh trace`: the path of an event or request through the services, drawn to scale."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coinmesh_cli.jaeger import Jaeger, Span
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home
from meshkit import tracing
from meshkit.settings import MeshSettings
from meshkit.tls import client_ssl_context

TRACE_ID = re.compile(r"[0-9a-f]{32}")
WIDTH = 40
IDENTITY = "cli"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(trace)


def trace(
    what: Annotated[
        str, typer.Argument(help="An event id, or a trace id of 32 digits.", show_default=False)
    ] = "",
    last: Annotated[
        bool, typer.Option("--last", help="The newest event that was traced all the way.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Draw the path of an event or request through the services, with each hop's latency."""
    if last == bool(what):
        raise typer.BadParameter("name an event or a trace, or pass --last")
    jaeger = connect(Mesh.recorded(Home.from_environment()))
    if last:
        trace_id = jaeger.last_of_an_event()
    else:
        trace_id = what if TRACE_ID.fullmatch(what) else jaeger.of_event(what)
    spans = jaeger.whole(trace_id)
    if as_json:
        print(json.dumps(document(trace_id, spans), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    draw(console, trace_id, spans)


def connect(mesh: Mesh) -> Jaeger:
    """Return a client of the mesh's Jaeger."""
    url = str(mesh.endpoints()["jaeger"]["url"])
    settings = MeshSettings(tls_dir=mesh.home.tls / IDENTITY)
    return Jaeger(url, client_ssl_context(settings) if url.startswith("https") else None)


def document(trace_id: str, spans: list[Span]) -> dict[str, object]:
    """Return the trace as JSON values: its spans as a tree in depth-first order."""
    start, end = _bounds(spans)
    rows = [
        asdict(span) | {"depth": depth, "offset": span.start - start} for depth, span in tree(spans)
    ]
    return {"trace_id": trace_id, "start": start, "duration": end - start, "spans": rows}


def draw(console: Console, trace_id: str, spans: list[Span]) -> None:
    """Print a line per span: service, start, duration, and both as a bar."""
    start, end = _bounds(spans)
    table = Table(box=None, pad_edge=False)
    table.add_column("service", no_wrap=True)
    table.add_column("span", no_wrap=True)
    table.add_column("at ms", justify="right")
    table.add_column("took ms", justify="right")
    table.add_column(f"0 … {_ms(end - start)} ms", no_wrap=True)
    for depth, span in tree(spans):
        table.add_row(
            span.service,
            Text("  " * depth + span.operation + (f" → {span.peer}" if _asks(span) else "")),
            _ms(span.start - start),
            _ms(span.duration),
            _bar(span, start, end),
        )
    console.print(f"trace {trace_id}")
    for event in dict.fromkeys(str(s.attributes.get(tracing.EVENT_ID, "")) for s in spans):
        if event:
            console.print(f"event {event}")
    console.print(table)


def tree(spans: Iterable[Span]) -> Iterator[tuple[int, Span]]:
    """Yield each span below its parent, with its depth; siblings ordered by start."""
    ordered = sorted(spans, key=lambda span: span.start)
    ids = {span.span_id for span in ordered}

    def below(parent_id: str, depth: int) -> Iterator[tuple[int, Span]]:
        for span in ordered:
            if span.parent_id == parent_id:
                yield depth, span
                yield from below(span.span_id, depth + 1)

    # Without a parent in Jaeger, such as a client's span, children are at the top.
    for span in ordered:
        if span.parent_id not in ids:
            yield 0, span
            yield from below(span.span_id, 1)


def _bounds(spans: list[Span]) -> tuple[int, int]:
    start = min(span.start for span in spans)
    end = max(span.start + span.duration for span in spans)
    return start, max(end, start + 1)


def _bar(span: Span, start: int, end: int) -> str:
    first = (span.start - start) * (WIDTH - 1) // (end - start)
    last = (span.start + span.duration - start) * (WIDTH - 1) // (end - start)
    return " " * first + "█" * max(1, last - first)


def _asks(span: Span) -> bool:
    return bool(span.peer) and span.attributes.get("span.kind") == "client"


def _ms(micros: int) -> str:
    return f"{micros / 1000:.1f}"
