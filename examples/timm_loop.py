"""GTA in an own loop: a timm model under bf16 autocast, with gradient accumulation.

    python -m examples.timm_loop ~/photos --model vit_small_patch16_224.dino

~/photos: class folders of images. `--random` starts from random weights, to try it without a network.
"""

import argparse
import copy

import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from gta.guidance import Guide

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos")
parser.add_argument("--model", default="vit_small_patch16_224.dino")
parser.add_argument("--random", action="store_true")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--accumulate", type=int, default=2)
parser.add_argument("--weight", type=float, default=0.1)
options = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = timm.create_model(options.model, pretrained=not options.random, num_classes=0).to(device)
source = copy.deepcopy(model)
view = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=True)
photos = ImageFolder(options.photos, view)
model.reset_classifier(len(photos.classes))
model.to(device).train()
loader = DataLoader(photos, options.batch, shuffle=True, drop_last=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.05)

with Guide(source, model) as guide:
    for epoch in range(options.epochs):
        for step, (images, labels) in enumerate(loader, start=1):
            with torch.autocast(device, torch.bfloat16):
                logits = model(images.to(device))
            cross_entropy = F.cross_entropy(logits.float(), labels.to(device))
            penalty = guide.penalty()
            ((cross_entropy + options.weight * penalty) / options.accumulate).backward()
            if step % options.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        print(f"epoch {epoch + 1} cross-entropy {cross_entropy.item():.4f} penalty {penalty.item():.6f}")
