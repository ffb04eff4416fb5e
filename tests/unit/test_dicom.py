"""DICOM folders: geometry from headers, and what is refused before a voxel is read."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames

from avsm.dicom import read_series
from avsm.errors import UserError, raise_all
from avsm.grid import same_grid
from avsm.images import canonical, read_image
from tests.conftest import blobs, oblique_grid
from tests.oai import SIZE, edit, knee, write_series


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


def turned(folder, voxels):
    """Turn all slices but the first in their plane, so that a corner moves by so many voxels."""
    for path in sorted(folder.iterdir())[1:]:
        header = pydicom.dcmread(path)
        angle = 1.1 * voxels / max(header.Rows, header.Columns)
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        axes = [row + angle * column, column - angle * row]
        edit(path, ImageOrientationPatient=np.round(axes, 8).ravel().tolist())


def skewed(folder):
    """Lean the columns of all slices over, by a fifth of a voxel in a corner."""
    for path in folder.iterdir():
        row, column = np.reshape(pydicom.dcmread(path).ImageOrientationPatient, (2, 3))
        axes = np.array([row, column + 0.05 * row]).astype(float)
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        edit(path, ImageOrientationPatient=np.round(axes, 8).ravel().tolist())


def damaged(path, was, now):
    """Change bytes of a file that come once."""
    whole = path.read_bytes()
    assert whole.count(was) == 1
    path.write_bytes(whole.replace(was, now))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit(f / "003", Rows=2000), "003: its header claims 9x2000 pixels, 36000 bytes"),
        (lambda f: edit(f / "003", Rows=65535, Columns=65535), "claims 65535x65535 pixels"),
        (lambda f: (f / "003").write_bytes((f / "003").read_bytes()[:-20]), "003: "),
        (lambda f: (f / "003").unlink(), "5 slices, some missing or twice"),
        (lambda f: (f / "007").write_bytes((f / "003").read_bytes()), "some missing or twice"),
        (lambda f: edit(f / "003", SeriesInstanceUID="1.2.3"), "found 2 DICOM series"),
        (lambda f: edit(f / "003", PixelSpacing=[1, 1]), r"unlike 001 .*\n.*of \[1.0, 1.0\]"),
        (lambda f: turned(f, 0.1), r"unlike 001 .* along (.*)\):\n  - 002: .* along (?!\1)"),
        (lambda f: edit(f / "003", ModalityLUTSequence=[]), "003: found a ModalityLUTSequence"),
        (lambda f: [path.unlink() for path in f.iterdir()], "found 0 DICOM series"),
        (lambda f: damaged(f / "003", b"\x28\0\x10\0US", b"\x28\0\x10\0ZZ"),
         "003: not a readable DICOM image .*'ZZ'"),
        (lambda f: damaged(f / "003", b"\x20\0\x0e\0UI", b"\x20\0\x0e\0U}"),
         "003: not a readable DICOM image .*0x55 0x7d"),
        (lambda f: damaged(f / "003", b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"),
         "003: found 144 bytes of pixels in the transfer syntax"),
    ],
)  # fmt: skip
def test_faulty_folders_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        read_image(folder)


def test_axes_that_are_not_at_right_angles_are_refused_by_headers_alone(folder):
    skewed(folder)
    for read in (read_series, read_image):
        with pytest.raises(UserError, match="its axes are not at right angles"):
            read(folder)


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

    with pytest.raises(UserError, match=message):
        read_image(nifti(tmp_path / "a.nii", lie))


def moved(folder, **by_slice):
    """Add to a coordinate of each slice's position what a function of its number says."""
    for k, path in enumerate(sorted(folder.iterdir())):
        place = list(pydicom.dcmread(path).ImagePositionPatient)
        place["xyz".index(by_slice["axis"])] += by_slice["by"](k)
        edit(path, ImagePositionPatient=[f"{float(v):.6f}" for v in place])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: moved(f, axis="z", by=lambda k: 0.03 * k), "shift in their own plane"),
        (lambda f: edit(f / "003", ImagePositionPatient=None), "003: found nothing for ImagePos"),
        (lambda f: edit(f / "003", ImageOrientationPatient=[]), "003: found nothing for ImageOr"),
        (lambda f: edit(f / "003", ImagePositionPatient=[1, 2]), "003: found .* expected 3"),
        (lambda f: moved(f, axis="x", by=lambda k: 0.016 * k * k), "the distances of its slices"),
        (lambda f: edit(f / "003", PhotometricInterpretation="MONOCHROME1"), "003: .*MONOCHROME1"),
        (lambda f: edit(f / "003", SamplesPerPixel=3), "003: found 3 samples a pixel"),
        (lambda f: edit(f / "003", BitsStored=4, HighBit=3), "more than its 4 bits"),
        (lambda f: [edit(p, ImageOrientationPatient=[1, 0, 0, 0.2, 0.98, 0]) for p in f.iterdir()],
         "right angles|distances|shift"),
        (lambda f: [p.unlink() for p in f.iterdir() if p.name != "003"], "found one DICOM slice"),
        (lambda f: (f / "006").write_bytes(b"gone"), "006: named as the slices are"),
    ],
)  # fmt: skip
def test_a_stack_that_is_no_box_of_grey_voxels_is_refused(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        read_image(folder)


def test_faults_of_files_stand_below_those_of_their_scan(folder):
    edit(folder / "003", Rows=2000)
    with pytest.raises(UserError) as caught:
        read_image(folder)
    with pytest.raises(UserError, match=r"^Scans:\n  - A: .*\n    - 003: .*\n  - B: empty$"):
        raise_all("Scans:", [f"A: {caught.value}", "B: empty"])


def test_one_slice_asks_for_its_folder(folder):
    with pytest.raises(UserError, match="name the folder that holds its series"):
        read_image(folder / "003")


def test_a_folder_with_one_multi_frame_file_is_read_as_the_file_is(tmp_path):
    image = knee(2)
    (tmp_path / "series").mkdir()
    path = tmp_path / "series" / "a.dcm"
    sitk.WriteImage(image, str(path))
    for place in (path, path.parent):
        found = read_image(place)
        assert same_grid(found, image)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, image)))
    edit(path, PerFrameFunctionalGroupsSequence=[])
    with pytest.raises(UserError, match="found nothing for ImagePositionPatient"):
        read_image(path)


def test_frames_are_as_many_as_their_descriptions(tmp_path):
    path = tmp_path / "a.dcm"
    sitk.WriteImage(knee(2), str(path))
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    edit(path, PerFrameFunctionalGroupsSequence=[*groups, groups[-1]])
    with pytest.raises(UserError, match="found 8 frames and 9 descriptions of frames"):
        read_image(path)


@pytest.mark.parametrize("cut", [lambda frames: frames[:-1], lambda f: [*f[:-1], f[-1][:-20]]])
def test_compressed_pixels_are_all_there(tmp_path, cut):
    path = tmp_path / "a.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.Execute(knee(2))
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (read_image(path), knee(2))))
    frames = [*generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=8)]
    edit(path, PixelData=encapsulate(cut(frames)))
    with pytest.raises(UserError, match="its compressed pixels are cut short"):
        read_image(path)


@pytest.mark.parametrize("offset", [0, 3_000_000_000])
def test_slopes_of_slices_are_applied(folder, offset):
    expected = {}
    for k, path in enumerate(sorted(folder.iterdir())):
        edit(path, RescaleSlope=1 + 0.5 * k, RescaleIntercept=offset - k)
        dataset = pydicom.dcmread(path)
        scaled = dataset.pixel_array * (1 + 0.5 * k) + (offset - k)
        expected[-dataset.ImagePositionPatient[0]] = scaled
    found = sitk.GetArrayFromImage(read_image(folder))
    planes = [expected[place] for place in sorted(expected)]
    if read_image(folder).GetDirection()[2] > 0:
        planes.reverse()
    np.testing.assert_array_equal(found, planes)


def test_compressed_pixels_are_read(folder):
    before = read_image(folder)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (before, read_image(folder))))


def test_what_contradicts_positions_is_told(folder):
    (folder / "notes.txt").write_text("a knee")
    for path in folder.glob("00*"):
        edit(path, SpacingBetweenSlices=0.35)
    notes = []
    read_image(folder, notes)
    assert len(notes) == 2
    assert "no DICOM images: notes.txt" in notes[0]
    assert "0.35 mm, but positions are 0.7 mm apart" in notes[1]


def test_a_meta_header_without_its_transfer_syntax_is_refused(folder):
    """Its element's number is damaged: no reader could say how the voxels are stored."""
    path = sorted(folder.iterdir())[2]
    whole = path.read_bytes()
    assert whole.count(b"\x02\x00\x10\x00UI") == 1
    path.write_bytes(whole.replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI"))
    with pytest.raises(UserError, match=path.name):
        read_image(folder)
