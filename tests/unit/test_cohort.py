"""Cohorts, splits and pairs: what is accepted, and what the messages of refusal say."""

import itertools
from collections import Counter

import pytest
import SimpleITK as sitk

from workflow.data.checks import faults_of_scans
from workflow.data.cohort import load_cohort
from workflow.data.pairs import both_directions, read_pair_list, select_couples, shards
from workflow.data.scan import Scan
from workflow.data.splits import assign_splits
from workflow.errors import DataError
from workflow.images import write_image
from workflow.parts import in_parts


def write_manifest(folder, text, config, files=("x.nii",)):
    for name in files:
        (folder / name).touch()
    (folder / "cohort.csv").write_text(text, encoding="utf-8")
    config["cohort"] |= {"source": "manifest", "path": str(folder / "cohort.csv")}
    return config


def test_manifest_with_foreign_columns(tmp_path, config):
    text = "subject,visit,side,labels,scanner\nA,00m,Right,x.nii,3T\nB,00m,left,y.nii,3T\n"
    config["cohort"]["columns"] = {"label": "labels"}
    scans = load_cohort(write_manifest(tmp_path, text, config, files=("x.nii", "y.nii")))
    assert list(scans) == ["A_00m_right", "B_00m_left"]
    assert scans["A_00m_right"].image is None
    assert scans["A_00m_right"].label == str(tmp_path / "x.nii")


def test_all_faults_of_a_manifest_are_listed_at_once(tmp_path, config):
    text = (
        "subject,visit,side,image,label,split\n"
        "A,1,right,,x.nii,\n"
        "A,1,right,,x.nii,\n"  # twice
        "B/C,1,right,,x.nii,\n"
        "D,1,up,,x.nii,\n"
        "E,1,left,,,\n"
        "F,1,left,x.nii,,test\n"
        "G,1,left,x.nii,,exam\n"
    )
    with pytest.raises(DataError) as caught:
        load_cohort(write_manifest(tmp_path, text, config))
    message = str(caught.value)
    for part in (
        "cohort.csv", "line 3: scan A_1_right again, first in line 2", "line 4: subject 'B/C'",
        "line 5: side 'up'", "line 6: neither image nor label", "line 7: a test scan needs a label",
        "line 8: split 'exam': expected train, validation, test",
    ):  # fmt: skip
        assert part in message


def test_misspelt_column_names_the_nearest(tmp_path, config):
    with pytest.raises(DataError, match=r"no column 'subject' \(did you mean 'subjct'\?\)"):
        load_cohort(write_manifest(tmp_path, "subjct,visit,side,label\n", config))


def test_missing_files_are_listed_together(tmp_path, config):
    text = "subject,visit,side,label\nA,1,right,gone1.nii\nB,1,right,gone2.nii\n"
    with pytest.raises(DataError, match=r"2 of its files are missing(.|\n)*gone1(.|\n)*gone2"):
        load_cohort(write_manifest(tmp_path, text, config))


def test_paths_with_braces_are_refused(tmp_path, config):
    text = "subject,visit,side,label\nA,1,right,{x}.nii\n"
    with pytest.raises(DataError, match=r"\{x\}.nii: rename it"):
        load_cohort(write_manifest(tmp_path, text, config, files=("{x}.nii",)))


def test_patient_in_two_splits(tmp_path, config):
    text = "subject,visit,side,label,split\nA,1,right,x.nii,train\nA,2,right,y.nii,test\n"
    with pytest.raises(DataError, match="patient A is in test and train"):
        load_cohort(write_manifest(tmp_path, text, config, files=("x.nii", "y.nii")))


def test_one_file_is_not_two_scans(tmp_path, config):
    """A row that was copied, its paths unchanged, would train on a test image."""
    text = "subject,visit,label,split\nA,1,x.nii,test\n\nB,1,./x.nii,train\n"
    with pytest.raises(DataError, match=r"line 4: .*x\.nii is that of line 2 already"):
        load_cohort(write_manifest(tmp_path, text, config))


@pytest.mark.parametrize(("column", "meant"), [("imgae", "image"), ("Split", "split")])
def test_mistyped_optional_columns_are_not_left_out(tmp_path, config, column, meant):
    text = f"subject,visit,label,{column},site\nA,1,x.nii,,here\n"
    with pytest.raises(DataError, match=f"column '{column}': did you mean '{meant}'") as caught:
        load_cohort(write_manifest(tmp_path, text, config))
    assert "'site'" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("subject,label\nMüller,x.nii\n".encode("latin-1"), "save it as .* UTF-8"), (b"", "empty")],
)
def test_what_is_no_csv_is_named(tmp_path, config, content, message):
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    config["cohort"] |= {"source": "manifest", "path": str(path)}
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        load_cohort(config)
    with pytest.raises(DataError, match=f"{path}: .*{message}"):
        read_pair_list(str(path))


def test_decathlon_folders(tmp_path, config):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for name in ("case_1.nii.gz", "case_2.nii.gz", "._case_1.nii.gz"):
            (tmp_path / folder / name).touch()
    config["cohort"] |= {"source": "decathlon", "path": str(tmp_path)}
    assert list(load_cohort(config)) == ["case_1", "case_2"]
    config["cohort"]["path"] = str(tmp_path / "imagesTr")
    with pytest.raises(DataError, match="expected the folders imagesTr and labelsTr"):
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
    with pytest.raises(DataError, match=r"found 9 couples, pairs\.longitudinal asks for 10"):
        select_couples(cohort, config)
    config["pairs"] |= {"longitudinal": 0, "cross-subject": 0}
    with pytest.raises(DataError, match="no pairs left"):
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
    with pytest.raises(DataError, match=r"line 3: .*" + message):
        select_couples(cohort, config, read_pair_list(str(path)))


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("task,fixed,moving\n")
    with pytest.raises(DataError, match="no pairs; list some"):
        read_pair_list(str(path))


def test_an_unknown_side_is_no_side(config):
    """A left knee is mirrored, one of unknown side is not: they are never paired."""
    scans = {n: Scan(n, "", side, None, "x", "test") for n, side in (("A", "left"), ("B", ""))}
    config["pairs"] |= {"longitudinal": 0, "cross-subject": "all"}
    with pytest.raises(DataError, match="found 0 couples"):
        select_couples(scans, config)


def test_a_listed_patient_may_not_be_trained_on(config):
    scans = [Scan("A", "1", "right", None, "x", "train"), Scan("B", "1", "right", None, "x", "")]
    with pytest.raises(DataError, match="patient A is in test and train"):
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
    good = sitk.Image((6, 7, 8), sitk.sitkFloat32)
    good[2, 2, 2] = 1
    nan = sitk.Image(good)
    nan[1, 1, 1] = float("nan")
    moved = sitk.Cast(good, sitk.sitkUInt8)
    moved.SetSpacing((1, 1, 2))
    for name, image in {
        "good": good, "nan": nan, "flat": good * 0, "moved": moved,
        "label": sitk.Cast(good, sitk.sitkUInt8),
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
    message = "\n".join(faults_of_scans(scans, labels, threads=2))
    for part in (
        "A: ", "1 voxels that are NaN", "B: ", "constant image", "C: ",
        "not on the grid of its image",
        "D: ", "cannot be read", "E: ", "label 3 (bone) is absent; found the values [0, 1]",
    ):  # fmt: skip
        assert part in message
    labels = {"structures": [{"name": "bone", "value": 3}], "merge": [{"from": 1, "to": 3}]}
    assert faults_of_scans([scan("F", "good", "label")], labels) == []


def test_parts_hold_every_name_once_and_change_little():
    names = [f"scan-{number}" for number in range(950)]
    parts = in_parts(names)
    assert len(parts) == 10 and max(map(len, parts)) < 150
    assert sorted(itertools.chain(*parts)) == sorted(names)
    assert all(part == sorted(part, key=names.index) for part in parts)
    fewer = in_parts([name for name in names if name != "scan-7"])
    assert sum(before != after for before, after in zip(parts, fewer, strict=True)) == 1
    assert in_parts(names[:99]) == [names[:99]] and in_parts([]) == []
