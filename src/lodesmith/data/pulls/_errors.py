"""What can go wrong between a publisher and a dataset folder: each with a type of its own."""

from __future__ import annotations

from lodesmith.core.errors import IntegrityError, LodesmithError


class OfflineError(LodesmithError):
    """The publisher cannot be reached."""


class RefusedError(LodesmithError):
    """The publisher wants a token, or the token has no access."""


class AbsentError(LodesmithError):
    """The publisher has no such file or dataset."""


class ServerError(LodesmithError):
    """The publisher answers, but not with the file: too busy, broken, or against the protocol."""


class SpaceError(LodesmithError):
    """The disk has not enough room."""


class DigestError(IntegrityError):
    """The bytes are not those that were published, or recorded before."""


class LayoutError(IntegrityError):
    """A published file has not the layout that it is known for."""


class SizeError(IntegrityError):
    """A file is larger than is read, or ends early."""


class ArchiveError(IntegrityError):
    """An archive that is not unpacked. `kind` names the reason: `traversal`, `absolute`, `link`, `device`, `bomb`,
    `truncated`, `encrypted`, `duplicate` or `damaged`.
    """

    def __init__(self, kind: str, what: str, do: str = "do not use this file; take it from its publisher") -> None:
        super().__init__(what, do)
        self.kind = kind
