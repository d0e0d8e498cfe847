//! `prompts.txt`: what every prompt of a character is made of.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::LibraryError;

/// What holds a face together from scene to scene, by the recipe.
const ANCHORS: &str = "identical face, same hairstyle, consistent features, same eyes, same person";
/// What it is drawn away from.
const NEGATIVE: &str = "different person, character change, inconsistent face, different hairstyle, changed features, face morphing, \
                        extra limbs, deformed, blurry, low quality";
/// One prompt for the three expressions.
const PORTRAIT: &str = "portrait of a {class}, {expression}, front view, looking at the camera, plain grey background, soft studio light";
/// Five scenes that differ in place, light, angle, expression and dress.
const SCENES: [&str; 5] = [
    "portrait of a {class}, front view, neutral expression, white shirt, plain background, soft studio light",
    "a {class} reading under a tree in a park, three-quarter view, smiling, green sweater, warm golden light",
    "a {class} in a city street at night, surprised expression, leather jacket, neon light",
    "a {class} at a table in a cafe, three-quarter view, serious expression, red dress shirt, window light from the side",
    "a {class} on a beach, laughing, seen from slightly below, striped shirt, bright daylight",
];
/// Scenes at most: as many columns as can be looked at side by side.
const MOST_SCENES: usize = 12;

/// One of the three faces that a character's folder shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expression {
    /// `neutral.png`
    Neutral,
    /// `angry.png`
    Angry,
    /// `smile.png`
    Smile,
}

impl Expression {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Neutral, Self::Angry, Self::Smile];

    /// The picture's name, without its ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neutral => "neutral",
            Self::Angry => "angry",
            Self::Smile => "smile",
        }
    }

    /// In the words of a prompt.
    pub fn words(self) -> &'static str {
        match self {
            Self::Neutral => "neutral expression",
            Self::Angry => "angry expression",
            Self::Smile => "smiling",
        }
    }
}

/// What every prompt of a character is made of.
///
/// In `portrait` and `scenes` `{class}` stands for what the character is ("woman"), and in `portrait` `{expression}` for one of the three.
///
/// ```
/// use character_library::Prompts;
///
/// let prompts = Prompts::recipe("mychar001", 1.3);
/// let scene = "a {class} under a tree";
/// assert!(prompts.with_character(scene, "woman").starts_with("(mychar001:1.3), a woman under a tree, identical face,"));
/// assert!(prompts.without_character(scene, "woman").starts_with("a woman under a tree, identical face,"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// The trigger word with its weight, `(mychar001:1.3)`.
    pub trigger: String,
    /// What stands at every prompt's end; may be empty.
    pub anchors: String,
    /// What is not to be seen; may be empty.
    pub negative: String,
    /// The prompt of the three expressions.
    pub portrait: String,
    /// The scenes that a character is verified in.
    pub scenes: Vec<String>,
}

impl Prompts {
    /// The recipe's prompts: the trigger at some weight, anchors, negatives, and five scenes.
    pub fn recipe(trigger: &str, weight: f64) -> Self {
        Self {
            trigger: match weight {
                1.0 => trigger.to_owned(),
                weight => format!("({trigger}:{weight})"),
            },
            anchors: ANCHORS.into(),
            negative: NEGATIVE.into(),
            portrait: PORTRAIT.into(),
            scenes: SCENES.map(str::to_owned).into(),
        }
    }

    /// Reads `prompts.txt`.
    ///
    /// # Errors
    /// If it cannot be read, or has a line that is not understood; if a part is missing or given twice.
    pub fn open(path: &Path) -> Result<Self, LibraryError> {
        let text = fs::read_to_string(path).map_err(|source| LibraryError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, LibraryError> {
        let wrong = |line: usize, text: &str, reason: &str| LibraryError::Settings {
            path: path.to_path_buf(),
            line,
            text: text.trim().into(),
            reason: reason.into(),
        };
        let mut once: [(&str, Option<String>); 4] =
            ["trigger", "anchors", "negative", "portrait"].map(|key| (key, None));
        let mut scenes = vec![];
        let (mut last, mut last_text) = (1, "");
        for (number, line) in text.lines().enumerate() {
            (last, last_text) = (number + 1, line);
            let trimmed = line.trim().trim_start_matches('\u{feff}');
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let Some((key, value)) = trimmed.split_once(':') else {
                return Err(wrong(
                    last,
                    line,
                    "`key: value` is expected, or a remark behind #",
                ));
            };
            let (key, value) = (key.trim().to_lowercase(), value.trim().to_owned());
            if key == "scene" {
                if value.is_empty() {
                    return Err(wrong(last, line, "a scene in words is expected"));
                }
                scenes.push(value);
                continue;
            }
            let Some((_, place)) = once.iter_mut().find(|(known, _)| *known == key) else {
                let reason = "the keys are trigger, anchors, negative, portrait and scene";
                return Err(wrong(last, line, reason));
            };
            if place.replace(value).is_some() {
                return Err(wrong(
                    last,
                    line,
                    "this is given twice; keep one of the lines",
                ));
            }
        }
        let missing = once.iter().find(|(_, value)| value.is_none());
        if let Some((key, _)) = missing {
            let reason = format!("the file ends without a line `{key}: …`");
            return Err(wrong(last, last_text, &reason));
        }
        let [trigger, anchors, negative, portrait] =
            once.map(|(_, value)| value.unwrap_or_default());
        let prompts = Self {
            trigger,
            anchors,
            negative,
            portrait,
            scenes,
        };
        match prompts.fault() {
            None => Ok(prompts),
            Some((what, reason)) => Err(wrong(last, &what, &reason)),
        }
    }

    /// What is wrong with them: the part, and what is expected of it.
    pub(crate) fn fault(&self) -> Option<(String, String)> {
        if self.trigger.is_empty() {
            return Some(("trigger:".into(), "the trigger word is expected".into()));
        }
        if !self.portrait.contains("{expression}") {
            let reason = "`{expression}` is expected in it, in whose place each expression is put";
            return Some((format!("portrait: {}", self.portrait), reason.into()));
        }
        if !(1..=MOST_SCENES).contains(&self.scenes.len()) {
            let reason = format!("1 to {MOST_SCENES} scenes are expected, better 5");
            return Some((format!("{} scenes", self.scenes.len()), reason));
        }
        let all = [&self.trigger, &self.anchors, &self.negative, &self.portrait];
        let broken = all
            .into_iter()
            .chain(&self.scenes)
            .find(|text| text.contains(['\n', '\r']));
        broken.map(|text| {
            (
                text.replace(['\n', '\r'], " "),
                "one line is expected".into(),
            )
        })
    }

    /// As the text of `prompts.txt`.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# What every prompt of this character is made of. samecast reads this file; change it as you like.\n\
             # A prompt is: trigger, scene, anchors. {class} stands for what the character is, {expression} for one of the three.\n\n",
        );
        for (key, value) in [
            ("trigger", &self.trigger),
            ("anchors", &self.anchors),
            ("negative", &self.negative),
            ("portrait", &self.portrait),
        ] {
            let _ = writeln!(text, "{}", format!("{key}: {value}").trim_end());
        }
        text.push_str("\n# The scenes that `samecast character verify` draws.\n");
        for scene in &self.scenes {
            let _ = writeln!(text, "scene: {scene}");
        }
        text
    }

    /// A scene with the character in it: trigger, scene, anchors.
    pub fn with_character(&self, scene: &str, class: &str) -> String {
        let scene = filled(scene, class);
        joined([&self.trigger, &scene, &self.anchors])
    }

    /// The same scene without the trigger, which is no word to a model without the LoRA.
    pub fn without_character(&self, scene: &str, class: &str) -> String {
        joined(["", &filled(scene, class), &self.anchors])
    }

    /// The prompt of an expression, as a scene.
    pub fn expression(&self, expression: Expression) -> String {
        self.portrait.replace("{expression}", expression.words())
    }
}

/// A scene's plain words.
pub(crate) fn filled(scene: &str, class: &str) -> String {
    scene.replace("{class}", class)
}

fn joined(parts: [&str; 3]) -> String {
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Prompts, LibraryError> {
        Prompts::parse(text, Path::new("prompts.txt"))
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (weight, trigger) in [(1.3, "(mychar001:1.3)"), (1.0, "mychar001")] {
            let prompts = Prompts::recipe("mychar001", weight);
            assert_eq!(prompts.trigger, trigger);
            assert_eq!(parse(&prompts.to_text()).unwrap(), prompts);
        }
    }

    #[test]
    fn anchors_may_be_empty() {
        let prompts = Prompts {
            anchors: String::new(),
            negative: String::new(),
            ..Prompts::recipe("x9", 1.0)
        };
        assert_eq!(parse(&prompts.to_text()).unwrap(), prompts);
        assert_eq!(prompts.with_character("a {class}", "man"), "x9, a man");
        assert_eq!(prompts.without_character("a {class}", "man"), "a man");
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let good = Prompts::recipe("mychar001", 1.3).to_text();
        for (from, to, told) in [
            ("anchors:", "ankers:", "the keys are trigger, anchors"),
            ("negative:", "anchors:", "given twice"),
            ("negative: ", "negative ", "`key: value` is expected"),
            ("trigger: (mychar001:1.3)", "trigger:", "the trigger word"),
            (
                "{expression}",
                "an expression",
                "`{expression}` is expected",
            ),
            ("scene: ", "# ", "1 to 12 scenes"),
            ("portrait:", "# portrait:", "without a line `portrait: …`"),
        ] {
            let text = good.replace(from, to);
            assert_ne!(text, good, "{from}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(
                error.contains(told) && error.contains("prompts.txt"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z:#\\n {}]{0,80}") {
            let _ = parse(&text);
        }
    }
}
