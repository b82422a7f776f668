"""A ResNet's evaluation forward pass in PyTorch, up to its last feature map, as in `scrl bench forward`."""

import torch
import torchvision
from measure import median_seconds, options, report
from torch import nn


def main():
    args = options(__doc__, arch="resnet50", batch=8, size=224)
    resnet = torchvision.models.get_model(args.arch, weights=None)
    stages = nn.Sequential(*list(resnet.children())[:-2]).eval().to(args.device, memory_format=args.format)
    images = torch.randn(args.batch, 3, args.size, args.size).to(args.device).to(memory_format=args.format)
    stages = torch.compile(stages) if args.compile else stages
    with torch.inference_mode(), args.cast:
        seconds = median_seconds(args.steps, lambda: stages(images))
    report("forward", args, median_step_seconds=seconds, images_per_second=args.batch / seconds)


if __name__ == "__main__":
    main()
