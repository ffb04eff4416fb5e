"""The gate: a file is refused, or read right, or read with a warning, whatever its name says."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.files import files_of
from avsm.images import read_field, read_image
from tests import fuzz
from tests.conftest import blobs, oblique_grid

FORMATS = ("a.nii", "a.nii.gz", "A.NII.GZ", "a.hdr", "a.mha", "a.mhd", "a.nrrd", "a.nhdr", "A.MHA")
PACKED = ("a.nii.gz", "A.NII.GZ", "a.mha", "a.mhd", "a.nrrd", "a.nhdr")
MATRIX = np.array([[1.6, 0, 0, -20], [0, 1.5, 0, 30], [0, 0, 1.4, 5], [0, 0, 0, 1]])


def write(path: Path, image: sitk.Image, compressed: bool = False) -> Path:
    """Write an image under a name in whatever case; give the file that holds the voxels."""
    lower = path.with_name(path.name.lower())
    sitk.WriteImage(image, str(lower), compressed)
    lower.rename(path)
    others = [other for other in path.parent.iterdir() if other != path]
    return others[0] if others else path


def nifti(path: Path, array: np.ndarray, **forms: np.ndarray | None) -> Path:
    """Write NIfTI with an sform and a qform of its own."""
    image = nibabel.Nifti1Image(array, MATRIX)
    image.set_sform(forms.get("sform", MATRIX), int(forms.get("sform", MATRIX) is not None))
    image.set_qform(forms.get("qform", MATRIX), int(forms.get("qform", MATRIX) is not None))
    image.to_filename(path)
    return path


def replaced(path: Path, pattern: bytes, by: bytes) -> None:
    """Change the text of a header."""
    data, number = re.subn(pattern, by, path.read_bytes(), count=1)
    assert number == 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["UInt8", "Int16", "UInt16", "Int32", "Float32", "Float64"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_as_itk_reads_it(tmp_path: Path, name: str, kind: str) -> None:
    image = sitk.Cast(900 * blobs(oblique_grid((5, 6, 7))), getattr(sitk, f"sitk{kind}"))
    for compressed in (False, True):
        write(tmp_path / name, image, compressed)
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, image)))
        assert found.GetPixelID() == image.GetPixelID()
        for what in ("Spacing", "Origin", "Direction"):
            a, b = (getattr(each, f"Get{what}")() for each in (found, image))
            np.testing.assert_allclose(a, b, atol=1e-5)
        [path.unlink() for path in tmp_path.iterdir()]


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("A.HDR", "A.IMG"), ("a.hdr", "a.IMG")])
def test_a_pair_is_read_by_either_of_its_names(tmp_path: Path, names: tuple[str, str]) -> None:
    image = sitk.GetImageFromArray(np.arange(60).reshape(3, 4, 5).astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / "a.hdr"))
    for name in names:
        (tmp_path / name.lower()).rename(tmp_path / name)
    for name in names:
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, image)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part", [0.66, 0.97, "last byte", "longer"])
def test_a_file_of_another_length_is_refused(tmp_path, name, compressed, part) -> None:
    """ITK fills with zeros, or with what was in memory."""
    noise = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.int16)
    voxels = write(tmp_path / name, sitk.GetImageFromArray(noise), compressed)
    whole = voxels.read_bytes()
    end = len(whole) - 1 if isinstance(part, str) else int(len(whole) * part)
    voxels.write_bytes(whole + b"\x01" * 9 if part == "longer" else whole[:end])
    with pytest.raises(UserError, match=rf"{name}: .*"):
        read_image(tmp_path / name)


def test_a_compressed_metaimage_needs_no_size_but_all_its_stream(tmp_path: Path) -> None:
    """ITK reads other voxels where CompressedDataSize is missing."""
    noise = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.int16)
    path = tmp_path / "a.mha"
    write(path, sitk.GetImageFromArray(noise), compressed=True)
    replaced(path, rb"CompressedDataSize[^\n]*\n", b"")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), noise)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="cut short"):
        read_image(path)


def test_the_last_line_of_a_header_needs_no_end(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = tmp_path / "a.mhd"
    write(path, sitk.GetImageFromArray(array))
    path.write_bytes(path.read_bytes().rstrip())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), array)
    path.write_bytes(path.read_bytes().partition(b"ElementDataFile")[0].rstrip())
    with pytest.raises(UserError, match="header is cut short"):
        read_image(path)


@pytest.mark.parametrize(("more", "message"), [(1, "cut short"), (-1, "longer than its header")])
def test_a_metaimage_is_as_long_as_its_header_says(tmp_path: Path, more: int, message: str) -> None:
    path = tmp_path / "a.mha"
    write(path, sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)), compressed=True)
    size = int(re.search(rb"CompressedDataSize = (\d+)", path.read_bytes())[1])
    replaced(path, rb"(?<=CompressedDataSize = )\d+", b"%d" % (size + more))
    with pytest.raises(UserError, match=message):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [
        ("a.mhd", b"MET_SHORT", b"MET_FLOAT"),
        ("a.mhd", b"MET_SHORT", b"MET_UCHAR"),
        ("a.mha", b"MET_SHORT", b"MET_DOUBLE"),
        ("a.nhdr", b"type: short", b"type: float"),
        ("a.nrrd", b"type: short", b"type: uchar"),
    ],
)
def test_another_element_type_than_the_voxels_is_refused(tmp_path, name, was, now) -> None:
    write(tmp_path / name, sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)))
    replaced(tmp_path / name, was, now)
    with pytest.raises(UserError, match=r"cut short|longer than its header says"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.hdr", "a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, name: str) -> None:
    """ITK reads those of NIfTI files as 0."""
    array = np.ones((5, 6, 7), np.float32)
    array[2, 3, 4], array[1, 1, :2] = np.inf, np.nan
    write(tmp_path / name, sitk.GetImageFromArray(array))
    with pytest.raises(UserError, match="found 3 voxels that are NaN or infinite"):
        read_image(tmp_path / name)


def test_nifti_2_is_read(tmp_path: Path) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(np.int16)
    nibabel.Nifti2Image(array, MATRIX).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(tmp_path / "a.nii")), array.T)


def test_an_offset_in_a_header_loses_no_precision(tmp_path: Path) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(np.int16)
    path = nifti(tmp_path / "a.nii", array)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([1, 3e9], "<f4").tobytes()
    path.write_bytes(data)
    found = sitk.GetArrayFromImage(read_image(path))
    np.testing.assert_array_equal(found, array.T + 3e9)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((5, 6, 7), np.complex64), "expected real numbers"),
        (np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "found 3 components"),
        (np.ones((5, 6, 7, 2), np.int16), r"found the dimensions \(5, 6, 7, 2\), expected 3"),
        (np.ones((5, 6, 1), np.int16), "expected at least 2 voxels a side"),
        (np.ones((5, 6), np.int16), r"found the dimensions \(5, 6\), expected 3"),
    ],
)
def test_what_is_not_one_grey_value_a_voxel_is_refused(tmp_path, array, message) -> None:
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match=rf"a\.nii\.gz: .*{message}"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.nii.gz"])
def test_vectors_are_no_image_but_a_field(tmp_path: Path, name: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.CopyInformation(oblique_grid((6, 5, 4)))
    write(tmp_path / name, image)
    with pytest.raises(UserError, match="3 components"):
        read_image(tmp_path / name)
    found = read_field(tmp_path / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), vectors)
    np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-5)
    scalar = sitk.GetImageFromArray(vectors[..., 0].copy())
    sitk.WriteImage(scalar, str(tmp_path / name))
    with pytest.raises(UserError, match="expected a displacement field"):
        read_field(tmp_path / name)


@pytest.mark.parametrize(
    ("intent", "signs"), [(1006, (-1, -1, 1)), (1007, (1, 1, 1)), (0, None), (1005, None)]
)
def test_vectors_of_nifti_are_read_by_what_they_are_said_to_be(tmp_path, intent, signs) -> None:
    """Displacements are RAS, other vectors as ITK writes them; the rest is not guessed."""
    vectors = np.random.default_rng(0).normal(size=(4, 5, 6, 1, 3)).astype(np.float32)
    image = nibabel.Nifti1Image(vectors, MATRIX)
    image.header["intent_code"] = intent
    image.to_filename(tmp_path / "a.nii")
    if signs is None:
        with pytest.raises(UserError, match=f"found 3 components a voxel of the intent {intent}"):
            read_field(tmp_path / "a.nii")
    else:
        found = sitk.GetArrayFromImage(read_field(tmp_path / "a.nii"))
        np.testing.assert_array_equal(found, signs * vectors[..., 0, :].transpose(2, 1, 0, 3))


def test_layers_of_a_segmentation_are_refused(tmp_path: Path) -> None:
    layers = sitk.GetImageFromArray(np.ones((4, 5, 6, 2), np.uint8), isVector=True)
    write(tmp_path / "a.seg.nrrd", layers)
    replaced(tmp_path / "a.seg.nrrd", b"kinds: vector", b"kinds: list")
    with pytest.raises(UserError, match=r"a\.seg\.nrrd: .*2 components"):
        read_image(tmp_path / "a.seg.nrrd")


def test_colours_are_no_field(tmp_path: Path) -> None:
    colours = sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.float32), isVector=True)
    write(tmp_path / "a.nrrd", colours)
    replaced(tmp_path / "a.nrrd", b"kinds: vector", b"kinds: RGB-color")
    for read in (read_field, read_image):
        with pytest.raises(UserError, match=r"a\.nrrd: found 4 dimensions of the kinds rgb-color"):
            read(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mha", "found 4 dimensions, expected 3"),
        ("a.nrrd", "found 4 dimensions of the kinds domain, domain, domain, domain"),
        ("a.nii", r"found the dimensions \(6, 5, 4, 2\), expected 3"),
    ],
)
def test_series_of_volumes_are_refused(tmp_path: Path, name: str, message: str) -> None:
    volumes = [sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16))] * 2
    write(tmp_path / name, sitk.JoinSeries(volumes))
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / name)


ARRAY = np.arange(28 * 32 * 36).reshape(28, 32, 36).astype(np.int32)
TURNED = np.eye(4)
TURNED[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
SHEARED, SCALED, MOVED, NEAR = MATRIX.copy(), MATRIX.copy(), MATRIX.copy(), MATRIX.copy()
SHEARED[0, 1], MOVED[0, 3], NEAR[0, 3] = 0.3, -19, -20.1
SCALED[:3, :3] = np.diag([1.65, 1.5, 1.4])


@pytest.mark.parametrize(
    ("forms", "used", "note"),
    [
        ({}, MATRIX, None),
        ({"qform": NEAR}, MATRIX, None),  # a fifteenth of a voxel
        ({"qform": None}, MATRIX, None),
        ({"sform": None}, MATRIX, None),
        ({"qform": TURNED @ MATRIX}, MATRIX, "sform and qform contradict one another"),
        ({"qform": MOVED}, MATRIX, "by up to 0.7 voxels"),
        ({"sform": MOVED}, MOVED, "the sform was used"),
        ({"sform": SCALED}, SCALED, "the sform was used"),
        ({"sform": SHEARED}, MATRIX, "its sform is sheared .*: its qform was used"),
        ({"sform": None, "qform": None}, None, "neither sform nor qform"),
    ],
)
def test_qform_is_held_against_sform(tmp_path, forms, used, note) -> None:
    path = nifti(tmp_path / "a.nii.gz", ARRAY, **forms)
    notes: list[str] = []
    image = read_image(path, notes)
    used = nibabel.load(path).affine if used is None else used
    assert len(notes) == (note is not None)
    assert all(re.search(f"{path}: .*{note}", text) for text in notes)
    for corner in ((0, 0, 0), (27, 0, 0), (27, 31, 35)):
        point = np.multiply(image.TransformIndexToPhysicalPoint(corner), (-1, -1, 1))
        np.testing.assert_allclose(point, used[:3, :3] @ corner + used[:3, 3], atol=1e-3)


def test_a_sheared_sform_without_a_qform_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.nii\.gz: its axes are not at right angles"):
        read_image(nifti(tmp_path / "a.nii.gz", ARRAY, sform=SHEARED, qform=None))


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_lengths_in_other_units_are_refused(tmp_path: Path, unit: str) -> None:
    image = nibabel.Nifti1Image(ARRAY, MATRIX)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"found the unit of length [13], expected mm"):
        read_image(tmp_path / "a.nii")


def test_a_warning_is_logged_where_nobody_collects_it(tmp_path: Path, caplog) -> None:
    path = nifti(tmp_path / "a.nii.gz", ARRAY, qform=MOVED)
    read_image(path)
    assert f"{path}: sform and qform contradict" in caplog.text


def test_the_sforms_voxel_size_is_used_beside_a_pixdim_of_1(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", ARRAY, qform=None)
    data = bytearray(path.read_bytes())
    data[80:92] = np.ones(3, "<f4").tobytes()
    path.write_bytes(data)
    notes: list[str] = []
    np.testing.assert_allclose(read_image(path, notes).GetSpacing(), (1.6, 1.5, 1.4), rtol=1e-6)
    assert "sform and pixdim contradict one another" in notes[0]


@pytest.mark.parametrize("place", [268, 276, 280, 284, 292, 308])  # qoffsets, srows
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_geometry_that_is_not_finite_is_refused(tmp_path, place, value) -> None:
    path = nifti(tmp_path / "a.nii", ARRAY)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = np.array(value, "<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"its [sq]form holds NaN or infinity"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "pattern", "by", "message"),
    [
        ("a.mha", rb"TransformMatrix[^\n]*", b"TransformMatrix = -1 0 0 -0.164 -0.986 0 0 0 1",
         "not at right angles"),
        ("a.mha", rb"TransformMatrix[^\n]*", b"TransformMatrix = 2 0 0 0 1 0 0 0 1", "length 1"),
        ("a.mha", rb"Offset[^\n]*", b"Offset = 0 nan 0", "NaN or infinite"),
        ("a.mha", rb"ElementSpacing[^\n]*", b"ElementSpacing = 1 0 1", "expected positive sides"),
        ("a.mha", rb"ElementSpacing[^\n]*", b"ElementSpacing = 1 -1 1", "expected positive sides"),
        ("a.nrrd", rb"space directions[^\n]*", b"space directions: (1,0,0) (0.2,1,0) (0,0,1)",
         "not at right angles"),
        ("a.nrrd", rb"space origin[^\n]*", b"space origin: (0,inf,0)", "NaN or infinite"),
    ],
)  # fmt: skip
def test_axes_that_are_no_rotation_are_refused(tmp_path, name, pattern, by, message) -> None:
    write(tmp_path / name, sitk.GetImageFromArray(ARRAY))
    replaced(tmp_path / name, pattern, by)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("skip", "cut", "message"),
    [(-1, 0, None), (-1, 100, "cut short"), (-1, 1 << 20, "cut short"), (-5, 0, "bytes to skip")],
)
@pytest.mark.parametrize("name", ["a.mhd", "a.nrrd", "a.nhdr"])
def test_voxels_at_the_end_of_a_file_are_all_there(tmp_path, name, skip, cut, message) -> None:
    array = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    voxels = write(tmp_path / name, sitk.GetImageFromArray(array))
    field = b"HeaderSize = %d\n" if name == "a.mhd" else b"byte skip: %d\n"
    replaced(tmp_path / name, b"(?=ElementDataFile|encoding)", field % skip)
    data = voxels.read_bytes()
    voxels.write_bytes(data[: max(len(data) - cut, len(data) - array.nbytes)])
    if message is None:
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(read_image(tmp_path / name, [])), array
        )
    else:
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / name, [])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(80, np.nan, "its pixdim holds NaN"), (108, 0, "voxels from byte 0 on, expected them behind")],
)
def test_a_header_of_nifti_is_whole(tmp_path, place, value, message) -> None:
    path = nifti(tmp_path / "a.nii", ARRAY, qform=None)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = np.array(value, "<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("a.nii.gz", []), ("a.mha", []), ("a.nrrd", []), ("a.hdr", ["a.img"]),
        ("A.hdr", ["a.IMG.gz"]), ("a.img.gz", ["a.hdr"]), ("a.mhd", ["a.zraw"]),
        ("a.mhd", ["sub/other"]), ("a.nhdr", ["other.raw.gz"]),
    ],
)  # fmt: skip
def test_the_files_of_an_image_are_known(tmp_path: Path, name: str, others: list[str]) -> None:
    named = {"a.mhd": "NDims = 3\nElementDataFile = %s\n", "a.nhdr": "NRRD0004\nData File: %s\n"}
    (tmp_path / "sub").mkdir()
    for other in ("a_l.hdr", "b.img", *others):
        (tmp_path / other).touch()
    (tmp_path / name).write_text(named.get(name, "%s") % "".join(others))
    assert files_of(tmp_path / name) == sorted(tmp_path / each for each in [name, *others])


def test_analyze_is_refused(tmp_path: Path) -> None:
    nibabel.AnalyzeImage(np.ones((4, 5, 6), np.int16), np.eye(4)).to_filename(tmp_path / "a.hdr")
    with pytest.raises(UserError, match=r"a\.hdr: .*which side is left"):
        read_image(tmp_path / "a.hdr")


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_damaged_files_are_refused_or_read_as_another_reader_reads_them(name: str) -> None:
    counts, failures = fuzz.fuzz(name, 60)
    assert not failures, "\n".join(failures)
    assert counts["refused"] and counts["accepted"]


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_control_characters_in_a_header_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.Cast(blobs(oblique_grid()) * 100, sitk.sitkUInt8), str(path))
    whole = path.read_bytes()
    place = whole.index(b"\n", whole.index(b"dimension:" if name == "a.nrrd" else b"NDims"))
    path.write_bytes(whole[:place] + b"\x13" + whole[place + 1 :])
    with pytest.raises(UserError, match="control characters"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "pattern", "by", "message"),
    [
        ("a.mha", b"(?=ElementType)", b"ElementToIntensityFunctionSlope = 2\n", "Slope = 2, expec"),
        ("a.mha", b"(?=ElementType)", b"DistanceUnits = um\n", "DistanceUnits = um, expected mm"),
        ("a.mha", b"BinaryData = True", b"BinaryData = False", "found voxels as text"),
        ("a.mha", b"MET_SHORT", b"MET_STRING", "found the element type MET_STRING"),
        ("a.mha", b"(?=ElementType)", b"ElementByteOrderMSB = True\n", "byte orders"),
        ("a.mha", b"(?=Offset)", b"Position = 1 2 3\n", "found more than one of Offset, Position"),
        ("a.mha", b"(?=Offset)", b"Offset = 1 2 3\n", "found 'Offset' twice"),
        ("a.mha", b"(?=ElementData)", b"HeaderSize = 3\n", "found HeaderSize = 3, expected 0"),
        ("a.nrrd", b"(?=encoding)", b"spce: left\n", "found the unknown field 'spce'"),
        ("a.nrrd", b"(?=encoding)", b"type: short\n", "found 'type' twice"),
        ("a.nrrd", b"type: short", b"type: block", "found the type 'block'"),
        ("a.nrrd", b"endian: little", b"endian: middle", "found the type 'short', endian middle"),
        ("a.nrrd", b"encoding: raw", b"encoding: ascii", "found the encoding ascii"),
        ("a.nrrd", b"(?=encoding)", b"line skip: 1\n", "skips {'line': 1"),
        ("a.nrrd", b"(?=encoding)", b'space units: "um" "um" "um"\n', "expected mm"),
        ("a.nrrd", b"left-posterior-superior", b"scanner-xyz", "found the space 'scanner-xyz'"),
        ("a.nrrd", b"space directions[^\n]*", b"spacings: 1 -1 1", "spacings .* positive"),
        ("a.nrrd", b"\nkinds: [^\n]*", b"zkinds: domain", "found the space directions .*zkinds"),
    ],
)  # fmt: skip
def test_headers_of_text_that_mean_something_else_are_refused(
    tmp_path: Path, name: str, pattern: bytes, by: bytes, message: str
) -> None:
    write(tmp_path / name, sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)))
    replaced(tmp_path / name, pattern, by)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "line", "note"),
    [
        ("a.mha", b"Offset", r"no Offset: it is taken for \[0.0, 0.0, 0.0\]"),
        ("a.mha", b"ElementSpacing", r"no ElementSpacing: it is taken for \[1.0, 1.0, 1.0\]"),
        ("a.nrrd", b"space origin", "no space origin: it is taken for 0"),
        ("a.nrrd", b"space directions", "no space directions: the sides are taken for"),
        ("a.nrrd", b"space:", "no space: its axes are taken for left, posterior, superior"),
    ],
)
def test_what_a_header_of_text_does_not_say_is_told(tmp_path, name, line, note) -> None:
    write(tmp_path / name, sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)))
    replaced(tmp_path / name, line + rb"[^\n]*\n", b"")
    found: list[str] = []
    read_image(tmp_path / name, found)
    assert len(found) == 1 and re.search(f"{name}: {note}", found[0])


def test_nrrd_in_ras_is_turned_to_lps_but_its_vectors_are_not_guessed(tmp_path: Path) -> None:
    image = blobs(oblique_grid((5, 6, 7)))
    write(tmp_path / "a.nrrd", image)
    replaced(tmp_path / "a.nrrd", b"left-posterior-superior", b"right-anterior-superior")
    corner = (4, 5, 6)
    point, other = (
        each.TransformIndexToPhysicalPoint(corner)
        for each in (image, read_image(tmp_path / "a.nrrd"))
    )
    np.testing.assert_allclose(other, np.multiply(point, (-1, -1, 1)), atol=1e-4)
    write(tmp_path / "b.nrrd", sitk.Compose(image, image, image))
    replaced(tmp_path / "b.nrrd", b"left-posterior-superior", b"right-anterior-superior")
    with pytest.raises(UserError, match=r"b\.nrrd: .*vectors in right-anterior-superior"):
        read_field(tmp_path / "b.nrrd")
