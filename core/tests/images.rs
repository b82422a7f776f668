//! Images against Pillow and torchvision: `fixtures/images/generate.py` wrote what they make of the same pixels.

use std::path::{Path, PathBuf};

use image::RgbImage;
use safetensors::SafeTensors;
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::{blur, color, decode, resample};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// The expected images, by name.
struct Expected(Vec<u8>);

impl Expected {
    fn load() -> Self {
        Self(std::fs::read(folder().join("expected.safetensors")).expect("the fixture"))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("the fixture")
    }

    fn image(&self, name: &str) -> RgbImage {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).expect("a tensor of this name");
        let [height, width, 3] = *tensor.shape() else { panic!("{name} is no image") };
        RgbImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).expect("an image")
    }

    /// For every tensor named `SOURCE.OPERATION.ARGUMENTS`: the source image, the arguments and what is expected.
    fn each(&self, operation: &str, mut check: impl FnMut(&str, RgbImage, &str, RgbImage)) {
        let mut checked = 0;
        for name in self.tensors().names() {
            let mut parts = name.splitn(3, '.');
            let (source, found) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if found == operation {
                let source = self.image(&format!("{source}.source"));
                check(name, source, parts.next().unwrap_or_default(), self.image(name));
                checked += 1;
            }
        }
        assert!(checked > 0, "the fixture has nothing for {operation}");
    }
}

fn worst(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 = a.iter().zip(b.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

fn size(text: &str) -> Size {
    let (width, height) = text.split_once('x').expect("WIDTHxHEIGHT");
    Size { width: width.parse().expect("a width"), height: height.parse().expect("a height") }
}

fn number(text: &str) -> f32 {
    text.parse().expect("a number")
}

fn changed(mut image: RgbImage, change: impl Fn(&mut RgbImage)) -> RgbImage {
    change(&mut image);
    image
}

// The filters' weights are rounded to fewer bits than Pillow's, hence one level.
#[test]
fn resizing_is_within_a_level_of_pillow() {
    let expected = Expected::load();
    expected.each("bicubic", |name, source, arguments, wanted| {
        let off = worst(&resample::resize(&source, size(arguments)), &wanted);
        assert!(off <= 1, "{name} is off by {off}");
    });
    expected.each("bilinear", |name, source, arguments, wanted| {
        let off = worst(&resample::resize_bilinear(&source, size(arguments)), &wanted);
        assert!(off <= 1, "{name} is off by {off}");
    });
}

#[test]
fn cropping_and_resizing_at_once_is_within_a_level_of_pillows_crop_then_resize() {
    let crop = Rect { x: 7, y: 5, width: 29, height: 21 };
    Expected::load().each("crop", |name, source, arguments, wanted| {
        let off = worst(&resample::crop_resize(&source, crop, size(arguments)), &wanted);
        assert!(off <= 1, "{name} is off by {off}");
    });
}

#[test]
fn brightness_contrast_and_saturation_are_torchvisions() {
    let expected = Expected::load();
    type Operation = fn(&mut RgbImage, f32);
    let operations: [(&str, Operation); 3] = [
        ("brightness", color::adjust_brightness),
        ("contrast", color::adjust_contrast),
        ("saturation", color::adjust_saturation),
    ];
    for (operation, adjust) in operations {
        expected.each(operation, |name, source, arguments, wanted| {
            assert_eq!(worst(&changed(source, |i| adjust(i, number(arguments))), &wanted), 0, "{name}");
        });
    }
}

#[test]
fn hue_is_torchvisions() {
    Expected::load().each("hue", |name, source, arguments, wanted| {
        assert_eq!(
            worst(&changed(source, |i| color::adjust_hue(i, number(arguments))), &wanted),
            0,
            "{name}"
        );
    });
}

#[test]
fn grey_and_solarized_images_are_torchvisions() {
    let expected = Expected::load();
    expected.each("grayscale", |name, source, _, wanted| {
        assert_eq!(changed(source, color::grayscale), wanted, "{name}");
    });
    expected.each("solarize", |name, source, _, wanted| {
        assert_eq!(changed(source, |i| color::solarize(i, 128)), wanted, "{name}");
    });
}

// torchvision sums the square kernel at once: sums near a half may round the other way.
#[test]
fn gaussian_blur_is_within_a_level_of_torchvision() {
    Expected::load().each("gaussian", |name, source, arguments, wanted| {
        let (kernel, sigma) = arguments.split_once('.').expect("KERNEL.SIGMA");
        let got = blur::gaussian_blur(&source, kernel.parse().expect("a kernel size"), number(sigma));
        assert!(worst(&got, &wanted) <= 1, "{name} is off by {}", worst(&got, &wanted));
        assert!(mean_difference(&got, &wanted) < 0.01, "{name} differs in more than a few values");
    });
}

fn decoded(name: &str) -> RgbImage {
    decode::decode(&folder().join(name)).expect("an image")
}

// The decoders differ in the last bits of the inverse cosine transform and of the colour conversion.
#[test]
fn jpeg_files_of_every_layout_decode_as_in_pillow() {
    let expected = Expected::load();
    for name in ["baseline.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "ycck.jpg"] {
        let off = worst(&decoded(name), &expected.image(&format!("decoded.{name}")));
        assert!(off <= 4, "{name} is off by {off}");
    }
    // Colour at half resolution is interpolated with different weights.
    let (got, wanted) = (decoded("subsampled.jpg"), expected.image("decoded.subsampled.jpg"));
    assert!(mean_difference(&got, &wanted) < 1.5, "off by {} on average", mean_difference(&got, &wanted));
    assert_eq!(decoded("palette.png"), expected.image("decoded.palette.png"));
}

#[test]
fn images_are_turned_upright_and_their_size_is_known_from_the_header() {
    let expected = Expected::load();
    for orientation in 1..=8 {
        let name = format!("orientation_{orientation}.jpg");
        let image = decoded(&name);
        let off = worst(&image, &expected.image(&format!("decoded.{name}")));
        assert!(off <= 4, "{name} is off by {off}");
        let size = decode::read_size(&folder().join(&name)).expect("a size");
        assert_eq!((size.width, size.height), image.dimensions(), "{name}");
    }
}

#[test]
fn a_progressive_jpeg_cut_anywhere_is_an_error() {
    let bytes = std::fs::read(folder().join("progressive.jpg")).expect("the fixture");
    for len in 4..bytes.len() {
        let error =
            decode::decode_bytes(&bytes[..len], Path::new("cut.jpg")).expect_err("an error").to_string();
        assert!(error.starts_with("image `cut.jpg` is truncated or damaged: "), "{len}: {error}");
    }
}
