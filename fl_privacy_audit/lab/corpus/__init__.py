"""Corpora: images x architectures x attacks x defences -> originals beside what attacks made of them."""

from .architectures import ARCHITECTURES, make_architecture
from .build import Built, build_corpus
from .plan import Part, Plan, Setting
from .recipes import RECIPES, Training
from .sources import SOURCES, open_source
from .specs import Spec, parse_spec

__all__ = [
    "RECIPES",
    "SOURCES",
    "ARCHITECTURES",
    "Built",
    "Part",
    "Plan",
    "Setting",
    "Spec",
    "Training",
    "build_corpus",
    "make_architecture",
    "open_source",
    "parse_spec",
]
