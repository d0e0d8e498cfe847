//! `library.toml` and `character.toml`.

use std::fs;
use std::path::{Path, PathBuf};

use lora_trainer::TrainConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::verdict::Thresholds;
use crate::{FaceRegion, LibraryError};

/// What `library.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LibrarySettings {
    /// The model of characters that name none: a path, or a name that the program knows.
    pub model: Option<String>,
}

/// What `character.toml` says. Every part may be left out but the trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The word that calls the character.
    pub trigger: String,
    /// What the character is, which prompts say in place of `{class}`.
    #[serde(default = "person")]
    pub class: String,
    /// The model that the character is trained on and drawn with, where the library's is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A VAE in place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// The CLIP that scores, where it is not beside the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<String>,
    /// Where the face is.
    #[serde(default)]
    pub face: FaceRegion,
    /// How a LoRA is trained. The trigger stays empty: it stands above.
    #[serde(default)]
    pub training: TrainConfig,
    /// How pictures are drawn.
    #[serde(default)]
    pub drawing: Drawing,
    /// What makes the character consistent.
    #[serde(default)]
    pub consistency: Thresholds,
    /// The LoRAs that were trained, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<LoraVersion>,
}

fn person() -> String {
    "person".into()
}

/// How pictures of a character are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drawing {
    /// The sampler's name.
    pub sampler: String,
    /// How it spreads its noise levels: `default` or `karras`.
    pub schedule: String,
    /// Its steps.
    pub steps: usize,
    /// Strength of the guidance by the prompt.
    pub cfg: f64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// CLIP layers from the end, in A1111's count.
    pub clip_skip: usize,
    /// Strength of the LoRA.
    pub lora_scale: f64,
}

impl Default for Drawing {
    fn default() -> Self {
        Self {
            sampler: "dpmpp-2m".into(),
            schedule: "karras".into(),
            steps: 28,
            cfg: 7.0,
            width: 512,
            height: 512,
            clip_skip: 1,
            lora_scale: 0.8,
        }
    }
}

/// A LoRA that was trained, and how it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraVersion {
    /// 1 is the first.
    pub version: u32,
    /// The file, within the character's folder.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What the model is called that it was trained on.
    pub base_model: String,
    /// SHA-256 of that model's UNet, or of the whole where it is a single file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_sha256: Option<String>,
    /// The pictures that it saw.
    pub pictures: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Rank of the factors.
    pub rank: usize,
    /// The factors were scaled by `alpha / rank`.
    pub alpha: f64,
    /// Rank of the factors on 3×3 convolutions, if these were trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv_rank: Option<usize>,
    /// Alpha of those factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv_alpha: Option<f64>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Pictures seen at once.
    pub batch_size: usize,
    /// Side of the pictures in pixels.
    pub resolution: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Mean loss over the last 50 steps.
    pub loss: f32,
}

impl Settings {
    /// The recipe's settings for a trigger word.
    pub fn recipe(trigger: &str) -> Self {
        Self {
            trigger: trigger.into(),
            class: person(),
            model: None,
            vae: None,
            clip: None,
            face: FaceRegion::WHOLE,
            training: TrainConfig::default(),
            drawing: Drawing::default(),
            consistency: Thresholds::default(),
            lora: vec![],
        }
    }

    /// Reads `character.toml`.
    ///
    /// # Errors
    /// If it cannot be read, a line is not understood, or a value is out of its range.
    pub fn open(path: &Path) -> Result<Self, LibraryError> {
        let settings: Self = read_toml(path)?;
        settings.check()?;
        Ok(settings)
    }

    /// Makes sure that values are in their ranges.
    pub(crate) fn check(&self) -> Result<(), LibraryError> {
        check_trigger(&self.trigger)?;
        let trigger = &self.training.trigger;
        if !(trigger.is_empty() || *trigger == self.trigger) {
            return Err(LibraryError::Value {
                what: "training.trigger".into(),
                found: trigger.clone(),
                expected: "nothing: the trigger at the top of character.toml".into(),
            });
        }
        self.train_config().check()?;
        self.consistency.check()
    }

    /// How a LoRA is trained. As on the command line, 0 turns min-SNR weights and the limit of gradients off.
    pub fn train_config(&self) -> TrainConfig {
        let on = |value: Option<f64>| value.filter(|value| *value != 0.0);
        TrainConfig {
            trigger: self.trigger.clone(),
            min_snr_gamma: on(self.training.min_snr_gamma),
            max_grad_norm: on(self.training.max_grad_norm),
            ..self.training.clone()
        }
    }

    /// As the text of a new `character.toml`, with remarks.
    pub(crate) fn to_text(&self, name: &str) -> String {
        let string = |text: &str| toml::Value::String(text.into()).to_string();
        let number = |value: f64| toml::Value::Float(value).to_string();
        let mut text = format!(
            "# {name}. samecast reads this file; change it as you like.\n\
             trigger = {}\n\
             # What the character is: prompts say it in place of {{class}}.\n\
             class = {}\n",
            string(&self.trigger),
            string(&self.class),
        );
        for (key, value, told) in [
            (
                "model",
                &self.model,
                "The model that the character is trained on and drawn with.",
            ),
            ("vae", &self.vae, "A VAE in place of the model's own."),
            ("clip", &self.clip, "The CLIP that scores likeness."),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("# {told}\n{key} = {}\n", string(value)));
            }
        }
        let [left, top, side] = self.face.edges().map(number);
        text.push_str(&format!(
            "# Where the face is that is scored: left edge, upper edge and side of a square, in shares of the picture's middle square.\n\
             # The same in every picture, since there is no face detector: [0.0, 0.0, 1.0] is all of it.\n\
             face = [{left}, {top}, {side}]\n"
        ));
        let training = &self.training;
        let conv_rank = training
            .conv_rank
            .map(|rank| format!("conv_rank = {rank}\n"));
        let conv_alpha = training
            .conv_alpha
            .map(|alpha| format!("conv_alpha = {}\n", number(alpha)));
        let convolutions = [conv_rank, conv_alpha]
            .map(Option::unwrap_or_default)
            .concat();
        text.push_str(&format!(
            "\n# How a LoRA is trained. Steps that are not said are 45 a picture within 1500 to 2500.\n[training]\n{}\
             rank = {}\nalpha = {}\n{convolutions}learning_rate = {}\nbatch_size = {}\nresolution = {}\nseed = {}\n",
            training.steps.map_or(String::new(), |steps| format!("steps = {steps}\n")),
            training.rank,
            number(training.alpha),
            number(training.learning_rate),
            training.batch_size,
            training.resolution,
            training.seed,
        ));
        let drawing = &self.drawing;
        text.push_str(&format!(
            "\n# How pictures of the character are drawn.\n[drawing]\nsampler = {}\nschedule = {}\nsteps = {}\ncfg = {}\nwidth = {}\n\
             height = {}\nclip_skip = {}\nlora_scale = {}\n",
            string(&drawing.sampler),
            string(&drawing.schedule),
            drawing.steps,
            number(drawing.cfg),
            drawing.width,
            drawing.height,
            drawing.clip_skip,
            number(drawing.lora_scale),
        ));
        let thresholds = &self.consistency;
        text.push_str(&format!(
            "\n# What makes the character consistent: see `samecast character verify --help`.\n[consistency]\nmargin = {}\nshare = {}\n\
             certainty = {}\n",
            number(thresholds.margin),
            number(thresholds.share),
            number(thresholds.certainty),
        ));
        text
    }
}

impl LoraVersion {
    /// The lines that `character.toml` is given at its end.
    pub(crate) fn to_text(&self) -> String {
        let all = toml::to_string(self).expect("numbers and texts can be written");
        format!("\n[[lora]]\n{all}")
    }
}

/// A trigger word that prompts and captions can hold.
pub(crate) fn check_trigger(trigger: &str) -> Result<(), LibraryError> {
    let bad = |c: char| c.is_control() || ",()[]:\\{}<>".contains(c);
    if trigger.is_empty() || trigger.trim() != trigger || trigger.contains(bad) {
        return Err(LibraryError::Value {
            what: "trigger".into(),
            found: trigger.into(),
            expected: "a word that the model does not know yet, such as mychar001, without brackets, commas and colons,".into(),
        });
    }
    Ok(())
}

/// Reads a TOML file, and names the line that is wrong.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, LibraryError> {
    let text = fs::read_to_string(path).map_err(|source| LibraryError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    parse_toml(&text, path)
}

pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, LibraryError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let number = before.map_or(0, |before| before.matches('\n').count());
        LibraryError::Settings {
            path: PathBuf::from(path),
            line: number + 1,
            text: text.lines().nth(number).unwrap_or_default().trim().into(),
            reason: error.message().replace('\n', "; "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, LibraryError> {
        let settings: Settings = parse_toml(text, Path::new("character.toml"))?;
        settings.check()?;
        Ok(settings)
    }

    #[test]
    fn what_is_written_is_read_again_with_a_lora_at_its_end() {
        let version = LoraVersion {
            version: 1,
            file: "lora/mira_v1.safetensors".into(),
            sha256: "ab".into(),
            base_model: "tiny \"sd\"".into(),
            base_sha256: None,
            pictures: 30,
            steps: 1500,
            rank: 32,
            alpha: 16.0,
            conv_rank: Some(8),
            conv_alpha: Some(4.0),
            learning_rate: 1e-4,
            batch_size: 2,
            resolution: 512,
            seed: 7,
            loss: 0.125,
        };
        let settings = Settings {
            class: "wo\"man".into(),
            model: Some("a b/c".into()),
            face: FaceRegion::new(0.25, 0.0, 0.5).unwrap(),
            training: TrainConfig {
                steps: Some(90),
                ..TrainConfig::default()
            },
            ..Settings::recipe("mychar001")
        };
        let text = settings.to_text("mira");
        assert_eq!(parse(&text).unwrap(), settings);
        let whole = Settings {
            lora: vec![version.clone(), version.clone()],
            ..settings
        };
        let text = text + &version.to_text() + &version.to_text();
        assert_eq!(parse(&text).unwrap(), whole, "{text}");
    }

    #[test]
    fn a_trigger_is_all_that_must_be_said() {
        assert_eq!(parse("trigger = 'x9'").unwrap(), Settings::recipe("x9"));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        for (text, told) in [
            ("class = 'woman'", "missing field `trigger`"),
            (
                "trigger = 'x9'\n[training]\nrank = 'low'",
                "line 3, `rank = 'low'`",
            ),
            (
                "trigger = 'x9'\n[training]\nranks = 3",
                "unknown field `ranks`",
            ),
            ("trigger = 'x9'\n[training]\nrank = 0", "--rank is 0"),
            (
                "trigger = 'x9'\n[training]\ntrigger = 'y'",
                "training.trigger is",
            ),
            ("trigger = 'a, b'", "trigger is \"a, b\""),
            ("trigger = 'x9'\nface = [0.5, 0.5, 0.9]", "face is"),
            (
                "trigger = 'x9'\n[consistency]\nshare = 2.0",
                "consistency.share is",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
