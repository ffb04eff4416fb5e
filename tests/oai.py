"""A miniature OAI release: DICOM slices, folders and tables as OAI's are."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.conftest import blobs, oblique_grid

SIZE = (6, 9, 8)  # left-right, front-back, bottom-top
NUMBERS = {"00m": 0, "12m": 1, "24m": 3}
DATES = {"00m": "20050712", "12m": "20060801", "24m": "20070810"}


def knee(seed, size=SIZE):
    """Return a small image with a place of its own in the scanner."""
    grid = oblique_grid(size, (0.7, 0.4, 0.4), (20 + seed, -30, 15), (0.05, 0.02, 0.03))
    return sitk.Cast(blobs(grid, seed=seed, width=(0.2, 0.3)) * 900, sitk.sitkUInt16)


def write_series(image, folder, side="right"):
    """Write an image as sagittal slices 001, 002, ... from right to left."""
    folder.mkdir(parents=True)
    image = sitk.DICOMOrient(image, "PIL")
    axes = np.reshape(image.GetDirection(), (3, 3))
    array = sitk.GetArrayFromImage(image)
    series, study = generate_uid(), generate_uid()
    for number, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        for key, value in {
            "SOPClassUID": MRImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "SeriesInstanceUID": series, "StudyInstanceUID": study, "Modality": "MR",
            "SeriesDescription": f"SAG_3D_DESS_{side.upper()}", "InstanceNumber": number + 1,
            "Rows": plane.shape[0], "Columns": plane.shape[1], "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0,
            "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
            "PixelSpacing": [image.GetSpacing()[1], image.GetSpacing()[0]],
            "SliceThickness": image.GetSpacing()[2],
            "ImageOrientationPatient": [f"{v:.10f}" for v in axes.T[:2].ravel()],
            "ImagePositionPatient": [
                f"{v:.8f}" for v in image.TransformIndexToPhysicalPoint((0, 0, number))
            ],
            "PixelData": np.ascontiguousarray(plane, "<u2").tobytes(),
        }.items():  # fmt: skip
            setattr(slice_, key, value)
        slice_.save_as(folder / f"{number + 1:03d}", enforce_file_format=True)


class Release:
    """A release in the making; `tables` writes what has been added, one table a visit."""

    def __init__(self, root: Path):
        self.root, self.rows, self.images = root, [], {}

    def add(self, subject, visit, side, image=None, number=None):
        """Add a series and return its folder."""
        serial = len(self.rows)
        number = number or f"104{serial:05d}"
        image = image or knee(serial)
        folder = f"{NUMBERS[visit]}.C.2/{subject}/{DATES[visit]}/{number}"
        write_series(image, self.root / visit / folder, side)
        self.list(folder, subject, visit, f"SAG_3D_DESS_{side.upper()}")
        self.images[self.root / visit / folder] = image
        return self.root / visit / folder

    def list(self, folder, subject, visit, series):
        """Add a row to the tables alone."""
        self.rows.append(
            {
                "Folder": folder,
                "ParticipantID": subject,
                "StudyDate": DATES[visit],
                "Barcode": f"166{folder[-8:]}",
                "StudyDescription": f"OAI^MR^{visit}",
                "SeriesDescription": series,
                "visit": visit,
            }
        )

    def tables(self):
        """Write contents.0C2.csv and its like, with rows of another sequence in between."""
        for visit, number in NUMBERS.items():
            own = [row for row in self.rows if row["visit"] == visit]
            other = [row | {"SeriesDescription": "SAG_IW_TSE_LEFT"} for row in own[:1]]
            path = self.root / visit / f"contents.{number}C2.csv"
            if own:
                with path.open("w", newline="", encoding="utf-8") as stream:
                    names = [name for name in own[0] if name != "visit"]
                    writer = csv.DictWriter(stream, names, extrasaction="ignore")
                    writer.writeheader()
                    writer.writerows(other + own)
        return self.root


def write_label(image, path):
    """Write a label map on the grid of an image, all values of OAI in it."""
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    array.ravel()[: 4 * 40] = np.repeat([1, 2, 3, 4], 40)
    label = sitk.GetImageFromArray(array)
    label.CopyInformation(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(label, str(path))


def edit(path, **values):
    """Change the header of a DICOM file."""
    dataset = pydicom.dcmread(path)
    for key, value in values.items():
        setattr(dataset, key, value)
    dataset.save_as(path)
