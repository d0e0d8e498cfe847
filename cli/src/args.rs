use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use sd_diffusion::{SamplerKind, Schedule};

use crate::device::{DeviceChoice, Precision};
use crate::ip_args::IpOptions;

/// Keeps a character the same in every picture.
///
/// Trains a character LoRA for Stable Diffusion 1.5, and draws with it.
#[derive(Parser, Debug)]
#[command(name = "samecast", version, propagate_version = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The arguments of this process.
    ///
    /// # Errors
    /// If they are not well-formed, or ask for help.
    pub fn read() -> Result<Self, clap::Error> {
        // `--rank -1` is a value out of its range, not an option called `-1`.
        Self::from_arg_matches(&numbers(Self::command()).try_get_matches()?)
    }

    /// The arguments of a command line, which begins with the program's name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_line(line: &[String]) -> Result<Self, clap::Error> {
        Self::from_arg_matches(&numbers(Self::command()).try_get_matches_from(line)?)
    }
}

/// The command with options that take negative numbers, at every depth.
fn numbers(command: clap::Command) -> clap::Command {
    let numbers_too = |arg: clap::Arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    command.mut_args(numbers_too).mut_subcommands(numbers)
}

/// An error of the arguments in one line, without the advice around it.
pub fn in_short(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").trim_start_matches("error: ").to_string()
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Where to compute: auto, cpu, wgpu or cuda, and cuda:1 for the second of its kind
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Number type of weights and activations
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// One JSON object on standard output, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress and no notes
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Draw pictures from words, or from words and a picture
    #[command(
        after_help = "Example:\n  samecast generate --model realistic-vision.safetensors --lora mira.safetensors:0.8 \\\n    --prompt \"(mychar001:1.3), reading under a tree\" --negative \"different person\" --seed 7 --out mira-reads.png\n\n\
                      With one reference picture and no training:\n  samecast generate --model realistic-vision.safetensors --prompt \"a woman reads under a tree\" \\\n    --ip-adapter ip-adapter-plus-face_sd15.safetensors --image-encoder image_encoder --ip-image mira.png"
    )]
    Generate(Box<Generate>),
    /// Train a character LoRA from a folder of pictures
    #[command(
        after_help = "Example:\n  samecast train --model realistic-vision.safetensors --images pictures/mira --trigger mychar001 --out mira.safetensors\n\nCtrl-C saves the state beside the output; --resume goes on from it, to the very same result."
    )]
    Train(Box<Train>),
    /// The whole story: draws a character, trains a LoRA on the pictures, and shows the same face in five scenes
    #[command(
        after_help = "Example:\n  samecast demo --out samecast-demo\n\nIt draws a training folder of a character that its model never saw, then runs `library init`,\n`character new`, `character train`, `character sheet` and `character verify`, and says each command line."
    )]
    Demo(crate::demo::Demo),
    /// A production's folder of characters and episodes
    #[command(subcommand)]
    Library(Library),
    /// Characters of a library: pictures, prompts, LoRAs, and whether they stay the same
    #[command(subcommand)]
    Character(Character),
    /// Look into LoRA files
    #[command(subcommand)]
    Lora(Lora),
    /// Look at reference pictures
    #[command(subcommand)]
    Reference(Reference),
    /// What this build and this machine offer
    #[command(after_help = "Example:\n  samecast devices --json")]
    Devices,
    /// This machine's speed, part by part, as a share of its own matrix-product peak
    #[command(
        after_help = "Example:\n  samecast bench --quick\n\nNo model file is needed: weights are random, at Stable Diffusion 1.5's sizes. All parts take about a minute\non two cores and 4 GB of memory. A share may be above 100 %: the fused convolutions need fewer multiplications."
    )]
    Bench(Bench),
}

/// Options of `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// A few seconds: kernels alone, at 256 pixels, unless other options say otherwise
    #[arg(long)]
    pub quick: bool,
    /// What to time besides matrix products [default: all; with --quick, the first three]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub part: Vec<Part>,
    /// Side of the picture in pixels, a multiple of 64 [default: 512, with --quick 256]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Self- and cross-attention of the UNet's finest level
    Attention,
    /// 3×3 convolutions of the UNet
    Convolution,
    /// Group norm with SiLU, GEGLU, and a linear layer
    Norms,
    /// The text encoder
    TextEncoder,
    /// One evaluation of the UNet on two pictures, as guidance asks for
    #[value(name = "unet")]
    UNet,
    /// From a latent to a picture
    VaeDecode,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 6] = [
        Self::Attention,
        Self::Convolution,
        Self::Norms,
        Self::TextEncoder,
        Self::UNet,
        Self::VaeDecode,
    ];

    /// As `--part` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Convolution => "convolution",
            Self::Norms => "norms",
            Self::TextEncoder => "text-encoder",
            Self::UNet => "unet",
            Self::VaeDecode => "vae-decode",
        }
    }
}

/// A production's folder of characters and episodes.
#[derive(Subcommand, Debug)]
pub enum Library {
    /// Make a library: characters/ and episodes/
    #[command(
        after_help = "Example:\n  samecast library init drama-assets --model realistic-vision.safetensors"
    )]
    Init {
        /// The folder to make
        dir: PathBuf,
        /// The model of characters that name none: a path, or pocket
        #[arg(long, value_name = "PATH")]
        model: Option<PathBuf>,
    },
}

/// Characters of a library.
#[derive(Subcommand, Debug)]
pub enum Character {
    /// Put a character into the library: its pictures, its prompts, its settings
    #[command(
        after_help = "Example:\n  samecast character new mira --from pictures/mira --trigger mychar001 --class woman --model realistic-vision.safetensors\n\nThe pictures are copied. What is said here is written to character.toml and prompts.txt, which can be edited at any time."
    )]
    New(Box<crate::character::New>),
    /// Train the character's LoRA on its pictures: lora/NAME_v1.safetensors, then v2
    #[command(
        after_help = "Example:\n  samecast character train mira\n\nCtrl-C saves the state; --resume goes on from it, to the very same result. What is not given here comes from --config,\nthen from character.toml, then from the recipe."
    )]
    Train(Box<crate::character::Train>),
    /// Draw the character's three expressions: neutral, angry, smile
    #[command(after_help = "Example:\n  samecast character sheet mira --seed 7")]
    Sheet(Box<crate::character::Sheet>),
    /// Whether the character stays the same: scenes without and with the LoRA, scores, a contact sheet and a page
    #[command(
        after_help = "Example:\n  samecast character verify mira --clip clip-vit-large-patch14 --seeds 4\n\n\
            The rule, in mean cosines of the face region to the reference pictures (CLIP-I). The character is consistent if the LoRA\n\
            - closes at least `margin` of the gap between the scenes without it and the references' own agreement,\n\
            - reaches at least `share` of that agreement,\n\
            - and gains at least `certainty` standard errors over the pairs of pictures of one scene and seed.\n\
            The three numbers stand under [consistency] in character.toml. Exit status: 0 if consistent, 1 if not."
    )]
    Verify(Box<crate::verify::Verify>),
}

/// Look into LoRA files.
#[derive(Subcommand, Debug)]
pub enum Lora {
    /// What LoRA files hold: dialect, ranks, modules, trigger, hashes
    #[command(after_help = "Example:\n  samecast lora info mira.safetensors")]
    Info {
        /// LoRA files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Look at reference pictures.
#[derive(Subcommand, Debug)]
pub enum Reference {
    /// Whether pictures will do as references of a character: size, sharpness, shape, light
    #[command(
        after_help = "Example:\n  samecast reference check mira.png\n\nExit status: 0 if all will do, 1 if one will not, 2 if one is no picture."
    )]
    Check {
        /// Pictures: PNG, JPEG, WebP or BMP
        #[arg(required = true, value_name = "PNG")]
        files: Vec<PathBuf>,
    },
}

/// The model that a command takes.
#[derive(Args, Debug, Clone)]
pub struct Model {
    /// Stable Diffusion 1.x: a diffusers folder, a .safetensors or .ckpt file, or pocket
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// A VAE in place of the model's own: a file or a diffusers folder
    #[arg(long, value_name = "PATH")]
    pub vae: Option<PathBuf>,
    /// A folder with the tokenizer's files, in place of the model's own or CLIP's
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// What the model predicts, where its files do not say
    #[arg(long, value_enum, value_name = "TYPE")]
    pub prediction_type: Option<Prediction>,
}

/// What a model predicts.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Prediction {
    /// The noise
    Epsilon,
    /// The velocity
    #[value(name = "v", alias = "v_prediction", alias = "v-prediction")]
    V,
}

/// Options of `generate`.
#[derive(Args, Debug)]
pub struct Generate {
    #[command(flatten)]
    pub model: Model,
    /// What the picture shows; (word:1.3) weighs a word, BREAK starts a new part
    #[arg(long)]
    pub prompt: String,
    /// What it does not show
    #[arg(long, default_value = "")]
    pub negative: String,
    /// ddim, euler, euler-a, heun, pndm, dpmpp-2m or unipc; lcm or tcd with a LoRA distilled for them, at 4 to 8 steps and --cfg 1
    #[arg(long, default_value = "dpmpp-2m")]
    pub sampler: String,
    /// How the sampler spreads its noise levels: default or karras
    #[arg(long, default_value = "default")]
    pub schedule: String,
    /// Steps of the sampler
    #[arg(long, default_value_t = 28)]
    pub steps: usize,
    /// Strength of the guidance by the prompt; 1 is none
    #[arg(long, default_value_t = 7.0)]
    pub cfg: f64,
    /// Guide only after this share of the steps, 0 to 1; the steps without guidance take half the time
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub cfg_start: f64,
    /// Guide only up to this share of the steps, 0 to 1
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub cfg_end: f64,
    /// Run the whole UNet in one of N steps, and its finest layers alone in the others: faster, and another picture; 1 is off
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub deep_cache: usize,
    /// Merge this share of alike positions in the finest self-attention, 0 to 0.75: faster, and another picture; 0 is off
    #[arg(long, default_value_t = 0.0, value_name = "RATIO")]
    pub token_merging: f64,
    /// Decode the picture, and encode --init-image, in tiles of this side, a multiple of 32 (512 is usual): far less memory for a large
    /// picture, and slightly other colours; 0 is off
    #[arg(long, default_value_t = 0, value_name = "PIXELS")]
    pub vae_tile: usize,
    /// Share of the noise that sampler tcd makes anew in every step, 0 to 1 [default: 0.3]
    #[arg(long)]
    pub eta: Option<f64>,
    /// Seed of the noise; the same seed, model and settings give the same picture [default: a new one]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Whose random numbers a seed means: torch (diffusers, ComfyUI) or philox (A1111)
    #[arg(long, value_enum, default_value = "torch")]
    pub rng: Rng,
    /// Width in pixels [default: that of --init-image, or of the pictures that the model was trained on: 512 for Stable Diffusion 1.5]
    #[arg(long)]
    pub width: Option<usize>,
    /// Height in pixels [default: that of --init-image, or of the pictures that the model was trained on: 512 for Stable Diffusion 1.5]
    #[arg(long)]
    pub height: Option<usize>,
    /// Pictures in one batch
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// CLIP layers from the end, in A1111's count
    #[arg(long, default_value_t = 1)]
    pub clip_skip: usize,
    /// A LoRA, with its strength after a colon; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub lora: Vec<LoraChoice>,
    /// A picture to start from
    #[arg(long, value_name = "PNG")]
    pub init_image: Option<PathBuf>,
    /// How much of the picture to start from is drawn anew: 0 to 1 [default: 0.6]
    #[arg(long, requires = "init_image")]
    pub strength: Option<f64>,
    /// A .png file or a folder [default: samecast-SEED.png]
    #[arg(long, short, value_name = "FILE.png|DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub ip: IpOptions,
}

/// Whose random numbers a seed means.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Rng {
    /// torch's on the CPU, as diffusers and ComfyUI use it
    Torch,
    /// torch's on CUDA, as A1111 uses it
    Philox,
}

/// Options of `train`. What is not given here comes from `--config`, then from the recipe.
#[derive(Args, Debug)]
pub struct Train {
    #[command(flatten)]
    pub model: Model,
    /// A folder of pictures, each with its caption in a .txt or .caption file of the same name
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// The word that will call the character, such as mychar001
    #[arg(long)]
    pub trigger: Option<String>,
    /// The LoRA file to write
    #[arg(long, short, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    #[command(flatten)]
    pub options: TrainOptions,
    /// Replace an output file that exists
    #[arg(long)]
    pub force: bool,
}

/// How a LoRA is trained.
#[derive(Args, Debug)]
pub struct TrainOptions {
    /// Optimizer steps: a number, or auto for 45 a picture within 1500 to 2500 [default: auto]
    #[arg(long)]
    pub steps: Option<Steps>,
    /// Rank of the factors, "dim" [default: 32]
    #[arg(long, alias = "dim")]
    pub rank: Option<usize>,
    /// The factors are scaled by alpha / rank [default: 16]
    #[arg(long)]
    pub alpha: Option<f64>,
    /// Train the UNet's residual blocks too, their 3×3 convolutions with this rank, "conv_dim" (a LoCon) [default: the transformers alone]
    #[arg(long, alias = "conv-dim", value_name = "RANK")]
    pub conv_rank: Option<usize>,
    /// Alpha of those convolutions' factors [default: as much of their rank as --alpha is of --rank]
    #[arg(long, value_name = "ALPHA")]
    pub conv_alpha: Option<f64>,
    /// Peak learning rate [default: 1e-4]
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Peak learning rate of the text encoder; 0 leaves it as it is [default: --learning-rate]
    #[arg(long)]
    pub text_encoder_learning_rate: Option<f64>,
    /// How the learning rate goes on after the warm-up [default: cosine]
    #[arg(long, value_enum)]
    pub lr_scheduler: Option<LrScheduler>,
    /// Steps in which the learning rate rises [default: 0]
    #[arg(long)]
    pub warmup_steps: Option<usize>,
    /// Pictures seen at once [default: 2]
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Batches averaged for one step [default: 1]
    #[arg(long)]
    pub gradient_accumulation: Option<usize>,
    /// Side of the square that pictures are cut to, in pixels [default: that of the model's own training, 512 for Stable Diffusion 1.5]
    #[arg(long)]
    pub resolution: Option<usize>,
    /// Compute activations again for the backward pass instead of keeping them: a third more time, far less memory [default: true]
    #[arg(long, value_name = "BOOL")]
    pub gradient_checkpointing: Option<bool>,
    /// γ of the min-SNR loss weight; 0 turns it off [default: 5]
    #[arg(long)]
    pub min_snr_gamma: Option<f64>,
    /// Weight decay of AdamW [default: 0.01]
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this norm; 0 leaves them [default: 1]
    #[arg(long)]
    pub max_grad_norm: Option<f64>,
    /// CLIP layers from the end, in A1111's count [default: 1]
    #[arg(long)]
    pub clip_skip: Option<usize>,
    /// Seed of everything random [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// A TOML file with these options, by their names with _ for -
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// kohya, which every program reads, or peft
    #[arg(long, value_enum, default_value = "kohya")]
    pub format: Format,
    /// Number type of the file
    #[arg(long, value_enum, default_value = "f16")]
    pub save_precision: SavePrecision,
    /// Save the state every so many steps; 0 saves it on Ctrl-C alone
    #[arg(long, default_value_t = 100, value_name = "STEPS")]
    pub save_state_every: usize,
    /// Go on from the state that an interrupted run left beside the output
    #[arg(long)]
    pub resume: bool,
}

/// How many steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// By the number of pictures.
    Auto,
    /// So many.
    Exactly(usize),
}

impl std::str::FromStr for Steps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text
                .parse()
                .map(Self::Exactly)
                .map_err(|_| "a number of steps, or auto, is expected".into()),
        }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LrScheduler {
    /// Down to 0 along half a cosine
    Cosine,
    /// At its peak
    Constant,
}

/// The dialect of a LoRA file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// kohya's names
    Kohya,
    /// PEFT's names
    Peft,
}

/// The number type of a LoRA file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SavePrecision {
    /// 16-bit floats
    F16,
    /// 16-bit floats with the range of 32-bit ones
    Bf16,
    /// 32-bit floats
    F32,
}

/// A LoRA file and its strength, as `--lora FILE[:SCALE]` says them.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraChoice {
    /// The file.
    pub file: PathBuf,
    /// Its strength.
    pub scale: f64,
}

impl std::str::FromStr for LoraChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = || Self {
            file: PathBuf::from(text),
            scale: 1.0,
        };
        let (file, scale) = match text.rsplit_once(':') {
            None if text.is_empty() => return Err("a file is expected".into()),
            None => return Ok(whole()),
            Some(("", _)) => return Err("a file is expected before the colon".into()),
            Some(both) => both,
        };
        match scale.parse::<f64>() {
            Ok(scale) if scale.is_finite() => Ok(Self {
                file: PathBuf::from(file),
                scale,
            }),
            Ok(_) => Err(format!(
                "`{scale}` is no strength; a number such as 0.8 is expected"
            )),
            // A drive letter, or a colon in a file's name.
            Err(_)
                if PathBuf::from(text).exists()
                    || scale.contains(['/', '\\'])
                    || scale.ends_with(".safetensors") =>
            {
                Ok(whole())
            }
            Err(_) => Err(format!(
                "`{scale}` is no strength; a number such as 0.8 is expected"
            )),
        }
    }
}

impl Generate {
    /// The sampler and its schedule.
    ///
    /// # Errors
    /// If there is none of the name.
    pub fn sampler(&self) -> Result<(SamplerKind, Schedule), sd_diffusion::Error> {
        Ok((self.sampler.parse()?, self.schedule.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_lora_has_its_strength_after_a_colon() {
        let choice = |file: &str, scale| LoraChoice {
            file: file.into(),
            scale,
        };
        assert_eq!("a.safetensors".parse(), Ok(choice("a.safetensors", 1.0)));
        assert_eq!(
            "a.safetensors:0.8".parse(),
            Ok(choice("a.safetensors", 0.8))
        );
        assert_eq!(
            "a.safetensors:-1".parse(),
            Ok(choice("a.safetensors", -1.0))
        );
        assert_eq!(
            r"C:\a.safetensors".parse(),
            Ok(choice(r"C:\a.safetensors", 1.0))
        );
        assert!("a.safetensors:much".parse::<LoraChoice>().is_err());
        assert_eq!(
            "C:a.safetensors".parse(),
            Ok(choice("C:a.safetensors", 1.0))
        );
        for bad in ["a.safetensors:inf", "a.safetensors:1.5.2", ":1", ""] {
            assert!(bad.parse::<LoraChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_are_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(Steps::Auto));
        assert_eq!("12".parse(), Ok(Steps::Exactly(12)));
        assert!("many".parse::<Steps>().is_err());
    }
}
