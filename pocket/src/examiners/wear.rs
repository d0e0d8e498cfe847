use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};

use crate::school::Stream;

/// A picture as one that was generated might look: a little moved, blurred, recoloured, grainy or blotched, and packed with loss; each
/// by chance. It stays what it shows.
pub(super) fn wear(picture: &RgbImage, random: &mut Stream) -> RgbImage {
    let (width, height) = picture.dimensions();
    let mut planes = Planes::of(picture);
    if random.unit() < 0.8 {
        let scale = between(random, 0.95, 1.05);
        let shift = [between(random, -3.0, 3.0), between(random, -3.0, 3.0)];
        planes = planes.moved(scale, shift);
    }
    if random.unit() < 0.5 {
        planes = planes.blurred(between(random, 0.3, 1.2));
    }
    if random.unit() < 0.7 {
        let (brighter, contrast) = (between(random, -0.05, 0.05), between(random, 0.9, 1.1));
        for plane in &mut planes.colours {
            let (gain, more) = (between(random, 0.94, 1.06), between(random, -0.02, 0.02));
            for value in plane {
                *value = ((*value - 0.5) * contrast + 0.5 + brighter) * gain + more;
            }
        }
    }
    if random.unit() < 0.4 {
        let strength = between(random, 0.0, 0.04);
        for plane in &mut planes.colours {
            let noise = random.normal(plane.len());
            for (value, noise) in plane.iter_mut().zip(noise) {
                *value += strength * noise;
            }
        }
    }
    if random.unit() < 0.4 {
        planes.blotch(between(random, 0.0, 0.05), random);
    }
    let worn = planes.picture(width, height);
    if random.unit() < 0.2 {
        return packed(&worn, 40 + random.below(50) as u8);
    }
    worn
}

fn between(random: &mut Stream, from: f32, to: f32) -> f32 {
    from + (to - from) * random.unit()
}

/// Packed with loss and unpacked.
fn packed(picture: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Cursor::new(vec![]);
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))
        .expect("a JPEG in memory can be written");
    image::load_from_memory_with_format(bytes.get_ref(), ImageFormat::Jpeg)
        .expect("a JPEG that was just written can be read")
        .into_rgb8()
}

/// Red, green and blue apart, in `[0, 1]`.
struct Planes {
    width: usize,
    height: usize,
    colours: [Vec<f32>; 3],
}

impl Planes {
    fn of(picture: &RgbImage) -> Self {
        let (width, height) = picture.dimensions();
        let plane = |channel: usize| {
            let bytes = picture.iter().skip(channel).step_by(3);
            bytes.map(|&byte| f32::from(byte) / 255.0).collect()
        };
        Self {
            width: width as usize,
            height: height as usize,
            colours: [0, 1, 2].map(plane),
        }
    }

    fn picture(&self, width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let place = y as usize * self.width + x as usize;
            let byte = |plane: &Vec<f32>| (plane[place] * 255.0).round().clamp(0.0, 255.0) as u8;
            image::Rgb(self.colours.each_ref().map(byte))
        })
    }

    /// Enlarged about the middle and shifted by pixels; what comes in at an edge repeats it.
    fn moved(&self, scale: f32, shift: [f32; 2]) -> Self {
        let sources = |side: usize, shift: f32| -> Vec<(usize, usize, f32)> {
            let middle = (side - 1) as f32 / 2.0;
            let last = side - 1;
            let source = |at: usize| {
                let from = (at as f32 - shift - middle) / scale + middle;
                let from = from.clamp(0.0, last as f32);
                let first = from as usize;
                (first, (first + 1).min(last), from - first as f32)
            };
            (0..side).map(source).collect()
        };
        let columns = sources(self.width, shift[0]);
        let rows = sources(self.height, shift[1]);
        self.each(|plane, out| {
            for &(top, bottom, below) in &rows {
                let top = &plane[top * self.width..][..self.width];
                let bottom = &plane[bottom * self.width..][..self.width];
                out.extend(columns.iter().map(|&(left, right, beyond)| {
                    let mix = |row: &[f32]| row[left] + (row[right] - row[left]) * beyond;
                    mix(top) + (mix(bottom) - mix(top)) * below
                }));
            }
        })
    }

    /// Blurred by a Gaussian of this standard deviation in pixels.
    fn blurred(&self, deviation: f32) -> Self {
        let reach = (deviation * 2.5).ceil() as isize;
        let weight = |at: isize| (-0.5 * (at as f32 / deviation).powi(2)).exp();
        let weights: Vec<f32> = (-reach..=reach).map(weight).collect();
        let sum: f32 = weights.iter().sum();
        let pass = |plane: &[f32], out: &mut Vec<f32>, along: [usize; 2], across: [usize; 2]| {
            // `along` and `across` are a count and a stride each; the result lies transposed.
            for line in 0..across[0] {
                for at in 0..along[0] as isize {
                    let mut total = 0.0;
                    for (weight, offset) in weights.iter().zip(-reach..) {
                        let place = (at + offset).clamp(0, along[0] as isize - 1) as usize;
                        total += weight * plane[line * across[1] + place * along[1]];
                    }
                    out.push(total / sum);
                }
            }
        };
        self.each(|plane, out| {
            let mut turned = Vec::with_capacity(plane.len());
            pass(
                plane,
                &mut turned,
                [self.height, self.width],
                [self.width, 1],
            );
            pass(&turned, out, [self.width, self.height], [self.height, 1]);
        })
    }

    /// Adds soft spots of colour, some pixels wide.
    fn blotch(&mut self, strength: f32, random: &mut Stream) {
        let cell = 3 + random.below(8);
        let (columns, rows) = (self.width / cell + 2, self.height / cell + 2);
        let width = self.width;
        for plane in &mut self.colours {
            let spots = random.normal(columns * rows);
            for (place, value) in plane.iter_mut().enumerate() {
                let [x, y] = [place % width, place / width];
                let (column, row) = (x / cell, y / cell);
                let part = |at: usize| (at % cell) as f32 / cell as f32;
                let mix = |row: usize| {
                    let [left, right] = [0, 1].map(|more| spots[row * columns + column + more]);
                    left + (right - left) * part(x)
                };
                let spot = mix(row) + (mix(row + 1) - mix(row)) * part(y);
                *value += strength * spot;
            }
        }
    }

    fn each(&self, change: impl Fn(&[f32], &mut Vec<f32>)) -> Self {
        let colours = self.colours.each_ref().map(|plane| {
            let mut out = Vec::with_capacity(plane.len());
            change(plane, &mut out);
            out
        });
        Self { colours, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::puppet::{Character, Shot, draw};

    /// A black square with one white point at column 3, row 5.
    fn point() -> Planes {
        let mut plane = vec![0.0; 9 * 11];
        plane[5 * 9 + 3] = 1.0;
        Planes {
            width: 9,
            height: 11,
            colours: [plane.clone(), plane.clone(), plane],
        }
    }

    #[test]
    fn a_point_moves_to_the_right_and_down() {
        let moved = point().moved(1.0, [2.0, -1.0]);
        for plane in moved.colours {
            assert_eq!(
                plane.iter().position(|&value| value > 0.999),
                Some(4 * 9 + 5)
            );
            assert!((plane.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn a_blurred_point_is_round_and_as_bright_in_all() {
        let blurred = point().blurred(0.8);
        let plane = &blurred.colours[1];
        let at = |x: usize, y: usize| plane[y * 9 + x];
        assert!((plane.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert!(at(3, 5) > at(4, 5) && at(4, 5) > at(4, 6) && at(4, 6) > 0.01);
        for (one, other) in [((2, 5), (4, 5)), ((3, 4), (4, 5)), ((2, 4), (4, 6))] {
            let ((x, y), (u, v)) = (one, other);
            assert!((at(x, y) - at(u, v)).abs() < 1e-6, "{one:?} {other:?}");
        }
        // Next to the middle, a Gaussian falls by exp(-1 / (2 · 0.8²)).
        assert!((at(4, 5) / at(3, 5) - 0.4578).abs() < 1e-3);
    }

    #[test]
    fn what_is_roughened_changes_a_little_and_the_same_way_again() {
        let mut most = 0.0_f32;
        for number in 0..40 {
            let picture = draw(&Character::from_seed(number), &Shot::random(number), 96);
            let worn = || wear(&picture, &mut Stream::new(1, number, "wear"));
            let one = worn();
            assert_eq!((one.dimensions(), &one), ((96, 96), &worn()));
            let change = one.iter().zip(picture.iter()).map(|(a, b)| a.abs_diff(*b));
            let change = change.map(f32::from).sum::<f32>() / (96.0 * 96.0 * 3.0);
            assert!(change < 40.0, "{number}: {change}");
            most = most.max(change);
        }
        assert!(most > 5.0, "{most}");
    }
}
