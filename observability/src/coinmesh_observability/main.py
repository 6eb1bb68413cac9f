"""The command `coinmesh-observability`: writes what Prometheus, Alertmanager and Grafana read.

Everything is written as JSON, which their YAML readers take as it is.
"""

import typer

from coinmesh_observability import commands
from meshkit import logs

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
commands.register(app)


@app.callback()
def coinmesh_observability() -> None:
    """What Prometheus, Alertmanager and Grafana read."""
    logs.configure_command()
