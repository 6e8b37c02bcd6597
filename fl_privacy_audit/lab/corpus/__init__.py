"""Corpora: images x victims x attacks x defences -> originals beside what attacks made of them."""

from .build import Built, build_corpus
from .plan import Part, Plan, Setting
from .recipes import RECIPES, Training
from .sources import SOURCES, open_source
from .specs import Spec, parse_spec
from .victims import VICTIMS, make_victim

__all__ = [
    "RECIPES",
    "SOURCES",
    "VICTIMS",
    "Built",
    "Part",
    "Plan",
    "Setting",
    "Spec",
    "Training",
    "build_corpus",
    "make_victim",
    "open_source",
    "parse_spec",
]
