//! Times each step of the augmentation on one thread; a full photograph is 500×375 pixels, a view 224×224.
//!
//! `cargo bench -p scrl-core --bench transforms -- [FILTER]`. An element of the throughput is an output pixel.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, Rgb};
use scrl_core::random::stream;
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::blur::{gaussian_blur, resized_blur};
use scrl_core::transforms::color::{
    adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, grayscale, solarize,
};
use scrl_core::transforms::decode::decode_bytes;
use scrl_core::transforms::flip::flip_horizontal;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD, to_chw};
use scrl_core::transforms::resample::{crop_resize, resize_bilinear};
use scrl_core::transforms::{ColorJitter, RgbImage};

const PHOTOGRAPH: Size = Size { width: 500, height: 375 };
const VIEW: Size = Size { width: 224, height: 224 };

/// Coloured waves of several wavelengths: smooth and detailed parts, as photographs have.
fn picture(size: Size) -> RgbImage {
    let wave = |position: f32, length: f32| 0.5 + 0.5 * (position / length).sin();
    RgbImage::from_fn(size.width, size.height, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let [red, green, blue] = [wave(x + y, 60.0), wave(x * y, 900.0), wave(x - 2.0 * y, 7.0)];
        Rgb([red, green, blue].map(|value| (255.0 * value) as u8))
    })
}

fn pixels(size: Size) -> Throughput {
    Throughput::Elements(u64::from(size.width) * u64::from(size.height))
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(pixels(PHOTOGRAPH));
    for (name, format) in [("jpeg", ImageFormat::Jpeg), ("png", ImageFormat::Png)] {
        let mut file = Cursor::new(Vec::new());
        picture(PHOTOGRAPH).write_to(&mut file, format).expect("a picture can be encoded");
        let file = file.into_inner();
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(decode_bytes(&file, Path::new(name)).expect("a whole file")));
        });
    }
}

fn geometry(criterion: &mut Criterion) {
    let (photograph, view) = (picture(PHOTOGRAPH), picture(VIEW));
    let mut group = criterion.benchmark_group("geometry");
    group.throughput(pixels(VIEW));
    let crop = Rect { x: 60, y: 40, width: 320, height: 280 };
    group.bench_function("crop_resize", |b| b.iter(|| black_box(crop_resize(&photograph, crop, VIEW))));
    group.bench_function("resize_bilinear", |b| b.iter(|| black_box(resize_bilinear(&photograph, VIEW))));
    group.bench_function("flip", |b| b.iter(|| black_box(flip_horizontal(&view))));
    group.bench_function("gaussian_blur", |b| b.iter(|| black_box(gaussian_blur(&view, 23, 1.0))));
    group.bench_function("resized_blur", |b| b.iter(|| black_box(resized_blur(&view, 1.2))));
    let mut values = vec![0.0; (3 * VIEW.width * VIEW.height) as usize];
    group.bench_function("normalise", |b| {
        b.iter(|| to_chw(black_box(&view), IMAGENET_MEAN, IMAGENET_STD, black_box(&mut values)));
    });
}

fn color(criterion: &mut Criterion) {
    let view = picture(VIEW);
    let mut group = criterion.benchmark_group("color");
    group.throughput(pixels(VIEW));
    let mut bench = |name: &str, change: &dyn Fn(&mut RgbImage)| {
        group.bench_function(name, |bencher| {
            let change = |mut image: RgbImage| {
                change(&mut image);
                image
            };
            bencher.iter_batched(|| view.clone(), change, BatchSize::SmallInput);
        });
    };
    bench("brightness", &|image| adjust_brightness(image, 1.3));
    bench("contrast", &|image| adjust_contrast(image, 0.8));
    bench("saturation", &|image| adjust_saturation(image, 1.15));
    bench("hue", &|image| adjust_hue(image, 0.07));
    bench("grayscale", &grayscale);
    bench("solarize", &|image| solarize(image, 128));
    let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 };
    bench("jitter", &|image| jitter.apply(image, &mut stream(0, &[])));
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = transforms;
    config = short();
    targets = decoding, geometry, color
}
criterion_main!(transforms);
