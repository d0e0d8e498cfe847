use burn::tensor::{Device, Tensor, TensorData};
use image::{DynamicImage, Rgb, RgbImage};
use serde_json::Value;

use crate::ClipVisionConfig;
use crate::error::{ClipVisionError, Result};
use crate::json::{Object, parse};
use crate::resample::{Canvas, bicubic};

/// Pictures to what an image encoder reads, as transformers does it.
///
/// The reference is `CLIPImageProcessorPil` of transformers 5, which is `CLIPImageProcessor` of transformers 4, and of 5 where torchvision is
/// not installed: Pillow's bicubic filter on 8-bit values, then a cut from the middle. The 8-bit pixels are equal to its with Pillow 13; older
/// ones may differ at sharp edges of pictures more than twice as tall as wide, as does torchvision everywhere.
///
/// Fields are what a `preprocessor_config.json` may set; [`Default`] is what it says for every published CLIP of 224 pixels.
///
/// ```
/// use clip_vision::{ClipImageProcessor, Fit};
/// use image::{Rgb, RgbImage};
///
/// let portrait = RgbImage::from_pixel(300, 400, Rgb([120, 90, 80]));
/// let processor = ClipImageProcessor::default();
/// let pixels = processor.preprocess(&portrait, Fit::Crop);
/// assert_eq!(pixels.shape().as_slice(), [3, 224, 224]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClipImageProcessor {
    /// What a picture is scaled to before it is cut.
    pub resize: Resize,
    /// Side of the square that is cut from the middle, in pixels: `crop_size`. Where the picture is smaller, black is put around it.
    pub side: usize,
    /// What 8-bit values are multiplied by.
    pub rescale_factor: f64,
    /// What is then subtracted from red, green and blue.
    pub image_mean: [f32; 3],
    /// What they are then divided by.
    pub image_std: [f32; 3],
}

/// What a picture is scaled to before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side to so many pixels, and the longer one along with it, rounded down.
    ShortestEdge(usize),
    /// To this size, whatever becomes of the proportions.
    Exactly {
        /// In pixels.
        height: usize,
        /// In pixels.
        width: usize,
    },
    /// It is left as it is.
    Never,
}

/// How a picture that is not square gets into a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// The middle is cut out, as CLIP's own processor does it: the ends of the longer side are lost.
    #[default]
    Crop,
    /// The whole picture is scaled to the square, and so squeezed along its longer side.
    Squash,
    /// The whole picture is put in the middle of a square of this colour, which is then scaled.
    Pad(Rgb<u8>),
}

const EXPECTED: &str = "the settings of CLIP's image processor";
/// CLIP's mean of red, green and blue.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's standard deviation of red, green and blue.
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// The longest side that settings may ask for.
const MOST: usize = 1 << 12;
/// `resample` of Pillow's bicubic filter.
const BICUBIC: u64 = 3;

impl Default for ClipImageProcessor {
    fn default() -> Self {
        Self::of_side(224)
    }
}

impl ClipImageProcessor {
    /// CLIP's processor for an encoder that takes pictures of another size than 224.
    pub fn of_side(side: usize) -> Self {
        Self {
            resize: Resize::ShortestEdge(side),
            side,
            rescale_factor: 1.0 / 255.0,
            image_mean: MEAN,
            image_std: STD,
        }
    }

    /// Reads the text of a `preprocessor_config.json`, or that of a `processor_config.json` that holds an `image_processor`.
    ///
    /// # Errors
    /// If the text is garbled, is of another processor, or asks for what is not done here: another filter than the bicubic one, another
    /// form than a square, or padding.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_value(&parse(text, EXPECTED)?)
    }

    /// [`from_json`](Self::from_json) for what a parser made of the text.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_value(value: &Value) -> Result<Self> {
        let whole = Object::new(value, EXPECTED)?;
        let settings = whole.inner("image_processor")?.unwrap_or(whole);
        for key in ["image_processor_type", "feature_extractor_type"] {
            let known = [
                "CLIPImageProcessor",
                "CLIPImageProcessorFast",
                "CLIPImageProcessorPil",
                "CLIPFeatureExtractor",
            ];
            if let Some(found) = settings.get(key)
                && !known.iter().any(|name| found == *name)
            {
                return settings.wrong(key, "\"CLIPImageProcessor\"");
            }
        }
        if let Some(filter) = settings.get("resample")
            && filter.as_u64() != Some(BICUBIC)
        {
            return settings.wrong("resample", "3, the bicubic filter");
        }
        if settings.flag("do_pad", false)? {
            return settings.wrong("do_pad", "false");
        }
        let default = Self::default();
        let size = match settings.get("size") {
            None => default.resize,
            Some(Value::Object(_)) => Self::size(&settings)?,
            // Files of transformers before 4.26.
            Some(_) => Resize::ShortestEdge(settings.count("size", 224, MOST)?),
        };
        let resize = match settings.flag("do_resize", true)? {
            true => size,
            false => Resize::Never,
        };
        let side = match (settings.flag("do_center_crop", true)?, resize) {
            (true, _) => match settings.inner("crop_size") {
                Ok(None) => default.side,
                Ok(Some(crop)) => {
                    let height = crop.count("height", 224, MOST)?;
                    if crop.count("width", 224, MOST)? != height {
                        return settings.wrong("crop_size", "a square");
                    }
                    height
                }
                Err(_) => settings.count("crop_size", 224, MOST)?,
            },
            (false, Resize::Exactly { height, width }) if height == width => height,
            (false, _) => {
                return settings.wrong(
                    "do_center_crop",
                    "true, or a `size` of equal `height` and `width`: the encoder takes squares",
                );
            }
        };
        let rescaled = settings.flag("do_rescale", true)?;
        let normalized = settings.flag("do_normalize", true)?;
        let processor = Self {
            resize,
            side,
            rescale_factor: match rescaled {
                true => settings.number("rescale_factor", default.rescale_factor)?,
                false => 1.0,
            },
            image_mean: match normalized {
                true => settings.colour("image_mean", MEAN)?,
                false => [0.0; 3],
            },
            image_std: match normalized {
                true => settings.colour("image_std", STD)?,
                false => [1.0; 3],
            },
        };
        if processor.image_std.iter().any(|&std| std <= 0.0) {
            return settings.wrong("image_std", "three numbers above 0");
        }
        if processor.rescale_factor <= 0.0 {
            return settings.wrong("rescale_factor", "a number above 0, such as 1/255");
        }
        Ok(processor)
    }

    /// The object under `size`.
    fn size(settings: &Object<'_>) -> Result<Resize> {
        let expected = "{\"shortest_edge\": …} or {\"height\": …, \"width\": …}";
        let Some(size) = settings.inner("size")? else {
            return settings.wrong("size", expected);
        };
        let has = |key| size.get(key).is_some();
        let whole = |key| size.count(key, 224, MOST);
        match (has("shortest_edge"), has("height") && has("width")) {
            (true, false) if !has("longest_edge") => {
                Ok(Resize::ShortestEdge(whole("shortest_edge")?))
            }
            (false, true) => Ok(Resize::Exactly {
                height: whole("height")?,
                width: whole("width")?,
            }),
            _ => settings.wrong("size", expected),
        }
    }

    /// Whether it makes pictures of the size that an encoder takes.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self, encoder: &ClipVisionConfig) -> Result<()> {
        if self.side == encoder.image_size {
            return Ok(());
        }
        Err(ClipVisionError::Size {
            processor: self.side,
            encoder: encoder.image_size,
        })
    }

    /// The square that the encoder sees, in 8-bit values.
    ///
    /// # Panics
    /// If a side of the picture is 0.
    pub fn fit(&self, picture: &RgbImage, fit: Fit) -> RgbImage {
        let [width, height] = [picture.width(), picture.height()].map(|side| side as usize);
        assert!(
            width > 0 && height > 0,
            "a picture of {width}×{height} pixels has nothing to encode"
        );
        let side = self.side;
        let whole = |canvas| bicubic(&canvas, [side; 2], 0..side, 0..side);
        let to = match (fit, self.resize) {
            (Fit::Squash, _) => return whole(Canvas::tight(picture)),
            (Fit::Pad(Rgb(ground)), _) => return whole(Canvas::square(picture, ground)),
            (Fit::Crop, Resize::ShortestEdge(edge)) => {
                let short = width.min(height);
                let along = |length: usize| (edge as u64 * length as u64 / short as u64) as usize;
                [along(width), along(height)]
            }
            (Fit::Crop, Resize::Exactly { height, width }) => [width, height],
            (Fit::Crop, Resize::Never) => [width, height],
        };
        let (columns, left) = middle(to[0], side);
        let (rows, top) = middle(to[1], side);
        let cut = bicubic(&Canvas::tight(picture), to, columns, rows);
        if [cut.width(), cut.height()] == [side as u32; 2] {
            return cut;
        }
        let mut out = RgbImage::new(side as u32, side as u32);
        image::imageops::replace(&mut out, &cut, left as i64, top as i64);
        out
    }

    /// A picture for the encoder: `[3, side, side]`, in f32.
    ///
    /// # Panics
    /// If a side of the picture is 0.
    pub fn preprocess(&self, picture: &RgbImage, fit: Fit) -> TensorData {
        TensorData::new(
            self.normalize(&self.fit(picture, fit)),
            [3, self.side, self.side],
        )
    }

    /// Pictures for the encoder: `[pictures, 3, side, side]`, in f32.
    ///
    /// # Panics
    /// If there is no picture, or a side of one is 0.
    pub fn pixels(&self, pictures: &[&RgbImage], fit: Fit, device: &Device) -> Tensor<4> {
        let mut values = vec![];
        for picture in pictures {
            values.extend(self.normalize(&self.fit(picture, fit)));
        }
        let shape = [pictures.len(), 3, self.side, self.side];
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The picture that diffusers and tencent's code encode for the unconditional input: zeros behind the normalisation, which is a grey of
    /// CLIP's mean. `[1, 3, side, side]`.
    pub fn mean_grey(&self, device: &Device) -> Tensor<4> {
        Tensor::zeros([1, 3, self.side, self.side], device)
    }

    /// A black picture, which ComfyUI encodes for the unconditional input: `[1, 3, side, side]`.
    pub fn black(&self, device: &Device) -> Tensor<4> {
        self.pixels(&[&RgbImage::new(1, 1)], Fit::Squash, device)
    }

    /// `[3, side, side]` of `[side, side, 3]`, with transformers' roundings: to f32 behind the multiplication, which is in f64.
    fn normalize(&self, picture: &RgbImage) -> Vec<f32> {
        let mut values = Vec::with_capacity(picture.as_raw().len());
        for channel in 0..3 {
            let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
            values.extend(picture.pixels().map(|pixel| {
                let rescaled = (f64::from(pixel.0[channel]) * self.rescale_factor) as f32;
                (rescaled - mean) / std
            }));
        }
        values
    }
}

/// The middle `side` of `length`: what is taken of it, and where that goes.
fn middle(length: usize, side: usize) -> (std::ops::Range<usize>, usize) {
    match length.checked_sub(side) {
        Some(more) => (more / 2..more / 2 + side, 0),
        None => (0..length, (side - length).div_ceil(2)),
    }
}

/// A picture in red, green and blue. What shows through is white, as in transformers 5 and as most portraits with their background removed
/// are meant.
///
/// Pillow's `convert("RGB")`, and so transformers 4 and diffusers' `load_image`, forget how transparent a pixel is and take the colour that
/// is stored beneath, of which nobody knows what it is. Who wants that takes [`DynamicImage::into_rgb8`].
pub fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0.map(u32::from);
        let over = |colour: u32| ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        Rgb([over(red), over(green), over(blue)])
    })
}
