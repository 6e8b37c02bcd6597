import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy_audit import AttackConfig, AuditConfig, ImageConfig, TrainingConfig
from fl_privacy_audit.core.config import DefenceConfig
from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.core.errors import ConfigError
from tests.support.builders import QUICK

words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"))
numbers = st.floats(1e-6, 1e6)
configs = st.builds(
    AuditConfig,
    image=st.builds(
        ImageConfig,
        shape=st.tuples(st.just(2), st.integers(1, 512), st.integers(1, 512)),
        mean=st.tuples(numbers, numbers),
        std=st.tuples(numbers, numbers),
    ),
    directory=st.just(Path("/some where/audit")),
    setting=words,
    attacks=st.lists(
        st.builds(
            AttackConfig,
            name=words,
            settings=st.dictionaries(words, st.integers(0, 9) | numbers | words | st.booleans()),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda attack: attack.name,
    ).map(tuple),
    every=st.integers(1, 100),
    clients_per_round=st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
    seconds_per_round=numbers,
    training=st.builds(
        TrainingConfig,
        optimizer=st.sampled_from(["sgd", "unknown"]),
        learning_rate=st.none() | numbers,
        steps=st.none() | st.integers(1, 100),
        momentum=st.floats(0, 0.99),
        max_grad_norm=numbers,
        noise_multiplier=st.none() | numbers,
    ),
    defence=st.builds(
        DefenceConfig,
        name=words,
        settings=st.dictionaries(words, st.integers(0, 9) | numbers | words | st.booleans()),
    ),
    keep_pictures=st.booleans(),
)


def in_toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k, ensure_ascii=False)} = {in_toml(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture(scope="module")
def toml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toml") / "audit.toml"


@QUICK
@given(config=configs)
def test_toml_round_trip(toml_file: Path, config: AuditConfig) -> None:
    settings = config.model_dump(mode="json", exclude_none=True)
    lines = (f"{key} = {in_toml(value)}\n" for key, value in settings.items())
    toml_file.write_text("".join(lines), encoding="utf-8")
    assert AuditConfig.from_toml(str(toml_file)) == config


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"every = ",
        b"\xff\xfe",
    ],
    ids=["missing", "no TOML", "no UTF-8"],
)
def test_toml_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "audit.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^the audit settings in .*audit\.toml cannot be read: "):
        AuditConfig.from_toml(path)


def test_a_relative_file_that_is_not_there_says_where_an_app_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"give `Path\(__file__\)\.parents\[1\] / 'audit\.toml'`$"
    ):
        AuditConfig.from_toml("audit.toml")


def test_toml_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text("[image]\nshape = [1, 8, 8]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"`image\.mean` is missing; there is no safe default"):
        AuditConfig.from_toml(path)


def test_flower_run_config() -> None:
    flat: dict[str, bool | float | int | str] = {
        "num-server-rounds": 3,
        "auditors": "many",
        "audit.image.shape": "3, 8,8",
        "audit.image.mean": "0.5, 0.4, 0.3",
        "audit.image.std": "0.2,0.2,0.2",
        "audit.attacks": "dlg, idlg",
        "audit.clients-per-round": 2,
        "audit.keep-pictures": True,
        "audit.setting": "a-b, c",
        "audit.training.learning-rate": 0.05,
        "audit.training.optimizer": "sgd",
    }
    expected = AuditConfig.build(
        {
            "image": {"shape": [3, 8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
            "attacks": ["dlg", "idlg"],
            "clients_per_round": 2,
            "keep_pictures": True,
            "setting": "a-b, c",
            "training": {"learning_rate": 0.05, "optimizer": "sgd"},
        }
    )
    assert AuditConfig.from_run_config(flat) == expected


@pytest.mark.parametrize(
    "stated",
    [
        {
            "audit.attacks.inverting-gradients.options": "steps=9, restarts=2",
            "audit.attacks.dlg": "",
        },
        {
            "audit.attacks.inverting-gradients.options.steps": 9,
            "audit.attacks.inverting-gradients.options.restarts": 2,
            "audit.attacks.dlg.options": "",
        },
    ],
)
def test_options_of_attacks_in_a_run_config(stated: dict[str, str | int]) -> None:
    flat = {"audit.image.shape": "1,8,8", "audit.image.mean": "0", "audit.image.std": "1", **stated}
    first, second = AuditConfig.from_run_config(flat).attacks
    assert (first.name, first.options) == ("inverting_gradients", {"steps": 9, "restarts": 2})
    assert (second.name, second.options) == ("dlg", {})


def test_a_directory_at_home() -> None:
    image = ImageConfig(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))
    assert AuditConfig(image=image, directory=Path("~/x")).directory == Path.home() / "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audit.clients-per-rund": 2}, "`clients_per_rund` is not a setting of this audit"),
        ({"audit.image.mean": "0.5"}, "`mean` must have one number for each of the 3 channels"),
        ({"audit.image.std": "a,b,c"}, r"`image\.std\.0` .*valid number.*, got 'a'"),
    ],
)
def test_flower_run_config_is_checked(change: dict[str, str | int], message: str) -> None:
    good = {"shape": "3,8,8", "mean": "0,0,0", "std": "1,1,1"}
    with pytest.raises(ConfigError, match=message):
        AuditConfig.from_run_config({**{f"audit.image.{k}": v for k, v in good.items()}, **change})


def test_a_value_where_a_group_belongs() -> None:
    with pytest.raises(ConfigError, match=r"`(audit\.)?image`"):
        AuditConfig.from_run_config({"audit.image": "x", "audit.image.mean": "0"})


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("std=1e-3", {"std": 1e-3}),
        (" bits = 8 , scope=tensor,", {"bits": 8, "scope": "tensor"}),
        ("num-sampled-clients=6, quick=true", {"num_sampled_clients": 6, "quick": True}),
    ],
)
def test_settings_as_text(text: str, settings: dict[str, object]) -> None:
    assert read_options(text) == settings
    assert [type(v) for v in read_options(text).values()] == [type(v) for v in settings.values()]


@pytest.mark.parametrize("text", ["0.1", "std=", "=1", "std"])
def test_settings_that_are_no_settings(text: str) -> None:
    with pytest.raises(ConfigError, match="options must look like 'std=1e-3, scope=tensor', but"):
        read_options(text)


def test_the_defence_in_a_run_config() -> None:
    image = {"image": ImageConfig(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))}
    assert AuditConfig.build(image).defence == DefenceConfig()
    assert AuditConfig.build({**image, "defence": "sign"}).defence == DefenceConfig(name="sign")
    flat = {
        "audit.image.shape": "1, 8, 8",
        "audit.image.mean": "0.5",
        "audit.image.std": "0.25",
        "audit.defence.name": "gaussian",
        "audit.defence.options": "std=1e-3",
    }
    wanted = DefenceConfig(name="gaussian", options={"std": 1e-3})
    assert AuditConfig.from_run_config(flat).defence == wanted
    old = {k.replace("options", "settings"): v for k, v in flat.items()}
    assert AuditConfig.from_run_config(old).defence == wanted, "their name before version 0.3"
    with pytest.raises(ConfigError, match="options must look like"):
        AuditConfig.from_run_config({**flat, "audit.defence.options": "1e-3"})


@pytest.mark.parametrize("sides", ["training", "defence", "both"])
def test_dp_sgd_is_told_once(sides: str) -> None:
    figures = {"max_grad_norm": 2.0, "noise_multiplier": 1.5}
    audit = {
        "image": ImageConfig(shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
        "training": figures if sides != "defence" else {},
        "defence": {"name": "dp-sgd", "options": figures if sides != "training" else {}},
    }
    config = AuditConfig.build(audit)
    assert config.defence.options == figures
    assert (config.training.max_grad_norm, config.training.noise_multiplier) == (2.0, 1.5)
    assert AuditConfig.build(config.model_dump()) == config


def test_dp_sgd_that_is_told_twice_is_told_alike() -> None:
    audit = {
        "image": ImageConfig(shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
        "defence": {"name": "dp-sgd", "options": {"noise_multiplier": 1.0}},
        "training": {"max_grad_norm": 1.0, "noise_multiplier": 2.0},
    }
    with pytest.raises(ConfigError, match=r"`noise_multiplier` is 2 in `training` and 1\.0 "):
        AuditConfig.build(audit)
    with pytest.raises(ConfigError, match="`training` needs `max_grad_norm` and `noise_multip"):
        AuditConfig.build({**audit, "training": {}, "defence": "dp-sgd"})
