//! The puppet's own program: training folders, contact sheets, captions.

use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use image::{GenericImage, ImageFormat, RgbImage};
use samecast_pocket::puppet::{
    Character, Easel, Folder, Shot, TRAINING, caption, is_trigger, read, shots, vocabulary,
};

/// Draws cartoon portraits of characters, each from its number.
#[derive(Parser, Debug)]
#[command(name = "puppet", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// A training folder of one character: 001.png, its caption in 001.txt, and so on
    #[command(
        after_help = "Example:\n  puppet draw --character 7 --shots 40 --trigger mychar001 pictures/mira"
    )]
    Draw(Draw),
    /// A contact sheet to look at: a row for each character, the same shots in each
    #[command(after_help = "Example:\n  puppet sheet --characters 6 --shots 8 sheet.png")]
    Sheet(Sheet),
    /// The captions of a training folder without its pictures; or what a caption says
    #[command(
        after_help = "Examples:\n  puppet caption --character 7 --shots 5\n  puppet caption --vocabulary\n  \
            puppet caption --read \"a calm man wearing a red hoodie in a park, front view, natural light\""
    )]
    Caption(Caption),
    /// How many pictures a second one core draws
    #[command(after_help = "Example:\n  puppet speed --size 96")]
    Speed(Speed),
}

#[derive(Args, Debug)]
struct Draw {
    /// Number of the character; below 1000000 are those that no model is trained on
    #[arg(long, value_name = "N")]
    character: u64,
    /// How many pictures; 20 to 100 make a good folder
    #[arg(long, default_value_t = 40, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=999))]
    shots: u16,
    #[command(flatten)]
    look: Look,
    /// A word in front of each caption
    #[arg(long, value_name = "WORD", value_parser = trigger)]
    trigger: Option<String>,
    /// Replace pictures that were drawn there before
    #[arg(long)]
    force: bool,
    /// The folder to write
    folder: PathBuf,
}

#[derive(Args, Debug)]
struct Look {
    /// Side of a picture in pixels
    #[arg(long, default_value_t = 96, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(64..=512))]
    size: u32,
    /// Seed of the shots
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Args, Debug)]
struct Sheet {
    /// How many characters
    #[arg(long, default_value_t = 6, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    characters: u32,
    /// Number of the first character
    #[arg(long, default_value_t = 0, value_name = "N")]
    first: u64,
    /// How many shots of each
    #[arg(long, default_value_t = 8, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    shots: u32,
    #[command(flatten)]
    look: Look,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    /// The PNG file to write
    #[arg(value_name = "FILE.png")]
    file: PathBuf,
}

#[derive(Args, Debug)]
struct Caption {
    /// Number of the character
    #[arg(long, default_value_t = 0, value_name = "N")]
    character: u64,
    /// How many captions
    #[arg(long, default_value_t = 40, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=999))]
    shots: u16,
    /// Seed of the shots
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A word in front of each caption
    #[arg(long, value_name = "WORD", value_parser = trigger)]
    trigger: Option<String>,
    /// Say what this caption tells
    #[arg(long, value_name = "CAPTION", conflicts_with_all = ["character", "shots", "seed", "trigger", "vocabulary"])]
    read: Option<String>,
    /// All words of the caption language, one a line
    #[arg(long, conflicts_with_all = ["character", "shots", "seed", "trigger"])]
    vocabulary: bool,
}

#[derive(Args, Debug)]
struct Speed {
    /// Side of a picture in pixels
    #[arg(long, default_value_t = 96, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(64..=512))]
    size: u32,
    /// How many pictures to draw
    #[arg(long, default_value_t = 2000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pictures: u32,
}

/// A word that can be told from the caption behind it.
fn trigger(word: &str) -> Result<String, &'static str> {
    match is_trigger(word) {
        true => Ok(word.into()),
        false => Err(
            "a word such as mychar001 is expected, without a comma, and none that captions are made of",
        ),
    }
}

/// Why the program ends early: the user's inputs (exit status 2), or the work (1).
enum Failure {
    Input(anyhow::Error),
    Work(anyhow::Error),
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Without a handler Ctrl-C stops at once, and leaves a hidden folder beside the output.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst));
    let result = match &cli.command {
        Command::Draw(args) => draw(args),
        Command::Sheet(args) => sheet(args),
        Command::Caption(args) => captions(args),
        Command::Speed(args) => speed(args),
    };
    let (error, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(error)) => (error, 2),
        Err(Failure::Work(error)) => (error, 1),
    };
    let _ = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::from(status)
}

fn draw(args: &Draw) -> Result<(), Failure> {
    let character = Character::from_seed(args.character);
    let shots = shots(args.shots.into(), args.look.seed);
    let folder = Folder {
        character: &character,
        shots: &shots,
        size: args.look.size,
        trigger: args.trigger.as_deref(),
        force: args.force,
    };
    folder
        .write(&args.folder, |_| stop())
        .map_err(|error| match error.is_input() {
            true => Failure::Input(error.into()),
            false => Failure::Work(error.into()),
        })?;
    print(format_args!(
        "{}: {} pictures of character {}",
        args.folder.display(),
        shots.len(),
        args.character
    ))
}

fn sheet(args: &Sheet) -> Result<(), Failure> {
    let size = args.look.size;
    check_file(&args.file, args.force).map_err(Failure::Input)?;
    if args.first.checked_add(args.characters.into()).is_none() {
        let error = anyhow!(
            "--first {}: there are no {} characters from there on",
            args.first,
            args.characters
        );
        return Err(Failure::Input(error));
    }
    let shots = shots(args.shots as usize, args.look.seed);
    let mut sheet = RgbImage::new(args.shots * size, args.characters * size);
    let mut picture = RgbImage::new(size, size);
    let mut easel = Easel::default();
    for row in 0..args.characters {
        let character = Character::from_seed(args.first + u64::from(row));
        for (shot, column) in shots.iter().zip(0..) {
            if stop().is_break() {
                let error = anyhow!("stopped; {} was left as it was", args.file.display());
                return Err(Failure::Work(error));
            }
            easel.draw_into(&character, shot, size, &mut picture);
            sheet
                .copy_from(&picture, column * size, row * size)
                .map_err(|error| Failure::Work(error.into()))?;
        }
    }
    write_whole(&args.file, &sheet)
        .with_context(|| format!("{}: cannot be written", args.file.display()))
        .map_err(Failure::Work)?;
    print(format_args!(
        "{}: {} characters, {} shots of each",
        args.file.display(),
        args.characters,
        args.shots
    ))
}

/// Makes sure that a PNG can be put there, before the work.
fn check_file(file: &Path, force: bool) -> anyhow::Result<()> {
    let name = file.display();
    let png = file
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    anyhow::ensure!(png, "{name}: a name that ends in .png is expected");
    anyhow::ensure!(
        !file.is_dir(),
        "{name}: a file is expected, and this is a folder"
    );
    anyhow::ensure!(
        force || !file.exists(),
        "{name}: the file exists; --force replaces it"
    );
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => Err(anyhow!(
            "{name}: the folder {} does not exist; make it first",
            parent.display()
        )),
        _ => Ok(()),
    }
}

/// Writes a PNG whole or not at all: beside its name first, then renamed.
fn write_whole(file: &Path, picture: &RgbImage) -> anyhow::Result<()> {
    let mut bytes = io::Cursor::new(vec![]);
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let partial = file.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let result = fs::write(&partial, bytes.get_ref()).and_then(|()| fs::rename(&partial, file));
    if result.is_err() {
        // The error that matters is the first; what is left of the file is of no use.
        let _ = fs::remove_file(&partial);
    }
    Ok(result?)
}

fn captions(args: &Caption) -> Result<(), Failure> {
    if let Some(words) = &args.read {
        let told = read(words).map_err(|error| Failure::Input(error.into()))?;
        return print(format_args!("{told:#?}"));
    }
    if args.vocabulary {
        return print(vocabulary().join("\n"));
    }
    let sex = Character::from_seed(args.character).sex;
    for shot in shots(args.shots.into(), args.seed) {
        print(caption(sex, &shot, args.trigger.as_deref()))?;
    }
    Ok(())
}

fn speed(args: &Speed) -> Result<(), Failure> {
    let mut easel = Easel::default();
    let mut picture = RgbImage::new(args.size, args.size);
    let start = Instant::now();
    for seed in 0..u64::from(args.pictures) {
        let character = Character::from_seed(TRAINING.start + seed);
        easel.draw_into(&character, &Shot::random(seed), args.size, &mut picture);
    }
    let each = start.elapsed().as_secs_f64() / f64::from(args.pictures);
    print(format_args!(
        "{:.0} pictures a second at {} pixels on one core ({:.2} ms each)",
        1.0 / each,
        args.size,
        1e3 * each
    ))
}

/// Break where a person pressed Ctrl-C.
fn stop() -> ControlFlow<()> {
    if STOP.load(Ordering::SeqCst) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// A line on standard output. A reader that has heard enough, as `head` does, is no reason to complain.
fn print(line: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Work(anyhow!(
            "standard output: cannot be written: {error}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_sizes_are_those_that_can_be_drawn() {
        assert_eq!(samecast_pocket::puppet::SIZES, 64..=512);
    }
}
