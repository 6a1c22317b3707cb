"""Everything that is generated from the models, by its path in the repository: CRDs, the chart's copy, the reference.

Called by `taskdeletion crds`; `make verify` holds the files against it.
"""

from pathlib import Path

from taskdeletion.api.crd import find_drift, render_chart_templates, render_crds, write_files
from taskdeletion.api.reference import render_reference

CHART_TEMPLATES = "charts/task-deletion-operator/templates"


def render_generated() -> dict[str, dict[str, str]]:
    """Per directory below the repository's root: file names and texts."""
    return {
        "crds": render_crds(),
        CHART_TEMPLATES: render_chart_templates(),
        "docs": {"api.md": render_reference()},
    }


def write_generated(root: Path) -> None:
    """Write every generated file below `root`."""
    for directory, files in render_generated().items():
        write_files(root / directory, files)


def check_generated(root: Path) -> list[str]:
    """The generated files that are missing below `root` or hold something else."""
    found = render_generated().items()
    return [f"{directory}/{name}" for directory, files in found for name in find_drift(root / directory, files)]
