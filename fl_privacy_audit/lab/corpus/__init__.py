"""Corpora: images x architectures x attacks x defences -> originals beside what attacks made of them."""

from .architectures import ARCHITECTURES as ARCHITECTURES
from .architectures import make_architecture as make_architecture
from .build import Built as Built
from .build import build_corpus as build_corpus
from .plan import Part as Part
from .plan import Plan as Plan
from .plan import Setting as Setting
from .recipes import RECIPES as RECIPES
from .recipes import Training as Training
from .sources import SOURCES as SOURCES
from .sources import open_source as open_source
from .specs import Spec as Spec
from .specs import parse_spec as parse_spec
