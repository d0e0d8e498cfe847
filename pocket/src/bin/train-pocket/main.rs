//! Trains the pocket model, part by part.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clip_text::Tokenizer;
use ip_adapter::{IpAdapter, Options};
use samecast_pocket::model;
use samecast_pocket::puppet::{Character, Shot, caption};
use samecast_pocket::school::{
    Autoencoding, Clip, Comparing, Decoding, Latents, Lesson, Painter, Painting, Portraitist,
    Portraying, Pupil, Rule, SIZE, Siblings, Studio, clip_name, clip_vision_config, deepened,
    load_module, measure_clip, measure_vae, resampler_layers, save_module, scheduler_config,
    text_config, train_tokenizer, vae_config, write_clip, write_configs,
};
use sd_diffusion::NoiseSchedule;
use sd_vae::{AutoencoderKL, VaeConfig};

/// Trains the pocket model, part by part, from pictures that the puppet draws. Every run can be stopped at any time and goes on when it is
/// started again.
#[derive(Parser, Debug)]
#[command(name = "train-pocket", version, propagate_version = true)]
struct Cli {
    /// The model's folder, in diffusers' layout: what is done is taken from there, and put there
    #[arg(long, value_name = "DIR", default_value = "pocket/model")]
    model: PathBuf,
    /// The folder of the runs: states and logs
    #[arg(long, value_name = "DIR", default_value = "target/pocket")]
    runs: PathBuf,
    /// Seed of all that is random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The tokenizer's merges; takes seconds
    Tokenizer {
        /// Texts in English, for words that no caption has
        #[arg(value_name = "FILE")]
        text: Vec<PathBuf>,
    },
    /// The VAE
    Vae(Run),
    /// The VAE's decoder alone, on faces above all; begins with the weights in the model's folder, and leaves all latents as they are
    Decoder(Run),
    /// Text encoder and UNet; needs tokenizer and VAE
    Painter {
        /// So many samples in a row differ in the expression alone: 1, 2 or 4
        #[arg(long, default_value_t = 1, value_parser = siblings)]
        siblings: u64,
        /// Highest learning rate
        #[arg(long, default_value_t = 1e-3, value_parser = rate)]
        rate: f64,
        #[command(flatten)]
        run: Run,
    },
    /// The image encoder and the text encoder that the score is made with; needs the tokenizer
    Clip(Run),
    /// An IP-Adapter; needs all of the above
    IpAdapter {
        /// Which of the two
        #[arg(value_enum)]
        kind: Kind,
        /// So many samples in a row show different people in the same shot: 1, 2 or 4
        #[arg(long, default_value_t = 1, value_parser = siblings)]
        siblings: u64,
        /// Share of samples that are noise alone, as all pictures are when their drawing begins: 0 to 1
        #[arg(long, default_value_t = 0.0, value_parser = share)]
        blind: f32,
        #[command(flatten)]
        run: Run,
    },
    /// Text encoder, UNet and an IP-Adapter at once, each from the weights in the model's folder: half of the samples are told by words alone,
    /// and half by a face too
    Together {
        /// Which adapter
        #[arg(value_enum)]
        kind: Kind,
        /// So many samples in a row differ in the expression alone, or show different people in the same shot: 1, 2 or 4
        #[arg(long, default_value_t = 1, value_parser = siblings)]
        siblings: u64,
        /// Highest learning rate
        #[arg(long, default_value_t = 6e-4, value_parser = rate)]
        rate: f64,
        /// Share of samples that are noise alone, as all pictures are when their drawing begins: 0 to 1
        #[arg(long, default_value_t = 0.0, value_parser = share)]
        blind: f32,
        #[command(flatten)]
        run: Run,
    },
    /// Gives the resampler of the plus adapter in the model's folder one more layer, which changes nothing before it is trained
    Deepen,
    /// Writes SHA256SUMS into the model's folder, by which a program knows that it carries the model whole
    Seal,
    /// Pictures that the model makes of captions nobody trained on, with their captions, for the examiners
    Paint(Paint),
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// From the image embedding
    Base,
    /// From the hidden states before the last layer
    Plus,
}

impl Kind {
    /// What its files are called.
    fn name(self) -> &'static str {
        match self {
            Self::Base => "ip-adapter",
            Self::Plus => "ip-adapter-plus",
        }
    }
}

#[derive(Args, Debug)]
struct Paint {
    /// How many pictures
    #[arg(long, default_value_t = 16)]
    count: u64,
    /// Strength of the guidance
    #[arg(long, default_value_t = 4.0)]
    cfg: f64,
    /// Steps of DPM-Solver++ 2M
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// A prompt for all of them, instead of captions
    #[arg(long)]
    prompt: Option<String>,
    /// The folder to write: 000.png, 000.txt, …
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Args, Debug)]
struct Run {
    /// Steps of the run
    #[arg(long)]
    steps: u64,
    /// Stop after this long; the next run goes on
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Put what there is into the model's folder, without training
    #[arg(long)]
    export: bool,
    /// Where no state is, begin with the weights in the model's folder
    #[arg(long)]
    from_model: bool,
    /// Matrices and kernels learn by Muon, all else by AdamW as without it
    #[arg(long)]
    muon: bool,
}

/// A batch and each of its halves are whole families.
fn siblings(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(count @ (1 | 2 | 4)) => Ok(count),
        _ => Err("1, 2 or 4 is expected".to_owned()),
    }
}

/// A part of all.
fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1 is expected".to_owned()),
    }
}

/// A learning rate.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1.0 => Ok(rate),
        _ => Err("a number above 0, at most 1, such as 6e-4, is expected".to_owned()),
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    sd_kernels::keep_freed_memory();
    let cli = Cli::parse();
    let done = ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))
        .context("Ctrl-C cannot be caught")
        .and_then(|()| {
            fs::create_dir_all(&cli.runs)
                .with_context(|| format!("`{}` cannot be made", cli.runs.display()))
        })
        .and_then(|()| {
            // What is random at first, too.
            cli.device().seed(cli.seed);
            cli.run()
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Cli {
    fn run(&self) -> Result<()> {
        match &self.command {
            Command::Tokenizer { text } => self.train_tokenizer(text),
            Command::Vae(run) => self.vae(run),
            Command::Decoder(run) => self.decoder(run),
            Command::Painter {
                siblings,
                rate,
                run,
            } => self.painter(*siblings, *rate, run),
            Command::Clip(run) => self.clip(run),
            Command::IpAdapter {
                kind,
                siblings,
                blind,
                run,
            } => self.ip_adapter(*kind, *siblings, *blind, run),
            Command::Together {
                kind,
                siblings,
                rate,
                blind,
                run,
            } => self.together(*kind, *siblings, *rate, *blind, run),
            Command::Deepen => self.deepen(),
            Command::Seal => self.seal(),
            Command::Paint(options) => self.paint(options),
        }
    }
}

impl Run {
    fn rule(&self) -> Rule {
        if self.muon { Rule::Muon } else { Rule::AdamW }
    }

    /// Trains on until the run's end, its time's end, or Ctrl-C; not at all if what there is is wanted.
    fn learn<M: Module + Sync>(
        &self,
        pupil: &mut Pupil<M>,
        loss: impl Fn(&M, Range<u64>) -> Tensor<1> + Sync,
    ) -> Result<()> {
        match self.export {
            true => {
                eprintln!("step {}: as it is", pupil.done());
                Ok(())
            }
            false => Ok(pupil.learn(loss, self.minutes, &STOP)?),
        }
    }
}

impl Cli {
    fn device(&self) -> Device {
        Device::flex()
    }

    fn train_tokenizer(&self, text: &[PathBuf]) -> Result<()> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))
        };
        let text = text.iter().map(read).collect::<Result<Vec<_>>>()?;
        train_tokenizer(self.seed, 2048, &text, &self.model.join("tokenizer"))
    }

    fn vae(&self, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: "vae",
            batch: 8,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate: 1e-3,
            warmup: 200,
            cooldown: 0.4,
            beta2: 0.99,
            decay: 0.0,
            clip: 1.0,
            average: 0.998,
        };
        let mut pupil = Pupil::new(vae_config().init(&training), lesson, &self.runs)?;
        let task = Autoencoding {
            seed: self.seed,
            size: SIZE,
            crop: 48,
            divergence: 1e-4,
        };
        run.learn(&mut pupil, |model, samples| {
            task.loss(model, samples, &training)
        })?;
        let model = pupil.averaged().valid();
        let found = measure_vae(&model, SIZE, 64, &device);
        println!(
            "step {}: {:.2} dB on held-out characters; latents {:.4} ± {:.4}",
            pupil.done(),
            found.psnr,
            found.mean,
            found.deviation
        );
        let config = VaeConfig {
            scaling_factor: (1e5 / found.deviation).round() / 1e5,
            ..vae_config()
        };
        write_configs(&self.model, &config, &text_config(self.vocabulary()?))?;
        Ok(save_module(&model, &self.weights("vae"), own_name)?)
    }

    fn decoder(&self, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: "decoder",
            batch: 16,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate: 1e-3,
            warmup: 100.min(run.steps / 8),
            cooldown: 0.6,
            beta2: 0.99,
            decay: 0.0,
            clip: 1.0,
            average: 0.998,
        };
        let vae = self.trained_vae(&training)?.with_frozen_encoder();
        let mut pupil = Pupil::new(vae, lesson, &self.runs)?;
        let task = Decoding {
            seed: self.seed,
            size: SIZE,
            crop: 48,
            encoder: self.trained_vae(&device)?,
        };
        run.learn(&mut pupil, |model, samples| {
            task.loss(model, samples, &device, &training)
        })?;
        let model = pupil.averaged().valid();
        let found = measure_vae(&model, SIZE, 64, &device);
        println!(
            "step {}: {:.2} dB on held-out characters",
            pupil.done(),
            found.psnr
        );
        Ok(save_module(&model, &self.weights("vae"), own_name)?)
    }

    fn painter(&self, siblings: u64, rate: f64, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: "painter",
            batch: 32,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate,
            warmup: 300.min(run.steps / 8),
            cooldown: 0.3,
            beta2: 0.99,
            decay: 0.01,
            clip: 1.0,
            average: 0.9995,
        };
        let painter = if run.from_model {
            self.trained_painter(&training)?
        } else {
            Painter::new(self.vocabulary()?, &training)
        };
        let mut pupil = Pupil::new(painter, lesson, &self.runs)?;
        let mut task = self.painting(self.seed, &device)?;
        let siblings = Siblings::Expressions(siblings);
        task.latents = task.latents.with_siblings(siblings);
        run.learn(&mut pupil, |model, samples| {
            task.loss(model, samples, &training)
        })?;
        self.save_painter(&pupil.averaged().valid())
    }

    fn clip(&self, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: "clip",
            batch: 48,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate: 1e-3,
            warmup: 300.min(run.steps / 8),
            cooldown: 0.5,
            beta2: 0.99,
            decay: 0.05,
            clip: 1.0,
            average: 0.998,
        };
        let tokenizer = self.tokenizer()?;
        let clip = if run.from_model {
            self.trained_clip(&training)?
        } else {
            Clip::new(self.vocabulary()?, &training)
        };
        let mut pupil = Pupil::new(clip, lesson, &self.runs)?;
        let task = Comparing {
            seed: self.seed,
            tokenizer,
        };
        run.learn(&mut pupil, |model, samples| {
            task.loss(model, samples, &training)
        })?;
        let model = pupil.averaged().valid();
        let found = measure_clip(&model, &task.tokenizer, 8, &device);
        println!(
            "step {}: of 64, {:.1} % of pictures find their caption, {:.1} % of faces another picture of the same character",
            pupil.done(),
            100.0 * found.captions,
            100.0 * found.faces
        );
        write_clip(
            &model,
            &self.model.join("clip"),
            &self.model.join("tokenizer"),
        )
    }

    fn ip_adapter(&self, kind: Kind, siblings: u64, blind: f32, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: kind.name(),
            batch: 32,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate: 1e-3,
            warmup: 200.min(run.steps / 8),
            cooldown: 0.5,
            beta2: 0.99,
            decay: 0.01,
            clip: 1.0,
            average: 0.999,
        };
        let painter = self.trained_painter(&training)?.no_grad();
        let width = clip_vision_config();
        let adapter = match kind {
            _ if run.from_model => self.trained_adapter(kind, &training)?,
            Kind::Base => IpAdapter::base(&painter.unet, width.projection_dim, 4, &training),
            Kind::Plus => IpAdapter::plus(&painter.unet, width.hidden_size, 8, [1, 1], &training),
        };
        let mut pupil = Pupil::new(adapter, lesson, &self.runs)?;
        let task = self.portraying(self.seed, siblings, blind, &device)?;
        run.learn(&mut pupil, |adapter, samples| {
            task.loss(&painter, adapter, samples, &device, &training)
        })?;
        self.save_adapter(kind, &pupil.averaged())
    }

    fn together(&self, kind: Kind, siblings: u64, rate: f64, blind: f32, run: &Run) -> Result<()> {
        let device = self.device();
        let training = device.clone().autodiff();
        let lesson = Lesson {
            name: "together",
            batch: 32,
            parts: 2,
            steps: run.steps,
            rule: run.rule(),
            rate,
            warmup: 100.min(run.steps / 8),
            cooldown: 0.5,
            beta2: 0.99,
            decay: 0.01,
            clip: 1.0,
            average: 0.999,
        };
        let portraitist = Portraitist {
            painter: self.trained_painter(&training)?,
            adapter: self.trained_adapter(kind, &training)?,
        };
        let mut pupil = Pupil::new(portraitist, lesson, &self.runs)?;
        let mut words = self.painting(self.seed, &device)?;
        words.latents = (words.latents).with_siblings(Siblings::Expressions(siblings));
        words.blind = blind;
        // Other characters, shots and noise than those of the words.
        let mut faces = self.portraying(self.seed + 1, siblings, blind, &device)?;
        (words.batch, faces.painting.batch) = (16, 16);
        run.learn(&mut pupil, |Portraitist { painter, adapter }, samples| {
            let half = samples.start / 2..samples.end / 2;
            let told = words.loss(painter, half.clone(), &training);
            let shown = faces.loss(painter, adapter, half, &device, &training);
            (told + shown) * 0.5
        })?;
        let Portraitist { painter, adapter } = pupil.averaged();
        self.save_painter(&painter.valid())?;
        self.save_adapter(kind, &adapter)
    }

    fn deepen(&self) -> Result<()> {
        let device = self.device();
        let path = self.adapter(Kind::Plus);
        let tokens = self.trained_adapter(Kind::Plus, &device)?.tokens();
        let tokens = tokens.context("a resampler has a number of tokens of its own")?;
        let bytes = fs::read(&path).with_context(|| format!("`{}`", path.display()))?;
        let layers = 1 + resampler_layers(&bytes)?;
        let painter = self.trained_painter(&device)?;
        let width = clip_vision_config().hidden_size;
        let deeper = IpAdapter::plus(&painter.unet, width, tokens, [layers, 1], &device);
        let fresh = path.with_extension("deeper");
        deeper.save(&fresh, FloatDType::F16)?;
        let whole = deepened(&bytes, &fs::read(&fresh)?)?;
        fs::write(&fresh, whole).and_then(|()| fs::rename(&fresh, &path))?;
        println!("{layers} layers");
        Ok(())
    }

    fn paint(&self, options: &Paint) -> Result<()> {
        let device = self.device();
        let painter = self.trained_painter(&device)?;
        let studio = Studio {
            tokenizer: self.tokenizer()?,
            text_encoder: painter.text_encoder,
            unet: painter.unet,
            vae: self.trained_vae(&device)?,
            scheduler: scheduler_config(),
            steps: options.steps,
            cfg: options.cfg,
            size: SIZE,
        };
        fs::create_dir_all(&options.folder)?;
        let prompts: Vec<(String, u64)> = (0..options.count)
            .map(|number| {
                // Shots that no training has: theirs come from random words of 64 bits.
                let shot = Shot::random(number);
                let sex = Character::from_seed(number).sex;
                let words = options.prompt.clone();
                (words.unwrap_or_else(|| caption(sex, &shot, None)), number)
            })
            .collect();
        let mut number = 0;
        for some in prompts.chunks(8) {
            for ((words, _), picture) in some.iter().zip(studio.paint(some, None, &device)?) {
                let path = options.folder.join(format!("{number:03}.png"));
                picture.save(&path)?;
                fs::write(path.with_extension("txt"), format!("{words}\n"))?;
                number += 1;
            }
        }
        Ok(())
    }

    fn seal(&self) -> Result<()> {
        let mut sums = String::new();
        for (name, _) in model::FILES {
            let path = self.model.join(name);
            let bytes = fs::read(&path).with_context(|| format!("`{}`", path.display()))?;
            sums.push_str(&format!("{}  {name}\n", model::sha256(&bytes)));
        }
        let path = self.model.join("SHA256SUMS");
        fs::write(&path, sums).with_context(|| format!("`{}`", path.display()))
    }

    fn painting(&self, seed: u64, device: &Device) -> Result<Painting> {
        let vae = self.trained_vae(device)?;
        Ok(Painting {
            seed,
            batch: 32,
            latents: Latents::new(vae, seed, SIZE, 200_000, device),
            tokenizer: self.tokenizer()?,
            schedule: NoiseSchedule::new(&scheduler_config())?,
            blind: 0.0,
        })
    }

    fn portraying(
        &self,
        seed: u64,
        siblings: u64,
        blind: f32,
        device: &Device,
    ) -> Result<Portraying> {
        let mut painting = self.painting(seed, device)?;
        painting.latents = (painting.latents).with_siblings(Siblings::Characters(siblings));
        painting.blind = blind;
        Ok(Portraying {
            painting,
            image_encoder: self.trained_clip(device)?.vision,
        })
    }

    fn save_painter(&self, painter: &Painter) -> Result<()> {
        save_module(&painter.unet, &self.weights("unet"), own_name)?;
        let text = self.model.join("text_encoder/model.safetensors");
        Ok(save_module(&painter.text_encoder, &text, own_name)?)
    }

    fn save_adapter(&self, kind: Kind, adapter: &IpAdapter) -> Result<()> {
        fs::create_dir_all(self.model.join("ip_adapter"))?;
        let path = self.adapter(kind);
        Ok(adapter.clone().valid().save(&path, FloatDType::F16)?)
    }

    /// The text encoder and the UNet in the model's folder.
    fn trained_painter(&self, device: &Device) -> Result<Painter> {
        let Painter { text_encoder, unet } = Painter::new(self.vocabulary()?, device);
        let text = self.model.join("text_encoder/model.safetensors");
        Ok(Painter {
            text_encoder: load_module(text_encoder, &text, own_name)?,
            unet: load_module(unet, &self.weights("unet"), own_name)?,
        })
    }

    /// An IP-Adapter in the model's folder, which goes on learning.
    fn trained_adapter(&self, kind: Kind, device: &Device) -> Result<IpAdapter> {
        let adapter = IpAdapter::open(self.adapter(kind), &Options::default(), device)?;
        Ok(adapter.set_require_grad(true))
    }

    fn adapter(&self, kind: Kind) -> PathBuf {
        let file = format!("{}.safetensors", kind.name());
        self.model.join("ip_adapter").join(file)
    }

    fn trained_clip(&self, device: &Device) -> Result<Clip> {
        let clip = Clip::new(self.vocabulary()?, device);
        let path = self.model.join("clip/model.safetensors");
        Ok(load_module(clip, &path, clip_name)?)
    }

    fn weights(&self, part: &str) -> PathBuf {
        let folder = self.model.join(part);
        folder.join("diffusion_pytorch_model.safetensors")
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let folder = self.model.join("tokenizer");
        Tokenizer::open(&folder).with_context(|| "run `train-pocket tokenizer` first")
    }

    fn vocabulary(&self) -> Result<usize> {
        Ok(self.tokenizer()?.vocab_size())
    }

    /// The VAE in the model's folder.
    fn trained_vae(&self, device: &Device) -> Result<AutoencoderKL> {
        let path = self.model.join("vae/config.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("`{}`; run `train-pocket vae` first", path.display()))?;
        let config = VaeConfig::from_json(&text)?;
        let vae = config.init(device);
        Ok(load_module(vae, &self.weights("vae"), own_name)?)
    }
}

/// A parameter's name in the file is its path in the model.
fn own_name(path: &str) -> Option<String> {
    Some(path.to_owned())
}
