//! What the recipe says of a folder of pictures.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use lora_trainer::{CaptionSource, Dataset};

use crate::LibraryError;

/// How many pictures a character has, by the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Amount {
    /// Fewer than 15.
    TooFew,
    /// 15 to 29: the least that makes a character.
    Least,
    /// 30 to 79.
    Recommended,
    /// 80 or more.
    Ideal,
}

impl Amount {
    /// Of so many pictures.
    pub fn of(pictures: usize) -> Self {
        match pictures {
            0..15 => Self::TooFew,
            15..30 => Self::Least,
            30..80 => Self::Recommended,
            80.. => Self::Ideal,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooFew => "too few: 15 to 20 are the least, 30 to 50 are recommended",
            Self::Least => "enough to begin with: 30 to 50 are recommended",
            Self::Recommended => "a good number: 80 to 100 are ideal",
            Self::Ideal => "an ideal number",
        })
    }
}

/// What the recipe finds in a folder of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// How many pictures there are.
    pub pictures: usize,
    /// Pictures without a caption: they get the trigger word alone.
    pub without_caption: Vec<PathBuf>,
    /// Pictures whose caption lacks the trigger word: it is put in front.
    pub without_trigger: Vec<PathBuf>,
    /// Pictures whose shorter side is below the training's resolution, with that side in pixels.
    pub small: Vec<(PathBuf, u32)>,
    /// Pictures that are the same file as another, which stands beside.
    pub doubles: Vec<(PathBuf, PathBuf)>,
    /// Files that are neither a picture nor a picture's caption.
    pub ignored: Vec<PathBuf>,
}

impl Findings {
    /// Looks at a folder's names, captions, sizes and bytes; `resolution` is the side that the training cuts pictures to.
    ///
    /// # Errors
    /// If a file cannot be read, or is no picture.
    pub fn of(dataset: &Dataset, resolution: usize) -> Result<Self, LibraryError> {
        let with = |source| {
            let samples = dataset
                .samples
                .iter()
                .filter(move |sample| sample.source == source);
            samples.map(|sample| sample.picture.clone()).collect()
        };
        let mut findings = Self {
            pictures: dataset.samples.len(),
            without_caption: with(CaptionSource::Trigger),
            without_trigger: with(CaptionSource::FileAndTrigger),
            small: vec![],
            doubles: vec![],
            ignored: dataset.ignored.clone(),
        };
        let mut seen: BTreeMap<Vec<u8>, PathBuf> = BTreeMap::new();
        for sample in &dataset.samples {
            let path = &sample.picture;
            let unreadable = |source| LibraryError::Read {
                path: path.clone(),
                source,
            };
            let bytes = fs::read(path).map_err(unreadable)?;
            let picture =
                image::load_from_memory(&bytes).map_err(|source| LibraryError::Picture {
                    path: path.clone(),
                    source,
                })?;
            let short = picture.width().min(picture.height());
            if (short as usize) < resolution {
                findings.small.push((path.clone(), short));
            }
            match seen.get(&bytes) {
                Some(first) => findings.doubles.push((path.clone(), first.clone())),
                None => {
                    seen.insert(bytes, path.clone());
                }
            }
        }
        Ok(findings)
    }

    /// How many pictures there are, by the recipe.
    pub fn amount(&self) -> Amount {
        Amount::of(self.pictures)
    }

    /// One line for each finding, the number of pictures first.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} pictures: {}", self.pictures, self.amount())];
        let mut some = |files: Vec<String>, told: &str| {
            if !files.is_empty() {
                lines.push(format!("{} {told}: {}", files.len(), shortened(&files)));
            }
        };
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let names = |paths: &[PathBuf]| paths.iter().map(name).collect::<Vec<_>>();
        some(
            names(&self.without_caption),
            "without a caption, which get the trigger word alone; say in a .txt file beside each what changes from picture to picture \
             (angle, expression, light, place, clothes)",
        );
        some(
            names(&self.without_trigger),
            "with a caption that lacks the trigger word, which is put in front",
        );
        some(
            self.small
                .iter()
                .map(|(path, side)| format!("{} ({side} pixels)", name(path)))
                .collect(),
            "smaller than the training's resolution, which are enlarged",
        );
        some(
            (self.doubles.iter())
                .map(|(path, first)| format!("{} = {}", name(path), name(first)))
                .collect(),
            "there twice",
        );
        some(
            names(&self.ignored),
            "neither a picture nor a picture's caption, which are left out",
        );
        lines
    }
}

/// The first few of a list.
fn shortened(files: &[String]) -> String {
    let shown = files.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match files.len() {
        0..=3 => shown,
        more => format!("{shown} and {} more", more - 3),
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn the_recipes_numbers() {
        let amounts = [14, 15, 29, 30, 79, 80, 500].map(Amount::of);
        use Amount::{Ideal, Least, Recommended, TooFew};
        assert_eq!(
            amounts,
            [TooFew, Least, Least, Recommended, Recommended, Ideal, Ideal]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let draw = |name: &str, side: u32, grey: u8| {
            let picture = RgbImage::from_pixel(side, side, Rgb([grey; 3]));
            picture.save(dir.path().join(name)).unwrap();
        };
        draw("a.png", 64, 1);
        draw("b.png", 32, 2);
        draw("c.png", 64, 1);
        std::fs::write(dir.path().join("a.txt"), "mychar001, in a park").unwrap();
        std::fs::write(dir.path().join("b.txt"), "in a park").unwrap();
        std::fs::write(dir.path().join("notes.md"), "x").unwrap();
        let dataset = Dataset::open(dir.path(), "mychar001").unwrap();
        let findings = Findings::of(&dataset, 64).unwrap();
        assert_eq!(findings.small, [(dir.path().join("b.png"), 32)]);
        let lines = findings.lines();
        for (line, told) in lines.iter().zip([
            "3 pictures: too few",
            "1 without a caption",
            "1 with a caption that lacks",
            "1 smaller",
            "1 there twice: c.png = a.png",
            "1 neither",
        ]) {
            assert!(line.starts_with(told), "{line}");
        }
        assert_eq!(lines.len(), 6);
    }
}
