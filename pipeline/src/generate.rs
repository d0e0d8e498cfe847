use std::ops::ControlFlow;

use burn::tensor::{FloatDType, Tensor, TensorData};
use clip_text::{EncodeOptions, Prompt, encode};
use image::RgbImage;
use sd_diffusion::{Noise, PhiloxRng, Sampler, SamplerKind, Schedule, Step, TorchRng, guide};
use sd_unet::{Conditioning, DeepFeature, ImageStream, TokenMerging, UNet2DConditionModel};
use sd_vae::AutoencoderKL;

use crate::resize::lanczos;
use crate::{ImagePrompt, PipelineError, StableDiffusion};

/// What to draw, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the picture shows, in A1111's grammar.
    pub prompt: String,
    /// What it does not.
    pub negative: String,
    /// The sampler.
    pub sampler: SamplerKind,
    /// How it spreads its noise levels.
    pub schedule: Schedule,
    /// Its steps.
    pub steps: usize,
    /// Strength of the classifier-free guidance; at 1 there is none.
    pub cfg: f64,
    /// Seed of the random generator.
    pub seed: u64,
    /// Which random generator.
    pub rng: RngKind,
    /// Width in pixels, a multiple of 8, or of the VAE's cell where that is larger.
    pub width: usize,
    /// Height in pixels, as the width.
    pub height: usize,
    /// Pictures in one batch.
    pub count: usize,
    /// CLIP layers counted from the end, as A1111 counts: 1 takes the last.
    pub clip_skip: usize,
    /// A picture to start from.
    pub init: Option<InitImage>,
    /// The share of its noise that `tcd` makes anew in every step, 0 to 1; the sampler's own choice, 0.3, where there is none.
    pub eta: Option<f64>,
    /// Where guidance acts, as shares of the steps from 0 to 1: of `n` steps, number `i` (from 0) is guided if `cfg_start ≤ i / n` and
    /// `(i + 1) / n ≤ cfg_end`. In the others the prompt's prediction is taken as it is, at half the work (Kynkäänniemi et al. 2024).
    pub cfg_start: f64,
    /// Where guidance ends.
    pub cfg_end: f64,
    /// Runs the whole UNet in one of so many evaluations, and in the others the layers around its finest skip alone, over the deep feature
    /// of the last whole one (DeepCache, Ma et al. 2024). 1 runs it whole always.
    pub deep_cache: usize,
    /// The share of positions that the finest level's self-attention merges, 0 to 0.75 ([`TokenMerging`]). 0 merges none.
    pub token_merging: f64,
    /// Side of the tiles in pixels that the VAE encodes and decodes one after the other, a multiple of four cells; 0 takes pictures whole
    /// ([`decode_tiled`](sd_vae::AutoencoderKL::decode_tiled)).
    pub vae_tile: usize,
    /// References that the picture is steered by, through one adapter each. They add up, and each sees its own alone.
    pub image_prompts: Vec<ImagePrompt>,
}

/// A picture to start from.
#[derive(Clone, Debug)]
pub struct InitImage {
    /// The picture; it is scaled to the request's width and height, by Lanczos as in diffusers.
    pub picture: RgbImage,
    /// How much of the noise schedule is run: 0 leaves the picture, 1 forgets it.
    pub strength: f64,
}

/// Whose random numbers a seed means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RngKind {
    /// torch's on the CPU, as diffusers and ComfyUI use it.
    #[default]
    Torch,
    /// torch's on CUDA, as A1111 uses it.
    Philox,
}

impl Request {
    /// Pixels of a side at most: beyond, Stable Diffusion 1.x draws nothing of use, in more memory than there is.
    pub const MAX_SIDE: usize = 4096;
    /// Pictures of one batch at most.
    pub const MAX_COUNT: usize = 256;
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: String::new(),
            sampler: SamplerKind::Dpmpp2m,
            schedule: Schedule::Karras,
            steps: 28,
            cfg: 7.0,
            seed: 0,
            rng: RngKind::Torch,
            width: 512,
            height: 512,
            count: 1,
            clip_skip: 1,
            init: None,
            eta: None,
            cfg_start: 0.0,
            cfg_end: 1.0,
            deep_cache: 1,
            token_merging: 0.0,
            vae_tile: 0,
            image_prompts: Vec::new(),
        }
    }
}

/// How far a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The text is encoded.
    Encoded,
    /// So many of the evaluations of the UNet are done.
    Step {
        /// Done.
        done: usize,
        /// Of so many.
        of: usize,
    },
    /// The pictures are decoded.
    Decoded,
}

/// The pictures of one request.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The pictures, as many as were asked for.
    pub pictures: Vec<RgbImage>,
    /// The latents before they were decoded, `[count, channels, height / 8, width / 8]`.
    pub latents: Tensor<4>,
    /// What the UNet had to do for them.
    pub evaluations: Evaluations,
}

/// How many latents the UNet was run over; guidance takes two for each picture in each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evaluations {
    /// Through all of it.
    pub whole: usize,
    /// Through its finest layers alone, over the deep feature of an earlier step.
    pub shallow: usize,
}

impl StableDiffusion {
    /// Draws pictures. `progress` hears of each stage, and may break off.
    ///
    /// One generator draws for the whole batch, as in diffusers, so its pictures depend on `count`.
    ///
    /// # Errors
    /// If a value of the request is out of its range, or `progress` broke off.
    pub fn generate(
        &self,
        request: &Request,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Generated, PipelineError> {
        let mut tell = telling(progress);
        let prepared = self.prepare(request)?;
        tell(Progress::Encoded)?;
        let (latents, evaluations) = denoise(&self.unet, self.dtype, request, prepared, &mut tell)?;
        let pictures = decode(&self.vae, request, &latents)?;
        tell(Progress::Decoded)?;
        Ok(Generated {
            pictures,
            latents,
            evaluations,
        })
    }

    /// As [`generate`](Self::generate), and for the last time: each part of the model is dropped when it is done, so that the pictures are
    /// decoded in the memory that the UNet had. Parts that a clone of the model holds stay.
    ///
    /// # Errors
    /// As `generate`.
    pub fn generate_once(
        self,
        request: &Request,
        progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Generated, PipelineError> {
        let mut tell = telling(progress);
        let prepared = self.prepare(request)?;
        let Self {
            text_encoder,
            unet,
            vae,
            dtype,
            ..
        } = self;
        drop(text_encoder);
        sd_kernels::return_freed_memory();
        tell(Progress::Encoded)?;
        let (latents, evaluations) = denoise(&unet, dtype, request, prepared, &mut tell)?;
        drop(unet);
        sd_kernels::return_freed_memory();
        let pictures = decode(&vae, request, &latents)?;
        tell(Progress::Decoded)?;
        Ok(Generated {
            pictures,
            latents,
            evaluations,
        })
    }

    /// All that the UNet's part of the work begins with.
    fn prepare(&self, request: &Request) -> Result<Prepared, PipelineError> {
        self.check(request)?;
        let mut sampler = Sampler::new(request.sampler, request.schedule, &self.scheduler)?;
        if let Some(eta) = request.eta {
            sampler = sampler.with_eta(eta)?;
        }
        let steps = match &request.init {
            Some(init) => sampler.image_steps(request.steps, init.strength)?,
            None => sampler.steps(request.steps)?,
        };
        for prompt in &request.image_prompts {
            prompt.check_steps(steps.len())?;
        }
        let guided: Vec<bool> = (0..steps.len())
            .map(|index| request.is_guided(index, steps.len()))
            .collect();
        if is_guided(request.cfg) && !guided.contains(&true) {
            return Err(PipelineError::Option {
                option: "cfg-end",
                found: request.cfg_end.to_string(),
                expected: format!(
                    "at least one whole step of {} between --cfg-start, which is {}, and --cfg-end (--cfg 1 is no guidance at all)",
                    steps.len(),
                    request.cfg_start
                ),
            });
        }
        let text = self.text(request);
        // With guidance and without it; what no step needs is not made.
        let streams = [false, true].map(|way| match guided.contains(&way) {
            true => self.streams(request, way),
            false => Ok(vec![]),
        });
        let [plain, doubled] = streams;
        let streams = [plain?, doubled?];
        let mut noise: Box<dyn Noise> = match request.rng {
            RngKind::Torch => Box::new(TorchRng::new(request.seed)),
            RngKind::Philox => Box::new(PhiloxRng::new(request.seed)),
        };
        let latent = self.first_latent(request, &sampler, &steps, noise.as_mut());
        Ok(Prepared {
            sampler,
            steps,
            guided,
            text,
            streams,
            noise,
            latent,
        })
    }

    /// Makes sure that a request's values are in their ranges.
    ///
    /// # Errors
    /// Names the option that is not.
    pub fn check(&self, request: &Request) -> Result<(), PipelineError> {
        let refuse = |option, found: String, expected: String| {
            Err(PipelineError::Option {
                option,
                found,
                expected,
            })
        };
        // diffusers asks for a multiple of 8 whatever the VAE is.
        let cell = self.vae.config().pixels_per_cell().max(8);
        for (option, value) in [("width", request.width), ("height", request.height)] {
            if value == 0 || !value.is_multiple_of(cell) || value > Request::MAX_SIDE {
                let expected = format!("a multiple of {cell} up to {}", Request::MAX_SIDE);
                return refuse(option, value.to_string(), expected);
            }
        }
        if request.steps == 0 {
            return refuse("steps", "0".into(), "1 or more".into());
        }
        if !(1..=Request::MAX_COUNT).contains(&request.count) {
            let expected = format!("1 to {} pictures at once", Request::MAX_COUNT);
            return refuse("count", request.count.to_string(), expected);
        }
        if !request.cfg.is_finite() || request.cfg < 1.0 {
            return refuse(
                "cfg",
                request.cfg.to_string(),
                "1 (no guidance) or more".into(),
            );
        }
        for (option, value) in [
            ("cfg-start", request.cfg_start),
            ("cfg-end", request.cfg_end),
        ] {
            if !(0.0..=1.0).contains(&value) {
                let expected = "0 to 1, a share of the steps,".into();
                return refuse(option, value.to_string(), expected);
            }
        }
        if request.cfg_start > request.cfg_end {
            let expected = format!("no more than --cfg-end, which is {},", request.cfg_end);
            return refuse("cfg-start", request.cfg_start.to_string(), expected);
        }
        if !is_guided(request.cfg) && (request.cfg_start, request.cfg_end) != (0.0, 1.0) {
            let expected = "more than 1 with --cfg-start or --cfg-end, which say where it acts,";
            return refuse("cfg", request.cfg.to_string(), expected.into());
        }
        if request.deep_cache == 0 {
            let expected = "1 (no step's features are used again) or more";
            return refuse("deep-cache", "0".into(), expected.into());
        }
        if request.deep_cache > 1 && request.sampler == SamplerKind::Heun {
            let expected = "1 with sampler heun, which evaluates the model twice in a step to compare the two,";
            return refuse(
                "deep-cache",
                request.deep_cache.to_string(),
                expected.into(),
            );
        }
        if !(0.0..=TokenMerging::MAX_RATIO).contains(&request.token_merging) {
            let expected = format!(
                "0 to {}, a share of the positions,",
                TokenMerging::MAX_RATIO
            );
            return refuse("token-merging", request.token_merging.to_string(), expected);
        }
        let cell = 4 * self.vae.config().pixels_per_cell();
        if !request.vae_tile.is_multiple_of(cell) {
            let expected = format!("a multiple of {cell}, or 0 for none,");
            return refuse("vae-tile", request.vae_tile.to_string(), expected);
        }
        let layers = self.text_encoder.layers();
        if !(1..=layers).contains(&request.clip_skip) {
            let expected = format!("1 to {layers}, the layers of the text encoder,");
            return refuse("clip-skip", request.clip_skip.to_string(), expected);
        }
        if let Some(init) = &request.init
            && !(0.0..=1.0).contains(&init.strength)
        {
            return refuse("strength", init.strength.to_string(), "0 to 1".into());
        }
        let layers = self.unet.cross_attentions();
        for prompt in &request.image_prompts {
            prompt.check([request.height, request.width], &layers)?;
        }
        Ok(())
    }

    /// The streams of each of the request's image prompts.
    fn streams(
        &self,
        request: &Request,
        guided: bool,
    ) -> Result<Vec<Vec<ImageStream>>, PipelineError> {
        let layers = self.unet.cross_attentions();
        let prompts = request.image_prompts.iter();
        prompts
            .map(|prompt| prompt.streams(guided, request.count, &layers, self.dtype))
            .collect()
    }

    /// The prompt's embedding for each picture; before it, where there is guidance, the negative's for each.
    ///
    /// As in diffusers, clip skip is for the prompt alone: the negative's embedding is always the last layer's.
    fn text(&self, request: &Request) -> Tensor<3> {
        let (prompt, negative) = (
            Prompt::parse(&request.prompt),
            Prompt::parse(&request.negative),
        );
        let options = EncodeOptions {
            clip_skip: request.clip_skip,
            ..EncodeOptions::default()
        };
        let chunks = |prompt: &Prompt| {
            let chunking = options.chunking(&self.text_encoder, &self.tokenizer);
            prompt.chunks(&self.tokenizer, &chunking).chunks.len()
        };
        let embed = |prompt: &Prompt, clip_skip, min_chunks| {
            let options = EncodeOptions {
                clip_skip,
                min_chunks,
                ..options
            };
            encode(&self.text_encoder, &self.tokenizer, &[prompt], &options)
                .hidden
                .repeat_dim(0, request.count)
        };
        if is_guided(request.cfg) {
            let longest = chunks(&prompt).max(chunks(&negative));
            let negative = embed(&negative, 1, longest);
            let prompt = embed(&prompt, request.clip_skip, longest);
            Tensor::cat(vec![negative, prompt], 0)
        } else {
            embed(&prompt, request.clip_skip, 1)
        }
    }

    /// The latent that the first step takes: noise alone, or the given picture under noise.
    fn first_latent(
        &self,
        request: &Request,
        sampler: &Sampler,
        steps: &[Step],
        noise: &mut dyn Noise,
    ) -> Tensor<4> {
        let device = self.device();
        let cell = self.vae.config().pixels_per_cell();
        let channels = self.vae.config().latent_channels;
        let shape = [
            request.count,
            channels,
            request.height / cell,
            request.width / cell,
        ];
        let mut draw = |shape: [usize; 4]| {
            let values = noise.normal(shape.iter().product());
            Tensor::<4>::from_data(TensorData::new(values, shape), &device)
        };
        match (&request.init, steps.first()) {
            (Some(init), Some(first)) => {
                let picture = lanczos(&init.picture, request.width as u32, request.height as u32);
                let picture = from_picture(&picture, &device);
                let posterior = match request.vae_tile / cell {
                    0 => self.vae.encode(picture),
                    cells => self.vae.encode_tiled(picture, cells),
                };
                let one = [1, shape[1], shape[2], shape[3]];
                let latent = posterior.sample(draw(one)).repeat_dim(0, request.count);
                sampler.add_noise(latent, draw(shape), first)
            }
            _ => sampler.initial(draw(shape)),
        }
    }
}

/// What the text encoder and the sampler have made of a request.
struct Prepared {
    sampler: Sampler,
    steps: Vec<Step>,
    /// Whether each step is guided.
    guided: Vec<bool>,
    text: Tensor<3>,
    /// Without guidance and with it.
    streams: [Vec<Vec<ImageStream>>; 2],
    noise: Box<dyn Noise>,
    latent: Tensor<4>,
}

/// What to call with each stage: an error where the work is to be broken off.
fn telling(
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> impl FnMut(Progress) -> Result<(), PipelineError> {
    move |now| match progress(now) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PipelineError::Stopped),
    }
}

/// Runs all steps: the last latent, and what it took.
fn denoise(
    unet: &UNet2DConditionModel,
    dtype: FloatDType,
    request: &Request,
    prepared: Prepared,
    tell: &mut impl FnMut(Progress) -> Result<(), PipelineError>,
) -> Result<(Tensor<4>, Evaluations), PipelineError> {
    let Prepared {
        mut sampler,
        steps,
        guided,
        text,
        streams,
        mut noise,
        mut latent,
    } = prepared;
    let mut evaluations = Evaluations::default();
    let mut cache: Option<Cache> = None;
    for (index, step) in steps.iter().enumerate() {
        let guided = guided[index];
        let acting: Vec<bool> = (request.image_prompts.iter())
            .map(|prompt| prompt.acts(index, steps.len()))
            .collect();
        let streams = streams[usize::from(guided)].iter().zip(&acting);
        let conditioning = Conditioning {
            text: match guided || !is_guided(request.cfg) {
                true => text.clone(),
                false => text.clone().narrow(0, request.count, request.count),
            },
            // Tensors are shared, not copied.
            streams: streams
                .filter(|(_, acts)| **acts)
                .flat_map(|(streams, _)| streams.clone())
                .collect(),
            merging: (request.token_merging > 0.0)
                .then(|| TokenMerging::new(request.token_merging)),
        };
        let scaled = sampler.scale(latent.clone(), step).cast(dtype);
        let scaled = if guided {
            scaled.repeat_dim(0, 2)
        } else {
            scaled
        };
        let evaluated = scaled.dims()[0];
        // A feature made under other conditions, or too long ago, is of no use.
        cache = cache.filter(|cache| {
            cache.age < request.deep_cache && cache.guided == guided && cache.acting == acting
        });
        let predicted = match &mut cache {
            Some(cache) => {
                cache.age += 1;
                evaluations.shallow += evaluated;
                let feature = &cache.feature;
                unet.forward_from(scaled, step.timestep, &conditioning, feature)
            }
            None => {
                evaluations.whole += evaluated;
                if request.deep_cache == 1 {
                    unet.forward(scaled, step.timestep, &conditioning)
                } else {
                    let (predicted, feature) =
                        unet.forward_keeping(scaled, step.timestep, &conditioning, CACHE_DEPTH);
                    cache = Some(Cache {
                        feature,
                        age: 1,
                        guided,
                        acting,
                    });
                    predicted
                }
            }
        };
        // The latent stays f32 whatever the model is.
        let predicted = predicted.cast(FloatDType::F32);
        let predicted = match guided {
            true => guide(predicted, request.cfg),
            false => predicted,
        };
        latent = sampler.step(latent, predicted, step, noise.as_mut());
        tell(Progress::Step {
            done: index + 1,
            of: steps.len(),
        })?;
    }
    all_finite(&latent, "the latent")?;
    Ok((latent, evaluations))
}

/// Latents to pictures, one by one.
fn decode(
    vae: &AutoencoderKL,
    request: &Request,
    latents: &Tensor<4>,
) -> Result<Vec<RgbImage>, PipelineError> {
    let mut pictures = Vec::with_capacity(request.count);
    for one in latents.clone().split(1, 0) {
        let image = match request.vae_tile / vae.config().pixels_per_cell() {
            0 => vae.decode(one),
            cells => vae.decode_tiled(one, cells),
        };
        all_finite(&image, "the VAE's picture")?;
        pictures.push(to_picture(image));
    }
    Ok(pictures)
}

impl Request {
    /// Whether step `step` of `steps` is guided.
    fn is_guided(&self, step: usize, steps: usize) -> bool {
        let share = |done: usize| done as f64 / steps as f64;
        is_guided(self.cfg) && share(step) >= self.cfg_start && share(step + 1) <= self.cfg_end
    }
}

/// The skips that are made anew where the deep feature is not: the first convolution's, as DeepCache's authors advise.
const CACHE_DEPTH: usize = 1;

/// A deep feature, and under which conditions it was made.
struct Cache {
    feature: DeepFeature,
    /// Evaluations since then, with its own.
    age: usize,
    guided: bool,
    acting: Vec<bool>,
}

/// NaN would otherwise end as a black picture.
fn all_finite(tensor: &Tensor<4>, what: &'static str) -> Result<(), PipelineError> {
    if tensor.clone().is_finite().all().into_scalar::<bool>() {
        Ok(())
    } else {
        Err(PipelineError::NotFinite { what })
    }
}

fn is_guided(cfg: f64) -> bool {
    cfg > 1.0
}

/// `[1, 3, height, width]` in `[-1, 1]`.
fn from_picture(picture: &RgbImage, device: &burn::tensor::Device) -> Tensor<4> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture
        .as_raw()
        .iter()
        .map(|&value| f32::from(value) / 127.5 - 1.0)
        .collect();
    Tensor::<4>::from_data(TensorData::new(values, [1, height, width, 3]), device)
        .permute([0, 3, 1, 2])
}

/// One picture of a `[1, 3, height, width]` tensor in about `[-1, 1]`.
fn to_picture(image: Tensor<4>) -> RgbImage {
    let [_, _, height, width] = image.dims();
    let bytes = ((image / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0)
        .permute([0, 2, 3, 1])
        .into_data()
        .iter::<f32>()
        .map(|value| value.round_ties_even() as u8)
        .collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).expect("three bytes a pixel")
}
