"""`coinmesh doctor`: check this machine and the running mesh and suggest remedies."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coinmesh_cli import diagnosis, machine
from coinmesh_cli.findings import Finding
from coinmesh_cli.health import gather
from coinmesh_local import processes
from coinmesh_local.mesh import Mesh
from coinmesh_local.paths import Home

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The findings for programs.")] = False,
) -> None:
    """Check this machine and, if one runs, the mesh; suggest a remedy for each finding.

    Exit status: 0 nothing found, 1 warnings, 2 errors.
    """
    mesh = Mesh.recorded(Home.from_environment())
    sections = {"machine": list(machine.check(mesh))}
    if processes.find(mesh.home.root):
        sections["mesh"] = list(diagnosis.check(mesh, gather(mesh)))
    if as_json:
        print(json.dumps({k: [asdict(f) for f in v] for k, v in sections.items()}, indent=2))
    else:
        console = Console(highlight=False)
        for name, findings in sections.items():
            console.print(table(name, findings))
        if "mesh" not in sections:
            console.print("no mesh runs here: `make up` starts one")
    levels = {finding.level for findings in sections.values() for finding in findings}
    raise typer.Exit(2 if "bad" in levels else 1 if "warning" in levels else 0)


def table(name: str, findings: list[Finding]) -> Table:
    """Return findings below a heading, each with its remedy on the next line."""
    result = Table(box=None, pad_edge=False, show_header=False, title=name, title_justify="left")
    result.add_column(no_wrap=True)
    result.add_column(no_wrap=True)
    result.add_column(overflow="fold")
    for finding in findings:
        mark, colour = MARKS[finding.level]
        told = Text(finding.what)
        if finding.do:
            told.append(f"\n→ {finding.do}", "bold")
        result.add_row(Text(mark, colour), finding.area, told)
    return result
