"""Errors a stage raises for things a user can cause.

Each message is one line that names the value, the place and the remedy; `pipeline/cli.py` prints it without a
traceback and exits with status 1.
"""

from __future__ import annotations


class KuleshovError(Exception):
    """Root of every error that a stage raises on purpose."""


class SettingError(KuleshovError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(KuleshovError):
    """The data set as a whole cannot be used (a missing root, no images, a column that is not there)."""


class MediaError(KuleshovError):
    """One photo or clip cannot be read. Caught by the stages and recorded in their ledgers.

    Attributes:
        reason: a short word for the ledger, such as `missing`, `empty`, `decode_error`, `truncated`, `too_large`.
        detail: one line for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # it comes from decoding processes


class WeightsError(KuleshovError):
    """Weights are missing, have another hash than the catalogue's, or do not fit the network."""


class MissingInputError(KuleshovError):
    """What an earlier stage writes is not there. The message names the command that writes it."""


class TooManyFailures(KuleshovError):
    """More items failed than `max_failures` allows. What was done is kept."""
