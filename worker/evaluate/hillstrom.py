"""The choice on a randomised test: whether it finds what helps whom, while it learns, and better than risk does.

K. Hillstrom: The MineThatData E-Mail Analytics and Data Mining Challenge (2008): 64,000 past buyers, of whom a third at
random got an e-mail with men's goods, a third one with women's, a third none; whether they visited the shop within two
weeks is what counts here.

Two protocols. The replay lets a policy choose row by row, in an order drawn by the seed; where it chooses what the test
did, the row is its own experience, else it is skipped (L. Li, W. Chu, J. Langford, X. Wang: Unbiased Offline Evaluation
of Contextual-bandit-based News Article Recommendation Algorithms, WSDM 2011). It learns as the worker does, from
outcomes in snapshots. Cross-fitting asks what a policy is worth that was learned before: for each fifth of the rows it
is made of the others, and valued by IPS, SNIPS and doubly robustly.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson

from schemas.snapshots import ChoicePriors
from worker.evaluate.offpolicy import DecisionLog, Estimate, doubly_robust, ips, snips
from worker.evaluate.peers import LightGbm
from worker.recall.playbook.model import DO_NOTHING, ChoiceRules
from worker.recall.policy.choice import Arm, choose, observed, priors_of
from worker.recall.policy.holdout import uniform
from worker.recall.policy.responses import Outcome, Responses
from worker.sources.history import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from worker.evaluate.figures import Floats, Ints
    from worker.recall.policy.choice import Priors

NAME: Final = "hillstrom"
TITLE: Final = "Hillstrom's e-mail test: which mail, or none"
FILE: Final = ("hillstrom", "hillstrom.csv.gz")
MENS, WOMENS = "mens", "womens"
ARMS: Final = (DO_NOTHING, MENS, WOMENS)
LOGGED: Final = 1 / len(ARMS)
"""Propensity of each arm in the test."""
SEEDS: Final = range(10)
BATCH: Final = 1000
"""Rows from one snapshot to the next."""
FOLDS: Final = 5
EPSILON: Final = 0.1
RECENT_MONTHS: Final = 6
"""Half of the year that the buyers' last orders lie in."""
RISKIEST: Final = 0.5
"""Share that targeting by risk mails."""
TOP: Final = 0.08
"""Share of a small budget."""
PRICE: Final = 0.07
"""Of a mail, in visits: about what the better mail brings on average, so that it has to be chosen whom to mail."""
LEAST_OF_BEST: Final = 0.97
OURS, GREEDY, RANDOM, RISK = "Recall", "epsilon-greedy", "random", "by risk"
_RULES: Final = ChoiceRules(mode="learned")
"""As the playbook has them where it says nothing: no knowledge of this test."""
_MICROS: Final = 1_000_000
_DAY: Final = 20_000
"""All within one day: two weeks are too short for anything to fade."""
_DIGITS: Final = 5
_PACKAGES: Final = ("lightgbm", "numpy", "scipy")


class Campaign(NamedTuple):
    """The rows of the test."""

    arm: Ints
    """Place in `ARMS`."""
    visit: Ints
    segment: Ints
    """Place in `segments`."""
    segments: tuple[str, ...]
    x: Floats
    """All that is known of the buyers before the test."""


_QUERY: Final = """
select
    case segment when 'No E-Mail' then 0 when 'Mens E-Mail' then 1 when 'Womens E-Mail' then 2 end as arm,
    visit,
    case when mens = 1 and womens = 1 then 'both' when mens = 1 then 'mens' else 'womens' end as bought,
    recency, history, mens, womens, newbie,
    (zip_code = 'Urban')::int as urban, (zip_code = 'Rural')::int as rural,
    (channel <> 'Phone')::int as web, (channel <> 'Web')::int as phone
from read_csv(?)
"""


def read(data: Path) -> Campaign:
    """Read the test from the folder of the data sets."""
    file = data.joinpath(*FILE)
    if not file.exists():
        raise FileNotFoundError(f"{file} is not there: --data is the folder of the data sets")
    with connect() as db:
        rows = db.execute(_QUERY, [str(file)]).fetchnumpy()
    when = np.where(rows["recency"] <= RECENT_MONTHS, "recent", "long ago")
    names = np.char.add(np.char.add(rows["bought"].astype(str), "/"), when)
    segments, segment = np.unique(names, return_inverse=True)
    known = ("recency", "history", "mens", "womens", "newbie", "urban", "rural", "web", "phone")
    x = np.column_stack([rows[name].astype(np.float64) for name in known])
    arm, visit = rows["arm"].astype(np.int64), rows["visit"].astype(np.int64)
    return Campaign(arm, visit, segment.astype(np.int64), tuple(segments.tolist()), x)


# -- replay ------------------------------------------------------------------------------------------------------------


class Replayed(NamedTuple):
    """What a policy experienced."""

    accepted: int
    rate: float
    """Visits, of the rows that it experienced."""
    estimate: Estimate
    """Visits over all rows, by IPS with the propensities that it recorded."""


class Policy:
    """Chooses for a row; is told what came of it, and when a snapshot comes."""

    def choose(self, segment: str, draw: float) -> tuple[str, dict[str, float]]:
        """Return the arm, and the propensities of all."""
        raise NotImplementedError

    def observe(self, segment: str, arm: str, propensity: float, visit: int) -> None:
        """Take an outcome."""

    def publish(self) -> None:
        """Act by what was observed so far."""


class Ours(Policy):
    """The product's choice; a visit is worth 1, and a mail costs so much."""

    def __init__(self, price: float = 0.0) -> None:
        self._arms = [Arm(play, _MICROS, round(price * _MICROS)) for play in ARMS if play != DO_NOTHING]
        self._priors = priors_of(None, _RULES)
        self._sums, self._outcomes = Responses(), list[Outcome]()

    def choose(self, segment: str, draw: float) -> tuple[str, dict[str, float]]:
        told = choose(self._arms, segment, self._priors, _RULES, draw)
        return told.play, told.propensities

    def observe(self, segment: str, arm: str, propensity: float, visit: int) -> None:
        self._outcomes.append(Outcome(segment, arm, visit, observed(arm, propensity, 0.0)))

    def publish(self) -> None:
        self._sums.learn(_DAY, self._outcomes)
        self._outcomes = []
        self._priors = _snapshot(self._sums)


def _snapshot(sums: Responses) -> Priors:
    """Return priors by way of the snapshot's JSON, as a worker has them."""
    return priors_of(Responses.read(ChoicePriors.model_validate_json(orjson.dumps(sums.to_json()))), _RULES)


class Greedy(Policy):
    """Mostly the arm of the best rate in the segment so far, else any: a bandit without posteriors."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = {}
        self._best: dict[str, str] = {}

    def choose(self, segment: str, draw: float) -> tuple[str, dict[str, float]]:
        best = self._best.get(segment)
        each = (1.0 if best is None else EPSILON) / len(ARMS)
        told = {arm: each + (1 - EPSILON if arm == best else 0.0) for arm in ARMS}
        return ARMS[int(np.searchsorted(np.cumsum(list(told.values())), draw, side="right"))], told

    def observe(self, segment: str, arm: str, propensity: float, visit: int) -> None:  # noqa: ARG002 - it weighs nothing
        sums = self._sums.setdefault((segment, arm), [0, 0])
        sums[0] += visit
        sums[1] += 1

    def publish(self) -> None:
        rates: dict[str, dict[str, float]] = {}
        for (segment, arm), (visits, n) in self._sums.items():
            rates.setdefault(segment, {})[arm] = visits / n
        self._best = {segment: max(by_arm, key=by_arm.__getitem__) for segment, by_arm in rates.items()}


class Random(Policy):
    """All arms alike: what the test did."""

    def choose(self, segment: str, draw: float) -> tuple[str, dict[str, float]]:  # noqa: ARG002 - whoever it is
        return ARMS[int(draw * len(ARMS))], dict.fromkeys(ARMS, LOGGED)


def replay(test: Campaign, policy: Policy, seed: int) -> Replayed:
    """Let a policy go through the test and learn."""
    order = np.random.default_rng(seed).permutation(len(test.arm))
    visits = accepted = 0
    weighed = np.empty(len(order))
    for n, row in enumerate(order.tolist()):
        segment, done, visit = test.segments[test.segment[row]], ARMS[test.arm[row]], int(test.visit[row])
        arm, propensities = policy.choose(segment, uniform(f"{NAME}-{seed}", row.to_bytes(4, "big")))
        weighed[n] = propensities.get(done, 0.0) / LOGGED * visit
        if arm == done:
            accepted += 1
            visits += visit
            policy.observe(segment, arm, propensities[arm], visit)
        if (n + 1) % BATCH == 0:
            policy.publish()
    # Given what was learned before it, each row's term is without bias: so is the mean, and terms are uncorrelated.
    error = float(weighed.std()) / len(order) ** 0.5
    return Replayed(accepted, visits / accepted, Estimate(float(weighed.mean()), error))


# -- cross-fitting -----------------------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """What is said of each row by what was made of the other folds."""

    rates: Floats
    """By arm, the probability of a visit."""
    ours: Floats
    """By arm, the propensity of the choice."""
    priced: Floats
    """The same, where a mail costs `PRICE`."""
    added: Floats
    """By arm, what it is expected to add in the row's segment."""
    fold: Ints


def cross_fit(test: Campaign) -> Fitted:
    """Make models and policies of four fifths, for the last fifth."""
    n = len(test.arm)
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    rates, ours, priced, added = (np.zeros((n, len(ARMS))) for _ in range(4))
    for held in range(FOLDS):
        here, others = fold == held, fold != held
        for arm in range(len(ARMS)):
            seen = others & (test.arm == arm)
            rates[here, arm] = LightGbm().fit(test.x[seen], test.visit[seen])(test.x[here])
        by_segment = _learned(test, np.flatnonzero(others))
        for of, target in ((0.0, ours), (PRICE, priced)):
            arms = [Arm(play, _MICROS, round(of * _MICROS)) for play in ARMS if play != DO_NOTHING]
            for place, name in enumerate(test.segments):
                told = choose(arms, name, by_segment, _RULES, 0.0).propensities
                target[here & (test.segment == place)] = [told.get(arm, 0.0) for arm in ARMS]
        for place, name in enumerate(test.segments):
            expected = [0.0, *(by_segment.added(name, play).mean for play in (MENS, WOMENS))]
            added[here & (test.segment == place)] = expected
    return Fitted(rates, ours, priced, added, fold)


def _learned(test: Campaign, rows: Ints) -> Priors:
    """Return what is believed after these rows: with nothing held out, each arm had its share."""
    sums = Responses()
    sums.learn(
        _DAY,
        [
            Outcome(test.segments[segment], ARMS[arm], visit, LOGGED)
            for segment, arm, visit in zip(
                test.segment[rows].tolist(), test.arm[rows].tolist(), test.visit[rows].tolist(), strict=True
            )
        ],
    )
    return _snapshot(sums)


def always(test: Campaign, arm: str) -> Floats:
    """Return the policy that does the same with everyone."""
    target = np.zeros((len(test.arm), len(ARMS)))
    target[:, ARMS.index(arm)] = 1.0
    return target


def first(score: Floats, fold: Ints, share: float) -> Floats:
    """Return 1 for the share of each fold with the highest scores; equal ones are told apart by chance, the same."""
    chance = np.random.default_rng(1).random(len(score))
    taken = np.zeros(len(score))
    for held in np.unique(fold):
        here = np.flatnonzero(fold == held)
        falling = np.lexsort((chance[here], -score[here]))
        taken[here[falling[: round(share * len(here))]]] = 1.0
    return taken


def mailed(taken: Floats, arm: str) -> Floats:
    """Return the policy that mails some, as far as `taken` says, and the others not."""
    target = np.zeros((len(taken), len(ARMS)))
    target[:, ARMS.index(arm)], target[:, 0] = taken, 1 - taken
    return target


# -- the result --------------------------------------------------------------------------------------------------------


def evaluate(data: Path, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Replay, cross-fit and measure; the same rows give the same result."""
    test = read(data)
    fixed = {arm: float(test.visit[test.arm == place].mean()) for place, arm in enumerate(ARMS)}
    best = max(fixed, key=fixed.__getitem__)
    made: dict[str, Callable[[], Policy]] = {OURS: Ours, GREEDY: Greedy, RANDOM: Random}
    replays = {name: _replays(test, make, seeds, fixed[best]) for name, make in made.items()}
    fitted = cross_fit(test)
    log = DecisionLog(test.arm, np.full(len(test.arm), LOGGED), test.visit.astype(np.float64), np.arange(len(test.arm)))
    risk = 1 - fitted.rates[:, 0]
    by_risk = mailed(first(risk, fitted.fold, RISKIEST), best)
    values = _values(
        log,
        fitted.rates,
        {
            OURS: fitted.ours,
            f"{best} to all": always(test, best),
            RANDOM: np.full_like(fitted.ours, LOGGED),
            RISK: by_risk,
        },
    )
    priced = _priced(test, log, fitted, risk, best)
    budget = _budget(test, fitted, risk, best)
    return {
        "task": NAME,
        "title": TITLE,
        "versions": {package: version(package) for package in _PACKAGES},
        "rows": len(test.arm),
        "seeds": len(seeds),
        "batch": BATCH,
        "folds": FOLDS,
        "segments": len(test.segments),
        "riskiest": RISKIEST,
        "top": TOP,
        "price": PRICE,
        "fixed": {arm: _rounded(rate) for arm, rate in fixed.items()},
        "best_fixed": best,
        "replay": replays,
        "values": values,
        "priced": priced,
        "budget": budget,
        "targets": _targets(replays, values),
    }


def _replays(test: Campaign, make: Callable[[], Policy], seeds: Sequence[int], best: float) -> dict[str, Any]:
    told = [replay(test, make(), seed) for seed in seeds]
    rates = [each.rate for each in told]
    return {
        "accepted": round(float(np.median([each.accepted for each in told]))),
        "rate": _rounded(float(np.median(rates))),
        "spread": [_rounded(min(rates)), _rounded(max(rates))],
        "of_best": _rounded(float(np.median(rates)) / best),
        "by_ips": _rounded(float(np.median([each.estimate.value for each in told]))),
        "by_ips_of_best": _rounded(float(np.median([each.estimate.value for each in told])) / best),
    }


def _values(log: DecisionLog, rates: Floats, targets: dict[str, Floats]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, target in targets.items():
        told[name] = {
            "mails": _rounded(float(1 - target[:, 0].mean())),
            "ips": _told(ips(log, target)),
            "snips": _told(snips(log, target)),
            "dr": _told(doubly_robust(log, target, rates)),
        }
        if name == OURS:
            told[name]["less"] = {
                other: {
                    "ips": _told(ips(log, target - targets[other])),
                    "dr": _told(doubly_robust(log, target - targets[other], rates)),
                }
                for other in targets
                if other != OURS
            }
    return told


def _priced(test: Campaign, log: DecisionLog, fitted: Fitted, risk: Floats, best: str) -> dict[str, Any]:
    """Where a mail costs something: by risk and at random as many are mailed as by the choice."""
    share = float(1 - fitted.priced[:, 0].mean())
    cost = np.where(np.arange(len(ARMS)) == 0, 0.0, PRICE)
    net = DecisionLog(log.action, log.propensity, log.reward - cost[log.action], log.user)
    everyone = np.full(len(test.arm), share)
    targets = {
        OURS: fitted.priced,
        RANDOM: mailed(everyone, best),
        RISK: mailed(first(risk, fitted.fold, share), best),
    }
    return _values(net, fitted.rates - cost, targets)


def _budget(test: Campaign, fitted: Fitted, risk: Floats, best: str) -> dict[str, Any]:
    """Return extra visits per 1,000 mails to the top share, each way by its own order."""
    mens = ARMS.index(best)
    ways: dict[str, tuple[Floats, Ints | None]] = {
        "highest risk": (risk, None),
        "longest recency": (test.x[:, 0], None),
        "response model": (fitted.rates[:, mens], None),
        "uplift of two models": (fitted.rates[:, mens] - fitted.rates[:, 0], None),
        OURS: (fitted.added.max(axis=1), fitted.added.argmax(axis=1)),
    }
    taken_by = {name: first(score, fitted.fold, TOP) > 0 for name, (score, _) in ways.items()}
    # Whom chance takes, a mail brings on average what it brings to all.
    ways[RANDOM], taken_by[RANDOM] = (risk, None), np.ones(len(risk), dtype=np.bool_)
    told = {}
    for name, (score, mail) in ways.items():
        taken = taken_by[name]
        sent = np.full(len(score), mens) if mail is None else mail
        with_, without = (test.visit[taken & (test.arm == arm)] for arm in (sent, 0))
        error = float(np.sqrt(with_.var() / len(with_) + without.var() / len(without)))
        told[name] = _told(Estimate(1000 * float(with_.mean() - without.mean()), 1000 * error), 1)
    return told


def _targets(replays: dict[str, Any], values: dict[str, Any]) -> dict[str, bool]:
    def above(other: str) -> bool:
        return all(values[OURS]["less"][other][way]["interval"][0] > 0 for way in ("ips", "dr"))

    return {
        f"replayed, at least {LEAST_OF_BEST:.0%} of the best fixed arm in hindsight": bool(
            replays[OURS]["of_best"] >= LEAST_OF_BEST
        ),
        "above random, by IPS and doubly robust, with 95% intervals": above(RANDOM),
        "above targeting by risk, likewise": above(RISK),
    }


def _told(estimate: Estimate, digits: int = _DIGITS) -> dict[str, Any]:
    value, low, high = (round(each, digits) for each in (estimate.value, estimate.low, estimate.high))
    return {"value": value, "interval": [low, high]}


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
