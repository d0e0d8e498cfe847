//! Reference pictures of `generate`: from options to what the pipeline steers by.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{Device, FloatDType};
use character_library::FaceRegion;
use clip_vision::{Fit, on_white};
use image::{Rgb, RgbImage};
use ip_adapter::FaceIdPlus;
use sd_pipeline::{
    AdapterFile, Faces, ImagePrompt, LazyImageEncoder, PortraitCache, Portraits, Reference, mask_of,
};
use sd_unet::{CrossAttention, Mask};
use serde_json::{Value, json};

use crate::console::Console;
use crate::failure::{Blame, Failure, wrong};
use crate::ip_args::{AdapterOptions, Combine, DEFAULT_SCALE, FaceVersion, FitChoice, IpOptions};
use crate::picture::read_picture;
use crate::provenance::Named;

/// What the options say, read and checked; no portrait is made yet.
pub struct References {
    adapters: Vec<Opened>,
    cache: Option<PortraitCache>,
    encoders: Vec<PathBuf>,
}

/// One adapter with what it is given.
struct Opened {
    options: AdapterOptions,
    file: AdapterFile,
    images: Vec<RgbImage>,
    faces: Option<Faces>,
    negative: Option<RgbImage>,
    masks: Vec<Mask>,
}

/// Made portraits, and what to tell of them.
pub struct Drawn {
    /// For the request.
    pub prompts: Vec<ImagePrompt>,
    /// The adapters, whose LoRAs the model may need.
    pub adapters: Vec<AdapterFile>,
    /// Hashes of all files that took part.
    pub files: Vec<Named>,
    /// Whether an image encoder was opened.
    pub encoded: bool,
}

impl References {
    /// Opens everything but image encoders.
    ///
    /// # Errors
    /// If options contradict each other, or a file cannot be used.
    pub fn open(
        options: &IpOptions,
        dtype: FloatDType,
        device: &Device,
        console: &Console,
    ) -> Result<Self, Failure> {
        let mut adapters = vec![];
        for options in &options.adapters {
            if let Err(message) = options.check() {
                return wrong(message);
            }
            let opened = open_adapter(options, dtype, device)?;
            if opened.file.adapter.variant().is_face_id() {
                console.note(format_args!(
                    "note: {} is a FaceID adapter; the published weights are for non-commercial use alone",
                    options.file.display()
                ));
            }
            if let Some((at, length)) = opened.faces.as_ref().and_then(Faces::not_normed) {
                console.note(format_args!(
                    "note: face embedding {} has length {length:.2}; FaceID adapters were trained on length 1, InsightFace's `normed_embedding`",
                    at + 1
                ));
            }
            adapters.push(opened);
        }
        let mut encoders: Vec<PathBuf> = vec![];
        for encoder in options.adapters.iter().filter_map(|a| a.encoder.clone()) {
            if !encoders.contains(&encoder) {
                encoders.push(encoder);
            }
        }
        Ok(Self {
            cache: match adapters.is_empty() {
                true => None,
                false => open_cache(options, console)?,
            },
            adapters,
            encoders,
        })
    }

    /// Makes the portraits, or finds them in the cache.
    ///
    /// # Errors
    /// If an adapter fits another model, or an image encoder other adapters.
    pub fn draw(
        self,
        layers: &[CrossAttention],
        dtype: FloatDType,
        device: &Device,
        console: &Console,
    ) -> Result<Drawn, Failure> {
        for opened in &self.adapters {
            opened.file.adapter.check(layers).input()?;
        }
        let cache = self.cache.as_ref();
        let encoders = self
            .encoders
            .iter()
            .map(|path| LazyImageEncoder::new(path, cache, dtype, device).input())
            .collect::<Result<Vec<_>, _>>()?;
        let used: Vec<Option<&LazyImageEncoder<'_>>> = self
            .adapters
            .iter()
            .map(|opened| {
                let wanted = opened.options.encoder.as_deref()?;
                // An encoder that is given once is for those adapters alone that take pictures.
                let shared = self.encoders.len() == 1 && self.adapters.len() > 1;
                let input = opened.file.adapter.encoder_input();
                let sees = input.pooled.is_some() || input.penultimate.is_some();
                let encoder = encoders.iter().find(|encoder| encoder.path() == wanted);
                encoder.filter(|_| sees || !shared)
            })
            .collect();
        for encoder in &encoders {
            let takes = |used: &&LazyImageEncoder<'_>| used.path() == encoder.path();
            if !used.iter().flatten().any(takes) {
                return wrong(format!(
                    "--image-encoder {} is of no use: no adapter here takes pictures; leave it out",
                    encoder.path().display()
                ));
            }
        }
        let mut prompts = vec![];
        for (opened, encoder) in self.adapters.iter().zip(&used) {
            let portraits = Portraits::new(&opened.file, *encoder, cache).input()?;
            prompts.push(opened.prompt(&portraits)?);
        }
        for note in cache.map(PortraitCache::take_notes).into_iter().flatten() {
            console.note(format_args!("note: {note}"));
        }

        let mut files = vec![];
        for opened in &self.adapters {
            opened.hashes(&mut files)?;
        }
        let mut told: Vec<&Path> = vec![];
        for encoder in used.into_iter().flatten() {
            if !told.contains(&encoder.path()) {
                told.push(encoder.path());
                for file in encoder.files().input()? {
                    files.push(Named::new("image_encoder", &file.path, file.sha256.clone()));
                }
            }
        }
        Ok(Drawn {
            prompts,
            encoded: encoders.iter().any(LazyImageEncoder::is_loaded),
            adapters: self
                .adapters
                .into_iter()
                .map(|opened| opened.file)
                .collect(),
            files,
        })
    }
}

impl Opened {
    /// The request's part of it.
    fn prompt(&self, portraits: &Portraits<'_>) -> Result<ImagePrompt, Failure> {
        let faces: Vec<&[f32]> = self.faces.iter().flat_map(Faces::iter).collect();
        let references: Vec<Reference<'_>> = match (self.images.len(), faces.len()) {
            (_, 0) => {
                let picture = |picture| Reference {
                    picture: Some(picture),
                    face: None,
                };
                self.images.iter().map(picture).collect()
            }
            (0, _) => {
                let face = |face| Reference {
                    picture: None,
                    face: Some(face),
                };
                faces.into_iter().map(face).collect()
            }
            (pictures, count) if pictures == count => {
                let both = |(picture, face)| Reference {
                    picture: Some(picture),
                    face: Some(face),
                };
                self.images.iter().zip(faces).map(both).collect()
            }
            (pictures, count) => {
                return wrong(format!(
                    "--ip-face and --ip-image of {}: {count} face embeddings for {pictures} pictures; one for each, in their order, is expected",
                    self.options.file.display()
                ));
            }
        };
        let fit = match self.options.fit.unwrap_or_default() {
            FitChoice::Crop => Fit::Crop,
            FitChoice::Squash => Fit::Squash,
            FitChoice::Pad => Fit::Pad(Rgb([0; 3])),
        };
        let made = match self.options.combine.unwrap_or_default() {
            Combine::Average => vec![portraits.of(&references, fit).input()?],
            Combine::Concat => references
                .iter()
                .map(|reference| portraits.of(&[*reference], fit).input())
                .collect::<Result<_, _>>()?,
        };
        let negative = match &self.negative {
            Some(picture) => portraits.negative(picture, fit),
            None => portraits.unconditional(self.options.uncond.unwrap_or_default()),
        };
        Ok(ImagePrompt {
            scale: self.options.scale.unwrap_or(DEFAULT_SCALE),
            start: self.options.start.unwrap_or(0.0),
            end: self.options.end.unwrap_or(1.0),
            weights: self.options.weights.clone(),
            masks: self.masks.clone(),
            ..ImagePrompt::new(made, negative.input()?)
        })
    }

    fn hashes(&self, files: &mut Vec<Named>) -> Result<(), Failure> {
        let options = &self.options;
        files.push(Named::new(
            "ip_adapter",
            &options.file,
            self.file.sha256.clone(),
        ));
        let paths = (options.images.iter().map(|path| ("ip_image", path)))
            .chain(options.face.iter().map(|path| ("ip_face", path)))
            .chain(options.negative.iter().map(|path| ("ip_negative", path)))
            .chain(options.masks.iter().map(|path| ("ip_mask", path)));
        for (role, path) in paths {
            files.push(Named::file(role, path)?);
        }
        Ok(())
    }
}

fn open_adapter(
    options: &AdapterOptions,
    dtype: FloatDType,
    device: &Device,
) -> Result<Opened, Failure> {
    let version = options.face_version.map(|version| match version {
        FaceVersion::One => FaceIdPlus::V1,
        FaceVersion::Two => FaceIdPlus::V2 { scale: 1.0 },
    });
    let pictures = |option, paths: &[PathBuf]| {
        let read = |path: &PathBuf| Ok(on_white(read_picture(option, path)?));
        paths.iter().map(read).collect::<Result<Vec<_>, Failure>>()
    };
    let masks = options.masks.iter().map(|path| {
        let picture = read_picture("ip-mask", path)?;
        Ok(mask_of(&picture.into_rgb8()))
    });
    let negative = options.negative.as_slice();
    let region = options.region.unwrap_or_default();
    let mut images = pictures("ip-image", &options.images)?;
    if region != FaceRegion::WHOLE {
        images = images.iter().map(|image| region.of(image)).collect();
    }
    Ok(Opened {
        images,
        negative: pictures("ip-negative", negative)?.pop(),
        masks: masks.collect::<Result<_, Failure>>()?,
        faces: match &options.face {
            Some(path) => Some(Faces::open(path).context("--ip-face").input()?),
            None => None,
        },
        file: AdapterFile::open(&options.file, version, dtype, device)
            .context("--ip-adapter")
            .input()?,
        options: options.clone(),
    })
}

/// The folder for portraits: the one that is named must do, the system's may fail.
fn open_cache(options: &IpOptions, console: &Console) -> Result<Option<PortraitCache>, Failure> {
    if options.no_cache {
        return Ok(None);
    }
    if let Some(folder) = &options.cache {
        let cache = PortraitCache::open(folder).context("--ip-cache").input()?;
        return Ok(Some(cache));
    }
    let Some(folder) = cache_folder("portraits") else {
        console.note("note: this system names no folder for caches, so no portrait is kept; name one by --ip-cache");
        return Ok(None);
    };
    match PortraitCache::open(folder) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) => {
            console.note(format_args!("note: no portrait is kept: {error}"));
            Ok(None)
        }
    }
}

/// Where this system keeps what can be made again, of one kind of things.
pub fn cache_folder(kind: &str) -> Option<PathBuf> {
    let folder = |variable: &str| {
        let path = PathBuf::from(std::env::var_os(variable)?);
        path.is_absolute().then_some(path)
    };
    let caches = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library").join("Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))
    };
    Some(caches?.join("samecast").join(kind))
}

/// The adapters' part of a picture's record.
pub fn record(options: &IpOptions) -> Vec<Value> {
    let text = |path: &PathBuf| path.display().to_string();
    let texts = |paths: &[PathBuf]| paths.iter().map(text).collect::<Vec<_>>();
    options
        .adapters
        .iter()
        .map(|adapter| {
            json!({
                "path": text(&adapter.file),
                "image_encoder": adapter.encoder.as_ref().map(text),
                "images": texts(&adapter.images),
                "face": adapter.face.as_ref().map(text),
                "face_version": adapter.face_version.map(|version| match version {
                    FaceVersion::One => 1,
                    FaceVersion::Two => 2,
                }),
                "scale": adapter.scale.unwrap_or(DEFAULT_SCALE),
                "start": adapter.start.unwrap_or(0.0),
                "end": adapter.end.unwrap_or(1.0),
                "weights": adapter.weights.as_ref().map(ToString::to_string),
                "masks": texts(&adapter.masks),
                "combine": match adapter.combine.unwrap_or_default() {
                    Combine::Concat => "concat",
                    Combine::Average => "average",
                },
                "negative": adapter.negative.as_ref().map(text),
                "uncond": adapter.uncond.unwrap_or_default().to_string(),
                "fit": match adapter.fit.unwrap_or_default() {
                    FitChoice::Crop => "crop",
                    FitChoice::Squash => "squash",
                    FitChoice::Pad => "pad",
                },
                "region": adapter.region,
            })
        })
        .collect()
}
