"""The attack room: one engine, one small file a paper, and the table of them all."""

if __name__ != "fl_privacy_audit.attacks":
    raise ImportError(f"import this package as 'fl_privacy_audit.attacks', not {__name__!r}")

import difflib
import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from fl_privacy_audit.core.config import AUTO
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.later import Later, names_from
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import Options

from .needs import THREAT_MODELS, AttackEntry, Needs

if TYPE_CHECKING:
    from .choice import Choice, choose, order_of
    from .engine.many import needed_seconds, reconstruct_each, refusal, shares_steps
    from .papers.analytic import first_linear
    from .papers.april import april
    from .papers.class_fishing import class_fishing, with_class_fishing
    from .papers.deep_image_prior import deep_image_prior, latent_search
    from .papers.dlg import dlg
    from .papers.feature_unmixing import feature_unmixing
    from .papers.fedleak import fedleak
    from .papers.idlg import idlg
    from .papers.imprint import imprint, with_imprint
    from .papers.inverting_gradients import inverting_gradients
    from .papers.modern_inversion import modern_inversion
    from .papers.order_invariant import order_invariant
    from .papers.quantile_biases import quantile_biases, with_quantile_biases
    from .papers.rgap import rgap
    from .papers.see_through_gradients import see_through_gradients
    from .papers.spear import spear
    from .papers.surrogate_model_extension import surrogate_model_extension
    from .papers.swept_inversion import swept_inversion
    from .papers.unmixing import unmixing
else:
    __getattr__ = names_from(
        __name__,
        {
            "choice": "Choice choose order_of",
            "engine.many": "needed_seconds reconstruct_each refusal shares_steps",
            "papers.analytic": "first_linear",
            "papers.april": "april",
            "papers.class_fishing": "class_fishing with_class_fishing",
            "papers.deep_image_prior": "deep_image_prior latent_search",
            "papers.dlg": "dlg",
            "papers.feature_unmixing": "feature_unmixing",
            "papers.fedleak": "fedleak",
            "papers.idlg": "idlg",
            "papers.imprint": "imprint with_imprint",
            "papers.inverting_gradients": "inverting_gradients",
            "papers.modern_inversion": "modern_inversion",
            "papers.order_invariant": "order_invariant",
            "papers.quantile_biases": "quantile_biases with_quantile_biases",
            "papers.rgap": "rgap",
            "papers.see_through_gradients": "see_through_gradients",
            "papers.spear": "spear",
            "papers.surrogate_model_extension": "surrogate_model_extension",
            "papers.swept_inversion": "swept_inversion",
            "papers.unmixing": "unmixing",
        },
    )

__all__ = [
    "ATTACKS",
    "THREAT_MODELS",
    "DEFAULT_ATTACK",
    "AttackEntry",
    "Choice",
    "Needs",
    "all_attacks",
    "april",
    "choose",
    "class_fishing",
    "deep_image_prior",
    "dlg",
    "feature_unmixing",
    "fedleak",
    "first_linear",
    "idlg",
    "imprint",
    "inverting_gradients",
    "latent_search",
    "make_attack",
    "modern_inversion",
    "needed_seconds",
    "order_invariant",
    "order_of",
    "quantile_biases",
    "reconstruct_each",
    "refusal",
    "rgap",
    "see_through_gradients",
    "shares_steps",
    "spear",
    "surrogate_model_extension",
    "swept_inversion",
    "unmixing",
    "with_class_fishing",
    "with_imprint",
    "with_quantile_biases",
]

ENTRY_POINTS = "fl_privacy_audit.attacks"
"""Group under which other packages offer an `AttackEntry`."""


DEFAULT_ATTACK = "swept_inversion"
"""What the demo and a corpus run unless told otherwise."""


def _in(module: str, name: str) -> Later:
    """A function of a module below this one; they need torch."""
    return Later(f"{__name__}.{module}", name)


def _paper(module: str, name: str = "") -> Later:
    return _in(f"papers.{module}", name or module)


ATTACKS: dict[str, AttackEntry] = {
    "dlg": AttackEntry(
        factory=_paper("dlg"),
        paper="Zhu 2019, arXiv:1906.08935",
        threat_model="A",
        needs=Needs(gradient_length=True, most_images=8, model="smooth network"),
        cost="thousands of gradients, float64",
        auto="takes ten times as long as `swept_inversion`",
    ),
    "idlg": AttackEntry(
        factory=_paper("idlg"),
        paper="Zhao 2020, arXiv:2001.02610",
        threat_model="A",
        needs=Needs(gradient_length=True, most_images=1, model="smooth network"),
        cost="thousands of gradients, float64",
        auto="takes ten times as long as `swept_inversion`",
    ),
    "inverting_gradients": AttackEntry(
        factory=_paper("inverting_gradients"),
        paper="Geiping 2020, arXiv:2003.14053",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="thousands of gradients",
        auto="takes ten times as long as `swept_inversion`",
    ),
    "swept_inversion": AttackEntry(
        factory=_paper("swept_inversion"),
        paper="Geiping 2020, arXiv:2003.14053, changed",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="300 gradients",
        auto=2,
        suits=_in("choice", "steps_told"),
    ),
    "modern_inversion": AttackEntry(
        factory=_paper("modern_inversion"),
        paper="Geiping 2020, arXiv:2003.14053, settings of breaching 2022",
        threat_model="E",
        needs=Needs(
            model="at most 32 local steps; uses batch-norm statistics where there are",
        ),
        cost="2,400 gradients",
        auto=1,
        suits=_in("choice", "statistics_sent"),
        auto_options={"steps": 600},
    ),
    "surrogate_model_extension": AttackEntry(
        factory=_paper("surrogate_model_extension"),
        paper="Zhu 2023, arXiv:2306.00127",
        threat_model="B",
        needs=Needs(model="any number of local steps, known or not"),
        cost="1,000 gradients, however many local steps",
        auto=3,
        auto_options={"steps": 300, "fading": True},
    ),
    "order_invariant": AttackEntry(
        factory=_paper("order_invariant"),
        paper="Dimitrov 2022, arXiv:2206.12395",
        threat_model="C",
        needs=Needs(model="whole epochs of shuffled batches, at most 32 local steps"),
        cost="300 times the local steps",
        auto="nobody tells whether clients shuffle, and each restart guesses one order",
    ),
    "see_through_gradients": AttackEntry(
        factory=_paper("see_through_gradients"),
        paper="Yin 2021, arXiv:2104.07586",
        threat_model="E",
        needs=Needs(
            model="batch norm whose running statistics are sent",
            fits=_in("parts.priors", "client_statistics"),
        ),
        cost="thousands of gradients, each with a forward pass more",
        auto="`modern_inversion` aims at the same statistics in less time",
    ),
    "fedleak": AttackEntry(
        factory=_paper("fedleak"),
        paper="Fan 2025, arXiv:2506.08435, changed",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="600 gradients",
        auto="beats `swept_inversion` by 1 dB on one network, and loses up to 2 dB on others",
    ),
    "deep_image_prior": AttackEntry(
        factory=_paper("deep_image_prior"),
        paper="Jeon 2021 (GIAS) with Ulyanov 2018, arXiv:1711.10925",
        threat_model="B",
        needs=Needs(model="at most 32 local steps"),
        cost="thousands of gradients, and a small generator",
        auto="its generator makes pictures of noise too: read it beside a null control",
    ),
    "first_linear": AttackEntry(
        factory=_paper("analytic", "first_linear"),
        paper="Phong 2018; Geiping 2020, arXiv:2003.14053",
        threat_model="A",
        needs=Needs(
            update="gradient",
            model="first layer linear with bias, on the flattened image",
            fits=_paper("analytic", "first_layer"),
        ),
        cost="one division",
        auto=0,
        suits=_paper("analytic", "one_image"),
    ),
    "rgap": AttackEntry(
        factory=_paper("rgap"),
        paper="Zhu 2021, arXiv:2010.07733",
        threat_model="A",
        needs=Needs(
            update="gradient",
            gradient_length=True,
            most_images=1,
            model="plain chain of convolutions and linear layers",
            fits=_paper("rgap", "walkable"),
        ),
        cost="one linear system a layer",
        auto=0,
        suits=_paper("rgap", "enough_equations"),
    ),
    "spear": AttackEntry(
        factory=_paper("spear"),
        paper="Dimitrov 2024, arXiv:2403.03945",
        threat_model="A",
        needs=Needs(
            update="gradient",
            most_images=10,
            model="first layer linear with bias and ReLU, much wider than the batch",
            fits=_paper("spear", "wide_layer"),
        ),
        cost="thousands of small linear systems",
        auto=0,
    ),
    "unmixing": AttackEntry(
        factory=_paper("unmixing"),
        paper="Kariyappa 2022, arXiv:2209.05578",
        threat_model="B",
        needs=Needs(
            model="first layer linear with bias, on the flattened image; not one step of Adam",
            fits=_paper("unmixing", "mixing_layer"),
        ),
        cost="one singular value decomposition, 400 small steps",
        auto=0,
    ),
    "feature_unmixing": AttackEntry(
        factory=_paper("feature_unmixing"),
        paper="after Kariyappa 2022, arXiv:2209.05578, changed",
        threat_model="B",
        needs=Needs(
            model="rectified features, then linear layers with ReLU between them; cross-entropy",
            fits=_paper("feature_unmixing", "rectified_head"),
        ),
        cost="hundreds of linear programmes",
        auto=0,
        suits=_paper("feature_unmixing", "complete"),
    ),
    "april": AttackEntry(
        factory=_paper("april"),
        paper="Lu 2022, arXiv:2112.14087, changed",
        threat_model="A",
        needs=Needs(
            update="gradient",
            most_images=1,
            model="learned positional embedding added to the patches, at most as many as a token is wide",
            fits=_paper("april", "embedded"),
        ),
        cost="one singular value decomposition of the embedding's gradient",
        auto=0,
    ),
    "imprint": AttackEntry(
        factory=_paper("imprint"),
        paper="Fowl 2022, arXiv:2110.13057",
        threat_model="F",
        needs=Needs(
            update="gradient",
            server="malicious",
            model="clients trained with_imprint(model, ...)",
            fits=_paper("imprint", "find_block"),
        ),
        cost="one difference a bin",
        auto="the server cheats",
    ),
    "quantile_biases": AttackEntry(
        factory=_paper("quantile_biases"),
        paper="Nowak 2024, arXiv:2406.18745",
        threat_model="G",
        needs=Needs(
            update="gradient",
            gradient_length=True,
            server="malicious",
            model="clients trained with_quantile_biases(model, ...)",
            fits=_paper("quantile_biases", "cheating_layer"),
        ),
        cost="a replay of each row, for each class",
        auto="the server cheats",
    ),
    "class_fishing": AttackEntry(
        factory=_paper("class_fishing"),
        paper="Wen 2022, arXiv:2202.00580",
        threat_model="F",
        needs=Needs(
            update="gradient",
            gradient_length=True,
            server="malicious",
            model="clients trained with_class_fishing(model, ...)",
            fits=_paper("class_fishing", "fished_layer"),
        ),
        cost="that of `swept_inversion` on the images of one class",
        auto="the server cheats",
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
        if point.name in table or point.name == AUTO:
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
        near = difflib.get_close_matches(name, [*table, AUTO], n=1)
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
