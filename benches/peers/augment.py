"""Decoding and both augmented views with torchvision and Pillow on one thread, as in `scrl bench augment`."""

import random
import time
from pathlib import Path

import torch
from measure import options, report
from PIL import Image
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pipeline(size, blur, solarize):
    """BYOL's augmentation of one view; the two views differ in the probabilities of blur and solarize."""
    kernel = size // 10 | 1
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(max(kernel, 3), (0.1, 2.0))], p=blur),
        v2.RandomSolarize(128, p=solarize),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])


def main():
    args = options(__doc__, data=".", images=400, size=224)
    torch.set_num_threads(1)
    args.threads = 1
    random.seed(0)
    endings = {".jpg", ".jpeg", ".png"}
    files = sorted(path for path in Path(args.data).rglob("*") if path.suffix.lower() in endings)[: args.images]
    views = [pipeline(args.size, 1.0, 0.0), pipeline(args.size, 0.1, 0.2)]
    start = time.perf_counter()
    for path in files:
        image = Image.open(path).convert("RGB")
        for view in views:
            view(image)
    seconds = time.perf_counter() - start
    report("augment", args, images=len(files), seconds=seconds, images_per_second=len(files) / seconds)


if __name__ == "__main__":
    main()
