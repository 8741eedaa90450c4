"""How the process ends when it can no longer be trusted."""

from __future__ import annotations

import os
from typing import NoReturn, Protocol

import structlog

log = structlog.get_logger("recall.exit")

EXIT_UNAVAILABLE = 69
EXIT_COMMIT_FAILED = 70
EXIT_LEFTOVER = 71
EXIT_WORK_FAILED = 72
EXIT_STOP_TIMEOUT = 73
EXIT_STUCK = 75
EXIT_STALLED = 76
EXIT_STORE_FAILED = 77
EXIT_REFUSED = 78


class RefusedError(RuntimeError):
    """The worker must not start; the message says what to do."""


class UnavailableError(RuntimeError):
    """The broker does not answer now: the worker cannot start, and a new process is to try again."""


class Die(Protocol):
    """Ends the process at once; an argument, so that a test can end one of several."""

    def __call__(self, code: int, event: str, **fields: object) -> NoReturn: ...


def die(code: int, event: str, **fields: object) -> NoReturn:
    """End the process at once: no further commit, and no clean-up that might make one."""
    log.critical(event, **fields)
    os._exit(code)
