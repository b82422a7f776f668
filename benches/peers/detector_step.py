"""torchvision's Faster R-CNN, or with --masks its Mask R-CNN, with a feature pyramid: training steps, then detection, as in `scrl bench detector`.

Batch norms are trained; nothing is frozen.
"""

import torch
from measure import median_seconds, options, report
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

LR, MOMENTUM, WEIGHT_DECAY = 0.001, 0.9, 1e-4


def detector(args):
    backbone = resnet_fpn_backbone(
        backbone_name=args.arch, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    sides = sorted([args.height, args.width])
    # These limits make its resizing the identity.
    kind = MaskRCNN if args.masks else FasterRCNN
    return kind(backbone, num_classes=args.classes, min_size=sides[0], max_size=sides[1])


def random_target(args):
    """Objects with sides of 20 to 98 pixels, smaller in images below 200 pixels."""
    size = torch.tensor([args.width, args.height], dtype=torch.float32)
    scale = (size / 200).clamp(max=1)
    corner = torch.rand(args.boxes, 2) * (size - 98 * scale - 1)
    sides = (20 + 78 * torch.rand(args.boxes, 2)) * scale
    labels = torch.randint(1, args.classes, (args.boxes,))
    target = {"boxes": torch.cat([corner, corner + sides], dim=1), "labels": labels}
    if args.masks:
        # A diamond in each box.
        center, half = (corner + sides / 2)[:, :, None, None], (sides / 2)[:, :, None, None]
        x, y = torch.arange(args.width)[None, None] + 0.5, torch.arange(args.height)[None, :, None] + 0.5
        distance = (x - center[:, 0]).abs() / half[:, 0] + (y - center[:, 1]).abs() / half[:, 1]
        target["masks"] = (distance <= 1).to(torch.uint8)
    return target


def main():
    args = options(__doc__, arch="resnet50", batch=2, height=480, width=640, classes=4, boxes=13, masks=False)
    model = detector(args).to(args.device, memory_format=args.format)
    images = [torch.rand(3, args.height, args.width).to(args.device) for _ in range(args.batch)]
    targets = [
        {name: value.to(args.device) for name, value in random_target(args).items()} for _ in range(args.batch)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []

    def step():
        with args.cast:
            loss = torch.stack(list(model(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    train = median_seconds(args.steps, step)
    model.eval()
    with torch.inference_mode(), args.cast:
        infer = median_seconds(args.steps, lambda: model(images))
    report(
        "detector_step",
        args,
        train_images_per_second=args.batch / train,
        infer_images_per_second=args.batch / infer,
        loss=losses[-1],
    )


if __name__ == "__main__":
    main()
