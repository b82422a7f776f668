"""torchvision's RoIAlign on the CPU, forward and backward, as in `scrl bench roi-align`."""

import torch
from measure import median_seconds, options, report
from torchvision.ops import roi_align

STRIDE, GRID = 4, 7
SIDES = (16, 112)


def random_rois(args):
    """Rows `(image, x1, y1, x2, y2)`: boxes assigned to the finest pyramid level, alternating between the images."""
    size = torch.tensor([args.width, args.height]) * STRIDE
    sides = (SIDES[0] + torch.rand(args.rois, 2) * (SIDES[1] - SIDES[0])).minimum(size)
    corner = torch.rand(args.rois, 2) * (size - sides)
    image = torch.arange(args.rois)[:, None] % args.batch
    return torch.cat([image, corner, corner + sides], dim=1)


def main():
    args = options(__doc__, rois=512, batch=2, channels=256, height=120, width=160)
    features = torch.randn(args.batch, args.channels, args.height, args.width).to(memory_format=args.format)
    rois = random_rois(args)
    gradient = torch.randn(args.rois, args.channels, GRID, GRID)

    def pool(features):
        return roi_align(features, rois, output_size=GRID, spatial_scale=1 / STRIDE, sampling_ratio=2)

    def both():
        tracked = features.detach().requires_grad_()
        pool(tracked).backward(gradient)

    with torch.inference_mode():
        forward = median_seconds(args.steps, lambda: pool(features))
    report(
        "roi_align", args, forward_seconds=forward, forward_backward_seconds=median_seconds(args.steps, both)
    )


if __name__ == "__main__":
    main()
