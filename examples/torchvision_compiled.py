"""GTA in an own loop: torchvision's ViT-B/16, compiled.

    python -m examples.torchvision_compiled ~/photos

~/photos: class folders of images. `--random` starts from random weights, to try it without a network.
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import ViT_B_16_Weights, vit_b_16

from gta.guidance import Guide

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos")
parser.add_argument("--random", action="store_true")
parser.add_argument("--backend", default="inductor", help="torch.compile's")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--weight", type=float, default=0.1)
options = parser.parse_args()

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
weights = ViT_B_16_Weights.IMAGENET1K_V1
photos = ImageFolder(options.photos, weights.transforms())
model = vit_b_16(weights=None if options.random else weights)
source = copy.deepcopy(model).to(device)
model.heads.head = torch.nn.Linear(model.hidden_dim, len(photos.classes))
model.to(device).train()
compiled = torch.compile(model, backend=options.backend)
loader = DataLoader(photos, options.batch, shuffle=True, drop_last=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.05)

with Guide(source, compiled) as guide:  # the object that is called
    for epoch in range(options.epochs):
        for images, labels in loader:
            cross_entropy = F.cross_entropy(compiled(images.to(device)), labels.to(device))
            penalty = guide.penalty()
            optimizer.zero_grad(set_to_none=True)
            (cross_entropy + options.weight * penalty).backward()
            optimizer.step()
        print(f"epoch {epoch + 1} cross-entropy {cross_entropy.item():.4f} penalty {penalty.item():.6f}")
