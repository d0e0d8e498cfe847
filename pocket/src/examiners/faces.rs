use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use image::RgbImage;
use sd_kernels::linear;

use super::eyes::{Eyes, FEATURES, read_each, tensor_of};
use super::traits::{KINDS, NUMBERS, kinds, numbers};
use super::wear::wear;
use crate::puppet::{Character, Sex, Shot, TRAINING, draw};
use crate::school::{ExportError, SIZE, Stream, load_module, read_module};

/// Numbers of an embedding.
const WIDTH: usize = 64;
/// Pictures of each character that are compared in training.
const SHOTS: usize = 3;
/// Characters that are compared with each other in training.
const CHARACTERS: usize = 12;

/// The network of a [`FaceExaminer`]: eyes, and a layer that makes the embedding.
#[derive(Module, Debug)]
pub struct FaceModel {
    eyes: Eyes,
    embedding: Linear,
}

impl FaceModel {
    /// A network with random weights.
    pub fn new(device: &Device) -> Self {
        Self {
            eyes: Eyes::new(device),
            embedding: LinearConfig::new(FEATURES, WIDTH).init(device),
        }
    }

    /// # Shapes
    /// - `image`: `[batch, 3, 96, 96]`, values in `[-1, 1]`
    /// - output: `[batch, 64]`, each of length 1
    pub fn forward(&self, image: Tensor<4>) -> Tensor<2> {
        unit(linear(self.eyes.forward(image), &self.embedding))
    }
}

/// A [`FaceModel`] with what helps it to learn: a layer that tells the character's traits.
#[derive(Module, Debug)]
pub struct FacePupil {
    /// The network.
    pub model: FaceModel,
    traits: Linear,
}

impl FacePupil {
    /// A network with random weights.
    pub fn new(device: &Device) -> Self {
        let traits = KINDS.iter().sum::<usize>() + NUMBERS;
        Self {
            model: FaceModel::new(device),
            traits: LinearConfig::new(FEATURES, traits).init(device),
        }
    }
}

/// What a [`FaceModel`] learns from: groups of characters of one sex, each in several shots, roughened. Every second one of a group wears the
/// cut of the one before, so that hair alone does not tell them.
#[derive(Clone, Copy, Debug)]
pub struct FaceTraining {
    /// Seed of the run.
    pub seed: u64,
}

impl FaceTraining {
    /// Samples of a group; a batch's parts are groups.
    pub const GROUP: usize = SHOTS * CHARACTERS;

    /// The loss over one group of samples.
    ///
    /// How badly each picture finds the middle of its character's other pictures among those of all characters of the group (Wan et al. 2018,
    /// softmax variant, with a fixed scale of 16); and how badly the traits are told.
    ///
    /// # Panics
    /// If the samples are not [`FaceTraining::GROUP`].
    pub fn loss(&self, pupil: &FacePupil, samples: Range<u64>, device: &Device) -> Tensor<1> {
        let group = samples.start / Self::GROUP as u64;
        assert!(
            samples.end - samples.start == Self::GROUP as u64
                && samples.start.is_multiple_of(Self::GROUP as u64),
            "samples {samples:?}: a group of {} is expected",
            Self::GROUP
        );
        let characters = self.group(group);
        let pictures: Vec<RgbImage> = samples
            .map(|number| {
                let character = &characters[number as usize % Self::GROUP / SHOTS];
                let mut random = Stream::new(self.seed, number, "face");
                let shot = Shot::random(random.word());
                wear(&draw(character, &shot, SIZE as u32), &mut random)
            })
            .collect();
        let features = pupil.model.eyes.forward(tensor_of(&pictures, device));
        let embedding = unit(linear(features.clone(), &pupil.model.embedding));
        found(embedding) + told(linear(features, &pupil.traits), &characters)
    }

    /// Characters of one sex.
    fn group(&self, number: u64) -> Vec<Character> {
        let mut random = Stream::new(self.seed, number, "group");
        let sex = Sex::ALL[random.below(Sex::ALL.len())];
        let mut group: Vec<Character> = Vec::with_capacity(CHARACTERS);
        while group.len() < CHARACTERS {
            let seed = TRAINING.start + (random.word() >> 24);
            let character = Character::with_sex(seed, sex);
            let like = group.last().filter(|_| group.len() % 2 == 1);
            if like.is_none_or(|before| before.hair.cut == character.hair.cut) {
                group.push(character);
            }
        }
        group
    }
}

/// The cross-entropy with which each picture finds its character.
///
/// # Shapes
/// - `embedding`: `[characters · shots, width]`, one character's shots after the other
fn found(embedding: Tensor<2>) -> Tensor<1> {
    const SCALE: f32 = 16.0;
    let [pictures, width] = embedding.dims();
    let device = embedding.device();
    let sums = embedding
        .clone()
        .reshape([CHARACTERS, SHOTS, width])
        .sum_dim(1);
    let others = sums.clone().repeat_dim(1, SHOTS);
    let others = unit(others.reshape([pictures, width]) - embedding.clone());
    let own = (embedding.clone() * others).sum_dim(1);
    let all = embedding.matmul(unit(sums.reshape([CHARACTERS, width])).transpose());

    let is_own: Vec<f32> = (0..pictures * CHARACTERS)
        .map(|place| f32::from(u8::from(place / CHARACTERS / SHOTS == place % CHARACTERS)))
        .collect();
    let is_own = TensorData::new(is_own, [pictures, CHARACTERS]);
    let is_own = Tensor::<2>::from_data(is_own, &device);
    // A picture's own character is the middle of its other pictures.
    let similarity = all * (1.0 - is_own.clone()) + own * is_own.clone();
    let logarithms = log_softmax(similarity * SCALE, 1);
    -(logarithms * is_own).sum() / pictures as f32
}

/// How badly the traits are told: cross-entropy of those that are kinds, squared error of those that are numbers.
fn told(output: Tensor<2>, characters: &[Character]) -> Tensor<1> {
    let [pictures, width] = output.dims();
    let device = output.device();
    let shots = pictures / characters.len();
    let each = |character| std::iter::repeat_n(character, shots);
    let wanted: Vec<f32> = (characters.iter().flat_map(each))
        .flat_map(numbers)
        .collect();
    let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [pictures, NUMBERS]), &device);
    let told = output.clone().slice([0..pictures, width - NUMBERS..width]);
    let mut loss = (told - wanted).square().mean() * 3.0;
    let mut start = 0;
    for (index, count) in KINDS.into_iter().enumerate() {
        let logits = output.clone().slice([0..pictures, start..start + count]);
        start += count;
        let wanted: Vec<i64> = (characters.iter().flat_map(each))
            .map(|character| kinds(character)[index] as i64)
            .collect();
        let wanted = TensorData::new(wanted, [pictures, 1]);
        let wanted = Tensor::<2, Int>::from_data(wanted, &device);
        loss = loss - log_softmax(logits, 1).gather(1, wanted).mean() * 0.3;
    }
    loss
}

/// Rows of length 1.
fn unit(rows: Tensor<2>) -> Tensor<2> {
    let length = (rows.clone().square().sum_dim(1) + 1e-8).sqrt();
    rows / length
}

/// A point of the unit sphere that stands for a face: near to the same character's, far from others'.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Its coordinates.
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// The cosine of the angle between two, -1 to 1.
    pub fn similarity(&self, other: &Self) -> f32 {
        self.0.iter().zip(&other.0).map(|(a, b)| a * b).sum()
    }

    /// The middle of several, on the sphere again.
    fn middle(several: &[Self]) -> Self {
        let mut sum = vec![0.0; several.first().map_or(0, |first| first.0.len())];
        for one in several {
            for (sum, value) in sum.iter_mut().zip(&one.0) {
                *sum += value;
            }
        }
        let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        Self(sum.iter().map(|value| value / length.max(1e-6)).collect())
    }
}

/// Tells characters from each other, whatever the shot.
#[derive(Clone, Debug)]
pub struct FaceExaminer {
    model: FaceModel,
    device: Device,
}

impl FaceExaminer {
    /// What its file is called in an examiners' folder.
    pub const FILE: &str = "faces.safetensors";

    /// An examiner with this network.
    pub fn new(model: FaceModel, device: &Device) -> Self {
        Self {
            model,
            device: device.clone(),
        }
    }

    /// Opens the examiner of a folder.
    ///
    /// # Errors
    /// If its file cannot be read or is none of this network.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, ExportError> {
        let path = folder.join(Self::FILE);
        let model = load_module(FaceModel::new(device), &path, |name| Some(name.into()))?;
        Ok(Self::new(model, device))
    }

    /// Opens an examiner that is embedded in a program.
    ///
    /// # Errors
    /// If the bytes are no file of this network.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, ExportError> {
        let name = Path::new(Self::FILE);
        let model = read_module(FaceModel::new(device), bytes, name, |name| {
            Some(name.into())
        })?;
        Ok(Self::new(model, device))
    }

    /// The points of pictures. Those that are not 96 pixels wide and high are resized.
    pub fn embed(&self, pictures: &[RgbImage]) -> Vec<Embedding> {
        let rows = read_each(pictures, &self.device, |image| self.model.forward(image));
        rows.into_iter().map(Embedding).collect()
    }
}

/// Characters that a picture may show, each known from reference pictures.
#[derive(Clone, Debug)]
pub struct Gallery {
    middles: Vec<Embedding>,
}

impl Gallery {
    /// A gallery of the reference pictures of each character.
    pub fn new(references: &[Vec<Embedding>]) -> Self {
        let middle = |several: &Vec<Embedding>| Embedding::middle(several);
        Self {
            middles: references.iter().map(middle).collect(),
        }
    }

    /// How many characters there are.
    pub fn len(&self) -> usize {
        self.middles.len()
    }

    /// Whether there is no character.
    pub fn is_empty(&self) -> bool {
        self.middles.is_empty()
    }

    /// How like each character's references a picture is, -1 to 1.
    pub fn similarities(&self, picture: &Embedding) -> Vec<f32> {
        let similarity = |middle: &Embedding| middle.similarity(picture);
        self.middles.iter().map(similarity).collect()
    }

    /// The place of a character among all when they are put in the order of likeness: 1 if none other is as like.
    ///
    /// # Panics
    /// If there is no such character.
    pub fn rank(&self, picture: &Embedding, character: usize) -> usize {
        let similarities = self.similarities(picture);
        let own = similarities[character];
        let as_like = |(other, &similarity): (usize, &f32)| other != character && similarity >= own;
        1 + similarities
            .iter()
            .enumerate()
            .filter(|&other| as_like(other))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parity::device;

    fn point(degrees: f32) -> Embedding {
        let radians = degrees.to_radians();
        Embedding(vec![radians.cos(), radians.sin()])
    }

    #[test]
    fn a_rank_counts_those_that_are_as_like() {
        let known = [[0.0, 20.0], [80.0, 100.0], [80.0, 100.0]];
        let known = known.map(|angles| angles.map(point).to_vec());
        let gallery = Gallery::new(&known);
        assert_eq!((gallery.len(), gallery.is_empty()), (3, false));
        let near = gallery.similarities(&point(10.0));
        assert!((near[0] - 1.0).abs() < 1e-6, "{near:?}");
        assert_eq!(gallery.rank(&point(30.0), 0), 1);
        // Two that cannot be told apart are both behind the other.
        assert_eq!(gallery.rank(&point(85.0), 1), 2);
        assert_eq!(gallery.rank(&point(85.0), 0), 3);
    }

    #[test]
    fn a_group_has_one_sex_and_pairs_of_one_cut() {
        for number in 0..20 {
            let group = FaceTraining { seed: 5 }.group(number);
            assert_eq!(group.len(), CHARACTERS);
            assert!(group.iter().all(|c| TRAINING.contains(&c.seed)));
            assert!(group.iter().all(|c| c.sex == group[0].sex));
            let pairs = group.as_chunks::<2>().0;
            assert!(pairs.iter().all(|[a, b]| a.hair.cut == b.hair.cut));
        }
    }

    #[test]
    fn a_picture_is_found_by_its_characters_other_pictures() {
        // Points that are the same for one character and at right angles to all others.
        let apart: Vec<f32> = (0..CHARACTERS * SHOTS)
            .flat_map(|row| (0..CHARACTERS).map(move |at| f32::from(u8::from(row / SHOTS == at))))
            .collect();
        let apart = TensorData::new(apart, [CHARACTERS * SHOTS, CHARACTERS]);
        let apart = Tensor::<2>::from_data(apart, &device());
        let loss: f32 = found(apart.clone()).into_scalar();
        assert!(loss < 1e-4, "{loss}");
        // The same points, each given to the next picture's character.
        let astray = apart.reshape([CHARACTERS, SHOTS, CHARACTERS]);
        let astray = astray
            .swap_dims(0, 1)
            .reshape([CHARACTERS * SHOTS, CHARACTERS]);
        let loss: f32 = found(astray).into_scalar();
        assert!(loss > 2.0, "{loss}");
    }
}
