"""Runs a detector exported by `scrl export detector`: python detect.py MODEL IMAGE [SCORE]

Prints score, x1, y1, x2, y2 and class of each detection. Where the detector gives masks, it prints their pixels as well and draws
them into masks.png. Needs onnxruntime, pillow and numpy.
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
boxes, scores, labels, counts, *masks = session.run(None, inputs)
drawn = numpy.asarray(image).copy()
for i in range(counts[0]):
    if scores[0, i] >= float(sys.argv[3] if len(sys.argv) > 3 else 0.5):
        x1, y1, x2, y2 = boxes[0, i] * numpy.tile(image.size, 2) / (width, height, width, height)
        line = f"{scores[0, i]:.5f} {x1:.3f} {y1:.3f} {x2:.3f} {y2:.3f} {classes[labels[0, i]]}"
        if masks:  # the cells of the box, sampled at the centres of the image's pixels; beyond them is zero
            cells = numpy.pad(masks[0][0, i], 1)
            a, b = masks[0].shape[-1] / max(x2 - x1, 1e-6), masks[0].shape[-1] / max(y2 - y1, 1e-6)
            place = (a, 0, 1 - x1 * a, 0, b, 1 - y1 * b)
            pasted = Image.fromarray(cells).transform(image.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
            inside = numpy.asarray(pasted) >= 0.5
            drawn[inside] = drawn[inside] // 2 + numpy.uint8([0, 110, 60])
            line += f" {inside.sum()} pixels"
        print(line)
if masks:
    Image.fromarray(drawn).save("masks.png")
