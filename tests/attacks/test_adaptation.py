"""What attacks make of a known defence, against plain oracles."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.attacks.engine import adaptation
from fl_privacy_audit.attacks.engine.recipe import Distance
from fl_privacy_audit.attacks.parts import distances, noise
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.observe import observe, update_norm
from fl_privacy_audit.core.types import KnownDefence, Observation, Update
from fl_privacy_audit.defences import defend_weights, inform, make_applied_defence, make_defence
from fl_privacy_audit.metrics.pixel import psnr
from tests.support.builders import ONE_STEP, QUICK
from tests.support.cases import LeNet, image_config, photos, seeded, train_locally

RATE = 0.1


def drawn(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=rng).double() for n, s in {"a": (4, 3), "b": (5,)}.items()}


def flat(update: Update) -> Tensor:
    return torch.cat([t.flatten() for t in update.values()])


def attacked(name: str, **settings: float) -> tuple[Observation, Observation, Tensor]:
    """A client's defended update as a blind and as an informed attacker sees it, and the truth."""
    model, image = seeded(LeNet), photos(32, 1)
    sent, returned = train_locally(model, image, torch.tensor([3]), learning_rate=RATE)
    before, after = (
        {n: torch.from_numpy(a) for n, a in arrays.items()} for arrays in (sent, returned)
    )
    defence = make_applied_defence(name, settings)
    left = defend_weights(before, after, defence, rng=torch.Generator().manual_seed(0))
    blind = observe(
        model,
        sent,
        {n: t.numpy() for n, t in left.items()},
        image=image_config(),
        training=ONE_STEP.model_copy(update={"learning_rate": RATE}),
    )
    return blind, inform(blind, defence), image


@pytest.mark.parametrize("distance", [distances.cosine, distances.squared])
@given(seed=st.integers(0, 1000))
@QUICK
def test_the_masked_distance_is_the_plain_one_of_what_was_kept(
    distance: Distance, seed: int
) -> None:
    guess, whole = drawn(seed), drawn(seed + 1)
    rng = torch.Generator().manual_seed(seed)
    pruned = make_applied_defence("pruning", {"share": 0.5}).apply(whole, rng)
    kept = {n: pruned[n] != 0 for n in pruned}
    short = distance({n: guess[n][kept[n]] for n in kept}, {n: pruned[n][kept[n]] for n in kept})
    masked = adaptation.on_kept(distance)(guess, pruned)
    assert masked.item() == pytest.approx(short.item())
    assert adaptation.on_kept(distance)(whole, pruned).item() == pytest.approx(0, abs=1e-15)
    assert distance(whole, pruned).item() > 1e-3


@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3))
@QUICK
def test_at_equal_length_only_the_direction_counts(seed: int, factor: float) -> None:
    guess, seen = drawn(seed), drawn(seed + 1)
    stretched = {n: t * factor for n, t in guess.items()}
    found = adaptation.at_equal_length(distances.squared)(stretched, seen)
    one, other = flat(guess), flat(seen)
    assert found.item() == pytest.approx(
        (one / one.norm() * other.norm() - other).square().sum().item()
    )


def test_soft_signs_are_nearest_at_the_truth_where_the_plain_cosine_is_not() -> None:
    truth = drawn(1)
    signs = {n: t.sign() for n, t in truth.items()}
    assert distances.cosine(signs, signs) < distances.cosine(truth, signs)
    at_truth = adaptation.soft_signs(truth, signs).item()
    assert at_truth < distances.cosine(truth, signs).item() / 2
    wrong = {**truth, "b": -truth["b"]}
    assert adaptation.soft_signs(wrong, signs).item() > 2 * at_truth
    longer = {n: 100 * t for n, t in truth.items()}
    assert adaptation.soft_signs(longer, signs).item() == pytest.approx(at_truth)


def test_soft_signs_have_a_slope() -> None:
    signs = {n: t.sign() for n, t in drawn(1).items()}

    def of(a: Tensor, b: Tensor) -> Tensor:
        return adaptation.soft_signs({"a": a, "b": b}, signs)

    guess = [t.requires_grad_() for t in drawn(2).values()]
    assert torch.autograd.gradcheck(of, guess)


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (None, lambda g, o: distances.squared(g, o)),
        (KnownDefence(name="gaussian", noise_std=1.0), lambda g, o: distances.squared(g, o)),
        (
            KnownDefence(name="clipping", length_lost=True),
            lambda g, o: adaptation.at_equal_length(distances.squared)(g, o),
        ),
        (
            KnownDefence(name="pruning", zeros_hide=True),
            lambda g, o: adaptation.on_kept(distances.squared)(g, o),
        ),
        (
            KnownDefence(name="sign", signs_only=True, length_lost=True),
            lambda g, o: adaptation.soft_signs(g, o),
        ),
    ],
)
def test_the_distance_is_chosen_by_what_is_known(
    known: KnownDefence | None, wanted: Callable[[Update, Update], Tensor]
) -> None:
    guess = drawn(1)
    seen_update = make_applied_defence("pruning", {"share": 0.5}).apply(drawn(2), torch.Generator())
    blind, _, _ = attacked("none")
    chosen = adaptation.adapt(distances.squared, [blind, replace(blind, defence=known)])
    assert torch.equal(chosen(guess, seen_update), wanted(guess, seen_update))


def test_the_noise_floor_is_the_distance_that_added_noise_leaves() -> None:
    clean, _, _ = attacked("none")
    _, noisy, _ = attacked("gaussian", std=2e-2)
    assert clean.gradient is not None
    assert noisy.gradient is not None
    left = distances.cosine(clean.gradient, noisy.gradient).item()
    assert 0.05 < left < 0.95
    assert noise.floor(noisy) == pytest.approx(left, abs=0.03)
    _, laplace, _ = attacked("laplace", scale=2e-2 / 2**0.5)
    assert noise.floor(laplace) == pytest.approx(left, abs=0.05)
    several = replace(noisy, gradient=None)
    assert noise.floor(several) == pytest.approx(left, abs=0.03)
    _, drowned, _ = attacked("gaussian", std=10.0)
    assert noise.floor(drowned) == pytest.approx(1.0, abs=0.05)


def test_the_signal_under_noise_is_no_longer_than_the_clipping_norm() -> None:
    clean, _, _ = attacked("none")
    norm = update_norm(clean.update)
    std = norm / 100 / len(flat(clean.update)) ** 0.5
    _, noisy, _ = attacked("gaussian", std=std, clip_norm=norm / 100)
    assert noise.floor(noisy) == pytest.approx(1 - 0.5**0.5, abs=0.03)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_noise_to_signal_is_the_ratio_of_the_energies(ratio: float) -> None:
    clean, _, _ = attacked("none")
    std = update_norm(clean.update) * (ratio / len(flat(clean.update))) ** 0.5
    _, noisy, _ = attacked("gaussian", std=std)
    assert noise.to_signal(clean) == 0
    assert noise.to_signal(noisy) == pytest.approx(ratio, rel=0.1)


def test_coarse_rounding_counts_as_noise_and_fine_rounding_hardly() -> None:
    _, fine, _ = attacked("quantisation", bits=8)
    _, coarse, _ = attacked("quantisation", bits=2)
    assert 0 < noise.floor(fine) < 1e-3
    assert noise.floor(coarse) > 0.05


def test_weight_decay_does_not_hide_what_was_pruned() -> None:
    blind, _, _ = attacked("pruning", share=0.9)
    assert blind.gradient is not None
    decayed = replace(blind, gradient={n: g - 0.01 for n, g in blind.gradient.items()})
    told = inform(decayed, make_defence("pruning", {"share": 0.9}))
    assert told.gradient is not None
    for name, tensor in told.gradient.items():
        assert torch.equal(tensor == 0, blind.update[name] == 0)


def test_the_needs_say_that_the_defence_took_the_length() -> None:
    from fl_privacy_audit.attacks import ATTACKS

    blind, told, _ = attacked("sign")
    ATTACKS["dlg"].needs.check(blind)
    with pytest.raises(UnmetNeedError, match="the defence 'sign' took away"):
        ATTACKS["dlg"].needs.check(told)


@pytest.mark.parametrize(
    ("name", "settings", "gain"),
    [("pruning", {"share": 0.99}, 2.0), ("sign", {}, 0.5)],
)
@pytest.mark.slow
def test_adapting_rebuilds_more(name: str, settings: dict[str, float], gain: float) -> None:
    blind, told, truth = attacked(name, **settings)
    attack = make_attack("swept_inversion")
    found = []
    for seen in (blind, told):
        made = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))
        found.append(float(psnr(made.images, truth)))
    assert found[1] > found[0] + gain, found
