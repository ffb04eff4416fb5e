"""DICOM folders: geometry from headers, and what is refused before a voxel is read."""

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.images import canonical
from tests.conftest import blobs, oblique_grid
from tests.oai import SIZE, edit, knee, write_series
from workflow.dicom import read_series
from workflow.errors import DataError
from workflow.geometry import same_grid
from workflow.images import read_image


@pytest.fixture
def folder(tmp_path):
    write_series(knee(3), tmp_path / "series")
    return tmp_path / "series"


def test_headers_tell_the_grid_that_itk_reads(folder):
    series, image = read_series(folder), read_image(folder)
    for name, value in zip(("Size", "Spacing", "Origin", "Direction"), series.grid, strict=True):
        np.testing.assert_allclose(value, getattr(image, f"Get{name}")(), atol=1e-5)
    back = canonical(image)
    assert same_grid(back, knee(3))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(knee(3)))


def test_a_text_file_beside_the_slices_is_left_alone(folder):
    (folder / "notes.txt").write_text("a knee")
    assert read_image(folder).GetNumberOfPixels() == np.prod(SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit(f / "003", Rows=2000), "003: its header claims 9x2000 pixels, 36000 bytes"),
        (lambda f: edit(f / "003", Rows=65535, Columns=65535), "claims 65535x65535 pixels"),
        (lambda f: (f / "003").write_bytes((f / "003").read_bytes()[:-20]), "003: "),
        (lambda f: (f / "003").unlink(), "5 slices, some missing or twice"),
        (lambda f: (f / "007").write_bytes((f / "003").read_bytes()), "some missing or twice"),
        (lambda f: edit(f / "003", SeriesInstanceUID="1.2.3"), "found 2 DICOM series"),
        (lambda f: edit(f / "003", PixelSpacing=[1, 1]), "slices unlike 001"),
        (lambda f: [path.unlink() for path in f.iterdir()], "found 0 DICOM series"),
    ],
)  # fmt: skip
def test_faulty_folders_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message):
        read_image(folder)


def nifti(path, edit_header):
    """Write a NIfTI file whose header is changed afterwards."""
    sitk.WriteImage(blobs(oblique_grid((8, 9, 10))), str(path))
    data = bytearray(path.read_bytes())
    edit_header(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("claimed", "message"),
    [(9, "cut short"), (32767, "cut short"), (7, "longer than its header says")],
)
def test_a_nifti_header_that_lies_about_its_size_is_refused(tmp_path, claimed, message):
    def lie(data):
        data[42:44] = claimed.to_bytes(2, "little")  # dim[1]

    with pytest.raises(DataError, match=message):
        read_image(nifti(tmp_path / "a.nii", lie))
