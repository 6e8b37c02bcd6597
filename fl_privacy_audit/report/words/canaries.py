"""Canaries: replays of the clients' app, and what they lack."""

from collections.abc import Mapping
from typing import Final

STEPS: Final[Mapping[str, str]] = {
    "only canaries are audited": 'audit the server view too: `views = ["server", "canary"]`',
    "no client app": "give the Auditor the clients' app: `client_app=`, and `run_config=`",
    "no canaries": "mend what it says, or leave `canary.folder` out for the photographs at hand",
    "too few canaries": (
        "more replays (`canary.replays`) or rounds, and, where a `canary.folder` is given, more pictures in it "
        "or fewer in a replay (`canary.images`)"
    ),
    "not replayed yet": "`fl-privacy-audit doctor` replays once, and so does the first round",
    "no time to replay": "give it more time: `seconds_per_round`",
    "no central clip": "wrap the strategy in one of Flower's central DP strategies, or leave `canary.clients` out",
    "too few replies for canary clients": "ask more clients in a round, or fewer `canary.clients`",
    "canaries not taken": (
        "load images in the app by `canary(context) or load_data(...)`, or by `canary_loaders`"
    ),
    "replay ended its worker": (
        "see how the clients' app ends or hangs in a process of its own: `doctor` replays it once"
    ),
    "replay failed": (
        "see that the clients' app runs beside the server: its files, its `run_config`, and its images by "
        "`canary(context) or ...`"
    ),
    "epsilon not measured": "see that the clients' app can be replayed: `fl-privacy-audit doctor` does it once",
}
"""Code -> what to do."""

REASONS: Final[Mapping[str, str]] = {
    "only canaries are audited": "only canaries are audited",
    "no client app": "no app of the clients to replay on canaries was given, or nothing was sent to them",
    "no canaries": "there are no canaries to replay on: {message}",
    "too few canaries": "replays give {batches} of different images, and a verdict needs {needed}",
    "not replayed yet": "nobody knows yet whether the clients' app can be replayed",
    "replayed": "the clients' app was replayed on {images} of them in {took} s",
    "no time to replay": (
        "no time was left for a replay: the last one took {needed} s, and replays get half of what is "
        "left of {budget} s a round"
    ),
    "no central clip": "no part of the strategy says to what length it clips updates",
    "too few replies for canary clients": "{replies} replies can be replaced, and {clients} are to be",
    "canaries not taken": (
        "the app did not ask for the canaries: whatever it trained on, it was not these"
    ),
    "replay ended its worker": "the replay of the clients' app ended the process that did it: {how}",
    "replay failed": "the clients' app could not be replayed: {type} {message}",
    "epsilon not measured": "epsilon was not measured in round {round}: {cause}",
}
"""Code -> its words."""
