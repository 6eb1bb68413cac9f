"""Alertmanager's configuration: alerts grouped by name, sent to one webhook."""

from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings from `COINMESH_ALERT_…`."""

    model_config = SettingsConfigDict(env_prefix="COINMESH_ALERT_")

    webhook_url: SecretStr | None = Field(
        default=None,
        description="Where alerts are sent; without it they are shown by Alertmanager only.",
    )
    group_wait: str = Field(default="10s", description="How long the first alert waits for others.")
    group_interval: str = Field(
        default="1m", description="How long news of a group wait for others."
    )
    repeat_interval: str = Field(
        default="4h", description="How often an alert that lasts is sent again."
    )


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the whole configuration.

    A target that is down inhibits its own tickets; a fast burn of an error budget inhibits its slow
    burn.
    """
    receiver: dict[str, Any] = {"name": "operator"}
    if settings.webhook_url is not None:
        url = settings.webhook_url.get_secret_value()
        receiver["webhook_configs"] = [{"url": url, "send_resolved": True}]
    return {
        "route": {
            "receiver": "operator",
            "group_by": ["alertname", "job"],
            "group_wait": settings.group_wait,
            "group_interval": settings.group_interval,
            "repeat_interval": settings.repeat_interval,
        },
        "inhibit_rules": [
            {
                "source_matchers": ["alertname = TargetDown"],
                "target_matchers": ["severity = ticket"],
                "equal": ["instance"],
            },
            {
                "source_matchers": ["alertname = ErrorBudgetBurnsFast"],
                "target_matchers": ["alertname = ErrorBudgetBurnsSlowly"],
                "equal": ["slo"],
            },
        ],
        "receivers": [receiver],
    }
