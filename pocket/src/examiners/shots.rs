use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use image::RgbImage;
use sd_kernels::linear;

use super::eyes::{Eyes, FEATURES, read_each, tensor_of};
use super::wear::wear;
use crate::puppet::{Angle, Expression, Lighting, Outfit, Place, Sex, Shot, draw};
use crate::school::{Example, ExportError, SIZE, Stream, load_module, read_module};

/// What is read from a picture, in the order of [`Reading::agrees`].
pub const ATTRIBUTES: [&str; 6] = ["sex", "angle", "expression", "lighting", "place", "outfit"];

/// How many values each attribute has.
const CHOICES: [usize; 6] = [
    Sex::ALL.len(),
    Angle::ALL.len(),
    Expression::ALL.len(),
    Lighting::ALL.len(),
    Place::ALL.len(),
    Outfit::ALL.len(),
];

/// The network of a [`ShotExaminer`]: eyes and a head for each attribute.
#[derive(Module, Debug)]
pub struct ShotModel {
    eyes: Eyes,
    sex: Linear,
    angle: Linear,
    expression: Linear,
    lighting: Linear,
    place: Linear,
    outfit: Linear,
}

impl ShotModel {
    /// A network with random weights.
    pub fn new(device: &Device) -> Self {
        let head = |choices: usize| LinearConfig::new(FEATURES, choices).init(device);
        let [sex, angle, expression, lighting, place, outfit] = CHOICES.map(head);
        Self {
            eyes: Eyes::new(device),
            sex,
            angle,
            expression,
            lighting,
            place,
            outfit,
        }
    }

    /// The logarithm of each value's probability, for each of [`ATTRIBUTES`].
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, 96, 96]`, values in `[-1, 1]`
    /// - output: six of `[batch, values]`
    pub fn forward(&self, image: Tensor<4>) -> [Tensor<2>; 6] {
        let features = self.eyes.forward(image);
        let heads = [
            &self.sex,
            &self.angle,
            &self.expression,
            &self.lighting,
            &self.place,
            &self.outfit,
        ];
        heads.map(|head| log_softmax(linear(features.clone(), head), 1))
    }
}

/// What a [`ShotModel`] learns from: any character in any shot, roughened.
#[derive(Clone, Copy, Debug)]
pub struct ShotTraining {
    /// Seed of the run.
    pub seed: u64,
}

impl ShotTraining {
    /// The cross-entropy of samples of the run, the sum over the attributes.
    pub fn loss(&self, model: &ShotModel, samples: Range<u64>, device: &Device) -> Tensor<1> {
        let examples: Vec<Example> = samples
            .clone()
            .map(|n| Example::new(self.seed, n))
            .collect();
        let pictures: Vec<RgbImage> = (examples.iter().zip(samples))
            .map(|(example, number)| {
                let picture = draw(&example.character, &example.shot, SIZE as u32);
                wear(&picture, &mut Stream::new(self.seed, number, "wear"))
            })
            .collect();
        let asked: Vec<[usize; 6]> = (examples.iter())
            .map(|example| numbers(example.character.sex, &example.shot))
            .collect();
        let mut sum: Option<Tensor<1>> = None;
        for (index, logarithms) in
            (model.forward(tensor_of(&pictures, device)).into_iter()).enumerate()
        {
            let targets: Vec<i64> = asked.iter().map(|asked| asked[index] as i64).collect();
            let targets = TensorData::new(targets, [asked.len(), 1]);
            let targets = Tensor::<2, Int>::from_data(targets, device);
            let loss = -logarithms.gather(1, targets).mean();
            sum = Some(match sum {
                None => loss,
                Some(sum) => sum + loss,
            });
        }
        sum.expect("there are attributes")
    }
}

/// Reads from a picture what its caption should say.
#[derive(Clone, Debug)]
pub struct ShotExaminer {
    model: ShotModel,
    device: Device,
}

/// A value that was read, and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen<T> {
    /// The most probable value.
    pub value: T,
    /// Its probability, 0 to 1.
    pub probability: f32,
}

/// What was read from a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Man or woman.
    pub sex: Seen<Sex>,
    /// Where the character is seen from.
    pub angle: Seen<Angle>,
    /// What the face shows.
    pub expression: Seen<Expression>,
    /// Where the light comes from.
    pub lighting: Seen<Lighting>,
    /// What lies behind.
    pub place: Seen<Place>,
    /// What the character wears.
    pub outfit: Seen<Outfit>,
}

impl Reading {
    /// Whether each of [`ATTRIBUTES`] was read as it was asked for.
    pub fn agrees(&self, sex: Sex, shot: &Shot) -> [bool; 6] {
        [
            self.sex.value == sex,
            self.angle.value == shot.angle,
            self.expression.value == shot.expression,
            self.lighting.value == shot.lighting,
            self.place.value == shot.place,
            self.outfit.value == shot.outfit,
        ]
    }
}

impl ShotExaminer {
    /// What `shots.safetensors` is called in an examiners' folder.
    pub const FILE: &str = "shots.safetensors";

    /// An examiner with this network.
    pub fn new(model: ShotModel, device: &Device) -> Self {
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
        let model = load_module(ShotModel::new(device), &path, |name| Some(name.into()))?;
        Ok(Self::new(model, device))
    }

    /// Opens an examiner that is embedded in a program.
    ///
    /// # Errors
    /// If the bytes are no file of this network.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, ExportError> {
        let name = Path::new(Self::FILE);
        let model = read_module(ShotModel::new(device), bytes, name, |name| {
            Some(name.into())
        })?;
        Ok(Self::new(model, device))
    }

    /// Reads pictures. Those that are not 96 pixels wide and high are resized.
    pub fn read(&self, pictures: &[RgbImage]) -> Vec<Reading> {
        let rows = read_each(pictures, &self.device, |image| {
            Tensor::cat(self.model.forward(image).to_vec(), 1)
        });
        rows.iter().map(|row| reading(row)).collect()
    }
}

/// Each attribute's value as its place among all of them.
fn numbers(sex: Sex, shot: &Shot) -> [usize; 6] {
    [
        sex as usize,
        shot.angle as usize,
        shot.expression as usize,
        shot.lighting as usize,
        shot.place as usize,
        shot.outfit as usize,
    ]
}

/// What the logarithms of all probabilities, one attribute after the other, say.
fn reading(mut row: &[f32]) -> Reading {
    fn first<T: Copy>(row: &mut &[f32], values: &[T]) -> Seen<T> {
        let (these, rest) = row.split_at(values.len());
        *row = rest;
        let best = (0..these.len()).max_by(|&a, &b| these[a].total_cmp(&these[b]));
        let best = best.expect("an attribute has values");
        Seen {
            value: values[best],
            probability: these[best].exp(),
        }
    }
    let row = &mut row;
    Reading {
        sex: first(row, Sex::ALL),
        angle: first(row, Angle::ALL),
        expression: first(row, Expression::ALL),
        lighting: first(row, Lighting::ALL),
        place: first(row, Place::ALL),
        outfit: first(row, Outfit::ALL),
    }
}
