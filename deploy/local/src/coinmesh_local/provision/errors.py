"""Error of provisioning."""


class ProvisionError(Exception):
    """Raised when a dependency is missing; the message names it and the remedy."""
