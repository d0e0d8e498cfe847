use burn::tensor::{Device, Tensor, TensorData};
use sd_vae::{AutoencoderKL, VaeConfig};

use super::{Example, Stream, pictures};
use crate::puppet::{Attention, face_box, importance};

/// Sizes of the pocket model's VAE: a cell of the latent is 4 × 4 pixels.
pub fn vae_config() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![16, 32, 64],
        layers_per_block: 2,
        norm_num_groups: 8,
        scaling_factor: 1.0,
        mid_block_add_attention: false,
        ..VaeConfig::default()
    }
}

/// What the VAE learns from: pictures, or squares cut out of them.
#[derive(Clone, Copy, Debug)]
pub struct Autoencoding {
    /// Seed of the run.
    pub seed: u64,
    /// Side of a picture in pixels.
    pub size: usize,
    /// Side of the square that is cut out of it, in pixels.
    pub crop: usize,
    /// Weight of the latent's divergence from a standard normal distribution, in nats a number.
    pub divergence: f64,
}

impl Autoencoding {
    /// The loss over samples of the run: how unlike the pictures are that come back, and the divergence (Kingma & Welling 2013).
    pub fn loss(
        &self,
        model: &AutoencoderKL,
        samples: std::ops::Range<u64>,
        device: &Device,
    ) -> Tensor<1> {
        let room = self.size - self.crop;
        let first = samples.start;
        let examples: Vec<Example> = samples.map(|n| Example::new(self.seed, n)).collect();
        let corner = |index: usize| {
            let mut random = Stream::new(self.seed, first + index as u64, "corner");
            [0, 1].map(|_| random.below(room + 1))
        };
        let image = pictures(&examples, self.size, self.crop, corner, device);

        let posterior = model.encode(image.clone());
        let [batch, channels, height, width] = posterior.mean.dims();
        let cells = channels * height * width;
        let noise: Vec<f32> = (first..first + batch as u64)
            .flat_map(|n| Stream::new(self.seed, n, "latent").normal(cells))
            .collect();
        let noise = TensorData::new(noise, [batch, channels, height, width]);
        let noise = Tensor::from_data(noise, device);
        let variance = posterior.deviation.clone().square();
        let divergence = (posterior.mean.clone().square() + variance.clone()
            - 1.0
            - variance.clamp_min(1e-12).log())
        .mean()
            * 0.5;
        let error = model.decode(posterior.sample(noise)) - image;
        let alike = Tensor::ones([batch, 1, self.crop, self.crop], device);
        unlikeness(error, alike) + divergence * self.divergence
    }
}

/// How far colours are off, and how far their differences between neighbours are, which keeps lines sharp; each pixel counts by its
/// `importance`, `[batch, 1, height, width]`.
fn unlikeness(error: Tensor<4>, importance: Tensor<4>) -> Tensor<1> {
    let [batch, _, rows, columns] = error.dims();
    let below = |x: &Tensor<4>| x.clone().slice([0..batch, 0..x.dims()[1], 1..rows]);
    let above = |x: &Tensor<4>| x.clone().slice([0..batch, 0..x.dims()[1], 0..rows - 1]);
    let right = |x: &Tensor<4>| {
        let channels = x.dims()[1];
        x.clone()
            .slice([0..batch, 0..channels, 0..rows, 1..columns])
    };
    let left = |x: &Tensor<4>| {
        let channels = x.dims()[1];
        x.clone()
            .slice([0..batch, 0..channels, 0..rows, 0..columns - 1])
    };
    let down = (below(&error) - above(&error)).abs() * below(&importance);
    let across = (right(&error) - left(&error)).abs() * right(&importance);
    let off = error.clone().abs() + error.square() * 4.0;
    (off * importance).mean() + (down.mean() + across.mean()) * 0.25
}

/// What the decoder alone learns from, once the UNet knows the latents: squares about faces, and in each fourth sample from anywhere.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// Seed of the run.
    pub seed: u64,
    /// Side of a picture in pixels.
    pub size: usize,
    /// Side of the square that is cut out of it, in pixels.
    pub crop: usize,
    /// The VAE that encodes, on the device without gradients.
    pub encoder: AutoencoderKL,
}

impl Decoding {
    /// [`Autoencoding::loss`]'s without the divergence over samples of the run, in which what tells a face's expression counts most.
    pub fn loss(
        &self,
        model: &AutoencoderKL,
        samples: std::ops::Range<u64>,
        plain: &Device,
        training: &Device,
    ) -> Tensor<1> {
        let examples: Vec<Example> = samples
            .clone()
            .map(|n| Example::new(self.seed, n))
            .collect();
        let corners: Vec<[usize; 2]> = (samples.zip(&examples))
            .map(|(number, example)| self.corner(number, example))
            .collect();
        let (size, crop) = (self.size, self.crop);
        let image = pictures(&examples, size, crop, |index| corners[index], plain);
        let mut weights = Vec::with_capacity(examples.len() * crop * crop);
        for (Example { character, shot }, [top, left]) in examples.iter().zip(&corners) {
            let pixels = importance(character, shot, size, Attention::EXPRESSION);
            let mean = pixels.iter().sum::<f32>() / pixels.len() as f32;
            for row in pixels.chunks_exact(size).skip(*top).take(crop) {
                weights.extend(row[*left..left + crop].iter().map(|pixel| pixel / mean));
            }
        }
        let weights = TensorData::new(weights, [examples.len(), 1, crop, crop]);
        let weights = Tensor::from_data(weights, training);
        let latent = self.encoder.encode(image.clone()).mean;
        let error = model.decode(Tensor::from_inner(latent)) - Tensor::from_inner(image);
        unlikeness(error, weights)
    }

    /// The upper left corner of a sample's square.
    fn corner(&self, number: u64, Example { character, shot }: &Example) -> [usize; 2] {
        let mut random = Stream::new(self.seed, number, "corner");
        let room = self.size - self.crop;
        if number.is_multiple_of(4) {
            return [0, 1].map(|_| random.below(room + 1));
        }
        let face = face_box(character, shot, self.size as u32);
        let reach = self.crop / 6;
        [face.top, face.left].map(|edge| {
            let middle = edge as usize + face.side as usize / 2 + random.below(2 * reach + 1);
            middle.saturating_sub(self.crop / 2 + reach).min(room)
        })
    }
}

/// What a VAE does to pictures of characters that it never saw.
#[derive(Clone, Copy, Debug)]
pub struct Reconstruction {
    /// Peak signal-to-noise ratio in decibels, mean over the pictures.
    pub psnr: f64,
    /// Standard deviation of the latents' numbers.
    pub deviation: f64,
    /// Their mean.
    pub mean: f64,
}

/// Measures a VAE on the first `count` characters that are held out, each in a shot of its own.
pub fn measure(model: &AutoencoderKL, size: usize, count: u64, device: &Device) -> Reconstruction {
    let (mut psnr, mut sum, mut squares, mut numbers) = (0.0, 0.0, 0.0, 0.0);
    for seed in 0..count {
        let example = Example {
            character: crate::puppet::Character::from_seed(seed),
            shot: crate::puppet::Shot::random(seed),
        };
        let image = pictures(&[example], size, size, |_| [0, 0], device);
        let latent = model.encode(image.clone()).mean;
        for value in latent.clone().into_data().iter::<f64>() {
            sum += value;
            squares += value * value;
            numbers += 1.0;
        }
        let error = (model.decode(latent).clamp(-1.0, 1.0) - image) * 0.5;
        let error: f64 = error.square().mean().into_scalar::<f32>().into();
        psnr -= 10.0 * error.log10();
    }
    let mean = sum / numbers;
    Reconstruction {
        psnr: psnr / count as f64,
        deviation: (squares / numbers - mean * mean).sqrt(),
        mean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::puppet::{Character, Shot};
    use crate::school::{gradients, shapes};

    #[test]
    fn the_decoder_learns_from_faces_and_the_encoder_stays_as_it_is() {
        let (plain, training) = (Device::flex(), Device::flex().autodiff());
        let model = vae_config().init(&training).with_frozen_encoder();
        let all = shapes(&model);
        assert!(all.len() > 20);
        for one in &all {
            let decodes = ["decoder.", "post_quant_conv."];
            assert!(
                decodes.iter().any(|part| one.path.starts_with(part)),
                "{}",
                one.path
            );
        }
        let task = Decoding {
            seed: 2,
            size: 96,
            crop: 48,
            encoder: vae_config().init(&plain),
        };
        let loss = task.loss(&model, 0..2, &plain, &training);
        let found = gradients(&model, &loss.backward());
        assert!(found.iter().any(|&slope| slope != 0.0));
        assert!(found.iter().all(|slope| slope.is_finite()));
        // Three of four squares hold the middle of the face.
        for number in 1..4 {
            let (character, shot) = (Character::from_seed(number), Shot::random(number));
            let face = face_box(&character, &shot, 96);
            let [top, left] = task.corner(number, &Example { character, shot });
            for (corner, edge) in [(top, face.top), (left, face.left)] {
                let middle = (edge + face.side / 2) as usize;
                assert!((corner..corner + 48).contains(&middle), "{number}");
            }
        }
    }

    #[test]
    fn what_counts_more_is_felt_more() {
        let device = Device::flex();
        let error = |at: usize| {
            let mut values = vec![0.0; 2 * 2 * 3];
            values[at] = 0.5;
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 2, 2]), &device)
        };
        let importance = TensorData::new(vec![0.0_f32, 1.0, 1.0, 4.0], [1, 1, 2, 2]);
        let importance = Tensor::<4>::from_data(importance, &device);
        let felt = |at| unlikeness(error(at), importance.clone()).into_scalar::<f32>();
        // 0.5 + 4 · 0.5², at one number of twelve; and a quarter of the edge on each side, of six each way.
        assert!((felt(3) - (4.0 * 1.5 / 12.0 + 0.25 * 2.0 * 4.0 * 0.5 / 6.0)).abs() < 1e-6);
        assert!(felt(0) < felt(1) && felt(1) < felt(3));
    }
}
