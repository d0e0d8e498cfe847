use std::borrow::Cow;
use std::ops::Range;

use image::RgbImage;

/// Bits of a weight below the point: Pillow's.
const FRACTION: u32 = 22;
/// How far the filter reaches, in pixels of the coarser picture.
const REACH: f64 = 2.0;

/// A picture on a ground that may be larger than it.
pub(crate) struct Canvas<'a> {
    picture: &'a RgbImage,
    width: usize,
    height: usize,
    left: usize,
    top: usize,
    ground: [u8; 3],
}

impl<'a> Canvas<'a> {
    /// The picture alone.
    pub(crate) fn tight(picture: &'a RgbImage) -> Self {
        Self {
            picture,
            width: picture.width() as usize,
            height: picture.height() as usize,
            left: 0,
            top: 0,
            ground: [0; 3],
        }
    }

    /// The picture in the middle of a square that is as long as its longer side; half a pixel further left or up where it must be.
    pub(crate) fn square(picture: &'a RgbImage, ground: [u8; 3]) -> Self {
        let tight = Self::tight(picture);
        let side = tight.width.max(tight.height);
        Self {
            left: (side - tight.width) / 2,
            top: (side - tight.height) / 2,
            width: side,
            height: side,
            ground,
            ..tight
        }
    }

    /// A row from end to end.
    fn row(&self, y: usize) -> Cow<'_, [u8]> {
        let length = 3 * self.picture.width() as usize;
        let own = |y: usize| &self.picture.as_raw()[y * length..][..length];
        if !self.reaches(y) {
            return self.bare_row().into();
        }
        if self.width == self.picture.width() as usize {
            return own(y - self.top).into();
        }
        let mut row = self.bare_row();
        row[3 * self.left..][..length].copy_from_slice(own(y - self.top));
        row.into()
    }

    fn bare_row(&self) -> Vec<u8> {
        self.ground.repeat(self.width)
    }

    /// Whether the picture has a part in a row.
    fn reaches(&self, y: usize) -> bool {
        (self.top..self.top + self.picture.height() as usize).contains(&y)
    }
}

/// A part of the canvas scaled to `[width, height]`, by the cubic filter of Keys (1981) with a = -1/2, stretched where the picture shrinks.
///
/// It is Pillow 13's `resize(…, BICUBIC)` to the bit: one axis first, then the other, rounded and clipped to 8 bits after each. What lies
/// outside of the part is not computed, however large it would be.
pub(crate) fn bicubic(
    canvas: &Canvas<'_>,
    size: [usize; 2],
    columns: Range<usize>,
    rows: Range<usize>,
) -> RgbImage {
    let [width, height] = size;
    let across: Vec<Tap> = columns.map(|x| Tap::new(canvas.width, width, x)).collect();
    let down: Vec<Tap> = rows.map(|y| Tap::new(canvas.height, height, y)).collect();
    let sides = [across.len(), down.len()].map(|side| side as u32);
    let (left, right) = hull(&across);
    let (top, bottom) = hull(&down);

    let mut out = Vec::with_capacity(3 * across.len() * down.len());
    if across_first([canvas.width, canvas.height], size) {
        let bare = mix_pixels(&across, &canvas.bare_row(), 0);
        let stride = bare.len();
        let mut scaled = Vec::with_capacity(stride * (bottom - top));
        for y in top..bottom {
            match canvas.reaches(y) {
                true => scaled.extend(mix_pixels(&across, &canvas.row(y), 0)),
                false => scaled.extend_from_slice(&bare),
            }
        }
        for tap in &down {
            let row = |y: usize| Cow::Borrowed(&scaled[(y - top) * stride..][..stride]);
            out.extend(mix_rows(tap, stride, row));
        }
    } else {
        let part = 3 * left..3 * right;
        for tap in &down {
            let row = |y: usize| match canvas.row(y) {
                Cow::Borrowed(row) => Cow::Borrowed(&row[part.clone()]),
                Cow::Owned(row) => Cow::Owned(row[part.clone()].to_vec()),
            };
            let mixed = mix_rows(tap, part.len(), row);
            out.extend(mix_pixels(&across, &mixed, left));
        }
    }
    RgbImage::from_raw(sides[0], sides[1], out).expect("three bytes a pixel")
}

/// Pillow's choice: the height goes first where it loses more than twice as many pixels as the width. It shows at sharp edges, where the first
/// pass is clipped. Pillow before 13 chooses so for pictures more than a hundred times as tall as wide alone.
fn across_first([from_width, from_height]: [usize; 2], [width, height]: [usize; 2]) -> bool {
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    let (across, down) = (lost(from_width, width), lost(from_height, height));
    !(down > 0 && down > 2 * across)
}

/// The part of the input that taps take from.
fn hull(taps: &[Tap]) -> (usize, usize) {
    let first = taps.iter().map(|tap| tap.first).min();
    let end = taps.iter().map(|tap| tap.first + tap.weights.len()).max();
    (first.unwrap_or(0), end.unwrap_or(0))
}

/// One row, scaled: `row` begins with pixel `first`.
fn mix_pixels(across: &[Tap], row: &[u8], first: usize) -> Vec<u8> {
    let (pixels, _) = row.as_chunks::<3>();
    let mut out = Vec::with_capacity(3 * across.len());
    for tap in across {
        let mut sums = [HALF; 3];
        for (&weight, pixel) in tap.weights.iter().zip(&pixels[tap.first - first..]) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        out.extend(sums.map(to_byte));
    }
    out
}

/// One row made of several, each of `stride` bytes.
fn mix_rows<'a>(tap: &Tap, stride: usize, row: impl Fn(usize) -> Cow<'a, [u8]>) -> Vec<u8> {
    let mut sums = vec![HALF; stride];
    for (&weight, y) in tap.weights.iter().zip(tap.first..) {
        for (sum, &value) in sums.iter_mut().zip(row(y).iter()) {
            *sum += weight * i32::from(value);
        }
    }
    sums.into_iter().map(to_byte).collect()
}

/// What an output cell takes from the input.
struct Tap {
    first: usize,
    /// In 1 / 2²² each. The sum of the positive ones is at most 1.2, so sums over bytes fit 31 bits.
    weights: Vec<i32>,
}

impl Tap {
    fn new(from: usize, to: usize, cell: usize) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let (reach, shrink) = (REACH * stretch, 1.0 / stretch);
        let centre = (cell as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end)
            .map(|x| filter((x as f64 - centre + 0.5) * shrink))
            .collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let weight = weight / total * f64::from(1u32 << FRACTION);
            (weight + 0.5_f64.copysign(weight)) as i32
        };
        Self {
            first,
            weights: weights.into_iter().map(fixed).collect(),
        }
    }
}

const HALF: i32 = 1 << (FRACTION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

fn filter(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < REACH {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
