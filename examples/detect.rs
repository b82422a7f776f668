//! Runs a detector exported by `scrl export detector` without `scrl`: only the crates `ort`, `image` and `serde_json`.
//!
//! ```sh
//! ORT_DYLIB_PATH=libonnxruntime.so cargo run --release --example detect MODEL IMAGE [SCORE]
//! ```
//!
//! For files with the input `image_sizes`, which is the default of the export. Where the detector gives masks, their pixels are
//! printed as well and drawn into masks.png.

use std::error::Error;

use image::imageops::FilterType;
use ort::{inputs, session::Session, value::TensorRef};
use serde_json::{Value, from_str};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, score @ ..] = args.as_slice() else { return Err("detect MODEL IMAGE [SCORE]".into()) };
    let lowest = score.first().map_or(Ok(0.5), |score| score.parse::<f32>())?;
    let mut session = Session::builder(&ort::init().build()?)?.commit_from_file(model)?;
    let about = |session: &Session, key| session.metadata().ok()?.custom(key);
    let classes: Vec<String> =
        from_str(&about(&session, "scrl.classes").ok_or("MODEL was not exported by scrl")?)?;
    let prepare: Value =
        from_str(&about(&session, "scrl.preprocessing").ok_or("MODEL was not exported by scrl")?)?;
    let raw = about(&session, "scrl.input").as_deref() == Some("raw");
    let number = |value: &Value| value.as_f64().unwrap_or_default() as f32;

    // The short side is min_size, the long side at most max_size.
    let image = image::open(file)?;
    let (w, h) = (image.width() as f32, image.height() as f32);
    let scale = (number(&prepare["min_size"]) / w.min(h)).min(number(&prepare["max_size"]) / w.max(h));
    let [width, height] = [w, h].map(|side| ((side * scale).round() as u32).max(1));
    let small = image.resize_exact(width, height, FilterType::Triangle).into_rgb8();

    // The image goes in the top-left corner; the rest, up to multiples of 32, is zero.
    let [columns, rows] = [width, height].map(|side| side.next_multiple_of(32) as usize);
    let mut pixels = vec![0.0; 3 * rows * columns];
    for (x, y, pixel) in small.enumerate_pixels() {
        for (c, &value) in pixel.0.iter().enumerate() {
            let normal =
                (f32::from(value) / 255.0 - number(&prepare["mean"][c])) / number(&prepare["std"][c]);
            let place = (c * rows + y as usize) * columns + x as usize;
            pixels[place] = if raw { f32::from(value) } else { normal };
        }
    }
    let sizes = [i64::from(height), i64::from(width)];
    let outputs = session.run(inputs![
        "images" => TensorRef::from_array_view(([1, 3, rows, columns], pixels.as_slice()))?,
        "image_sizes" => TensorRef::from_array_view(([1, 2], sizes.as_slice()))?,
    ])?;
    let (_, boxes) = outputs["boxes"].try_extract_tensor::<f32>()?;
    let (_, scores) = outputs["scores"].try_extract_tensor::<f32>()?;
    let (_, labels) = outputs["labels"].try_extract_tensor::<i64>()?;
    let masks = outputs.get("masks").map(|masks| masks.try_extract_tensor::<f32>()).transpose()?;
    let mut drawn = image.to_rgb8();
    let count = outputs["num_detections"].try_extract_tensor::<i64>()?.1[0] as usize;
    for i in (0..count).filter(|&i| scores[i] >= lowest) {
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|side| {
            boxes[4 * i + side] * if side % 2 == 0 { w / width as f32 } else { h / height as f32 }
        });
        print!("{:.5} {x1:.3} {y1:.3} {x2:.3} {y2:.3} {}", scores[i], classes[labels[i] as usize]);
        if let Some((shape, cells)) = &masks {
            let side = shape[3] as usize;
            let cells = &cells[i * side * side..(i + 1) * side * side];
            let inside = pasted(cells, side, [x1, y1, x2, y2], [drawn.width(), drawn.height()]);
            for &(x, y) in &inside {
                let tint = [0, 110, 60];
                let pixel = drawn.get_pixel_mut(x, y);
                pixel.0 = [0, 1, 2].map(|channel| pixel.0[channel] / 2 + tint[channel]);
            }
            print!(" {} pixels", inside.len());
        }
        println!();
    }
    if masks.is_some() {
        drawn.save("masks.png")?;
    }
    Ok(())
}

/// The pixels of an image of this size in an object: the cells of its box, sampled at the centres of the pixels, are one half or more.
fn pasted(
    cells: &[f32],
    side: usize,
    [x1, y1, x2, y2]: [f32; 4],
    [width, height]: [u32; 2],
) -> Vec<(u32, u32)> {
    // Beyond the cells is zero.
    let cell = |x: f32, y: f32| {
        let within = |place: f32| place >= 0.0 && place < side as f32;
        if within(x) && within(y) { cells[y as usize * side + x as usize] } else { 0.0 }
    };
    let value = |x: u32, y: u32| {
        let place = |pixel: u32, low: f32, high: f32| {
            (pixel as f32 + 0.5 - low) / (high - low).max(1e-6) * side as f32 - 0.5
        };
        let (x, y) = (place(x, x1, x2), place(y, y1, y2));
        let (u, v) = (x - x.floor(), y - y.floor());
        let row = |y: f32| (1.0 - u) * cell(x.floor(), y) + u * cell(x.floor() + 1.0, y);
        (1.0 - v) * row(y.floor()) + v * row(y.floor() + 1.0)
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    pixels.filter(|&(x, y)| value(x, y) >= 0.5).collect()
}
