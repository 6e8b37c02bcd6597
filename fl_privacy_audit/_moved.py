"""Modules that moved in 0.2 answer to their old names until 0.3, with a warning."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_OLD_NAMES = {
    "core": "config devices errors protocols types observe:updates",
    "metrics": "matching",
    "ledger": "export provenance records sinks",
    "verdicts": "compare verdict rules:judge interval:bootstrap",
    "report": "summary html:html_report",
    "simulate": "demo sweep federation:flower_cifar",
    "lab": "corpus manifest semsim study people:annotate machines:annotators",
    "attacks.engine": "adaptation consistency many gradients:evaluators batch:guesses",
    "attacks.parts": "chain closed_form constraints distances labels lookalikes noise priors "
    "randomness replay start",
    "attacks.papers": "analytic deep_image_prior dlg idlg imprint inverting_gradients "
    "modern_inversion order_invariant rgap see_through_gradients spear surrogate_model_extension "
    "swept_inversion",
}
"""Room -> modules that lay one room further up, each as ``name`` or ``new:old``."""
MOVED = {f"{__package__}.theory": f"{__package__}.dp"}
for _room, _names in _OLD_NAMES.items():
    _place = f"{__package__}.{_room}"
    for _new, _, _old in (name.partition(":") for name in _names.split()):
        MOVED[f"{_place.rpartition('.')[0]}.{_old or _new}"] = f"{_place}.{_new}"


class _Alias(ModuleType):
    def __call__(self, *args: object, **options: object) -> object:
        """Importing `attacks.dlg` puts this where the function of that name was: call that."""
        return vars(self)[self.__name__.rpartition(".")[2]](*args, **options)


class OldNames(MetaPathFinder, Loader):
    """Finds the modules of `MOVED`, and what lay inside those that are packages."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        parent, _, name = fullname.rpartition(".")
        around, new = sys.modules.get(parent), MOVED.get(fullname)
        if isinstance(around, _Alias) and around.__spec__ is not None:
            new = f"{around.__spec__.loader_state}.{name}"
        return (
            None if new is None else ModuleSpec(fullname, self, loader_state=new, is_package=True)
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new: str = module.__spec__.loader_state if module.__spec__ else ""
        message = f"{module.__name__} is now {new}; the old name goes in version 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        names = vars(importlib.import_module(new)).items()
        vars(module).update({n: v for n, v in names if n == "__all__" or n[:2] != "__"})
