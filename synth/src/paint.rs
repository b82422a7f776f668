//! Turns a layout into pixels: background, clutter, textured objects, light, lens and sensor.

use image::RgbImage;
use rand::{Rng as _, RngCore as _};

use super::layout::{Layout, PlacedObject};
use super::raster::Coverage;
use super::shapes::{Point, blob, fitted, random_direction, randomly_turned};
use super::texture::{Color, Texture, fractal_noise};
use scrl_core::random::{Rng, stream};

/// How far an object's mean colour lies from what it covers, at least, in RGB distance, after [`RECOLOURINGS`].
const MIN_COLOR_DISTANCE: f32 = 0.22;
const RECOLOURINGS: usize = 6;
/// Differences within a texture's palette.
const OBJECT_CONTRAST: (f32, f32) = (0.1, 0.7);
const GROUND_CONTRAST: (f32, f32) = (0.1, 0.55);
/// Texture periods as parts of the image's shorter side.
const OBJECT_PERIODS: (f32, f32) = (0.03, 0.22);
const GROUND_PERIODS: (f32, f32) = (0.04, 0.5);
const MAX_BLOBS: u32 = 3;
const MAX_LINES: u32 = 5;

/// Paints a layout.
pub(super) fn paint(layout: &Layout, width: u32, height: u32, rng: &mut Rng) -> RgbImage {
    let mut canvas = Canvas::background(width, height, rng);
    for _ in 0..rng.random_range(0..=MAX_BLOBS) {
        canvas.add_blob(rng);
    }
    for _ in 0..rng.random_range(0..=MAX_LINES) {
        canvas.add_line(rng);
    }
    let light = random_direction(rng);
    // Drawn ahead of the objects, so that they change the pixels they cover and no others.
    let mut camera = stream(rng.next_u64(), &[]);
    for object in &layout.objects {
        canvas.add_object(object, light, rng);
    }
    canvas.light(&mut camera);
    canvas.blur(camera.random_range(0.0..0.9));
    canvas.expose(&mut camera)
}

/// An image of floating-point colours, row-major, 1 for white.
struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<Color>,
}

impl Canvas {
    /// One texture, or two that share the plane along an irregular line.
    fn background(width: u32, height: u32, rng: &mut Rng) -> Self {
        let short = width.min(height) as f32;
        let draw = |rng: &mut Rng| Texture::random(pixels(GROUND_PERIODS, short), GROUND_CONTRAST, rng);
        let (first, second) = (draw(rng), rng.random_bool(0.4).then(|| draw(rng)));
        let (direction, seed) = (random_direction(rng), rng.random());
        let centre = Point {
            x: rng.random_range(0.2..0.8) * width as f32,
            y: rng.random_range(0.2..0.8) * height as f32,
        };
        let color = |i: u32| {
            let (x, y) = ((i % width) as f32 + 0.5, (i / width) as f32 + 0.5);
            let Some(second) = &second else { return first.color(x, y) };
            let along = (x - centre.x) * direction.x + (y - centre.y) * direction.y;
            let border = along / short + (fractal_noise(x * 4.0 / short, y * 4.0 / short, seed) - 0.5) * 0.5;
            let share = (border * 20.0 + 0.5).clamp(0.0, 1.0);
            if share == 0.0 {
                first.color(x, y)
            } else if share == 1.0 {
                second.color(x, y)
            } else {
                mixed(first.color(x, y), second.color(x, y), share)
            }
        };
        Self { width, height, pixels: (0..width * height).map(color).collect() }
    }

    fn short(&self) -> f32 {
        self.width.min(self.height) as f32
    }

    /// Adds an irregular textured patch that is not an object.
    fn add_blob(&mut self, rng: &mut Rng) {
        let side = self.short() * rng.random_range(0.12..0.6);
        let centre = self.random_point(rng);
        let coverage = Coverage::fill(&fitted(&randomly_turned(&blob(rng), 0.35, rng), centre, side));
        let texture = Texture::random(pixels(OBJECT_PERIODS, self.short()), OBJECT_CONTRAST, rng);
        let opacity = rng.random_range(0.4..1.0);
        self.fill(&coverage, |x, y, alpha| (texture.color(x, y), alpha * opacity));
    }

    /// Adds a straight line between two points.
    fn add_line(&mut self, rng: &mut Rng) {
        let (a, b) = (self.random_point(rng), self.random_point(rng));
        let (dx, dy) = (b.x - a.x, b.y - a.y);
        let length = (dx * dx + dy * dy).sqrt().max(1.0);
        let half = (self.short() * rng.random_range(0.003..0.016)).max(0.4);
        let (nx, ny) = (-dy / length * half, dx / length * half);
        let corner = |p: Point, sign: f32| Point { x: p.x + nx * sign, y: p.y + ny * sign };
        let outline = vec![vec![corner(a, 1.0), corner(b, 1.0), corner(b, -1.0), corner(a, -1.0)]];
        let color: Color = std::array::from_fn(|_| rng.random_range(0.05..0.95));
        let opacity = rng.random_range(0.3..0.9);
        self.fill(&Coverage::fill(&outline), |_, _, alpha| (color, alpha * opacity));
    }

    /// A point in the image.
    fn random_point(&self, rng: &mut Rng) -> Point {
        Point {
            x: rng.random_range(0.0..1.0) * self.width as f32,
            y: rng.random_range(0.0..1.0) * self.height as f32,
        }
    }

    /// Paints an object over what lies behind it: first its shadow, for every other object, then its shaded
    /// texture.
    fn add_object(&mut self, object: &PlacedObject, light: Point, rng: &mut Rng) {
        if rng.random_bool(0.4) {
            let reach = object.side * rng.random_range(0.02..0.08);
            let strength = rng.random_range(0.2..0.5);
            let away = |part: f32| -> i32 { (part * reach).round() as i32 };
            let shadow = object.coverage.shifted(away(-light.x), away(-light.y));
            self.fill(&shadow, |_, _, alpha| ([0.0; 3], alpha * strength));
        }
        let texture = self.contrasting_texture(object, rng);
        let shade = rng.random_range(0.0..0.3);
        let centre = object.centre;
        self.fill(&object.coverage, |x, y, alpha| {
            let towards = ((x - centre.x) * light.x + (y - centre.y) * light.y) / object.side * 2.0;
            (texture.color(x, y).map(|c| c * (1.0 + shade * towards)), alpha)
        });
    }

    /// A random texture whose mean colour differs from the mean of the pixels it will cover.
    fn contrasting_texture(&self, object: &PlacedObject, rng: &mut Rng) -> Texture {
        let behind = self.mean_color(&object.coverage);
        let mut texture = Texture::random(pixels(OBJECT_PERIODS, self.short()), OBJECT_CONTRAST, rng);
        if object.own_material {
            texture = texture.of_material(object.class, self.short());
        }
        for _ in 0..RECOLOURINGS {
            if distance(texture.mean_color(), behind) >= MIN_COLOR_DISTANCE {
                break;
            }
            texture = texture.recolored(OBJECT_CONTRAST, rng);
        }
        texture
    }

    fn mean_color(&self, coverage: &Coverage) -> Color {
        let mut sum = [0.0; 3];
        let mut weight = 0.0;
        for (x, y, alpha) in coverage.pixels(self.width, self.height) {
            let pixel = self.pixels[y * self.width as usize + x];
            sum.iter_mut().zip(pixel).for_each(|(s, c)| *s += c * alpha);
            weight += alpha;
        }
        sum.map(|s| s / f32::max(weight, 1e-6))
    }

    /// Blends `paint(x, y, coverage) -> (colour, opacity)` over the covered pixels, with `x` and `y` at their
    /// centres.
    fn fill(&mut self, coverage: &Coverage, paint: impl Fn(f32, f32, f32) -> (Color, f32)) {
        for (x, y, alpha) in coverage.pixels(self.width, self.height) {
            let (color, opacity) = paint(x as f32 + 0.5, y as f32 + 0.5, alpha);
            let pixel = &mut self.pixels[y * self.width as usize + x];
            *pixel = mixed(*pixel, color, opacity);
        }
    }

    /// Uneven light over the scene, a colour cast and an exposure.
    fn light(&mut self, rng: &mut Rng) {
        let direction = random_direction(rng);
        let slope = rng.random_range(0.0..0.25);
        let exposure = rng.random_range(0.8..1.15_f32);
        let cast: Color = std::array::from_fn(|_| exposure * rng.random_range(0.9..1.1));
        let (width, height) = (self.width as f32, self.height as f32);
        for (i, pixel) in self.pixels.iter_mut().enumerate() {
            let x = (i % self.width as usize) as f32 / width - 0.5;
            let y = (i / self.width as usize) as f32 / height - 0.5;
            let gain = 1.0 + slope * 2.0 * (x * direction.x + y * direction.y);
            *pixel = std::array::from_fn(|k| pixel[k] * gain * cast[k]);
        }
    }

    /// Mixes the image with its 3×3 binomial blur, horizontally and then vertically.
    fn blur(&mut self, amount: f32) {
        let (width, height) = (self.width as usize, self.height as usize);
        self.blur_lines(amount, 1, width, (0..height).map(|y| y * width));
        self.blur_lines(amount, width, height, 0..width);
    }

    /// Blurs lines of `length` pixels that are `step` apart in memory.
    fn blur_lines(&mut self, amount: f32, step: usize, length: usize, starts: impl Iterator<Item = usize>) {
        for start in starts {
            let mut before = self.pixels[start];
            for k in 0..length {
                let at = start + k * step;
                let here = self.pixels[at];
                let after = self.pixels[if k + 1 < length { at + step } else { at }];
                let side: Color = std::array::from_fn(|c| (before[c] + after[c]) / 2.0);
                self.pixels[at] = mixed(here, side, amount * 0.5);
                before = here;
            }
        }
    }

    /// Adds the sensor's noise and rounds to bytes.
    fn expose(&self, rng: &mut Rng) -> RgbImage {
        let strength = rng.random_range(0.0..0.03_f32) * 255.0;
        let mut image = RgbImage::new(self.width, self.height);
        for (out, pixel) in image.pixels_mut().zip(&self.pixels) {
            let bits = rng.next_u64();
            for (k, (byte, value)) in out.0.iter_mut().zip(pixel).enumerate() {
                // The difference of two bytes: a triangular distribution in (-1, 1).
                let part = |shift: usize| ((bits >> shift) & 0xff) as f32 / 256.0;
                let noise = part(16 * k) - part(16 * k + 8);
                *byte = (value * 255.0 + noise * strength + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
        image
    }
}

fn pixels(range: (f32, f32), short: f32) -> (f32, f32) {
    // A period below three pixels would be noise.
    ((range.0 * short).max(3.0), (range.1 * short).max(4.0))
}

fn mixed(a: Color, b: Color, t: f32) -> Color {
    std::array::from_fn(|k| a[k] + (b[k] - a[k]) * t)
}

fn distance(a: Color, b: Color) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::arrange;
    use crate::{Split, SynthConfig};

    #[test]
    fn an_object_changes_the_pixels_it_owns_and_none_beyond_its_box_and_shadow() {
        let config = SynthConfig { objects: [1, 1], ..SynthConfig::default() };
        for index in 0..20 {
            let layout = arrange(&config, Split::Train, &mut stream(index, &[]));
            let empty = Layout { objects: Vec::new(), ids: Vec::new() };
            let painted = |layout: &Layout| paint(layout, 128, 128, &mut stream(index, &[1])).into_raw();
            let (with, without) = (painted(&layout), painted(&empty));
            let object = &layout.objects[0];
            // Half the side, a shadow of 0.08 sides at most, and a pixel each for rounding, edge and blur.
            let reach = object.side * (0.5 + 0.08) + 3.0;
            let mut owned_and_changed = 0;
            for (i, &id) in layout.ids.iter().enumerate() {
                let changed = with[3 * i..3 * i + 3] != without[3 * i..3 * i + 3];
                let (x, y) = ((i % 128) as f32 + 0.5, (i / 128) as f32 + 0.5);
                let near = (x - object.centre.x).abs().max((y - object.centre.y).abs()) <= reach;
                assert!(near || !changed, "scene {index}: pixel ({x}, {y}) is not the object's");
                owned_and_changed += usize::from(changed && id == 1);
            }
            let owned = layout.ids.iter().filter(|&&id| id == 1).count();
            assert!(
                owned_and_changed as f32 >= 0.95 * owned as f32,
                "scene {index}: {owned_and_changed} of {owned}"
            );
        }
    }
}
