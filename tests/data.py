"""The public data sets: where they lie, and what a test does without them."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def require(*parts: str) -> Path:
    """Return a file of the data sets; without it, skip the test, or fail it in CI (`CI=true`)."""
    path = Path(os.environ.get("RECALL_DATA", _DEFAULT)).joinpath(*parts)
    if not path.exists():
        reason = f"{path} is not there: set RECALL_DATA to the folder of the data sets"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
