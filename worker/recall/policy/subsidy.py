"""What keeps the shop from teaching its customers to wait for coupons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from schemas.feedback import Status
from worker.recall.days import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.recall.playbook import Play, Playbook
    from worker.recall.profile import Contact, Episode, Profile

SHARE_WEEKS: Final = 4
"""Over so many weeks, the current one among them, the subsidised share is taken."""
_PRIOR_ORDERS: Final = 2
_PRIOR_SHARE: Final = 0.25
"""A user of whom nothing is known counts as one with two orders, of which a quarter had a discount."""
_PPM: Final = 1_000_000
_CONVERTED: Final = 1 << get_args(Status).index("converted")

Sums = tuple[int, int]
"""Commands sent, and those of them with an incentive; the partition's record has them by week."""


class Dependence(NamedTuple):
    """How much a user buys by coupon and discount."""

    score: float
    """Share of his orders with one, shrunk where they are few; 0 to 1."""
    hunter: bool
    reason: str


def dependence(profile: Profile, playbook: Playbook) -> Dependence:
    """Judge a user by the orders that he made with a coupon or a discount, over all time."""
    rules, orders = playbook.subsidy, profile.orders
    discounted = min(profile.account.discounted, orders)
    score = (discounted + _PRIOR_ORDERS * _PRIOR_SHARE) / (orders + _PRIOR_ORDERS)
    told = f"{discounted} of {orders} orders with a discount, score {score:.2f}"
    if orders < rules.min_orders:
        return Dependence(score, False, f"{told}: fewer than {rules.min_orders} orders, too few to tell")
    if score > rules.hunter_above:
        return Dependence(score, True, f"{told}: bargain hunter, above {rules.hunter_above:g}")
    return Dependence(score, False, f"{told}: no bargain hunter, not above {rules.hunter_above:g}")


def incentive(
    profile: Profile, episode: Episode, play: Play, rung: int, playbook: Playbook, at: int
) -> tuple[int | None, str]:
    """Return the place of the face value that goes with a touch, or None; and why."""
    if play.incentive is None:
        return None, "the play has none"
    if rung < len(play.rungs) - 1:
        return None, "only with the last rung"
    if episode.step == 0:
        return None, "never with the first touch"
    depends = dependence(profile, playbook)
    if depends.hunter:
        return None, depends.reason
    cool_down = playbook.subsidy.cool_down_days
    since = at - cool_down * DAY_MS
    if any(contact.face and contact.at > since for contact in profile.account.contacts):
        return None, f"had one within {cool_down} days"
    return _sufficient(profile.account.contacts, play.name, len(play.incentive.face_values))


def _sufficient(contacts: list[Contact], play: str, values: int) -> tuple[int, str]:
    """Return the place of the smallest face value that may be enough, going by the last one that the user was given."""
    earlier = [contact for contact in contacts if contact.play == play and contact.face]
    if not earlier:
        return 0, "the smallest"
    last = max(earlier, key=lambda contact: contact.at)
    place = min(last.face, values) - 1
    if last.heard & _CONVERTED:
        return place, "was enough before"
    if not last.delivered_at:
        return place, "did not arrive before"
    if place + 1 < values:
        return place + 1, "the smaller one was not redeemed"
    return place, "the largest; it was not redeemed before"


def share_of(subsidised: Mapping[int, Sums], week: int) -> Sums:
    """Return the commands of the four weeks that end with this one, and those of them with an incentive."""
    weeks = [sums for at, sums in subsidised.items() if week - SHARE_WEEKS < at <= week]
    return sum(sent for sent, _ in weeks), sum(given for _, given in weeks)


def share_allows(subsidised: Mapping[int, Sums], week: int, playbook: Playbook) -> bool:
    """Tell whether one more command with an incentive leaves the subsidised share within its bound."""
    sent, given = share_of(subsidised, week)
    return (given + 1) * _PPM <= round(playbook.subsidy.share_max * _PPM) * (sent + 1)


def after_sending(subsidised: Mapping[int, Sums], week: int, *, incentive: bool) -> dict[int, Sums]:
    """Return the sums after a command; weeks that are over for good are dropped."""
    kept = {at: sums for at, sums in subsidised.items() if at > week - 2 * SHARE_WEEKS}
    sent, given = kept.get(week, (0, 0))
    kept[week] = sent + 1, given + incentive
    return kept


def climbs(subsidised: Mapping[int, Sums], week: int, playbook: Playbook) -> bool:
    """Tell whether the subsidised share is on its way to its bound: above half of it, and above the four weeks before.

    The alarm of the partition: incentives are becoming the habit.
    """
    sent, given = share_of(subsidised, week)
    sent_before, given_before = share_of(subsidised, week - SHARE_WEEKS)
    above_half = 2 * given > playbook.subsidy.share_max * sent
    return above_half and given * max(1, sent_before) > given_before * sent
