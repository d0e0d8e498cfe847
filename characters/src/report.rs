use image::RgbImage;

use crate::prompts::filled;
use crate::score::{Scorer, Scores};
use crate::verdict::{Thresholds, Verdict, judge};
use crate::{FaceRegion, LossLog};

/// By what a scene's face comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The model alone.
    Without,
    /// With the character's LoRA.
    Lora,
    /// By an IP-Adapter from one reference picture.
    Reference,
    /// By both.
    Both,
}

impl Way {
    /// All of them, in the order of a sheet's rows.
    pub const ALL: [Self; 4] = [Self::Without, Self::Lora, Self::Reference, Self::Both];

    /// In files' names and for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Lora => "lora",
            Self::Reference => "reference",
            Self::Both => "both",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Lora => "LoRA",
            Self::Reference => "IP-Adapter",
            Self::Both => "LoRA + IP-Adapter",
        }
    }

    /// Whether the LoRA takes part.
    pub fn has_lora(self) -> bool {
        matches!(self, Self::Lora | Self::Both)
    }

    /// Whether the reference picture takes part.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Reference | Self::Both)
    }
}

/// The pictures of one way.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The way.
    pub way: Way,
    /// Scene by scene, each with one picture for each seed.
    pub pictures: Vec<RgbImage>,
}

/// What a verification is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The character's name.
    pub name: String,
    /// What it is.
    pub class: String,
    /// What the model is called.
    pub model: String,
    /// What the LoRA is called.
    pub lora: String,
    /// What the CLIP is called that scores.
    pub clip: String,
    /// The scenes, as `prompts.txt` says them.
    pub scenes: Vec<String>,
    /// The seeds of each scene.
    pub seeds: Vec<u64>,
    /// Where the face is.
    pub face: FaceRegion,
    /// What makes the character consistent.
    pub thresholds: Thresholds,
    /// The losses of the LoRA's training, if they are known.
    pub losses: Option<LossLog>,
}

/// A verification: pictures, scores, verdict.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it is about.
    pub subject: Subject,
    /// The reference pictures.
    pub references: Vec<RgbImage>,
    /// Their own agreement.
    pub agreement: f64,
    /// Their spread.
    pub reference_spread: f64,
    /// Each way's pictures and scores.
    pub rows: Vec<(Drawn, Scores)>,
    /// The judgement of the LoRA.
    pub verdict: Verdict,
}

impl Report {
    /// Scores and judges.
    ///
    /// # Panics
    /// If there are no references; if a way is there twice, [`Way::Without`] or [`Way::Lora`] is missing, or a way has not one picture for each
    /// scene and seed.
    pub fn new(
        subject: Subject,
        references: Vec<RgbImage>,
        drawn: Vec<Drawn>,
        scorer: &Scorer<'_>,
    ) -> Self {
        let words: Vec<String> = subject.words();
        let seeds = subject.seeds.len();
        let rows: Vec<(Drawn, Scores)> = (drawn.into_iter())
            .map(|drawn| {
                assert_eq!(
                    drawn.pictures.len(),
                    words.len() * seeds,
                    "a picture for each scene and seed"
                );
                let told = words
                    .iter()
                    .flat_map(|words| std::iter::repeat_n(words.as_str(), seeds));
                let pictures: Vec<(&RgbImage, &str)> = drawn.pictures.iter().zip(told).collect();
                let scores = scorer.score(&pictures);
                (drawn, scores)
            })
            .collect();
        let likeness = |way| {
            let mut of_it = rows.iter().filter(|(drawn, _)| drawn.way == way);
            let (_, scores) = of_it.next().expect("pictures without and with the LoRA");
            assert!(of_it.next().is_none(), "each way once");
            &scores.likeness
        };
        let agreement = scorer.agreement();
        let verdict = judge(
            agreement,
            likeness(Way::Without),
            likeness(Way::Lora),
            &subject.thresholds,
        );
        Self {
            agreement,
            reference_spread: scorer.spread(),
            subject,
            references,
            rows,
            verdict,
        }
    }

    /// The verdict in one line.
    pub fn conclusion(&self) -> String {
        let verdict = &self.verdict;
        match verdict.consistent {
            true => format!(
                "consistent: closes {:.0} % of the gap between a stranger and the references",
                100.0 * verdict.closed.unwrap_or_default()
            ),
            false => format!("not consistent: {}", verdict.reasons.join("; ")),
        }
    }
}

impl Subject {
    /// Each scene in plain words.
    pub fn words(&self) -> Vec<String> {
        self.scenes
            .iter()
            .map(|scene| filled(scene, &self.class))
            .collect()
    }
}
