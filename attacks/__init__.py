"""The attack room: one engine, one small file a paper, and the table of them all."""

if __name__ != "fl_privacy_audit.attacks":
    raise ImportError(f"import this package as 'fl_privacy_audit.attacks', not {__name__!r}")

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import Options

from .engine.many import needed_seconds, reconstruct_each, refusal, shares_steps
from .needs import THREAT_MODELS, Needs
from .papers.analytic import first_linear
from .papers.deep_image_prior import deep_image_prior, latent_search
from .papers.dlg import dlg
from .papers.idlg import idlg
from .papers.imprint import imprint, with_imprint
from .papers.inverting_gradients import inverting_gradients
from .papers.modern_inversion import modern_inversion
from .papers.order_invariant import order_invariant
from .papers.rgap import rgap
from .papers.see_through_gradients import see_through_gradients
from .papers.spear import spear
from .papers.surrogate_model_extension import surrogate_model_extension
from .papers.swept_inversion import swept_inversion

__all__ = [
    "ATTACKS",
    "THREAT_MODELS",
    "AttackEntry",
    "Needs",
    "all_attacks",
    "deep_image_prior",
    "dlg",
    "first_linear",
    "idlg",
    "imprint",
    "inverting_gradients",
    "latent_search",
    "make_attack",
    "modern_inversion",
    "needed_seconds",
    "order_invariant",
    "reconstruct_each",
    "refusal",
    "rgap",
    "see_through_gradients",
    "shares_steps",
    "spear",
    "surrogate_model_extension",
    "swept_inversion",
    "with_imprint",
]

ENTRY_POINTS = "fl_privacy_audit.attacks"
"""Group under which other packages offer an `AttackEntry`."""


@dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """One row of the table.

    Attributes:
        factory: Makes the attack; its keyword arguments are its options.
        paper: Author, year, arXiv.
        threat_model: A letter of `THREAT_MODELS`.
        needs: What it needs; checked before it starts.
        cost: What one target costs, in words.
    """

    factory: Callable[..., Attack]
    paper: str
    threat_model: str
    needs: Needs
    cost: str


ATTACKS: dict[str, AttackEntry] = {
    "dlg": AttackEntry(
        factory=dlg,
        paper="Zhu 2019, arXiv:1906.08935",
        threat_model="A",
        needs=Needs(gradient_length=True, most_images=8, model="smooth network"),
        cost="thousands of gradients, float64",
    ),
    "idlg": AttackEntry(
        factory=idlg,
        paper="Zhao 2020, arXiv:2001.02610",
        threat_model="A",
        needs=Needs(gradient_length=True, most_images=1, model="smooth network"),
        cost="thousands of gradients, float64",
    ),
    "inverting_gradients": AttackEntry(
        factory=inverting_gradients,
        paper="Geiping 2020, arXiv:2003.14053",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="thousands of gradients",
    ),
    "swept_inversion": AttackEntry(
        factory=swept_inversion,
        paper="Geiping 2020, arXiv:2003.14053, changed",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="300 gradients; the default",
    ),
    "modern_inversion": AttackEntry(
        factory=modern_inversion,
        paper="Geiping 2020, arXiv:2003.14053, settings of breaching 2022",
        threat_model="E",
        needs=Needs(model="at most 32 local steps; uses batch-norm statistics where there are"),
        cost="2,400 gradients",
    ),
    "surrogate_model_extension": AttackEntry(
        factory=surrogate_model_extension,
        paper="Zhu 2023, arXiv:2306.00127",
        threat_model="B",
        needs=Needs(model="any number of local steps, known or not"),
        cost="1,000 gradients, however many local steps",
    ),
    "order_invariant": AttackEntry(
        factory=order_invariant,
        paper="Dimitrov 2022, arXiv:2206.12395",
        threat_model="C",
        needs=Needs(model="whole epochs of shuffled batches, at most 32 local steps"),
        cost="300 times the local steps",
    ),
    "see_through_gradients": AttackEntry(
        factory=see_through_gradients,
        paper="Yin 2021, arXiv:2104.07586",
        threat_model="E",
        needs=Needs(model="batch norm whose running statistics are sent"),
        cost="thousands of gradients, each with a forward pass more",
    ),
    "deep_image_prior": AttackEntry(
        factory=deep_image_prior,
        paper="Jeon 2021 (GIAS) with Ulyanov 2018, arXiv:1711.10925",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="thousands of gradients, and a small generator",
    ),
    "first_linear": AttackEntry(
        factory=first_linear,
        paper="Phong 2018; Geiping 2020, arXiv:2003.14053",
        threat_model="A",
        needs=Needs(
            update="gradient",
            most_images=1,
            model="first layer linear with bias, on the flattened image",
        ),
        cost="one division",
    ),
    "rgap": AttackEntry(
        factory=rgap,
        paper="Zhu 2021, arXiv:2010.07733",
        threat_model="A",
        needs=Needs(
            update="gradient",
            gradient_length=True,
            most_images=1,
            model="plain chain of convolutions and linear layers",
        ),
        cost="one linear system a layer",
    ),
    "spear": AttackEntry(
        factory=spear,
        paper="Dimitrov 2024, arXiv:2403.03945",
        threat_model="A",
        needs=Needs(
            update="gradient",
            most_images=10,
            model="first layer linear with bias and ReLU, much wider than the batch",
        ),
        cost="thousands of small linear systems",
    ),
    "imprint": AttackEntry(
        factory=imprint,
        paper="Fowl 2022, arXiv:2110.13057",
        threat_model="F",
        needs=Needs(
            update="gradient",
            server="malicious",
            model="clients trained with_imprint(model, ...)",
        ),
        cost="one difference a bin",
    ),
}


def all_attacks() -> dict[str, AttackEntry]:
    """The table, and what other installed packages add to it by entry point.

    Raises:
        ConfigError: A package offers something else, or a name that is taken.
    """
    table = dict(ATTACKS)
    for point in entry_points(group=ENTRY_POINTS):
        entry = point.load()
        if not isinstance(entry, AttackEntry):
            raise ConfigError(
                f"entry point {point.name!r} of group {ENTRY_POINTS} must be an AttackEntry, but "
                f"is a {type(entry).__name__}"
            )
        if point.name in table:
            raise ConfigError(f"two attacks are called {point.name!r}; rename or remove one")
        table[point.name] = entry
    return table


def make_attack(name: str, options: Options | None = None) -> Attack:
    """Build an attack from the table.

    Raises:
        ConfigError: No such attack, or it takes no such option.
    """
    table = all_attacks()
    entry = table.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no attack {name!r}; there are {', '.join(table)}.{hint}")
    options = options or {}
    known = list(inspect.signature(entry.factory).parameters)
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ConfigError(
            f"attack {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}"
        )
    try:
        return entry.factory(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"attack {name!r} cannot be made with {options}: {error}") from error
