use std::ops::ControlFlow;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use burn::tensor::{Device, FloatDType};
use clip_text::Prompt;
use lora_core::Lora;
use sd_diffusion::SamplerKind;
use sd_pipeline::{
    AdapterFile, Checkpoint, CheckpointOptions, Generated, InitImage, MatrixType, OpenOptions,
    Part, PipelineError, Progress, Request, RngKind, StableDiffusion, WeightsMemory,
};
use sd_unet::{CrossAttention, UNetConfig};
use serde_json::{Value, json};

use crate::args::{Common, Generate, Model, Prediction, Rng};
use crate::console::{Console, go_on, print};
use crate::device::Precision;
use crate::failure::{Blame, Failure, wrong};
use crate::output::{PictureFiles, write_png};
use crate::picture::read_picture;
use crate::pocket;
use crate::portraits::References;
use crate::provenance::{self, Sources};
use crate::usage::{Stopwatch, check_memory, memory_note, peak_memory};

/// `samecast generate`
pub fn run(args: &Generate, common: &Common) -> Result<Value, Failure> {
    let model_given = pocket::resolved(&args.model)?;
    let console = Console::new(common.quiet);
    check_prompt("prompt", &args.prompt)?;
    check_prompt("negative", &args.negative)?;
    let (sampler, schedule) = args.sampler().input()?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let init = args.init_image.as_deref();
    let init = init.map(|path| Ok(read_picture("init-image", path)?.into_rgb8()));
    let init = init.transpose()?;
    let mut request = Request {
        prompt: args.prompt.clone(),
        negative: args.negative.clone(),
        sampler,
        schedule,
        steps: args.steps,
        cfg: args.cfg,
        seed,
        rng: match args.rng {
            Rng::Torch => RngKind::Torch,
            Rng::Philox => RngKind::Philox,
        },
        count: args.count,
        clip_skip: args.clip_skip,
        init: init.map(|picture| InitImage {
            picture,
            strength: args.strength.unwrap_or(0.6),
        }),
        eta: args.eta,
        cfg_start: args.cfg_start,
        cfg_end: args.cfg_end,
        deep_cache: args.deep_cache,
        token_merging: args.token_merging,
        vae_tile: args.vae_tile,
        ..Request::default()
    };
    if matches!(sampler, SamplerKind::Lcm | SamplerKind::Tcd) && args.cfg > 2.0 {
        console.note(format_args!(
            "--cfg is {}: models for sampler {sampler} hold their guidance already, and 1 to 2 suits them",
            args.cfg
        ));
    }
    let device = common.device.open()?;
    let dtype = common.precision.on(&device)?;
    let files = PictureFiles::new(args.out.as_deref(), seed)?;
    let loras = args
        .lora
        .iter()
        .map(|choice| Ok((choice, Lora::open(&choice.file).input()?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let references = References::open(&args.ip, dtype, &device, &console)?;

    let mut watch = Stopwatch::start();
    let opening = Opening::begin(&model_given, common.precision, dtype, &device, &console)?;
    [request.width, request.height] = size(args, &request, &opening.checkpoint);
    let references = references.draw(&opening.layers, dtype, &device, &console)?;
    request.image_prompts = references.prompts;
    let encoding = watch.lap();
    opening.check_memory(&request, WeightsMemory::to_draw_once)?;
    let (mut model, hash) = opening.load()?;
    model.check(&request).input()?;
    model = with_adapters(model, &references.adapters)?;
    for (choice, lora) in &loras {
        model = model.with_lora(lora, choice.scale).input()?;
    }

    let loading = watch.lap();
    let bar = console.bar("drawing", 0);
    let made = model.generate_once(
        &request,
        steps_told(|done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }),
    );
    bar.finish_and_clear();
    let drawing = watch.lap();
    let made = made.map_err(blamed)?;

    let hash = hash.join().unwrap_or_default();
    let sources = Sources {
        model: &model_given,
        loras: &args.lora,
        ip: &args.ip,
        init_image: args.init_image.as_deref(),
    };
    let mut hashes = sources.hashes(hash.as_deref())?;
    hashes.extend(references.files);
    let mut written = vec![];
    for (index, picture) in made.pictures.iter().enumerate() {
        let path = files.file(index, made.pictures.len(), seed);
        let parameters = provenance::parameters(&sources, &request, hash.as_deref());
        let record = provenance::record(&sources, &request, index, &hashes);
        let texts = [
            ("parameters", parameters.as_str()),
            ("samecast", &record.to_string()),
        ];
        write_png(&path, picture, &texts)?;
        written.push(path.display().to_string());
    }
    if !common.json {
        print(written.join("\n"))?;
    }
    console.note(format_args!(
        "seed {seed}; opened in {loading} s, drawn in {drawing} s{}",
        memory_note()
    ));
    Ok(json!({
        "files": written,
        "seed": seed,
        "width": request.width,
        "height": request.height,
        "evaluations": { "whole": made.evaluations.whole, "shallow": made.evaluations.shallow },
        "image_encoder_opened": references.encoded,
        "seconds": { "references": encoding, "opening": loading, "drawing": drawing },
        "peak_memory_bytes": peak_memory(),
    }))
}

/// A model whose files are opened, and whose weights are not read yet: until then an image encoder can have the memory.
pub struct Opening<'a> {
    /// The UNet's cross-attention layers, which adapters must fit.
    pub layers: Vec<CrossAttention>,
    checkpoint: Checkpoint,
    options: OpenOptions,
    dtype: FloatDType,
    device: &'a Device,
}

impl<'a> Opening<'a> {
    /// Opens a model's files.
    ///
    /// # Errors
    /// If the files are no model of ours.
    pub fn begin(
        model: &Model,
        precision: Precision,
        dtype: FloatDType,
        device: &'a Device,
        console: &Console,
    ) -> Result<Self, Failure> {
        console.note(format_args!("opening {}", model.model.display()));
        let options = OpenOptions {
            unet_matrices: precision.matrices(device),
            ..open_options(model)
        };
        let checkpoint = CheckpointOptions {
            vae: options.vae.clone(),
        };
        let checkpoint = Checkpoint::open(&model.model, &checkpoint).input()?;
        let unet = UNetConfig::from_value(checkpoint.config(Part::Unet))
            .with_context(|| model.model.display().to_string())
            .input()?;
        Ok(Self {
            layers: unet.cross_attentions(),
            checkpoint,
            options,
            dtype,
            device,
        })
    }

    /// Refuses pictures for which the memory does not suffice, with the model. `need` tells how much that is.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_memory(
        &self,
        request: &Request,
        need: fn(&WeightsMemory, &Request) -> u64,
    ) -> Result<(), Failure> {
        let weights = |matrices| {
            let options = OpenOptions {
                unet_matrices: matrices,
                ..self.options.clone()
            };
            WeightsMemory::of(&self.checkpoint, &options, self.dtype)
        };
        let mut kept = weights(self.options.unet_matrices);
        let short = weights(MatrixType::As(FloatDType::F16));
        // Sizes that no machine draws are told of as what they are.
        if request.count > Request::MAX_COUNT
            || request.width.max(request.height) > Request::MAX_SIDE
        {
            return Ok(());
        }
        // One saving after the other.
        let mut ways = vec![];
        let (mut way, mut request) = (vec![], request.clone());
        let (width, height, count) = (request.width, request.height, request.count);
        let needed = need(&kept, &request);
        if short.total() < kept.total() {
            (kept, way) = (short, vec!["--precision f16".to_owned()]);
            ways.push((way.join(" "), need(&kept, &request)));
        }
        if request.vae_tile == 0 && width * height > 512 * 512 {
            request.vae_tile = 512;
            way.push("--vae-tile 512".to_owned());
            ways.push((way.join(" "), need(&kept, &request)));
        }
        if count > 1 {
            request.count = 1;
            way.push("--count 1".to_owned());
            ways.push((way.join(" "), need(&kept, &request)));
        }
        for side in [512, 384, 256] {
            if side * side < width * height {
                (request.width, request.height) = (side, side);
                let way = format!("{} --width {side} --height {side}", way.join(" "));
                ways.push((way.trim_start().to_owned(), need(&kept, &request)));
            }
        }
        let model = self.checkpoint.path().display();
        let what = match count {
            1 => format!("{width}x{height} pixels with {model}"),
            count => format!("{count} pictures of {width}x{height} pixels with {model}"),
        };
        check_memory(&what, needed, self.device, &ways)
    }

    /// Reads the weights, and then begins to compute the model's hash, which is wanted only at the end.
    ///
    /// # Errors
    /// If the weights do not fit.
    pub fn load(self) -> Result<(StableDiffusion, JoinHandle<Option<String>>), Failure> {
        let (checkpoint, options) = (&self.checkpoint, &self.options);
        let model = StableDiffusion::load(checkpoint, options, self.dtype, self.device).input()?;
        let path = checkpoint.path().to_path_buf();
        let hash = std::thread::spawn(move || provenance::model_hash(&path));
        Ok((model, hash))
    }
}

/// The model with what adapters bring for its UNet: each file's once, however many characters it steers.
pub fn with_adapters(
    mut model: StableDiffusion,
    adapters: &[AdapterFile],
) -> Result<StableDiffusion, Failure> {
    for (at, adapter) in adapters.iter().enumerate() {
        let same = |other: &AdapterFile| other.sha256 == adapter.sha256;
        if !adapters[..at].iter().any(same) {
            model = model.with_adapter(adapter).input()?;
        }
    }
    Ok(model)
}

/// Draws a request's pictures. `tell` hears how many steps are done, and of how many.
pub fn draw(
    model: &StableDiffusion,
    request: &Request,
    tell: impl FnMut(usize, usize),
) -> Result<Generated, Failure> {
    model.generate(request, steps_told(tell)).map_err(blamed)
}

/// Tells of the steps alone, and breaks off when a person has asked for it.
fn steps_told(mut tell: impl FnMut(usize, usize)) -> impl FnMut(Progress) -> ControlFlow<()> {
    move |progress| {
        if let Progress::Step { done, of } = progress {
            tell(done, of);
        }
        go_on()
    }
}

fn blamed(error: PipelineError) -> Failure {
    match error {
        PipelineError::Stopped => Failure::Work(error.into()),
        error => Failure::Input(error.into()),
    }
}

/// The side of the squares that a model was trained on. None where its files do not say, or cannot be opened, which is told when they are used.
pub fn trained_side(model: &Model) -> Option<usize> {
    let options = CheckpointOptions {
        vae: model.vae.clone(),
    };
    let [width, height] = Checkpoint::open(&model.model, &options)
        .ok()?
        .trained_size()?;
    Some(width.min(height))
}

/// How `--model` and its companions open a model.
pub fn open_options(model: &Model) -> OpenOptions {
    OpenOptions {
        vae: model.vae.clone(),
        tokenizer: model.tokenizer.clone(),
        prediction_type: model.prediction_type.map(|prediction| match prediction {
            Prediction::Epsilon => sd_diffusion::PredictionType::Epsilon,
            Prediction::V => sd_diffusion::PredictionType::VPrediction,
        }),
        ..OpenOptions::default()
    }
}

/// A LoRA named in a prompt would only be read as words.
pub fn check_prompt(option: &str, prompt: &str) -> Result<(), Failure> {
    let named = Prompt::literal(prompt).parts().iter().any(|part| {
        let text = part.text.to_lowercase();
        text.contains("<lora:") || text.contains("<lyco:")
    });
    if named {
        return wrong(format!(
            "--{option} names a LoRA as `<lora:…>`; give its file by --lora FILE:SCALE and take it out of the prompt"
        ));
    }
    Ok(())
}

/// What was asked for, else the size of the picture to start from, else that of the model's own pictures, else 512 × 512.
fn size(args: &Generate, request: &Request, model: &Checkpoint) -> [usize; 2] {
    let of_init = |length: u32| ((length / 8) * 8).max(8) as usize;
    let [width, height] = match &request.init {
        Some(init) => [
            of_init(init.picture.width()),
            of_init(init.picture.height()),
        ],
        None => model
            .trained_size()
            .unwrap_or([request.width, request.height]),
    };
    [args.width.unwrap_or(width), args.height.unwrap_or(height)]
}

/// A seed that nobody chose: from the clock, small enough for other programs' fields.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64) % (1 << 32)
}
