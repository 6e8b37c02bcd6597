"""What a client's guard saw in the model that it was sent."""

from collections.abc import Mapping
from typing import Final

ASK: Final = (
    "ask whoever runs the server what was sent and why, and do not train on it until that is known"
)

STEPS: Final[Mapping[str, str]] = {
    "bias ladder": ASK,
    "bias quantiles": ASK,
    "silent rows": ASK,
    "sparse jump": ASK,
    "other arrays": ASK,
    "implausible loss": ASK,
}
"""Code -> what to do."""

REASONS: Final[Mapping[str, str]] = {
    "bias ladder": (
        "the rows of `{layer}` measure the same against rising biases ({share} of {rows}), as an imprint "
        "layer's do"
    ),
    "bias quantiles": (
        "the biases of `{layer}` keep nearly every image out ({share} of {rows} are {ratio} times their row's "
        "length or so), as quantile biases do"
    ),
    "silent rows": (
        "{silent} of the {rows} rows of `{layer}` are zero and the others are not, as in class fishing"
    ),
    "sparse jump": (
        "`{layer}` changed by {change} of its length since the last round, where {usual} is usual"
    ),
    "other arrays": "other arrays were sent than in the last round: {now} in place of {before}",
    "implausible loss": (
        "training began at a loss of about {loss}, where {usual} is usual, with scores of classes set {apart} apart"
    ),
}
"""Code -> its words."""
