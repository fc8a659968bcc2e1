"""GTA in an own loop: Hugging Face's ViT or DINOv2 on several processes (DistributedDataParallel).

    torchrun --nproc-per-node 2 -m examples.hugging_face_ddp ~/photos --model facebook/dinov2-small

~/photos: class folders of images; the model: a name on the hub, or a folder written by `save_pretrained`.
Works with `--attention eager` as well.
"""

import argparse
import copy
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.datasets import ImageFolder
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gta.guidance import Guide

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos")
parser.add_argument("--model", default="facebook/dinov2-small")
parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch", type=int, default=16, help="of each process")
parser.add_argument("--weight", type=float, default=0.1)
options = parser.parse_args()

dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
rank, local_rank = dist.get_rank(), int(os.environ["LOCAL_RANK"])
device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
processor = AutoImageProcessor.from_pretrained(options.model)
photos = ImageFolder(options.photos, lambda image: processor(image, return_tensors="pt")["pixel_values"][0])
torch.manual_seed(0)  # the same new head on every process
model = AutoModelForImageClassification.from_pretrained(
    options.model, num_labels=len(photos.classes), attn_implementation=options.attention
).to(device)
source = copy.deepcopy(model)
parallel = DistributedDataParallel(model.train(), find_unused_parameters=True)  # DINOv2's mask token is
sampler = DistributedSampler(photos, seed=0)
loader = DataLoader(photos, options.batch, sampler=sampler)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.05)

with Guide(source, parallel) as guide:  # the object that is called
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            output = parallel(pixel_values=images.to(device), labels=labels.to(device))
            penalty = guide.penalty()
            optimizer.zero_grad(set_to_none=True)
            (output.loss + options.weight * penalty).backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1} cross-entropy {output.loss.item():.4f} penalty {penalty.item():.6f}")
dist.destroy_process_group()
