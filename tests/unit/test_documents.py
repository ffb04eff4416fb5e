"""What documents say of results is what the results say, or names where it is from."""

import re
import shutil

import pandas as pd
import pytest

from tests.conftest import ROOT
from workflow.referee import publish

RUN = ROOT / "results/reference/phantom"
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "models/*.md", "results/**/README.md", "baselines/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"
]
# Measured numbers: seconds and the like, Dice, folds, three decimals.
MEASURED = re.compile(
    r"(?<![\w.])(?:\d*\.(?!00)\d{3}\b|\d[\d.,]* ?(?:s|min|minutes|seconds|hours|core-hours"
    r"|GPU-hours|GB|MB|GFLOPS|Dice points|times as)(?![\w-]))|\bDice (?:of )?\.?\d|\d+ folds"
)
# Words by which a section says that no run of the reference results has its numbers, and why.
ORIGINS = (
    "easured once",
    "`python -m benchmarks.",
    "`snakemake plan",
    "| measured? |",
    "(`mem_mb`)",
)


def text_of(path):
    """Return a document as one line for each paragraph, without what is generated, and code."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for document, name in publish.shown_parts(RUN / "tables"):
        if ROOT / document == path:
            text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", "", text, flags=re.DOTALL)
    return re.sub(r"(?<!\n)\n *(?![\n|# -])", " ", text)


@pytest.fixture(scope="module")
def said():
    """What documents say of the reference run: document, sentence, whether the run says so.

    Numbers in the sentences are put in from its tables.
    """
    table = pd.read_csv(RUN / "tables/table1.csv").set_index("method")
    dice = table[[f"{task} dice" for task in ("longitudinal", "cross-subject")]]
    networks = [n for n in dice.index if n.startswith(("affine-net", "VoxelMorph", "AVSM ("))]
    ahead = dice.loc["vSVF-opt"] - dice.loc["AVSM (3-step)"]
    part = table["seconds"]["AVSM + instance opt."] / table["seconds"]["vSVF-opt"]
    seconds = pd.concat(
        pd.read_csv(path).groupby("stage")["seconds"].sum()
        for path in sorted(RUN.glob("networks/*/*/history.csv"))
    )
    without = not (RUN / "tables/table2.md").exists()
    untrained = not (ROOT / "models/momentum-6.pt").exists()
    measured = text_of(ROOT / "docs/evaluation.md")
    minutes = float(re.search(r"nothing else running: (\d+\.\d) minutes", measured)[1])
    return [
        ("README.md", "They do not reach the optimisation of each pair (vSVF-opt)",
         (dice.loc[networks] < dice.loc["vSVF-opt"]).all(axis=None)),
        ("README.md", "as its start they halve its time (AVSM + instance opt.)", 0.4 < part < 0.6),
        ("README.md", "go on for a minute in the run", seconds.between(20, 90).all()),
        ("README.md", "which register a pair of right knees in a second",
         table["seconds"]["AVSM (3-step)"] <= 1),
        ("README.md", f"The benchmark took {minutes:.0f} minutes on two cores", True),
        ("results/reference/README.md", f"the embedded cohort: {minutes:.0f} min", True),
        ("results/reference/README.md", "Table 2 is not in it", without),
        ("docs/evaluation.md", "rows I to IV and VI to VIII are not there yet", untrained),
        ("models/README.md", "Table 2's networks are not here yet", untrained),
        ("models/README.md", "The optimisation of a pair (vSVF-opt) is "
         f"{ahead.min():.0f} to {ahead.max():.0f} Dice points more accurate than AVSM (3-step)",
         ahead.min() > 0),
    ]  # fmt: skip


def test_sentences_say_what_the_results_say(said):
    wrong = []
    for document, sentence, true in said:
        if sentence not in text_of(ROOT / document):
            wrong.append(f'{document}: expected "{sentence}", by {RUN.relative_to(ROOT)}')
        elif not true:
            wrong.append(f'{document}: "{sentence}" is not so in {RUN.relative_to(ROOT)}')
    advice = "Write in the document what is so, and the same here in `said`:\n"
    assert not wrong, advice + "\n".join(wrong)


def test_documents_show_the_reference_run():
    for (document, name), part in publish.shown_parts(RUN / "tables").items():
        text = (ROOT / document).read_text(encoding="utf-8")
        shown = text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]
        assert shown == part, (
            f"{document} does not show {RUN.relative_to(ROOT)} between its markers `{name}`; "
            "python -m workflow.referee.publish phantom writes it"
        )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_measured_numbers_are_checked_or_say_where_they_are_from(path, said):
    """By section: a new number of a run goes into `said`, of another it says where it is from."""
    for section in re.split(r"\n(?=#+ )", text_of(path)):
        if any(words in section for words in ORIGINS):
            continue
        known = " ".join(sentence for document, sentence, _ in said if ROOT / document == path)
        found = [m.group() for m in MEASURED.finditer(section) if m.group() not in known]
        assert not found, (
            f"{path.relative_to(ROOT)}, {section.strip().splitlines()[0]}: {found} are in no "
            f"sentence of `said`, and the section has none of {ORIGINS}"
        )


def test_publishing_writes_what_documents_show(tmp_path):
    shutil.copytree(ROOT / "results/reference", tmp_path / "results/reference")
    (tmp_path / "results/reference/README.md").unlink()
    for document, name in (parts := publish.shown_parts(RUN / "tables")):
        path = tmp_path / document
        path.parent.mkdir(exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else "Before.\n"
        path.write_text(f"{before}<!-- {name} -->\nearlier\n<!-- /{name} -->\nAfter.\n", "utf-8")
    publish.show(tmp_path)
    publish.show(tmp_path)
    for (document, name), part in parts.items():
        text = (tmp_path / document).read_text(encoding="utf-8")
        assert f"<!-- {name} -->\n{part}<!-- /{name} -->\nAfter.\n" in text
        assert text.startswith("Before.\n") and "earlier" not in text
