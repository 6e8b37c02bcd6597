"""Improved Deep Leakage from Gradients.

Zhao, Mopuri, Bilen: "iDLG: Improved Deep Leakage from Gradients", 2020, arXiv:2001.02610.
Threat model A of Carletti et al. 2025. DLG with the label of a batch of one read off the gradient.
"""

from dataclasses import replace

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import labels

from .dlg import dlg


def idlg(*, steps: int = 100, restarts: int = 2, learning_rate: float = 1.0) -> OptimisationAttack:
    """DLG with the analytic label; the arguments are those of DLG."""
    recipe = dlg(steps=steps, restarts=restarts, learning_rate=learning_rate)
    return replace(recipe, name="idlg", labels=labels.analytic)
