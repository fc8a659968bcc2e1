"""Pretrains the demo's source model on synthetic letters and writes demo_source.safetensors beside it.

    python assets/make_demo_source.py      # about six minutes on two cores; no box or mask is shown

The letters are drawn with the fonts that matplotlib ships, none of them a digit, and composed exactly
as the demo's digits are. Only their names are taught; that the [CLS] attention ends up on the letter is
what the demo needs of a source, and what the `evaluate` stage measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gta.datasets.scenes import compose  # noqa: E402  the script runs without an installed package
from gta.models import create_timm  # noqa: E402

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
FONTS = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif"]
FONTS += ["DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"]
STEPS, BATCH, RATE, CLUTTER, SEED = 2000, 128, 1.5e-3, 6, 0
MEAN = STD = (0.5, 0.5, 0.5)


def glyphs() -> Tensor:
    """Every letter in every font: (letters, fonts, 1, 32, 32), opacity in [0, 1], filling its canvas."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = []
    for letter in LETTERS:
        for font in FONTS:
            image = Image.new("L", (160, 160))
            face = ImageFont.truetype(str(folder / f"{font}.ttf"), 96)
            ImageDraw.Draw(image).text((32, 16), letter, fill=255, font=face)
            cropped = image.crop(image.getbbox())
            side = max(cropped.size)
            square = Image.new("L", (side, side))
            square.paste(cropped, ((side - cropped.width) // 2, (side - cropped.height) // 2))
            drawn.append(np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(drawn)).float().div(255).view(len(LETTERS), len(FONTS), 1, 32, 32)


def main() -> None:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    bank = glyphs()
    model = create_timm("demo_vit", 48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    right = 0.0
    bar = tqdm(range(STEPS), disable=None)
    for step in bar:
        labels = torch.randint(len(LETTERS), (BATCH,), generator=generator)
        fonts = torch.randint(len(FONTS), (BATCH,), generator=generator)
        hardness = min(1.0, 3 * step / STEPS)  # on a plain background first, or it learns nothing
        images, _ = compose(bank[labels, fonts], 48, round(CLUTTER * hardness), generator, hardness)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.float().div(255).sub(MEAN[0]).div(STD[0]))
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        right += 0.02 * ((logits.argmax(1) == labels).float().mean().item() - right)
        bar.set_postfix(loss=f"{loss.item():.2f}", right=f"{right:.2f}")
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}, running accuracy {right:.3f}", flush=True)
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(state, ROOT / "assets" / "demo_source.safetensors")


if __name__ == "__main__":
    main()
