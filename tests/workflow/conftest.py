"""A copy of the project in which Snakemake runs as users run it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".snakemake", "results", "__pycache__", ".*_cache"
)


class Project:
    """A private copy of the project; `run` calls snakemake in it and keeps all that it prints."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
        self.tell_jobs(True)

    def tell_jobs(self, wanted: bool) -> None:
        """Let Snakemake print each job, as tests read it, or be as quiet as users have it."""
        for profile in self.folder.glob("profiles/*/config.yaml"):
            text = (ROOT / profile.relative_to(self.folder)).read_text(encoding="utf-8")
            assert "\nlogger: rich" in text
            text = text.replace("\nlogger: rich", "\n# logger: rich") if wanted else text
            profile.write_text(text, encoding="utf-8")

    def configure(self, name: str, **changes) -> str:
        """Write a configuration and return its path."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(changes), encoding="utf-8")
        return path.name

    def run(self, *arguments: str, own_group: bool = False):
        """Run `snakemake --cores all`; `own_group` lets a test kill it with all its children.

        However long it takes: on a busy machine that says nothing.
        """
        return self.call("--cores", "all", *arguments, start_new_session=own_group)

    def call(self, *arguments: str, **options):
        """Run `snakemake` with some arguments; `options` are those of `subprocess.run`."""
        # The copy's own code, also where a PYTHONPATH names another.
        options["env"] = options.get("env", os.environ) | {"PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder, encoding="utf-8", errors="replace", capture_output=True,
            check=False, **options,
        )  # fmt: skip
        done.output = done.stdout + done.stderr
        return done


@pytest.fixture
def fresh_project(tmp_path):
    return Project(tmp_path / "project")
