"""Images that are cut short, not finite or not real are refused, not filled up."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import read_image
from tests.conftest import blobs, oblique_grid


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_half_an_image_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(blobs(oblique_grid()), str(path))
    assert read_image(path).GetSize() == (20, 26, 24)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name}: cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("name", ["image.nii", "image.mha"])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, name: str) -> None:
    """ITK reads those of NIfTI files as 0."""
    array = np.ones((5, 6, 7), np.float32)
    array[2, 3, 4], array[1, 1, :2] = np.inf, np.nan
    path = tmp_path / name
    if name.endswith(".nii"):
        nibabel.Nifti1Image(array.T, np.eye(4)).to_filename(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    with pytest.raises(UserError, match="found 3 voxels that are NaN or infinite"):
        read_image(path)


def test_complex_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    nibabel.Nifti1Image(np.ones((5, 6, 7), np.complex64), np.eye(4)).to_filename(path)
    with pytest.raises(UserError, match="expected real numbers"):
        read_image(path)
