"""Faults of plug-ins in a federation: training goes on to the bit, and others' records are complete."""

import contextlib
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from fl_privacy_audit import Auditor, Client, Truth, read_ledger
from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.core.process_state import SETTINGS, process_state_kept
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.builders import audit_config, make_truth, tiny_net, trained
from tests.support.grid import FIRST_NODE, InProcessGrid

from .fault_kinds import COERCED, KINDS, RELEASE, Fault, Healthy
from .tally import Tally

CLIENTS, ROUNDS = 2, 2
WHERE: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("model", "forward", "loss"),
    ("observe", "reconstruct_each", "_controls", "check_replay", "_needed"),
)
"""In which function of the audit a plug-in that is called in several places goes wrong."""
FIRST_CALLS = {"attack": 12, "metric": 4, "truth": 4, "sink": 5, "progress": 12}
PROMISES = (
    "trainings stopped",
    "trainings changed",
    "records of others missing",
    "outcomes of others changed",
    "faults that nobody can see",
)
RANDOM = tuple(name for name in SETTINGS if name.startswith("random numbers"))
Outcomes = dict[tuple[int, str, str], str]
"""(round, client, attack, or "replay") -> what the record says, without times."""


@dataclass
class Trigger:
    """Where and when a plug-in goes wrong: at one of its calls, or from there on at all of them."""

    place: str
    fault: Fault
    call: int = 0
    again: bool = False
    where: str | None = None
    image: Tensor | None = None
    calls: int = 0
    fired: int = 0

    def __deepcopy__(self, memo: object) -> "Trigger":
        return self

    def __call__(self, place: str, healthy: Healthy, originals: Tensor | None = None) -> Any:
        if place != self.place or not self._is_here(originals):
            return healthy()
        self.calls += 1
        if self.calls <= self.call or (self.fired and not self.again):
            return healthy()
        self.fired += 1
        return self.fault(healthy)

    def _is_here(self, originals: Tensor | None) -> bool:
        if self.image is not None and originals is not None:
            return any(torch.equal(one, self.image) for one in originals)
        return self.where is None or self.where in _callers(sys._getframe())


def _callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


HEALTHY = Trigger(place="nowhere", fault=lambda healthy: healthy())


@dataclass
class Grey:
    """An attack that answers grey, a little lighter for each client."""

    name: str
    trigger: Trigger = field(default_factory=lambda: HEALTHY)

    def reconstruct(self, seen: Observation, **given: Any) -> Reconstruction:
        def healthy() -> Reconstruction:
            given["progress"](1, 1)
            level = float(next(iter(seen.update.values())).double().norm()) % 1
            images = torch.full((seen.num_images, *seen.image.shape), level, dtype=torch.float32)
            return Reconstruction(
                images=images, labels=None, objective=level, steps=1, stopped="finished"
            )

        result: Reconstruction = self.trigger(self.name, healthy)
        return result


@dataclass(frozen=True)
class Collector:
    trigger: Trigger

    def write(self, record: Any) -> None:
        self.trigger("sink", lambda: None)


class Net(nn.Sequential):
    trigger = HEALTHY

    def forward(self, inputs: Tensor) -> Tensor:
        whole: Any = super().forward
        scores: Tensor = self.trigger("model", lambda: whole(inputs))
        return scores


def net(trigger: Trigger) -> Net:
    model = Net(*tiny_net())
    model.trigger = trigger
    return model


def image_of(client: Client) -> Truth:
    return make_truth(seed=client.node_id)


def auditor(trigger: Trigger, directory: Path, **settings: Any) -> Auditor:
    def loss(scores: Tensor, labels: Tensor) -> Any:
        return trigger("loss", lambda: nn.functional.cross_entropy(scores, labels))

    def forward(model: nn.Module, inputs: Tensor) -> Any:
        return trigger("forward", lambda: model(inputs))

    called = trigger.place in ("model", "forward", "loss")
    searching: Any = make_attack("inverting_gradients", {"steps": 2})
    config = audit_config(
        directory,
        clients_per_round=None,
        controls=["noise", "undefended"],
        metrics=["psnr", "mse"],
        seconds_per_round=6000,
        **settings,
    )
    return Auditor(
        config,
        model=net(trigger),
        forward=forward if trigger.place == "forward" else None,
        loss=loss if trigger.place == "loss" else None,
        attacks=[Grey("attack", trigger), searching if called else Grey("other attack")],
        truth=lambda _, client: trigger("truth", lambda: image_of(client)),
        on_progress=lambda at: trigger("progress", lambda: None),
        sinks=[Collector(trigger)],
    )


def client_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        """Trains with noise from every global source, in the process of the audit."""
        model = tiny_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        after = trained(model, image_of(Client(message.metadata.dst_node_id)))
        noise = random.random() + float(np.random.rand()) + float(torch.rand(1))
        with torch.no_grad():
            for parameter in after.parameters():
                parameter.add_(1e-6 * noise)
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": ArrayRecord(after.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def train(strategy: Any) -> dict[str, Any]:
    """What is left of a training: the weights, the state of the generators, the settings."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    settings = _settings()
    result = strategy.start(
        grid=InProcessGrid(client_app(), CLIENTS),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=ROUNDS,
    )
    weights = {name: array.numpy().tobytes() for name, array in result.arrays.items()}
    changed = [name for name, value in _settings().items() if value != settings[name]]
    generators = {name: repr(SETTINGS[name][0]()) for name in RANDOM}
    return {**weights, **generators, "settings changed": changed}


def _settings() -> dict[str, Any]:
    return {name: read() for name, (read, _) in SETTINGS.items() if name not in RANDOM}


def strategy() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)


@cache
def unaudited() -> dict[str, Any]:
    train(strategy())  # what a first run sets up in the process is no part of any trial
    return train(strategy())


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one audited training."""

    training: dict[str, Any] | BaseException
    outcomes: Outcomes
    log: list[str]


class _Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def audited(trigger: Trigger, **settings: Any) -> Trial:
    """A training under an audit whose plug-ins go wrong as the trigger says."""
    unaudited()
    log, collected = logging.getLogger("fl_privacy_audit"), _Collected()

    def psnr(guesses: Tensor, originals: Tensor) -> Any:
        return trigger("metric", lambda: real.function(guesses, originals), originals)

    real = METRICS["psnr"]
    metrics = {"psnr": replace(real, function=psnr)}
    RELEASE.clear()
    log.addHandler(collected)
    training: dict[str, Any] | BaseException
    with tempfile.TemporaryDirectory() as folder, process_state_kept():
        directory = Path(folder)
        try:
            with mock.patch.dict(METRICS, metrics):
                audit = AuditedStrategy(strategy(), auditor=auditor(trigger, directory, **settings))
                training = train(audit)
        except BaseException as error:  # noqa: BLE001 - `SystemExit` is what this looks for
            training = error
        finally:
            log.removeHandler(collected)
            RELEASE.set()
        return Trial(training=training, outcomes=_outcomes(directory), log=collected.messages)


def _outcomes(directory: Path) -> Outcomes:
    outcomes: Outcomes = {}
    with contextlib.suppress(OSError):
        for record in read_ledger(directory).audits:
            at = (record.round, record.client)
            outcomes |= {(*at, one.attack): _told(one) for one in record.attacks}
            outcomes[(*at, "replay")] = _replay(record)
    return outcomes


def _told(outcome: Any) -> str:
    scores = {
        name: [f"{value:.2f}" for value in each.each] for name, each in outcome.scores.items()
    }
    controls = [_told(control) for control in getattr(outcome, "controls", ())]
    missing = sorted(getattr(outcome, "unavailable", ()))
    return repr((outcome.status, outcome.reason, scores, missing, controls))


def _replay(record: AuditRecord) -> str:
    return repr((record.reason, record.no_replay, record.replay and record.replay.fits))


@cache
def sound(place: str) -> Trial:
    """The same audit with sound plug-ins."""
    return audited(Trigger(place=place, fault=lambda healthy: healthy(), call=10**9))


def broken_promises(trigger: Trigger, trial: Trial) -> Iterator[str]:
    """Which promises a trial broke."""
    if isinstance(trial.training, BaseException):
        yield f"trainings stopped ({type(trial.training).__name__})"
        return
    if trial.training != unaudited():
        changed = [name for name, kept in unaudited().items() if trial.training[name] != kept]
        yield f"trainings changed ({changed}, {trial.training['settings changed']})"
    expected = sound(trigger.place).outcomes
    if missing := expected.keys() - trial.outcomes.keys():
        yield f"records of others missing ({sorted(missing)})"
    differ = {at for at, told in expected.items() if trial.outcomes.get(at, told) != told}
    if not _are_its_own(trigger, differ):
        yield f"outcomes of others changed ({sorted(differ)})"
    known = set(sound(trigger.place).log)
    if not differ and not set(trial.log) - known and trigger.fired:
        yield "faults that nobody can see ()"


def _are_its_own(trigger: Trigger, differ: set[tuple[int, str, str]]) -> bool:
    """Whether what differs is what the fault may cost."""
    if trigger.place in ("sink", "progress"):
        return not differ
    if trigger.place == "attack":
        if any(attack != "attack" for _, _, attack in differ):
            return False
        return trigger.again or len(differ) <= 1
    if trigger.place == "metric" and trigger.image is not None:
        return len({client for _, client, _ in differ}) <= 1
    # Of a client that cannot be observed, or has no truth, it is the whole record.
    return trigger.again or len({(round_, client) for round_, client, _ in differ}) <= 1


def may_be_silent(trigger: Trigger, kind: str) -> bool:
    """Whether nothing went wrong: it is taken as what it means, or nobody uses it."""
    place = trigger.place
    # There it is tried on labels of either kind, and may refuse one of them.
    tried = place == "loss" and trigger.where == "observe"
    unused = place in ("sink", "progress") and kind.startswith("returns")
    drawn = place in ("model", "forward", "loss") and kind.startswith("leaves: torch.")
    # There torch's own `no_grad` puts it back.
    put_back = trigger.where == "observe" and kind == "leaves: grad mode"
    return tried or unused or drawn or put_back or kind.removeprefix("returns: ") in COERCED


def drawn_trigger(place: str, kind: str, rng: random.Random) -> Trigger:
    """A fault at some call of a plug-in, once or from then on."""
    where = rng.choice(WHERE[place]) if place in WHERE else None
    of_one_target = place == "metric" and rng.random() < 0.5
    return Trigger(
        place=place,
        fault=KINDS[place][kind],
        call=0 if of_one_target else rng.randrange(FIRST_CALLS.get(place, 2)),
        again=of_one_target or rng.random() < 0.5,
        where=where,
        image=image_of(Client(FIRST_NODE)).images[0] if of_one_target else None,
    )


def run(count: int, seed: int) -> Tally:
    """So many faults, drawn from all places and kinds; each once before any comes twice.

    Args:
        count: Trials.
        seed: Of what is drawn.
    """
    rng = random.Random(seed)
    tally = Tally(
        promise="faults of plug-ins", trials=Counter(), broken={name: [] for name in PROMISES}
    )
    pairs = [(place, kind) for place, kinds in KINDS.items() for kind in kinds]
    drawn: list[tuple[str, str]] = []
    while len(drawn) < count:
        drawn += rng.sample(pairs, len(pairs))
    for place, kind in drawn[:count]:
        sound(place)  # what its first run imports is no part of any trial
        trigger = drawn_trigger(place, kind, rng)
        trial = audited(trigger)
        tally.trials[f"{place} {kind}"] += 1
        for broken in broken_promises(trigger, trial):
            name = broken.partition(" (")[0]
            if name == PROMISES[-1] and may_be_silent(trigger, kind):
                continue
            call = f"{trigger.where or 'call'} {trigger.call}{' on' * trigger.again}"
            tally.broken[name].append(f"{place} {kind} at {call}: {broken}")
    return tally
