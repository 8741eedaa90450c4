"""What the policy never does, whatever users, CRM, playbook and operators do."""

from __future__ import annotations

import orjson
from customers import Backlog, make_shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge import Judge
from policies import START, live, stories

from worker.recall.days import DAY_MS

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SLOW, max_examples=150)
@given(story=stories())
def test_no_guard_is_ever_broken(story):
    Judge(story, live(story)).judge()
