//! How alike faces are, and how well pictures say what was asked for.

use clip_vision::Fit;
use image::RgbImage;
use sd_pipeline::Clip;

use crate::FaceRegion;

/// Scores pictures against a character's references.
#[derive(Debug)]
pub struct Scorer<'a> {
    clip: &'a Clip,
    face: FaceRegion,
    references: Vec<Vec<f32>>,
}

/// A picture's two embeddings: of its face region, and of all of it.
#[derive(Clone, Debug)]
struct Seen {
    face: Vec<f32>,
    whole: Vec<f32>,
}

/// What pictures are worth together.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// CLIP-I of each picture: the mean cosine of its face region to those of the references, −1 to 1.
    pub likeness: Vec<f64>,
    /// CLIP-T of each picture: the cosine of the whole picture to its scene's words. None without a text encoder.
    pub agreement: Option<Vec<f64>>,
    /// The spread: the mean of 1 − cosine over all pairs of the pictures' face regions; 0 where all are one, or there is one alone.
    pub spread: f64,
}

impl Scores {
    /// Mean CLIP-I.
    pub fn clip_i(&self) -> f64 {
        mean(&self.likeness)
    }

    /// Mean CLIP-T.
    pub fn clip_t(&self) -> Option<f64> {
        self.agreement.as_deref().map(mean)
    }
}

impl<'a> Scorer<'a> {
    /// Looks at the references.
    ///
    /// # Panics
    /// If there is none, or one has no pixels.
    pub fn new(clip: &'a Clip, face: FaceRegion, references: &[RgbImage]) -> Self {
        assert!(!references.is_empty(), "references to compare with");
        Self {
            references: faces(clip, face, references.iter()),
            face,
            clip,
        }
    }

    /// The references' own agreement: the mean over all of them of the mean cosine to all others. 1 where there is one alone.
    pub fn agreement(&self) -> f64 {
        match self.references.len() {
            1 => 1.0,
            _ => 1.0 - spread(&self.references),
        }
    }

    /// How far the references are spread.
    pub fn spread(&self) -> f64 {
        spread(&self.references)
    }

    /// Scores pictures, each with the words of its scene.
    ///
    /// # Panics
    /// If there is no picture, or one has no pixels.
    pub fn score(&self, pictures: &[(&RgbImage, &str)]) -> Scores {
        assert!(!pictures.is_empty(), "pictures to score");
        let (images, texts): (Vec<&RgbImage>, Vec<&str>) = pictures.iter().copied().unzip();
        let face = faces(self.clip, self.face, images.iter().copied());
        let told = self.clip.embed_texts(&texts);
        let whole = match &told {
            Some(_) => self.clip.embed_pictures(&images, Fit::Crop),
            None => face.clone(),
        };
        let seen: Vec<Seen> = (face.into_iter().zip(whole))
            .map(|(face, whole)| Seen { face, whole })
            .collect();
        let likeness = |seen: &Seen| {
            let cosines = self
                .references
                .iter()
                .map(|other| cosine(&seen.face, other));
            cosines.sum::<f64>() / self.references.len() as f64
        };
        let faces: Vec<Vec<f32>> = seen.iter().map(|seen| seen.face.clone()).collect();
        Scores {
            likeness: seen.iter().map(likeness).collect(),
            agreement: told.map(|told| {
                let pairs = seen.iter().zip(&told);
                pairs
                    .map(|(seen, told)| cosine(&seen.whole, told))
                    .collect()
            }),
            spread: spread(&faces),
        }
    }
}

fn faces<'p>(
    clip: &Clip,
    face: FaceRegion,
    pictures: impl Iterator<Item = &'p RgbImage>,
) -> Vec<Vec<f32>> {
    let cut: Vec<RgbImage> = pictures.map(|picture| face.of(picture)).collect();
    let cut: Vec<&RgbImage> = cut.iter().collect();
    clip.embed_pictures(&cut, Fit::Crop)
}

/// The mean of 1 − cosine over all pairs.
fn spread(all: &[Vec<f32>]) -> f64 {
    let (mut sum, mut pairs) = (0.0, 0usize);
    for (at, one) in all.iter().enumerate() {
        for other in &all[..at] {
            sum += 1.0 - cosine(one, other);
            pairs += 1;
        }
    }
    sum / pairs.max(1) as f64
}

/// Of embeddings that have length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;
    use parity::Fixture;

    use super::*;

    fn clip(name: &str) -> Clip {
        let folder = parity::reference().join("clip").join(name);
        Clip::open(folder, FloatDType::F32, &parity::device()).unwrap()
    }

    /// Square pictures, which are those that transformers was given.
    fn pictures() -> Vec<RgbImage> {
        let folder = parity::reference().join("pictures10");
        let read = |name: &str| image::open(folder.join(name)).unwrap().into_rgb8();
        ["01.png", "04.png", "05.png", "06.png"].map(read).into()
    }

    #[test]
    fn scores_are_the_cosines_that_transformers_computes() {
        let fixture = Fixture::open(parity::reference().join("clip/expected.safetensors"));
        let told = std::fs::read(parity::reference().join("clip/expected.json")).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        let first = told["texts"][0].as_str().unwrap();
        for name in ["quick_gelu", "gelu"] {
            let (shape, embeds) = fixture.float(&format!("{name}.image_embeds"));
            let [count, width] = shape else {
                panic!("{shape:?}")
            };
            let theirs: Vec<Vec<f32>> = embeds.chunks(*width).map(<[f32]>::to_vec).collect();
            let pictures = pictures();
            assert_eq!(pictures.len(), *count);
            let clip = clip(name);
            // The first two are the references, the others are scored.
            let scorer = Scorer::new(&clip, FaceRegion::WHOLE, &pictures[..2]);
            let close = |ours: f64, theirs: f64| {
                assert!((ours - theirs).abs() < 1e-5, "{name}: {ours} {theirs}")
            };
            close(scorer.agreement(), cosine(&theirs[0], &theirs[1]));
            let scored: Vec<_> = pictures[2..]
                .iter()
                .map(|picture| (picture, first))
                .collect();
            let scores = scorer.score(&scored);
            for (at, likeness) in scores.likeness.iter().enumerate() {
                let both = [0, 1].map(|reference| cosine(&theirs[2 + at], &theirs[reference]));
                close(*likeness, (both[0] + both[1]) / 2.0);
            }
            let (_, table) = fixture.float(&format!("{name}.cosine"));
            for (at, agreement) in scores.agreement.as_ref().unwrap().iter().enumerate() {
                close(*agreement, table[2 + at].into());
            }
            close(scores.spread, 1.0 - cosine(&theirs[2], &theirs[3]));
        }
    }

    #[test]
    fn a_picture_is_most_like_itself_and_has_no_spread() {
        let clip = clip("gelu");
        let pictures = pictures();
        let scorer = Scorer::new(&clip, FaceRegion::WHOLE, &pictures[..1]);
        let scores = scorer.score(&[(&pictures[0], ""), (&pictures[0], "")]);
        assert!(
            scores.likeness.iter().all(|one| (one - 1.0).abs() < 1e-5),
            "{scores:?}"
        );
        assert!(scores.spread.abs() < 1e-5);
        let other = scorer.score(&[(&pictures[1], ""), (&pictures[2], "")]);
        assert!(other.clip_i() < 0.9999 && other.spread > 1e-4, "{other:?}");
    }

    #[test]
    fn the_face_region_is_what_counts() {
        let clip = clip("gelu");
        let pictures = pictures();
        let mut other = pictures[0].clone();
        let (width, height) = other.dimensions();
        // Everything below the face region changes.
        for (x, y, pixel) in other.enumerate_pixels_mut() {
            if y >= height / 2 {
                *pixel = *pictures[1].get_pixel(width - 1 - x, height - 1 - y);
            }
        }
        let face = FaceRegion::new(0.25, 0.0, 0.5).unwrap();
        let [same, changed] = [face, FaceRegion::WHOLE].map(|face| {
            Scorer::new(&clip, face, &pictures[..1])
                .score(&[(&other, "")])
                .clip_i()
        });
        assert!(
            (same - 1.0).abs() < 1e-5 && changed < 0.9999,
            "{same} {changed}"
        );
    }
}
