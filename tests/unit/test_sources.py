"""Which files decide a result, by following imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import workflow.sources
from tests.conftest import ROOT
from workflow.contract.folders import BASELINES, NETWORKS
from workflow.sources import DECIDE_NOTHING, sources

SCRIPTS = ROOT / "workflow/scripts"


def names(*starts, root=ROOT):
    return {path.relative_to(root).as_posix() for path in sources(*starts, root=root)}


def test_imports_are_followed(tmp_path):
    files = {
        "baselines/mine/register.py": "from baselines.tools.shared import f\nimport numpy",
        "baselines/mine/net.py": "from baselines.tools import (\n    named,\n)\n",
        "baselines/mine/parts/more.py": "import baselines.tools.whole",
        "baselines/mine/parts/weights.pt": "",
        "baselines/tools/__init__.py": "",
        "baselines/tools/named.py": "from .beside import x",
        "baselines/tools/beside.py": "TEXT = Path(__file__).with_name('page.html')",
        "baselines/tools/page.html": "",
        "baselines/tools/whole.py": "from ..top import y",
        "baselines/top.py": "",
        "baselines/tools/shared.py": "def f():\n    from avsm.maps import warp",
        "avsm/__init__.py": "lazy = True",
        "avsm/maps.py": "",
    }
    others = {
        "baselines/tools/other.py": "",
        "baselines/mine/rule.smk": "",
        "baselines/mine/method.yaml": "",
        "baselines/mine/__pycache__/register.pyc": "",
        "avsm/cli.py": "from baselines.tools.other import never",
    }
    for name, text in (files | others).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert names(tmp_path / "baselines/mine", root=tmp_path) == set(files)
    # What a package hands out itself may come from any of its modules.
    for text in ("from avsm import register", "import avsm"):
        (tmp_path / "baselines/mine/net.py").write_text(text)
        sources.__globals__["_leads_to"].cache_clear()
        assert "avsm/cli.py" in names(tmp_path / "baselines/mine", root=tmp_path)


@pytest.mark.parametrize("script", ["evaluate", "preprocess", "make_table1", "register"])
def test_no_module_that_python_loads_is_missed(script):
    text = (SCRIPTS / f"{script}.py").read_text(encoding="utf-8")
    body = ast.parse(text).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    ask = "import sys\nfor m in [*sys.modules.values()]: print(getattr(m, '__file__', ''))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*map(ast.unparse, imports), ask])],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    loaded = {Path(line) for line in done.stdout.splitlines()}
    own = [ROOT / folder for folder in ("avsm", "baselines", "workflow")]
    loaded = {
        path.relative_to(ROOT).as_posix() for path in loaded if any(map(path.is_relative_to, own))
    }
    found = names(SCRIPTS / f"{script}.py")
    assert len(loaded) > 5 and loaded <= found | {*DECIDE_NOTHING}


def test_a_digest_is_of_content_and_not_of_times(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow.sources.ROOT", tmp_path)
    path = tmp_path / "one.py"

    def found(text, time):
        path.write_text(text, encoding="utf-8")
        os.utime(path, (time, time))
        for name in ("digest", "_once", "_leads_to"):
            getattr(workflow.sources, name).cache_clear()
        return workflow.sources.digest(path)

    assert found("x = 1", 1e9) == found("x = 1", 2e9) != found("x = 2", 1e9)


def test_what_decides_and_what_does_not():
    found = names(SCRIPTS / "evaluate.py")
    assert {"workflow/referee/tidy.py", "workflow/referee/metrics.py"} <= found
    assert "workflow/phantom/labels.py" not in found  # of the phantom alone, see evaluate.smk
    preprocess = names(SCRIPTS / "preprocess.py")
    assert {"avsm/images.py", "avsm/grid.py"} <= preprocess
    assert "workflow/phantom/dess.py" not in preprocess  # of simulated images alone, see data.smk
    assert not {"workflow/lock.py", "avsm/errors.py"} & found  # which all of them import
    assert "avsm/model.py" not in names(SCRIPTS / "training_part.py")
    report = names(SCRIPTS / "make_report.py")
    assert {"workflow/provenance.py", "workflow/referee/page.html"} <= report
    assert {"workflow/referee/paper_claims.yaml", "workflow/referee/../../matplotlibrc"} <= report
    assert not {"workflow/run.py", "avsm/train.py", "avsm/model.py"} & report
    networks = names(SCRIPTS / "train.py", *map(NETWORKS.joinpath, ("affine", "voxelmorph")))
    assert {"avsm/train.py", "avsm/trainer.py", "baselines/voxelmorph/register.py"} <= networks
    assert not {"avsm/cli.py", "avsm/cli_register.py", "avsm/optimise.py"} & networks
    assert not [name for name in networks if name.startswith(("workflow/data", "workflow/phantom"))]
    opt = names(SCRIPTS / "register.py", BASELINES / "affine-opt")
    assert "avsm/optimise.py" in opt
    assert not {"avsm/train.py", "workflow/config.py", "workflow/contract/descriptions.py"} & opt
    assert "avsm/maps.py" not in names(BASELINES / "demons")
