use clip_vision::{ClipImageProcessor, Fit};
use image::RgbImage;

/// What of a picture matters where it is to be the reference of a character, measured in the square that an image encoder sees: the middle, as
/// long as the shorter side.
///
/// Whether a face is in it, and seen from the front, is not measured: that takes a network which knows faces.
///
/// ```
/// use image::{Rgb, RgbImage};
/// use sd_pipeline::{Grade, check_reference};
///
/// let flat = RgbImage::from_pixel(640, 512, Rgb([90, 60, 40]));
/// let check = check_reference(&flat);
/// assert_eq!(check.size, Grade::Good);
/// assert_eq!(check.light, Grade::Poor);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceCheck {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Good from 512 pixels of the shorter side, poor below the encoder's 224.
    pub size: Grade,
    /// Pixels of the shorter side that would hold all of its detail; no more than it has, and no more than 512. A picture that was enlarged
    /// has about those from before, within a third; one that is out of focus has fewer than it could.
    pub detail: f64,
    /// How much of the contrast lies between neighbours at the encoder's 224 pixels: the variance of the Laplacian (Pech-Pacheco et al.
    /// 2000) over that of the luma. Photographs in focus have 0.1 and more, enlarged from 64 pixels about 0.01.
    pub sharpness: f64,
    /// Good where the detail is as good as the encoder's 224 pixels, poor where it is less than half of them or `sharpness` is below 0.02.
    /// Grain, the blocks of strong JPEG compression and letters over a blurred picture pass for detail.
    pub clear: Grade,
    /// Share of the longer side that a cut to the square takes away: 0 to 1.
    pub lost: f64,
    /// Good to a twentieth lost; never poor, since there are other ways into a square: see [`Fit`].
    pub square: Grade,
    /// Luma, 0 to 255, below which the darkest twentieth of it lies.
    pub dark: f64,
    /// Luma, 0 to 255, above which the brightest twentieth of it lies.
    pub bright: f64,
    /// Poor where there is next to no contrast, usable where there is little, or where it is all dark or all bright.
    pub light: Grade,
}

/// How well a picture does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// It will do; a better picture would do better.
    Usable,
    /// The character would suffer.
    Poor,
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Usable => "usable",
            Self::Poor => "poor",
        })
    }
}

impl ReferenceCheck {
    /// The worst of its grades.
    pub fn grade(&self) -> Grade {
        self.size.max(self.clear).max(self.square).max(self.light)
    }
}

/// The shorter side of a picture that leaves nothing to be desired, in pixels.
const GOOD_SIDE: u32 = 512;
/// The side of the square that image encoders see, in pixels.
const SEEN: u32 = 224;
/// What is left of a count of pixels where its estimate is too low by as much as it may be.
const ESTIMATED: f64 = 0.75;
/// The variance of the Laplacian that comes from rounding to 8 bits: (4² + 4) / 12.
const ROUNDING: f64 = 20.0 / 12.0;
/// The variance of the Laplacian over that of the next coarser octave. Photographs and drawings in focus have about this or more: the
/// amplitudes of their frequencies go down as 1/f (Field 1987), so octaves weigh alike.
const FULL: f64 = 0.4;
/// As [`FULL`], of a picture that was enlarged twofold by a bilinear, bicubic or Lanczos filter, which leaves the finest octave empty.
const EMPTY: f64 = 0.14;
/// The smallest side of which a variance still says something, in pixels.
const SMALLEST: usize = 24;

/// Measures a picture that is to be the reference of a character.
///
/// # Panics
/// If a side of the picture is 0.
pub fn check_reference(picture: &RgbImage) -> ReferenceCheck {
    let (width, height) = picture.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    let square =
        |side: u32| Luma::of(&ClipImageProcessor::of_side(side as usize).fit(picture, Fit::Crop));
    let detail = detail(square(short.min(GOOD_SIDE)));
    let seen = square(SEEN);
    let contrast = variance(&seen.values);
    let sharpness = match contrast > ROUNDING {
        true => variance(&seen.laplacian()) / contrast,
        false => 0.0,
    };
    let [dark, bright] = seen.ends();
    let lost = 1.0 - f64::from(short) / f64::from(long);
    let wanted = f64::from(SEEN) * ESTIMATED;
    ReferenceCheck {
        width,
        height,
        size: grade(short < SEEN, short < GOOD_SIDE),
        detail,
        sharpness,
        clear: grade(detail < wanted / 2.0 || sharpness < 0.02, detail < wanted),
        lost,
        square: grade(false, lost > 0.05),
        dark,
        bright,
        light: grade(
            bright - dark < 12.0,
            bright - dark < 50.0 || bright < 80.0 || dark > 200.0,
        ),
    }
}

fn grade(poor: bool, usable: bool) -> Grade {
    match (poor, usable) {
        (true, _) => Grade::Poor,
        (_, true) => Grade::Usable,
        _ => Grade::Good,
    }
}

/// How many pixels of its side hold all detail of a square: octaves are taken off, from the finest on, by how empty they are.
fn detail(square: Luma) -> f64 {
    let side = square.side as f64;
    let mut energies = vec![];
    let (mut octave, mut rounding) = (square, ROUNDING);
    while octave.side >= SMALLEST {
        energies.push((variance(&octave.laplacian()) - rounding).max(0.0));
        octave = octave.halved();
        rounding /= 4.0;
    }
    let (mut empty, mut finer) = (0.0, 1.0);
    for pair in energies.windows(2) {
        let ratio = match pair[1] > 0.0 {
            true => pair[0] / pair[1],
            false => 0.0,
        };
        // An octave counts as far as those finer than it are empty.
        finer *= ((FULL / ratio).ln() / (FULL / EMPTY).ln()).clamp(0.0, 1.0);
        empty += finer;
    }
    side * (-empty).exp2()
}

/// The luma of a square picture (ITU-R BT.601), 0 to 255.
struct Luma {
    side: usize,
    values: Vec<f64>,
}

impl Luma {
    fn of(square: &RgbImage) -> Self {
        let luma = |[red, green, blue]: [u8; 3]| {
            0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue)
        };
        Self {
            side: square.width() as usize,
            values: square.pixels().map(|pixel| luma(pixel.0)).collect(),
        }
    }

    /// Four neighbours less four times the value, where there are four.
    fn laplacian(&self) -> Vec<f64> {
        let (side, at) = (self.side, &self.values);
        let mut out = Vec::with_capacity(at.len());
        for row in 1..side - 1 {
            out.extend(
                (row * side + 1..row * side + side - 1)
                    .map(|i| at[i - side] + at[i + side] + at[i - 1] + at[i + 1] - 4.0 * at[i]),
            );
        }
        out
    }

    /// The means of four.
    fn halved(&self) -> Self {
        let side = self.side / 2;
        let mean = |index: usize| {
            let i = 2 * (index / side * self.side + index % side);
            let at = &self.values;
            (at[i] + at[i + 1] + at[i + self.side] + at[i + self.side + 1]) / 4.0
        };
        Self {
            side,
            values: (0..side * side).map(mean).collect(),
        }
    }

    /// The 5th and the 95th of a hundred, in their order.
    fn ends(&self) -> [f64; 2] {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = (sorted.len() - 1) as f64;
        [0.05, 0.95].map(|share| sorted[(share * last) as usize])
    }
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use image::imageops::{FilterType, blur, resize};
    use proptest::prelude::*;

    /// A drawing with outlines, stripes and fields of many sizes.
    fn drawing(side: u32) -> RgbImage {
        RgbImage::from_fn(side, side, |x, y| {
            let [x, y] = [x, y].map(|at| (f64::from(at) + 0.5) / f64::from(side) - 0.5);
            let from_middle = (x * x + 1.4 * y * y).sqrt();
            let eye = ((x.abs() - 0.13).powi(2) + (y + 0.05).powi(2)).sqrt();
            Rgb(if eye < 0.02 {
                [20, 20, 30]
            } else if eye < 0.05 {
                [250, 250, 250]
            } else if (from_middle - 0.32).abs() < 0.006
                || (y - 0.13).abs() < 0.008 && x.abs() < 0.1
            {
                [60, 30, 20]
            } else if from_middle < 0.32 {
                [235, 190, 160]
            } else if from_middle < 0.42 && y < 0.1 {
                match (60.0 * y.atan2(x)).sin() > 0.0 {
                    true => [120, 70, 30],
                    false => [80, 40, 20],
                }
            } else {
                match ((x * 23.0).floor() + (y * 31.0).floor()) as i32 % 2 == 0 {
                    true => [120, 160, 120],
                    false => [140, 170, 190],
                }
            })
        })
    }

    fn scaled(picture: &RgbImage, side: u32) -> RgbImage {
        resize(picture, side, side, FilterType::CatmullRom)
    }

    #[test]
    fn a_sharp_large_square_is_good() {
        let check = check_reference(&drawing(640));
        assert_eq!(check.grade(), Grade::Good, "{check:?}");
        assert!(check.detail > 450.0, "{check:?}");
    }

    #[test]
    fn an_enlarged_picture_has_the_detail_that_it_had() {
        let sharp = drawing(640);
        for before in [64, 128, 256] {
            let small = scaled(&sharp, before);
            for (filter, after) in [
                (FilterType::CatmullRom, 512),
                (FilterType::CatmullRom, 1000),
                (FilterType::Lanczos3, 600),
                (FilterType::Triangle, 512),
            ] {
                let large = resize(&small, after, after, filter);
                let found = check_reference(&large).detail / f64::from(before);
                assert!(
                    (0.67..1.33).contains(&found),
                    "{before} to {after} by {filter:?}: {found}"
                );
            }
        }
    }

    #[test]
    fn the_more_blur_the_less_detail() {
        let sharp = drawing(512);
        let mut before = check_reference(&sharp);
        for sigma in [1.0, 2.0, 4.0, 8.0] {
            let check = check_reference(&blur(&sharp, sigma));
            assert!(check.detail < 0.8 * before.detail, "{sigma}: {check:?}");
            assert!(check.sharpness < before.sharpness, "{sigma}: {check:?}");
            before = check;
        }
        assert_eq!(before.clear, Grade::Poor);
        let soft = check_reference(&scaled(&scaled(&drawing(512), 140), 512));
        assert_eq!(soft.clear, Grade::Usable, "{soft:?}");
    }

    #[test]
    fn a_blurred_ground_does_not_make_a_picture_blurred() {
        let sharp = drawing(512);
        let mut picture = blur(&sharp, 6.0);
        let face = image::imageops::crop_imm(&sharp, 120, 120, 272, 272).to_image();
        image::imageops::replace(&mut picture, &face, 120, 120);
        assert_eq!(check_reference(&picture).clear, Grade::Good);
    }

    #[test]
    fn sizes_shapes_and_light_have_their_limits() {
        let of = |width, height| {
            let check = check_reference(&RgbImage::new(width, height));
            (check.size, check.square, (100.0 * check.lost).round())
        };
        assert_eq!(of(512, 512), (Grade::Good, Grade::Good, 0.0));
        assert_eq!(of(511, 537), (Grade::Usable, Grade::Good, 5.0));
        assert_eq!(of(600, 224), (Grade::Usable, Grade::Usable, 63.0));
        assert_eq!(of(223, 999), (Grade::Poor, Grade::Usable, 78.0));
        assert_eq!(of(1, 1), (Grade::Poor, Grade::Good, 0.0));

        let light = |low: f64, high: f64| {
            let mut picture = drawing(512);
            for value in picture.iter_mut() {
                *value = (low + f64::from(*value) / 255.0 * (high - low)).round() as u8;
            }
            check_reference(&picture).light
        };
        assert_eq!(light(0.0, 255.0), Grade::Good);
        assert_eq!(light(0.0, 70.0), Grade::Usable);
        assert_eq!(light(195.0, 255.0), Grade::Usable);
        assert_eq!(light(100.0, 150.0), Grade::Usable);
        assert_eq!(light(100.0, 110.0), Grade::Poor);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_picture_has_finite_measures_in_their_ranges(
            width in 1u32..120, height in 1u32..120, raw in prop::collection::vec(any::<u8>(), 3 * 120 * 120),
        ) {
            let raw = raw[..3 * (width * height) as usize].to_vec();
            let picture = RgbImage::from_raw(width, height, raw).unwrap();
            let check = check_reference(&picture);
            let short = f64::from(width.min(height));
            prop_assert!(check.detail > 0.0 && check.detail <= short, "{:?}", check);
            prop_assert!(check.sharpness.is_finite() && check.sharpness >= 0.0);
            prop_assert!((0.0..1.0).contains(&check.lost));
            prop_assert!(0.0 <= check.dark && check.dark <= check.bright && check.bright <= 255.5);
        }

        #[test]
        fn its_mirror_image_is_as_good(flip in any::<bool>(), sixteenth in 14u32..20, sigma in 0.3f32..3.0) {
            // No octave has an odd pixel to lose.
            let picture = blur(&drawing(16 * sixteenth), sigma);
            let mirrored = match flip {
                true => image::imageops::flip_horizontal(&picture),
                false => image::imageops::flip_vertical(&picture),
            };
            let [one, other] = [&picture, &mirrored].map(check_reference);
            prop_assert_eq!(one.grade(), other.grade());
            prop_assert!((one.detail / other.detail - 1.0).abs() < 1e-9);
        }
    }
}
