"""Whether a channel reaches a user, his points, and a checkout in course: what is kept of them in his row."""

import pytest
from customers import later, ms
from hypothesis import given
from hypothesis import strategies as st

from worker.recall import bodies, intake
from worker.recall.days import Days
from worker.recall.profile import Profile
from worker.recall.windows import CHECKOUT
from worker.stream.processor import NEVER

DAYS = Days("UTC")
NOW = ms("2025-06-02T12:00")


class User:
    def __init__(self):
        self.row = Profile(key=b"user-1", due=NEVER, silence_due=NEVER, other_due=NEVER)
        self._n = 0

    def _id(self):
        self._n += 1
        return f"message {self._n}"

    def app(self, state, at=NOW):
        return intake.app(self.row, bodies.App(self._id(), state), at, max(NOW, at), DAYS)

    def hears(self, status, channel, at=NOW):
        return intake.feedback(self.row, bodies.Feedback(self._id(), "c1", status, channel, None), at, NOW, DAYS)

    def says(self, at=NOW, **fields):
        names = bodies.ProfileUpdate.__struct_fields__
        told = {**dict.fromkeys(names), "message_id": self._id(), "erase": False, **fields}
        intake.update(self.row, bodies.ProfileUpdate(**told), at)

    def checks_out(self, at=NOW):
        return intake.activity(self.row, bodies.Activity(CHECKOUT, self._id()), at, max(NOW, at), DAYS)

    def orders(self, at=NOW):
        return intake.order(self.row, bodies.Order(self._id(), self._id(), 100, (), None, 0), at, max(NOW, at), DAYS)

    @property
    def unreachable(self):
        return set(self.row.account.unreachable)


@pytest.fixture
def user():
    return User()


def test_without_the_app_neither_push_nor_messages_in_it_reach_a_user(user):
    user.app("uninstalled")
    assert user.row.account.unreachable == {"push": NOW, "in_app": NOW}


@pytest.mark.parametrize("state", ["installed", "opened"])
def test_an_app_that_is_there_again_reaches_him_again(user, state):
    user.app("uninstalled")
    user.app(state, NOW + 1)
    assert user.unreachable == set()


def test_to_open_the_app_is_activity_to_install_or_lose_it_is_none(user):
    user.app("installed")
    user.app("uninstalled")
    assert user.row.active_at == 0
    user.app("opened")
    assert user.row.active_at == NOW
    assert user.app("opened", later(NOW, days=-3)) == "late"


def test_what_happened_before_the_app_was_lost_brings_it_not_back(user):
    user.app("uninstalled", NOW)
    user.app("opened", NOW - 1)
    assert user.unreachable == {"push", "in_app"}


def test_what_bounced_is_unreachable_until_something_is_delivered(user):
    user.hears("bounced", "email")
    assert user.unreachable == {"email"}
    user.hears("delivered", "push", NOW + 1)
    assert user.unreachable == {"email"}
    user.hears("delivered", "email", NOW + 2)
    assert user.unreachable == set()


@pytest.mark.parametrize("status", ["opened", "failed", "converted", "clicked", "visited"])
def test_nothing_else_that_is_told_of_a_touch_says_whether_it_reaches_him(user, status):
    user.hears("bounced", "email")
    user.hears(status, "email", NOW + 1)
    user.hears(status, "sms")
    assert user.unreachable == {"email"}


def test_new_consent_comes_with_a_new_address(user):
    user.says(consent={"email": {"marketing": True}})
    user.hears("bounced", "email")
    user.says(consent={"email": {"marketing": True}}, at=NOW + 1)
    assert user.unreachable == {"email"}, "it was given before"
    user.says(consent={"email": {"marketing": False}}, at=NOW + 2)
    user.says(consent={"email": {"marketing": True}}, at=NOW + 3)
    assert user.unreachable == set()


def test_consent_brings_no_app_back(user):
    user.app("uninstalled")
    user.says(consent={"push": {"marketing": True}, "in_app": {"marketing": True}}, at=NOW + 1)
    assert user.unreachable == {"push", "in_app"}
    assert user.row.account.consent == {"push:marketing": True, "in_app:marketing": True}


def test_points_are_kept_and_what_is_not_said_of_them_stays(user):
    assert (user.row.account.points, user.row.account.points_expire_at) == (-1, 0)
    user.says(points=120, points_expire_at=NOW)
    user.says(timezone="Europe/London")
    assert (user.row.account.points, user.row.account.points_expire_at) == (120, NOW)
    user.says(points=0)
    assert (user.row.account.points, user.row.account.points_expire_at) == (0, NOW)


def test_a_checkout_is_in_course_until_an_order_follows(user):
    user.checks_out(NOW)
    user.checks_out(NOW - 60_000)
    assert user.row.checkout_at == NOW
    user.orders(NOW - 1)
    assert user.row.checkout_at == NOW, "that order came before it"
    user.orders(NOW + 1)
    assert user.row.checkout_at == 0
    user.checks_out(NOW - 5)
    assert user.row.checkout_at == 0, "its order has come already"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["installed", "opened", "uninstalled", "bounced", "delivered"]), st.integers(0, 10_000_000)
        ),
        max_size=12,
        unique_by=lambda told: told[1],
    )
)
def test_in_order_the_last_that_was_told_of_a_channel_holds(story):
    user = User()
    lost = {"push": False, "email": False}
    for told, after in sorted(story, key=lambda event: event[1]):
        if told in {"bounced", "delivered"}:
            user.hears(told, "email", NOW + after)
            lost["email"] = told == "bounced"
        else:
            user.app(told, NOW + after)
            lost["push"] = told == "uninstalled"
    assert user.unreachable - {"in_app"} == {channel for channel, is_lost in lost.items() if is_lost}
    user.row.seal()
