use serde::{Deserialize, Serialize};

use crate::LibraryError;

/// What makes a character consistent. Each is a field of `character.toml`.
///
/// All numbers of the rule are mean cosines of the face region to the character's reference pictures (CLIP-I):
///
/// - *agreement*: of the references among themselves, each to all others;
/// - *without*: of scenes that the model draws without the LoRA, as of a stranger;
/// - *with*: of the same scenes and seeds with the LoRA.
///
/// The character is consistent if
///
/// 1. `with − without ≥ margin · (agreement − without)`: the LoRA closes that share of the gap between a stranger and the references. Cosines
///    of two strangers' faces are far from 0 and differ from encoder to encoder, so the gap is the measure and no fixed number;
/// 2. `with ≥ share · agreement`;
/// 3. `with − without` is at least `certainty` of its standard errors, over the pairs of pictures of one scene and seed: no luck of the seeds.
///
/// Where the references agree no more than a stranger agrees with them, nothing can be told, and that is not consistent either.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Least share of the gap that the LoRA closes.
    pub margin: f64,
    /// Least share of the references' own agreement.
    pub share: f64,
    /// Least number of standard errors by which the LoRA gains.
    pub certainty: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            margin: 0.5,
            share: 0.6,
            certainty: 2.0,
        }
    }
}

impl Thresholds {
    /// Makes sure that values are in their ranges.
    pub(crate) fn check(&self) -> Result<(), LibraryError> {
        for (key, value, range) in [
            ("margin", self.margin, 0.0..=1.0),
            ("share", self.share, 0.0..=1.0),
            ("certainty", self.certainty, 0.0..=10.0),
        ] {
            if !range.contains(&value) {
                return Err(LibraryError::Value {
                    what: format!("consistency.{key}"),
                    found: value.to_string(),
                    expected: format!("{} to {}", range.start(), range.end()),
                });
            }
        }
        Ok(())
    }
}

/// Whether a character stayed the same, and by what.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether all conditions hold.
    pub consistent: bool,
    /// Mean CLIP-I with the LoRA less that without.
    pub gain: f64,
    /// The share of the gap between a stranger and the references that the LoRA closes; none where there is no gap.
    pub closed: Option<f64>,
    /// CLIP-I with the LoRA as a share of the references' own agreement.
    pub share: f64,
    /// The gain in its standard errors.
    pub certainty: f64,
    /// Why not, one sentence each; empty where it is consistent.
    pub reasons: Vec<String>,
}

/// Judges pictures by the CLIP-I of each, in pairs of one scene and seed without and with the LoRA.
///
/// # Panics
/// If there is no pair, or not one picture without for each with.
pub fn judge(agreement: f64, without: &[f64], with: &[f64], thresholds: &Thresholds) -> Verdict {
    assert!(
        !with.is_empty() && with.len() == without.len(),
        "pairs of pictures"
    );
    let count = with.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let gains: Vec<f64> = with
        .iter()
        .zip(without)
        .map(|(with, without)| with - without)
        .collect();
    let gain = mean(&gains);
    let squares: f64 = gains.iter().map(|one| (one - gain).powi(2)).sum();
    // One pair has no spread, and so no certainty.
    let error = (squares / (count * (count - 1.0).max(0.0))).sqrt();
    let certainty = match error {
        0.0 => gain.signum() * f64::INFINITY,
        error if error.is_finite() => gain / error,
        _ => 0.0,
    };
    let gap = agreement - mean(without);
    let closed = (gap > 0.0).then(|| gain / gap);
    let share = mean(with) / agreement;

    let mut reasons = vec![];
    match closed {
        None => reasons.push(format!(
            "the references agree with each other by {agreement:.3}, no more than a stranger agrees with them ({:.3}): look at the \
             references, or tell where the face is",
            mean(without)
        )),
        Some(closed) if closed < thresholds.margin => reasons.push(format!(
            "it closes {:.0} % of the gap between a stranger and the references, less than {:.0} %",
            100.0 * closed,
            100.0 * thresholds.margin
        )),
        Some(_) => {}
    }
    if share.is_nan() || share < thresholds.share {
        reasons.push(format!(
            "it reaches {:.0} % of the references' own agreement, less than {:.0} %",
            100.0 * share,
            100.0 * thresholds.share
        ));
    }
    if certainty < thresholds.certainty {
        reasons.push(format!(
            "its gain of {gain:.3} is {certainty:.1} standard errors, less than {}: draw more seeds",
            thresholds.certainty
        ));
    }
    Verdict {
        consistent: reasons.is_empty(),
        gain,
        closed,
        share,
        certainty,
        reasons,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRANGER: [f64; 6] = [0.50, 0.53, 0.47, 0.52, 0.49, 0.51];

    fn shifted(by: f64) -> Vec<f64> {
        let wobble = [0.01, -0.02, 0.0, 0.02, -0.01, 0.0];
        STRANGER
            .iter()
            .zip(wobble)
            .map(|(one, w)| one + by + w)
            .collect()
    }

    #[test]
    fn a_likeness_is_told_from_a_stranger_and_from_another_character() {
        let judge = |with: &[f64]| judge(0.8, &STRANGER, with, &Thresholds::default());
        let own = judge(&shifted(0.25));
        assert!(own.consistent, "{own:?}");
        assert!((own.closed.unwrap() - 0.25 / (0.8 - 3.02 / 6.0)).abs() < 1e-9);
        // Another character's LoRA draws one face too, and not this one.
        for by in [0.0, 0.05, -0.1] {
            let other = judge(&shifted(by));
            assert!(!other.consistent && !other.reasons.is_empty(), "{other:?}");
        }
    }

    #[test]
    fn each_condition_can_fail_alone() {
        let only = |agreement, with: &[f64], thresholds| {
            let verdict = judge(agreement, &STRANGER, with, &thresholds);
            assert!(!verdict.consistent);
            let [reason] = verdict.reasons.as_slice() else {
                panic!("{:?}", verdict.reasons);
            };
            reason.clone()
        };
        let lenient = Thresholds {
            margin: 0.0,
            share: 0.0,
            certainty: 0.0,
        };
        let gap = only(
            0.8,
            &shifted(0.1),
            Thresholds {
                margin: 0.5,
                ..lenient
            },
        );
        assert!(gap.contains("of the gap"), "{gap}");
        let share = only(
            0.8,
            &shifted(0.1),
            Thresholds {
                share: 0.9,
                ..lenient
            },
        );
        assert!(share.contains("own agreement"), "{share}");
        let lucky = [0.9, 0.3, 0.9, 0.3, 0.9, 0.3];
        let luck = only(
            0.8,
            &lucky,
            Thresholds {
                certainty: 2.0,
                ..lenient
            },
        );
        assert!(luck.contains("standard errors"), "{luck}");
        let blind = only(0.4, &shifted(0.2), lenient);
        assert!(blind.contains("no more than a stranger"), "{blind}");
    }

    #[test]
    fn one_pair_proves_nothing() {
        let verdict = judge(0.8, &[0.5], &[0.79], &Thresholds::default());
        assert!(!verdict.consistent, "{verdict:?}");
        assert!(verdict.certainty < 2.0);
    }

    proptest! {
        #[test]
        fn more_likeness_is_never_worse(by in -0.3f64..0.3, more in 0.0f64..0.2) {
            let judge = |by| judge(0.8, &STRANGER, &shifted(by), &Thresholds::default()).consistent;
            prop_assert!(!judge(by) || judge(by + more));
        }
    }
}
