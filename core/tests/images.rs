//! Images against Pillow and torchvision: the `generate.py` of `fixtures/images` (files and a few of each operation) and
//! of `fixtures/resample` (many sizes and parameters) wrote what they make of the same pixels.

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
    /// The fixture beside the image files.
    fn load() -> Self {
        Self(std::fs::read(folder().join("expected.safetensors")).expect("the fixture"))
    }

    /// The fixture of sizes and parameters.
    fn of_sizes_and_parameters() -> Self {
        let path = folder().with_file_name("resample").join("expected.safetensors");
        Self(std::fs::read(path).expect("the fixture"))
    }

    fn both() -> [Self; 2] {
        [Self::load(), Self::of_sizes_and_parameters()]
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).expect("the fixture")
    }

    fn image(&self, name: &str) -> RgbImage {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).expect("a tensor of this name");
        let [height, width, 3] = *tensor.shape() else { panic!("{name} is not an image") };
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

fn rect(text: &str) -> Rect {
    let numbers: Vec<u32> = text.split(',').map(|n| n.parse().expect("a number")).collect();
    let [x, y, width, height] = numbers[..] else { panic!("{text} is not X,Y,WIDTH,HEIGHT") };
    Rect { x, y, width, height }
}

fn assert_equal(got: &RgbImage, wanted: &RgbImage, name: &str) {
    assert_eq!(worst(got, wanted), 0, "{name} differs by up to so many levels");
}

#[test]
fn resizing_is_pillows_to_the_byte_for_every_kind_of_size() {
    for expected in Expected::both() {
        expected.each("bicubic", |name, source, arguments, wanted| {
            assert_equal(&resample::resize(&source, size(arguments)), &wanted, name);
        });
        expected.each("bilinear", |name, source, arguments, wanted| {
            assert_equal(&resample::resize_bilinear(&source, size(arguments)), &wanted, name);
        });
    }
}

#[test]
fn cropping_and_resizing_at_once_is_pillows_crop_then_resize() {
    let crop = Rect { x: 7, y: 5, width: 29, height: 21 };
    Expected::load().each("crop", |name, source, arguments, wanted| {
        assert_equal(&resample::crop_resize(&source, crop, size(arguments)), &wanted, name);
    });
    type Cut = fn(&RgbImage, Rect, Size) -> RgbImage;
    let cuts: [(&str, Cut); 2] =
        [("crop_bicubic", resample::crop_resize), ("crop_bilinear", resample::crop_resize_bilinear)];
    for (operation, cut) in cuts {
        Expected::of_sizes_and_parameters().each(operation, |name, source, arguments, wanted| {
            let (crop, to) = arguments.split_once('-').expect("CROP-SIZE");
            assert_equal(&cut(&source, rect(crop), size(to)), &wanted, name);
        });
    }
}

#[test]
fn blur_by_resizing_is_the_official_codes() {
    Expected::of_sizes_and_parameters().each("resized_blur", |name, source, arguments, wanted| {
        let factor = arguments.parse().expect("a factor");
        assert_equal(&blur::resized_blur(&source, factor), &wanted, name);
    });
}

#[test]
fn brightness_contrast_saturation_and_hue_are_torchvisions() {
    type Operation = fn(&mut RgbImage, f32);
    let operations: [(&str, Operation); 4] = [
        ("brightness", color::adjust_brightness),
        ("contrast", color::adjust_contrast),
        ("saturation", color::adjust_saturation),
        ("hue", color::adjust_hue),
    ];
    for expected in Expected::both() {
        for (operation, adjust) in operations {
            expected.each(operation, |name, source, arguments, wanted| {
                assert_equal(&changed(source, |i| adjust(i, number(arguments))), &wanted, name);
            });
        }
    }
}

#[test]
fn grey_and_solarized_images_are_torchvisions() {
    for expected in Expected::both() {
        expected.each("grayscale", |name, source, _, wanted| {
            assert_equal(&changed(source, color::grayscale), &wanted, name);
        });
        expected.each("solarize", |name, source, arguments, wanted| {
            let threshold = arguments.parse().expect("a threshold");
            assert_equal(&changed(source, |i| color::solarize(i, threshold)), &wanted, name);
        });
    }
}

// torchvision sums the square kernel at once: sums near a half may round the other way.
#[test]
fn gaussian_blur_is_within_a_level_of_torchvision() {
    for expected in Expected::both() {
        expected.each("gaussian", |name, source, arguments, wanted| {
            let (kernel, sigma) = arguments.split_once(['.', '-']).expect("the kernel's size and sigma");
            let got = blur::gaussian_blur(&source, kernel.parse().expect("a kernel size"), number(sigma));
            assert!(worst(&got, &wanted) <= 1, "{name} is off by {}", worst(&got, &wanted));
            assert!(mean_difference(&got, &wanted) < 0.01, "{name} differs in more than a few values");
        });
    }
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
