"""Defences: what they do to an update, which options are usual, and what an attacker knows.

Every defence says what an attacker knows of it (`Defence`); one that this package applies to
updates also says how (`AppliedDefence`). Flower's own and Opacus' are known only.

An update is returned minus sent weights, and all options are in its units: after one step of SGD
it is the gradient times the learning rate, so noise of 1e-3 on the *gradient* is
``1e-3 * learning_rate`` here.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.observe import CLIPPED
from fl_privacy_audit.core.types import KnownDefence, Observation, Options

from .compression import Pruning as Pruning
from .compression import Quantisation as Quantisation
from .compression import Sign as Sign
from .defence import AppliedDefence as AppliedDefence
from .defence import Defence as Defence
from .defence import length
from .elsewhere import ClientClipping, DpSgd, LocalDp, ServerClipping, Undefended
from .noise import Clipping as Clipping
from .noise import Gaussian as Gaussian
from .noise import Laplace as Laplace
from .soteria import Soteria as Soteria
from .weights import defend_weights as defend_weights

Where = Literal["mod", "train function", "Opacus", "Flower's mod", "Flower's wrapper", "nowhere"]


@dataclass(frozen=True, kw_only=True)
class DefenceEntry:
    """A row of the table."""

    factory: Callable[..., Defence]  # takes the options
    title: str  # what the defence does, in a few words
    paper: str  # author, year, arXiv number
    # What applies it: our mod, a helper in the train function, or somebody else's code.
    where: Where
    usual: str  # usual options in the literature, and who uses them
    attacker: str  # what the attacker is assumed to know of it, and what attacks make of that

    @property
    def options(self) -> dict[str, bool]:
        """Name of each option -> whether it must be given."""
        parameters = inspect.signature(self.factory).parameters.items()
        return {name: parameter.default is parameter.empty for name, parameter in parameters}


DEFENCES: dict[str, DefenceEntry] = {
    "none": DefenceEntry(
        factory=Undefended,
        title="nothing",
        paper="",
        where="nowhere",
        usual="",
        attacker="there is nothing to know",
    ),
    "clipping": DefenceEntry(
        factory=Clipping,
        title="shortens the update to a length",
        paper="McMahan 2018, arXiv:1710.06963",
        where="mod",
        usual="norm: the median length of updates (Andrew 2021, arXiv:1905.03871)",
        attacker="the norm: the length of a clipped update says nothing, its direction all",
    ),
    "gaussian": DefenceEntry(
        factory=Gaussian,
        title="adds normal noise, after clipping if asked",
        paper="Zhu 2019, arXiv:1906.08935",
        where="mod",
        usual="of the gradient: 1e-4 to 1e-1 (Zhu 2019), 1e-3 (Gao 2021, arXiv:2011.12505)",
        attacker="std and clip_norm: the prior weighs more the more noise there is",
    ),
    "laplace": DefenceEntry(
        factory=Laplace,
        title="adds Laplace noise",
        paper="Zhu 2019, arXiv:1906.08935",
        where="mod",
        usual="of the gradient: 1e-4 to 1e-1 (Zhu 2019)",
        attacker="the scale, used as for gaussian",
    ),
    "pruning": DefenceEntry(
        factory=Pruning,
        title="drops the smallest numbers",
        paper="Zhu 2019, arXiv:1906.08935; Lin 2018, arXiv:1712.01887",
        where="mod",
        usual="share: 0.7 (Gao 2021), 0.99 (Sun 2021), 0.5 to 0.999 (Huang 2021)",
        attacker="which numbers are left: only they are compared",
    ),
    "quantisation": DefenceEntry(
        factory=Quantisation,
        title="rounds at random to few levels (QSGD)",
        paper="Alistarh 2017 (QSGD), arXiv:1610.02132",
        where="mod",
        usual="bits: 8, 4 or 2; bucket: 512",
        attacker="the step, from the update: its rounding counts as noise",
    ),
    "sign": DefenceEntry(
        factory=Sign,
        title="keeps the signs, and one length per tensor",
        paper="Bernstein 2018 (signSGD), arXiv:1802.04434; Karimireddy 2019, arXiv:1901.09847",
        where="mod",
        usual="scale: the mean magnitude of each tensor",
        attacker="that only signs are left: soft signs are compared",
    ),
    "soteria": DefenceEntry(
        factory=Soteria,
        title="drops the columns of a linear layer that tell most",
        paper="Sun 2021, arXiv:2012.06043",
        where="train function",
        usual="share: 0.01 to 0.8, of the last linear layer",
        attacker="which columns are left: only they are compared",
    ),
    "dp-sgd": DefenceEntry(
        factory=DpSgd,
        title="clips and noises each step",
        paper="Abadi 2016, arXiv:1607.00133",
        where="Opacus",
        usual="noise_multiplier: 0.5 to 2; max_grad_norm: 1",
        attacker="both options, in `training`: the prior weighs more the more noise there is",
    ),
    "local-dp": DefenceEntry(
        factory=LocalDp,
        title="clips and noises the update",
        paper="Flower's LocalDpMod; Dwork and Roth 2014, Theorem A.1",
        where="Flower's mod",
        usual="sensitivity must be the clipping norm; epsilon below 1",
        attacker="all four options, used as for gaussian",
    ),
    "client-clipping": DefenceEntry(
        factory=ClientClipping,
        title="clips at the client, noises the aggregate",
        paper="McMahan 2018, arXiv:1710.06963; fixedclipping_mod",
        where="Flower's wrapper",
        usual="noise_multiplier: 0.5 to 2; clipping_norm: the median length of updates",
        attacker="the norm; noise comes after the server has seen the update",
    ),
    "server-clipping": DefenceEntry(
        factory=ServerClipping,
        title="clips and noises at the server",
        paper="McMahan 2018, arXiv:1710.06963",
        where="Flower's wrapper",
        usual="noise_multiplier: 0.5 to 2; clipping_norm: the median length of updates",
        attacker="nothing to know: the server sees updates before it clips them",
    ),
}
"""Every defence there is; see `docs/defences.md`."""


def make_defence(name: str, options: Options | None = None) -> Defence:
    """Build a defence from the table, as an attacker knows it.

    Raises:
        ConfigError: No such defence, or it takes no such option.
    """
    entry = DEFENCES.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, DEFENCES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no defence {name!r}; there are {', '.join(DEFENCES)}.{hint}")
    given, takes = dict(options or {}), entry.options
    unknown = [option for option in given if option not in takes]
    if unknown:
        names = ", ".join(takes) or "none"
        raise ConfigError(f"defence {name!r} has no option {unknown[0]!r}; it has {names}")
    missing = [option for option, needed in takes.items() if needed and option not in given]
    if missing:
        raise ConfigError(f"defence {name!r} needs the option {missing[0]!r}: {entry.usual}")
    try:
        return entry.factory(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"defence {name!r} cannot be made with {given}: {error}") from error


def make_applied_defence(name: str, options: Options | None = None) -> AppliedDefence:
    """Build a defence that can be applied to an update, without anything else.

    Raises:
        ConfigError: As for `make_defence`, or the defence is applied elsewhere.
    """
    defence = make_defence(name, options)
    if not isinstance(defence, AppliedDefence):
        raise ConfigError(
            f"defence {name!r} is not a mod of this package: it belongs to "
            f"{DEFENCES[name].where}; see docs/defences.md"
        )
    return defence


def inform(seen: Observation, defence: Defence) -> Observation:
    """Tell the attacker of a defence: how an adaptive attack gets to know what it adapts to.

    Where the defence took the length of the update away, that of the gradient is not known.
    """
    known = defence.known(seen.update)
    # Noise may have made a clipped update longer, or one that was not clipped as long.
    clipped = known.clip_norm is not None and (
        known.noise_std > 0 or length(seen.update) > known.clip_norm * (1 - CLIPPED)
    )
    return _told(seen, replace(known, length_lost=clipped or known.signs_only))


def inform_of_release(seen: Observation, defence: Defence, clients: int) -> Observation:
    """The same for the mean of the updates of `clients`, 1 or more, and the server's noise on it.

    `seen` is the release, taken as one update; the defence is the clients' or the federation's.
    """
    return _told(seen, defence.known_of_release(seen.update, clients))


def _told(seen: Observation, known: KnownDefence) -> Observation:
    if known.name == "none":
        return seen
    gradient = seen.gradient
    if gradient is not None and known.signs_only:
        # Weight decay was part of what the sign was taken of; a gradient less decay has other ones.
        gradient = {name: -delta for name, delta in seen.update.items()}
    if gradient is not None and known.zeros_hide:
        gradient = {n: g.masked_fill(seen.update[n] == 0, 0.0) for n, g in gradient.items()}
    return replace(
        seen,
        gradient=gradient,
        gradient_scale_known=seen.gradient_scale_known and not known.length_lost,
        defence=known,
    )
