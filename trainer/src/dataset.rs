use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Rgb, RgbImage};

use crate::TrainError;

/// Endings of the files that are taken for pictures.
const PICTURES: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
/// Endings of a caption beside its picture, in the order in which they are looked for.
const CAPTIONS: [&str; 2] = ["txt", "caption"];

/// How many times longer than wide a picture may be: it is scaled whole before its middle is cut out.
const MAX_RATIO: u32 = 10;

/// A folder of pictures of one character, each with its caption.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The folder.
    pub folder: PathBuf,
    /// Its pictures, sorted by name.
    pub samples: Vec<Sample>,
    /// Files of the folder that are neither a picture nor a picture's caption.
    pub ignored: Vec<PathBuf>,
}

/// A picture and what the model is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The picture's file.
    pub picture: PathBuf,
    /// The caption, which has the trigger word in it.
    pub caption: String,
    /// Where the caption comes from.
    pub source: CaptionSource,
}

/// Where a caption comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionSource {
    /// A file beside the picture, as it is.
    File,
    /// A file beside the picture that lacked the trigger word; it was put in front.
    FileAndTrigger,
    /// No file, or an empty one: the trigger word alone.
    Trigger,
}

impl Dataset {
    /// Reads the names and captions of a folder; the pictures themselves are read by [`Sample::pixels`].
    ///
    /// # Errors
    /// If the folder cannot be read, has no picture, or a caption is no text.
    pub fn open(folder: impl AsRef<Path>, trigger: &str) -> Result<Self, TrainError> {
        let folder = folder.as_ref();
        let unreadable = |source| TrainError::Read {
            path: folder.to_path_buf(),
            source,
        };
        let mut files = vec![];
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_file() && !hidden(&path) {
                files.push(path);
            }
        }
        files.sort();
        let (pictures, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| ends_in(file, &PICTURES));
        if pictures.is_empty() {
            return Err(TrainError::NoPictures {
                folder: folder.to_path_buf(),
            });
        }

        let mut captions: BTreeMap<PathBuf, ()> = others.into_iter().map(|o| (o, ())).collect();
        let mut samples = Vec::with_capacity(pictures.len());
        let mut by_stem = BTreeMap::new();
        for picture in pictures {
            if let Some(other) = by_stem.insert(picture.with_extension(""), picture.clone()) {
                return Err(TrainError::SharedCaption {
                    first: other,
                    second: picture,
                });
            }
            let beside = CAPTIONS
                .map(|ending| picture.with_extension(ending))
                .into_iter()
                .find(|file| captions.contains_key(file));
            let text = match &beside {
                Some(file) => {
                    captions.remove(file);
                    read_caption(file)?
                }
                None => String::new(),
            };
            let (caption, source) = if text.is_empty() {
                (trigger.to_string(), CaptionSource::Trigger)
            } else if text.to_lowercase().contains(&trigger.to_lowercase()) {
                (text, CaptionSource::File)
            } else {
                (format!("{trigger}, {text}"), CaptionSource::FileAndTrigger)
            };
            samples.push(Sample {
                picture,
                caption,
                source,
            });
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            samples,
            ignored: captions.into_keys().collect(),
        })
    }
}

impl Sample {
    /// The picture, turned upright, its short side scaled to `side` and its middle cut out: `side × side` pixels of red, green and blue.
    /// What shows through is white.
    ///
    /// # Errors
    /// If the file is no picture.
    pub fn pixels(&self, side: u32) -> Result<RgbImage, TrainError> {
        let unreadable = |source| TrainError::Picture {
            path: self.picture.clone(),
            source,
        };
        let reader = ImageReader::open(&self.picture)
            .and_then(ImageReader::with_guessed_format)
            .map_err(|source| TrainError::Read {
                path: self.picture.clone(),
                source,
            })?;
        let mut decoder = reader.into_decoder().map_err(unreadable)?;
        let orientation = decoder.orientation().map_err(unreadable)?;
        let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
        picture.apply_orientation(orientation);

        let (width, height) = (picture.width(), picture.height());
        if width.max(height) / MAX_RATIO > width.min(height) {
            return Err(TrainError::Thin {
                path: self.picture.clone(),
                width,
                height,
            });
        }
        let short = width.min(height).max(1);
        let scaled = |length: u32| {
            let length = f64::from(length) * f64::from(side) / f64::from(short);
            (length.round() as u32).max(side)
        };
        let picture = on_white(picture);
        let picture = if short == side {
            picture
        } else {
            image::imageops::resize(
                &picture,
                scaled(width),
                scaled(height),
                FilterType::Lanczos3,
            )
        };
        let (left, top) = ((picture.width() - side) / 2, (picture.height() - side) / 2);
        Ok(image::imageops::crop_imm(&picture, left, top, side, side).to_image())
    }
}

fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, alpha] = picture.get_pixel(x, y).0;
        let over = |c: u8| {
            let mixed = u32::from(c) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
            ((mixed + 127) / 255) as u8
        };
        Rgb([over(r), over(g), over(b)])
    })
}

fn read_caption(file: &Path) -> Result<String, TrainError> {
    let bytes = fs::read(file).map_err(|source| TrainError::Read {
        path: file.to_path_buf(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|_| TrainError::CaptionEncoding {
        path: file.to_path_buf(),
    })?;
    let words: Vec<_> = text
        .trim_start_matches('\u{feff}')
        .split_whitespace()
        .collect();
    Ok(words.join(" "))
}

fn ends_in(file: &Path, endings: &[&str]) -> bool {
    file.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| endings.contains(&ending.to_lowercase().as_str()))
}

fn hidden(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgba;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn draw(path: &Path, width: u32, height: u32) {
        RgbImage::from_fn(width, height, |x, _| Rgb([(x * 255 / width) as u8, 90, 10]))
            .save(path)
            .expect("a picture");
    }

    #[test]
    fn captions_come_from_beside_the_picture_and_always_have_the_trigger() {
        let dir = folder();
        for name in ["a.png", "b.PNG", "c.png", "d.png"] {
            draw(&dir.path().join(name), 8, 8);
        }
        fs::write(dir.path().join("a.txt"), "MyChar001,  red coat\n").unwrap();
        fs::write(dir.path().join("b.caption"), "blue coat").unwrap();
        fs::write(dir.path().join("c.txt"), " \n").unwrap();
        fs::write(dir.path().join("notes.md"), "x").unwrap();
        let dataset = Dataset::open(dir.path(), "mychar001").unwrap();
        let captions: Vec<_> = dataset
            .samples
            .iter()
            .map(|s| (s.caption.as_str(), s.source))
            .collect();
        assert_eq!(
            captions,
            [
                ("MyChar001, red coat", CaptionSource::File),
                ("mychar001, blue coat", CaptionSource::FileAndTrigger),
                ("mychar001", CaptionSource::Trigger),
                ("mychar001", CaptionSource::Trigger),
            ]
        );
        assert_eq!(dataset.ignored, [dir.path().join("notes.md")]);
    }

    #[test]
    fn an_empty_folder_and_a_missing_one_are_named() {
        let dir = folder();
        let empty = Dataset::open(dir.path(), "x").unwrap_err();
        assert!(matches!(empty, TrainError::NoPictures { .. }), "{empty}");
        let missing = Dataset::open(dir.path().join("nowhere"), "x").unwrap_err();
        assert!(missing.to_string().contains("nowhere"), "{missing}");
    }

    #[test]
    fn two_pictures_cannot_share_a_caption() {
        let dir = folder();
        draw(&dir.path().join("a.png"), 8, 8);
        draw(&dir.path().join("a.bmp"), 8, 8);
        let error = Dataset::open(dir.path(), "x").unwrap_err();
        assert!(matches!(error, TrainError::SharedCaption { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_picture_is_named() {
        let dir = folder();
        fs::write(dir.path().join("a.png"), "not a picture").unwrap();
        let dataset = Dataset::open(dir.path(), "x").unwrap();
        let error = dataset.samples[0].pixels(16).unwrap_err().to_string();
        assert!(error.contains("a.png"), "{error}");
    }

    #[test]
    fn a_picture_that_is_a_mere_line_is_refused() {
        let dir = folder();
        draw(&dir.path().join("a.png"), 900, 2);
        let dataset = Dataset::open(dir.path(), "x").unwrap();
        let error = dataset.samples[0].pixels(512).unwrap_err();
        assert!(matches!(error, TrainError::Thin { .. }), "{error}");
    }

    #[test]
    fn pictures_are_cut_to_a_square_of_their_middle() {
        let dir = folder();
        for (name, width, height) in [("a.png", 96, 64), ("b.png", 31, 100), ("c.png", 64, 64)] {
            draw(&dir.path().join(name), width, height);
        }
        for sample in Dataset::open(dir.path(), "x").unwrap().samples {
            let picture = sample.pixels(64).unwrap();
            assert_eq!(picture.dimensions(), (64, 64));
            // The ramp from left to right is cut alike on both sides.
            let (left, right) = (picture.get_pixel(0, 9).0[0], picture.get_pixel(63, 9).0[0]);
            assert!(
                u16::from(left).abs_diff(255 - u16::from(right)) <= 9,
                "{left} {right}"
            );
        }
    }

    #[test]
    fn what_shows_through_is_white() {
        let half = image::RgbaImage::from_pixel(4, 4, Rgba([0, 100, 200, 51]));
        let white = on_white(DynamicImage::ImageRgba8(half));
        assert_eq!(white.get_pixel(1, 1).0, [204, 224, 244]);
    }
}
