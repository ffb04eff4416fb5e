"""One scan of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PHANTOM_VISITS = ("00m", "24m")


@dataclass(frozen=True)
class Scan:
    """One image of one patient, which may be missing where `cohort.simulate` is set."""

    subject: str
    visit: str
    side: str
    image: str | None
    label: str | None
    split: str = ""

    @property
    def name(self) -> str:
        """`<subject>_<visit>_<side>`, without the parts that are empty."""
        return "_".join(part for part in (self.subject, self.visit, self.side) if part)


def simulated_note(images: Sequence[bool]) -> list[str]:
    """Say how many scans have no image of their own; `images` says of each whether it has one."""
    simulated = images.count(False)
    if not simulated:
        return []
    return [f"Images: those of {simulated} of {len(images)} scans are simulated from label maps."]
