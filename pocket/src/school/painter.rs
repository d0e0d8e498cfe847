use std::ops::Range;
use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_text::{ClipTextConfig, ClipTextModel, HiddenAct, Tokenizer};
use half::f16;
use sd_diffusion::{BetaSchedule, NoiseSchedule, PredictionType, SchedulerConfig};
use sd_unet::{
    Conditioning, DownBlockType, PerAxis, PerLevel, Timesteps, UNet2DConditionModel, UNetConfig,
    UpBlockType,
};
use sd_vae::AutoencoderKL;

use super::words::POSITIONS;
use super::{Example, Stream, pictures, training_caption, with_small_embeddings};
use crate::puppet::{Attention, Expression, importance};

/// Text encoder and UNet, which learn together.
#[derive(Module, Debug)]
pub struct Painter {
    /// The text encoder.
    pub text_encoder: ClipTextModel,
    /// The UNet.
    pub unet: UNet2DConditionModel,
}

impl Painter {
    /// A painter with random weights, those of the embeddings small.
    pub fn new(vocabulary: usize, device: &Device) -> Self {
        Self {
            text_encoder: with_small_embeddings(text_config(vocabulary).init(device)),
            unet: unet_config().init(device),
        }
    }
}

/// Sizes of the pocket model's text encoder.
pub fn text_config(vocabulary: usize) -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: vocabulary,
        hidden_size: 96,
        intermediate_size: 256,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        max_position_embeddings: POSITIONS,
        hidden_act: HiddenAct::QuickGelu,
        layer_norm_eps: 1e-5,
    }
}

/// Sizes of the pocket model's UNet.
pub fn unet_config() -> UNetConfig {
    UNetConfig {
        sample_size: Some(PerAxis::Square(24)),
        down_block_types: vec![
            DownBlockType::DownBlock2D,
            DownBlockType::CrossAttnDownBlock2D,
        ],
        up_block_types: vec![UpBlockType::CrossAttnUpBlock2D, UpBlockType::UpBlock2D],
        block_out_channels: vec![64, 96],
        layers_per_block: PerLevel::Same(1),
        norm_num_groups: 16,
        cross_attention_dim: PerLevel::Same(96),
        attention_head_dim: PerLevel::Same(4),
        ..UNetConfig::default()
    }
}

/// The pocket model's noise levels: Stable Diffusion's, with the velocity as what is predicted (Salimans & Ho 2022).
pub fn scheduler_config() -> SchedulerConfig {
    SchedulerConfig {
        num_train_timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        beta_schedule: BetaSchedule::ScaledLinear,
        prediction_type: PredictionType::VPrediction,
        ..SchedulerConfig::default()
    }
}

/// Samples in a row that show the same but for one thing. What they have in common cancels out between them, and what that one thing does is
/// left: without that, few pixels of a mouth, or what is someone's own, are lost in what is different about all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siblings {
    /// So many pictures of a character in a shot, each with another expression.
    Expressions(u64),
    /// So many characters of one sex in the same shot.
    Characters(u64),
}

impl Siblings {
    /// How many there are.
    fn count(self) -> u64 {
        match self {
            Self::Expressions(count) | Self::Characters(count) => count,
        }
    }

    /// What counts in their pictures.
    fn attention(self) -> Attention {
        match self {
            Self::Expressions(_) => Attention::EXPRESSION,
            Self::Characters(_) => Attention::IDENTITY,
        }
    }
}

/// Latents of drawn pictures, each computed when it is first asked for, and kept.
pub struct Latents {
    vae: AutoencoderKL,
    seed: u64,
    size: usize,
    siblings: Siblings,
    device: Device,
    kept: Vec<OnceLock<Vec<f16>>>,
}

impl Latents {
    /// Up to `most` different pictures; after that, the first come again.
    pub fn new(vae: AutoencoderKL, seed: u64, size: usize, most: usize, device: &Device) -> Self {
        Self {
            vae,
            seed,
            size,
            siblings: Siblings::Expressions(1),
            device: device.clone(),
            kept: (0..most).map(|_| OnceLock::new()).collect(),
        }
    }

    /// So many samples in a row are alike but for one thing.
    ///
    /// # Panics
    /// If there are no siblings, or more than there are expressions.
    pub fn with_siblings(self, siblings: Siblings) -> Self {
        let most = Expression::ALL.len() as u64;
        assert!((1..=most).contains(&siblings.count()), "{siblings:?}");
        Self { siblings, ..self }
    }

    /// The number that all siblings of sample `number` have in common.
    pub(super) fn family(&self, number: u64) -> u64 {
        number / self.siblings.count()
    }

    /// What sample `number` shows.
    pub fn example(&self, number: u64) -> Example {
        let number = number % self.kept.len() as u64;
        let mut example = Example::new(self.seed, self.family(number));
        let sibling = number % self.siblings.count();
        match self.siblings {
            Siblings::Expressions(_) => {
                let all = Expression::ALL;
                let first = all.iter().position(|&one| one == example.shot.expression);
                let own = first.unwrap_or(0) + sibling as usize;
                example.shot.expression = all[own % all.len()];
            }
            // The first that comes, of as many as may be, whose sex the words tell.
            Siblings::Characters(_) if sibling > 0 => {
                let sex = example.character.sex;
                let mut random = Stream::new(self.seed, number, "sibling");
                while {
                    example.character = Example::character(&mut random);
                    example.character.sex != sex
                } {}
            }
            Siblings::Characters(_) => {}
        }
        example
    }

    /// The latents of samples in the UNet's units, `[batch, channels, height, width]`.
    pub fn get(&self, numbers: Range<u64>, device: &Device) -> Tensor<4> {
        let side = self.size / self.vae.config().pixels_per_cell();
        let channels = self.vae.config().latent_channels;
        let count = (numbers.end - numbers.start) as usize;
        let mut values = Vec::with_capacity(count * channels * side * side);
        for number in numbers {
            let place = &self.kept[(number % self.kept.len() as u64) as usize];
            let latent = place.get_or_init(|| {
                let example = self.example(number);
                let picture = pictures(&[example], self.size, self.size, |_| [0, 0], &self.device);
                let latent = self.vae.encode(picture).mean;
                latent
                    .into_data()
                    .iter::<f32>()
                    .map(f16::from_f32)
                    .collect()
            });
            values.extend(latent.iter().map(|value| value.to_f32()));
        }
        Tensor::from_data(
            TensorData::new(values, [count, channels, side, side]),
            device,
        )
    }
}

/// What the painter learns from.
pub struct Painting {
    /// Seed of the run.
    pub seed: u64,
    /// Samples of a step, over which timesteps are spread evenly; whole families of siblings.
    pub batch: usize,
    /// The pictures.
    pub latents: Latents,
    /// The words' tokens.
    pub tokenizer: Tokenizer,
    /// The noise levels.
    pub schedule: NoiseSchedule,
    /// Share of families that are noise alone, 0 to 1, at one of the highest levels of noise. That is what drawing begins with, while any
    /// noisy picture shows a little of itself; so what is made of nothing is learned too.
    pub blind: f32,
}

impl Painting {
    /// [`velocity_loss`] over samples of the run.
    pub fn loss(&self, model: &Painter, samples: Range<u64>, device: &Device) -> Tensor<1> {
        let tokens = samples.clone().map(|n| {
            let mut random = Stream::new(self.seed, self.latents.family(n), "words");
            let words = training_caption(&self.latents.example(n), &mut random);
            self.tokenizer.encode_padded(&words)
        });
        let text = model.text_encoder.forward(token_tensor(tokens, device));
        let conditioning = Conditioning::text(text);
        self.loss_with(&model.unet, &conditioning, samples, device)
    }

    /// The loss of a UNet that is told something else.
    pub fn loss_with(
        &self,
        unet: &UNet2DConditionModel,
        conditioning: &Conditioning,
        samples: Range<u64>,
        device: &Device,
    ) -> Tensor<1> {
        let latents = self.latents.get(samples.clone(), device);
        let shape = latents.dims();
        let importance = self.importance(samples.clone(), shape[3], device);
        let noise: Vec<f32> = samples
            .clone()
            .flat_map(|n| {
                let mut random = Stream::new(self.seed, self.latents.family(n), "noise");
                random.normal(shape[1..].iter().product())
            })
            .collect();
        let noise = Tensor::from_data(TensorData::new(noise, shape), device);
        let (timesteps, shown): (Vec<usize>, Vec<f32>) =
            samples.map(|n| self.timestep_and_shown(n)).unzip();
        let shown = TensorData::new(shown, [timesteps.len(), 1, 1, 1]);
        let shown = Tensor::from_data(shown, device);
        let noisy = (self.schedule).add_noise(latents.clone() * shown, noise.clone(), &timesteps);
        let target = self.schedule.velocity(latents, noise, &timesteps);
        velocity_loss(
            unet,
            conditioning,
            &self.schedule,
            noisy,
            target,
            &timesteps,
            importance,
        )
    }

    /// The timestep of a sample, and how much of its picture is in the noise: all, or nothing.
    fn timestep_and_shown(&self, number: u64) -> (usize, f32) {
        let timestep = self.timestep(number);
        let family = self.latents.family(number);
        if Stream::new(self.seed, family, "blind").unit() < self.blind {
            // The highest tenth.
            let all = self.schedule.timesteps();
            return (all - all / 10 + timestep / 10, 0.0);
        }
        (timestep, 1.0)
    }

    /// Faces count more than their share of a picture; all of a picture counts as it would. `[batch, 1, side, side]`
    fn importance(&self, samples: Range<u64>, side: usize, device: &Device) -> Tensor<4> {
        let count = (samples.end - samples.start) as usize;
        let attention = self.latents.siblings.attention();
        let mut weights = Vec::with_capacity(count * side * side);
        for number in samples {
            let Example { character, shot } = self.latents.example(number);
            let cells = importance(&character, &shot, side, attention);
            let mean = cells.iter().sum::<f32>() / cells.len() as f32;
            weights.extend(cells.iter().map(|cell| cell / mean));
        }
        Tensor::from_data(TensorData::new(weights, [count, 1, side, side]), device)
    }

    /// Timesteps of a step's families lie evenly apart, from a random start.
    fn timestep(&self, number: u64) -> usize {
        let (step, place) = (number / self.batch as u64, number % self.batch as u64);
        let families = self.latents.family(self.batch as u64) as f32;
        let start = Stream::new(self.seed, step, "timestep").unit();
        let share = (start + self.latents.family(place) as f32 / families).fract();
        (share * self.schedule.timesteps() as f32) as usize
    }
}

/// The mean squared error of the velocity that a UNet predicts of `noisy` latents, that of each picture weighted by min(SNR + 1, 5) /
/// (SNR + 1), and that of each of its cells by its `importance`, `[batch, 1, height, width]`.
///
/// That is to weigh the error of the picture by SNR + 1, as velocity does (Salimans & Ho 2022), yet by 5 at most, as Hang et al. 2023 do. Theirs
/// is min(SNR, 5): it leaves next to nothing for pictures under so much noise that only the words tell what a face shows.
pub fn velocity_loss(
    unet: &UNet2DConditionModel,
    conditioning: &Conditioning,
    schedule: &NoiseSchedule,
    noisy: Tensor<4>,
    velocity: Tensor<4>,
    timesteps: &[usize],
    importance: Tensor<4>,
) -> Tensor<1> {
    let weights: Vec<f32> = timesteps.iter().map(|&t| weight(schedule.snr(t))).collect();
    let weights = TensorData::new(weights, [timesteps.len()]);
    let weights = Tensor::<1>::from_data(weights, &noisy.device());
    let times: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
    let predicted = unet.forward(noisy, Timesteps::from(times), conditioning);
    let error = ((predicted - velocity).square() * importance).flatten::<2>(1, 3);
    (error.mean_dim(1).squeeze_dim::<1>(1) * weights).mean()
}

/// What a velocity's error counts at a signal-to-noise ratio.
fn weight(snr: f32) -> f32 {
    (snr + 1.0).min(5.0) / (snr + 1.0)
}

/// `[batch, positions]`
pub fn token_tensor(rows: impl Iterator<Item = Vec<u32>>, device: &Device) -> Tensor<2, Int> {
    let rows: Vec<Vec<u32>> = rows.collect();
    let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
    let values: Vec<i64> = rows.into_iter().flatten().map(i64::from).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::school::vae_config;

    #[test]
    fn siblings_differ_in_the_expression_alone() {
        let device = Device::flex();
        let latents = Latents::new(vae_config().init(&device), 3, 96, 8, &device);
        let latents = latents.with_siblings(Siblings::Expressions(4));
        for family in 0..2 {
            let examples: Vec<Example> = (0..4).map(|n| latents.example(4 * family + n)).collect();
            let expressions: BTreeSet<Expression> =
                examples.iter().map(|one| one.shot.expression).collect();
            assert_eq!(expressions.len(), 4);
            for one in &examples {
                let mut shot = one.shot;
                shot.expression = examples[0].shot.expression;
                assert_eq!(shot, examples[0].shot);
                let face = |one: &Example| crate::puppet::draw(&one.character, &shot, 96);
                assert!(face(one) == face(&examples[0]), "another character");
            }
        }
        // After the last picture kept, the first comes again.
        assert_eq!(latents.example(9).shot, latents.example(1).shot);
    }

    #[test]
    fn siblings_are_different_people_in_the_same_shot() {
        let device = Device::flex();
        let latents = Latents::new(vae_config().init(&device), 3, 96, 8, &device);
        let latents = latents.with_siblings(Siblings::Characters(4));
        for family in 0..2 {
            let examples: Vec<Example> = (0..4).map(|n| latents.example(4 * family + n)).collect();
            let face = |one: &Example| crate::puppet::draw(&one.character, &one.shot, 96);
            for (place, one) in examples.iter().enumerate() {
                assert_eq!(one.shot, examples[0].shot);
                assert_eq!(one.character.sex, examples[0].character.sex);
                for other in &examples[..place] {
                    assert!(face(one) != face(other), "the same character twice");
                }
            }
        }
    }

    #[test]
    fn a_family_shares_its_noise_level_and_levels_are_spread_evenly() {
        let device = Device::flex();
        let latents = Latents::new(vae_config().init(&device), 3, 96, 64, &device);
        let painting = Painting {
            seed: 3,
            batch: 16,
            latents: latents.with_siblings(Siblings::Expressions(4)),
            tokenizer: Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/model/tokenizer"))
                .expect("the tokenizer"),
            schedule: NoiseSchedule::new(&scheduler_config()).expect("a schedule"),
            blind: 0.25,
        };
        let mut levels: Vec<usize> = (16..32).map(|n| painting.timestep(n)).collect();
        levels.dedup();
        levels.sort_unstable();
        assert_eq!(levels.len(), 4);
        assert!(
            levels
                .windows(2)
                .all(|two| two[1].abs_diff(two[0] + 250) <= 1)
        );
        // Of a quarter of all families nothing is seen, and their levels are the highest.
        let blind: Vec<bool> = (0..4000)
            .map(|n| painting.timestep_and_shown(n))
            .map(|(level, shown)| {
                assert!(shown == 1.0 || shown == 0.0 && (900..1000).contains(&level));
                shown == 0.0
            })
            .collect();
        let families = blind.as_chunks::<4>().0;
        assert!(
            families
                .iter()
                .all(|family| family.iter().all(|one| *one == family[0]))
        );
        let count = families.iter().filter(|family| family[0]).count();
        assert!((210..290).contains(&count), "{count} of 1000");
    }

    /// With the velocity, an error of 1 in the picture counts SNR + 1 times, but no more than 5 times.
    #[test]
    fn an_error_counts_by_how_much_noise_there_is() {
        let schedule = NoiseSchedule::new(&scheduler_config()).expect("a schedule");
        for (t, counts) in [(10, 5.0), (999, 1.0 + schedule.snr(999))] {
            let snr = schedule.snr(t);
            assert!((weight(snr) * (snr + 1.0) - counts).abs() < 1e-3, "{t}");
        }
    }
}
