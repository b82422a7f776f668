"""A ResNet's evaluation forward pass in PyTorch on the CPU, up to its last feature map, as in `scrl bench forward`."""

import torch
import torchvision
from measure import median_seconds, options, report
from torch import nn


def main():
    args = options(__doc__, arch="resnet50", batch=8, size=224)
    resnet = torchvision.models.get_model(args.arch, weights=None)
    stages = nn.Sequential(*list(resnet.children())[:-2]).eval().to(memory_format=args.format)
    images = torch.randn(args.batch, 3, args.size, args.size).to(memory_format=args.format)
    with torch.inference_mode():
        seconds = median_seconds(args.steps, lambda: stages(images))
    report("forward", args, median_step_seconds=seconds, images_per_second=args.batch / seconds)


if __name__ == "__main__":
    main()
