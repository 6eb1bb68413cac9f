"""Quotas: the descriptors that Envoy sends to envoyproxy/ratelimit, and its configuration."""

import tomllib
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from meshkit.authz import TIER_HEADER, USER_HEADER

SERVICE = "ratelimit"
DOMAIN = "coinmesh"
UNLIMITED = "unlimited"
_KEY, _USERS, _LOGINS = "quota", "users", "logins"
_FILTER = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit"


class Quota(BaseModel):
    """A number of requests per unit of time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(gt=0)
    unit: Literal["second", "minute", "hour", "day"]


class Quotas(BaseModel):
    """Quotas of each tier's users, and of login attempts from one address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str
    tiers: dict[str, Quota]
    logins: Quota

    @model_validator(mode="after")
    def _default_is_a_tier(self) -> "Quotas":
        if self.default not in self.tiers or UNLIMITED in self.tiers:
            raise ValueError(f"default must be one of the tiers, and {UNLIMITED} none of them")
        return self


def shipped() -> Quotas:
    """Return the mesh's own quotas."""
    text = files("coinmesh_gateway").joinpath("quotas.toml").read_text()
    return Quotas.model_validate(tomllib.loads(text))


def configuration(quotas: Quotas) -> dict[str, Any]:
    """Return the configuration of envoyproxy/ratelimit."""
    default = _limit(quotas.tiers[quotas.default])
    tiers = [{"key": "tier", "value": name, **_limit(q)} for name, q in quotas.tiers.items()]
    users = {"key": "user", **default, "descriptors": [*tiers, {"key": "tier", **default}]}
    addresses = {"key": "remote_address", **_limit(quotas.logins)}
    return {
        "domain": DOMAIN,
        "descriptors": [
            {"key": _KEY, "value": _USERS, "descriptors": [users]},
            {"key": _KEY, "value": _LOGINS, "descriptors": [addresses]},
        ],
    }


def rate_limit_filter() -> dict[str, Any]:
    """Return Envoy's filter.

    Requests pass while ratelimit is unreachable: `cluster.*.ratelimit.error` counts them.
    """
    return {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": _FILTER,
            "domain": DOMAIN,
            "timeout": "0.1s",
            "failure_mode_deny": False,
            "rate_limited_as_resource_exhausted": True,
            "disable_x_envoy_ratelimited_header": True,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": SERVICE, "authority": f"{SERVICE}.coinmesh"}
                },
            },
        },
    }


def for_users() -> list[dict[str, Any]]:
    """Return the rate limit descriptors of a user's request."""
    unlimited = {"name": TIER_HEADER, "string_match": {"exact": UNLIMITED}}
    counted = {
        "descriptor_key": _KEY,
        "descriptor_value": _USERS,
        "expect_match": False,
        "headers": [unlimited],
    }
    tier = {"header_name": TIER_HEADER, "descriptor_key": "tier", "skip_if_absent": True}
    user = {"header_name": USER_HEADER, "descriptor_key": "user"}
    return [
        {
            "actions": [
                {"header_value_match": counted},
                {"request_headers": user},
                {"request_headers": tier},
            ]
        }
    ]


def for_logins() -> list[dict[str, Any]]:
    """Return the rate limit descriptors of a login attempt."""
    login = {"descriptor_key": _KEY, "descriptor_value": _LOGINS}
    return [{"actions": [{"generic_key": login}, {"remote_address": {}}]}]


def _limit(quota: Quota) -> dict[str, Any]:
    return {"rate_limit": {"unit": quota.unit, "requests_per_unit": quota.requests}}
