//! `samecast character verify`

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::FloatDType;
use character_library::{
    Character, Drawn, FaceRegion, LossLog, Report, Scorer, Subject, Way, contact_sheet, page,
};
use clap::Args;
use image::RgbImage;
use lora_core::Lora;
use sd_pipeline::{Clip, Request, StableDiffusion, WeightsMemory};
use serde_json::{Value, json};

use crate::args::{Common, LoraChoice, Model};
use crate::character::{DrawOptions, ModelOptions, Which, open};
use crate::console::{Console, print};
use crate::failure::{Blame, Failure, wrong};
use crate::generate::{Opening, draw, with_adapters};
use crate::ip_args::IpOptions;
use crate::library::blamed;
use crate::output::{WholeFolder, write_png};
use crate::pocket::Beside;
use crate::portraits::{self, References};
use crate::provenance::{self, Named, Sources, name_of};
use crate::usage::{Stopwatch, memory_note, peak_memory};

/// The file by which a folder is known as one of this command's.
const MARK: &str = "verify.json";
/// Seeds of a scene at most.
const MOST_SEEDS: u64 = 64;

/// Options of `character verify`.
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub draw: DrawOptions,
    /// The CLIP that scores: the folder of a CLIPModel, or of a CLIPVisionModelWithProjection, which gives no CLIP-T
    /// [default: that of character.toml, else clip/ or image_encoder/ in the model's folder]
    #[arg(long, value_name = "DIR")]
    pub clip: Option<PathBuf>,
    /// Where the face is: left edge, upper edge and side of a square, as shares of the middle square [default: that of character.toml]
    #[arg(long, value_name = "LEFT,TOP,SIDE")]
    pub face: Option<FaceRegion>,
    /// Pictures of each scene, with seeds that follow each other from --seed on
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    pub seeds: u64,
    /// The folder for pictures, sheet and page [default: episodes/NAME-verify in the library]
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace a folder that an earlier verification wrote
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub ip: IpOptions,
}

/// `samecast character verify`
pub fn run(args: &Verify, common: &Common) -> Result<Value, Failure> {
    let console = Console::new(common.quiet);
    let (library, character) = open(&args.which)?;
    if !(1..=MOST_SEEDS).contains(&args.seeds) || args.draw.seed.checked_add(args.seeds).is_none() {
        return wrong(format!(
            "--seeds is {} from --seed {} on; 1 to {MOST_SEEDS} seeds are expected",
            args.seeds, args.draw.seed
        ));
    }
    let model_args = args.model.model_of(&character, &library)?;
    let choice = args.draw.lora_of(&character)?;
    let clip_folder = clip_of(args, &character, &model_args)?;
    let request = args.draw.request(&character)?;
    let references = character.references().map_err(blamed)?;
    let ip = with_reference(&args.ip, &references);
    let default = library.episode(&format!("{}-verify", character.name));
    let target = args.out.clone().unwrap_or(default);
    let folder = WholeFolder::begin(&target, MARK, args.force)?;
    let seeds: Vec<u64> = (0..args.seeds).map(|at| args.draw.seed + at).collect();

    let lora = Lora::open(&choice.file).input()?;
    let device = common.device.open()?;
    let dtype = common.precision.on(&device)?;
    let mut watch = Stopwatch::start();
    // A CLIP that cannot be used is told of before the drawing, and its memory given back.
    drop(
        Clip::open(&clip_folder, FloatDType::F32, &device)
            .context("--clip")
            .input()?,
    );
    let adapters = References::open(&ip, dtype, &device, &console)?;
    let opening = Opening::begin(&model_args, common.precision, dtype, &device, &console)?;
    let made = adapters.draw(&opening.layers, dtype, &device, &console)?;
    opening.check_memory(&request, WeightsMemory::to_draw)?;
    let (base, hash) = opening.load()?;
    let with_reference = match made.prompts.is_empty() {
        true => None,
        false => Some(with_adapters(base.clone(), &made.adapters)?),
    };

    let scenes = &character.prompts.scenes;
    let bar = console.bar("drawing", 0);
    let ways: Vec<Way> = (Way::ALL.into_iter())
        .filter(|way| with_reference.is_some() || !way.has_reference())
        .collect();
    let whole = ways.len() * scenes.len() * seeds.len();
    let mut drawn: Vec<(Drawn, Vec<Request>)> = vec![];
    for way in &ways {
        let mut model: StableDiffusion = match (&with_reference, way.has_reference()) {
            (Some(model), true) => model.clone(),
            _ => base.clone(),
        };
        if way.has_lora() {
            model = model.with_lora(&lora, choice.scale).input()?;
        }
        let mut of_way = Drawn {
            way: *way,
            pictures: vec![],
        };
        let mut requests = vec![];
        for scene in scenes {
            let class = &character.settings.class;
            let prompt = match way.has_lora() {
                true => character.prompts.with_character(scene, class),
                false => character.prompts.without_character(scene, class),
            };
            for &seed in &seeds {
                let request = Request {
                    prompt: prompt.clone(),
                    seed,
                    image_prompts: match way.has_reference() {
                        true => made.prompts.clone(),
                        false => vec![],
                    },
                    ..request.clone()
                };
                let done_before = drawn.len() * scenes.len() * seeds.len() + of_way.pictures.len();
                let pictures = draw(&model, &request, |done, of| {
                    bar.set_length((whole * of) as u64);
                    bar.set_position((done_before * of + done) as u64);
                })?;
                of_way.pictures.extend(pictures.pictures);
                requests.push(request);
            }
        }
        drawn.push((of_way, requests));
    }
    bar.finish_and_clear();
    drop((base, with_reference));
    let drawing = watch.lap();

    let clip = Clip::open(&clip_folder, FloatDType::F32, &device)
        .context("--clip")
        .input()?;
    let face = args.face.unwrap_or(character.settings.face);
    let pictures: Vec<RgbImage> = references
        .iter()
        .map(|(_, picture)| picture.clone())
        .collect();
    let scorer = Scorer::new(&clip, face, &pictures);
    let log = character.log_of(&choice.file);
    let subject = Subject {
        name: character.name.clone(),
        class: character.settings.class.clone(),
        model: name_of(&model_args.model),
        lora: name_of(&choice.file),
        clip: name_of(&clip_folder),
        scenes: scenes.clone(),
        seeds: seeds.clone(),
        face,
        thresholds: character.settings.consistency,
        losses: match log.is_file() {
            true => Some(LossLog::open(&log).map_err(blamed)?),
            false => None,
        },
    };
    let (drawn, requests): (Vec<Drawn>, Vec<Vec<Request>>) = drawn.into_iter().unzip();
    let report = Report::new(subject, pictures, drawn, &scorer);
    let scoring = watch.lap();

    let written = Written {
        report: &report,
        requests: &requests,
        model: &model_args,
        choice: &choice,
        ip: &ip,
        hash: hash.join().unwrap_or_default(),
        adapters: made.files,
    };
    let mut told = written.into_folder(&folder.path())?;
    folder.finish()?;
    let [sheet, index] = ["sheet.png", "index.html"].map(|name| target.join(name));
    told["folder"] = target.to_string_lossy().into();
    told["sheet"] = sheet.to_string_lossy().into();
    told["page"] = index.to_string_lossy().into();
    told["seconds"] = json!({ "drawing": drawing, "scoring": scoring });
    told["peak_memory_bytes"] = peak_memory().into();

    if !common.json {
        print(table(&report))?;
        print(format_args!("{}\n{}", sheet.display(), index.display()))?;
        if report.verdict.consistent {
            print(format_args!("{}: {}", character.name, report.conclusion()))?;
        }
    }
    console.note(format_args!(
        "drawn in {drawing} s, scored in {scoring} s{}",
        memory_note()
    ));
    match report.verdict.consistent {
        true => Ok(told),
        false => Err(Failure::Found {
            error: anyhow::anyhow!("{}: {}", character.name, report.conclusion()),
            report: told,
        }),
    }
}

/// All that the folder is to hold.
struct Written<'a> {
    report: &'a Report,
    requests: &'a [Vec<Request>],
    model: &'a Model,
    choice: &'a LoraChoice,
    ip: &'a IpOptions,
    hash: Option<String>,
    adapters: Vec<Named>,
}

impl Written<'_> {
    /// Writes pictures, sheet, page and the report for scripts, which it gives back.
    fn into_folder(self, folder: &Path) -> Result<Value, Failure> {
        let report = self.report;
        let subject = &report.subject;
        let none = IpOptions::default();
        let mut rows = vec![];
        for ((drawn, scores), requests) in report.rows.iter().zip(self.requests) {
            let way = drawn.way;
            let sources = Sources {
                model: self.model,
                loras: match way.has_lora() {
                    true => std::slice::from_ref(self.choice),
                    false => &[],
                },
                ip: match way.has_reference() {
                    true => self.ip,
                    false => &none,
                },
                init_image: None,
            };
            let mut hashes = sources.hashes(self.hash.as_deref())?;
            if way.has_reference() {
                hashes.extend(self.adapters.iter().cloned());
            }
            let mut pictures = vec![];
            for (at, (picture, request)) in drawn.pictures.iter().zip(requests).enumerate() {
                let (scene, seed) = (at / subject.seeds.len(), request.seed);
                let name = format!("{}-{}-{seed}.png", way.name(), scene + 1);
                let parameters = provenance::parameters(&sources, request, self.hash.as_deref());
                let record = provenance::record(&sources, request, 0, &hashes).to_string();
                let texts = [
                    ("parameters", parameters.as_str()),
                    ("samecast", record.as_str()),
                ];
                write_png(&folder.join(&name), picture, &texts)?;
                pictures.push(json!({
                    "file": name,
                    "scene": scene + 1,
                    "seed": seed,
                    "prompt": request.prompt,
                    "clip_i": scores.likeness[at],
                    "clip_t": scores.agreement.as_ref().map(|all| all[at]),
                }));
            }
            rows.push(json!({
                "way": way.name(),
                "clip_i": scores.clip_i(),
                "clip_t": scores.clip_t(),
                "spread": scores.spread,
                "pictures": pictures,
            }));
        }
        let verdict = &report.verdict;
        let thresholds = &subject.thresholds;
        let finite = |value: f64| value.is_finite().then_some(value);
        let told = json!({
            "character": subject.name,
            "consistent": verdict.consistent,
            "reasons": verdict.reasons,
            "gain": verdict.gain,
            "closed": verdict.closed,
            "share": finite(verdict.share),
            "certainty": finite(verdict.certainty),
            "thresholds": thresholds,
            "references": {
                "pictures": report.references.len(),
                "agreement": report.agreement,
                "spread": report.reference_spread,
            },
            "face": subject.face,
            "model": self.model.model.to_string_lossy(),
            "lora": { "path": self.choice.file.to_string_lossy(), "scale": self.choice.scale },
            "ip_adapters": portraits::record(self.ip),
            "clip": subject.clip,
            "scenes": subject.words(),
            "seeds": subject.seeds,
            "rows": rows,
        });
        write_png(&folder.join("sheet.png"), &contact_sheet(report), &[])?;
        let html = page(report).work()?;
        let text = serde_json::to_string_pretty(&told).work()? + "\n";
        for (name, text) in [("index.html", html), (MARK, text)] {
            let path = folder.join(name);
            character_library::write_whole(&path, |file| file.write_all(text.as_bytes()))
                .with_context(|| format!("{}: cannot be written", path.display()))
                .work()?;
        }
        Ok(told)
    }
}

/// The CLIP that scores.
fn clip_of(args: &Verify, character: &Character, model: &Model) -> Result<PathBuf, Failure> {
    let own = character.settings.clip.as_ref().map(PathBuf::from);
    let given = args.clip.clone().or(own);
    match given.or_else(|| Beside::of(&model.model).image_encoder) {
        Some(folder) => Ok(folder),
        None => wrong(format!(
            "no CLIP to score with: give the folder of one by --clip, such as clip-vit-large-patch14 or CLIP-ViT-H-14, or name it in {} as `clip`",
            character.folder().join("character.toml").display()
        )),
    }
}

/// The adapters' options, where an adapter that is given no reference takes the character's first picture.
fn with_reference(ip: &IpOptions, references: &[(PathBuf, RgbImage)]) -> IpOptions {
    let mut ip = ip.clone();
    for adapter in &mut ip.adapters {
        if adapter.images.is_empty() && adapter.face.is_none() {
            adapter
                .images
                .extend(references.first().map(|(path, _)| path.clone()));
        }
    }
    ip
}

/// The scores, for people.
fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{:<20} {:>7} {:>7} {:>7}",
        "", "CLIP-I", "CLIP-T", "spread"
    )];
    let mut line = |name: &str, clip_i: f64, clip_t: Option<f64>, spread: f64| {
        let clip_t = clip_t.map_or_else(|| "-".into(), |value| format!("{value:.3}"));
        lines.push(format!(
            "{name:<20} {clip_i:>7.3} {clip_t:>7} {spread:>7.3}"
        ));
    };
    line(
        "references",
        report.agreement,
        None,
        report.reference_spread,
    );
    for (drawn, scores) in &report.rows {
        line(
            drawn.way.title(),
            scores.clip_i(),
            scores.clip_t(),
            scores.spread,
        );
    }
    lines.join("\n")
}
