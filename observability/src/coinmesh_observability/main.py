"""The command `coinmesh-observability`: write files for Prometheus, Alertmanager and Grafana.

All files are JSON, which is valid YAML.
"""

import typer

from coinmesh_observability import commands
from meshkit import logs

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
commands.register(app)


@app.callback()
def coinmesh_observability() -> None:
    """Write files for Prometheus, Alertmanager and Grafana."""
    logs.configure_command()
