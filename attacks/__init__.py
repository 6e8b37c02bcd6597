"""The attack room: one engine, one small file a paper, and the table of them all."""

if __name__ != "fl_privacy_audit.attacks":
    raise ImportError(f"import this package as 'fl_privacy_audit.attacks', not {__name__!r}")

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from fl_privacy_audit.errors import ConfigError
from fl_privacy_audit.protocols import Attack

from .dlg import dlg
from .idlg import idlg
from .inverting_gradients import inverting_gradients
from .many import reconstruct_each

__all__ = [
    "ATTACKS",
    "AttackEntry",
    "dlg",
    "idlg",
    "inverting_gradients",
    "make_attack",
    "reconstruct_each",
]


@dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """One row of the table.

    Attributes:
        factory: Makes the attack; its keyword arguments are the settings.
        paper: Author, year, arXiv.
        threat_model: Letter of Carletti et al. 2025 (SoK), A to H.
        needs: What it works on, in words.
    """

    factory: Callable[..., Attack]
    paper: str
    threat_model: str
    needs: str


ATTACKS: dict[str, AttackEntry] = {
    "dlg": AttackEntry(
        factory=dlg,
        paper="Zhu 2019, arXiv:1906.08935",
        threat_model="A",
        needs="smooth network, small batch, small image",
    ),
    "idlg": AttackEntry(
        factory=idlg,
        paper="Zhao 2020, arXiv:2001.02610",
        threat_model="A",
        needs="as dlg, batch of one",
    ),
    "inverting_gradients": AttackEntry(
        factory=inverting_gradients,
        paper="Geiping 2020, arXiv:2003.14053",
        threat_model="B",
        needs="up to 32 local steps",
    ),
}


def make_attack(name: str, settings: dict[str, int | float | str | bool] | None = None) -> Attack:
    """Build an attack from the table.

    Raises:
        ConfigError: No such attack, or it takes no such setting.
    """
    entry = ATTACKS.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, ATTACKS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no attack {name!r}; there are {', '.join(ATTACKS)}.{hint}")
    settings = settings or {}
    known = list(inspect.signature(entry.factory).parameters)
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ConfigError(
            f"attack {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}"
        )
    try:
        return entry.factory(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"attack {name!r} cannot be made with {settings}: {error}") from error
