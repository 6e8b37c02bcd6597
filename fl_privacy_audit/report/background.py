"""What a report explains beside its verdicts: their words, controls, views, threat models, mechanisms, a glossary."""

from collections.abc import Mapping
from typing import Final

from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.verdicts.verdict import Word

from .words import JUDGES

NULL_WORDS: Final[Mapping[ControlKind, str]] = {
    "noise": "noise of equal norm",
    "other client": "another client's update",
    "grey": "a grey picture",
    "undefended": "the undefended copy",
}
"""Control -> what it is, after "against"."""

VIEWS: Final[Mapping[View, tuple[str, str]]] = {
    "server": (
        "Server view: what the server could see",
        "The attacker is whoever runs the server. It receives the update of each client by itself.",
    ),
    "release": (
        "Release view: what anyone could see who gets the model",
        (
            "The attacker sees only the global model before and after a round: the updates of all "
            "clients averaged. A defence that acts on the server protects here, and not above."
        ),
    ),
    "canary": (
        "Canary view: what the server could see of a client that holds public images",
        (
            "The attacker is whoever runs the server. It receives an update that the clients' own app "
            "made of public images: same training, same defences, same weights and settings as a "
            "client of the round was sent. No client's image is needed for this. It shows what the "
            "pipeline leaks, and not what a given client's images do: images of another kind, other "
            "hardware, secure aggregation, and whatever a client keeps from round to round (the state "
            "of an optimiser, a privacy accountant) are not covered."
        ),
    ),
}
"""View -> heading, and who the attacker is. The two are never mixed in one row or plot."""

_THREATS: Final[Mapping[str, str]] = {
    "A": "It needs the model and the update",
    "B": "It needs the model and the update, and knows how pictures look in general",
    "C": "It needs the model and the update, and knows the settings of local training",
    "D": "It needs the model and the update, and similar images of its own",
    "E": "It needs the model and the update, and statistics of the clients' images",
    "F": "It changes the model that clients get",
    "G": "It changes the model that clients get, and needs similar images of its own",
    "H": "It changes the model that clients get, and chooses the clients",
}
THREATS: Final[Mapping[str, str]] = {
    k: f"{v} (threat model {k} of Carletti et al. 2025)." for k, v in _THREATS.items()
}
"""Threat model of an attack -> what that attacker has; `attacks.THREAT_MODELS` in a sentence."""

UPDATE_FORMS: Final[Mapping[str, str]] = {
    "exact gradient": "the exact gradient of one training step: the learning rate is known",
    "defended gradient": "the gradient of one training step, as a defence left it",
    "gradient signs": "the signs of the gradient of one training step: the optimiser or a defence "
    "leaves no more",
    "gradient direction": "the direction of the gradient of one training step; its length is not "
    "known",
    "weight difference": "the difference that several training steps made",
    "none": "nothing: the update could not be read",
}

MECHANISMS: Final[Mapping[str, tuple[str, str, str]]] = {
    "dp-sgd": (
        "DP-SGD: every image's gradient is clipped, and noise is added in each training step",
        "one image of one client",
        "The server sees updates that already hold the noise.",
    ),
    "local-gaussian": (
        "Local noise: the client clips its whole update and adds noise before it sends",
        "one client's update in a round, and so every image in it",
        "The server sees updates that already hold the noise.",
    ),
    "central-gaussian": (
        "Central noise: updates are clipped, and the server adds noise to their sum",
        "one client's whole contribution, in the released model",
        "The server sees every update without noise. This claim does not protect from the server.",
    ),
}
"""Mechanism -> in words, the unit of privacy, and who sees raw updates."""

NEVER_TESTED: Final[tuple[str, ...]] = (
    (
        "Whether an image was among the training data (membership inference), and properties of a whole "
        "data set (property inference)."
    ),
    (
        "Servers that cheat, by changing the model they send for instance, unless an attack above says "
        "so."
    ),
    "Servers and clients that work together, and attackers who know more than is said above.",
    "What the finished model gives away when it is used, beyond what the release view shows.",
    (
        "Distances between whole sets of reconstructions and of true images (FID, and over SemSim's "
        "embedding), unless they stand below the verdicts: they take kept pictures and `--sets`, and "
        "more than 2,048 images for FID, 192 for SemSim."
    ),
    "Rounds, clients and images that were not attacked; other data, models and training settings.",
)
"""What no audit of this kind looks at."""

RESIDUAL_RISK: Final = (
    "Whatever the verdicts, a risk remains. Stronger attacks are published every year, and an "
    "update that was sent cannot be called back. Whether the remaining risk is acceptable depends "
    "on the data, on who may become the attacker, and on the harm to the people in the images. "
    "That judgement is not made here. This report is evidence for it."
)

GLOSSARY: Final[Mapping[str, str]] = {
    "accountant": "What adds up the epsilon that is spent over rounds.",
    "accuracy": "Share of test images that the trained model classifies correctly. What the defence costs.",
    "attack": "Here: a program that tries to rebuild training images from what a client sent.",
    "batch": "The images that a client trained on when it made one update.",
    "canary": "An image that is nobody's, put into a replay of a client so that its leakage can be measured.",
    "clipping": "Making an update, or one image's part in it, no longer than a norm, so that noise can hide it.",
    "control": "The same attack on something else, for comparison. See null control and positive "
    "control.",
    "defence": "Whatever changes an update before others see it: noise, clipping, pruning.",
    "cosine and length ratio": "How far two updates point the same way, 1 at most, and how long one is beside the other.",
    "delta": "The small chance with which a differential-privacy promise may fail altogether.",
    "differential privacy": "A promise, with noise behind it, that nobody can tell much better than "
    "before whether one image (or one client) took part.",
    "DP-SGD": "Training in which each image's part is clipped and noise is added to every step.",
    "epsilon": "The strength of that promise. Smaller is stronger. Each round spends some more. "
    "Above ten or so it promises little.",
    "federated learning": "Clients train a model on their own data and send updates of the model, "
    "not the data.",
    "interval": "The range in which the true figure lies with the confidence stated. It comes from "
    "drawing batches of images again and again (bootstrap).",
    "lower bound": "The leakage is at least this much. It may be more.",
    "metric": "A number for how alike two pictures are.",
    "neighbour relation": "What a differential-privacy promise compares: data with and without one "
    "record (add or remove), or with one record exchanged (replace one). The second is stricter.",
    "net leakage": "The score of the attack minus that of the null control that scores best. Zero: "
    "no more than chance. It is signed so that higher always means more leakage.",
    "noise multiplier": "Standard deviation of the noise, in units of the clipping norm.",
    "null control": "The same attack, given nothing of the images: noise instead of the update, "
    "another client's update, or just a grey picture. It shows what chance gives.",
    "partition": "The number of a client's share of the data, as Flower hands it out.",
    "PLD and RDP": "Two ways to add up epsilon over rounds (privacy loss distribution, Renyi "
    "differential privacy). Both are upper bounds; PLD is the tighter one.",
    "positive control": "The same attack on an undefended copy of the same update. If it fails "
    "there, the attack is too weak for any verdict.",
    "record": "One update of one client in one round that was attacked.",
    "recognisable": JUDGES.removeprefix("Recognisable: "),
    "ReRo bound": "How often the strongest attacker can pick the right one of some candidates at most, by the noise alone "
    "(reconstruction robustness).",
    "reconstruction": "The picture that an attack made.",
    "round": "One turn of federated learning: clients train, the server averages.",
    "SemSim": "Distance of two pictures as a network sees it that was trained on judgements of what is recognisable: 0 is the "
    "same, 2 is nothing in common.",
    "setting": "One way to run the federation: its defence and how its clients train.",
    "update": "The change of the model's weights that a client sends back.",
}

MEANINGS: Final[Mapping[Word, tuple[str, str]]] = {
    "leaked": (
        (
            "On average the attack came closer to the private images than it does when it is given "
            "nothing to go by. Or more of the batches than chance gives came at least half as close "
            "as they do without any defence."
        ),
        (
            "It does not say that a person was recognised, nor how much harm is done. It does not say "
            "that other settings leak less."
        ),
    ),
    "inconclusive": (
        (
            "The records cannot tell: there are too few, the attack fails even without a defence, the controls or the "
            "metrics disagree, or the description does not fit the clients. Nothing may be concluded in either "
            "direction. The verdict says why, and what to do."
        ),
        "It does not mean that the setting is safe, or nearly so.",
    ),
    "withstood these attacks": (
        (
            "The very same attack succeeded on undefended copies of the same updates. Here it got no "
            "more than it gets from nothing, no single image came half as close as without defence, "
            "and no other metric says leaked. So the attack works, and the defence stopped it."
        ),
        (
            "It does not mean private, safe or anonymous. Other attacks, more effort or more rounds "
            "may succeed."
        ),
    ),
    "not tested": (
        "No attack ran: something was missing, and the report says what.",
        "It does not mean that there is no leak.",
    ),
}
"""Word -> what it means, and what it does not; the rules themselves are in `fl_privacy_audit.verdicts.rules`."""
