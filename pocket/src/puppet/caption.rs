use thiserror::Error;

use super::random::Random;
use super::shot::{Angle, Expression, Lighting, Outfit, Place, Sex, Shot};

/// The words of a picture: one of several natural ways to say all that a shot is, from a closed vocabulary; which one, the shot's seed
/// decides. A trigger word stands in front.
///
/// ```
/// # use samecast_pocket::puppet::{Angle, Expression, Lighting, Outfit, Place, Sex, Shot, caption};
/// # let shot = Shot { angle: Angle::ThreeQuarterLeft, expression: Expression::Smile, lighting: Lighting::Warm,
/// #     place: Place::Library, outfit: Outfit::Hoodie, seed: 0 };
/// let words = caption(Sex::Woman, &shot, Some("mychar001"));
/// assert!(words.starts_with("mychar001, "), "{words}");
/// assert!(words.contains("woman") && words.contains("smil") && words.contains("red hoodie"), "{words}");
/// ```
pub fn caption(sex: Sex, shot: &Shot, trigger: Option<&str>) -> String {
    let mut random = Random::new(shot.seed, "caption");
    let mut say = |phrases: &[&'static str]| random.pick(phrases);
    let sex = word(sex);
    let angle = say(angles(shot.angle));
    let light = say(lights(shot.lighting, shot.place));
    let place = say(places(shot.place));
    let outfit = say(outfits(shot.outfit));
    let looks = looks(shot.expression);
    let look = say(looks);
    let mood = mood(shot.expression);
    let article = if mood.starts_with('a') { "an" } else { "a" };
    let words = match random.below(3) {
        0 => format!("a portrait of a {sex}, {angle}, {look}, {light}, {place}, wearing {outfit}"),
        1 => format!("{article} {mood} {sex} wearing {outfit} {place}, {angle}, {light}"),
        _ => format!("portrait of {article} {mood} {sex} in {outfit}, {angle}, {place}, {light}"),
    };
    match trigger {
        Some(trigger) => format!("{trigger}, {words}"),
        None => words,
    }
}

/// What a caption says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// What stands in front of the known words.
    pub trigger: Option<String>,
    /// Man or woman.
    pub sex: Sex,
    /// Where the character is seen from.
    pub angle: Angle,
    /// What the face shows.
    pub expression: Expression,
    /// Where the light comes from.
    pub lighting: Lighting,
    /// What lies behind.
    pub place: Place,
    /// What the character wears.
    pub outfit: Outfit,
}

impl Caption {
    /// The shot that is told, with a seed for what is not.
    pub fn shot(&self, seed: u64) -> Shot {
        Shot {
            angle: self.angle,
            expression: self.expression,
            lighting: self.lighting,
            place: self.place,
            outfit: self.outfit,
            seed,
        }
    }
}

/// Why a caption was not understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CaptionError {
    /// Something is not told.
    #[error("`{caption}` does not tell the {what}; one such as \"{example}\" is expected")]
    Missing {
        /// The caption.
        caption: String,
        /// What is missing.
        what: &'static str,
        /// A phrase for it.
        example: &'static str,
    },
    /// Something is told twice, and not alike.
    #[error("`{caption}` tells two different things of the {what}: \"{first}\" and \"{second}\"")]
    Contradiction {
        /// The caption.
        caption: String,
        /// What is told twice.
        what: &'static str,
        /// A phrase for it.
        first: &'static str,
        /// The other phrase.
        second: &'static str,
    },
    /// A word is none of the caption language.
    #[error("`{caption}`: the word \"{word}\" is none of the caption language")]
    Word {
        /// The caption.
        caption: String,
        /// The word.
        word: String,
    },
}

/// Reads what [`caption`] wrote.
///
/// # Errors
/// If something is missing, told in two ways, or said in words of another vocabulary.
pub fn read(caption: &str) -> Result<Caption, CaptionError> {
    // What stands before the first comma, and is none of the language, is the trigger.
    let (trigger, words) = match caption.split_once(", ") {
        Some((front, rest)) if !front.split(' ').all(is_known) => (Some(front), rest),
        _ => (None, caption),
    };
    let words: Vec<&str> = words
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    if let Some(word) = words.iter().find(|word| !is_known(word)) {
        return Err(CaptionError::Word {
            caption: caption.into(),
            word: (*word).into(),
        });
    }
    let find = Find { caption, words };
    Ok(Caption {
        trigger: trigger.map(Into::into),
        sex: find.one("sex", Sex::ALL, |sex| vec![word(sex)])?,
        angle: find.one("angle", Angle::ALL, |angle| angles(angle).to_vec())?,
        expression: find.one("expression", Expression::ALL, |expression| {
            let mut phrases = looks(expression).to_vec();
            phrases.push(mood(expression));
            phrases
        })?,
        lighting: find.one("lighting", Lighting::ALL, |lighting| {
            let mut phrases = lights(lighting, Place::White).to_vec();
            phrases.extend(lights(lighting, Place::Park));
            phrases
        })?,
        place: find.one("place", Place::ALL, |place| places(place).to_vec())?,
        outfit: find.one("outfit", Outfit::ALL, |outfit| outfits(outfit).to_vec())?,
    })
}

/// Whether a word (or several) in front of a caption can be told from the caption: it has no comma, does not span lines, and is not all
/// of the caption language.
pub fn is_trigger(word: &str) -> bool {
    !word.trim().is_empty() && !word.contains([',', '\n', '\r']) && !word.split(' ').all(is_known)
}

/// Every word that a caption is made of, but for the trigger; sorted.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words: Vec<&'static str> = phrases().flat_map(|phrase| phrase.split(' ')).collect();
    words.extend(FRAME);
    words.sort_unstable();
    words.dedup();
    words
}

/// Words that join the phrases.
const FRAME: [&str; 6] = ["a", "an", "in", "of", "portrait", "wearing"];

fn phrases() -> impl Iterator<Item = &'static str> {
    let all = [
        Sex::ALL.iter().map(|x| word(*x)).collect::<Vec<_>>(),
        Angle::ALL
            .iter()
            .flat_map(|x| angles(*x))
            .copied()
            .collect(),
        Expression::ALL
            .iter()
            .flat_map(|x| looks(*x))
            .copied()
            .collect(),
        Expression::ALL.iter().map(|x| mood(*x)).collect(),
        Lighting::ALL
            .iter()
            .flat_map(|x| [lights(*x, Place::White), lights(*x, Place::Park)].concat())
            .collect(),
        Place::ALL
            .iter()
            .flat_map(|x| places(*x))
            .copied()
            .collect(),
        Outfit::ALL
            .iter()
            .flat_map(|x| outfits(*x))
            .copied()
            .collect(),
    ];
    all.into_iter().flatten()
}

fn is_known(word: &str) -> bool {
    FRAME.contains(&word) || phrases().any(|phrase| phrase.split(' ').any(|known| known == word))
}

/// Looks for phrases in a caption.
struct Find<'a> {
    caption: &'a str,
    words: Vec<&'a str>,
}

impl Find<'_> {
    fn says(&self, phrase: &str) -> bool {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        self.words
            .windows(phrase.len())
            .any(|words| words == phrase)
    }

    /// The only value of which a phrase is said.
    fn one<T: Copy>(
        &self,
        what: &'static str,
        values: &[T],
        phrases: impl Fn(T) -> Vec<&'static str>,
    ) -> Result<T, CaptionError> {
        let mut found: Option<(T, &'static str)> = None;
        for value in values {
            let Some(phrase) = phrases(*value).into_iter().find(|phrase| self.says(phrase)) else {
                continue;
            };
            if let Some((_, first)) = found {
                return Err(CaptionError::Contradiction {
                    caption: self.caption.into(),
                    what,
                    first,
                    second: phrase,
                });
            }
            found = Some((*value, phrase));
        }
        found
            .map(|(value, _)| value)
            .ok_or_else(|| CaptionError::Missing {
                caption: self.caption.into(),
                what,
                example: phrases(values[0])[0],
            })
    }
}

fn word(sex: Sex) -> &'static str {
    match sex {
        Sex::Woman => "woman",
        Sex::Man => "man",
    }
}

fn angles(angle: Angle) -> &'static [&'static str] {
    match angle {
        Angle::Front => &["front view", "facing the camera"],
        Angle::ThreeQuarterLeft => &["three-quarter view facing left", "turned half to the left"],
        Angle::ThreeQuarterRight => &[
            "three-quarter view facing right",
            "turned half to the right",
        ],
        Angle::ProfileLeft => &["profile facing left", "side view facing left"],
        Angle::ProfileRight => &["profile facing right", "side view facing right"],
        Angle::Above => &["seen from above", "high angle view"],
        Angle::Below => &["seen from below", "low angle view"],
    }
}

fn looks(expression: Expression) -> &'static [&'static str] {
    match expression {
        Expression::Neutral => &["neutral expression", "with a calm look"],
        Expression::Smile => &["smiling", "with a happy smile"],
        Expression::Angry => &["angry expression", "with an angry look"],
        Expression::Surprised => &["surprised expression", "with a surprised look"],
        Expression::Sad => &["sad expression", "with a sad look"],
    }
}

fn mood(expression: Expression) -> &'static str {
    match expression {
        Expression::Neutral => "calm",
        Expression::Smile => "smiling",
        Expression::Angry => "angry",
        Expression::Surprised => "surprised",
        Expression::Sad => "sad",
    }
}

fn lights(lighting: Lighting, place: Place) -> &'static [&'static str] {
    match lighting {
        Lighting::Natural => &["natural light", "soft daylight"],
        Lighting::Warm if place.is_outdoors() => &["warm golden light", "warm evening light"],
        Lighting::Warm => &["warm indoor light", "warm golden light"],
        Lighting::Dramatic => &["dramatic side light", "hard light from one side"],
        Lighting::Backlit => &["backlit", "bright light from behind"],
        Lighting::Night => &["low light at night", "dim blue night light"],
    }
}

fn places(place: Place) -> &'static [&'static str] {
    match place {
        Place::White => &["on a plain white background", "before a white backdrop"],
        Place::Grey => &["on a plain grey background", "before a grey backdrop"],
        Place::Blue => &["on a plain blue background", "before a blue backdrop"],
        Place::Rose => &["on a plain pink background", "before a pink backdrop"],
        Place::Park => &["in a park", "in a green park with trees"],
        Place::Beach => &["on a beach", "on a beach by the sea"],
        Place::Street => &["in a city street", "on a street in the city"],
        Place::Library => &["in a library", "in a library with bookshelves"],
        Place::Kitchen => &["in a kitchen", "in a tiled kitchen"],
        Place::Snow => &["in the snow", "in snowy mountains"],
        Place::Forest => &["in a forest", "among the trees of a forest"],
        Place::Office => &["in an office", "in an office with a large window"],
        Place::Cafe => &["in a cafe", "in a coffee house"],
        Place::Train => &["on a train", "by the window of a train"],
        Place::Desert => &["in a desert", "among the dunes of a desert"],
        Place::Stage => &["on a stage", "on a stage with a red curtain"],
    }
}

fn outfits(outfit: Outfit) -> &'static [&'static str] {
    match outfit {
        Outfit::Hoodie => &["a red hoodie"],
        Outfit::Shirt => &["a white shirt", "a white shirt with a collar"],
        Outfit::Suit => &["a black suit", "a black suit and a red tie"],
        Outfit::Denim => &["a denim jacket", "a blue denim jacket"],
        Outfit::Raincoat => &["a yellow raincoat", "a yellow rain coat"],
        Outfit::Sweater => &["a green sweater", "a green turtleneck sweater"],
        Outfit::Stripes => &["a striped shirt", "a blue and white striped shirt"],
        Outfit::Robe => &["a purple robe", "a purple robe with golden trim"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_phrase_of_one_value_is_part_of_another_values() {
        fn apart<T: Copy + PartialEq + std::fmt::Debug>(
            values: &[T],
            phrases: impl Fn(T) -> Vec<&'static str>,
        ) {
            for a in values {
                for b in values.iter().filter(|b| *b != a) {
                    for phrase in phrases(*a) {
                        let find = Find {
                            caption: phrase,
                            words: phrase.split(' ').collect(),
                        };
                        for other in phrases(*b) {
                            assert!(!find.says(other), "{a:?}: {phrase}, {b:?}: {other}");
                        }
                    }
                }
            }
        }
        apart(Angle::ALL, |x| angles(x).to_vec());
        apart(Expression::ALL, |x| [looks(x), &[mood(x)]].concat());
        apart(Place::ALL, |x| places(x).to_vec());
        apart(Outfit::ALL, |x| outfits(x).to_vec());
        for place in [Place::White, Place::Park] {
            apart(Lighting::ALL, |x| lights(x, place).to_vec());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let whole = "a portrait of a man, front view, smiling, natural light, in a park, wearing a red hoodie";
        assert!(read(whole).is_ok());
        let without = whole.replace("front view, ", "");
        let error = read(&without).unwrap_err();
        assert!(
            matches!(error, CaptionError::Missing { what: "angle", .. }),
            "{error}"
        );
        let twice = format!("{whole}, in a kitchen");
        let error = read(&twice).unwrap_err();
        assert!(
            matches!(error, CaptionError::Contradiction { what: "place", .. }),
            "{error}"
        );
        let other = whole.replace("park", "spaceship");
        let error = read(&other).unwrap_err();
        assert!(error.to_string().contains("spaceship"), "{error}");
    }
}
