use burn::tensor::{Device, Tensor};
use clip_text::{ClipTextModel, Tokenizer};
use image::{Rgb, RgbImage};
use sd_diffusion::{Noise, Sampler, SamplerKind, Schedule, SchedulerConfig, TorchRng, guide};
use sd_unet::{Conditioning, ImageStream, Timesteps, UNet2DConditionModel};
use sd_vae::AutoencoderKL;

use super::token_tensor;

/// All that it takes to make a picture of words.
pub struct Studio {
    /// Words to tokens.
    pub tokenizer: Tokenizer,
    /// Tokens to an embedding.
    pub text_encoder: ClipTextModel,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Latents to pictures.
    pub vae: AutoencoderKL,
    /// The noise levels.
    pub scheduler: SchedulerConfig,
    /// Steps of DPM-Solver++ 2M.
    pub steps: usize,
    /// Strength of the guidance.
    pub cfg: f64,
    /// Side of a picture in pixels.
    pub size: usize,
}

impl Studio {
    /// One picture for each prompt, from noise of the seed that stands beside it. `stream` is what a reference picture adds, for the
    /// unconditional half and the conditional half in this order.
    ///
    /// # Errors
    /// If the sampler cannot take so many steps.
    pub fn paint(
        &self,
        prompts: &[(String, u64)],
        stream: Option<&ImageStream>,
        device: &Device,
    ) -> Result<Vec<RgbImage>, sd_diffusion::Error> {
        let mut sampler = Sampler::new(SamplerKind::Dpmpp2m, Schedule::Default, &self.scheduler)?;
        let side = self.size / self.vae.config().pixels_per_cell();
        let channels = self.vae.config().latent_channels;
        let steps = sampler.steps(self.steps)?;
        let noise = prompts
            .iter()
            .map(|(_, seed)| TorchRng::new(*seed).randn_tensor([1, channels, side, side], device));
        let mut latent = sampler.initial(Tensor::cat(noise.collect(), 0));
        let empty = std::iter::repeat_n("", prompts.len());
        let words = empty.chain(prompts.iter().map(|(words, _)| words.as_str()));
        let tokens = words.map(|words| self.tokenizer.encode_padded(words));
        let text = self.text_encoder.forward(token_tensor(tokens, device));
        let mut conditioning = Conditioning::text(text);
        if let Some(stream) = stream {
            conditioning = conditioning.with(stream.clone());
        }
        let mut rng = TorchRng::new(0);
        for step in steps {
            let input = sampler.scale(latent.clone(), &step).repeat_dim(0, 2);
            let times = Timesteps::from(step.timestep);
            let predicted = guide(self.unet.forward(input, times, &conditioning), self.cfg);
            latent = sampler.step(latent, predicted, &step, &mut rng);
        }
        Ok(rgb(self.vae.decode(latent)))
    }
}

/// `[batch, 3, height, width]` in `[-1, 1]` as pictures.
pub fn rgb(pictures: Tensor<4>) -> Vec<RgbImage> {
    let [count, _, height, width] = pictures.dims();
    let values: Vec<f32> = pictures.into_data().iter::<f32>().collect();
    let plane = height * width;
    (0..count)
        .map(|picture| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = picture * 3 * plane + y as usize * width + x as usize;
                let byte = |channel: usize| {
                    let value = values[at + channel * plane];
                    (value * 127.5 + 127.5).round().clamp(0.0, 255.0) as u8
                };
                Rgb([0, 1, 2].map(byte))
            })
        })
        .collect()
}
