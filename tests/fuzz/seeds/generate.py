"""Writes the seeds of the fuzzing targets: small valid files of every kind that is read.

Run with Pillow, numpy, pycocotools, safetensors, torch and onnx installed: python generate.py
"""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image
from pycocotools import mask
from safetensors.numpy import save

FOLDER = Path(__file__).parent
rng = np.random.default_rng(0)


def write(name: str, content: bytes | str) -> None:
    path = FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def images() -> None:
    pixels = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6

    def encoded(kind: str, image: Image.Image = image, **options) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    write("images/baseline.jpg", encoded("JPEG", quality=80, exif=exif))
    write("images/progressive.jpg", encoded("JPEG", quality=80, progressive=True))
    write("images/cmyk.jpg", encoded("JPEG", image.convert("CMYK")))
    write("images/rgb.png", encoded("PNG"))
    write("images/palette.png", encoded("PNG", image.convert("P", palette=Image.Palette.ADAPTIVE)))
    write("images/sixteen.png", encoded("PNG", Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))))
    write("images/lossless.webp", encoded("WEBP", lossless=True))
    write("images/lossy.webp", encoded("WEBP", quality=50))
    write("images/plain.bmp", encoded("BMP"))
    write("images/lzw.tif", encoded("TIFF", compression="tiff_lzw"))
    write("images/plain.tif", encoded("TIFF"))


def annotations() -> None:
    truth = {
        "info": {"year": 2024},
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1.5, 2, 30, 20], "area": 600, "iscrowd": 0,
             "segmentation": [[1, 2, 30, 2, 30, 20]]},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 64, 48], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog", "supercategory": "animal"}],
    }
    write("coco/plain.json", json.dumps(truth))
    for image in truth["images"]:
        image["id"] = str(image["id"])
    for annotation in truth["annotations"]:
        annotation["image_id"] = float(annotation["image_id"])
    write("coco/exported.json", "\ufeff" + json.dumps(truth, indent=1))
    results = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 20], "score": 0.9},
               {"image_id": 2, "category_id": 7, "bbox": [5, 5, 9, 9], "score": 0.1, "file_name": "2.jpg"}]
    write("results/plain.json", json.dumps(results))
    bitmap = np.zeros((48, 64), np.uint8, order="F")
    bitmap[5:20, 3:30] = 1
    encoded = mask.encode(bitmap)
    compressed = {"size": [48, 64], "counts": encoded["counts"].decode()}
    runs = {"size": [48, 64], "counts": [149, 15, 33, 15, 2860]}
    for annotation, segmentation in zip(truth["annotations"], [compressed, runs]):
        annotation["segmentation"] = segmentation
    write("coco/run_lengths.json", json.dumps(truth))
    for result, segmentation in zip(results, [compressed, [[5, 5, 14, 5, 14, 14]]]):
        result["segmentation"] = segmentation
    del results[0]["bbox"]
    write("results/masks.json", json.dumps(results))
    xml = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>x</folder><filename>a.jpg</filename><size><width>64.0</width><height>48</height><depth>3</depth></size>
<object><name>cat</name><pose>Left</pose><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4.5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name> traffic light </name><difficult>1</difficult><part><name>head</name></part>
<bndbox><xmax>9</xmax><xmin>1</xmin><ymin>1</ymin><ymax>9</ymax></bndbox></object></annotation>
"""
    write("voc/utf8.xml", xml)
    write("voc/latin1.xml", xml.replace("utf-8", "ISO-8859-1").replace("cat", "ñandú").encode("latin-1"))
    write("voc_lists/names.txt", "a\nphoto 1\n\n")
    write("voc_lists/flags.txt", "\ufeffa  1\nb -1\n")


def weights() -> None:
    """A ResNet-18 of one channel: every tensor that the importer asks for, in a few kilobytes."""
    width = [1, 1, 2, 4, 8]
    tensors = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        tensors[f"{name}.weight"] = rng.standard_normal((outputs, inputs, side, side)).astype(np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = np.abs(rng.standard_normal(outputs)).astype(np.float32)

    conv("conv1", "bn1", 1, 3, 7)
    for stage in range(1, 5):
        for block in range(2):
            inputs = width[stage - 1] if block == 0 else width[stage]
            path = f"layer{stage}.{block}"
            conv(f"{path}.conv1", f"{path}.bn1", width[stage], inputs, 3)
            conv(f"{path}.conv2", f"{path}.bn2", width[stage], width[stage], 3)
            if stage > 1 and block == 0:
                conv(f"{path}.downsample.0", f"{path}.downsample.1", width[stage], inputs, 1)
    write("weights/backbone.safetensors", save(tensors))
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    for name, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        file = io.BytesIO()
        torch.save({"state_dict": state}, file, **options)
        write(f"weights/{name}.pth", file.getvalue())
    write("weights/numpy.pkl", pickle.dumps({"model": tensors, "__author__": "x"}, protocol=4))


def onnx_files() -> None:
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(nodes, "g", [value("x", ["batch", 2])], [value("z", ["batch", 2])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.helper.set_model_props(model, {"scrl.kind": "backbone", "scrl.arch": "resnet18"})
    write("onnx/model.onnx", model.SerializeToString())


def settings() -> None:
    write("pretrain/scrl.toml", """method = "scrl"
seed = 3
[model]
arch = "resnet18"
width = 0.25
[augment]
view_size = 64
crop_scale = [0.2, 1.0]
color_jitter = [0.4, 0.4, 0.2, 0.1]
[boxes]
count = 4
min_size = 16.0
[optimizer]
kind = "lars"
weight_decay = 1e-6
[schedule]
epochs = 4
batch_size = 8
base_lr = 0.5
warmup_epochs = 0.5
accumulate = 2
""")
    write("transfer/small.toml", """protocol = "voc"
iterations = 40
batch_size = 2
min_sizes = [64, 80]
max_size = 128
[model]
num_classes = 2
[model.backbone]
arch = "resnet18"
width = 0.25
[model.anchors]
sizes = [8.0, 16.0, 32.0, 64.0, 128.0]
[solver]
lr = 0.01
milestones = [0.5, 30]
[data.train]
format = "voc"
root = "x"
split = "train"
""")
    write("plan/plan.toml", """inits = ["random", "scrl"]
label_fractions = [0.5, 1.0]
seeds = [0, 1]
transfer = "transfer.toml"
[pretrain]
scrl = { recipe = "scrl.toml", set = ["schedule.epochs=2"] }
[data.synth]
width = 64
height = 64
train = 8
val = 4
[sweep]
base_lr = [0.1, 0.2]
[report]
metric = "AP50"
""")


images()
annotations()
weights()
onnx_files()
settings()
