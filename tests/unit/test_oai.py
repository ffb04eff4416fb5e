"""The importer of OAI releases, on a miniature one with planted faults."""

import csv
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import canonical, read_image
from tests.conftest import ROOT
from tests.oai import SIZE, Release, edit, knee, write_label
from workflow.data.cohort import load_cohort
from workflow.oai import release as release_module
from workflow.oai.__main__ import index_release, parse

TESTED, OTHERS = "9000099", [f"90{n:05d}" for n in range(800, 810)]


def run(release, labels, *more):
    out = release.root.parent / "oai.csv"
    size = "x".join(map(str, SIZE))
    arguments = [release.tables(), "--labels", labels, "--out", out, "--expect", size, *more]
    index_release(parse([str(argument) for argument in arguments]))
    return rows(out), rows(out.with_name("oai.excluded.csv"))


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def label(release, folder, path):
    write_label(release.images[folder], path)
    return path


@pytest.fixture
def release(tmp_path):
    """A patient with label maps of both visits of the right knee, in iMorphics' manner of names."""
    made = Release(tmp_path / "OAI")
    made.labels = tmp_path / "labels"
    for visit, name in (("00m", "V00"), ("12m", "V01")):
        made.add(TESTED, visit, "left")
        right = made.add(TESTED, visit, "right")
        label(made, right, made.labels / f"{TESTED}_{name}.nii.gz")
    return made


def add_others(release, visits=("00m", "12m"), sides=("left", "right")):
    for subject in OTHERS:
        for visit in visits:
            for side in sides:
                release.add(subject, visit, side)


def test_splits_are_by_patient_and_labelled_ones_are_tested_on_alone(release, config):
    add_others(release)
    scans, excluded = run(release, release.labels)
    splits = defaultdict(set)
    for scan in scans:
        splits[scan["split"]].add(scan["subject"])
    assert splits["test"] == {TESTED}
    assert (len(splits["train"]), len(splits["validation"])) == (7, 3)
    assert not splits["train"] & splits["validation"]
    tested = [scan for scan in scans if scan["split"] == "test"]
    assert [(scan["visit"], scan["side"]) for scan in tested] == [
        ("00m", "right"),
        ("12m", "right"),
    ]
    assert [scan["label"][-7:] for scan in tested] == [".nii.gz"] * 2
    assert {row["reason"] for row in excluded} == {
        "its patient is tested on, and it has no label map"
    }
    config["cohort"] |= {"source": "manifest", "path": str(release.root.parent / "oai.csv")}
    loaded = load_cohort(config)
    assert len(loaded) == len(scans) == 42
    assert {scan.split for scan in loaded.values() if scan.subject == TESTED} == {"test"}


def test_every_planted_fault_is_left_out_with_its_reason(release):
    def faulty(subject, change, side="left", **more):
        folder = release.add(subject, "00m", side, **more)
        change(folder)
        return str(folder)

    expected = {
        faulty("9000201", lambda f: (f / "003").unlink()): "5 slices, some missing or twice",
        faulty("9000202", lambda f: (f / "006").unlink()): "found 5x9x8 voxels, expected 6x9x8",
        faulty("9000203", lambda f: None, image=knee(1, (6, 8, 8))): "found 6x8x8 voxels",
        faulty("9000204", lambda f: (f / "002").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 99)):
            "002: not a readable DICOM image",
        faulty("9000205", lambda f: edit(f / "001", Rows=3000)): "its header claims 9x3000 pixels",
        faulty("9000206", lambda f: None, number="10400001"): "scanned again: ",
    }  # fmt: skip
    release.add("9000206", "00m", "left", number="10400002")
    release.list("0.C.2/9000207/20050712/10400003", "9000207", "00m", "SAG_3D_DESS_LEFT")
    packed = release.root / "00m/0.C.2/9000208/20050712/10400004.tar.gz"
    packed.parent.mkdir(parents=True)
    packed.touch()
    release.list(f"s3://x/00m/0.C.2/{packed.parent.parent.name}/20050712/{packed.name}", "9000208",
                 "00m", "SAG_3D_DESS_LEFT")  # fmt: skip
    release.list("0.C.2/9000209/20050712/10400005", "9000210", "00m", "SAG_3D_DESS_LEFT")
    release.list("../../etc/passwd", "9000211", "00m", "SAG_3D_DESS_LEFT")
    lonely = release.labels / "9999999_V00.nii.gz"
    write_label(knee(0), lonely)
    nameless = release.labels / "knee.nii.gz"
    write_label(knee(0), nameless)
    (release.labels / f"{TESTED}_V03.nii.gz").write_bytes(b"nothing")
    scans, excluded = run(release, release.labels)
    expected |= {
        "0.C.2/9000207/20050712/10400003": "no such folder in the release",
        release.rows[-3]["Folder"]: "packed: extract its .tar.gz",
        "0.C.2/9000209/20050712/10400005": "the table says patient 9000210",
        "../../etc/passwd": "its path is not <visit>.<x>/<patient>/<date>/<series>",
        str(lonely): "no image: patient 9999999 has no usable series",
        str(nameless): "no patient in its name",
        str(release.labels / f"{TESTED}_V03.nii.gz"): f"no image: patient {TESTED}",
    }
    reasons = {row["path"]: row["reason"] for row in excluded}
    for path, reason in expected.items():
        assert reason in reasons.pop(path)
    assert set(reasons.values()) == {"its patient is tested on, and it has no label map"}
    assert {scan["subject"] for scan in scans} == {TESTED, "9000206"}
    assert [s["image"][-8:] for s in scans if s["subject"] == "9000206"] == ["10400002"]


def test_a_stopped_run_goes_on(release, monkeypatch, capsys):
    add_others(release)
    read, done = release_module.read_series, []

    def stop_after_nine(folder):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(folder)
        return read(folder)

    monkeypatch.setattr(release_module, "read_series", stop_after_nine)
    with pytest.raises(KeyboardInterrupt):
        run(release, release.labels, "--threads", 1)
    progress = release.root.parent / "oai.csv.progress"
    assert not (release.root.parent / "oai.csv").exists()
    kept = len([line for line in progress.read_text().splitlines() if line])
    assert kept > 5
    progress.write_text(progress.read_text()[:-9])  # killed while the last line was written
    again = []
    monkeypatch.setattr(
        release_module, "read_series", lambda folder: again.append(folder) or read(folder)
    )
    scans, _ = run(release, release.labels)
    assert len(again) == 44 - (kept - 1) and len(scans) == 42
    assert "44 of 44 series read, 0 min left" in capsys.readouterr().err
    again.clear()
    changed = next(iter(release.images))
    (changed / "003").unlink()
    _, excluded = run(release, release.labels)
    assert again == [changed]
    assert any("5 slices" in row["reason"] for row in excluded)


def test_validation_labels_leave_the_split_and_the_training_alone(release):
    add_others(release)
    before, _ = run(release, release.labels)
    automatic = release.root.parent / "automatic"
    for folder, image in release.images.items():
        subject, date, number = folder.parts[-3:]
        if number != "10400009":
            write_label(image, automatic / f"0.C.2/{subject}/{date}/{number}/segmentation.mhd")
    after, excluded = run(release, release.labels, "--validation-labels", automatic)
    assert [row | {"label": ""} for row in after] == [row | {"label": ""} for row in before]
    labelled = {row["split"]: bool(row["label"]) for row in after if row["image"][-1] != "9"}
    assert labelled == {"test": True, "validation": True, "train": False}
    assert len(excluded) == 2  # the tested patient's other knee


def test_the_knees_of_all_visits(release):
    add_others(release)
    for subject in OTHERS[:4]:
        release.add(subject, "24m", "left")
    scans, excluded = run(release, release.labels, "--visits", "00m", "12m", "24m")
    others = [(s["subject"], s["side"]) for s in scans if s["subject"] != TESTED]
    assert set(others) == {(subject, "left") for subject in OTHERS[:4]} and len(others) == 12
    assert len([scan for scan in scans if scan["subject"] == TESTED]) == 2
    assert "this knee was not scanned at 24m" in {row["reason"] for row in excluded}
    _, excluded = run(release, release.labels, "--visits", "00m", "12m")
    assert "visit 24m is not asked for" in {row["reason"] for row in excluded}


@pytest.mark.parametrize(
    "name",
    [
        "{subject}_{date}_SAG_3D_DESS_RIGHT_0166{number}_label_all.nii.gz",
        "label-{subject}_V00.mhd",
        "00m/0.C.2/{subject}/{date}/{number}/segmentation.nii.gz",
        "{subject} right; touch 'x' \"y\" -z.nii",
        "-{subject}.nrrd",  # the grid alone tells side and visit
    ],
)
def test_names_of_label_maps(release, name):
    folder = [*release.images][1]  # the right knee's first visit
    text = name.format(subject=TESTED, date="20050712", number=folder.name)
    path = label(release, folder, release.root.parent / "others" / text)
    scans, _ = run(release, path.parents[len(text.split("/")) - 1])
    assert [scan["label"] for scan in scans] == [str(path)]
    assert scans[0]["image"] == str(folder)


def test_wrong_names_and_grids_of_label_maps_are_refused(release):
    folder = next(iter(release.images))  # the left knee's first visit
    others = release.root.parent / "others"
    label(release, folder, others / f"{TESTED}_V00_left.nii.gz")
    label(release, folder, others / f"{TESTED}_20050712_left.nii.gz")
    label(release, folder, others / f"{TESTED}_V00_right.nii.gz")
    label(release, folder, others / f"{TESTED}_20990101_left.nii.gz")
    with pytest.raises(
        UserError, match=r"none of its 4 label maps lies on a sound series"
    ) as found:
        run(release, others)
    assert "no such file" not in str(found.value)
    right = label(release, [*release.images][1], others / f"{TESTED}_V00_right.nii.gz")
    scans, excluded = run(release, others)
    assert [scan["label"] for scan in scans] == [str(right)]
    reasons = " ".join(row["reason"] for row in excluded)
    assert "several fit one series" in reasons and "no usable series that its name" in reasons


def test_a_map_without_a_pose_gets_that_of_its_image(release):
    """OAI-ZIB's maps count voxels to the left, the back and the top, and lie nowhere."""
    folder = [*release.images][1]
    image = release.images[folder]
    values = sitk.GetArrayFromImage(image).astype(np.uint8)  # no symmetry
    stored = sitk.GetImageFromArray(values[:, ::-1, ::-1])  # x and y of RAS+ axes, turned around
    stored.SetSpacing(image.GetSpacing())
    path = release.root.parent / "zib" / f"{TESTED}_V00_right.mhd"
    path.parent.mkdir()
    sitk.WriteImage(stored, str(path))
    scans, _ = run(release, path.parent)
    found = canonical(read_image(scans[0]["label"]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), values)
    np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-4)
    path.rename(path.with_name(f"{TESTED}.mhd"))
    with pytest.raises(UserError, match="it has no pose and its name fits 4 series"):
        run(release, path.parent)


def test_packages_of_the_data_archive(release, tmp_path):
    table = release.tables() / "image03.txt"
    lines = ["image_file\tsrc_subject_id\timage_description", "File\tSubject\tWhat it shows"]
    for row in release.rows:
        lines.append(
            f"s3://NDAR/{row['visit']}/{row['Folder']}.tar.gz\t{row['ParticipantID']}\t"
            f"{row['SeriesDescription']}"
        )
    table.write_text("\n".join(lines))
    for contents in release.root.glob("*/contents*.csv"):
        contents.unlink()
    release.tables = lambda: release.root
    scans, _ = run(release, release.labels)
    assert len(scans) == 2


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "workflow.oai", *map(str, arguments)],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_the_command(release, tmp_path):
    assert "A run that was stopped goes on" in command("--help").stdout
    out = tmp_path / "new" / "oai.csv"
    arguments = [release.tables(), "--labels", release.labels, "--out", out]
    done = command(*arguments, "--expect", "6x9x8")
    assert done.returncode == 0, done.stderr
    assert "test: 2 scans of 1 patients, 2 with label map" in done.stdout
    assert len(rows(out)) == 2
    done = command(*arguments, "--expect", "6x9")
    assert done.returncode == 2 and "expected a size such as 160x384x384" in done.stderr
    done = command(tmp_path, "--labels", tmp_path / "none", "--out", out)
    assert done.returncode == 1 and "none: no such folder" in done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    done = command(empty, "--labels", release.labels, "--out", out)
    assert done.returncode == 1 and "contents.<release>.csv or image03.txt" in done.stderr
    assert "Traceback" not in done.stderr
