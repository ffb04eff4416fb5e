"""Cohorts, splits and pairs: what is accepted, and what the messages of refusal say."""

import hashlib
import itertools
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from avsm.errors import UserError
from avsm.images import write_image
from tests.conftest import blobs, oblique_grid
from workflow.data.checks import check_scans, content, copies
from workflow.data.cohort import load_cohort
from workflow.data.pairs import both_directions, read_pair_list, select_couples, shards
from workflow.data.scans import Scan, assign_splits, in_parts
from workflow.referee.table1 import warning_note


def write_manifest(folder, text, config, files=("x.nii",)):
    for name in files:
        (folder / name).touch()
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    config["cohort"] |= {"source": "manifest", "path": str(folder / "cohort.csv"), "simulate": True}
    return config


def test_manifest_with_foreign_columns(tmp_path, config):
    text = "subject,visit,side,labels,scanner\nA,00m,Right,x.nii,3T\nB,00m,left,y.nii,3T\n"
    config["cohort"]["columns"] = {"label": "labels"}
    scans = load_cohort(write_manifest(tmp_path, text, config, files=("x.nii", "y.nii")))
    assert list(scans) == ["A_00m_right", "B_00m_left"]
    assert scans["A_00m_right"].image is None
    assert scans["A_00m_right"].label == str(tmp_path / "x.nii")


def test_a_column_that_the_configuration_names_is_there(tmp_path, config):
    config["cohort"]["columns"] = {"visit": "session"}
    text = "subject,visit,side,label\nA,00m,right,x.nii\n"
    with pytest.raises(UserError, match="no column 'session'"):
        load_cohort(write_manifest(tmp_path, text, config))


def test_all_faults_of_a_manifest_are_listed_at_once(tmp_path, config):
    text = (
        "subject,visit,side,image,label,split\n"
        "A,1,right,,x.nii,\n"
        "a,1,right,,x.nii,\n"  # twice, as some file systems see it
        "B/C,1,right,,x.nii,\n"
        "D,1,up,,x.nii,\n"
        "E,1,left,,,\n"
        "F,1,left,x.nii,,test\n"
        "G,1,left,x.nii,,exam\n"
        f"{'H' * 94},1,right,,x.nii,\n"  # too long for names of files
    )
    with pytest.raises(UserError) as caught:
        load_cohort(write_manifest(tmp_path, text, config))
    message = str(caught.value)
    for part in (
        "cohort.csv", "line 3: scan a_1_right again, first in line 2", "line 4: subject 'B/C'",
        "line 5: side 'up'", "line 6: no image, nor a label", "line 7: a test scan needs a label",
        "line 8: split 'exam': expected train, validation, test",
        "H_1_right: found 102 letters, expected at most 100",
    ):  # fmt: skip
        assert part in message


def test_nothing_is_simulated_unasked(tmp_path, config):
    """Scans whose column has another name are not replaced by simulated ones."""
    text = "subject,visit,scan_path,label,scanner\nA,1,x.nii,y.nii,3T\n"
    config = write_manifest(tmp_path, text, config, files=("x.nii", "y.nii"))
    assert load_cohort(config)["A_1"].image is None
    config["cohort"]["simulate"] = False
    with pytest.raises(UserError) as caught:
        load_cohort(config)
    for part in (
        "no column 'image'", "columns of no meaning: scan_path, scanner; cohort.columns gives",
        "cohort.simulate: true simulates",
    ):  # fmt: skip
        assert part in str(caught.value)
    config["cohort"]["columns"] = {"image": "scan_path"}
    assert load_cohort(config)["A_1"].image == str(tmp_path / "x.nii")
    (tmp_path / "cohort.csv").write_text(text + "B,1,,y.nii,3T\n")
    with pytest.raises(UserError, match=r"line 3: no image; cohort\.simulate: true simulates"):
        load_cohort(config)


def test_misspelt_column_names_the_nearest(tmp_path, config):
    with pytest.raises(UserError, match=r"no column 'subject' \(did you mean 'subjct'\?\)"):
        load_cohort(write_manifest(tmp_path, "subjct,visit,side,label\n", config))


def test_missing_files_are_listed_together(tmp_path, config):
    text = "subject,visit,side,label\nA,1,right,gone1.nii\nB,1,right,gone2.nii\n"
    with pytest.raises(UserError, match=r"2 of its files are missing(.|\n)*gone1(.|\n)*gone2"):
        load_cohort(write_manifest(tmp_path, text, config))


def test_paths_with_braces_are_refused(tmp_path, config):
    text = "subject,visit,side,label\nA,1,right,{x}.nii\n"
    with pytest.raises(UserError, match=r"\{x\}.nii: rename it"):
        load_cohort(write_manifest(tmp_path, text, config, files=("{x}.nii",)))


def test_patient_in_two_splits(tmp_path, config):
    text = "subject,visit,side,label,split\nA,1,right,x.nii,train\nA,2,right,y.nii,test\n"
    with pytest.raises(UserError, match="patient A is in test and train"):
        load_cohort(write_manifest(tmp_path, text, config, files=("x.nii", "y.nii")))


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_one_file_is_not_two_scans(tmp_path, config, link):
    """A row that was copied, its paths unchanged, would train on a test image."""
    name = "y.nii" if link else "./x.nii"
    text = f"subject,visit,image,label,split\nA,1,x.nii,l.nii,test\n\nB,1,{name},,train\n"
    (tmp_path / "x.nii").touch()
    if link:
        link(tmp_path / "y.nii", tmp_path / "x.nii")
    with pytest.raises(UserError, match=r"B_1: image .*\.nii is the file of A_1: image .*x\.nii"):
        load_cohort(write_manifest(tmp_path, text, config, files=("l.nii",)))


def test_an_image_is_not_its_own_label_map(tmp_path, config):
    text = "subject,visit,image,label\nA,1,x.nii,x.nii\n"
    with pytest.raises(UserError, match=r"A_1: label .* is the file of A_1: image"):
        load_cohort(write_manifest(tmp_path, text, config))


@pytest.mark.parametrize(("column", "meant"), [("imgae", "image"), ("Split", "split")])
def test_mistyped_optional_columns_are_not_left_out(tmp_path, config, column, meant):
    text = f"subject,visit,label,{column},site\nA,1,x.nii,,here\n"
    with pytest.raises(UserError, match=f"column '{column}': did you mean '{meant}'") as caught:
        load_cohort(write_manifest(tmp_path, text, config))
    assert "'site'" not in str(caught.value)


def test_what_is_no_csv_is_named(tmp_path, config):
    path = tmp_path / "cohort.csv"
    path.write_bytes("subject,label\nMüller,x.nii\n".encode("latin-1"))
    config["cohort"] |= {"source": "manifest", "path": str(path)}
    for read in (lambda: load_cohort(config), lambda: read_pair_list(str(path))):
        with pytest.raises(UserError, match=f"{path}: line 2: .*save it as .* UTF-8"):
            read()


def test_decathlon_folders(tmp_path, config):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for name in ("case_1.nii.gz", "case_2.nii.gz", "._case_1.nii.gz"):
            (tmp_path / folder / name).touch()
    config["cohort"] |= {"source": "decathlon", "path": str(tmp_path)}
    assert list(load_cohort(config)) == ["case_1", "case_2"]
    config["cohort"]["path"] = str(tmp_path / "imagesTr")
    with pytest.raises(UserError, match="expected the folders imagesTr and labelsTr"):
        load_cohort(config)


def make_scans(patients=20, visits=2):
    return [
        Scan(f"P{p}", str(v), ("right", "left")[p % 2], None, "x", "")
        for p in range(patients)
        for v in range(visits if p % 4 else 1)
    ]


def test_splits_are_disjoint_seeded_and_stratified():
    scans = make_scans()
    parts = {"test": 0.4, "validation": 0.2}
    splits = assign_splits(scans, parts, seed=1)
    assert Counter(splits.values()) == {"test": 8, "train": 8, "validation": 4}
    single = [splits[f"P{p}"] for p in range(0, 20, 4)]
    assert single.count("test") == 2
    assert splits == assign_splits(scans[::-1], parts, seed=1)
    assert splits != assign_splits(scans, parts, seed=2)


def test_unlabelled_patients_are_never_tested():
    scans = [Scan(f"U{p}", "1", "right", "x", None) for p in range(30)]
    assert "test" not in assign_splits(scans, {"test": 1.0, "validation": 0.0}, 1).values()


@pytest.fixture
def cohort(config):
    config["phantom"]["subjects"] = 9
    config["split"] = {"test": 1.0, "validation": 0.0}
    return load_cohort(config)


@pytest.mark.parametrize("mirror", [True, False])
def test_couples_keep_the_rules(config, cohort, mirror):
    config["preprocessing"]["mirror_left"] = mirror
    cohort = load_cohort(config)
    assert {scan.name for scan in cohort.values() if scan.mirrored} == {
        scan.name for scan in cohort.values() if mirror and scan.side == "left"
    }
    config["pairs"] |= {"longitudinal": "all", "cross-subject": 25}
    couples = select_couples(cohort, config)
    assert Counter(task for task, *_ in couples) == {"longitudinal": 9, "cross-subject": 25}
    assert len({frozenset(couple[1:]) for couple in couples}) == len(couples)
    for task, *names in couples:
        a, b = (cohort[name] for name in names)
        assert (a.subject == b.subject) == (task == "longitudinal")
        assert a.name != b.name
        assert mirror or a.side == b.side
    assert couples == select_couples(cohort, config)
    uses = Counter(n for task, *names in couples if task == "cross-subject" for n in names)
    assert max(uses.values()) - min(uses.values()) <= 2


def test_only_test_scans_are_paired(config, cohort):
    config["split"] = {"test": 0.5, "validation": 0.2}
    scans = load_cohort(config)
    config["pairs"] |= {"longitudinal": "all", "cross-subject": "all"}
    names = {n for _, *pair in select_couples(scans, config) for n in pair}
    assert {scans[n].split for n in names} == {"test"}


def test_too_few_pairs_is_an_error(config, cohort):
    config["pairs"]["longitudinal"] = 10
    with pytest.raises(UserError, match=r"found 9 couples, pairs\.longitudinal asks for 10"):
        select_couples(cohort, config)
    config["pairs"] |= {"longitudinal": 0, "cross-subject": 0}
    with pytest.raises(UserError, match="no pairs left"):
        select_couples(cohort, config)


def test_listed_pairs(tmp_path, config, cohort):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "task,fixed,moving\n"
        "longitudinal,P000_00m_right,P000_24m_right\n"
        "longitudinal,P000_24m_right,P000_00m_right\n"
        "cross-subject,P000_00m_right,P001_24m_left\n"
    )
    config["pairs"]["list"] = str(path)
    couples = select_couples(cohort, config, read_pair_list(str(path)))
    assert [couple[0] for couple in couples] == ["longitudinal", "cross-subject"]
    assert len(both_directions(couples)) == 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("longitudinal,P000_00m_right,P000_00m_right", "a scan with itself"),
        ("cross-subject,P000_00m_right,P000_24m_right", "the same patient"),
        ("longitudinal,P000_00m_right,P001_24m_left", "different patients"),
        ("cross,P000_00m_right,P001_24m_left", "did you mean 'cross-subject'"),
        ("cross-subject,P000_00m_rigt,P001_24m_left", "did you mean 'P000_00m_right'"),
        ("longitudinal,P001_00m_left,P001_24m_left", "again"),
    ],
)
def test_listed_pairs_that_break_the_rules(tmp_path, config, cohort, row, message):
    path = tmp_path / "pairs.csv"
    path.write_text(f"task,fixed,moving\nlongitudinal,P001_00m_left,P001_24m_left\n{row}\n")
    config["pairs"]["list"] = str(path)
    with pytest.raises(UserError, match=r"line 3: .*" + message):
        select_couples(cohort, config, read_pair_list(str(path)))


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("task,fixed,moving\n")
    with pytest.raises(UserError, match="no pairs; list some"):
        read_pair_list(str(path))


def test_an_unknown_side_is_no_side(config):
    """A left knee is mirrored, one of unknown side is not: they are never paired."""
    scans = {
        n: Scan(n, "", side, None, "x", "test", mirrored=side == "left")
        for n, side in (("A", "left"), ("B", ""))
    }
    config["pairs"] |= {"longitudinal": 0, "cross-subject": "all"}
    with pytest.raises(UserError, match="found 0 couples"):
        select_couples(scans, config)


def test_a_listed_patient_may_not_be_trained_on(config):
    scans = [Scan("A", "1", "right", None, "x", "train"), Scan("B", "1", "right", None, "x", "")]
    with pytest.raises(UserError, match="patient A is in test and train"):
        assign_splits(scans, config["split"], 1, {"A", "B"})


def test_shards_hold_every_couple_once():
    couples = [("longitudinal", f"a{i}", f"b{i}") for i in range(5)]
    couples += [("cross-subject", f"c{i}", f"d{i}") for i in range(2)]
    cut = shards(couples, 2)
    assert list(cut) == [
        "longitudinal-0000", "longitudinal-0001", "longitudinal-0002", "cross-subject-0000",
    ]  # fmt: skip
    assert list(itertools.chain(*cut.values())) == couples


def test_faulty_files_are_all_named(tmp_path):
    good = blobs(oblique_grid((6, 7, 8)))
    nan = sitk.Image(good)
    nan[1, 1, 1] = float("nan")
    label = good > 0.5
    moved = sitk.Image(label)
    moved.SetSpacing((1, 1, 2))
    for name, image in {
        "good": good, "nan": nan, "flat": good * 0, "moved": moved,
        "label": label,
    }.items():  # fmt: skip
        write_image(image, tmp_path / f"{name}.nii.gz")
    whole = (tmp_path / "label.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])

    def scan(name, image, label):
        files = (str(tmp_path / f"{f}.nii.gz") if f else None for f in (image, label))
        return Scan(name, "", "", *files)

    structures = [{"name": "cartilage", "value": 1}, {"name": "bone", "value": 3}]
    labels = {"structures": structures, "merge": []}
    scans = [
        scan("A", "nan", "label"), scan("B", "flat", "label"), scan("C", "good", "moved"),
        scan("D", "good", "cut"), scan("E", None, "label"),
    ]  # fmt: skip
    message = "\n".join(check_scans(scans, labels, threads=2)[0])
    for part in (
        "A: ", "1 voxels that are NaN", "B: ", "constant image", "C: ",
        "not on the grid of its image",
        "D: ", "cannot be read", "E: ", "label 3 (bone) is absent; found the values [0, 1]",
    ):  # fmt: skip
        assert part in message
    labels = {"structures": [{"name": "bone", "value": 3}], "merge": [{"from": 1, "to": 3}]}
    faults, _, digests = check_scans([scan("F", "good", "label")], labels)
    assert faults == []
    assert [*digests] == [f"F: {tmp_path / name}.nii.gz" for name in ("good", "label")]


def test_copies_are_found_by_their_voxels(tmp_path):
    """Whatever their names, formats, types, headers and axes."""
    image = sitk.Cast(blobs(oblique_grid((6, 7, 8))) * 1000, sitk.sitkInt16)
    label = image > 500
    flipped = sitk.Flip(sitk.Cast(image, sitk.sitkFloat64), (True, False, True))
    flipped = sitk.PermuteAxes(flipped, (2, 0, 1))
    other = image + 1
    for name, made in {
        "a.nii.gz": image, "b.mha": flipped, "c.nii": other, "d.nrrd": label, "e.nii": label * 1.0,
    }.items():  # fmt: skip
        sitk.WriteImage(made, str(tmp_path / name))
    files = [("a.nii.gz", None), ("b.mha", None), ("c.nii", "d.nrrd"), (None, "e.nii")]
    scans = [
        Scan(f"P{number}", "", "", *(str(tmp_path / name) if name else None for name in names))
        for number, names in enumerate(files)
    ]
    structures = {"structures": [{"name": "bone", "value": 1}], "merge": []}
    faults, _, digests = check_scans(scans, structures)
    assert faults == []
    assert copies(digests) == [
        [f"P0: {tmp_path / 'a.nii.gz'}", f"P1: {tmp_path / 'b.mha'}"],
        [f"P2: {tmp_path / 'd.nrrd'}", f"P3: {tmp_path / 'e.nii'}"],
    ]


def test_what_files_hold_is_noted_with_their_voxels(tmp_path):
    """By which a file is known to be replaced, whatever its time."""
    image = sitk.Cast(blobs(oblique_grid((6, 7, 8))) * 9, sitk.sitkUInt8)
    for name in ("a.nii", "b.mhd"):
        sitk.WriteImage(image, str(tmp_path / name))
    whole = (tmp_path / "a.nii").read_bytes()
    expected = {"bytes": 352 + 6 * 7 * 8, "sha256": hashlib.sha256(whole).hexdigest()}
    assert content(str(tmp_path / "a.nii")) == expected
    before, voxels = content(str(tmp_path / "b.mhd")), tmp_path / "b.raw"
    assert before["bytes"] == (tmp_path / "b.mhd").stat().st_size + 6 * 7 * 8
    status = voxels.stat()
    voxels.write_bytes(voxels.read_bytes()[::-1])
    os.utime(voxels, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content(str(tmp_path / "b.mhd"))["sha256"] != before["sha256"]


@pytest.mark.parametrize("scale", [1000, 255, 40])
def test_exchanged_files_are_told(tmp_path, scale):
    """The image has label values of its own, or the very ones that are scored."""
    kind = sitk.sitkUInt8 if scale < 256 else sitk.sitkInt16
    grid = oblique_grid((20, 26, 24))
    image, label = sitk.Cast(blobs(grid) * scale, kind), (blobs(grid) > 0.5) + (blobs(grid) > 0.8)
    for name, made in {"image": image, "label": label}.items():
        write_image(made, tmp_path / f"{name}.nii.gz")
    paths = [str(tmp_path / f"{name}.nii.gz") for name in ("label", "image")]
    structures = {"structures": [{"name": "bone", "value": 2}], "merge": []}
    faults, *_ = check_scans([Scan("P", "", "", *paths)], structures)
    assert any("image and label map seem exchanged" in fault for fault in faults)
    assert any("found the label values 256, 257, 258" in fault for fault in faults) == (scale > 255)
    faults, *_ = check_scans([Scan("P", "", "", paths[0], None)], structures)
    assert "as of a label map" in faults[0]
    assert check_scans([Scan("P", "", "", *paths[::-1])], structures)[0] == []


@pytest.mark.parametrize("scale", [1000, 200])
def test_exchanged_files_of_many_structures_are_told(tmp_path, scale):
    """Label maps may have more values than one would expect of any image."""
    grid = oblique_grid((20, 26, 24))
    for name, most, kind in (("image", scale, sitk.sitkInt16), ("label", 40, sitk.sitkUInt8)):
        write_image(sitk.Cast(blobs(grid) * most, kind), tmp_path / f"{name}.nii")
    paths = [str(tmp_path / f"{name}.nii") for name in ("label", "image")]
    structures = {"structures": [{"name": "bone", "value": 2}], "merge": []}
    faults, *_ = check_scans([Scan("P", "", "", *paths)], structures)
    assert any("image and label map seem exchanged" in fault for fault in faults)
    assert check_scans([Scan("P", "", "", *paths[::-1])], structures)[0] == []


@pytest.mark.parametrize("value", [1002, 1_000_002, -1, 2.5])
def test_values_that_no_label_map_has_are_shown(tmp_path, value):
    label = sitk.Cast(blobs(oblique_grid()) > 0.5, sitk.sitkFloat64)
    label[3, 4, 5] = value
    write_image(label, tmp_path / "label.nii.gz")
    scan = Scan("P", "", "", None, str(tmp_path / "label.nii.gz"))
    (fault,), *_ = check_scans([scan], {"structures": [], "merge": []})
    assert f"found the label values {value}, expected whole numbers" in fault


def test_parts_hold_every_name_once_and_change_little():
    names = [f"scan-{number}" for number in range(950)]
    parts = in_parts(names)
    assert len(parts) == 10 and max(map(len, parts)) < 150
    assert sorted(itertools.chain(*parts)) == sorted(names)
    assert all(part == sorted(part, key=names.index) for part in parts)
    fewer = in_parts([name for name in names if name != "scan-7"])
    assert sum(before != after for before, after in zip(parts, fewer, strict=True)) == 1
    assert in_parts(names[:99]) == [names[:99]] and in_parts([]) == []


def test_the_check_hands_on_what_is_odd_and_shows_odd_labels(tmp_path):
    array = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.int16)
    for name, values, shift in (("a", array, 0.5), ("b", np.where(array == 3, 1002, array), 0)):
        image, qform = nibabel.Nifti1Image(values, np.eye(4)), np.eye(4)
        qform[0, 3] += shift
        image.set_sform(np.eye(4), 1)
        image.set_qform(qform, 1)
        image.to_filename(tmp_path / f"{name}.nii")
    labels = {"merge": [], "structures": [{"name": "x", "value": 2}]}
    scan = Scan("S", "", "", None, str(tmp_path / "a.nii"))
    faults, notes, _ = check_scans([scan], labels)
    assert faults == []
    assert re.fullmatch(rf"S: {tmp_path}/a.nii: sform and qform contradict .* was used", notes[0])
    faults, *_ = check_scans([replace(scan, label=str(tmp_path / "b.nii"))], labels)
    assert "found the label values 1002, expected whole numbers" in faults[0]
    assert warning_note(notes) == [f"Warnings of the check of images: {notes[0]}."]
    assert warning_note(["x"] * 8)[0].endswith("x; 3 more in cohort.json.")
