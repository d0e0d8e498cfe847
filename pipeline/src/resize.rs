use image::RgbImage;

/// Bits of a weight below the point: Pillow's.
const FRACTION: u32 = 22;

/// Scales a picture by Lanczos's filter of three lobes, to the bit as Pillow's `resize(…, LANCZOS)` does: rows first, then columns, rounded and
/// clipped to 8 bits after each. The order and the clipping show at sharp edges, which is why other resamplers differ there.
///
/// # Panics
/// If a side is 0.
pub(crate) fn lanczos(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
    let (to_width, to_height) = (width as usize, height as usize);
    let mut values = picture.as_raw().clone();
    if from_width != to_width {
        let taps = Taps::new(from_width, to_width);
        let mut out = Vec::with_capacity(3 * to_width * from_height);
        for row in values.chunks_exact(3 * from_width) {
            for tap in &taps.0 {
                for channel in 0..3 {
                    out.push(tap.sum(|x| row[3 * x + channel]));
                }
            }
        }
        values = out;
    }
    if from_height != to_height {
        let taps = Taps::new(from_height, to_height);
        let stride = 3 * to_width;
        let mut out = Vec::with_capacity(stride * to_height);
        for tap in &taps.0 {
            for column in 0..stride {
                out.push(tap.sum(|y| values[y * stride + column]));
            }
        }
        values = out;
    }
    RgbImage::from_raw(width, height, values).expect("three bytes a pixel")
}

/// What every output cell takes from the input.
struct Taps(Vec<Tap>);

struct Tap {
    first: usize,
    weights: Vec<i64>,
}

impl Taps {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let reach = 3.0 * stretch;
        let tap = |cell: usize| {
            let centre = (cell as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end)
                .map(|x| filter((x as f64 - centre + 0.5) / stretch))
                .collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: f64| (weight / total * f64::from(1u32 << FRACTION)).round() as i64;
            Tap {
                first,
                weights: weights.into_iter().map(fixed).collect(),
            }
        };
        Self((0..to).map(tap).collect())
    }
}

impl Tap {
    fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let half = 1i64 << (FRACTION - 1);
        let sum: i64 = (self.first..)
            .zip(&self.weights)
            .map(|(x, weight)| i64::from(value(x)) * weight)
            .sum();
        ((sum + half) >> FRACTION).clamp(0, 255) as u8
    }
}

/// sinc(x) · sinc(x / 3) within three lobes.
fn filter(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = std::f64::consts::PI * x;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if (-3.0..3.0).contains(&x) {
        sinc(x) * sinc(x / 3.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_flat_picture_stays_flat_at_every_size() {
        let flat = RgbImage::from_pixel(31, 17, Rgb([7, 128, 255]));
        for (width, height) in [(8, 8), (31, 40), (62, 17), (1, 1), (100, 3)] {
            let scaled = lanczos(&flat, width, height);
            assert_eq!(scaled.dimensions(), (width, height));
            assert!(scaled.pixels().all(|pixel| pixel.0 == [7, 128, 255]));
        }
    }
}
