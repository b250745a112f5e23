"""Let the old names of moved modules still work for one release, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED_MODULES = {
    "cvrnet.audit.auditing": "cvrnet.audit.audit_data",
    "cvrnet.audit.output": "cvrnet.audit.audit_data",
    "cvrnet.audit.page": "cvrnet.audit.audit_page",
    "cvrnet.audit.tables": "cvrnet.audit.metadata_findings",
    "cvrnet.benchmark": "cvrnet.workflows.sweep",
    "cvrnet.checkpoints": "cvrnet.runs.checkpoint",
    "cvrnet.data.reading": "cvrnet.data.image",
    "cvrnet.data.records": "cvrnet.data.scan",
    "cvrnet.data.split_table": "cvrnet.runs.split_table",
    "cvrnet.encoders.pretrained": "cvrnet.encoders.timm_backbone",
    "cvrnet.evaluation": "cvrnet.workflows.evaluate",
    "cvrnet.experiments": "cvrnet.workflows.crossval",
    "cvrnet.explain.figure": "cvrnet.explain.pictures",
    "cvrnet.explain.files": "cvrnet.explain.pictures",
    "cvrnet.explain.localisation": "cvrnet.explain.measures",
    "cvrnet.explain.measuring": "cvrnet.explain.measure_data",
    "cvrnet.explain.sanity": "cvrnet.explain.measures",
    "cvrnet.explain.section": "cvrnet.report.explanations",
    "cvrnet.heads.fcl": "cvrnet.heads.multiscale",
    "cvrnet.hub.errors": "cvrnet.hub_errors",
    "cvrnet.hub.hashes": "cvrnet.runs.hub_download",
    "cvrnet.hub.references": "cvrnet.runs.hub_download",
    "cvrnet.inference.folding": "cvrnet.encoders.fuse_batch_norm",
    "cvrnet.inference.fuse_batch_norm": "cvrnet.encoders.fuse_batch_norm",
    "cvrnet.inference.loading": "cvrnet.inference.predictor",
    "cvrnet.inference.networks": "cvrnet.inference.head_logits",
    "cvrnet.inference.reading": "cvrnet.inference.prefetch",
    "cvrnet.inference.sharing": "cvrnet.inference.distributed",
    "cvrnet.metrics.comparison": "cvrnet.metrics.paired_tests",
    "cvrnet.metrics.curves": "cvrnet.metrics.roc",
    "cvrnet.onnx.images": "cvrnet.onnx.check_images",
    "cvrnet.onnx.source": "cvrnet.onnx.export",
    "cvrnet.pages": "cvrnet.html",
    "cvrnet.report.comparison": "cvrnet.figures.plot_comparison",
    "cvrnet.report.confusion": "cvrnet.figures.plot_confusion",
    "cvrnet.report.curves": "cvrnet.figures.plot_curves",
    "cvrnet.report.heads": "cvrnet.figures.plot_heads",
    "cvrnet.report.learning": "cvrnet.figures.plot_learning",
    "cvrnet.report.style": "cvrnet.figures.style",
    "cvrnet.results": "cvrnet.report",
    "cvrnet.results.collecting": "cvrnet.workflows.collect",
    "cvrnet.results.figures": "cvrnet.report.draw",
    "cvrnet.results.headline": "cvrnet.report.headline",
    "cvrnet.results.heads": "cvrnet.scoring",
    "cvrnet.results.loading": "cvrnet.report.results",
    "cvrnet.results.mistakes": "cvrnet.report.write",
    "cvrnet.results.predictions": "cvrnet.runs.predictions",
    "cvrnet.results.report": "cvrnet.report.write",
    "cvrnet.results.scoring": "cvrnet.scoring",
    "cvrnet.results.sections": "cvrnet.report.write",
    "cvrnet.results.tables": "cvrnet.report.report_tables",
    "cvrnet.soup": "cvrnet.workflows.soup",
    "cvrnet.source_shift": "cvrnet.workflows.sweep",
    "cvrnet.training.run": "cvrnet.workflows.train",
    "cvrnet.zoo": "cvrnet.model_info",
}


def moved_names(module: str, names: dict[str, str]) -> Any:
    """Make ``__getattr__`` for a module from which names have moved; `names` maps each name to its new module."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} has moved to {names[name]}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(names[name]), name)

    return find


class _MovedModules(MetaPathFinder, Loader):
    """Import hook: importing an old module name warns, and returns the module that has the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED_MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED_MODULES[spec.name]
        warnings.warn(f"{spec.name} has moved to {new}", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._own = module.__spec__  # the import system overwrites it; `exec_module` restores it
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own


def keep_old_names() -> None:
    """Install the import hook for modules that have moved."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedModules())  # first: other finders would import an empty folder with an old name
