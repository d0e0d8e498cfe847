use std::ops::Mul;

use super::geometry::{lerp, sin_cos};

/// A colour in sRGB, each part from 0 to 1. Parts beyond are kept until the picture is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Color {
    /// Red.
    pub r: f32,
    /// Green.
    pub g: f32,
    /// Blue.
    pub b: f32,
}

/// A colour from its parts.
pub(crate) const fn rgb(r: f32, g: f32, b: f32) -> Color {
    Color { r, g, b }
}

/// A colour as `0xRRGGBB`.
pub(crate) const fn hex(code: u32) -> Color {
    rgb(
        ((code >> 16) & 255) as f32 / 255.0,
        ((code >> 8) & 255) as f32 / 255.0,
        (code & 255) as f32 / 255.0,
    )
}

impl Color {
    /// A colour by lightness (0 to 1), chroma (0 to about 0.3) and hue in degrees.
    ///
    /// Oklab (Ottosson 2020), so that steps of equal size look equally large.
    pub(crate) fn oklch(lightness: f32, chroma: f32, hue: f32) -> Self {
        let (sin, cos) = sin_cos(hue);
        let (a, b) = (chroma * cos, chroma * sin);
        let cube = |x: f32| x * x * x;
        let l = cube(lightness + 0.396_337_78 * a + 0.215_803_76 * b);
        let m = cube(lightness - 0.105_561_346 * a - 0.063_854_17 * b);
        let s = cube(lightness - 0.089_484_18 * a - 1.291_485_5 * b);
        let encode = |x: f32| {
            let x = x.clamp(0.0, 1.0);
            if x <= 0.003_130_8 {
                12.92 * x
            } else {
                1.055 * libm::powf(x, 1.0 / 2.4) - 0.055
            }
        };
        rgb(
            encode(4.076_741_7 * l - 3.307_711_6 * m + 0.230_969_94 * s),
            encode(-1.268_438 * l + 2.609_757_4 * m - 0.341_319_38 * s),
            encode(-0.004_196_086 * l - 0.703_418_6 * m + 1.707_614_7 * s),
        )
    }

    /// From this colour to another.
    pub fn mix(self, other: Self, share: f32) -> Self {
        rgb(
            lerp(self.r, other.r, share),
            lerp(self.g, other.g, share),
            lerp(self.b, other.b, share),
        )
    }

    /// How bright it looks, 0 to 1 (Rec. 601's weights).
    pub fn luma(self) -> f32 {
        0.299 * self.r + 0.587 * self.g + 0.114 * self.b
    }

    /// Grey at 0, itself at 1, stronger beyond.
    pub(crate) fn saturated(self, by: f32) -> Self {
        let grey = self.luma();
        rgb(grey, grey, grey).mix(self, by)
    }

    /// Its line colour: darker and a little more colourful.
    pub(crate) fn line(self) -> Self {
        (self * 0.42)
            .saturated(1.25)
            .mix(rgb(0.13, 0.07, 0.10), 0.30)
    }

    /// The largest difference of a part.
    pub fn distance(self, other: Self) -> f32 {
        let parts = [self.r - other.r, self.g - other.g, self.b - other.b];
        parts
            .into_iter()
            .fold(0.0, |most, d| f32::max(most, d.abs()))
    }

    /// What light adds: never darker, never beyond white.
    pub(crate) fn screen(self, other: Self) -> Self {
        let one = |a: f32, b: f32| 1.0 - (1.0 - a.min(1.0)) * (1.0 - b.min(1.0));
        rgb(
            one(self.r, other.r),
            one(self.g, other.g),
            one(self.b, other.b),
        )
    }
}

impl Mul<f32> for Color {
    type Output = Self;
    fn mul(self, by: f32) -> Self {
        rgb(self.r * by, self.g * by, self.b * by)
    }
}

impl Mul for Color {
    type Output = Self;
    fn mul(self, by: Self) -> Self {
        rgb(self.r * by.r, self.g * by.g, self.b * by.b)
    }
}

/// A colour between anchors, at `t` from 0 (the first) to 1 (the last).
pub(crate) fn ramp(anchors: &[Color], t: f32) -> Color {
    let steps = (anchors.len() - 1) as f32;
    let at = t.clamp(0.0, 1.0) * steps;
    let i = (at as usize).min(anchors.len() - 2);
    anchors[i].mix(anchors[i + 1], at - i as f32)
}
