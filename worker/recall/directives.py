"""How control records are decoded: what steers a partition, from `schemas.control`."""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from worker.recall.bodies import AdoptPlaybook, AdoptSnapshot, Approve, Grant, Heartbeat, Resume, Resumed, Stop
from worker.recall.money import Currency, exact
from worker.recall.wire import Code, Count, DecimalText, Id, Time, check_currency, milliseconds
from worker.stream.processor import Directive, Parsed, Tick


class _Control(Struct, frozen=True, gc=False, tag_field="kind", forbid_unknown_fields=True):
    """A control record. Its time is `at`; what has `effective_at` instead takes its place from the record before it."""

    @property
    def times(self) -> tuple[datetime, ...]:
        """Every time in it, `at` first."""
        return tuple(value for value in msgspec.structs.astuple(self) if isinstance(value, datetime))


class _Tick(_Control, frozen=True, gc=False, tag="tick"):
    at: Time

    def read(self, _currency: Currency) -> Parsed:
        at = milliseconds(self.at)
        return at, Tick(at)


class _Heartbeat(_Control, frozen=True, gc=False, tag="heartbeat"):
    source: Id
    at: Time

    def read(self, _currency: Currency) -> Parsed:
        at = milliseconds(self.at)
        return at, Directive(None, Heartbeat(self.source, at))


class _Resumed(_Control, frozen=True, gc=False, tag="resumed"):
    at: Time
    wall: Time

    def read(self, _currency: Currency) -> Parsed:
        at = milliseconds(self.at)
        return at, Directive(None, Resumed(at, milliseconds(self.wall)), ahead=True)


class _AdoptSnapshot(_Control, frozen=True, gc=False, tag="adopt_snapshot"):
    effective_at: Time
    horizon_days: Count
    version: Count

    def read(self, _currency: Currency) -> Parsed:
        return None, Directive(milliseconds(self.effective_at), AdoptSnapshot(self.horizon_days, self.version))


class _AdoptPlaybook(_Control, frozen=True, gc=False, tag="adopt_playbook"):
    effective_at: Time
    version: Id
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def read(self, _currency: Currency) -> Parsed:
        return None, Directive(milliseconds(self.effective_at), AdoptPlaybook(self.version, self.share))


class _Stop(_Control, frozen=True, gc=False, tag="stop"):
    at: Time

    def read(self, _currency: Currency) -> Parsed:
        return milliseconds(self.at), Directive(None, Stop())


class _Resume(_Control, frozen=True, gc=False, tag="resume"):
    at: Time

    def read(self, _currency: Currency) -> Parsed:
        return milliseconds(self.at), Directive(None, Resume())


class _Grant(_Control, frozen=True, gc=False, tag="grant"):
    effective_at: Time
    budget_id: Id
    amount: str
    currency: Code
    shadow_price: DecimalText
    period: Literal["day", "campaign"] = "day"
    until: Time | None = None

    def read(self, currency: Currency) -> Parsed:
        check_currency(self.currency, currency)
        amount = int(exact(self.amount).scaleb(6))
        grant = Grant(self.budget_id, amount, self.period, _until(self.until), float(self.shadow_price))
        return None, Directive(milliseconds(self.effective_at), grant)


class _Approve(_Control, frozen=True, gc=False, tag="approve"):
    effective_at: Time
    play: Id
    until: Time | None = None

    def read(self, _currency: Currency) -> Parsed:
        return None, Directive(milliseconds(self.effective_at), Approve(self.play, _until(self.until)))


def _until(at: datetime | None) -> int:
    return 0 if at is None else milliseconds(at)


DECODE: Final = msgspec.json.Decoder(
    _Tick | _Heartbeat | _Resumed | _AdoptSnapshot | _AdoptPlaybook | _Stop | _Resume | _Grant | _Approve
).decode
