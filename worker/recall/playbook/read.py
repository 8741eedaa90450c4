"""Reads a playbook; a mistake is named by its field, its value and what is allowed."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from worker.recall.playbook.model import Playbook

if TYPE_CHECKING:
    from pathlib import Path


class PlaybookError(ValueError):
    """The playbook cannot be used; the message says where and why."""


def load(path: Path) -> Playbook:
    """Read a playbook.

    Raises:
        PlaybookError: naming the file, and each wrong field with its value and what is allowed.

    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlaybookError(f"playbook {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlaybookError(f"playbook {path}: is not TOML: {error}") from error
    return parse(raw, str(path))


def parse(raw: dict[str, object], origin: str) -> Playbook:
    """Check a playbook that was read already; `origin` is named in errors.

    >>> parse({"name": "p"}, "p.toml")
    Traceback (most recent call last):
    worker.recall.playbook.read.PlaybookError: playbook p.toml:
      rfm: Field required
      plays: Field required
    """
    try:
        return Playbook.model_validate(raw)
    except ValidationError as error:
        lines = [_line(detail["loc"], detail["msg"], detail["type"], detail["input"]) for detail in error.errors()]
        raise PlaybookError("\n  ".join([f"playbook {origin}:", *lines])) from error


def _line(place: tuple[int | str, ...], message: str, kind: str, value: object) -> str:
    field = ".".join(str(part) for part in place) or "playbook"
    if kind in {"missing", "playbook", "unknown_name"}:
        return f"{field}: {message}"
    return f"{field} = {value!r}: {message}"
