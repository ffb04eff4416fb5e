"""Scans as they come: prepared as registration prepares images, once, and refused together."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import avsm.prepare
from avsm.errors import UserError
from avsm.grid import majority_vote, to_grid, whole_edges
from avsm.images import canonical, read_image
from avsm.manifest import looks, read_manifest
from avsm.prepare import prepare
from tests.conftest import blobs, oblique_grid

SIZE = (12, 14, 10)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two oblique scans of 16-bit numbers, one of them of a left knee, with label maps."""
    rows = []
    for number, side in enumerate(("right", "left")):
        image = blobs(oblique_grid((30, 26 + number, 22)), seed=number)
        low, high = np.percentile(sitk.GetArrayViewFromImage(image), (30, 70))
        label = sitk.Cast(image > high, sitk.sitkUInt8) + sitk.Cast(image > low, sitk.sitkUInt8)
        sitk.WriteImage(sitk.Cast(image * 900, sitk.sitkInt16), str(tmp_path / f"{number}.nii.gz"))
        sitk.WriteImage(label, str(tmp_path / f"{number}_label.nii.gz"))
        split = "validation" if number else "train"
        rows.append([f"s{number}", f"{number}.nii.gz", f"{number}_label.nii.gz", split, "0", side])
    with (tmp_path / "raw.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["subject", "image", "label", "split", "visit", "side"])
        writer.writerows(rows)
    return tmp_path / "raw.csv"


def test_images_are_as_registration_sees_them(raw: Path, tmp_path: Path) -> None:
    scans = read_manifest(prepare(raw, tmp_path / "new", SIZE, mirror_left=True))
    assert [(s.subject, s.side, looks(s), s.split) for s in scans] == [
        ("s0", "right", "right", "train"), ("s1", "left", "right", "validation"),
    ]  # fmt: skip
    for number, scan in enumerate(scans):
        own = read_image(raw.parent / f"{number}.nii.gz")
        expected = to_grid(own, SIZE[::-1], "image")
        found = read_image(scan.image)
        array = sitk.GetArrayFromImage(found)
        np.testing.assert_allclose(array[..., ::-1] if number else array, expected, atol=1e-6)
        own = canonical(own)
        for corner in (-0.5, 1.0):  # the edges of the first voxel, or of the last
            ends = [
                i.TransformContinuousIndexToPhysicalPoint(
                    [corner if corner < 0 else n - 0.5 for n in i.GetSize()]
                )
                for i in (found, own)
            ]
            np.testing.assert_allclose(*ends, atol=1e-4)
        values = sitk.GetArrayFromImage(read_image(scan.label))
        assert set(np.unique(values)) == {0, 1, 2}
        labels = sitk.GetArrayFromImage(
            canonical(read_image(raw.parent / f"{number}_label.nii.gz"))
        )
        voted = majority_vote(labels, whole_edges(labels.shape, SIZE[::-1]))
        np.testing.assert_array_equal(values[..., ::-1] if number else values, voted)


def test_what_is_there_is_kept_until_it_changes(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii")}

    manifest = prepare(raw, folder, SIZE)
    first = times()
    prepare(raw, folder, SIZE)
    assert times() == first and len(first) == 4
    image = raw.parent / "1.nii.gz"
    sitk.WriteImage(read_image(image) * 2, str(image))
    prepare(raw, folder, SIZE)
    now = times()
    assert len(now) == 4 and len(first.items() & now.items()) == 2  # the other scan's
    sitk.WriteImage(read_image(image), str(image.with_name("1.mhd")))
    raw.write_text(raw.read_text().replace("1.nii.gz", "1.mhd"))
    prepare(raw, folder, SIZE)
    now = times()
    os.utime(image.with_name("1.raw"), (1e9, 1e9))  # the voxels are beside their header
    prepare(raw, folder, SIZE)
    assert len(now.items() & times().items()) == 2
    now = times()
    prepare(raw, folder, (8, 8, 8))
    assert not times().keys() & now.keys()
    assert read_image(read_manifest(manifest)[0].image).GetSize() == (8, 8, 8)


def test_voxels_in_a_file_of_their_own_are_read_anew_when_they_change(raw, tmp_path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "0.nii.gz")), str(tmp_path / "0.mhd"))
    raw.write_text(raw.read_text().replace("0.nii.gz", "0.mhd"))
    before = sitk.GetArrayFromImage(read_image(_first(prepare(raw, tmp_path / "new", SIZE))))
    voxels = np.fromfile(tmp_path / "0.raw", "<i2")
    voxels[::-1].tofile(tmp_path / "0.raw")
    after = sitk.GetArrayFromImage(read_image(_first(prepare(raw, tmp_path / "new", SIZE))))
    np.testing.assert_allclose(after, before[::-1, ::-1, ::-1], atol=1e-6)


def _first(manifest: Path) -> Path:
    return read_manifest(manifest)[0].image


def test_a_stopped_preparation_goes_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was stopped at, what is there afterwards is what was asked for last."""
    folder = tmp_path / "new"
    prepare(raw, folder, SIZE)
    whole = avsm.prepare._prepare

    def stop(scan, *rest) -> None:
        if scan.side == "left":
            raise KeyboardInterrupt
        whole(scan, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("avsm.prepare._prepare", stop)
        prepare(raw, folder, SIZE, mirror_left=True)
    for mirror in (False, True):
        *_, left = read_manifest(prepare(raw, folder, SIZE, mirror_left=mirror))
        found = sitk.GetArrayFromImage(read_image(left.image))
        expected = to_grid(read_image(raw.parent / "1.nii.gz"), SIZE[::-1], "image")
        np.testing.assert_allclose(found[..., ::-1] if mirror else found, expected, atol=1e-6)


def test_unknown_sides_are_not_left_as_they_are(raw: Path, tmp_path: Path) -> None:
    raw.write_text(raw.read_text().replace(",left", ",links"))
    with pytest.raises(UserError, match=r"side: expected left, right or nothing .* found links"):
        prepare(raw, tmp_path / "new", SIZE, mirror_left=True)


def test_all_scans_that_cannot_be_prepared_are_named(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    image = raw.parent / "0.nii.gz"
    sitk.WriteImage(read_image(image) * 0, str(image))
    label = read_image(raw.parent / "1_label.nii.gz")
    label.SetOrigin((5.0, 5.0, 5.0))
    sitk.WriteImage(label, str(raw.parent / "1_label.nii.gz"))
    with pytest.raises(UserError) as caught:
        prepare(raw, tmp_path / "new", SIZE)
    for part in (
        "0.nii.gz: found the intensities 0 and 0",
        "1_label.nii.gz: not on the grid of",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "new" / "scans.csv").exists()
    assert not list((tmp_path / "new").glob("*.nii"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("1_label.nii.gz,1.nii.gz", "1_label.nii.gz: .*image and label map seem exchanged"),
        ("0_label.nii.gz,1_label.nii.gz", "0_label.nii.gz: .*, or both are label maps"),
        ("0_label.nii.gz,", "0_label.nii.gz: .*as of a label map"),
    ],
)
def test_label_maps_are_no_images(raw: Path, tmp_path: Path, files: str, message: str) -> None:
    text = raw.read_text().replace("0.nii.gz,0_label.nii.gz", "0.nii.gz,")
    raw.write_text(text.replace("1.nii.gz,1_label.nii.gz", files))
    with pytest.raises(UserError, match=message):
        prepare(raw, tmp_path / "new", SIZE)
