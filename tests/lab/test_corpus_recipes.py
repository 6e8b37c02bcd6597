import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.types import ImageSpec
from fl_privacy_audit.lab.corpus.architectures import (
    ARCHITECTURES,
    has_modes,
    is_narrow,
    make_architecture,
    size_problem,
)
from fl_privacy_audit.lab.corpus.augment import _OPERATIONS, crop_and_flip, eight_bits, policy
from fl_privacy_audit.lab.corpus.plan import lay_out
from fl_privacy_audit.lab.corpus.presets import PRESETS, Request, make_plan
from fl_privacy_audit.lab.corpus.recipes import RECIPES, Training, _prune, train_network
from fl_privacy_audit.lab.corpus.sources import SOURCES, open_source
from fl_privacy_audit.lab.corpus.specs import Spec, digest, parse_spec
from tests.support.image_folders import tiny_cifar

SPEC = ImageSpec(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_take_what_the_table_says(name: str) -> None:
    size = max(ARCHITECTURES[name].least, 12)
    size += -size % ARCHITECTURES[name].multiple
    assert size_problem(name, size) == ""
    model = make_architecture(name, classes=7, size=size, seed=3).eval()
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
    again = make_architecture(name, classes=7, size=size, seed=3)
    other = make_architecture(name, classes=7, size=size, seed=4)
    pairs = list(zip(model.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(iter(model.parameters())), next(iter(other.parameters())))
    assert has_modes(model) == any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_the_networks_of_the_paper_have_their_widths() -> None:
    resnet = make_architecture("resnet20-4", classes=100, size=32)
    widths = [m.out_channels for m in resnet.modules() if isinstance(m, nn.Conv2d)]
    assert (widths[0], max(widths)) == (64, 256)
    # One stem, nine blocks of two, and a projection in the second and third stage.
    assert len(widths) == 1 + 18 + 2
    convnet = make_architecture("convnet", classes=100, size=32)
    layers = [m for m in convnet.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in layers] == [64, 128, 128, 256, 256, 256, 256, 256]
    head = list(convnet.modules())[-1]
    assert isinstance(head, nn.Linear)
    assert head.in_features == 36 * 64
    assert is_narrow(make_architecture("lenet", classes=10, size=32))
    assert not is_narrow(resnet)


def test_a_size_that_does_not_fit_is_said() -> None:
    with pytest.raises(CorpusError, match="vit takes images of side 8 and up, in steps of 4"):
        make_architecture("vit", classes=2, size=30)


def ramp() -> Tensor:
    """Every pixel is different."""
    return torch.arange(3 * 32 * 32).view(3, 32, 32) / (3 * 32 * 32) * 0.8 + 0.1


def test_crop_is_a_cut_of_the_padded_image() -> None:
    image = ramp()
    padded = nn.functional.pad(image, (4, 4, 4, 4))
    cuts = [padded[:, t : t + 32, x : x + 32] for t in range(9) for x in range(9)]
    allowed = [*cuts, *(cut.flip(-1) for cut in cuts)]
    drawn = [crop_and_flip(image, rng(seed)) for seed in range(40)]
    found = [[torch.equal(one, cut) for cut in allowed].index(True) for one in drawn]
    assert len(set(found)) > 20
    assert {index >= 81 for index in found} == {True, False}


@pytest.mark.parametrize(("index", "axis", "by"), [(3, 2, 14), (7, 1, 3), (43, 1, 4)])
def test_shifts_are_as_far_as_in_autoaugment(index: int, axis: int, by: int) -> None:
    image = ramp()
    kept = image.clone()
    results = [_OPERATIONS[index](image, rng(seed)) for seed in range(12)]
    ahead, back = torch.zeros_like(image), torch.zeros_like(image)
    ahead.narrow(axis, by, 32 - by).copy_(image.narrow(axis, 0, 32 - by))
    back.narrow(axis, 0, 32 - by).copy_(image.narrow(axis, by, 32 - by))
    signs = {(torch.equal(one, ahead), torch.equal(one, back)) for one in results}
    assert signs == {(True, False), (False, True)}
    assert torch.equal(image, kept)


@pytest.mark.parametrize(("index", "change"), [(1, 0.6), (18, 0.7)])
def test_contrast_is_as_strong_as_in_autoaugment(index: int, change: float) -> None:
    grey = torch.full((3, 4, 4), 0.5)
    grey[:, 0, 0], grey[:, 0, 1] = 0.4, 0.6
    spreads = {
        round(float(one[0, 0, 1] - one[0, 0, 0]), 4)
        for one in (_OPERATIONS[index](grey, rng(seed)) for seed in range(12))
    }
    assert spreads == {round(0.2 * (1 + change), 4), round(0.2 * (1 - change), 4)}


def test_a_hybrid_takes_one_of_its_lists() -> None:
    image = torch.rand(3, 32, 32, generator=rng())
    results = [policy((3,), (43,))(image, rng(seed)) for seed in range(30)]
    empty_columns = [int((one.sum(dim=(0, 1)) == 0).sum()) >= 14 for one in results]
    assert {True, False} == set(empty_columns)


def test_eight_bits() -> None:
    assert eight_bits(torch.tensor([-1.0, 0.5, 1.5])).mul(255).tolist() == [0.0, 128.0, 255.0]


def test_training_gradients_are_pruned_to_three_tenths() -> None:
    gradient = torch.randn(10, 10, generator=rng())
    pruned = _prune(gradient, rng())
    assert int((pruned != 0).sum()) == 30
    kept = gradient.abs().flatten().sort().values[-30:]
    assert torch.equal(pruned[pruned != 0].abs().sort().values, kept)


def test_noise_has_the_size_of_its_name() -> None:
    rule = RECIPES["gauss1e-3"].gradient_rule
    assert rule is not None
    noise = rule(torch.zeros(100_000), rng())
    assert float(noise.std()) == pytest.approx(1e-3, rel=0.02)


def learn(path: Path, epochs: int, stop: int | None = None, recipe: str = "crop") -> nn.Module:
    images = torch.rand(24, 3, 8, 8, generator=rng())
    labels = torch.arange(24) % 2
    images[labels == 1] /= 2
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt

    return train_network(
        make_architecture("perceptron", classes=2, size=8),
        RECIPES[recipe],
        images,
        labels,
        SPEC,
        Training(epochs=epochs, batch_size=8),
        path,
        seed=5,
        device=torch.device("cpu"),
        progress=progress,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("recipe", [name for name, entry in RECIPES.items() if entry.trained])
def test_training_goes_on_where_it_was_stopped(recipe: str, tmp_path: Path) -> None:
    whole = learn(tmp_path / "a.safetensors", 4, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "b.safetensors", 4, stop=2, recipe=recipe)
    resumed = learn(tmp_path / "b.safetensors", 4, recipe=recipe)
    assert same(whole, resumed)
    assert same(whole, learn(tmp_path / "b.safetensors", 4, recipe=recipe))
    assert not same(whole, make_architecture("perceptron", classes=2, size=8))


def test_a_trained_network_has_learnt(tmp_path: Path) -> None:
    model = learn(tmp_path / "v.safetensors", 30, recipe="plain").eval()
    dark, light = torch.full((1, 3, 8, 8), 0.25), torch.full((1, 3, 8, 8), 0.5)
    scores = model(SPEC.normalise(torch.cat([light, dark])))
    assert scores.argmax(dim=1).tolist() == [0, 1]


def test_checkpoints_of_version_0_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    whole = learn(path, 2)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "epochs": torch.tensor(2)}, path)
    assert same(learn(path, 2), whole)
    assert "epochs" in load_file(path)  # taken as finished, not trained and written again


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no safetensors"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
    ],
)
def test_a_damaged_checkpoint_is_named(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    learn(path, 1)
    spoil(path)
    with pytest.raises(CorpusError, match=r"v\.safetensors cannot be used: .*delete it to start"):
        learn(path, 1)


@pytest.mark.parametrize(
    "text", ["dlg", "dlg:restarts=1,steps=3", "gaussian:std=0.001", "a:b=true,c=word"]
)
def test_specs_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_spec(text)) == text


def test_specs() -> None:
    assert parse_spec(" dlg:b=2,a=1e-3") == Spec("dlg", (("a", 0.001), ("b", 2)))
    assert parse_spec("dlg:steps=3").with_setting("steps", 4) == parse_spec("dlg:steps=4")
    for text in ("dlg:steps", "dlg:=3", "dlg:steps="):
        with pytest.raises(ConfigError, match="options must look like 'std=1e-3, scope=tensor'"):
            parse_spec(text)
    with pytest.raises(ConfigError, match="must begin with a name"):
        parse_spec(":a=1")


def test_digests_are_the_same_everywhere() -> None:
    assert digest(0, "attack", "x") == 7402471717438341154
    assert len({digest(0, "a", "b"), digest(0, "ab"), digest(1, "a", "b")}) == 3


def ratings(path: Path, images: list[str]) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("folder,image,true_label\n")
        for folder in ("one", "two"):
            file.writelines(f"{folder},{image},{image.split('_')[1]}\n" for image in images)
    return path


def test_the_paper_is_laid_out(tmp_path: Path) -> None:
    tiny_cifar(tmp_path, "cifar100", labels=[5, 6, 7, 8])
    table = ratings(tmp_path / "ratings.csv.gz", ["4_8", "1_5", "3_7"])
    plan = make_plan("sun2023-cifar100", Request(ratings=table))
    (part,) = plan.parts
    assert part.only == (("test00000", 5), ("test00002", 7), ("test00003", 8))
    assert plan.training.epochs == 200
    chunks, refusals = lay_out(plan, {"cifar100": open_source("cifar100", tmp_path)})
    assert refusals == []
    assert [str(chunk.setting) for chunk in chunks] == [
        f"cifar100/{architecture}/{recipe}/inverting_gradients:steps=8000,total_variation=0.0001/none"
        for architecture in ("resnet20-4", "convnet")
        for recipe in ("plain", "crop", "3-1-7", "43-18-18", "hybrid", "prune70", "gauss1e-3")
    ]
    assert {chunk.images for chunk in chunks} == {(0, 2, 3)}


def test_the_real_ratings_name_six_hundred_images(shared_data: Path) -> None:
    table = shared_data / "semsim/human_ratings.csv.gz"
    (part,) = make_plan("sun2023-cifar100", Request(ratings=table)).parts
    assert len(part.only) == len(set(part.only)) == part.images == 600
    (cut,) = make_plan("sun2023-cifar100", Request(ratings=table, limit=20)).parts
    assert cut.only == part.only[:20]
    assert cut.images == 20


def test_another_order_is_noticed(tmp_path: Path) -> None:
    tiny_cifar(tmp_path, "cifar100", labels=[5, 6])
    plan = make_plan("sun2023-cifar100", Request(ratings=ratings(tmp_path / "r.csv.gz", ["1_6"])))
    with pytest.raises(CorpusError, match="should be of class 6, but is of class 5: this copy"):
        lay_out(plan, {"cifar100": open_source("cifar100", tmp_path)})


def test_ratings_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        make_plan("sun2023-cifar100", Request(ratings=tmp_path / "absent.csv"))
    (tmp_path / "odd.csv").write_text("image\nfrog\n")
    with pytest.raises(
        CorpusError,
        match=r"odd.csv, line 2, column `image`: must be .* such as 781_12, but got 'frog'$",
    ):
        make_plan("sun2023-cifar100", Request(ratings=tmp_path / "odd.csv"))


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("sun")])
def test_presets_can_be_made_whole(name: str) -> None:
    """All names and settings are known, and nothing in them is impossible."""
    source = open_source("photos", "")
    plan = make_plan(name, Request(sources=("photos",), limit=12))
    sources = {spec: source for part in plan.parts for spec in part.sources}
    chunks, refusals = lay_out(plan, sources)
    assert chunks
    assert refusals == []


def test_the_default_deals_eleven_settings_and_to_further_originals_nine() -> None:
    plan = make_plan("default", Request())
    parts = [part for part in plan.parts if part.sources == ("cifar10",)]
    for first, images, settings in ((0, 120, 11), (120, 36, 9)):
        chosen = [part for part in parts if part.first == first]
        assert sum(part.per_image or 0 for part in chosen) == settings
        assert {part.images for part in chosen} == {images}


def test_settings_are_dealt_evenly() -> None:
    plan = make_plan("default", Request())
    part = next(p for p in plan.parts if p.architectures == ("strided",) and p.per_image == 3)
    source = open_source("photos", "")
    plan = replace(plan, parts=(replace(part, sources=("photos",)),))
    chunks, _ = lay_out(plan, {"photos": source})
    blocks: dict[tuple[int, ...], set[str]] = {}
    for chunk in chunks:
        blocks.setdefault(chunk.images, set()).add(str(chunk.setting))
    assert {len(settings) for settings in blocks.values()} == {3}
    assert len({str(chunk.setting) for chunk in chunks}) == min(30, 3 * len(blocks))


def test_the_page_names_every_row_of_the_tables() -> None:
    page = (Path(__file__).parents[2] / "docs/corpus.md").read_text(encoding="utf-8")
    for table in (SOURCES, ARCHITECTURES, RECIPES, PRESETS):
        assert [name for name in table if f"`{name}`" not in page] == []


@pytest.mark.exhaustive
def test_a_small_cut_of_the_paper_runs(tmp_path: Path) -> None:
    from fl_privacy_audit.lab.corpus import build_corpus
    from fl_privacy_audit.lab.manifest import read_corpus

    tiny_cifar(tmp_path, "cifar100", labels=[number % 100 for number in range(64)])
    table = ratings(tmp_path / "r.csv.gz", [f"{number + 1}_{number}" for number in range(40)])
    plan = make_plan("sun2023-cifar100", Request(ratings=table, limit=20, small=True))
    built = build_corpus(tmp_path / "c", plan, root=str(tmp_path), device="cpu")
    assert (built.rows, built.refusals) == (14 * 20, [])
    assert len({pair.setting for pair in read_corpus(tmp_path / "c").pairs}) == 14
