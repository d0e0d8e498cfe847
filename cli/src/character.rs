//! `samecast character new`, `train` and `sheet`; `verify` has a file of its own.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use character_library::{
    Character, Expression, FaceRegion, Library, LoraVersion, NewCharacter, Prompts, Settings,
};
use clap::Args;
use lora_core::Lora;
use sd_pipeline::{Request, WeightsMemory};
use serde_json::{Value, json};

use crate::args::{Common, LoraChoice, Model, Prediction, Steps, TrainOptions};
use crate::console::{Console, go_on, print};
use crate::failure::{Blame, Failure, wrong};
use crate::generate::{Opening, check_prompt, draw, trained_side};
use crate::hashes::sha256;
use crate::ip_args::IpOptions;
use crate::library::blamed;
use crate::output::write_png;
use crate::pocket;
use crate::provenance::{self, Sources, name_of};
use crate::train;
use crate::usage::{Stopwatch, memory_note};

/// Which character of which library.
#[derive(Args, Debug)]
pub struct Which {
    /// The character's name, that of its folder
    pub name: String,
    /// The library
    #[arg(long, value_name = "DIR", default_value = "drama-assets")]
    pub library: PathBuf,
}

/// The model of a character's commands: by default the one that the character or the library names.
#[derive(Args, Debug, Clone)]
pub struct ModelOptions {
    /// Stable Diffusion 1.x: a diffusers folder, a .safetensors or .ckpt file, or pocket [default: that of character.toml or library.toml]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// A VAE in place of the model's own: a file or a diffusers folder [default: that of character.toml]
    #[arg(long, value_name = "PATH")]
    pub vae: Option<PathBuf>,
    /// A folder with the tokenizer's files, in place of the model's own or CLIP's
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// What the model predicts, where its files do not say
    #[arg(long, value_enum, value_name = "TYPE")]
    pub prediction_type: Option<Prediction>,
}

/// How a character's pictures are drawn, over what its character.toml says.
#[derive(Args, Debug)]
pub struct DrawOptions {
    /// The sampler, as of generate [default: that of character.toml]
    #[arg(long)]
    pub sampler: Option<String>,
    /// How it spreads its noise levels: default or karras [default: that of character.toml]
    #[arg(long)]
    pub schedule: Option<String>,
    /// Steps of the sampler [default: those of character.toml]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Strength of the guidance by the prompt [default: that of character.toml]
    #[arg(long)]
    pub cfg: Option<f64>,
    /// Width in pixels [default: that of character.toml]
    #[arg(long)]
    pub width: Option<usize>,
    /// Height in pixels [default: that of character.toml]
    #[arg(long)]
    pub height: Option<usize>,
    /// The LoRA's file [default: the character's newest]
    #[arg(long, value_name = "FILE")]
    pub lora: Option<PathBuf>,
    /// The LoRA's strength [default: that of character.toml]
    #[arg(long, value_name = "SCALE")]
    pub lora_scale: Option<f64>,
    /// Seed of the noise, the first of several
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Options of `character new`.
#[derive(Args, Debug)]
pub struct New {
    #[command(flatten)]
    pub which: Which,
    /// A folder of pictures, each with its caption in a .txt or .caption file of the same name
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The word that will call the character, such as mychar001
    #[arg(long)]
    pub trigger: String,
    /// What the character is, in a word or two of prompts
    #[arg(long, default_value = "person")]
    pub class: String,
    /// The model that the character is trained on and drawn with: a path, or pocket
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// A VAE in place of the model's own
    #[arg(long, value_name = "PATH")]
    pub vae: Option<PathBuf>,
    /// A CLIP's folder, which scores likeness
    #[arg(long, value_name = "DIR")]
    pub clip: Option<PathBuf>,
    /// Where the face is, the same in every picture: left edge, upper edge and side of a square, as shares of the middle square
    #[arg(long, value_name = "LEFT,TOP,SIDE", default_value = "0,0,1")]
    pub face: FaceRegion,
    /// Side of the pictures that are trained on and drawn, in pixels [default: that of the model's own training, 512 for Stable Diffusion 1.5]
    #[arg(long)]
    pub resolution: Option<usize>,
    /// Steps of the training: a number, or auto for 45 a picture within 1500 to 2500
    #[arg(long, default_value = "auto")]
    pub train_steps: Steps,
    /// Peak learning rate of the training [default: 1e-4]
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Rank of the LoRA's factors; alpha is half of it [default: 32]
    #[arg(long)]
    pub rank: Option<usize>,
    /// Train the UNet's residual blocks too, their 3×3 convolutions with this rank [default: the transformers alone]
    #[arg(long, value_name = "RANK")]
    pub conv_rank: Option<usize>,
    /// The LoRA's strength in pictures [default: 0.8]
    #[arg(long, value_name = "SCALE")]
    pub lora_scale: Option<f64>,
    /// Steps of the sampler [default: 28]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Strength of the guidance by the prompt [default: 7]
    #[arg(long)]
    pub cfg: Option<f64>,
    /// Weight of the trigger word in prompts
    #[arg(long, default_value_t = 1.3)]
    pub trigger_weight: f64,
    /// What stands at every prompt's end; "" for nothing [default: identical face, same hairstyle, …]
    #[arg(long)]
    pub anchors: Option<String>,
    /// What is not to be seen; "" for nothing [default: different person, character change, …]
    #[arg(long)]
    pub negative: Option<String>,
    /// The prompt of the three expressions, with {expression} and {class} in it [default: a portrait before plain grey]
    #[arg(long)]
    pub portrait: Option<String>,
    /// A scene to verify the character in, with {class} in it; given once for each [default: five scenes]
    #[arg(long)]
    pub scene: Vec<String>,
}

/// Options of `character train`.
#[derive(Args, Debug)]
pub struct Train {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub options: TrainOptions,
    /// Start anew, and forget the state that an interrupted run left
    #[arg(long)]
    pub force: bool,
}

/// Options of `character sheet`.
#[derive(Args, Debug)]
pub struct Sheet {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub draw: DrawOptions,
    /// Replace pictures that exist
    #[arg(long)]
    pub force: bool,
}

/// `samecast character new`
pub fn new(args: &New, common: &Common) -> Result<Value, Failure> {
    let library = Library::open(&args.which.library).map_err(blamed)?;
    if !(0.0..=4.0).contains(&args.trigger_weight) {
        return wrong(format!(
            "--trigger-weight is {}; a number from 0 to 4, such as 1.3, is expected",
            args.trigger_weight
        ));
    }
    let recipe = Prompts::recipe(&args.trigger, args.trigger_weight);
    let or = |given: &Option<String>, recipe: String| given.clone().unwrap_or(recipe);
    let prompts = Prompts {
        anchors: or(&args.anchors, recipe.anchors),
        negative: or(&args.negative, recipe.negative),
        portrait: or(&args.portrait, recipe.portrait),
        scenes: match args.scene.is_empty() {
            true => recipe.scenes,
            false => args.scene.clone(),
        },
        ..recipe
    };
    for prompt in prompts
        .scenes
        .iter()
        .chain([&prompts.portrait, &prompts.anchors])
    {
        check_prompt("scene", prompt)?;
    }
    let mut settings = Settings {
        class: args.class.clone(),
        model: args
            .model
            .as_deref()
            .map(|path| portable("model", path))
            .transpose()?,
        vae: args
            .vae
            .as_deref()
            .map(|path| portable("vae", path))
            .transpose()?,
        clip: args
            .clip
            .as_deref()
            .map(|path| portable("clip", path))
            .transpose()?,
        face: args.face,
        ..Settings::recipe(&args.trigger)
    };
    let side = match args.resolution {
        Some(side) => side,
        None => own_side(&settings, &library)?.unwrap_or(settings.training.resolution),
    };
    settings.training.resolution = side;
    settings.training.steps = match args.train_steps {
        Steps::Auto => None,
        Steps::Exactly(steps) => Some(steps),
    };
    settings.training.learning_rate = args
        .learning_rate
        .unwrap_or(settings.training.learning_rate);
    if let Some(rank) = args.rank {
        settings.training.rank = rank;
        settings.training.alpha = (rank as f64 / 2.0).max(1.0);
    }
    settings.training.conv_rank = args.conv_rank;
    let drawing = &mut settings.drawing;
    (drawing.width, drawing.height) = (side, side);
    drawing.lora_scale = args.lora_scale.unwrap_or(drawing.lora_scale);
    drawing.steps = args.steps.unwrap_or(drawing.steps);
    drawing.cfg = args.cfg.unwrap_or(drawing.cfg);

    let console = Console::new(common.quiet);
    let bar = console.bar("copying", 0);
    let new = NewCharacter {
        name: args.which.name.clone(),
        pictures: args.from.clone(),
        settings,
        prompts,
    };
    let (character, findings) = library
        .add(&new, |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            go_on()
        })
        .map_err(blamed)?;
    bar.finish_and_clear();
    for line in findings.lines() {
        console.note(line);
    }
    if !common.json {
        print(character.folder().display())?;
    }
    let names = |paths: &[PathBuf]| paths.iter().map(|path| file_name(path)).collect::<Vec<_>>();
    Ok(json!({
        "character": character.name,
        "folder": character.folder().to_string_lossy(),
        "pictures": findings.pictures,
        "findings": findings.lines(),
        "without_caption": names(&findings.without_caption),
        "without_trigger": names(&findings.without_trigger),
    }))
}

/// `samecast character train`
pub fn train(args: &Train, common: &Common) -> Result<Value, Failure> {
    let (library, mut character) = open(&args.which)?;
    let model = args.model.model_of(&character, &library)?;
    let version = character.next_version().map_err(blamed)?;
    let out = character.lora_file(version);
    let log = character.log_of(&out);
    let config = train::config(character.settings.train_config(), &args.options)?;
    if config.trigger != character.settings.trigger {
        return wrong(format!(
            "--config: the trigger is {:?}, and that of character.toml is {:?}; leave it out of the file",
            config.trigger, character.settings.trigger
        ));
    }
    let hash = std::thread::spawn({
        let model = model.model.clone();
        move || provenance::model_hash(&model)
    });
    let images = character.reference_folder();
    let plan = train::Plan {
        model: model.clone(),
        images: &images,
        config: config.clone(),
        out: &out,
        log: Some(&log),
        options: &args.options,
        force: args.force,
    };
    let trained = train::train(plan, common)?;
    let sha256 = sha256(&out)
        .with_context(|| format!("{}: cannot be read", out.display()))
        .work()?;
    let recorded = LoraVersion {
        version,
        file: format!("lora/{}", file_name(&out)),
        sha256,
        base_model: name_of(&model.model),
        base_sha256: hash.join().unwrap_or_default(),
        pictures: trained.pictures,
        steps: trained.steps,
        rank: config.rank,
        alpha: config.alpha,
        conv_rank: config.conv_rank,
        conv_alpha: config.conv_size().map(|size| size.alpha),
        learning_rate: config.learning_rate,
        batch_size: config.batch_size,
        resolution: config.resolution,
        seed: config.seed,
        loss: trained.loss,
    };
    character.record(recorded).map_err(blamed)?;
    if !common.json {
        print(out.display())?;
    }
    let mut report = trained.report(&out);
    report["character"] = character.name.into();
    report["version"] = version.into();
    report["log"] = log.to_string_lossy().into();
    Ok(report)
}

/// `samecast character sheet`
pub fn sheet(args: &Sheet, common: &Common) -> Result<Value, Failure> {
    let console = Console::new(common.quiet);
    let (library, character) = open(&args.which)?;
    let files = Expression::ALL.map(|one| character.expression_file(one));
    if let Some(file) = files.iter().find(|file| file.exists() && !args.force) {
        return wrong(format!(
            "{}: exists already; --force replaces it",
            file.display()
        ));
    }
    let model_args = args.model.model_of(&character, &library)?;
    let choice = args.draw.lora_of(&character)?;
    let request = args.draw.request(&character)?;
    let lora = Lora::open(&choice.file).input()?;
    let device = common.device.open()?;
    let dtype = common.precision.on(&device)?;
    let mut watch = Stopwatch::start();
    let opening = Opening::begin(&model_args, common.precision, dtype, &device, &console)?;
    opening.check_memory(&request, WeightsMemory::to_draw)?;
    let (model, hash) = opening.load()?;
    let model = model.with_lora(&lora, choice.scale).input()?;
    let bar = console.bar("drawing", 0);
    let loras = [choice];
    let sources = Sources {
        model: &model_args,
        loras: &loras,
        ip: &IpOptions::default(),
        init_image: None,
    };
    let prompts = &character.prompts;
    let mut drawn = vec![];
    for (at, expression) in Expression::ALL.into_iter().enumerate() {
        let scene = prompts.expression(expression);
        let request = Request {
            prompt: prompts.with_character(&scene, &character.settings.class),
            ..request.clone()
        };
        let made = draw(&model, &request, |done, of| {
            bar.set_length((Expression::ALL.len() * of) as u64);
            bar.set_position((at * of + done) as u64);
        })?;
        drawn.push((request, made.pictures));
    }
    bar.finish_and_clear();
    let hash = hash.join().unwrap_or_default();
    let hashes = sources.hashes(hash.as_deref())?;
    let folder = character.folder().join("expressions");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))
        .work()?;
    for (file, (request, pictures)) in files.iter().zip(&drawn) {
        let parameters = provenance::parameters(&sources, request, hash.as_deref());
        let record = provenance::record(&sources, request, 0, &hashes).to_string();
        let texts = [
            ("parameters", parameters.as_str()),
            ("samecast", record.as_str()),
        ];
        write_png(file, &pictures[0], &texts)?;
        if !common.json {
            print(file.display())?;
        }
    }
    console.note(format_args!("drawn in {} s{}", watch.lap(), memory_note()));
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    Ok(json!({ "character": character.name, "files": files, "seed": args.draw.seed }))
}

/// A library and a character of it.
pub fn open(which: &Which) -> Result<(Library, Character), Failure> {
    let library = Library::open(&which.library).map_err(blamed)?;
    let character = library.character(&which.name).map_err(blamed)?;
    Ok((library, character))
}

/// A path as it is written down: whole, so that it holds from any folder, or `pocket`.
pub fn portable(option: &str, path: &Path) -> Result<String, Failure> {
    if path == Path::new(pocket::NAME) {
        return Ok(pocket::NAME.into());
    }
    let whole = path
        .canonicalize()
        .with_context(|| format!("--{option} {}: cannot be found", path.display()))
        .input()?;
    match whole.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => wrong(format!(
            "--{option} {}: a settings file holds text, and this path is none; rename it",
            path.display()
        )),
    }
}

/// The model that a character's settings name, else the library's.
fn named_model<'a>(settings: &'a Settings, library: &'a Library) -> Option<&'a str> {
    let library = library.settings();
    settings.model.as_deref().or(library.model.as_deref())
}

/// The side that a character's model was trained at, if it has a model yet.
fn own_side(settings: &Settings, library: &Library) -> Result<Option<usize>, Failure> {
    let Some(model) = named_model(settings, library) else {
        return Ok(None);
    };
    Ok(trained_side(&Model {
        model: pocket::path_of(Path::new(model))?,
        vae: settings.vae.as_ref().map(PathBuf::from),
        tokenizer: None,
        prediction_type: None,
    }))
}

/// The name of a file without its folders.
pub fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl ModelOptions {
    /// The model of a character: what is said here, else by the character, else by the library.
    pub fn model_of(&self, character: &Character, library: &Library) -> Result<Model, Failure> {
        let settings = &character.settings;
        let own = named_model(settings, library).map(PathBuf::from);
        let Some(model) = self.model.clone().or(own) else {
            return wrong(format!(
                "no model: give one by --model, or name it in {} or in the library's library.toml as `model`",
                character.folder().join("character.toml").display()
            ));
        };
        Ok(Model {
            model: pocket::path_of(&model)?,
            vae: self
                .vae
                .clone()
                .or(settings.vae.as_ref().map(PathBuf::from)),
            tokenizer: self.tokenizer.clone(),
            prediction_type: self.prediction_type,
        })
    }
}

impl DrawOptions {
    /// The LoRA and its strength.
    pub fn lora_of(&self, character: &Character) -> Result<LoraChoice, Failure> {
        let Some(file) = self.lora.clone().or_else(|| character.newest_lora()) else {
            return wrong(format!(
                "{} has no LoRA yet: train one by `samecast character train {}`, or give one by --lora",
                character.name, character.name
            ));
        };
        let scale = self
            .lora_scale
            .unwrap_or(character.settings.drawing.lora_scale);
        if !scale.is_finite() {
            return wrong(format!(
                "--lora-scale is {scale}; a number such as 0.8 is expected"
            ));
        }
        Ok(LoraChoice { file, scale })
    }

    /// All of a request but its prompt.
    pub fn request(&self, character: &Character) -> Result<Request, Failure> {
        let drawing = &character.settings.drawing;
        fn read<T: FromStr<Err = sd_diffusion::Error>>(text: &str) -> Result<T, Failure> {
            text.parse::<T>().input()
        }
        Ok(Request {
            sampler: read(self.sampler.as_ref().unwrap_or(&drawing.sampler))?,
            schedule: read(self.schedule.as_ref().unwrap_or(&drawing.schedule))?,
            steps: self.steps.unwrap_or(drawing.steps),
            cfg: self.cfg.unwrap_or(drawing.cfg),
            width: self.width.unwrap_or(drawing.width),
            height: self.height.unwrap_or(drawing.height),
            clip_skip: drawing.clip_skip,
            seed: self.seed,
            negative: character.prompts.negative.clone(),
            ..Request::default()
        })
    }
}
