"""The closed loop: the worker's rules and the shop's customers answer each other, day by day.

What the rules command by a midnight is carried out on the day that begins then, what the customers do on it is read at
the next. The same shop without any touch lives beside it: the difference is the truth.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from schemas.commands import CANCELLATION_TYPE
from worker.recall.commands import RECALL
from worker.replay import Replay
from worker.simulate.records import Oddities, Recorder
from worker.simulate.shop import Shop, Touch
from worker.simulate.truth import Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from worker.grants import Grant
    from worker.settings import Settings
    from worker.sources.history import HistoryRecord
    from worker.stream.processor import Output

_POINTS_PER_CENT: Final = 1
"""What points given away are worth."""


class Loop:
    """A shop and the rules over it. `emit` gets every output with the number of its partition, as in a replay."""

    def __init__(
        self,
        shop: Shop,
        without: Shop,
        settings: Settings,
        emit: Callable[[int, Output], None] = lambda _number, _output: None,
        oddities: Oddities | None = None,
        grants: Iterable[Grant] = (),
    ) -> None:
        """Take two shops alike, of which one is never touched."""
        self.shop = shop
        self.without = without
        self.replay = Replay(settings, self._take, grants=grants)
        self._emit = emit
        self._recorder = Recorder(shop, oddities if oddities is not None else Oddities())
        self._touches: list[tuple[int, Touch]] = []
        """What is to be carried out, each with the time before which it is not."""
        self._cancelled: list[str] = []

    def days(self) -> Iterator[list[HistoryRecord]]:
        """Go through all days, and yield what was recorded on each once the rules have read it."""
        shop = self.shop
        while shop.day < shop.days:
            until = shop.midnight(shop.day + 1)
            now = [touch for not_before, touch in self._touches if not_before < until]
            self._touches = [one for one in self._touches if one[0] >= until]
            cancelled, self._cancelled = self._cancelled, []
            self._touches = [one for one in self._touches if one[1].command_id not in cancelled]
            records = self._recorder.of(shop.live(now, cancelled))
            self.without.live()
            self.replay.advance(until, records)
            yield records
        self.replay.close()

    def effect(self, first: int = 0, end: int = 1 << 30) -> list[Effect]:
        """Return the true effect of the rules, by type, of the days from `first` to before `end`."""
        return self.shop.effect(self.without, first, end)

    def _take(self, number: int, output: Output) -> None:
        if output.topic == RECALL:
            value = orjson.loads(output.value)
            if dict(output.headers)["ce_type"] == CANCELLATION_TYPE.encode():
                self._cancelled.append(value["command_id"])
            else:
                self._touches.append((_ms(value["not_before"]) if value["not_before"] else 0, touch_of(value)))
        self._emit(number, output)


def touch_of(command: dict[str, Any]) -> Touch:
    """Return the touch that a command asks for."""
    action = command["action"]
    incentive = action["price_incentive"] or {"form": "percent", "face_value": "0"}
    face = float(incentive["face_value"])
    percent = round(face) if incentive["form"] == "percent" else 0
    amount = {"amount": face * 100, "points": face / _POINTS_PER_CENT}.get(incentive["form"], 0)
    return Touch(
        user=int(command["user_id"].removeprefix("user-")),
        kind=action["kind"],
        channel=command["delivery"]["channel"],
        percent=percent,
        cents=round(amount),
        not_after=_ms(command["not_after"]),
        command_id=command["command_id"],
    )


def _ms(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
