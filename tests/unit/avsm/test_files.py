"""The files of an image, and whether they were replaced."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from avsm.files import files_of, stamp


@pytest.mark.parametrize(
    ("name", "voxels"),
    [
        ("a.nii", "a.nii"),
        ("A.HDR", "A.IMG"),
        ("a.hdr.gz", "a.img.gz"),
        ("a.mha", "a.mha"),
        ("a.mhd", "other.raw"),
        ("a.nhdr", "other.raw"),
        ("folder", "folder/1.dcm"),
    ],
)
def test_voxels_that_are_replaced_are_noticed(tmp_path: Path, name: str, voxels: str) -> None:
    path, other = tmp_path / name, tmp_path / voxels
    image = sitk.GetImageFromArray(np.ones((3, 4, 5), np.int16))
    if name == "folder":
        path.mkdir()
        other.write_bytes(b"slice")
    elif ".hdr" in name.lower():
        nibabel.Nifti1Pair(np.ones((3, 4, 5), np.int16), np.eye(4)).to_filename(tmp_path / "b.hdr")
        (tmp_path / "b.hdr").rename(path)
        (tmp_path / "b.img").rename(other)
    else:
        sitk.WriteImage(image, str(path))
        if other.suffix == ".raw":
            next(tmp_path.glob("a.*raw")).rename(other)
            text = path.read_text()
            path.write_text(text.replace("a.raw", other.name))
    (tmp_path / "b.raw").touch()
    assert files_of(path) == sorted({other} if path.is_dir() else {path, other})
    before = stamp(path)
    assert stamp(path) == before
    os.utime(other, (1e9, 1e9))  # as cp -p leaves an older file
    assert stamp(path) != before
