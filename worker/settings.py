"""What the people who run a worker set: by environment (`RECALL_...`) or by keyword."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AwareDatetime,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.recall.days import Days
from worker.recall.money import Currency
from worker.recall.shop import Shop
from worker.stream.connection import Connection, Sasl, SaslMechanism, SecurityProtocol, Tls

DEFAULT_PLAYBOOK = Path(__file__).parent / "recall" / "playbook" / "default.toml"


PREFIX: Final = "RECALL_"
SECRETS: Final = frozenset({"explain_token", "sasl_password", "salt"})
"""Fields whose value no message repeats."""
NEAR: Final = 0.8
"""How alike a misspelt name is to the one that was meant, 0 to 1."""
SourceName = Literal["profiles", "orders", "cart", "clickstream", "feedback"]


def _session_timeout_s(settings: dict[str, object]) -> float:
    return 10.0 if settings.get("instance_id") is None else 45.0


class SettingsError(ValueError):
    """Settings that cannot be used; the message names each field, its value and what is allowed."""


class Settings(BaseSettings):
    """The settings of a worker; those of the shop are the replay's too."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

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
    horizons_days: Annotated[tuple[Annotated[int, Field(ge=1, le=365)], ...], NoDecode, Field(min_length=1)] = (30,)
    """For which the risk of no order is learned, separated by commas; the first is acted on."""
    example_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of users of whom is learned: fewer do for a large shop. All are scored."""
    censoring_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of examples of users who may have been contacted, beside those who are held out; 0 leaves them out."""
    learner: Literal["river", "vectorised"] = "river"
    """Two implementations of the same: River's is the reference, the other takes a tenth of the time."""
    require_heartbeat: Annotated[tuple[SourceName, ...], NoDecode] = ()
    """Sources whose silence holds back the silence of users."""
    stall_s: Annotated[int, Field(ge=1)] = 15 * 60

    # The stream.
    broker: str = "localhost:9092"
    """One or several, separated by commas."""
    app_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")] = "recall"
    partitions: Annotated[int, Field(ge=1, le=1000)] = 4
    mode: Literal["transactional", "plain"] = "transactional"
    store: Literal["memory", "rocksdb"] = "memory"
    """Where rows are kept: with `rocksdb` on disk, under `datadir`, and a restart reads the changelog's tail alone."""
    clock: Literal["wall", "recorded"] = "wall"
    """Who writes the ticks: the worker, from the wall clock, or whoever feeds in a recorded history."""
    commit_interval_ms: Annotated[int, Field(ge=0, le=10_000)] = 25
    tick_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    instance_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")] | None = None
    """This process's name, the same after a restart and nobody else's, as a StatefulSet's pod has one: then a restart
    within the session timeout moves no partition."""
    session_timeout_s: Annotated[float, Field(ge=1, le=300, default_factory=_session_timeout_s)]
    """After which a process that is not heard of loses its partitions: 10, or 45 where a restart by name has to fit."""
    stuck_s: Annotated[float, Field(gt=60)] = 120.0
    """After which a process with work to do that does not move ends itself. Longer than a healthy one ever takes: the
    session timeout, a commit's deadline (30 s), an idle partition's pause between commits (60 s)."""
    stop_timeout_s: Annotated[float, Field(gt=0, le=300)] = 8.0
    """For the last commits at a stop; shorter than what whoever stops the worker waits (Docker: 10 s)."""
    web_port: Annotated[int, Field(ge=0, le=65535)] = 6066
    explain_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    """With it whoever has it may ask about a user on the web port; without it only this machine may."""
    datadir: Path = Path("recall-data")

    # The way to the brokers, for all clients alike.
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: FilePath | None = None
    """In place of the password: read at the start, without the line's end."""
    ssl_cafile: FilePath | None = None
    """Authorities that sign the brokers' certificates, PEM; the system's where it is not given."""
    ssl_certfile: FilePath | None = None
    ssl_keyfile: FilePath | None = None
    """The client's own certificate and key, PEM, where the brokers ask for one."""
    ssl_check_hostname: bool = True

    @field_validator("earlier_playbooks", "require_heartbeat", "horizons_days", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("horizons_days")
    @classmethod
    def _each_once(cls, horizons_days: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(horizons_days)) < len(horizons_days):
            raise ValueError("allowed is each horizon once")
        return horizons_days

    @field_validator("store")
    @classmethod
    def _known_to_be_current(cls, store: str, info: ValidationInfo) -> str:
        if store == "rocksdb" and info.data.get("mode") == "plain":
            raise ValueError(
                "allowed in mode plain is memory: rows on disk outlive the process, and brokers without transactions "
                "tell neither whether another one wrote since nor whether the changelog is still the same"
            )
        return store

    @field_validator("stuck_s")
    @classmethod
    def _longer_than_a_session(cls, stuck_s: float, info: ValidationInfo) -> float:
        session_s = info.data.get("session_timeout_s")
        if session_s is not None and stuck_s <= session_s:
            raise ValueError(f"allowed is more than the session timeout, {session_s:g} s")
        return stuck_s

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

    @model_validator(mode="after")
    def _one_way_to_the_brokers(self) -> Self:
        """Refuse fields that contradict each other: a secret that is set and not used is a mistake."""
        protocol = self.security_protocol
        sasl = ("sasl_mechanism", "sasl_username", "sasl_password", "sasl_password_file")
        tls = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        for word, fields in (("SASL", sasl), ("SSL", tls)):
            unused = [name for name in fields if getattr(self, name) is not None]
            if unused and word not in protocol:
                raise ValueError(
                    f"security_protocol = {protocol} does not use {', '.join(unused)}: leave out the ones "
                    f"or set the other to one with {word} in its name"
                )
        if "SASL" in protocol:
            missing = [name for name in sasl[:2] if not getattr(self, name)]
            if missing:
                raise ValueError(f"security_protocol = {protocol} needs {' and '.join(missing)}")
            if (self.sasl_password is None) == (self.sasl_password_file is None):
                raise ValueError(f"security_protocol = {protocol} needs either sasl_password or sasl_password_file")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile are needed together, or neither")
        return self

    def connection(self) -> Connection:
        """Return how the brokers are reached.

        Raises:
            SettingsError: where the password is empty.

        """
        sasl = tls = None
        if self.sasl_mechanism is not None and self.sasl_username is not None:
            sasl = Sasl(self.sasl_mechanism, self.sasl_username, self._password())
        if self.security_protocol in {"SSL", "SASL_SSL"}:
            tls = Tls(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile, self.ssl_check_hostname)
        return Connection(self.broker, sasl, tls)

    def _password(self) -> str:
        if self.sasl_password_file is not None:
            password, place = self.sasl_password_file.read_text().rstrip("\r\n"), "sasl_password_file"
        else:
            assert self.sasl_password is not None  # one of the two, as was checked
            password, place = self.sasl_password.get_secret_value(), "sasl_password"
        if not password:
            raise SettingsError(f"settings: {place}: the password is empty")
        return password

    def shop(self) -> Shop:
        """Return what the rules depend on. Without `live_from` the shop is live from the beginning of time."""
        return Shop(
            currency=Currency.of(self.currency),
            days=Days(self.timezone),
            partitions=self.partitions,
            salt=self.salt,
            live_from=_ms(self.live_from),
            dry_run=self.dry_run,
            horizons_days=self.horizons_days,
            example_share=self.example_share,
            censoring_weight=self.censoring_weight,
            require_heartbeat=self.require_heartbeat,
            stall_ms=self.stall_s * 1000,
        )


def load(**overrides: object) -> Settings:
    """Read the settings from the environment; keywords win.

    Raises:
        SettingsError: naming each wrong field, its value and what is allowed.

    """
    misspelt = [f"{name} is no setting: did you mean {nearest}?" for name, nearest in _unknown().items() if nearest]
    if misspelt:
        raise SettingsError(_told(misspelt))
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # Not `from error`: its text repeats what was given, a password too.
        lines = [
            _line(detail["loc"], detail["input"], detail["msg"])
            for detail in error.errors()
            if detail["type"] != "default_factory_not_called"  # since another field is wrong
        ]
    raise SettingsError(_told(lines))


def strangers() -> list[str]:
    """Return the variables that have the settings' prefix and are like none of them; nobody reads them."""
    return [name for name, nearest in _unknown().items() if nearest is None]


def _unknown() -> dict[str, str | None]:
    """Return the variables with the settings' prefix that are none, with the setting each is nearly.

    What is not even near may be anybody's: Kubernetes sets RECALL_SERVICE_HOST where a service is called `recall`.
    """
    unknown = {}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(PREFIX).lower()
        if variable.upper().startswith(PREFIX) and name not in Settings.model_fields:
            near = get_close_matches(name, Settings.model_fields, n=1, cutoff=NEAR)
            unknown[variable] = f"{PREFIX}{near[0].upper()}" if near else None
    return unknown


def _line(place: tuple[int | str, ...], given: object, message: str) -> str:
    told = message.removeprefix("Value error, ")
    name = ".".join(map(str, place))
    if not name:  # of several fields at once: the message names them
        return told
    return f"{name}: {told}" if name in SECRETS else f"{name} = {given!r}: {told}"


def _told(lines: list[str]) -> str:
    return "\n  ".join([f"settings ({PREFIX}... in the environment):", *lines])


def _ms(time: AwareDatetime | None) -> int:
    return 0 if time is None else round(time.timestamp() * 1000)
