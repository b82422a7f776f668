"""A ResNet's evaluation forward pass in ONNX Runtime, up to its last feature map, in 32 bits, as in `scrl bench forward`."""

import io

import onnxruntime
import torch
import torchvision
from measure import median_seconds, options, report
from torch import nn


def main():
    args = options(__doc__, arch="resnet50", batch=8, size=224)
    resnet = torchvision.models.get_model(args.arch, weights=None)
    stages = nn.Sequential(*list(resnet.children())[:-2]).eval()
    images, file = torch.randn(args.batch, 3, args.size, args.size), io.BytesIO()
    torch.onnx.export(stages, (images,), file, dynamo=False, input_names=["images"], output_names=["features"])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy()}
    seconds = median_seconds(args.steps, lambda: session.run(None, feed))
    report(
        "onnx_forward",
        args,
        onnxruntime=onnxruntime.__version__,
        median_step_seconds=seconds,
        images_per_second=args.batch / seconds,
    )


if __name__ == "__main__":
    main()
