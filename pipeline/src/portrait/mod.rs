//! Reference pictures, as the keys and values that a UNet attends to.

mod adapter;
mod cache;
mod encoder;
mod face;
mod hash;
mod prompt;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use clip_vision::Fit;
use image::RgbImage;
use ip_adapter::{BlankPicture, EncoderInput, Features, Uncond};
use sd_unet::KeyValue;
use serde_json::{Value, json};

pub use adapter::AdapterFile;
pub use cache::{HashedFile, PortraitCache, PortraitNote};
pub use encoder::LazyImageEncoder;
pub use face::Faces;
pub use prompt::{ImagePrompt, mask_of};

use hash::{Sha256Hex, sha256_of};

use crate::PipelineError;

/// Part of every key of the cache; to be raised when portraits come out otherwise.
const VERSION: u32 = 1;

/// What an IP-Adapter makes of one reference: K' and V' of each cross-attention layer, all that the UNet sees of it.
#[derive(Clone, Debug)]
pub struct Portrait {
    /// Down, up, mid; each key and value `[1, tokens, channels]`.
    pub layers: Vec<KeyValue>,
}

impl Portrait {
    /// How many tokens it has.
    pub fn tokens(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.key.dims()[1])
    }

    /// Several references as one, which are attended to together: diffusers' way with several images of an adapter. Keys and values are
    /// linear in the tokens, so that those of all tokens are those of each, side by side.
    ///
    /// # Panics
    /// If there is none, or they are of other UNets.
    pub fn concat(portraits: &[Self]) -> Self {
        let [first, rest @ ..] = portraits else {
            panic!("portraits to concatenate");
        };
        let layers = first.layers.iter().enumerate().map(|(at, layer)| {
            let both = |part: fn(&KeyValue) -> &Tensor<3>| {
                let rest = rest
                    .iter()
                    .map(|portrait| part(&portrait.layers[at]).clone());
                Tensor::cat(
                    std::iter::once(part(layer).clone()).chain(rest).collect(),
                    1,
                )
            };
            KeyValue {
                key: both(|layer| &layer.key),
                value: both(|layer| &layer.value),
            }
        });
        Self {
            layers: layers.collect(),
        }
    }
}

/// Makes the portraits of one adapter, and keeps them.
///
/// ```no_run
/// use burn::tensor::FloatDType;
/// use clip_vision::Fit;
/// use ip_adapter::Uncond;
/// use sd_pipeline::{AdapterFile, ImagePrompt, LazyImageEncoder, PortraitCache, Portraits, Reference, Request};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (device, dtype) = (parity::device(), FloatDType::F32);
/// let cache = PortraitCache::open("portraits")?;
/// let plus = AdapterFile::open("ip-adapter-plus-face_sd15.safetensors", None, dtype, &device)?;
/// let encoder = LazyImageEncoder::new("image_encoder", Some(&cache), dtype, &device)?;
/// let portraits = Portraits::new(&plus, Some(&encoder), Some(&cache))?;
/// let face = image::open("mira.png")?.into_rgb8();
/// let mira = portraits.of(&[Reference { picture: Some(&face), face: None }], Fit::Crop)?;
/// let request = Request {
///     prompt: "a woman reads under a tree".into(),
///     image_prompts: vec![ImagePrompt::new(vec![mira], portraits.unconditional(Uncond::Reference)?)],
///     ..Request::default()
/// };
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Portraits<'a> {
    adapter: &'a AdapterFile,
    encoder: Option<&'a LazyImageEncoder<'a>>,
    cache: Option<&'a PortraitCache>,
    device: Device,
    dtype: FloatDType,
}

/// What a portrait is made of: what the adapter asks for, a picture, a face embedding, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<'a> {
    /// A picture, for the image encoder.
    pub picture: Option<&'a RgbImage>,
    /// A face embedding, for the FaceID adapters.
    pub face: Option<&'a [f32]>,
}

impl<'a> Portraits<'a> {
    /// Of an adapter with its image encoder, if it takes pictures. Without a cache each portrait is computed.
    ///
    /// # Errors
    /// If the adapter needs an encoder and there is none, or takes none and there is one; if the encoder is one for other adapters.
    pub fn new(
        adapter: &'a AdapterFile,
        encoder: Option<&'a LazyImageEncoder<'a>>,
        cache: Option<&'a PortraitCache>,
    ) -> Result<Self, PipelineError> {
        let input = adapter.adapter.encoder_input();
        let sees = takes_pictures(&input);
        match encoder {
            None if sees => {
                return Err(PipelineError::NoEncoder {
                    adapter: adapter.path.clone(),
                    variant: adapter.adapter.variant().to_string(),
                    encoder: input.encoder(),
                });
            }
            Some(encoder) if !sees => {
                return Err(PipelineError::UselessEncoder {
                    adapter: adapter.path.clone(),
                    variant: adapter.adapter.variant().to_string(),
                    encoder: encoder.path().to_path_buf(),
                });
            }
            Some(encoder) => encoder.check_opened(&adapter.adapter)?,
            None => {}
        }
        Ok(Self {
            adapter,
            encoder,
            cache,
            device: adapter.device.clone(),
            dtype: adapter.dtype,
        })
    }

    /// Whether portraits are of pictures, of face embeddings, or of both.
    pub fn takes(&self) -> EncoderInput {
        self.adapter.adapter.encoder_input()
    }

    /// The portrait of a reference; of several, that of their mean: image embeddings, hidden states and face embeddings are averaged.
    /// For several references beside each other see [`ImagePrompt`].
    ///
    /// # Errors
    /// If a reference lacks what the adapter takes, or has what it does not; if the encoder cannot be opened.
    pub fn of(&self, references: &[Reference<'_>], fit: Fit) -> Result<Portrait, PipelineError> {
        let input = self.takes();
        if references.is_empty() {
            return Err(self.wrong("no reference", &input));
        }
        for reference in references {
            self.check(reference)?;
        }
        let mut seen = vec![];
        for reference in references {
            let picture = reference.picture.map(|picture| {
                let mut hash = Sha256Hex::default();
                hash.update(&picture.width().to_le_bytes());
                hash.update(&picture.height().to_le_bytes());
                hash.update(picture.as_raw());
                hash.finish()
            });
            let face = reference.face.map(|face| {
                let bytes: Vec<u8> = face.iter().flat_map(|value| value.to_le_bytes()).collect();
                sha256_of(&bytes)
            });
            seen.push(json!({ "picture": picture, "face": face }));
        }
        let fit_key = references
            .iter()
            .any(|reference| reference.picture.is_some());
        let key = json!({
            "of": seen,
            "fit": fit_key.then(|| format!("{fit:?}")),
        });
        self.cached(key, || {
            let adapter = &self.adapter.adapter;
            let pictures: Vec<&RgbImage> = references.iter().filter_map(|r| r.picture).collect();
            let faces: Vec<&[f32]> = references.iter().filter_map(|r| r.face).collect();
            let mut features = match (self.encoder, pictures.as_slice()) {
                (Some(encoder), [_, ..]) => encoder.features(adapter, &pictures, fit)?,
                _ => Features::default(),
            };
            features.face = input.face.map(|_| self.faces(&faces));
            if references.len() > 1 {
                features = features.average();
            }
            Ok(adapter.image_tokens(&features)?)
        })
    }

    /// What the unconditional half of guidance sees: each engine has its own.
    ///
    /// # Errors
    /// If the encoder cannot be opened.
    pub fn unconditional(&self, uncond: Uncond) -> Result<Portrait, PipelineError> {
        let key = json!({ "unconditional": uncond.to_string() });
        self.cached(key, || {
            let adapter = &self.adapter.adapter;
            let input = self.takes();
            let blank = match (adapter.blank_picture(uncond), self.encoder) {
                (Some(BlankPicture::Grey), Some(encoder)) => Some(encoder.grey(adapter)?),
                (Some(BlankPicture::Black), Some(encoder)) => Some(encoder.black(adapter)?),
                _ => None,
            };
            let options = (&self.device, DType::from(self.dtype));
            let zeros = |width| Tensor::zeros([1, width], options);
            let penultimate = match (&blank, self.encoder, input.penultimate) {
                (Some(blank), _, _) => Some(blank.clone()),
                (None, Some(encoder), Some(width)) => {
                    let shape = [1, encoder.positions(adapter)?, width];
                    Some(Tensor::zeros(shape, options))
                }
                _ => None,
            };
            let like = Features {
                pooled: input.pooled.map(zeros),
                penultimate,
                face: input.face.map(zeros),
            };
            Ok(adapter.unconditional(uncond, &like, blank)?)
        })
    }

    /// A reference for the unconditional half of guidance, to draw away from. A FaceID adapter that takes pictures sees no face beside it.
    ///
    /// # Errors
    /// If the adapter takes no picture; if the encoder cannot be opened.
    pub fn negative(&self, picture: &RgbImage, fit: Fit) -> Result<Portrait, PipelineError> {
        let zeros = self.takes().face.map(|width| vec![0.0; width]);
        let reference = Reference {
            picture: Some(picture),
            face: zeros.as_deref(),
        };
        self.of(&[reference], fit)
    }

    /// The portrait from the cache, else of these tokens.
    fn cached(
        &self,
        of: Value,
        tokens: impl FnOnce() -> Result<Tensor<3>, PipelineError>,
    ) -> Result<Portrait, PipelineError> {
        let kept = match self.cache {
            Some(cache) => Some((cache, self.key(of)?)),
            None => None,
        };
        if let Some((cache, key)) = &kept {
            let channels = self.adapter.adapter.channels();
            if let Some(portrait) = cache.find(key, channels, self.dtype, &self.device) {
                return Ok(portrait);
            }
        }
        let layers = self.adapter.adapter.key_values(tokens()?);
        let (data, portrait) = cache::through_host(layers, &self.device);
        if let Some((cache, key)) = kept {
            cache.keep(&key, &data);
        }
        Ok(portrait)
    }

    /// All that makes a portrait, and nothing of where files are.
    fn key(&self, of: Value) -> Result<Value, PipelineError> {
        let encoder = match self.encoder {
            Some(encoder) => {
                let files = encoder.files()?.iter().map(|file| file.sha256.as_str());
                Some(files.collect::<Vec<_>>())
            }
            None => None,
        };
        Ok(json!({
            "portrait": VERSION,
            "sd-pipeline": env!("CARGO_PKG_VERSION"),
            "adapter": self.adapter.sha256,
            "variant": format!("{:?}", self.adapter.adapter.variant()),
            "encoder": encoder,
            "dtype": format!("{:?}", self.dtype),
            "device": format!("{:?}", self.device),
            "content": of,
        }))
    }

    /// Face embeddings, `[faces, width]`.
    fn faces(&self, faces: &[&[f32]]) -> Tensor<2> {
        let width = faces.first().map_or(0, |face| face.len());
        let data = TensorData::new(faces.concat(), [faces.len(), width]);
        Tensor::<2>::from_data(data, &self.device).cast(self.dtype)
    }

    /// Whether a reference has what the adapter takes, and nothing else.
    fn check(&self, reference: &Reference<'_>) -> Result<(), PipelineError> {
        let input = self.takes();
        match (reference.picture.is_some(), takes_pictures(&input)) {
            (true, false) => return Err(self.wrong("a picture", &input)),
            (false, true) => return Err(self.wrong("no picture", &input)),
            _ => {}
        }
        match (reference.face, input.face) {
            (Some(_), None) => Err(self.wrong("a face embedding", &input)),
            (None, Some(_)) => Err(self.wrong("no face embedding", &input)),
            (Some(face), Some(width)) if face.len() != width => {
                let found = format!("a face embedding of {} numbers", face.len());
                Err(self.wrong(&found, &input))
            }
            _ => Ok(()),
        }
    }

    fn wrong(&self, found: &str, input: &EncoderInput) -> PipelineError {
        let expected = match (takes_pictures(input), input.face) {
            (true, Some(width)) => {
                format!("pictures, and for each a face embedding of {width} numbers")
            }
            (false, Some(width)) => format!("face embeddings of {width} numbers"),
            (_, None) => "pictures".to_owned(),
        };
        PipelineError::Reference {
            adapter: self.adapter.path.clone(),
            variant: self.adapter.adapter.variant().to_string(),
            expected,
            found: found.to_owned(),
        }
    }
}

fn takes_pictures(input: &EncoderInput) -> bool {
    input.pooled.is_some() || input.penultimate.is_some()
}
