"""What the people who run a worker set: by environment (`RECALL_...`) or by keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AwareDatetime, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.recall.days import Days
from worker.recall.money import Currency
from worker.recall.shop import Shop

DEFAULT_PLAYBOOK = Path(__file__).parent / "recall" / "default.toml"


SourceName = Literal["profiles", "orders", "cart", "clickstream", "feedback"]


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each field, its value and what is allowed."""


class Settings(BaseSettings):
    """The settings of a worker; those of the shop are the replay's too."""

    model_config = SettingsConfigDict(env_prefix="RECALL_", frozen=True, extra="forbid")

    # The shop.
    currency: str = "EUR"
    timezone: str = "UTC"
    playbook: Path = DEFAULT_PLAYBOOK
    """In force at the first start; later another one comes into force by a control record alone."""
    earlier_playbooks: Annotated[tuple[Path, ...], NoDecode] = ()
    """Those that are in force still, until the adoption of another one."""
    salt: Annotated[str, Field(min_length=1)] = "recall"
    """Decides who is held out: change it and all users are drawn anew."""
    live_from: AwareDatetime | None = None
    """No command leaves for anything that happened before; a live worker needs it."""
    dry_run: bool = False
    horizon_days: Annotated[int, Field(ge=1, le=365)] = 30
    require_heartbeat: Annotated[tuple[SourceName, ...], NoDecode] = ()
    """Sources whose silence holds back the silence of users."""
    stall_s: Annotated[int, Field(ge=1)] = 15 * 60

    # The stream.
    broker: str = "localhost:9092"
    app_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")] = "recall"
    partitions: Annotated[int, Field(ge=1, le=1000)] = 4
    mode: Literal["transactional", "plain"] = "transactional"
    clock: Literal["wall", "recorded"] = "wall"
    """Who writes the ticks: the worker, from the wall clock, or whoever feeds in a recorded history."""
    accept_missing_guards: bool = False
    """Quiet hours and budgets are not there yet: say that commands may leave all the same."""
    commit_interval_ms: Annotated[int, Field(ge=0, le=10_000)] = 25
    tick_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    session_timeout_s: Annotated[float, Field(ge=1, le=300)] = 10.0
    web_port: Annotated[int, Field(ge=0, le=65535)] = 6066
    datadir: Path = Path("recall-data")

    @field_validator("earlier_playbooks", "require_heartbeat", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("allowed is a name of the IANA database such as Europe/London")
        return ZoneInfo(name).key

    @field_validator("currency")
    @classmethod
    def _known_currency(cls, code: str) -> str:
        return Currency.of(code).code

    def shop(self) -> Shop:
        """Return what the rules depend on. Without `live_from` the shop is live from the beginning of time."""
        return Shop(
            currency=Currency.of(self.currency),
            days=Days(self.timezone),
            partitions=self.partitions,
            salt=self.salt,
            live_from=_ms(self.live_from),
            dry_run=self.dry_run,
            horizon_days=self.horizon_days,
            require_heartbeat=self.require_heartbeat,
            stall_ms=self.stall_s * 1000,
        )


def load(**overrides: object) -> Settings:
    """Read the settings from the environment; keywords win.

    Raises:
        SettingsError: naming each wrong field, its value and what is allowed.

    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, detail['loc']))} = {detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        ]
        prefix = Settings.model_config["env_prefix"]
        raise SettingsError("\n  ".join([f"settings ({prefix}... in the environment):", *lines])) from error


def _ms(time: AwareDatetime | None) -> int:
    return 0 if time is None else round(time.timestamp() * 1000)
