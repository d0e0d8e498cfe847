use image::RgbImage;
use image::imageops::crop_imm;
use serde::{Deserialize, Serialize};

use crate::LibraryError;

/// Where the face is: a square in the middle square of a picture, which is what training sees of it. Left edge, upper edge and side are
/// shares of that square's side, 0 to 1.
///
/// No face detector is included: the region is the same in every picture. So pictures are best cut to head and shoulders, as for training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "[f64; 3]", try_from = "[f64; 3]")]
pub struct FaceRegion {
    left: f64,
    top: f64,
    side: f64,
}

impl FaceRegion {
    /// The whole square.
    pub const WHOLE: Self = Self {
        left: 0.0,
        top: 0.0,
        side: 1.0,
    };

    /// A square by its left edge, its upper edge and its side.
    ///
    /// # Errors
    /// If it is not within the picture, or smaller than a twentieth of it.
    pub fn new(left: f64, top: f64, side: f64) -> Result<Self, LibraryError> {
        let within = |edge: f64| edge >= 0.0 && edge + side <= 1.0 + 1e-9;
        if within(left) && within(top) && side >= 0.05 {
            return Ok(Self { left, top, side });
        }
        Err(LibraryError::Value {
            what: "face".into(),
            found: format!("{left},{top},{side}"),
            expected: "left edge, upper edge and side of a square within the picture, each a share of it such as 0.25,0.1,0.5,".into(),
        })
    }

    /// Left edge, upper edge and side.
    pub fn edges(&self) -> [f64; 3] {
        [self.left, self.top, self.side]
    }

    /// The region cut out of a picture.
    ///
    /// # Panics
    /// If a side of the picture is 0.
    pub fn of(&self, picture: &RgbImage) -> RgbImage {
        let (width, height) = picture.dimensions();
        let square = width.min(height);
        assert!(square > 0, "a picture without pixels");
        let pixels = |share: f64| (share * f64::from(square)).round() as u32;
        let side = pixels(self.side).clamp(1, square);
        let place =
            |edge: f64, length: u32| (length - square) / 2 + pixels(edge).min(square - side);
        let (left, top) = (place(self.left, width), place(self.top, height));
        crop_imm(picture, left, top, side, side).to_image()
    }
}

impl Default for FaceRegion {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl From<FaceRegion> for [f64; 3] {
    fn from(face: FaceRegion) -> Self {
        face.edges()
    }
}

impl TryFrom<[f64; 3]> for FaceRegion {
    type Error = LibraryError;

    fn try_from([left, top, side]: [f64; 3]) -> Result<Self, LibraryError> {
        Self::new(left, top, side)
    }
}

impl std::str::FromStr for FaceRegion {
    type Err = LibraryError;

    /// `LEFT,TOP,SIDE`
    fn from_str(text: &str) -> Result<Self, LibraryError> {
        let numbers = text.split(',').map(|number| number.trim().parse());
        let numbers: Vec<f64> = numbers.collect::<Result<_, _>>().unwrap_or_default();
        match numbers.as_slice() {
            &[left, top, side] => Self::new(left, top, side),
            _ => Err(LibraryError::Value {
                what: "face".into(),
                found: text.into(),
                expected: "LEFT,TOP,SIDE in shares of the picture, such as 0.25,0.1,0.5,".into(),
            }),
        }
    }
}

impl std::fmt::Display for FaceRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{}", self.left, self.top, self.side)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_region_is_cut_out_of_the_middle_square() {
        let picture = RgbImage::from_fn(120, 80, |x, y| Rgb([x as u8, y as u8, 0]));
        let cut = "0.25,0.5,0.5".parse::<FaceRegion>().unwrap().of(&picture);
        assert_eq!(cut.dimensions(), (40, 40));
        assert_eq!(cut.get_pixel(0, 0).0, [20 + 20, 40, 0]);
        assert_eq!(
            FaceRegion::WHOLE.of(&picture).get_pixel(79, 79).0,
            [99, 79, 0]
        );
    }

    #[test]
    fn what_is_no_square_within_the_picture_is_refused() {
        for bad in [
            "",
            "0,0",
            "0,0,0",
            "0.6,0,0.5",
            "-0.1,0,0.5",
            "0,nan,0.5",
            "a,b,c",
            "0,0,1.5",
        ] {
            let error = bad.parse::<FaceRegion>().unwrap_err().to_string();
            assert!(error.contains("face is"), "{bad}: {error}");
        }
    }
}
