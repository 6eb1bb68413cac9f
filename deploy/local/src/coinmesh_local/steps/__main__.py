"""`python -m coinmesh_local.steps NAME`: runs one deploy step with settings from COINMESH_…"""

import os
import sys

from coinmesh_local.steps.dispatch import run
from coinmesh_local.steps.errors import StepError


def main() -> int:
    """Exit status 0 when the step's result holds, 1 when it could not be reached."""
    try:
        run(sys.argv[1], os.environ)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
