"""Which label map belongs to which series: its name narrows the choice, its grid decides."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.distance import cdist

from avsm.dicom import Grid
from avsm.errors import UserError
from avsm.images import FORMATS, read_image, write_image
from avsm.volume import corners
from workflow.oai.release import VISITS, Excluded, Listed, anatomical_size

PATIENT = re.compile(r"(?<!\d)9\d{6}(?!\d)")
DATE = re.compile(r"(?<!\d)20\d{6}(?!\d)")
# A series, or its barcode, which ends with the number of the series.
SERIES = re.compile(r"(?<!\d)(?!20)\d{8,}(?!\d)")
VISIT = re.compile(r"(?<![a-z0-9])(?:v(?P<number>\d\d)|(?P<months>\d\dm))(?![a-z0-9])")
SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])")
TOLERANCE_MM = 0.05


def label_files(folder: Path) -> list[Path]:
    """Return the label maps below a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one that holds label maps")
    files = [p for p in folder.rglob("*") if p.name.lower().endswith(FORMATS) and p.name[0] != "."]
    if not files:
        raise UserError(f"{folder}: no label maps in it; expected files of {', '.join(FORMATS)}")
    return sorted(files)


def patient_of(path: Path, folder: Path) -> str:
    """Return the patient whose number is in a label map's name or folders, or nothing."""
    found = PATIENT.search(str(path.relative_to(folder)))
    return found[0] if found else ""


def match_labels(
    files: Iterable[Path], folder: Path, grids: dict[Listed, Grid], posed: Path
) -> tuple[dict[Listed, Path], list[Excluded]]:
    """Return the label map of each series that has one, and the maps that fit none, with reasons.

    A map without a pose, as OAI-ZIB's are, is copied to `posed` with the pose of its series.
    """
    by_subject = defaultdict(list)
    for series in grids:
        by_subject[series.subject].append(series)
    of_series, excluded = defaultdict(list), []
    for path in files:
        subject = patient_of(path, folder)
        fitting = [s for s in by_subject[subject] if _fits(path.relative_to(folder), s)]
        try:
            of_series[_choose(path, subject, fitting, grids)].append(path)
        except (UserError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            excluded.append(Excluded(str(path), reason, subject))
    matched = {}
    for series, own in of_series.items():
        try:
            if len(own) > 1:
                names = ", ".join(str(path.relative_to(folder)) for path in own)
                raise UserError(f"several fit one series: {names}")
            matched[series] = _on_grid(own[0], series, grids[series], posed)
        except UserError as error:
            excluded.append(series.excluded(str(error))._replace(path=str(own[0])))
    return matched, excluded


def _fits(name: Path, series: Listed) -> bool:
    """Tell whether all that a label map's name says of date, series, visit and side is true."""
    text = str(name).lower()
    visits = {m["months"] or VISITS.get(int(m["number"]), "") for m in VISIT.finditer(text)}
    return (
        {*DATE.findall(text)} <= {series.date}
        and visits <= {series.visit}
        and {*SIDE.findall(text)} <= {series.side}
        and all(number.endswith(series.number) for number in SERIES.findall(text))
    )


def _choose(
    path: Path, subject: str, fitting: Sequence[Listed], grids: dict[Listed, Grid]
) -> Listed:
    """Return the one series that a label map lies on, or without a pose the one of its name."""
    if not subject:
        raise UserError("no patient in its name: expected a number of 7 digits that begins with 9")
    if not fitting:
        raise UserError(f"no image: patient {subject} has no usable series that its name fits")
    grid = _header(path)
    on = [series for series in fitting if _same_place(grid, grids[series])]
    if len(on) == 1:
        return on[0]
    if np.any(grid.origin) or not np.array_equal(grid.direction, np.eye(3).ravel()):
        raise UserError(
            f"not on the grid of {fitting[0].folder}: found {grid}, expected {grids[fitting[0]]}"
        )
    if len(fitting) > 1:
        raise UserError(
            f"it has no pose and its name fits {len(fitting)} series; put visit and side, or the "
            "number of the series, into its name"
        )
    return fitting[0]


def _header(path: Path) -> Grid:
    """Read a label map's grid; `RuntimeError` if ITK cannot."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetDimension() != 3:
        raise UserError(f"found {reader.GetDimension()} dimensions, expected 3")
    return Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def _same_place(a: Grid, b: Grid) -> bool:
    """Tell whether two grids are one up to the order and direction of their axes."""
    ends = []  # the centres of the corner voxels, mm, LPS, (8, 3)
    for grid in (a, b):
        axes = np.reshape(grid.direction, (3, 3)) * grid.spacing
        ends.append((axes @ corners(grid.size)).T + grid.origin)
    apart = cdist(*ends)
    return (
        anatomical_size(a) == anatomical_size(b)
        and len({*apart.argmin(axis=1)}) == 8
        and bool(apart.min(axis=1).max() < TOLERANCE_MM)
    )


def _on_grid(path: Path, series: Listed, grid: Grid, posed: Path) -> Path:
    """Return the label map, or a copy of one without a pose that lies on its series' grid."""
    if _same_place(_header(path), grid):
        return path
    # It counts voxels to the left, the back and the top (LPS), as its identity direction says; the
    # copy has the slightly oblique axes and the place of the image.
    image = sitk.Image(grid.size, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    image, label = sitk.DICOMOrient(image, "LPS"), read_image(path)
    if image.GetSize() != label.GetSize():
        raise UserError(
            f"found {label.GetSize()} voxels, expected {image.GetSize()} as {series.folder}"
        )
    label.CopyInformation(image)
    copy = posed / f"{'_'.join(series.scan)}.nii.gz"
    write_image(label, copy)
    return copy.resolve()
