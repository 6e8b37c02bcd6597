from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fl_privacy_audit import AttackConfig, AuditConfig, ImageConfig, TrainingConfig
from fl_privacy_audit.core.errors import ConfigError

RGB = {"shape": [3, 8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"views": []}, r'`views` must name "server", "release" or "canary"'),
    ({"evry": 2}, r"`evry` is not a setting of this audit; check its spelling$"),
    ({"training": {"momentun": 0}}, r"`training\.momentun` is not a setting of this audit"),
    ({"image": {**RGB, "sdt": 1}}, r"`image\.sdt` is not a setting of this audit"),
    (
        {"attacks": [{"name": "dlg", "steps": 3}]},
        r"`attacks\.0\.steps` is not a setting of this audit",
    ),
    (
        {"image": {"shape": [3, 8, 8]}},
        r"`image\.mean` is missing; there is no safe default\n  `image\.std` is missing; there is",
    ),
    (
        {"image": {**RGB, "mean": [0.5]}},
        r"`image` `mean` must have one number for each of the 3 channels in `shape`, but got \[0.5",
    ),
    (
        {"image": {**RGB, "std": [1, 1, 1, 1]}},
        r"`std` must have one number for each of the 3 channels in `shape`, but got \[1.0, 1.0, 1",
    ),
    ({"image": {**RGB, "std": [0.2, 0, 0.2]}}, r"`std` must be positive, but got \[0.2, 0.0, 0.2"),
    ({"image": {**RGB, "std": [0.2, -1, 1]}}, r"`std` must be positive, but got \[0.2, -1.0, 1"),
    (
        {"image": {**RGB, "shape": [3, 0, 8]}},
        r"`shape` must be \[C, H, W\] of positive numbers, but got \(3, 0, 8\)",
    ),
    (
        {"training": {"noise_multiplier": 1.0}},
        r"`training` `noise_multiplier` needs `max_grad_norm`: the noise is in its units",
    ),
    ({"training": {"noise_multiplier": 0.0}}, r"`noise_multiplier` needs `max_grad_norm`: the noi"),
    ({"attacks": []}, r"`attacks` must name at least one attack; see `fl-privacy-audit attacks`"),
    (
        {"training": {"optimizer": "rmsprop"}},
        r"`training\.optimizer` .*'sgd', 'adam', 'adamw' or 'unknown', got 'rmsprop",
    ),
    ({"training": {"mode": "test"}}, r"`training\.mode` .*'train', 'eval' or 'unknown', got 'test"),
    ({"training": {"learning_rate": 0}}, r"`training\.learning_rate` .*greater than 0, got 0"),
    ({"training": {"steps": 0}}, r"`training\.steps` .*greater than or equal to 1, got 0"),
    ({"training": {"batch_size": 0}}, r"`training\.batch_size` .*or equal to 1, got 0"),
    ({"training": {"images": 0}}, r"`training\.images` .*greater than or equal to 1, got 0"),
    ({"training": {"momentum": 1}}, r"`training\.momentum` .*less than 1, got 1"),
    ({"training": {"weight_decay": -1}}, r"`training\.weight_decay` .*or equal to 0, got -1"),
    ({"every": 0}, r"`every` .*greater than or equal to 1, got 0"),
    ({"clients_per_round": 0}, r"`clients_per_round` .*greater than or equal to 1, got 0"),
    ({"seconds_per_round": 0}, r"`seconds_per_round` .*greater than 0, got 0"),
    ({"threads": 0}, r"`threads` .*greater than or equal to 1, got 0"),
    ({"seed": -1}, r"`seed` .*greater than or equal to 0, got -1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_setting_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"the audit settings are wrong:\n(.|\n)*{message}"):
        AuditConfig.build({"image": RGB, **change})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "change",
    [
        {"image": {**RGB, "mean": [NAN, 0, 0]}},
        {"image": {**RGB, "std": [NAN, 1, 1]}},
        {"image": {**RGB, "std": [INF, 1, 1]}},
        {"training": {"learning_rate": INF}},
    ],
)
def test_a_number_that_is_not_finite_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"`(image|training)"):
        AuditConfig.build({"image": RGB, **change})


def test_a_missing_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wrong:\n  `image` is missing; there is no safe defau"):
        AuditConfig.build({})


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        AuditConfig.build({"image": RGB, "evry": 1, "threads": 0, "training": {"steps": 0}})
    assert len(str(caught.value).splitlines()) == 4


def test_python_refuses_unknown_keys_too() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        AuditConfig(image=ImageConfig.model_validate(RGB), evry=2)  # type: ignore[call-arg]


def test_settings_are_frozen() -> None:
    config = AuditConfig.build({"image": RGB})
    with pytest.raises(ValidationError, match="frozen"):
        config.every = 2


@pytest.mark.parametrize(
    ("short", "names"),
    [
        ("dlg", ["dlg"]),
        ("dlg, idlg", ["dlg", "idlg"]),
        (["dlg", "idlg"], ["dlg", "idlg"]),
        (("idlg",), ["idlg"]),
        ([{"name": "dlg"}, "idlg"], ["dlg", "idlg"]),
    ],
)
def test_short_forms_of_attacks(short: object, names: list[str]) -> None:
    settings = {"image": RGB, "attacks": short}
    config = AuditConfig.build(settings)
    assert config.attacks == tuple(AttackConfig(name=name) for name in names)
    assert settings["attacks"] is short


def test_default_attack() -> None:
    config = AuditConfig.build({"image": RGB})
    assert config.attacks == (AttackConfig(name="auto"),)


def test_pixels_and_model_inputs() -> None:
    image = ImageConfig.model_validate(RGB)
    assert (image.shape, image.mean, image.std) == ((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    inputs = image.normalise(torch.ones(1, 3, 2, 2))
    assert torch.allclose(inputs[0, :, 0, 0], torch.tensor([2.5, 3.0, 3.5]))
    assert torch.allclose(image.denormalise(inputs), torch.ones(1, 3, 2, 2))


def test_a_changed_copy_is_checked_again() -> None:
    training = TrainingConfig(learning_rate=0.1, steps=2)
    assert training.replace(steps=None) == TrainingConfig(learning_rate=0.1)
    assert training.steps == 2
    with pytest.raises(ValueError, match="`noise_multiplier` needs `max_grad_norm`"):
        training.replace(noise_multiplier=1.0)
    with pytest.raises(ValueError, match=r"learning_rat\n.*not permitted"):
        training.replace(learning_rat=0.1)


def test_an_attack_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="`attacks` names 'dlg' twice"):
        AuditConfig.build({"image": RGB, "attacks": ["dlg", "idlg", "dlg"]})


def test_all_clients_can_be_asked_for_in_words() -> None:
    assert AuditConfig.build({"image": RGB, "clients_per_round": "all"}).clients_per_round is None
