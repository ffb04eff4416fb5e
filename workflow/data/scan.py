"""One scan of a cohort."""

from __future__ import annotations

from dataclasses import dataclass

PHANTOM_VISITS = ("00m", "24m")


@dataclass(frozen=True)
class Scan:
    """One image of one patient. A missing image is simulated from the label map."""

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
