"""Errors of the command line that a user can resolve."""

from coinmesh_access.login import VaultUnavailableError
from coinmesh_access.users import UserError
from coinmesh_cli.log_search import SearchError
from coinmesh_local.control import SupervisorError
from coinmesh_local.definition import DefinitionError
from coinmesh_local.mesh import OptionError
from coinmesh_local.ports import PortTaken
from coinmesh_local.provision import ProvisionError
from coinmesh_local.steps.errors import StepError
from meshkit.errors import MeshError
from meshkit.settings import SettingsError

#: Printed as one line; any other exception is a defect and shows its traceback.
EXPECTED = (
    SearchError,
    SupervisorError,
    DefinitionError,
    OptionError,
    PortTaken,
    ProvisionError,
    StepError,
    MeshError,
    SettingsError,
    UserError,
    VaultUnavailableError,
    OSError,
)
