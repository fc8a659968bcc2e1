"""Source files: strict loading, what is refused and how, and the card that travels with the weights."""

from __future__ import annotations

import hashlib
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from serving import send, serving
from tiny import CARD, source_file

from gta import models
from gta.attention import layout_of, record_logits
from gta.errors import InputError
from gta.params.source import Source
from gta.source import build, convert

SOURCE: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "layout": "timm",
    "sha256": None,
    "image_size": 32,
    "crop": 0.875,
    "mean": None,
    "std": None,
}


DOWNLOADS = Path("never-used")


def section(weights: Path | str, **changes: Any) -> Source:
    return Source.model_validate({**SOURCE, "weights": str(weights), **changes})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViT-Ti/16 at 224 pixels with its classifier, in float16."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file({name: tensor.half() for name, tensor in state.items()}, path)
    return path


def test_a_file_is_converted_with_its_positions_resampled(stored: Path) -> None:
    state, card = convert(section(stored), DOWNLOADS)
    assert state["pos_embed"].shape == (1, 5, 192)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    original = load_file(stored)
    assert torch.equal(state["blocks.3.attn.qkv.weight"], original["blocks.3.attn.qkv.weight"].float())
    assert card.mean == card.std == (0.5, 0.5, 0.5)  # augreg's own, not ImageNet's
    assert (card.image_size, card.num_classes, card.origin) == (32, 1000, "vit.safetensors")


def test_a_pickle_of_weights_is_read_and_one_of_code_is_not(stored: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": load_file(stored)}, tmp_path / "vit.pth")
    assert torch.equal(convert(section(tmp_path / "vit.pth"), DOWNLOADS)[0]["norm.bias"], torch.zeros(192))
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"evil\.pth: cannot be loaded as weights alone"):
        convert(section(tmp_path / "evil.pth"), DOWNLOADS)
    assert not marker.exists()


def damage(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    if how == "missing":
        del state["blocks.3.mlp.fc1.bias"]
    elif how == "extra":
        state["blocks.12.norm1.bias"] = torch.zeros(192)
    elif how == "shape":
        state["norm.bias"] = torch.zeros(191)
    elif how == "nan":
        state["norm.bias"][3] = float("nan")
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"does not fit vit_tiny_patch16_224: Missing.*blocks\.3\.mlp\.fc1\.bias"),
        ("extra", r"does not fit.*Unexpected.*blocks\.12\.norm1\.bias"),
        ("shape", r"does not fit.*size mismatch for norm\.bias"),
        ("nan", r"norm\.bias holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(stored: Path, tmp_path: Path, how: str, message: str) -> None:
    save_file(damage(load_file(stored), how), tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        convert(section(tmp_path / "bad.safetensors"), DOWNLOADS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff" * 64])
@pytest.mark.parametrize("name", ["bad.safetensors", "bad.pth"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be loaded"):
        convert(section(tmp_path / name), DOWNLOADS)


@pytest.mark.parametrize(
    ("content", "found"), [({"model_ema": {}, "epoch": 5}, "model_ema, epoch"), (torch.zeros(2), "Tensor")]
)
def test_a_file_without_tensors_by_name_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=f"odd.pth: expected tensors by name, .*; found {found}"):
        convert(section(tmp_path / "odd.pth"), DOWNLOADS)


def test_original_checkpoints_are_not_on_timms_hub() -> None:
    with pytest.raises(ValidationError, match="weights: expected an address or a path for layout 'mocov3'"):
        section("hub", model="vit_small_patch16_224", layout="mocov3")


def test_checksum_and_missing_file(stored: Path) -> None:
    right = hashlib.sha256(stored.read_bytes()).hexdigest()
    convert(section(stored, sha256=right), DOWNLOADS)
    with pytest.raises(InputError, match=f"expected sha256 {'0' * 64}, got {right}"):
        convert(section(stored, sha256="0" * 64), DOWNLOADS)
    with pytest.raises(InputError, match="nowhere: no such file; expected 'hub', an address, or the path"):
        convert(section("nowhere"), DOWNLOADS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit_tiny_patch16_225"}, r"not a model of timm; close: vit_tiny_patch16_224"),
        ({"image_size": 33}, r"image_size: expected a multiple of the patch size 16, got 33"),
        ({"model": "vit_base_patch16_siglip_224"}, r"no \[CLS\] token|cannot build"),
        ({"model": "resnet18"}, "cannot build 'resnet18'"),
    ],
)
def test_models_that_cannot_be_guided_are_refused(
    stored: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        convert(section(stored, **changes), DOWNLOADS)
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_and_its_absence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError,
        match=r"timm cannot build 'vit_small_patch16_224\.dino' at 32 pixels: .*named in source\.weights",
    ) as caught:
        convert(section("hub", model="vit_small_patch16_224.dino"), DOWNLOADS)
    assert "\n" not in str(caught.value)


def test_a_model_starts_from_the_sources_weights_with_a_fresh_head(tmp_path: Path) -> None:
    model, card = models.start_from(source_file(tmp_path), 5, drop_path=0.1)
    source, _ = models.load(source_file(tmp_path))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert model.head.weight.shape == (5, 192)
    assert card.num_classes == 5


def test_the_same_weights_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    model = models.create(CARD)
    for name in ("a", "b"):
        models.write_weights(tmp_path / name, model.state_dict(), CARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded, card = models.load(tmp_path / "a")
    assert card == CARD
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_foreign_file_has_no_card(stored: Path) -> None:
    with pytest.raises(InputError, match="has no card"):
        models.load(stored)


def test_normalise() -> None:
    card = models.Card("m", {}, 2, 1.0, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 0, "", "")
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    got = models.normalise(images, card)[0, :, 0, 0]
    np.testing.assert_allclose(got, [(0.2 - 0.5) / 0.1, (0.2 - 0.4) / 0.2, (0.2 - 0.3) / 0.3], rtol=1e-5)


def test_the_models_own_size_crop_and_colours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "a.safetensors")
    changes = {"image_size": None, "crop": None}
    _, card = convert(section(tmp_path / "a.safetensors", **changes), DOWNLOADS)
    assert (card.image_size, card.crop, card.mean) == (224, 0.9, (0.5, 0.5, 0.5))


def small_vit(**options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0, **options)
    return dict(model.state_dict())


def test_moco_v3_has_twelve_heads_and_the_card_says_so(tmp_path: Path) -> None:
    original = small_vit(num_heads=12)
    checkpoint = {f"module.base_encoder.{name}": tensor for name, tensor in original.items()}
    checkpoint |= {
        "module.base_encoder.head.0.weight": torch.zeros(3, 3),
        "module.predictor.0.weight": torch.zeros(2),
    }
    checkpoint |= {"module.momentum_encoder.norm.bias": torch.ones(384)}
    torch.save({"epoch": 300, "state_dict": checkpoint}, tmp_path / "vit-s-300ep.pth.tar")
    wanted = section(
        tmp_path / "vit-s-300ep.pth.tar", model="vit_small_patch16_224", layout="mocov3", mean=None, std=None
    )
    state, card = convert(wanted, DOWNLOADS)
    assert card.options == {"num_classes": 0, "num_heads": 12}
    assert card.mean == (0.485, 0.456, 0.406)  # ImageNet's, not those of timm's model of that name
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    models.write_weights(tmp_path / "source.safetensors", state, card)
    loaded, _ = models.load(tmp_path / "source.safetensors")
    started, _ = models.start_from(tmp_path / "source.safetensors", 3, 0.0)
    expected = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0, num_heads=12).eval()
    expected.load_state_dict(original)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(images), expected(images))
    assert started.blocks[0].attn.num_heads == 12


def test_ibots_backbone(tmp_path: Path) -> None:
    original = small_vit()
    torch.save({"state_dict": original | {"masked_embed": torch.zeros(1, 384)}}, tmp_path / "teacher.pth")
    wanted = section(tmp_path / "teacher.pth", model="vit_small_patch16_224", layout="ibot")
    state, _ = convert(wanted, DOWNLOADS)
    assert state.keys() == original.keys()


@pytest.mark.parametrize("layout", ["mocov3", "ibot"])
def test_another_layout_than_said_is_refused(tmp_path: Path, layout: str) -> None:
    torch.save({"layer": torch.zeros(2)}, tmp_path / "other.pth")
    wanted = section(tmp_path / "other.pth", model="vit_small_patch16_224", layout=layout)
    with pytest.raises(
        InputError, match=f"source.layout: .*other.pth: expected .* layout '{layout}', found layer"
    ):
        convert(wanted, DOWNLOADS)


@pytest.mark.parametrize(
    ("name", "size"),
    [("beit_base_patch16_224", 32), ("vit_pe_core_small_patch16_384", 32), ("vit_small_patch16_dinov3", 32)],
)
def test_a_head_that_read_the_patches_is_made_to_read_cls(tmp_path: Path, name: str, size: int) -> None:
    torch.manual_seed(2)
    own = timm.create_model(name, img_size=size)
    with torch.no_grad():
        (own.fc_norm if isinstance(own.norm, torch.nn.Identity) else own.norm).bias.fill_(0.25)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    state, card = convert(section(tmp_path / "own.safetensors", model=name, image_size=size), DOWNLOADS)
    assert (state["norm.bias"] == 0.25).all()
    assert not [key for key in state if key.startswith(("fc_norm", "attn_pool"))]
    assert (
        card.origin == "own.safetensors; its head read the patches, and now reads [CLS] after the same norm"
    )
    assert card.num_classes == 0  # its classifier was taught on the patches
    assert build(section("hub", model=name, image_size=size)).num_classes == 0


def test_weights_from_an_address(stored: Path, tmp_path: Path) -> None:
    right = hashlib.sha256(stored.read_bytes()).hexdigest()
    with serving() as site:
        site.answers["/w/vit.safetensors"] = [send(stored.read_bytes())]
        state, card = convert(section(f"{site.url}/w/vit.safetensors", sha256=right), tmp_path)
    assert card.origin == "vit.safetensors"
    assert [path.name for path in tmp_path.glob("weights/*/*")] == ["vit.safetensors"]
    assert state.keys() == load_file(stored).keys()


RESIZED = [
    ("vit_tiny_patch16_224", 32, 64),
    ("deit_tiny_distilled_patch16_224", 32, 48),  # two prefix tokens
    ("vit_small_patch14_reg4_dinov2", 28, 56),  # positions of the patches alone
    ("vit_small_patch16_dinov3_qkvb", 32, 64),  # rotary
    ("beit_base_patch16_224", 32, 64),  # relative positions
    ("demo_vit", 48, 96),
]


@pytest.mark.parametrize(("name", "size", "other"), RESIZED)
def test_a_model_at_another_size_is_as_if_loaded_at_that_size(name: str, size: int, other: int) -> None:
    torch.manual_seed(0)
    model = models.create(replace(CARD, model=name, image_size=size)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    loaded = models.create(replace(CARD, model=name, image_size=other)).eval()
    convert_keys = sys.modules[type(model).__module__].checkpoint_filter_fn
    loaded.load_state_dict(convert_keys(model.state_dict(), loaded))
    models.resize(model, other)
    layout = layout_of(model)
    images = torch.randn(2, 3, other, other)
    rows = []
    for each in (model, loaded):
        with record_logits(each, [len(layout.attentions) - 1]) as recorder, torch.no_grad():
            each(images)
        rows.append(recorder.stacked()[0])
    assert rows[0].shape[-1] == layout.prefix + layout.grid[0] * layout.grid[1]
    assert torch.equal(rows[0], rows[1])


def test_a_size_that_cannot_be_is_refused() -> None:
    model: Any = models.create(CARD)
    with pytest.raises(InputError, match="expected a multiple of the patch size 16, got 40"):
        models.resize(model, 40)

    class Fixed(torch.nn.Module):
        patch_embed = model.patch_embed

    with pytest.raises(InputError, match="Fixed cannot take images of another size than it was built for"):
        models.resize(Fixed(), 64)
