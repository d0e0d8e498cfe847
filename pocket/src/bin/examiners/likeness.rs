//! How often the pictures of `character verify` show the right person, and the shot that was asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::Args;
use image::RgbImage;
use samecast_pocket::examiners::{
    ATTRIBUTES, CROWD, FaceExaminer, Retrieval, ShotExaminer, crowd, gallery,
};
use samecast_pocket::puppet::{Character, read};
use serde::Deserialize;

use super::{percent, row, say};

/// Options of `likeness`.
#[derive(Args, Debug)]
pub struct Likeness {
    /// Folders that `samecast demo --character N --out …/N` wrote, each named after its character's number
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
}

/// What `character verify` leaves for scripts, as far as it is needed here.
#[derive(Deserialize)]
struct Episode {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    way: String,
    pictures: Vec<Drawn>,
}

#[derive(Deserialize)]
struct Drawn {
    file: PathBuf,
    prompt: String,
}

/// What was found of the pictures that were drawn in one way.
#[derive(Default)]
struct Found {
    ranks: Vec<usize>,
    right: [usize; ATTRIBUTES.len()],
}

impl Likeness {
    pub fn run(&self, examiners: &Path) -> Result<()> {
        let device = Device::flex();
        let shots = ShotExaminer::open(examiners, &device)?;
        let faces = FaceExaminer::open(examiners, &device)?;
        // The ways in their order, which is that of the letters the sheet gives them.
        let mut ways: Vec<String> = vec![];
        let mut found = BTreeMap::<String, Found>::new();
        for folder in &self.folders {
            let character = character_of(folder)?;
            let gallery = gallery(&faces, &crowd(&character));
            let episode = folder.join("drama-assets/episodes/demo");
            for Row { way, pictures } in open(&episode)?.rows {
                if !ways.contains(&way) {
                    ways.push(way.clone());
                }
                let found = found.entry(way).or_default();
                let images = pictures.iter().map(|drawn| {
                    let path = episode.join(&drawn.file);
                    let image = image::open(&path);
                    Ok(image
                        .with_context(|| format!("`{}` cannot be read", path.display()))?
                        .into_rgb8())
                });
                let images = images.collect::<Result<Vec<RgbImage>>>()?;
                let points = faces.embed(&images);
                found
                    .ranks
                    .extend(points.iter().map(|point| gallery.rank(point, 0)));
                for (drawn, reading) in pictures.iter().zip(shots.read(&images)) {
                    let asked = read(&drawn.prompt).with_context(|| {
                        format!("the prompt of `{}` is no caption", drawn.file.display())
                    })?;
                    let agrees = reading.agrees(asked.sex, &asked.shot(0));
                    for (right, agrees) in found.right.iter_mut().zip(agrees) {
                        *right += usize::from(agrees);
                    }
                }
            }
        }
        let characters = self.folders.len();
        say(&format!(
            "{characters} characters: found as the first among {CROWD} of the same sex, and read as asked for"
        ))?;
        let mut head = vec!["pictures", "first", "mean rank"];
        head.extend(ATTRIBUTES);
        say(&row("", &head))?;
        for way in &ways {
            let Found { ranks, right } = &found[way];
            let retrieval = Retrieval::of(ranks);
            let mut cells = vec![
                ranks.len().to_string(),
                percent(retrieval.first),
                format!("{:.2}", retrieval.mean_rank),
            ];
            cells.extend(right.map(|right| percent(right as f64 / ranks.len() as f64)));
            let cells: Vec<&str> = cells.iter().map(|cell| &**cell).collect();
            say(&row(way, &cells))?;
        }
        Ok(())
    }
}

fn character_of(folder: &Path) -> Result<Character> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.parse().ok());
    let number: u64 = number.with_context(|| {
        format!(
            "`{}`: a folder named after its character's number is expected, as `samecast demo --character 7 --out likeness/7` writes it",
            folder.display()
        )
    })?;
    Ok(Character::from_seed(number))
}

fn open(episode: &Path) -> Result<Episode> {
    let path = episode.join("verify.json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("`{}` cannot be read", path.display()))?;
    let found: Episode = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is no report of `character verify`", path.display()))?;
    let empty = found.rows.iter().any(|row| row.pictures.is_empty());
    ensure!(
        !empty && !found.rows.is_empty(),
        "`{}` tells of no pictures",
        path.display()
    );
    Ok(found)
}
