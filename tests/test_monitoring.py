"""What Prometheus is told of budgets, costs and alarms; nothing of it makes a worker unready."""

from types import SimpleNamespace

import pytest
from bench import POLICY, SELDOM, documented
from customers import SmallShop, playbook
from msgspec.structs import replace

from worker.monitoring import CustomersCollector, PolicyCollector
from worker.recall.policy.budget import capacity


def told(shop, number=0):
    """Return what is told as {(name, labels without the partition): value}."""
    lanes = [SimpleNamespace(number=number, work=shop.partition)]
    found = {}
    for family in PolicyCollector(lanes, shop.customers).collect():
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("partition") == str(number)
            found[sample.name, *labels.values()] = sample.value
    return found


def granted(shop, budget_id="daily", **fields):
    shop.steers(
        "grant",
        effective_at=shop.clock,
        budget_id=budget_id,
        amount="100",
        currency="EUR",
        shadow_price="0.5",
        **fields,
    )


def moved(shop, **changes):
    """Put something into what the partition's users share."""
    shop.partition._shared = replace(shop.partition.shared, **changes)


@pytest.fixture
def shop():
    shop = SmallShop()
    shop.tick("2025-03-01T12:00")
    return shop


def test_a_budget_is_told_as_granted_and_as_spent_and_begins_anew_each_day(shop):
    granted(shop)
    budgets = shop.partition.shared.budgets
    moved(shop, budgets={"daily": replace(budgets["daily"], spent=2_500_000)})
    assert told(shop)["recall_budget_granted", "daily", "day"] == 100
    assert told(shop)["recall_budget_spent", "daily", "day"] == 2.5
    shop.tick("2025-03-02T12:00")
    assert told(shop)["recall_budget_spent", "daily", "day"] == 0


def test_a_campaign_that_is_over_grants_nothing(shop):
    granted(shop, "spring", period="campaign", until="2025-03-10T00:00:00Z")
    assert told(shop)["recall_budget_granted", "spring", "campaign"] == 100
    shop.tick("2025-03-10")
    assert told(shop)["recall_budget_granted", "spring", "campaign"] == 0


def test_silence_of_the_crm_raises_an_alarm_at_its_bound_alone():
    shop = SmallShop(playbook(ladder={"alarm_after": 5}))
    shop.tick("2025-03-01")
    for unheard, alarm in ((0, 0), (4, 0), (5, 1), (6, 1)):
        moved(shop, unheard=unheard)
        assert told(shop)["recall_unheard_touches",] == unheard
        assert told(shop)["recall_feedback_alarm",] == alarm


def test_the_subsidised_share_raises_an_alarm_while_it_climbs():
    shop = SmallShop(playbook(subsidy={"share_max": 0.2}))
    shop.tick("2025-03-01")
    week = shop.days.week(shop.days.of(shop.clock))
    moved(shop, subsidised={week: (100, 15), week - 4: (100, 1)})
    assert told(shop)["recall_subsidised_share",] == 0.15
    assert told(shop)["recall_subsidised_alarm",] == 1
    moved(shop, subsidised={week: (100, 5), week - 4: (100, 1)})
    assert told(shop)["recall_subsidised_alarm",] == 0


def test_people_are_told_beside_their_capacity_of_the_day():
    shop = SmallShop(playbook(ladder={"human_per_day": 7}))
    shop.tick("2025-03-01T12:00")
    today = shop.days.of(shop.clock)
    moved(shop, human=(today, 3))
    assert told(shop)["recall_people_used",] == 3
    assert told(shop)["recall_people_capacity",] == capacity(7, partition=0, partitions=1, day=today) == 7
    moved(shop, human=(today - 1, 3))
    assert told(shop)["recall_people_used",] == 0


def test_what_was_steered_shows(shop):
    assert told(shop)["recall_stopped",] == 0
    shop.steers("stop", at=shop.clock)
    shop.steers("approve", effective_at=shop.clock, play="letter", until="2025-03-02T00:00:00Z")
    assert told(shop)["recall_stopped",] == 1
    assert told(shop)["recall_approved", "letter"] == 1
    shop.steers("resume", at=shop.clock)
    shop.tick("2025-03-02")
    assert told(shop)["recall_stopped",] == 0
    assert told(shop)["recall_approved", "letter"] == 0


def test_a_canary_shows_with_its_share():
    canary = playbook("canary")
    shop = SmallShop(playbook(), canary)
    shop.tick("2025-03-01")
    assert not [name for name, *_ in told(shop) if name == "recall_canary_share"]
    shop.steers("adopt_playbook", effective_at=shop.clock, version=canary.version, share=0.1)
    assert told(shop)["recall_canary_share", canary.version] == 0.1


def test_costs_are_told_by_kind_and_play_in_the_shops_currency(shop):
    granted(shop)
    shop.partition.record.counts |= {"ledger.contact.letter": 30_000, "ledger.hidden.letter": 1_500_000}
    shop.partition.record.counts |= {"held.quiet hours": 2, "ended.treated.letter.won": 3, "proposed.letter": 4}
    of = told(shop)
    assert of["recall_cost_total", "contact", "letter"] == 0.03
    assert of["recall_cost_total", "hidden", "letter"] == 1.5
    assert of["recall_held_total", "quiet hours"] == 2
    assert of["recall_outcomes_total", "treated", "letter", "won"] == 3
    assert of["recall_proposals_total", "letter"] == 4


def test_it_is_told_as_documented(shop):
    """Each metric of the policy, by type and labels."""
    granted(shop)
    moved(shop, approved={"letter": 0}, canary=("canary", 0.1))
    kinds = ("ledger.contact.letter", "held.checkout", "ended.treated.letter.won", "proposed.letter")
    kinds += ("command.letter", "episode.won", "feedback.delivered")
    shop.partition.record.counts |= dict.fromkeys(kinds, 1)
    lanes = [SimpleNamespace(number=0, work=shop.partition)]
    exported = {}
    for family in (*PolicyCollector(lanes, shop.customers).collect(), *CustomersCollector(lanes).collect()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exported[name] = (family.type, set().union(*(sample.labels for sample in family.samples)))
    assert exported.keys() >= POLICY | SELDOM
    listed = documented()
    for name in POLICY | SELDOM:
        assert exported[name] == listed[name], name
