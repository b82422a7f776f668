"""One SCRL training step in PyTorch, as in `scrl bench pretrain`.

Two views of every image go through an online and a target ResNet in one batch each; 1×1 RoIAlign on the last feature
map, projector, predictor, symmetric loss, backward, SGD with momentum, moving average of the target.
"""

import torch
import torchvision
from measure import median_seconds, options, report
from torch import nn
from torch.nn.functional import normalize
from torchvision.ops import roi_align

STRIDE = 32
HIDDEN, OUTPUT = 4096, 256
LR, MOMENTUM, WEIGHT_DECAY, EMA = 0.1, 0.9, 1e-6, 0.97


def head(inputs):
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, OUTPUT, bias=False)
    )


class Encoder(nn.Module):
    """Backbone and projector: one vector per box."""

    def __init__(self, arch):
        super().__init__()
        resnet = torchvision.models.get_model(arch, weights=None)
        self.projector = head(resnet.fc.in_features)
        resnet.avgpool, resnet.fc = nn.Identity(), nn.Identity()
        self.stages = nn.Sequential(*(stage for name, stage in resnet.named_children() if name not in ("avgpool", "fc")))

    def forward(self, views, rois):
        pooled = roi_align(self.stages(views), rois, output_size=1, spatial_scale=1 / STRIDE)
        return self.projector(pooled.flatten(1))


def random_rois(images, boxes, size):
    """Rows `(image, x1, y1, x2, y2)`: boxes of at least 32 pixels, or half of the image if that is smaller."""
    smallest = min(32.0, size / 2)
    corner = torch.rand(images * boxes, 2) * (size - 1.25 * smallest)
    sides = smallest + torch.rand(images * boxes, 2) * (size - smallest - corner)
    image = torch.arange(images).repeat_interleave(boxes)[:, None]
    return torch.cat([image, corner, corner + sides], dim=1)


def main():
    args = options(__doc__, arch="resnet50", batch=8, size=224, boxes=10)
    online, target, predictor = Encoder(args.arch), Encoder(args.arch), head(OUTPUT)
    online, target = (network.to(args.device, memory_format=args.format) for network in (online, target))
    predictor = predictor.to(args.device)
    target.requires_grad_(False)
    trained = [*online.parameters(), *predictor.parameters()]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    views = torch.randn(2 * args.batch, 3, args.size, args.size).to(args.device, memory_format=args.format)
    rois = random_rois(2 * args.batch, args.boxes, args.size).to(args.device)
    run_online, run_target = (torch.compile(net) if args.compile else net for net in (online, target))
    half = args.batch * args.boxes
    losses = []

    def step():
        with args.cast:
            predicted = normalize(predictor(run_online(views, rois)).float(), dim=1)
            with torch.no_grad():
                aimed = normalize(run_target(views, rois).float(), dim=1)
        # Each view's boxes are compared with the same boxes of the other view.
        cosine = (predicted * torch.cat([aimed[half:], aimed[:half]])).sum(1)
        loss = 2 * (2 - 2 * cosine).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - EMA)
        losses.append(loss.item())

    seconds = median_seconds(args.steps, step)
    report(
        "scrl_step", args, median_step_seconds=seconds, pairs_per_second=args.batch / seconds, loss=losses[-1]
    )


if __name__ == "__main__":
    main()
