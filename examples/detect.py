"""Runs a detector exported by `scrl export detector`: python detect.py MODEL IMAGE [SCORE]

Needs onnxruntime, pillow and numpy.
"""
import json, sys
import numpy, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, prepare = json.loads(about["scrl.classes"]), json.loads(about["scrl.preprocessing"])
# Resize: the short side to min_size, but the long side to max_size at most.
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
scale = min(prepare["min_size"] / min(image.size), prepare["max_size"] / max(image.size))
width, height = (max(1, int(side * scale + 0.5)) for side in image.size)
small = image.resize((width, height), Image.Resampling[prepare["interpolation"].upper()])
pixels = numpy.asarray(small, numpy.float32)
if about["scrl.input"] == "normalized":
    pixels = (pixels / 255 - numpy.float32(prepare["mean"])) / numpy.float32(prepare["std"])
inputs = {"images": pixels.transpose(2, 0, 1)[None]}
if about["scrl.image_sizes"] == "true":  # pad right and bottom with zeros to multiples of 32
    inputs["images"] = numpy.pad(inputs["images"], [(0, 0), (0, 0), (0, -height % 32), (0, -width % 32)])
    inputs["image_sizes"] = numpy.array([[height, width]])
boxes, scores, labels, counts = session.run(["boxes", "scores", "labels", "num_detections"], inputs)
for box, score, label in zip(boxes[0, : counts[0]], scores[0], labels[0]):
    if score >= float(sys.argv[3] if len(sys.argv) > 3 else 0.5):
        x1, y1, x2, y2 = box * numpy.tile(image.size, 2) / (width, height, width, height)
        print(f"{score:.5f} {x1:.3f} {y1:.3f} {x2:.3f} {y2:.3f} {classes[label]}")
