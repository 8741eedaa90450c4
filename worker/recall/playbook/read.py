"""Reads a playbook; a mistake is named by its line, its field, its value and what is allowed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ValidationError

from worker.recall.playbook.lines import line_of, places
from worker.recall.playbook.model import CLOCK_PATTERN, NAME_PATTERN, Playbook

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from worker.recall.playbook.lines import Place

NAMED_MAX: Final = 16
"""So many names are listed at most; of more only the nearest is told."""
ALIKE: Final = 0.6
"""How alike a misspelt name is to the one that was meant, 0 to 1."""
_TOLD: Final[dict[str, str]] = {
    "missing": "is missing",
    "playbook": "{said}",
    "int_parsing": "allowed is a whole number",
    "int_type": "allowed is a whole number",
    "int_from_float": "allowed is a whole number",
    "int_parsing_size": "allowed is a smaller number",
    "float_parsing": "allowed is a number",
    "float_type": "allowed is a number",
    "finite_number": "allowed is a number",
    "decimal_parsing": 'allowed is an amount such as "0.05"',
    "decimal_type": 'allowed is an amount such as "0.05"',
    "decimal_max_places": "allowed is at most {decimal_places} digits after the point",
    "decimal_max_digits": "allowed is at most {max_digits} digits",
    "decimal_whole_digits": "allowed is at most {whole_digits} digits before the point",
    "bool_parsing": "allowed is true or false",
    "bool_type": "allowed is true or false",
    "string_type": "allowed is text",
    "list_type": 'allowed is a list such as ["email"]',
    "dict_type": "allowed is a table",
    "model_type": "allowed is a table",
    "greater_than": "allowed is above {gt:g}",
    "greater_than_equal": "allowed is {ge:g} or more",
    "less_than": "allowed is below {lt:g}",
    "less_than_equal": "allowed is {le:g} or less",
    "too_short": "allowed is at least {min_length} of them",
    "too_long": "allowed is at most {max_length} of them",
    "string_too_short": "allowed is at least {min_length} characters",
    "string_too_long": "allowed is at most {max_length} characters",
}
"""What is said, by pydantic's type of the error; with the numbers of its context."""
_KEY: Final = "[key]"
"""What pydantic adds to the place of a name that is wrong itself."""
_PATTERNS: Final = {
    NAME_PATTERN: "small letters, digits, - and _, at most 64",
    CLOCK_PATTERN: "a time of the day such as 21:00",
}


Level: TypeAlias = Literal["error", "warning"]


class Finding(NamedTuple):
    """Something wrong with a playbook, or doubtful; in words that name place, value and what is allowed."""

    level: Level
    line: int | None
    text: str


class PlaybookError(ValueError):
    """The playbook cannot be used; the message says where and why."""

    def __init__(self, origin: str, findings: Sequence[Finding]) -> None:
        self.findings = findings
        super().__init__("\n".join(told(origin, finding) for finding in findings))


def told(origin: str, finding: Finding) -> str:
    """Return a finding on one line, after the file that it is about."""
    return f"playbook {origin}{f', line {finding.line}' if finding.line else ''}: {finding.text}"


class Read(NamedTuple):
    """A playbook, and where in its file things stand."""

    playbook: Playbook
    lines: Mapping[Place, int]


def load(path: Path) -> Playbook:
    """Read a playbook.

    Raises:
        PlaybookError: naming the file, and each wrong field with its line, its value and what is allowed.

    """
    return read(path).playbook


def read(path: Path) -> Read:
    """Read a playbook, and remember where things stand; see `load`."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise PlaybookError(str(path), [Finding("error", None, f"cannot be read: {error.strerror}")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlaybookError(str(path), [Finding("error", None, f"is not TOML: {error}")]) from error
    lines = places(text)
    return Read(parse(raw, str(path), lines), lines)


def parse(raw: dict[str, Any], origin: str, lines: Mapping[Place, int] | None = None) -> Playbook:
    """Check a playbook that was read already; `origin` is named in errors.

    >>> parse({"name": "p", "plays": [], "rgm": {}}, "p.toml")
    Traceback (most recent call last):
    worker.recall.playbook.read.PlaybookError: playbook p.toml: rfm: is missing
    playbook p.toml: plays = []: allowed is at least 1 of them
    playbook p.toml: rgm: no such field; did you mean 'rfm'?
    """
    try:
        return Playbook.model_validate(raw)
    except ValidationError as error:
        mistakes = [mistake for detail in error.errors() for mistake in _mistakes(detail)]
        findings = [_finding(mistake, raw, lines or {}) for mistake in mistakes]
        raise PlaybookError(origin, sorted(findings, key=lambda finding: finding.line or 0)) from error


def name_of(place: Place, raw: object) -> str:
    """Return a place as it is told: entries of a list by number, and by their name where they have one.

    >>> name_of(("plays", 0, "cost", "hidden"), {"plays": [{"name": "memory"}]})
    'plays[0] (memory): cost.hidden'
    """
    named = ""
    for part in place:
        raw = _entry(raw, part)
        if isinstance(part, str):
            named += part if not named or named.endswith(" ") else f".{part}"
            continue
        named += f"[{part}]"
        if isinstance(raw, Mapping) and isinstance(raw.get("name"), str):
            named += f" ({raw['name']}): "
    return named.removesuffix(": ")


class _Mistake(NamedTuple):
    """One of pydantic's errors, or of those that the model found itself."""

    kind: str
    place: Place
    value: object
    context: Mapping[str, Any]
    message: str
    shown: bool
    """Whether the value is told beside the place."""


def _mistakes(detail: ErrorDetails) -> Iterator[_Mistake]:
    if detail["type"] == "mistakes":
        for error in detail["ctx"]["mistakes"]:
            context = error.context
            yield _Mistake(error.type, context["place"], context["value"], context, error.message(), shown=True)
        return
    context = detail.get("ctx", {})
    place: Place = (*(part for part in detail["loc"] if part != _KEY), *context.get("place", ()))
    value = context.get("value", detail["input"])
    hidden = detail["type"] == "missing" or _KEY in detail["loc"] or isinstance(value, (Mapping, BaseModel))
    yield _Mistake(detail["type"], place, value, context, detail["msg"], shown=not hidden)


def _finding(mistake: _Mistake, raw: object, lines: Mapping[Place, int]) -> Finding:
    shown = f" = {mistake.value!r}" if mistake.shown else ""
    return Finding("error", line_of(lines, mistake.place), f"{name_of(mistake.place, raw)}{shown}: {_said(mistake)}")


def _said(mistake: _Mistake) -> str:
    """Say what is wrong, or what is allowed."""
    kind, context, place = mistake.kind, mistake.context, mistake.place
    if kind == "extra_forbidden":
        return f"no such field{nearest(place[-1], _fields(place[:-1]))}"
    if kind == "unknown_name":
        return f"no such {context['what']}{nearest(mistake.value, context['allowed'])}"
    if kind == "string_pattern_mismatch":
        return f"allowed is {_PATTERNS[context['pattern']]}"
    if kind == "literal_error":
        allowed = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"allowed is {context['expected']}{f'; {meant}' if (meant := _meant(mistake.value, allowed)) else ''}"
    return _TOLD[kind].format_map(context) if kind in _TOLD else mistake.message


def nearest(name: object, allowed: Sequence[str]) -> str:
    """Return the name that was probably meant, as the end of a sentence; if none is near, all if they are few.

    >>> nearest("in-app", ("in_app", "push")), nearest("fax", ("in_app", "push")), nearest("fax", ())
    ("; did you mean 'in_app'?", '; allowed is in_app, push', '; there is none')
    """
    meant = _meant(name, allowed)
    if meant:
        return f"; {meant}"
    if not allowed:
        return "; there is none"
    return f"; allowed is {', '.join(allowed)}" if len(allowed) <= NAMED_MAX else ""


def _meant(name: object, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=ALIKE)
    return f"did you mean {near[0]!r}?" if near else ""


def _fields(place: Place) -> list[str]:
    """Return the names that a section may hold."""
    section: type[BaseModel] | None = Playbook
    for part in place:
        if isinstance(part, str) and section is not None:
            fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
            section = _model_in(fields.get(part))
    return [] if section is None else [field.alias or name for name, field in section.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field's type speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _entry(raw: object, part: int | str) -> object:
    """Return what stands at a name or number, or None."""
    if isinstance(raw, Mapping):
        return raw.get(part)
    if isinstance(raw, list) and isinstance(part, int) and part < len(raw):
        return raw[part]
    return None
