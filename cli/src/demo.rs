//! `samecast demo`: draws a character, and runs the other commands in a row.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use samecast_pocket::puppet::{
    Angle, Character, Expression, Folder, HELD_OUT, Lighting, Outfit, Place, SIZES, Sex, Shot,
    caption, face_box, shots,
};
use serde_json::{Value, json};

use crate::args::{Cli, Common};
use crate::console::{Console, go_on, print};
use crate::failure::{Blame, Failure, wrong};
use crate::output::{check_parent, is_empty};
use crate::pocket::{self, Beside};

/// The character's name and trigger word.
const NAME: &str = "mira";
const TRIGGER: &str = "mychar001";
/// What a run leaves in its folder.
const PICTURES: &str = "pictures";
const LIBRARY: &str = "drama-assets";
/// The recipe for so small a model: it learns a face faster than Stable Diffusion does, and knows no words but those of its captions.
const TRAIN_STEPS: usize = 400;
const LEARNING_RATE: f64 = 1e-3;
const RANK: usize = 16;
/// So small a model has no attention at its finest level, where the face's details are made: convolutions must learn them.
const CONV_RANK: usize = 16;
const DRAW_STEPS: usize = 20;
/// More guidance makes a face too much of what its words say, and less of its own.
const CFG: f64 = 2.0;
/// Twice what the pocket model's adapters were trained at: the noise that a picture begins with has its own idea of a face, which they must outdo.
const IP_SCALE: f64 = 2.0;

/// Options of `demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// The folder to write
    #[arg(long, short, value_name = "DIR", default_value = "samecast-demo")]
    pub out: PathBuf,
    /// Replace what an earlier demo left in the folder
    #[arg(long)]
    pub force: bool,
    /// Number of the character, below 1000000: the model was trained on none of these
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub character: u64,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Pictures that the character's folder holds
    #[arg(long, default_value_t = 30, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=999))]
    pub pictures: u16,
    /// Steps of the training
    #[arg(long, default_value_t = TRAIN_STEPS)]
    pub steps: usize,
    /// Rank of the LoRA's factors on 3×3 convolutions; 0 leaves these out
    #[arg(long, default_value_t = CONV_RANK, value_name = "RANK")]
    pub conv_rank: usize,
    /// Pictures of each scene in each way
    #[arg(long, default_value_t = 2, value_name = "COUNT")]
    pub seeds: u64,
    /// The model: pocket, which comes along, or another that was trained on the puppet's pictures
    #[arg(long, value_name = "PATH", default_value = pocket::NAME)]
    pub model: PathBuf,
    /// Side of a picture in pixels
    #[arg(long, default_value_t = 96, value_name = "PIXELS")]
    pub size: u32,
    /// Steps of the sampler
    #[arg(long, default_value_t = DRAW_STEPS)]
    pub draw_steps: usize,
    /// The CLIP that scores [default: clip/ or image_encoder/ in the model's folder]
    #[arg(long, value_name = "DIR")]
    pub clip: Option<PathBuf>,
    /// An IP-Adapter for the ways that draw from one reference [default: that of ip_adapter/ in the model's folder]
    #[arg(long, value_name = "FILE")]
    pub ip_adapter: Option<PathBuf>,
    /// The adapter's image encoder [default: image_encoder/ in the model's folder]
    #[arg(long, value_name = "DIR")]
    pub image_encoder: Option<PathBuf>,
}

/// `samecast demo`
pub fn run(args: &Demo, common: &Common) -> Result<Value, Failure> {
    let console = Console::new(common.quiet);
    check(args)?;
    let folder = pocket::path_of(&args.model)?;
    let beside = Beside::of(&folder);
    let adapter = args.ip_adapter.clone().or(beside.ip_adapter);
    let encoder = args
        .image_encoder
        .clone()
        .or_else(|| beside.image_encoder.clone());
    let clip = args.clip.clone().or(beside.image_encoder);
    make_room(&args.out, args.force)?;

    // A character that nobody trained on, as a person's folder of pictures would show it.
    let character = Character::from_seed(args.character);
    let shots = shots(args.pictures.into(), args.seed);
    let pictures = args.out.join(PICTURES);
    console.note(format_args!(
        "drawing {} pictures of character {}",
        shots.len(),
        args.character
    ));
    let drawn = Folder {
        character: &character,
        shots: &shots,
        size: args.size,
        trigger: Some(TRIGGER),
        force: false,
    };
    if let Err(error) = drawn.write(&pictures, |_| go_on()) {
        return match error.is_input() {
            true => Err(error).input(),
            false => Err(error).work(),
        };
    }

    let library = args.out.join(LIBRARY);
    let library = text("out", &library)?;
    let model = text("model", &args.model)?;
    let line = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let of_it = |command: &str| line(&["character", command, NAME, "--library", &library]);

    let mut new = of_it("new");
    new.extend(line(&[
        "--from",
        &text("out", &pictures)?,
        "--trigger",
        TRIGGER,
    ]));
    new.extend(line(&[
        "--class",
        class(&character),
        "--model",
        &model,
        "--face",
        &face(&character, &shots, args.size),
    ]));
    new.extend(line(&[
        "--resolution",
        &args.size.to_string(),
        "--train-steps",
        &args.steps.to_string(),
    ]));
    new.extend(line(&[
        "--learning-rate",
        &LEARNING_RATE.to_string(),
        "--rank",
        &RANK.to_string(),
        "--lora-scale",
        "1",
    ]));
    if args.conv_rank > 0 {
        new.extend(line(&["--conv-rank", &args.conv_rank.to_string()]));
    }
    new.extend(line(&[
        "--steps",
        &args.draw_steps.to_string(),
        "--cfg",
        &CFG.to_string(),
    ]));
    // The captions' own words, and no others.
    new.extend(line(&[
        "--trigger-weight",
        "1",
        "--anchors",
        "",
        "--negative",
        "",
    ]));
    new.extend(line(&["--portrait", &portrait(&character)]));
    for scene in scenes(&character) {
        new.extend(line(&["--scene", &scene]));
    }
    if let Some(clip) = &clip {
        new.extend(line(&["--clip", &text("clip", clip)?]));
    }

    let mut verify = of_it("verify");
    let seed = args.seed.to_string();
    let episode = text("out", &args.out.join(LIBRARY).join("episodes").join("demo"))?;
    verify.extend(line(&[
        "--seeds",
        &args.seeds.to_string(),
        "--seed",
        &seed,
        "--out",
        &episode,
    ]));
    match (&adapter, &encoder) {
        (Some(adapter), Some(encoder)) => {
            let best = portrait_of(&shots);
            let region = face(&character, &shots[best..=best], args.size);
            let reference = args
                .out
                .join(LIBRARY)
                .join("characters")
                .join(NAME)
                .join("reference")
                .join(format!("{:03}.png", best + 1));
            verify.extend(line(&["--ip-adapter", &text("ip-adapter", adapter)?]));
            verify.extend(line(&["--image-encoder", &text("image-encoder", encoder)?]));
            verify.extend(line(&["--ip-image", &text("out", &reference)?]));
            verify.extend(line(&["--ip-region", &region]));
            verify.extend(line(&["--ip-scale", &IP_SCALE.to_string()]));
        }
        _ => console.note(
            "note: the model has no IP-Adapter beside it, so no picture is drawn from a reference",
        ),
    }
    let mut train = of_it("train");
    train.extend(line(&["--seed", &seed]));
    // For a model that predicts velocity, this weight leaves out the most noise, under which the colours of skin and hair are decided.
    train.extend(line(&["--min-snr-gamma", "0"]));
    let mut sheet = of_it("sheet");
    sheet.extend(line(&["--seed", &seed]));

    let commands = [
        (
            "library",
            line(&["library", "init", &library, "--model", &model]),
        ),
        ("new", new),
        ("train", train),
        ("sheet", sheet),
        ("verify", verify),
    ];
    let mut told = json!({ "folder": args.out.to_string_lossy(), "character": args.character });
    for (name, words) in commands {
        console.note(format_args!("$ samecast {}", shown(&words)));
        match run_line(&words, common) {
            Ok(value) => told[name] = value,
            Err(Failure::Found { error, report }) => {
                told[name] = report;
                return Err(Failure::Found {
                    error,
                    report: told,
                });
            }
            Err(failure) => return Err(failure),
        }
    }
    if !common.json {
        print(format_args!("all of it lies in {}", args.out.display()))?;
    }
    Ok(told)
}

/// Runs a command line as if a person had given it, with this command's common options.
fn run_line(words: &[String], common: &Common) -> Result<Value, Failure> {
    let whole: Vec<String> = std::iter::once("samecast".to_owned())
        .chain(words.iter().cloned())
        .collect();
    let mut cli = Cli::read_line(&whole)
        .map_err(|error| Failure::Input(anyhow::anyhow!("{}", crate::args::in_short(&error))))?;
    cli.common = common.clone();
    crate::run(&cli)
}

fn check(args: &Demo) -> Result<(), Failure> {
    if !HELD_OUT.contains(&args.character) {
        return wrong(format!(
            "--character is {}; a number below {} is expected, whom the model was not trained on",
            args.character, HELD_OUT.end
        ));
    }
    if !SIZES.contains(&args.size) || !args.size.is_multiple_of(8) {
        return wrong(format!(
            "--size is {}; a multiple of 8 from {} to {} pixels is expected",
            args.size,
            SIZES.start(),
            SIZES.end()
        ));
    }
    if args.steps == 0 {
        return wrong("--steps is 0; 1 or more is expected");
    }
    Ok(())
}

/// Makes sure that the folder is there and empty. What an earlier demo left is deleted with `force`, and nothing else ever is.
fn make_room(out: &Path, force: bool) -> Result<(), Failure> {
    let told = out.display();
    if out.exists() && !out.is_dir() {
        return wrong(format!(
            "--out {told}: a folder is expected, and this is a file"
        ));
    }
    check_parent(out)?;
    if !is_empty(out)? {
        if !force {
            return wrong(format!(
                "--out {told}: the folder is not empty; --force replaces what an earlier demo left there"
            ));
        }
        let entries = fs::read_dir(out)
            .with_context(|| format!("{told}: cannot be read"))
            .input()?;
        for entry in entries {
            let name = entry
                .with_context(|| format!("{told}: cannot be read"))
                .input()?
                .file_name();
            if name != PICTURES && name != LIBRARY {
                return wrong(format!(
                    "--out {told}: the folder holds {}, which no demo wrote; name another folder",
                    Path::new(&name).display()
                ));
            }
        }
        for old in [PICTURES, LIBRARY].map(|name| out.join(name)) {
            if old.exists() {
                fs::remove_dir_all(&old)
                    .with_context(|| format!("{}: cannot be removed", old.display()))
                    .work()?;
            }
        }
    }
    fs::create_dir_all(out)
        .with_context(|| format!("--out {told}: cannot be made"))
        .input()
}

fn class(character: &Character) -> &'static str {
    match character.sex {
        Sex::Woman => "woman",
        Sex::Man => "man",
    }
}

/// Five scenes that differ in everything that a caption tells, in its words.
fn scenes(character: &Character) -> [String; 5] {
    use {Angle as A, Expression as E, Lighting as L, Outfit as O, Place as P};
    let scenes = [
        (A::Front, E::Smile, L::Natural, P::Park, O::Hoodie),
        (
            A::ThreeQuarterLeft,
            E::Neutral,
            L::Warm,
            P::Cafe,
            O::Sweater,
        ),
        (
            A::ThreeQuarterRight,
            E::Angry,
            L::Dramatic,
            P::Street,
            O::Denim,
        ),
        (A::Front, E::Surprised, L::Natural, P::Beach, O::Stripes),
        (A::ThreeQuarterLeft, E::Smile, L::Night, P::Library, O::Suit),
    ];
    scenes.map(|(angle, expression, lighting, place, outfit)| {
        let shot = Shot {
            angle,
            expression,
            lighting,
            place,
            outfit,
            seed: 0,
        };
        caption(character.sex, &shot, None)
    })
}

/// The prompt of the three expressions, in the captions' words.
fn portrait(character: &Character) -> String {
    format!(
        "a portrait of a {}, front view, {{expression}}, natural light, on a plain grey background, wearing a white shirt",
        class(character)
    )
}

/// The place of the picture that shows the face best: from the front, calm, in plain light, before a backdrop, as far as there is one.
fn portrait_of(shots: &[Shot]) -> usize {
    let suits = |shot: &Shot| {
        let good = [
            4 * usize::from(shot.angle == Angle::Front),
            2 * usize::from(shot.lighting == Lighting::Natural),
            2 * usize::from(shot.place.is_plain()),
            usize::from(shot.expression == Expression::Neutral),
        ];
        good.iter().sum::<usize>()
    };
    // The first of the best.
    let best = (0..shots.len()).rev().max_by_key(|&at| suits(&shots[at]));
    best.unwrap_or(0)
}

/// A square around the face in all pictures, as shares of a picture: the mean of where it is, and a tenth more for the hair.
fn face(character: &Character, shots: &[Shot], size: u32) -> String {
    let whole = f64::from(size);
    let count = shots.len() as f64;
    let (mut x, mut y, mut side) = (0.0, 0.0, 0.0);
    for shot in shots {
        let face = face_box(character, shot, size);
        let half = f64::from(face.side) / 2.0;
        x += (f64::from(face.left) + half) / whole / count;
        y += (f64::from(face.top) + half) / whole / count;
        side += f64::from(face.side) / whole / count;
    }
    let side = (1.1 * side).min(1.0);
    let edge = |center: f64| (center - side / 2.0).clamp(0.0, 1.0 - side);
    // Rounded down, so that the square stays within the picture.
    let short = |value: f64| (value * 1000.0).floor() / 1000.0;
    format!("{},{},{}", short(edge(x)), short(edge(y)), short(side))
}

/// A path as a word of a command line.
fn text(option: &str, path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => wrong(format!(
            "--{option} {}: this path is no text, which the demo's commands need; name another",
            path.display()
        )),
    }
}

/// A command line as a person would type it.
fn shown(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=".contains(c);
    let words = words
        .iter()
        .map(|word| match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use samecast_pocket::puppet::read;

    use super::*;

    #[test]
    fn scenes_and_portraits_are_in_the_captions_words() {
        for seed in 0..4 {
            let character = Character::from_seed(seed);
            for scene in scenes(&character) {
                read(&scene).unwrap_or_else(|error| panic!("{error}"));
            }
            for words in ["neutral expression", "angry expression", "smiling"] {
                let prompt = portrait(&character).replace("{expression}", words);
                read(&prompt).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn the_face_region_holds_the_faces() {
        let character = Character::from_seed(7);
        let shots = shots(30, 1);
        let region: character_library::FaceRegion = face(&character, &shots, 96).parse().unwrap();
        let [left, top, side] = region.edges();
        for shot in &shots {
            let face = face_box(&character, shot, 96);
            let center = |edge: u32| (f64::from(edge) + f64::from(face.side) / 2.0) / 96.0;
            let (x, y) = (center(face.left), center(face.top));
            assert!((left..left + side).contains(&x) && (top..top + side).contains(&y));
        }
        assert!(side > 0.3 && side < 1.0, "{side}");
    }

    #[test]
    fn command_lines_can_be_typed() {
        let words = ["character", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shown(&words), r"character 'a b' 'it'\''s' ''");
    }
}
