"""Scans that networks are trained and validated on, and the manifest that hands them over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workflow.data.cohort import Scan
from workflow.data.pairs import has_couples
from workflow.errors import ConfigError, raise_all

COLUMNS = ("subject", "image", "label", "split", "visit", "side")


def training_scans(scans: dict[str, Scan]) -> list[Scan]:
    """Return the scans of the splits train and validation; of the latter those with labels."""
    chosen = [
        scan
        for scan in scans.values()
        if scan.split == "train" or (scan.split == "validation" and scan.label)
    ]
    return sorted(chosen, key=lambda scan: scan.name)


def read_scan(scan: Scan) -> Scan:
    """Return a scan without a label map that is never read: that of a training image."""
    unread = scan.split == "train" and scan.image
    return replace(scan, label=None) if unread else scan


def check_training(
    scans: Sequence[Scan], tasks: Sequence[str], mirrored: bool, learned: Sequence[str]
) -> None:
    """Raise one `ConfigError` that names every task without training or validation pairs."""
    found = []
    for split, kind in (("train", "training"), ("validation", "labelled validation")):
        own = [scan for scan in scans if scan.split == split]
        patients = len({scan.subject for scan in own})
        found += [
            f"{task}: no {kind} pairs among the {len(own)} {kind} scans of {patients} patients"
            for task in tasks
            if not has_couples(own, task, mirrored)
        ]
    raise_all(
        ConfigError,
        f"{', '.join(learned)}: too few scans to train networks on (lower split.test or raise "
        "split.validation, give scans the split train or validation in the manifest, or take "
        "these methods off methods):",
        found,
    )


def manifest_rows(scans: Sequence[Scan]) -> list[dict[str, str]]:
    """Return the rows of the training manifest; its paths are relative to `<run>/training/`.

    Only validation scans have label maps: their Dice chooses the weights that are kept.
    """
    return [
        {
            "subject": scan.subject,
            "image": f"../images/{scan.name}.nii",
            "label": f"../labels/{scan.name}.nii" if scan.split == "validation" else "",
            "split": scan.split,
            "visit": scan.visit,
            "side": scan.side,
        }
        for scan in scans
    ]
