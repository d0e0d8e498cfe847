//! Trains the examiners, measures them, and has them judge pictures.

mod likeness;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use image::RgbImage;
use samecast_pocket::examiners::{
    ATTRIBUTES, CROWD, Condition, FaceExaminer, FacePupil, FaceTraining, REFERENCES, Retrieval,
    ShotExaminer, ShotModel, ShotTraining, crowd, gallery, measure_faces, measure_shots,
};
use samecast_pocket::puppet::{Caption, Character, Sex, read};
use samecast_pocket::school::{Lesson, Pupil, Rule, load_module, save_module};

/// Trains the examiners on pictures that the puppet draws, measures them on held-out characters, and has them judge generated pictures.
#[derive(Parser, Debug)]
#[command(name = "examiners", version, propagate_version = true)]
struct Cli {
    /// The examiners' folder
    #[arg(long, value_name = "DIR", default_value = "pocket/examiners")]
    folder: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Trains one of them; a run can be stopped at any time and goes on when it is started again
    Train(Run),
    /// Measures both on drawn pictures of characters that nobody trained on
    Measure(Measure),
    /// Reads the pictures of a folder, and says how often they show what their captions ask for
    Judge(Judge),
    /// Says how often the pictures of some demos show the right person, way by way
    Likeness(likeness::Likeness),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// The one that reads shots
    Shots,
    /// The one that tells characters
    Faces,
}

#[derive(Args, Debug)]
struct Run {
    /// Which of them
    which: Which,
    /// Steps of the run
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Stop after this long; the next run goes on
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// The folder of the runs: states and logs
    #[arg(long, value_name = "DIR", default_value = "target/examiners")]
    runs: PathBuf,
    /// Seed of all that is random
    #[arg(long, default_value_t = 2)]
    seed: u64,
    /// Where no state is, begin with the network in the examiners' folder
    #[arg(long)]
    from_model: bool,
}

#[derive(Args, Debug)]
struct Measure {
    /// Pictures that are read
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pictures: u64,
    /// Pictures of each of the characters that are sought
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    queries: u64,
}

#[derive(Args, Debug)]
struct Judge {
    /// Pictures, each with its caption in a .txt file beside it
    pictures: PathBuf,
    /// The character that they should show; its rank among 50 is told for each picture
    #[arg(long, value_name = "N")]
    character: Option<u64>,
    /// Names the pictures whose expression is read otherwise
    #[arg(long)]
    misread: bool,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Train(run) => run.train(&cli.folder),
        Command::Measure(measure) => measure.run(&cli.folder),
        Command::Judge(judge) => judge.run(&cli.folder),
        Command::Likeness(likeness) => likeness.run(&cli.folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has read enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// An error and its causes, each once: some say their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            let _ = write!(words, ": {cause}");
        }
    }
    words
}

impl Run {
    fn train(&self, folder: &Path) -> Result<()> {
        ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))
            .context("Ctrl-C cannot be caught")?;
        fs::create_dir_all(&self.runs)
            .with_context(|| format!("`{}` cannot be made", self.runs.display()))?;
        match self.which {
            Which::Shots => self.shots(folder),
            Which::Faces => self.faces(folder),
        }
    }

    fn shots(&self, folder: &Path) -> Result<()> {
        let training = Device::flex().autodiff();
        let lesson = Lesson {
            name: "shots",
            batch: 32,
            parts: 2,
            steps: self.steps,
            rule: Rule::AdamW,
            rate: 2e-3,
            warmup: 100,
            cooldown: 0.6,
            beta2: 0.98,
            decay: 0.02,
            clip: 1.0,
            average: 0.997,
        };
        let model = self.begin(ShotModel::new(&training), &folder.join(ShotExaminer::FILE))?;
        let mut pupil = Pupil::new(model, lesson, &self.runs)?;
        let task = ShotTraining { seed: self.seed };
        let loss = |model: &_, samples| task.loss(model, samples, &training);
        pupil.learn(loss, self.minutes, &STOP)?;
        save(&pupil.averaged().valid(), &folder.join(ShotExaminer::FILE))
    }

    fn faces(&self, folder: &Path) -> Result<()> {
        let training = Device::flex().autodiff();
        let lesson = Lesson {
            name: "faces",
            batch: 2 * FaceTraining::GROUP,
            parts: 2,
            steps: self.steps,
            rule: Rule::AdamW,
            rate: 2e-3,
            warmup: 100,
            cooldown: 0.6,
            beta2: 0.98,
            decay: 0.02,
            clip: 1.0,
            average: 0.995,
        };
        let mut model = FacePupil::new(&training);
        model.model = self.begin(model.model, &folder.join(FaceExaminer::FILE))?;
        let mut pupil = Pupil::new(model, lesson, &self.runs)?;
        let task = FaceTraining { seed: self.seed };
        let loss = |model: &_, samples| task.loss(model, samples, &training);
        pupil.learn(loss, self.minutes, &STOP)?;
        save(
            &pupil.averaged().valid().model,
            &folder.join(FaceExaminer::FILE),
        )
    }

    /// The network that training begins with.
    fn begin<M: Module>(&self, new: M, path: &Path) -> Result<M> {
        match self.from_model {
            true => Ok(load_module(new, path, own_name)?),
            false => Ok(new),
        }
    }
}

/// A parameter's name in the file is its path in the model.
fn own_name(path: &str) -> Option<String> {
    Some(path.to_owned())
}

fn save<M: Module>(model: &M, path: &Path) -> Result<()> {
    save_module(model, path, own_name)?;
    eprintln!("`{}` is written", path.display());
    Ok(())
}

impl Measure {
    fn run(&self, folder: &Path) -> Result<()> {
        let device = Device::flex();
        let shots = ShotExaminer::open(folder, &device)?;
        let faces = FaceExaminer::open(folder, &device)?;

        say(&format!(
            "read as it was drawn, of {} held-out pictures",
            self.pictures
        ))?;
        say(&row("", &ATTRIBUTES))?;
        for condition in Condition::ALL {
            let shares = measure_shots(&shots, self.pictures, condition).map(percent);
            say(&row(name(condition), &shares.each_ref().map(|s| &**s)))?;
        }

        say(&format!(
            "\nfound among {CROWD} held-out characters of the same sex, {REFERENCES} references of each, {} pictures",
            self.queries * CROWD as u64
        ))?;
        say(&row("", &["women", "mean rank", "men", "mean rank"]))?;
        for condition in Condition::ALL {
            let mut cells = vec![];
            for &sex in Sex::ALL {
                let found = measure_faces(&faces, sex, self.queries, condition);
                cells.extend([percent(found.first), format!("{:.2}", found.mean_rank)]);
            }
            let cells: Vec<&str> = cells.iter().map(|cell| &**cell).collect();
            say(&row(name(condition), &cells))?;
        }
        Ok(())
    }
}

/// Writes a line to standard output.
fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn name(condition: Condition) -> &'static str {
    match condition {
        Condition::Drawn => "as drawn",
        Condition::Blurred => "halved and enlarged",
        Condition::Worn => "roughened",
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A line of a table.
fn row(name: &str, cells: &[&str]) -> String {
    let mut line = format!("{name:<20}");
    for cell in cells {
        let _ = write!(line, "{cell:>11}");
    }
    line
}

impl Judge {
    fn run(&self, folder: &Path) -> Result<()> {
        let pictures = Picture::all(&self.pictures)?;
        let images: Vec<RgbImage> = pictures.iter().map(|one| one.image.clone()).collect();
        let device = Device::flex();
        let shots = ShotExaminer::open(folder, &device)?;
        let mut right = [0; ATTRIBUTES.len()];
        for (picture, reading) in pictures.iter().zip(shots.read(&images)) {
            let asked = &picture.caption;
            let agrees = reading.agrees(asked.sex, &asked.shot(0));
            for (right, agrees) in right.iter_mut().zip(agrees) {
                *right += usize::from(agrees);
            }
            let (wanted, seen) = (asked.expression, reading.expression);
            if self.misread && seen.value != wanted {
                say(&format!(
                    "{}: {wanted:?} read as {:?}, {}, {:?}, {:?}",
                    picture.name,
                    seen.value,
                    percent(seen.probability.into()),
                    asked.angle,
                    asked.lighting
                ))?;
            }
        }
        say(&format!(
            "of {} pictures, read as their captions ask",
            pictures.len()
        ))?;
        for (attribute, right) in ATTRIBUTES.iter().zip(right) {
            let share = percent(right as f64 / pictures.len() as f64);
            say(&row(attribute, &[&share]))?;
        }

        let Some(number) = self.character else {
            return Ok(());
        };
        let faces = FaceExaminer::open(folder, &device)?;
        let sought = Character::from_seed(number);
        let gallery = gallery(&faces, &crowd(&sought));
        let points = faces.embed(&images);
        let ranks: Vec<usize> = points.iter().map(|one| gallery.rank(one, 0)).collect();
        say(&format!("\nrank of character {number} among {CROWD}"))?;
        for (picture, rank) in pictures.iter().zip(&ranks) {
            say(&row(&picture.name, &[&rank.to_string()]))?;
        }
        let found = Retrieval::of(&ranks);
        say(&row("first", &[&percent(found.first)]))?;
        say(&row("mean rank", &[&format!("{:.2}", found.mean_rank)]))?;
        Ok(())
    }
}

/// A picture of a folder, and what it should show.
struct Picture {
    name: String,
    image: RgbImage,
    caption: Caption,
}

impl Picture {
    /// All pictures of a folder, by name.
    fn all(folder: &Path) -> Result<Vec<Self>> {
        let unreadable = || format!("`{}` cannot be read as a folder", folder.display());
        let mut paths = vec![];
        for entry in fs::read_dir(folder).with_context(unreadable)? {
            let path = entry.with_context(unreadable)?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let ending = ending.map(str::to_ascii_lowercase);
            if matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "webp")) {
                paths.push(path);
            }
        }
        ensure!(
            !paths.is_empty(),
            "`{}` holds no pictures; .png, .jpg or .webp files are expected, each with its caption in a .txt file",
            folder.display()
        );
        paths.sort();
        paths.iter().map(|path| Self::open(path)).collect()
    }

    fn open(path: &Path) -> Result<Self> {
        let image = image::open(path)
            .with_context(|| format!("`{}` cannot be read as a picture", path.display()))?;
        let words = path.with_extension("txt");
        let caption = match fs::read_to_string(&words) {
            Ok(caption) => caption,
            Err(error) => bail!(
                "`{}`: {error}; the caption of `{}` is expected there",
                words.display(),
                path.display()
            ),
        };
        let caption = read(caption.trim())
            .with_context(|| format!("`{}` says nothing to judge by", words.display()))?;
        Ok(Self {
            name: path.file_name().unwrap_or_default().display().to_string(),
            image: image.into_rgb8(),
            caption,
        })
    }
}
