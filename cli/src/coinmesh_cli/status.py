"""`coinmesh status`: an overview for operators on one screen."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coinmesh_cli.health import EXIT_STATUS, Report, gather
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home

COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red"}
#: Below this width in columns the tables omit secondary columns.
NARROW = 100


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(status)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="The report for programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.")] = 2.0,
) -> None:
    """Show components, lag, freshness, gaps, certificates and disk on one screen.

    Exit status: 0 healthy, 1 degraded, 2 down.
    """
    mesh = Mesh.recorded(Home.from_environment())
    console = Console(highlight=False)
    if watch and not as_json:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(view(gather(mesh), console.width), refresh=True)
                time.sleep(every)
    while True:
        report = gather(mesh)
        if as_json:
            print(json.dumps(report.as_json(), indent=None if watch else 2), flush=True)
        else:
            console.print(view(report, console.width))
        if not watch:
            raise typer.Exit(EXIT_STATUS[report.health])
        time.sleep(every)


def view(report: Report, width: int) -> RenderableType:
    """Return the report for a terminal `width` columns wide."""
    head = Text()
    head.append(f"{report.health}", f"bold {COLOURS[report.health]}")
    head.append(f"   {report.time}", "dim")
    reasons = [Text(f"  • {reason}", COLOURS[report.health]) for reason in report.reasons]
    parts: list[RenderableType] = [head, *reasons, Text(), _components(report, width), Text()]
    small = [_freshness(report), _lag(report), _streams(report, width), _rest(report)]
    parts.append(Columns(small, padding=(0, 4)) if width >= NARROW else Group(*small))
    return Group(*parts)


def _table(*headings: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        number = heading in (
            "pid",
            "up",
            "MiB",
            "restarts",
            "records",
            "s",
            "events",
            "dup",
            "gaps",
        )
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _components(report: Report, width: int) -> Table:
    wide = width >= NARROW
    extra = ("pid", "ports") if wide else ()
    table = _table("component", "version", "state", "up", "MiB", "restarts", *extra)
    # A Go module's version may contain a whole commit hash.
    table.columns[1].max_width = 9
    table.columns[1].overflow = "ellipsis"
    if wide:
        # The other columns are never truncated for this one.
        table.columns[-1].max_width = width - 84
        table.columns[-1].overflow = "ellipsis"
    done = [row["name"] for row in report.components if row["state"] == "done"]
    for row in report.components:
        if row["kind"] == "step" and row["state"] in ("done", "stopped"):
            continue
        state, colour = row["state"], "red"
        if row["ready"]:
            state, colour = "ready", "green"
        elif row["state"] == "ready":
            state, colour = "not ready", "yellow"
        elif row["state"] == "stopped":
            colour = "dim"
        cells = [row["name"], row.get("version") or "–", Text(state, colour), _up(row["started"])]
        cells += [f"{row['memory'] >> 20}" if row["memory"] else "–", str(row["restarts"])]
        if wide:
            ports = " ".join(f"{name}={port}" for name, port in row["ports"].items())
            cells += [str(row["pid"] or "–"), Text(ports, "dim", overflow="ellipsis")]
        table.add_row(*cells)
    total = sum(row["memory"] for row in report.components) >> 20
    table.caption = f"{total} MiB in all" + (f"; steps done: {', '.join(done)}" if done else "")
    table.caption_justify = "left"
    return table


def _freshness(report: Report) -> Table:
    """Show the maximum age over replicas."""
    table = _table("newest", "s", title="freshness")
    ages: dict[str, float] = {}
    for row in report.freshness or ():
        ages[row["what"]] = max(row["age_seconds"], ages.get(row["what"], row["age_seconds"]))
    for what, age in ages.items():
        table.add_row(what, f"{age:.1f}")
    return _or_unknown(table, report.freshness)


def _lag(report: Report) -> Table:
    """Show a row per service and Spark query; a topic has its own row only when it lags."""
    table = _table("service", "topic", "records", "s", title="lag")
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in report.lag or ():
        parts.setdefault(" ".join(filter(None, (row["service"], row["query"]))), []).append(row)
    for name, rows in parts.items():
        records = sum(row["records"] or 0 for row in rows)
        seconds = max((row["seconds"] for row in rows if row["seconds"] is not None), default=None)
        table.add_row(name, "all", str(records), "–" if seconds is None else f"{seconds:.1f}")
    for row in report.lag or ():
        if (row["seconds"] or 0) > 1:
            table.add_row("", row["topic"], str(row["records"] or 0), f"{row['seconds']:.1f}")
    return _or_unknown(table, report.lag)


def _streams(report: Report, width: int) -> Table:
    table = _table("stream", "events", "dup", "gaps", title="collected since start")
    shown = (report.streams or [])[: 12 if width >= NARROW else 6]
    for row in shown:
        name = f"{row['instrument']} {row['channel']}"
        table.add_row(name, *(str(row.get(k, "–")) for k in ("events", "duplicates", "gaps")))
    left = len(report.streams or ()) - len(shown)
    if left > 0:
        table.add_row(f"… and {left} more", "", "", "")
    return _or_unknown(table, report.streams)


def _rest(report: Report) -> Table:
    table = _table("", "", title="integrity, certificates, disk")
    table.show_header = False
    table.add_row("open gaps", _number(report.gaps_open))
    table.add_row("dead letters", _number(report.dead_letters))
    soonest = min(report.certificates or (), key=lambda row: row["remaining_seconds"], default=None)
    left = f"{soonest['remaining_seconds'] // 60} min ({soonest['identity']})" if soonest else "–"
    table.add_row("next certificate ends in", left)
    if report.disk is None:
        table.add_row("disk", "–")
        return table
    table.add_row(
        "data, logs", f"{_mib(report.disk['data_bytes'])}, {_mib(report.disk['logs_bytes'])}"
    )
    free, total = report.disk["free_bytes"], report.disk["total_bytes"]
    table.add_row("disk free", f"{free / (1 << 30):.1f} GiB of {total / (1 << 30):.0f}")
    return table


def _or_unknown(table: Table, found: list[dict[str, Any]] | None) -> Table:
    if found is None:
        table.add_row(Text("not known", "dim"))
    return table


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)


def _mib(count: int) -> str:
    return f"{count >> 20} MiB"


def _up(started: float | None) -> str:
    if started is None:
        return "–"
    seconds = int(time.time() - started)
    if seconds >= 86_400:
        return datetime.fromtimestamp(started, UTC).strftime("%d %b")
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
