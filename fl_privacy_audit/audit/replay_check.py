"""Does the description fit the clients? The true batch, trained as told, beside the real update.

The positive control is made with the assumed training, so it leaks even where the real update is
misread: an attack that fails then says nothing of a defence. Wherever the true batch is known, this
check trains on it as described, puts it through what is known of the defence, and compares.

What the client draws by chance (the order of its batches, dropout, noise) is not known. How far it
moves an update is simulated, and the bounds of the check are as wide as that, and as the rounding of
the weights. Where they are so wide that another training would fit as well, nobody can tell.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch.nn.modules.batchnorm import _BatchNorm

from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.core.errors import TimeUpError
from fl_privacy_audit.core.local_training import Chance
from fl_privacy_audit.core.models import copy_model, is_dropout
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import LocalTraining, Mode, Observation, Truth, Update
from fl_privacy_audit.ledger.records import ReplayCheck

from .controls import assumed_training
from .described import Apply, Described, Part

DRAWS, FEWEST_DRAWS = 24, 6
DRAWN_BYTES = 1_000_000_000
"""Simulated clients from which the spread of chance is estimated: as many as there is time for, and room
for their updates."""
FALSE_ALARM = 1e-4
"""Chance that a client that is described rightly falls outside: the bounds are the prediction interval
of one more draw from the same normal distribution, by Student's t."""
COSINE_TOLERANCE, RATIO_TOLERANCE = 1e-5, 2e-3
"""For the order of floating-point sums, over up to `STEPS_TOLERATED` steps."""
STEPS_TOLERATED = 20
APART, MOST_OFF = math.sqrt(0.5), 2.0
"""A check tells something if it finds out updates whose mean is so far, by cosine, from that of the
described ones, or which are so many times as long or as short."""
ALIKE = 0.999
LENGTH_ALIKE = 0.02
"""A cosine from which on two updates point the same way, and how far their lengths may be apart to be
the same, whatever chance could have done."""
MOST_STEPS_TRIED = 64


@dataclass(frozen=True)
class _Likeness:
    cosine: float
    ratio: float


@dataclass(frozen=True)
class _Bounds:
    """Within these the description fits; a cosine may be too high where a defence is declared."""

    cosine: tuple[float, float]
    ratio: tuple[float, float]

    def hold(self, likeness: _Likeness, *, length: bool) -> bool:
        (least, most), (low, high) = self.cosine, self.ratio
        return least <= likeness.cosine <= most and (not length or low <= likeness.ratio <= high)

    def widened(self, aside: float, off: float) -> "_Bounds":
        """By so much at least."""
        (least, most), (low, high) = self.cosine, self.ratio
        return _Bounds((min(least, 1 - aside), most), (min(low, 1 - off), max(high, 1 + off)))

    def tell(self, usual: _Likeness, *, length: bool) -> bool:
        """Whether an update that is less like it, or much longer or shorter, lies outside.

        Of what is usual for a client as described, one with another mean has as much less of the
        cosine as the means are apart.
        """
        (least, _), (low, high) = self.cosine, self.ratio
        apart = least > APART * usual.cosine
        return apart and (
            not length or usual.ratio / MOST_OFF < low <= high < usual.ratio * MOST_OFF
        )


def check_replay(
    seen: Observation,
    truth: Truth,
    *,
    seed: int,
    apply: Apply | None = None,
    clients: Sequence[Part] = (),
    deadline: float = math.inf,
) -> ReplayCheck:
    """Compare the observed update with a replay of the true batch.

    Args:
        seen: What was observed, and what is assumed of the training and known of the defence.
        truth: The batch, N at least 1.
        seed: Seed for what is drawn by chance.
        apply: The declared defence, where this package can apply it; else it is imitated from what
            is known of it.
        clients: Those of a release whose updates are defended one by one; none to take them as one.
        deadline: Until when, by `clock.now`. With less time fewer clients are simulated, which
            widens the bounds, and fewer explanations tried.

    Returns:
        Cosine and ratio of lengths (observed over replayed), whether they fit, and a hint if not.

    Raises:
        TimeUpError: There is no time for the least that it takes.
    """
    told = assumed_training(seen)
    client = Described(
        seen=seen,
        truth=truth,
        training=told,
        apply=apply,
        seed=seed,
        deadline=deadline,
        clients=clients,
    )
    with own_random_numbers(seed, [seen.device]):
        return _check(client)


def _check(client: Described) -> ReplayCheck:
    seen = client.seen
    updates = client.updates()
    plain, defended = client.mean(updates), client.defended(updates, 0)
    # A defence that draws nothing is compared number by number, noise by how far it moves things.
    again = client.defended(updates, 1)
    noise = not all(torch.equal(defended[name], again[name]) for name in plain)
    expected = plain if noise else defended
    as_told = likeness = _compare(seen.update, expected)
    length = client.knows_length()
    bounds = _rounding(seen, client.training)
    chance = _chance(client)
    alike = as_told.cosine >= ALIKE and abs(as_told.ratio - 1) < LENGTH_ALIKE
    noisy, tells = noise or chance.noise, True
    found = not math.isnan(
        as_told.cosine
    )  # else what was replayed is no update, whatever chance does
    if found and (noisy or (chance and not alike and not bounds.hold(likeness, length=length))):
        likeness, bounds, usual = _among_draws(client, chance, bounds, noise=noise)
        tells = noisy or bounds.tell(usual, length=length)
    elif chance and alike:
        bounds = bounds.widened(1 - ALIKE, LENGTH_ALIKE)
    fits: bool | None = bounds.hold(likeness, length=length)
    hint = None if fits else _hint_in_time(client, expected, as_told)
    if fits and not tells:
        fits, hint = None, Reason.of("chance hides the fit")
    return ReplayCheck(
        cosine=likeness.cosine,
        length_ratio=likeness.ratio if length else None,
        cosine_range=bounds.cosine,
        length_range=bounds.ratio if length else None,
        fits=fits,
        hint=hint,
    )


def _compare(observed: Update, replayed: Update) -> _Likeness:
    dot = sum(float((observed[n].double() * replayed[n].double()).sum()) for n in observed)
    seen, expected = update_norm(observed), update_norm({name: replayed[name] for name in observed})
    if not seen or not expected:
        return _Likeness(0.0, math.inf)
    return _Likeness(dot / (seen * expected), seen / expected)


def _rounding(seen: Observation, training: LocalTraining) -> _Bounds:
    """Bounds for an exact replay: weights are rounded after each step, sums depend on their order."""
    steps = training.steps or 1
    unit = torch.finfo(seen.dtype).eps / 2
    lost = unit * update_norm(seen.parameters) * math.sqrt(steps + 1)
    rounding = max(lost, seen.rounding) / max(update_norm(seen.update), 1e-30)
    many = max(1.0, steps / STEPS_TOLERATED)
    off = RATIO_TOLERANCE * many + 3 * rounding
    least = 1 - COSINE_TOLERANCE * many - 4 * rounding**2
    return _Bounds((least, 1 + 1e-6), (1 - off, 1 + off))


@dataclass(frozen=True)
class _Drawn:
    """What a client draws by chance, and nobody knows."""

    order: bool
    dropout: bool
    noise: bool  # in each step

    def __bool__(self) -> bool:
        return self.order or self.dropout or self.noise


def _chance(client: Described) -> _Drawn:
    training, model = client.training, client.seen.model
    return _Drawn(
        order=(training.steps or 1) > 1 and training.batch_size < len(client.truth.images),
        dropout=model.training and any(is_dropout(module) for module in model.modules()),
        noise=bool(training.noise_multiplier),
    )


def _among_draws(
    client: Described, chance: _Drawn, exact: _Bounds, *, noise: bool
) -> tuple[_Likeness, _Bounds, _Likeness]:
    """The update beside the mean of simulated clients, its bounds, and what is usual.

    If the client is as described it is one more of them, so its bounds are where each of them lies
    beside the mean of the others. Beside a mean they scatter less than beside one of them.
    """
    draws: list[tuple[Update, Update]] = []
    size = sum(tensor.nbytes for tensor in client.seen.update.values())
    for number in range(min(DRAWS, max(FEWEST_DRAWS, DRAWN_BYTES // size))):
        try:
            updates = client.updates(_drawing(client, chance, number))
        except TimeUpError:
            if number < FEWEST_DRAWS:
                raise
            break
        drawn, defended = client.mean(updates), client.defended(updates, number)
        draws.append((defended, drawn if noise else defended))
    total = {
        name: torch.stack([drawn[name] for _, drawn in draws]).sum(0) for name in client.seen.update
    }
    others = len(draws) - 1
    each = [
        _compare(defended, {name: (total[name] - drawn[name]) / others for name in total})
        for defended, drawn in draws
    ]
    # Of as many as each of them: a mean of more noise is shorter.
    mean = {name: (tensor - draws[-1][1][name]) / others for name, tensor in total.items()}
    cosines, ratios = torch.tensor([(d.cosine, d.ratio) for d in each], dtype=torch.float64).T
    factor = float(stats.t.isf(FALSE_ALARM / 2, others)) * math.sqrt(1 + 1 / len(draws))
    aside, away = factor * float(cosines.std()), factor * float(ratios.std())
    slack, off = 1 - exact.cosine[0], 1 - exact.ratio[0]
    usual = _Likeness(float(cosines.mean()), float(ratios.mean()))
    # Noise that is declared must be there; an order, or a mask, may happen to change little.
    most = usual.cosine + aside + slack if noise or chance.noise else exact.cosine[1]
    around = (usual.ratio - away - off, usual.ratio + away + off)
    bounds = _Bounds((usual.cosine - aside - slack, most), around)
    return _compare(client.seen.update, mean), bounds, usual


def _drawing(client: Described, chance: _Drawn, number: int) -> Chance:
    """The chance of one simulated client."""
    rng = torch.Generator().manual_seed(client.seed + number)
    torch.manual_seed(client.seed + number)

    def order(epoch: int, count: int) -> Sequence[int]:
        del epoch
        return [*map(int, torch.randperm(count, generator=rng))]

    return Chance(
        order=order if chance.order else None, dropout=chance.dropout, noise=chance.noise, rng=rng
    )


def _hint_in_time(client: Described, expected: Update, likeness: _Likeness) -> Reason:
    try:
        return _hint(client, expected, likeness)
    except TimeUpError:
        return Reason.of("no time to explain", cosine=likeness.cosine)


def _hint(client: Described, expected: Update, likeness: _Likeness) -> Reason:
    """What would explain the difference, most certain first."""
    client = replace(client, clients=())
    seen, truth, told = client.seen, client.truth, client.training
    if likeness.cosine >= ALIKE and abs(likeness.ratio - 1) > RATIO_TOLERANCE:
        rate = (told.learning_rate or 0.0) * likeness.ratio
        return Reason.of("scale differs", ratio=likeness.ratio, rate=rate)
    for name, value, training in _alternatives(told, likeness.ratio, len(truth.images)):
        other = replace(client, seen=_in_mode(seen, training.mode), training=training)
        found = _compare(seen.update, other.defended(other.updates(), 0))
        if found.cosine >= max(ALIKE, likeness.cosine) and 0.98 <= found.ratio <= 1.02:
            return Reason.of("fits with", option=name, value=value, cosine=found.cosine)
    inputs = truth.images.to(device=seen.device, dtype=seen.dtype)
    for code, images in (
        ("inputs not normalised", seen.image.denormalise(inputs)),
        ("pixels published as normalised", seen.image.normalise(inputs)),
    ):
        other = replace(client, truth=Truth(images=images, labels=truth.labels))
        found = _compare(seen.update, other.defended(other.updates(), 0))
        if found.cosine >= ALIKE:
            return Reason.of(code, cosine=found.cosine)
    odd = _odd_tensors(seen.update, expected)
    if odd:
        return Reason.of("tensors differ", tensors=", ".join(odd[:3]), count=len(odd))
    if _sign_like(seen.update):
        return Reason.of("sign-like update", cosine=likeness.cosine)
    return Reason.of("another batch or training", cosine=likeness.cosine)


def _in_mode(seen: Observation, mode: Mode) -> Observation:
    """The observation with a model in another mode; as it is where the mode fits already."""
    if mode == "unknown" or seen.model.training == (mode == "train"):
        return seen
    model = copy_model(seen.model).train(mode == "train")
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.track_running_stats = True
    return replace(seen, model=model)


def _alternatives(
    told: LocalTraining, ratio: float, images: int
) -> Iterator[tuple[str, Figure, LocalTraining]]:
    """Trainings that clients often really do, one option away from what was told."""
    changes: list[tuple[str, Figure, dict[str, object]]] = []
    other = "train" if told.mode == "eval" else "eval"
    changes.append(("mode", other, {"mode": other}))
    plain = {"momentum": 0.0, "nesterov": False}
    changes += [("optimizer", name, {"optimizer": name, **plain}) for name in ("adam", "adamw")]
    if told.optimizer != "sgd":
        changes.append(("optimizer", "sgd", {"optimizer": "sgd"}))
    changes += [("momentum", value, {"momentum": value}) for value in (0.9, 0.5, 0.0)]
    changes += [
        ("weight_decay", value, {"weight_decay": value})
        for value in (1e-4, 5e-4, 1e-3, 1e-2, 0.1, 0.0)
    ]
    changes += [("label_smoothing", value, {"label_smoothing": value}) for value in (0.1, 0.2, 0.0)]
    changes += [("proximal_mu", value, {"proximal_mu": value}) for value in (0.01, 0.1, 1.0)]
    told_steps = told.steps or 1
    near = {round(told_steps * ratio), -(-images // told.batch_size), *range(1, 6)}
    for steps in sorted(near):
        if 1 <= steps <= MOST_STEPS_TRIED and steps != told_steps:
            changes.append(("steps", steps, {"steps": steps}))
    for name, value, change in changes:
        if any(getattr(told, key) != new for key, new in change.items()):
            yield name, value, told.model_copy(update=change)


def _odd_tensors(observed: Update, replayed: Update) -> list[str]:
    """The few tensors without which the rest would fit; none where that does not explain it."""
    apart = {
        name: float((observed[name] - replayed[name]).double().square().sum()) for name in observed
    }
    odd = sorted(apart, key=lambda name: apart[name], reverse=True)
    for count in range(1, len(odd) // 2 + 1):
        rest = {name: observed[name] for name in odd[count:]}
        if _compare(rest, replayed).cosine >= ALIKE:
            return odd[:count]
    return []


def _sign_like(update: Update) -> bool:
    """Whether nearly all numbers have the same size, as after the first step of Adam."""
    sizes = torch.cat([tensor.detach().abs().flatten() for tensor in update.values()])
    moved = sizes[sizes > 0]
    return (
        bool(len(moved)) and float((moved / moved.median() - 1).abs().lt(0.05).float().mean()) > 0.8
    )
