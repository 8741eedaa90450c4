"""What a play has to say to a user: the variables that its template is filled with, or why there is nothing to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from worker.recall.playbook import Play
    from worker.recall.policy.catalog import Catalog
    from worker.recall.profile import Episode, Profile
    from worker.recall.shop import InForce, Shop


def say(
    play: Play, profile: Profile, episode: Episode, catalog: Catalog, shop: Shop, at: int, book: InForce
) -> dict[str, JsonValue] | str:
    """Return the template's variables, or the reason why the play has nothing to say to this user now."""
    raise NotImplementedError
