//! Trains a base IP-Adapter on the small random UNet of the tests, as tencent's `tutorial_train.py` trains one on Stable Diffusion 1.5.
//!
//! The UNet is frozen and gradients reach the adapter alone. Three "pictures" are latents, each with an image embedding as an encoder
//! might give it; the words are the same for all three, so what tells them apart has to come through the adapter. At the end the right
//! reference explains the noise better than another picture's, and the adapter is written to a file and read again.
//!
//! ```sh
//! cargo run --release -p ip-adapter --example train_adapter
//! ```

use std::error::Error;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, FloatDType, Int, Tensor};
use ip_adapter::{Features, IpAdapter, Options};
use sd_diffusion::{Noise, NoiseSchedule, SchedulerConfig, TorchRng};
use sd_unet::{Conditioning, Timesteps, UNet2DConditionModel, UNetConfig};

const PICTURES: usize = 3;
/// Pictures of one step.
const BATCH: usize = 6;
const STEPS: usize = 200;
const LEARNING_RATE: f64 = 2e-3;
/// Width of the image embeddings: 1024 for CLIP ViT-H/14.
const WIDTH: usize = 48;
const TOKENS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let device = parity::device().autodiff();
    device.seed(7);
    let unet = small_unet(&device)?.no_grad();
    let adapter = IpAdapter::base(&unet, WIDTH, TOKENS, &device);
    println!(
        "an adapter of {} numbers for a UNet of {}",
        adapter.num_params(),
        unet.num_params()
    );
    let mut rng = TorchRng::new(7);
    let mut task = Task {
        schedule: NoiseSchedule::new(&SchedulerConfig::default())?,
        words: rng
            .randn_tensor([1, 8 * 128, 1, 1], &device)
            .reshape([1, 8, 128]),
        latents: rng.randn_tensor([PICTURES, 4, 8, 8], &device),
        embeddings: rng
            .randn_tensor([PICTURES, WIDTH, 1, 1], &device)
            .reshape([PICTURES, WIDTH]),
        unet,
        rng,
        device,
    };

    let trial = task.draw(48);
    let before = task.error(&adapter, &trial, 0)?;
    gradients_reach_the_adapter_alone(&task, &adapter, &trial)?;

    let start = Instant::now();
    let adapter = train(&mut task, adapter)?;
    println!("{STEPS} steps in {:.1} s", start.elapsed().as_secs_f32());

    let after = task.error(&adapter, &trial, 0)?;
    let swapped = task.error(&adapter, &trial, 1)?;
    println!(
        "loss on unseen noise: {before:.3} before, {after:.3} after, {swapped:.3} with another picture's reference"
    );
    assert!(after < 0.9 * before, "the loss did not fall");
    assert!(after < 0.95 * swapped, "the reference makes no difference");

    let path = std::env::temp_dir().join(format!(
        "trained-adapter-{}.safetensors",
        std::process::id()
    ));
    adapter.save(&path, FloatDType::F32)?;
    let again = IpAdapter::open(&path, &Options::default(), &task.device)?;
    std::fs::remove_file(&path)?;
    let reread = task.error(&again, &trial, 0)?;
    println!("written and read again: {reread:.3}");
    assert_eq!(reread, after);
    Ok(())
}

fn small_unet(device: &Device) -> Result<UNet2DConditionModel, Box<dyn Error>> {
    let folder = parity::reference().join("tiny-sd/unet");
    let config = UNetConfig::from_json(&std::fs::read_to_string(folder.join("config.json"))?)?;
    Ok(parity::load(
        config.init(device),
        folder.join("diffusion_pytorch_model.safetensors"),
    ))
}

fn train(task: &mut Task, mut adapter: IpAdapter) -> Result<IpAdapter, Box<dyn Error>> {
    let mut optimizer = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(1e-2)
        .init();
    for step in 1..=STEPS {
        let batch = task.draw(BATCH);
        let loss = task.loss(&adapter, &batch, 0)?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.3}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &adapter);
        adapter = optimizer.step(LEARNING_RATE, adapter, gradients);
    }
    Ok(adapter)
}

fn gradients_reach_the_adapter_alone(
    task: &Task,
    adapter: &IpAdapter,
    batch: &Batch,
) -> Result<(), Box<dyn Error>> {
    let adapted = GradientsParams::from_grads(task.loss(adapter, batch, 0)?.backward(), adapter);
    let frozen = GradientsParams::from_grads(task.loss(adapter, batch, 0)?.backward(), &task.unet);
    println!(
        "gradients for {} tensors of the adapter and {} of the UNet",
        adapted.len(),
        frozen.len()
    );
    assert_eq!((adapted.len(), frozen.len()), (36, 0));
    Ok(())
}

/// Pictures, words and a frozen UNet.
struct Task {
    unet: UNet2DConditionModel,
    schedule: NoiseSchedule,
    /// `[1, tokens, channels]`.
    words: Tensor<3>,
    /// `[PICTURES, 4, height, width]`.
    latents: Tensor<4>,
    /// `[PICTURES, WIDTH]`.
    embeddings: Tensor<2>,
    rng: TorchRng,
    device: Device,
}

/// Which pictures, how noisy, and the noise.
struct Batch {
    pictures: Vec<usize>,
    timesteps: Vec<usize>,
    noise: Tensor<4>,
}

impl Task {
    fn draw(&mut self, count: usize) -> Batch {
        let timesteps = self.rng.uniform(count).into_iter();
        Batch {
            pictures: (0..count).map(|at| at % PICTURES).collect(),
            timesteps: timesteps.map(|share| (share * 999.0) as usize).collect(),
            noise: self.rng.randn_tensor([count, 4, 8, 8], &self.device),
        }
    }

    /// The squared error of the predicted noise (Ye et al. 2023, eq. 6), each picture with the reference `shift` pictures on.
    fn loss(
        &self,
        adapter: &IpAdapter,
        batch: &Batch,
        shift: usize,
    ) -> Result<Tensor<1>, Box<dyn Error>> {
        let count = batch.pictures.len();
        let shown = batch
            .pictures
            .iter()
            .map(|picture| (picture + shift) % PICTURES);
        let tokens = adapter.image_tokens(&Features {
            pooled: Some(self.embeddings.clone().select(0, self.indices(shown))),
            ..Features::default()
        })?;
        let words = self.words.clone().repeat_dim(0, count);
        let conditioning = Conditioning::text(words).with(adapter.stream(tokens));

        let latents = self
            .latents
            .clone()
            .select(0, self.indices(batch.pictures.iter().copied()));
        let noisy = self
            .schedule
            .add_noise(latents, batch.noise.clone(), &batch.timesteps);
        let times: Vec<f32> = batch.timesteps.iter().map(|&time| time as f32).collect();
        let predicted = self
            .unet
            .forward(noisy, Timesteps::from(times), &conditioning);
        Ok((predicted - batch.noise.clone()).square().mean())
    }

    fn error(
        &self,
        adapter: &IpAdapter,
        batch: &Batch,
        shift: usize,
    ) -> Result<f32, Box<dyn Error>> {
        Ok(self.loss(adapter, batch, shift)?.into_scalar())
    }

    fn indices(&self, of: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        let indices: Vec<i32> = of.map(|index| index as i32).collect();
        Tensor::from_ints(indices.as_slice(), &self.device)
    }
}
