"""What opens an episode: a user's value falls or rises, his risk crosses a level, his habits break."""

from __future__ import annotations

from typing import Final, NamedTuple

NEAR_TIER: Final = "near_tier"
TIER_REACHED: Final = "tier_reached"
RHYTHM: Final = "rhythm"
SIGNAL: Final = "signal"
RISK: Final = "risk"
TIER_DROP: Final = "tier_drop"
SILENCE: Final = "silence"
GRADE: Final = {
    trigger: grade
    for grade, trigger in enumerate((NEAR_TIER, TIER_REACHED, RHYTHM, SIGNAL, RISK, TIER_DROP, SILENCE))
}
"""From the mildest on; a graver opening takes the place of an episode that a milder one opened."""


class Opening(NamedTuple):
    """Something that calls for a decision."""

    trigger: str
    name: str
    """Of the signal, of the risk's level, or of the tier that is reached or near; else empty."""
    cause: str
    at: int
    """When it came about, in ms."""
    origin: int
    """Tier before; where the tier did not change, that and `target` are the user's."""
    target: int
    fell: tuple[str, ...]
    before: tuple[int, int, int] | None
    """Scores."""
    after: tuple[int, int, int] | None
    text: str
    """In plain words and figures."""
