use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{Device, FloatDType};
use character_library::LossLog;
use lora_core::{Dialect, Precision as LoraPrecision};
use lora_trainer::{Base, CaptionSource, Dataset, LrScheduler, TrainConfig, TrainError, Trainer};
use sd_pipeline::{
    Checkpoint, CheckpointOptions, MatrixType, OpenOptions, StableDiffusion, TrainedConvolutions,
    WeightsMemory,
};
use serde_json::{Value, json};

use crate::args::{self, Common, Format, Model, SavePrecision, Steps, Train, TrainOptions};
use crate::console::{Console, go_on, print};
use crate::device::{Precision, is_cpu};
use crate::failure::{Blame, Failure, wrong};
use crate::generate::{open_options, trained_side};
use crate::hashes::sha256;
use crate::output::check_parent;
use crate::pocket;
use crate::provenance::name_of;
use crate::usage::{Stopwatch, check_memory, memory_note, peak_memory};

/// `samecast train`
pub fn run(args: &Train, common: &Common) -> Result<Value, Failure> {
    let model = pocket::resolved(&args.model)?;
    let mut base = TrainConfig::default();
    base.resolution = trained_side(&model).unwrap_or(base.resolution);
    let mut config = config(base, &args.options)?;
    if let Some(trigger) = &args.trigger {
        config.trigger = trigger.clone();
    }
    let plan = Plan {
        model,
        images: &args.images,
        config,
        out: &args.out,
        log: None,
        options: &args.options,
        force: args.force,
    };
    let trained = train(plan, common)?;
    if !common.json {
        print(args.out.display())?;
    }
    Ok(trained.report(&args.out))
}

/// A run of training, as a command asks for it.
pub struct Plan<'a> {
    /// The model.
    pub model: Model,
    /// The folder of pictures.
    pub images: &'a Path,
    /// How it is trained.
    pub config: TrainConfig,
    /// The LoRA file to write.
    pub out: &'a Path,
    /// A file for the losses.
    pub log: Option<&'a Path>,
    /// The format, the state, and whether it is gone on with.
    pub options: &'a TrainOptions,
    /// Whether files that exist are replaced.
    pub force: bool,
}

/// What a run of training did.
pub struct Trained {
    /// Its steps, those before a break too.
    pub steps: usize,
    /// The pictures that it saw.
    pub pictures: usize,
    /// Mean loss of the last 50 steps.
    pub loss: f32,
    /// Seconds that the steps took, since the last break.
    pub seconds: f64,
}

impl Trained {
    /// For scripts.
    pub fn report(&self, file: &Path) -> Value {
        json!({
            "file": file.to_string_lossy(),
            "steps": self.steps,
            "pictures": self.pictures,
            "loss": self.loss,
            "seconds": { "training": self.seconds },
            "peak_memory_bytes": peak_memory(),
        })
    }
}

/// Trains a LoRA and writes it.
pub fn train(plan: Plan<'_>, common: &Common) -> Result<Trained, Failure> {
    let console = Console::new(common.quiet);
    plan.config.check().input()?;
    let state = state_file(plan.out);
    check_out(&plan, &state)?;
    let dataset = Dataset::open(plan.images, &plan.config.trigger).input()?;
    tell_of(&dataset, &plan.config.trigger, &console);

    let device = common.device.open()?;
    // Factors, gradients and sums are f32 in any case. On the processor the UNet's weights and what products take may have 16
    // bits.
    let dtype = match common.precision {
        Precision::F16 if !is_cpu(&device) => {
            return wrong(
                "--precision f16: gradients in f16 vanish; train in bf16, or leave the option out for f32",
            );
        }
        Precision::Bf16 => common.precision.on(&device)?,
        _ => FloatDType::F32,
    };
    let path = &plan.model.model;
    console.note(format_args!("opening {}", path.display()));
    let options = OpenOptions {
        unet_matrices: match common.precision {
            // Without checkpointing each is kept in f32 until its gradient is known, beside what it is made of.
            Precision::Auto if !plan.config.gradient_checkpointing => MatrixType::Computed,
            precision => precision.matrices(&device),
        },
        ..open_options(&plan.model)
    };
    let checkpoint = CheckpointOptions {
        vae: options.vae.clone(),
    };
    let checkpoint = Checkpoint::open(path, &checkpoint).input()?;
    check_room(&checkpoint, &options, &plan.config, &device)?;
    let model = StableDiffusion::load(&checkpoint, &options, dtype, &device).input()?;
    let file = path.is_file();
    let base = Base {
        name: name_of(path),
        sha256: file.then(|| sha256(path).ok()).flatten(),
        tokenizer: model.tokenizer,
        text_encoder: model.text_encoder,
        unet: model.unet,
        vae: model.vae,
        scheduler: model.scheduler,
    };

    let bar = console.bar("reading", dataset.samples.len());
    let config = plan.config.clone();
    let mut run = Trainer::new(base, &dataset, config, &device, |done, _| {
        bar.set_position(done as u64);
        go_on()
    })
    .map_err(blamed)?;
    bar.finish_and_clear();
    for picture in run.cut_captions() {
        console.note(format_args!(
            "note: {}: the caption is longer than the text encoder reads; its end has no effect",
            picture.display()
        ));
    }

    let mut keeper = Keeper {
        state: &state,
        log: plan.log,
        losses: LossLog::default(),
    };
    if plan.options.resume {
        run.load_state(&state).input()?;
        if let Some(log) = plan.log.filter(|log| log.exists()) {
            keeper.losses = LossLog::open(log).input()?;
            keeper.losses.back_to(run.done());
        }
        console.note(format_args!("going on after step {}", run.done()));
    }
    let mut watch = Stopwatch::start();
    let first = run.done();
    descend(&mut run, &mut keeper, plan.options, &console)?;
    let seconds = watch.lap();

    let name = name_of(plan.out);
    let dialect = match plan.options.format {
        Format::Kohya => Dialect::Kohya,
        Format::Peft => Dialect::Peft,
    };
    let precision = match plan.options.save_precision {
        SavePrecision::F16 => LoraPrecision::F16,
        SavePrecision::Bf16 => LoraPrecision::Bf16,
        SavePrecision::F32 => LoraPrecision::F32,
    };
    let lora = run.lora(&name).work()?;
    if let Err(error) = lora.save(plan.out, dialect, precision, &run.metadata(&name)) {
        // All the steps are done: they must not be lost for a full disk, or for a type that is too narrow.
        run.save_state(&state).work()?;
        let message = format!("{error}; the steps are kept: --resume writes the file");
        return Err(Failure::Work(anyhow::anyhow!(message)));
    }
    if state.exists() {
        std::fs::remove_file(&state)
            .with_context(|| format!("{}: cannot be removed", state.display()))
            .work()?;
    }
    console.note(format_args!(
        "{} steps in {seconds} s{}",
        run.done() - first,
        memory_note()
    ));
    Ok(Trained {
        steps: run.done(),
        pictures: dataset.samples.len(),
        loss: keeper.losses.last(50).unwrap_or(0.0),
        seconds,
    })
}

/// Refuses a run for which the memory does not suffice.
fn check_room(
    checkpoint: &Checkpoint,
    options: &OpenOptions,
    config: &TrainConfig,
    device: &Device,
) -> Result<(), Failure> {
    let weights = |matrices| {
        let options = OpenOptions {
            unet_matrices: matrices,
            ..options.clone()
        };
        WeightsMemory::of(checkpoint, &options, FloatDType::F32)
    };
    let (mut kept, wide) = (
        weights(options.unet_matrices),
        weights(MatrixType::Computed),
    );
    let short = weights(MatrixType::As(FloatDType::F16));
    let (side, batch) = (config.resolution, config.batch_size);
    let convolutions = TrainedConvolutions::of(checkpoint, config.size(), config.conv_size());
    let mut needed = kept.to_train(side, batch, config.gradient_checkpointing, convolutions);
    let with = |kept: WeightsMemory, side, batch| kept.to_train(side, batch, true, convolutions);
    let (mut way, mut smaller) = (vec![], vec![]);
    if !config.gradient_checkpointing {
        // What is widened is kept too.
        if kept.unet < wide.unet {
            needed = needed.saturating_add(wide.unet);
        }
        way.push("--gradient-checkpointing true".to_owned());
        smaller.push((way.join(" "), with(kept, side, batch)));
    }
    if is_cpu(device) && short.unet < kept.unet {
        kept = short;
        way.push("--precision f16".to_owned());
        smaller.push((way.join(" "), with(kept, side, batch)));
    }
    if batch > 1 {
        way.push("--batch-size 1".to_owned());
        smaller.push((way.join(" "), with(kept, side, 1)));
    }
    for smaller_side in [512, 384, 256] {
        if smaller_side < side {
            let way = format!("{} --resolution {smaller_side}", way.join(" "));
            smaller.push((way.trim_start().to_owned(), with(kept, smaller_side, 1)));
        }
    }
    let mut what = format!("--resolution {side} --batch-size {batch}");
    if let Some(rank) = config.conv_rank {
        what += &format!(" --conv-rank {rank}");
    }
    check_memory(&what, needed, device, &smaller)
}

/// Keeps a run's state, and its losses where there is a file for them.
struct Keeper<'a> {
    state: &'a Path,
    log: Option<&'a Path>,
    losses: LossLog,
}

impl Keeper<'_> {
    fn save_state(&self, run: &Trainer) -> Result<(), Failure> {
        run.save_state(self.state).work()?;
        self.save_log()
    }

    fn save_log(&self) -> Result<(), Failure> {
        let Some(log) = self.log else { return Ok(()) };
        (self.losses.write(log))
            .with_context(|| format!("{}: cannot be written", log.display()))
            .work()
    }
}

/// Takes the steps that are left. Stops with the state saved where a person asks for it.
fn descend(
    run: &mut Trainer,
    keeper: &mut Keeper<'_>,
    options: &TrainOptions,
    console: &Console,
) -> Result<(), Failure> {
    let bar = console.bar("training", run.steps());
    bar.set_position(run.done() as u64);
    bar.reset_eta();
    let mut smooth: Option<f32> = None;
    while !run.is_done() {
        if go_on().is_break() {
            bar.abandon();
            keeper.save_state(run)?;
            let message = format!(
                "stopped after step {} of {}; --resume goes on from {}",
                run.done(),
                run.steps(),
                keeper.state.display()
            );
            return Err(Failure::Work(anyhow::anyhow!(message)));
        }
        let report = run.step().work()?;
        let mean = smooth.map_or(report.loss, |mean| 0.98 * mean + 0.02 * report.loss);
        smooth = Some(mean);
        bar.set_position(report.step as u64);
        bar.set_message(format!("loss {mean:.4}"));
        let every = options.save_state_every;
        let due = every > 0 && report.step.is_multiple_of(every);
        keeper.losses.steps.push(report);
        if due && !run.is_done() {
            keeper.save_state(run)?;
        }
    }
    bar.finish_and_clear();
    keeper.save_log()
}

/// The command line's options over the file's, over what is there already.
pub fn config(base: TrainConfig, args: &TrainOptions) -> Result<TrainConfig, Failure> {
    let mut config = match &args.config {
        None => base,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("--config {}: cannot be read", path.display()))
                .input()?;
            // Once for what is wrong with it, and once for what it says.
            let said =
                toml::from_str::<TrainConfig>(&text).and_then(|_| text.parse::<toml::Table>());
            let said = said.or_else(|error| wrong(told(&error, path, &text)))?;
            let kept = |key| !said.contains_key(key);
            let (gamma, norm) = (kept("min_snr_gamma"), kept("max_grad_norm"));
            let mut all = toml::Table::try_from(&base).work()?;
            all.extend(said);
            let mut all: TrainConfig = all.try_into().work()?;
            // TOML has no word for a value that is none.
            if gamma {
                all.min_snr_gamma = base.min_snr_gamma;
            }
            if norm {
                all.max_grad_norm = base.max_grad_norm;
            }
            all
        }
    };
    fn set<T: Clone>(field: &mut T, option: &Option<T>) {
        if let Some(value) = option {
            *field = value.clone();
        }
    }
    set(&mut config.rank, &args.rank);
    set(&mut config.alpha, &args.alpha);
    set(&mut config.learning_rate, &args.learning_rate);
    set(&mut config.warmup_steps, &args.warmup_steps);
    set(&mut config.batch_size, &args.batch_size);
    set(
        &mut config.gradient_accumulation,
        &args.gradient_accumulation,
    );
    set(&mut config.resolution, &args.resolution);
    set(
        &mut config.gradient_checkpointing,
        &args.gradient_checkpointing,
    );
    set(&mut config.weight_decay, &args.weight_decay);
    set(&mut config.clip_skip, &args.clip_skip);
    set(&mut config.seed, &args.seed);
    match args.steps {
        None => {}
        Some(Steps::Auto) => config.steps = None,
        Some(Steps::Exactly(steps)) => config.steps = Some(steps),
    }
    config.conv_rank = args.conv_rank.or(config.conv_rank);
    config.conv_alpha = args.conv_alpha.or(config.conv_alpha);
    if args.text_encoder_learning_rate.is_some() {
        config.text_encoder_learning_rate = args.text_encoder_learning_rate;
    }
    if let Some(scheduler) = args.lr_scheduler {
        config.lr_scheduler = match scheduler {
            args::LrScheduler::Cosine => LrScheduler::Cosine,
            args::LrScheduler::Constant => LrScheduler::Constant,
        };
    }
    // 0 turns these off, here and in the file.
    for (field, option) in [
        (&mut config.min_snr_gamma, args.min_snr_gamma),
        (&mut config.max_grad_norm, args.max_grad_norm),
    ] {
        *field = option.or(*field).filter(|value| *value != 0.0);
    }
    Ok(config)
}

/// In one line what is wrong with a line of the options' file.
fn told(error: &toml::de::Error, path: &Path, text: &str) -> String {
    let message = error.message().replace('\n', "; ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let number = before.map_or(0, |before| before.matches('\n').count());
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!(
        "--config {}: line {}, `{line}`: {message}",
        path.display(),
        number + 1
    )
}

fn check_out(plan: &Plan<'_>, state: &Path) -> Result<(), Failure> {
    let (out, resume) = (plan.out, plan.options.resume);
    let named = out
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"));
    if !named || out.is_dir() {
        return wrong(format!(
            "--out {}: a name that ends in .safetensors is expected",
            out.display()
        ));
    }
    check_parent(out)?;
    if out.exists() && !plan.force {
        return wrong(format!(
            "--out {}: exists already; take another name, or --force to replace it",
            out.display()
        ));
    }
    if resume && !state.exists() {
        return wrong(format!(
            "--resume: no interrupted run left its state at {}; leave the option out to start anew",
            state.display()
        ));
    }
    if !resume && state.exists() && !plan.force {
        return wrong(format!(
            "{}: an interrupted run left its state; go on with it by --resume, or start anew with --force",
            state.display()
        ));
    }
    Ok(())
}

fn tell_of(dataset: &Dataset, trigger: &str, console: &Console) {
    let count = |source| {
        let of_it = |sample: &&lora_trainer::Sample| sample.source == source;
        dataset.samples.iter().filter(of_it).count()
    };
    let pictures = dataset.samples.len();
    console.note(format_args!(
        "{pictures} pictures in {}",
        dataset.folder.display()
    ));
    if pictures < 15 {
        console.note(
            "note: 15 to 20 pictures are the least that make a good character, 30 to 50 are better",
        );
    }
    for (source, text) in [
        (
            CaptionSource::Trigger,
            "have no caption: they get the trigger word alone",
        ),
        (
            CaptionSource::FileAndTrigger,
            "have captions without the trigger word: it is put in front",
        ),
    ] {
        if count(source) > 0 {
            console.note(format_args!(
                "note: {} of them {text} ({trigger})",
                count(source)
            ));
        }
    }
    for file in &dataset.ignored {
        console.note(format_args!(
            "note: {}: neither a picture nor a picture's caption; not used",
            file.display()
        ));
    }
}

/// Pictures and options are the user's; what happens on the way is not.
fn blamed(error: TrainError) -> Failure {
    match error {
        TrainError::Stopped | TrainError::Write { .. } | TrainError::Diverged { .. } => {
            Failure::Work(error.into())
        }
        error => Failure::Input(error.into()),
    }
}

fn state_file(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}
