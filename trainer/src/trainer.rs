use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::module::Module;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use clip_text::{ClipTextModel, Tokenizer};
use image::RgbImage;
use lora_core::{Component, Lora};
use sd_diffusion::{NoiseSchedule, PredictionType, SchedulerConfig};
use sd_unet::{Conditioning, UNet2DConditionModel};
use sd_vae::AutoencoderKL;

use crate::config::auto_steps;
use crate::loss::{Batch, Denoising, denoising_loss};
use crate::random::{Purpose, Stream};
use crate::{Dataset, TrainConfig, TrainError, factors, metadata, state};

/// Pixels of a picture's side at most.
const MAX_SIDE: usize = 4096;

/// The model that a LoRA is trained for, with plain weights on a device without gradients.
#[derive(Debug)]
pub struct Base {
    /// What it is called in the LoRA's metadata.
    pub name: String,
    /// SHA-256 of its file in hexadecimal, if it is a single one.
    pub sha256: Option<String>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its text encoder.
    pub text_encoder: ClipTextModel,
    /// Its UNet.
    pub unet: UNet2DConditionModel,
    /// Its VAE; needed until the latents are cached.
    pub vae: AutoencoderKL,
    /// Its noise schedule.
    pub scheduler: SchedulerConfig,
}

/// A run of training: caches what does not change, then takes one step at a time.
///
/// Everything random follows from the seed, the step and the sample, so that a run can be stopped after any step, saved, and gone on with to the
/// very same result.
pub struct Trainer {
    config: TrainConfig,
    steps: usize,
    done: usize,
    text_encoder: Option<ClipTextModel>,
    unet: UNet2DConditionModel,
    schedule: NoiseSchedule,
    prediction: PredictionType,
    samples: Vec<CachedSample>,
    latent_shape: [usize; 3],
    optimizer: AdamW,
    moments: Vec<Option<AdamWState<2>>>,
    identity: state::Identity,
    description: metadata::Description,
    cut_captions: Vec<PathBuf>,
    device: Device,
}

/// What a run needs of one picture.
struct CachedSample {
    /// Mean and deviation of the latent, in the UNet's units.
    mean: TensorData,
    deviation: TensorData,
    words: Words,
}

/// A caption, as far as it can be computed before the run.
enum Words {
    Tokens(Vec<u32>),
    Embedding(TensorData),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: usize,
    /// The weighted loss, mean over the step's pictures.
    pub loss: f32,
    /// The UNet's learning rate.
    pub learning_rate: f64,
}

impl Trainer {
    /// Reads and encodes the pictures, and puts fresh factors on the model. `progress` hears of every picture that is done, and may break off.
    ///
    /// # Errors
    /// If an option is out of its range, or a picture cannot be read.
    pub fn new(
        base: Base,
        dataset: &Dataset,
        config: TrainConfig,
        device: &Device,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let cell = base.vae.config().pixels_per_cell().max(8);
        let side = config.resolution;
        if !(1..=MAX_SIDE).contains(&side) || !side.is_multiple_of(cell) {
            return Err(TrainError::Resolution {
                found: side,
                cell,
                most: MAX_SIDE,
            });
        }
        if config.clip_skip > base.text_encoder.layers() {
            return Err(TrainError::Option {
                option: "clip-skip",
                found: config.clip_skip.to_string(),
                expected: "no more than the text encoder has layers",
            });
        }
        let steps = config.steps.unwrap_or(auto_steps(dataset.samples.len()));
        if config.warmup_steps >= steps {
            return Err(TrainError::Option {
                option: "warmup-steps",
                found: format!("{} of {steps} steps", config.warmup_steps),
                expected: "fewer than --steps",
            });
        }
        let schedule = NoiseSchedule::new(&base.scheduler)
            .map_err(|error| TrainError::Schedule(Box::new(error)))?;
        let identity = state::Identity::new(&config, dataset, &base)?;

        let trains_text = config.text_encoder_rate() > 0.0;
        let longest = base.tokenizer.model_max_length() - 2;
        let (mut samples, mut cut_captions) = (vec![], vec![]);
        let mut latent_shape = [0; 3];
        for (index, sample) in dataset.samples.iter().enumerate() {
            if progress(index, dataset.samples.len()).is_break() {
                return Err(TrainError::Stopped);
            }
            let side = config.resolution as u32;
            let picture = to_tensor(&sample.pixels(side)?, device);
            let posterior = base.vae.encode(picture);
            let [_, channels, height, width] = posterior.mean.dims();
            latent_shape = [channels, height, width];
            if base.tokenizer.encode(&sample.caption).len() > longest {
                cut_captions.push(sample.picture.clone());
            }
            let tokens = base.tokenizer.encode_padded(&sample.caption);
            let words = if trains_text {
                Words::Tokens(tokens)
            } else {
                let tokens = token_tensor(&[tokens.as_slice()], device);
                let embedding = base.text_encoder.forward_skip(tokens, config.clip_skip);
                Words::Embedding(embedding.into_data())
            };
            samples.push(CachedSample {
                mean: posterior.mean.into_data(),
                deviation: posterior.deviation.into_data(),
                words,
            });
        }
        let _ = progress(dataset.samples.len(), dataset.samples.len());

        let description = metadata::Description::new(&base, dataset, steps);
        let unet = attach(base.unet, Component::Unet, &config)?;
        let text_encoder = trains_text
            .then(|| attach(base.text_encoder, Component::TextEncoder, &config))
            .transpose()?;
        let mut trainer = Self {
            optimizer: AdamWConfig::new()
                .with_epsilon(1e-8)
                .with_weight_decay(config.weight_decay as f32)
                .build(),
            steps,
            done: 0,
            text_encoder,
            unet,
            schedule,
            prediction: base.scheduler.prediction_type,
            samples,
            latent_shape,
            moments: vec![],
            identity,
            description,
            cut_captions,
            device: device.clone().autodiff(),
            config,
        };
        trainer.moments.resize_with(trainer.values().len(), || None);
        Ok(trainer)
    }

    /// How many steps the run has.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// How many of them are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether all of them are.
    pub fn is_done(&self) -> bool {
        self.done >= self.steps
    }

    /// Pictures whose captions are longer than the text encoder reads, so that their ends have no effect.
    pub fn cut_captions(&self) -> &[PathBuf] {
        &self.cut_captions
    }

    /// Takes one step of AdamW (Loshchilov & Hutter 2017) on the factors.
    ///
    /// # Errors
    /// If the loss is no number any more; the factors are then as they were before the step.
    ///
    /// # Panics
    /// If the run is done.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        assert!(!self.is_done(), "the run is done");
        if self.config.gradient_checkpointing {
            self.descend(Self::gradients_in_parts)
        } else {
            self.descend(|run, part| run.gradients(run.loss(part)))
        }
    }

    /// One step down the mean gradient of its parts, each a loss and the gradient of every factor.
    fn descend(
        &mut self,
        gradients: impl Fn(&Self, usize) -> (f32, Vec<Tensor<2>>),
    ) -> Result<StepReport, TrainError> {
        let parts = self.config.gradient_accumulation;
        let mut total: Vec<Tensor<2>> = vec![];
        let mut loss_sum = 0.0;
        for part in 0..parts {
            let (loss, gradient) = gradients(self, part);
            let share = |gradient: Tensor<2>| match parts {
                1 => gradient,
                parts => gradient / parts as f64,
            };
            let gradient = gradient.into_iter().map(share);
            loss_sum += loss / parts as f32;
            total = if total.is_empty() {
                gradient.collect()
            } else {
                let sums = total.into_iter().zip(gradient);
                sums.map(|(a, b)| a + b).collect()
            };
        }
        let (step, learning_rate) = (self.done + 1, self.config.learning_rate);
        let diverged = |loss| TrainError::Diverged {
            step,
            loss,
            learning_rate,
        };
        if !loss_sum.is_finite() {
            return Err(diverged(loss_sum));
        }
        if let Some(limit) = self.config.max_grad_norm {
            let norm = norm(&total);
            if !norm.is_finite() {
                return Err(diverged(norm));
            }
            let scale = limit / (f64::from(norm) + 1e-6);
            if scale < 1.0 {
                total = total.into_iter().map(|gradient| gradient * scale).collect();
            }
        }

        let share = self.config.learning_rate_share(self.done, self.steps);
        let rate = learning_rate * share;
        self.update(total, rate, self.config.text_encoder_rate() * share);
        self.done += 1;
        Ok(StepReport {
            step,
            loss: loss_sum,
            learning_rate: rate,
        })
    }

    fn update(&mut self, gradients: Vec<Tensor<2>>, unet_rate: f64, text_rate: f64) {
        let Self {
            optimizer, moments, ..
        } = self;
        let mut gradients = gradients.into_iter().zip(moments.iter_mut());
        let mut step = |value: Tensor<2>, rate: f64| {
            let (gradient, moment) = gradients.next().expect("a gradient for each factor");
            let (value, state) = optimizer.step(rate, value, gradient, moment.take());
            *moment = state;
            value
        };
        self.unet = factors::map(self.unet.clone(), |_, value| step(value, unet_rate));
        self.text_encoder = self
            .text_encoder
            .take()
            .map(|model| factors::map(model, |_, value| step(value, text_rate)));
    }

    /// A loss and the gradient of every factor.
    fn gradients(&self, loss: Tensor<1>) -> (f32, Vec<Tensor<2>>) {
        let gradients = loss.backward();
        let mut all = factors::gradients(&self.unet, &gradients);
        if let Some(text_encoder) = &self.text_encoder {
            all.extend(factors::gradients(text_encoder, &gradients));
        }
        (loss.into_scalar(), all)
    }

    /// The loss of one batch: part `part` of the step that comes next.
    fn loss(&self, part: usize) -> Tensor<1> {
        let (schedule, gamma) = (&self.schedule, self.config.min_snr_gamma);
        denoising_loss(
            &self.unet,
            schedule,
            self.prediction,
            self.batch(part),
            gamma,
        )
    }

    /// The loss of the same batch and the gradient of every factor, with most activations computed twice instead of kept.
    fn gradients_in_parts(&self, part: usize) -> (f32, Vec<Tensor<2>>) {
        let batch = self.batch(part);
        self.gradients_of_batch(batch, self.config.min_snr_gamma)
    }

    fn gradients_of_batch(&self, batch: Batch, gamma: Option<f64>) -> (f32, Vec<Tensor<2>>) {
        let dtype = FloatDType::from(self.unet.dtype());
        let text = batch.text.clone().cast(dtype);
        let task = Denoising::new(&self.schedule, self.prediction, batch, gamma);
        let mut all = factors::zeros(&self.unet);
        let (noisy, times) = (task.noisy.clone().cast(dtype), task.times.clone());
        let (loss, pull) = self.unet.backward(
            noisy,
            times,
            &Conditioning::text(text.clone()),
            |predicted| task.loss(predicted),
            |gradients| factors::add(&self.unet, gradients, &mut all),
        );
        if let Some(text_encoder) = &self.text_encoder {
            let gradients = (text * Tensor::from_inner(pull)).sum().backward();
            all.extend(factors::gradients(text_encoder, &gradients));
        }
        (loss.into_scalar(), all)
    }

    /// The pictures, noise and words of part `part` of the step that comes next.
    fn batch(&self, part: usize) -> Batch {
        let size = self.config.batch_size;
        let first = (self.done * self.config.gradient_accumulation + part) * size;
        let drawn: Vec<Draw<'_>> = (first..first + size).map(|n| self.draw(n as u64)).collect();

        let shape = [
            size,
            self.latent_shape[0],
            self.latent_shape[1],
            self.latent_shape[2],
        ];
        let upload = |pick: for<'a> fn(&'a Draw<'_>) -> &'a [f32]| {
            let values: Vec<f32> = drawn.iter().flat_map(|draw| pick(draw)).copied().collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), &self.device)
        };
        Batch {
            latents: upload(|draw| &draw.latent),
            noise: upload(|draw| &draw.noise),
            timesteps: drawn.iter().map(|draw| draw.timestep).collect(),
            text: self.text(&drawn),
        }
    }

    fn text(&self, drawn: &[Draw<'_>]) -> Tensor<3> {
        if let Some(text_encoder) = &self.text_encoder {
            let tokens: Vec<&[u32]> = drawn
                .iter()
                .filter_map(|draw| match &draw.sample.words {
                    Words::Tokens(tokens) => Some(tokens.as_slice()),
                    Words::Embedding(_) => None,
                })
                .collect();
            let tokens = token_tensor(&tokens, &self.device);
            return text_encoder.forward_skip(tokens, self.config.clip_skip);
        }
        let embeddings = drawn
            .iter()
            .filter_map(|draw| match &draw.sample.words {
                Words::Embedding(data) => Some(Tensor::<3>::from_data(data.clone(), &self.device)),
                Words::Tokens(_) => None,
            })
            .collect();
        Tensor::cat(embeddings, 0)
    }

    /// Draw `number` of the run: each epoch shows every picture once, in an order of its own.
    fn draw(&self, number: u64) -> Draw<'_> {
        let (seed, count) = (self.config.seed, self.samples.len() as u64);
        let (epoch, place) = (number / count, (number % count) as usize);
        let order = Stream::new(seed, epoch, 0, Purpose::Order).order(self.samples.len());
        let sample = &self.samples[order[place]];
        let stream = |purpose| Stream::new(seed, number, 0, purpose);

        let size = self.latent_shape.iter().product();
        let mean = sample.mean.iter::<f32>();
        let deviation = sample.deviation.iter::<f32>();
        let latent = mean
            .zip(deviation)
            .zip(stream(Purpose::Latent).normal(size))
            .map(|((mean, deviation), noise)| mean + deviation * noise)
            .collect();
        Draw {
            sample,
            latent,
            noise: stream(Purpose::Noise).normal(size),
            timestep: stream(Purpose::Timestep).below(self.schedule.timesteps()),
        }
    }

    /// The LoRA as it is now.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn lora(&self, name: &str) -> Result<Lora, TrainError> {
        let mut parts = vec![(Component::Unet, lora_core::factors(&self.unet.valid()))];
        if let Some(text_encoder) = &self.text_encoder {
            let factors = lora_core::factors(&text_encoder.valid());
            parts.push((Component::TextEncoder, factors));
        }
        Ok(Lora::from_factors(name, parts)?)
    }

    /// kohya's `ss_*` and Stability's `modelspec.*` metadata for a LoRA of this name. They hold no date, so that a run can be repeated to the
    /// byte.
    pub fn metadata(&self, name: &str) -> std::collections::BTreeMap<String, String> {
        metadata::metadata(
            name,
            &self.config,
            &self.description,
            self.prediction,
            self.done,
        )
    }

    /// Saves all that is needed to go on, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_state(&self, path: &std::path::Path) -> Result<(), TrainError> {
        let moments = self.moments.iter().map(|moment| {
            let moment = &moment.as_ref()?.momentum;
            Some([moment.moment_1.clone(), moment.moment_2.clone()])
        });
        let factors = self.values().into_iter().zip(moments);
        state::save(path, &self.identity, self.done, factors)
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// If the file is damaged, or of a run with other options, pictures, captions or another model.
    pub fn load_state(&mut self, path: &std::path::Path) -> Result<(), TrainError> {
        let names: Vec<(String, [usize; 2])> = self
            .values()
            .into_iter()
            .map(|(name, value)| (name, value.dims()))
            .collect();
        let device = self.device.clone().inner();
        let saved = state::load(path, &self.identity, &names, &device)?;
        if saved.done > self.steps {
            return Err(TrainError::State {
                path: path.to_path_buf(),
                reason: format!("it is at step {}, past the end", saved.done),
            });
        }
        let mut values = saved.factors.iter();
        let mut put = |_, _| {
            values
                .next()
                .expect("a value for each factor")
                .value
                .clone()
        };
        self.unet = factors::map(self.unet.clone(), &mut put);
        self.text_encoder = self
            .text_encoder
            .take()
            .map(|model| factors::map(model, &mut put));
        self.moments = saved
            .factors
            .into_iter()
            .map(|factor| {
                let [first, second] = factor.moments?;
                let momentum = AdaptiveMomentumState::new(saved.done, first, second);
                Some(AdamWState::new(momentum))
            })
            .collect();
        self.done = saved.done;
        Ok(())
    }

    fn values(&self) -> Vec<(String, Tensor<2>)> {
        let named = |prefix: &str, (path, value)| (format!("{prefix}.{path}"), value);
        let unet = factors::values(&self.unet).into_iter();
        let text = self.text_encoder.iter().flat_map(factors::values);
        unet.map(|factor| named("unet", factor))
            .chain(text.map(|factor| named("text_encoder", factor)))
            .collect()
    }
}

/// One picture of one batch, with all that is random about it.
struct Draw<'a> {
    sample: &'a CachedSample,
    latent: Vec<f32>,
    noise: Vec<f32>,
    timestep: usize,
}

/// Fresh factors on kohya's targets: down uniform in ±1/√fan_in as kohya has it, up zero.
fn attach<M: Module>(
    model: M,
    component: Component,
    config: &TrainConfig,
) -> Result<M, TrainError> {
    let mut number = 0;
    let sizes = lora_core::kohya_sizes(component, config.size(), config.conv_size());
    let init = |_: &str, fan_in: usize, length: usize| {
        number += 1;
        let bound = 1.0 / (fan_in as f32).sqrt();
        Stream::new(config.seed, number, component as u64, Purpose::Factor).uniform(bound, length)
    };
    let model = lora_core::attach(model, component, sizes, init)?;
    Ok(model.train())
}

/// The norm of all gradients taken as one vector.
fn norm(gradients: &[Tensor<2>]) -> f32 {
    let squares = gradients
        .iter()
        .map(|gradient| gradient.clone().square().sum())
        .collect();
    Tensor::<1>::cat(squares, 0).sum().sqrt().into_scalar()
}

/// `[1, 3, height, width]` in `[-1, 1]`.
fn to_tensor(picture: &RgbImage, device: &Device) -> Tensor<4> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let values: Vec<f32> = picture
        .as_raw()
        .iter()
        .map(|&value| f32::from(value) / 127.5 - 1.0)
        .collect();
    Tensor::<4>::from_data(TensorData::new(values, [1, height, width, 3]), device)
        .permute([0, 3, 1, 2])
}

fn token_tensor(tokens: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let length = tokens.first().map_or(0, |row| row.len());
    let values: Vec<i64> = tokens
        .iter()
        .flat_map(|row| row.iter().map(|&t| t.into()))
        .collect();
    Tensor::from_data(TensorData::new(values, [tokens.len(), length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::FloatDType;
    use lora_core::{Dialect, Factor, Precision};
    use parity::{Fixture, device, reference};
    use sd_pipeline::{OpenOptions, StableDiffusion};

    const GAMMA: f64 = 5.0;
    /// As kohya writes what its network was given.
    const CONV_ARGS: &str = r#"{"conv_dim":"2","conv_alpha":"1"}"#;

    fn base() -> Base {
        base_in(FloatDType::F32)
    }

    fn base_in(dtype: FloatDType) -> Base {
        let options = OpenOptions::default();
        let model = StableDiffusion::open(reference().join("tiny-sd"), &options, dtype, &device())
            .expect("the small reference model");
        Base {
            name: "tiny-sd".into(),
            sha256: None,
            tokenizer: model.tokenizer,
            text_encoder: model.text_encoder,
            unet: model.unet,
            vae: model.vae,
            scheduler: model.scheduler,
        }
    }

    fn config() -> TrainConfig {
        TrainConfig {
            trigger: "mychar001".into(),
            steps: Some(3),
            rank: 2,
            alpha: 1.0,
            learning_rate: 1e-3,
            resolution: 64,
            seed: 11,
            ..TrainConfig::default()
        }
    }

    fn run(config: TrainConfig) -> Trainer {
        run_on(base(), config)
    }

    fn run_on(base: Base, config: TrainConfig) -> Trainer {
        let dataset = Dataset::open(reference().join("pictures10"), &config.trigger).unwrap();
        Trainer::new(base, &dataset, config, &device(), |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    fn saved(run: &Trainer) -> Vec<u8> {
        let lora = run.lora("mira").unwrap();
        lora.to_bytes(Dialect::Kohya, Precision::F16, &run.metadata("mira"))
            .unwrap()
    }

    /// The factors of a fixture, `{prefix}{component}.{path}.lora_A`, for the modules of a run that it has.
    fn with_fixture(
        fixture: &Fixture,
        prefix: &str,
        component: &str,
        factors: Vec<Factor>,
    ) -> Vec<Factor> {
        let names: std::collections::HashSet<_> = fixture.names().into_iter().collect();
        let known = |factor: &Factor| {
            let path = factor.path.trim_start_matches("text_model.");
            names.contains(format!("{prefix}{component}.{path}.lora_A").as_str())
        };
        factors
            .into_iter()
            .filter(known)
            .map(|factor| {
                let path = factor.path.trim_start_matches("text_model.");
                let matrix = |side: &str| {
                    let (shape, values) =
                        fixture.float(&format!("{prefix}{component}.{path}.lora_{side}"));
                    let rows = shape[0];
                    let data = TensorData::new(values.to_vec(), [rows, values.len() / rows]);
                    Tensor::<2>::from_data(data, &device())
                };
                Factor {
                    down: matrix("A"),
                    up: matrix("B"),
                    ..factor
                }
            })
            .collect()
    }

    /// The worst `relative_error` of the factors that the fixture has.
    fn worst(ours: &[Factor], theirs: &[Factor]) -> f64 {
        assert!(theirs.len() > 5, "{}", theirs.len());
        let error = |a: &Tensor<2>, b: &Tensor<2>| {
            parity::relative_error(&parity::values(a.clone()), &parity::values(b.clone()))
        };
        theirs
            .iter()
            .filter_map(|b| Some((ours.iter().find(|a| a.path == b.path)?, b)))
            .map(|(a, b)| error(&a.down, &b.down).max(error(&a.up, &b.up)))
            .fold(0.0, f64::max)
    }

    /// Model and activations in 16 bits, factors and their sums in 32, as on a GPU.
    #[test]
    fn computing_in_bf16_has_nearly_the_same_gradients() {
        for (conv_rank, gradient_checkpointing) in [(None, true), (Some(2), false)] {
            let config = TrainConfig {
                conv_rank,
                gradient_checkpointing,
                ..config()
            };
            let [mut wide, mut short] = [FloatDType::F32, FloatDType::BF16]
                .map(|dtype| run_on(base_in(dtype), config.clone()));
            assert_eq!(short.unet.dtype(), burn::tensor::DType::BF16);
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("state");
            // The first step gives both factors something to learn.
            for _ in 0..2 {
                let [ours, theirs] = [&short, &wide].map(|run| {
                    if gradient_checkpointing {
                        run.gradients_in_parts(0)
                    } else {
                        run.gradients(run.loss(0))
                    }
                });
                let apart = (ours.0 - theirs.0).abs() / theirs.0;
                assert!(apart < 0.02, "losses of {} and {}", ours.0, theirs.0);
                // On the way down all gradients have come through norms over one or two numbers of this small model's middle, which in 16
                // bits leave as little of PyTorch's.
                let factors = lora_core::factors(&short.unet.valid());
                let up = factors
                    .iter()
                    .map(|one| one.path.starts_with("up_blocks.3"));
                let up: Vec<bool> = up.flat_map(|up| [up, up]).collect();
                let values = |all: Vec<Tensor<2>>| -> Vec<f32> {
                    let of_up = all.into_iter().zip(&up).filter(|(_, up)| **up);
                    of_up.flat_map(|(one, _)| parity::values(one)).collect()
                };
                let error = parity::relative_error(&values(ours.1), &values(theirs.1));
                println!("{conv_rank:?}: {error:e}");
                // 0.04 at first, and 0.12 to 0.16 after a step, by where the roundings of this processor fall.
                assert!(error > 0.0 && error < 0.3, "{conv_rank:?}: {error:e}");
                short.step().unwrap();
                short.save_state(&state).unwrap();
                if wide.done() == 0 {
                    let refused = wide.load_state(&state).unwrap_err().to_string();
                    assert!(
                        refused.contains("arithmetic was bf16, now it is f32"),
                        "{refused}"
                    );
                    // Here it is to go on from the other's factors all the same.
                    wide.identity = short.identity.clone();
                }
                wide.load_state(&state).unwrap();
            }
            assert!(short.lora("mira").is_ok());
        }
    }

    /// A fixture's tensor on the device with gradients.
    fn tracked<const D: usize>(fixture: &Fixture, name: &str) -> Tensor<D> {
        let (shape, values) = fixture.float(name);
        let data = TensorData::new(values.to_vec(), shape.to_vec());
        Tensor::from_data(data, &device().autodiff())
    }

    fn timesteps(fixture: &Fixture) -> Vec<usize> {
        let times = parity::values(fixture.ints::<1>("timesteps").float());
        times.into_iter().map(|t| t as usize).collect()
    }

    fn matrices(factors: &[Factor]) -> Vec<Tensor<2>> {
        factors
            .iter()
            .flat_map(|f| [f.down.clone(), f.up.clone()])
            .collect()
    }

    /// kohya's LoCon: the transformers, and the residual blocks around them, as peft trains them.
    #[test]
    fn gradients_of_convolutions_are_those_of_pytorch_and_peft() {
        let fixture = Fixture::open(reference().join("train_step_conv.safetensors"));
        let mut run = run(TrainConfig {
            conv_rank: Some(2),
            text_encoder_learning_rate: Some(0.0),
            ..config()
        });
        assert_eq!(run.metadata("mira")["ss_network_args"], CONV_ARGS);
        let ours = |run: &Trainer| lora_core::factors(&run.unet.valid());
        let start = with_fixture(&fixture, "", "unet", ours(&run));
        assert_eq!((start.len(), ours(&run).len()), (277, 277));
        let start = matrices(&start);
        run.unet = factors::map(run.unet.clone(), |n, _| start[n].clone());
        let batch = || Batch {
            latents: tracked(&fixture, "latents"),
            noise: tracked(&fixture, "noise"),
            timesteps: timesteps(&fixture),
            text: tracked(&fixture, "context"),
        };
        let all = ours(&run);
        let at = |factor: &Factor| all.iter().position(|one| one.path == factor.path);
        let wanted = with_fixture(&fixture, "grad.", "unet", all.clone());
        assert_eq!(wanted.len(), 75);
        // With activations kept, and computed again.
        let loss = denoising_loss(
            &run.unet,
            &run.schedule,
            run.prediction,
            batch(),
            Some(GAMMA),
        );
        let kept = factors::gradients(&run.unet, &loss.backward());
        let (value, again) = run.gradients_of_batch(batch(), Some(GAMMA));
        let weighted = fixture.float("weighted").1[0];
        assert!((value / weighted - 1.0).abs() < 1e-5, "{value} {weighted}");
        for found in [kept, again] {
            for theirs in &wanted {
                let at = 2 * at(theirs).expect("the run trains this module");
                for (ours, theirs) in found[at..].iter().zip([&theirs.down, &theirs.up]) {
                    let [ours, theirs] = [ours, theirs].map(|one| parity::values(one.clone()));
                    let error = parity::relative_error(&ours, &theirs);
                    assert!(error < 1e-3, "{}: {error:e}", all[at / 2].path);
                }
            }
        }
    }

    #[test]
    fn a_step_is_that_of_pytorch_and_peft() {
        let fixture = Fixture::open(reference().join("train_step.safetensors"));
        let mut run = run(TrainConfig {
            lr_scheduler: crate::LrScheduler::Constant,
            max_grad_norm: None,
            ..config()
        });
        let text = run
            .text_encoder
            .take()
            .expect("the text encoder is trained");
        let ours = |model: &UNet2DConditionModel| lora_core::factors(&model.valid());
        let ours_text = |model: &ClipTextModel| lora_core::factors(&model.valid());
        let unet_factors = with_fixture(&fixture, "", "unet", ours(&run.unet));
        let text_factors = with_fixture(&fixture, "", "text_encoder", ours_text(&text));
        assert_eq!((unet_factors.len(), text_factors.len()), (192, 18));
        let (first_unet, first_text) = (matrices(&unet_factors), matrices(&text_factors));
        run.unet = factors::map(run.unet.clone(), |n, _| first_unet[n].clone());
        run.text_encoder = Some(factors::map(text, |n, _| first_text[n].clone()));

        let timesteps = timesteps(&fixture);
        let ids: Vec<u32> = parity::values(fixture.ints::<2>("ids").float())
            .into_iter()
            .map(|t| t as u32)
            .collect();
        let batch = |run: &Trainer| {
            let tokens = token_tensor(&ids.chunks(77).collect::<Vec<_>>(), &run.device);
            let text = run.text_encoder.as_ref().expect("it was put back");
            Batch {
                latents: tracked(&fixture, "latents"),
                noise: tracked(&fixture, "noise"),
                timesteps: timesteps.clone(),
                text: text.forward_skip(tokens, 1),
            }
        };
        let loss = |run: &Trainer, gamma: Option<f64>| {
            denoising_loss(&run.unet, &run.schedule, run.prediction, batch(run), gamma)
        };

        let json = std::fs::read_to_string(reference().join("train_step.json")).unwrap();
        let numbers: serde_json::Value = serde_json::from_str(&json).unwrap();
        let close = |ours: f32, theirs: &serde_json::Value| {
            let theirs = theirs.as_f64().unwrap();
            assert!(
                (f64::from(ours) / theirs - 1.0).abs() < 1e-5,
                "{ours} {theirs}"
            );
        };
        close(loss(&run, None).into_scalar(), &numbers["plain"]);

        let gradients = loss(&run, Some(5.0)).backward();
        let mut wanted = with_fixture(&fixture, "grad.", "unet", ours(&run.unet));
        let text = run.text_encoder.as_ref().expect("it was put back");
        wanted.extend(with_fixture(
            &fixture,
            "grad.",
            "text_encoder",
            ours_text(text),
        ));
        let mut found = factors::gradients(&run.unet, &gradients);
        found.extend(factors::gradients(text, &gradients));
        let (value, in_parts) = run.gradients_of_batch(batch(&run), Some(5.0));
        close(value, &numbers["weighted"][0]);
        assert_eq!(in_parts.len(), found.len());
        for (whole, in_parts) in found.iter().zip(in_parts) {
            let [whole, in_parts] = [whole.clone(), in_parts].map(parity::values);
            let error = parity::relative_error(&in_parts, &whole);
            assert!(error < 1e-4, "{error:e}");
        }
        let worst_gradient = matrices(&wanted)
            .into_iter()
            .zip(found)
            .map(|(theirs, ours)| {
                parity::relative_error(&parity::values(ours), &parity::values(theirs))
            })
            .fold(0.0, f64::max);
        assert!(worst_gradient < 1e-3, "{worst_gradient:e}");

        for step in 0..3 {
            let report = run
                .descend(|run, _| run.gradients(loss(run, Some(5.0))))
                .unwrap();
            close(report.loss, &numbers["weighted"][step]);
        }
        let wanted = with_fixture(&fixture, "after3.", "unet", ours(&run.unet));
        let error = worst(&ours(&run.unet), &wanted);
        assert!(error < 1e-3, "{error:e}");
        let text = run.text_encoder.as_ref().expect("it was put back");
        let wanted = with_fixture(&fixture, "after3.", "text_encoder", ours_text(text));
        let error = worst(&ours_text(text), &wanted);
        assert!(error < 1e-3, "{error:e}");
    }

    #[test]
    fn a_run_can_be_repeated_and_gone_on_with_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("mira.state");
        let mut whole = run(config());
        assert!(
            whole
                .lora("mira")
                .unwrap()
                .to_bytes(Dialect::Kohya, Precision::F16, &whole.metadata("mira"))
                .is_err()
        );
        while !whole.is_done() {
            whole.step().unwrap();
        }

        let mut first = run(config());
        first.step().unwrap();
        first.save_state(&state).unwrap();
        drop(first);
        let mut second = run(config());
        second.load_state(&state).unwrap();
        assert_eq!(second.done(), 1);
        while !second.is_done() {
            second.step().unwrap();
        }
        assert_eq!(saved(&whole), saved(&second));

        let mut other = run(TrainConfig {
            seed: 12,
            ..config()
        });
        let error = other.load_state(&state).unwrap_err().to_string();
        assert!(
            error.contains("seed") && error.contains("mira.state"),
            "{error}"
        );

        let bytes = std::fs::read(&state).unwrap();
        std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
        let error = other.load_state(&state).unwrap_err().to_string();
        assert!(
            error.contains("mira.state") && error.contains("damaged"),
            "{error}"
        );
    }

    #[test]
    fn a_text_encoder_that_is_not_trained_is_left_out() {
        let mut run = run(TrainConfig {
            text_encoder_learning_rate: Some(0.0),
            gradient_accumulation: 2,
            batch_size: 1,
            ..config()
        });
        run.step().unwrap();
        let lora = run.lora("mira").unwrap();
        assert_eq!(lora.modules(Component::Unet), 192);
        assert_eq!(lora.modules(Component::TextEncoder), 0);
    }

    #[test]
    fn an_epoch_shows_every_picture_once() {
        let run = run(config());
        let mut shown: Vec<_> = (10..20)
            .map(|number| std::ptr::from_ref(run.draw(number).sample))
            .collect();
        shown.sort();
        shown.dedup();
        assert_eq!(shown.len(), 10);
    }
}
