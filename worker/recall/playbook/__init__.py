"""The operator's file: how users are valued, whom to touch by which play, and what must never happen.

A playbook is TOML, checked whole before anything starts.
"""

from worker.recall.playbook.model import Cap, Condition, Incentive, Play, Playbook, Signal, Step
from worker.recall.playbook.read import PlaybookError, load, parse

__all__ = [
    "Cap",
    "Condition",
    "Incentive",
    "Play",
    "Playbook",
    "PlaybookError",
    "Signal",
    "Step",
    "load",
    "parse",
]
