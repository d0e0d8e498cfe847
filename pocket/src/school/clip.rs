use std::ops::Range;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_text::{ClipTextConfig, ClipTextModel, Tokenizer};
use clip_vision::{ClipVisionConfig, ClipVisionModelWithProjection};
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

use super::layout::SIZE;
use super::words::POSITIONS;
use super::{Example, Stream, text_config, token_tensor, with_small_embeddings};
use crate::puppet::{Character, Easel, Shot, caption, face_box};

/// Image encoder and text encoder that see pictures and captions as points in one space (Radford et al. 2021).
#[derive(Module, Debug)]
pub struct Clip {
    /// The image encoder.
    pub vision: ClipVisionModelWithProjection,
    /// The text encoder.
    pub text: ClipTextModel,
    /// From the text encoder's channels to the space.
    pub text_projection: Linear,
}

/// What cosines are multiplied by in the comparison of pictures and captions: 1 / 0.07.
pub const LOGIT_SCALE: f64 = 1.0 / 0.07;

/// What cosines are multiplied by in the comparison of faces.
const FACE_SCALE: f64 = 10.0;

/// Sizes of the image encoder.
pub fn clip_vision_config() -> ClipVisionConfig {
    ClipVisionConfig {
        hidden_size: 96,
        intermediate_size: 256,
        projection_dim: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        image_size: SIZE,
        patch_size: 12,
        hidden_act: clip_vision::HiddenAct::QuickGelu,
        layer_norm_eps: 1e-5,
    }
}

/// Sizes of the text encoder beside it.
pub fn clip_text_config(vocabulary: usize) -> ClipTextConfig {
    ClipTextConfig {
        hidden_size: 64,
        intermediate_size: 128,
        ..text_config(vocabulary)
    }
}

impl Clip {
    /// Both encoders with random weights.
    pub fn new(vocabulary: usize, device: &Device) -> Self {
        let text = clip_text_config(vocabulary);
        with_small_embeddings(Self {
            vision: clip_vision_config().init(device),
            text_projection: LinearConfig::new(
                text.hidden_size,
                clip_vision_config().projection_dim,
            )
            .with_bias(false)
            .init(device),
            text: text.init(device),
        })
    }

    /// Captions as points of length 1, `[batch, projection_dim]`.
    pub fn texts(&self, captions: &[String], tokenizer: &Tokenizer, device: &Device) -> Tensor<2> {
        let rows: Vec<Vec<u32>> = captions
            .iter()
            .map(|words| tokenizer.encode_padded(words))
            .collect();
        // What the text encoder saw of the whole text is where the text ends.
        let ends: Vec<f32> = rows
            .iter()
            .flat_map(|row| {
                let end = row.iter().position(|&token| token == tokenizer.eos());
                (0..POSITIONS).map(move |place| f32::from(Some(place) == end))
            })
            .collect();
        let ends =
            Tensor::<3>::from_data(TensorData::new(ends, [rows.len(), POSITIONS, 1]), device);
        let hidden = self.text.forward(token_tensor(rows.into_iter(), device));
        let pooled = (hidden * ends).sum_dim(1).squeeze_dim::<2>(1);
        normed(self.text_projection.forward(pooled))
    }

    /// Pictures as points of length 1, `[batch, projection_dim]`.
    pub fn pictures(&self, pixels: Tensor<4>) -> Tensor<2> {
        normed(self.vision.forward(pixels).image_embeds)
    }
}

fn normed(points: Tensor<2>) -> Tensor<2> {
    let length = points.clone().square().sum_dim(1).sqrt();
    points / (length + 1e-6)
}

/// What the two encoders learn from: two shots of each of some characters, whole and as faces.
pub struct Comparing {
    /// Seed of the run.
    pub seed: u64,
    /// The words' tokens.
    pub tokenizer: Tokenizer,
}

impl Comparing {
    /// Two losses in one. Each picture is to find its caption among the others' and each caption its picture (Radford et al. 2021). And each
    /// face is to find the other picture of the same character among all (Chen et al. 2020), since captions do not tell who it is.
    pub fn loss(&self, model: &Clip, samples: Range<u64>, device: &Device) -> Tensor<1> {
        let characters = (samples.end - samples.start) as usize;
        let (mut whole, mut faces, mut captions) = (vec![], vec![], vec![]);
        let mut easel = Easel::default();
        let mut picture = RgbImage::new(SIZE as u32, SIZE as u32);
        for number in samples {
            let mut random = Stream::new(self.seed, number, "compare");
            let character = Example::character(&mut random);
            for _ in 0..2 {
                let shot = Shot::random(random.word());
                easel.draw_into(&character, &shot, SIZE as u32, &mut picture);
                captions.push(caption(character.sex, &shot, None));
                let face = face(&picture, &character, &shot, &mut random);
                append(&mut whole, &softened(&picture, &mut random));
                append(&mut faces, &softened(&face, &mut random));
            }
        }
        let count = 2 * characters;
        let tensor = |values| {
            Tensor::<4>::from_data(TensorData::new(values, [count, 3, SIZE, SIZE]), device)
        };
        let points = model.pictures(Tensor::cat(vec![tensor(whole), tensor(faces)], 0));
        let (whole, faces) = (
            points.clone().narrow(0, 0, count),
            points.narrow(0, count, count),
        );

        let words = model.texts(&captions, &self.tokenizer, device);
        let scores = whole.matmul(words.transpose()) * LOGIT_SCALE;
        let own = Tensor::<2>::eye(count, device);
        let found = |scores: Tensor<2>, right: Tensor<2>| {
            -(log_softmax(scores, 1) * right).sum() / count as f64
        };
        let told = found(scores.clone(), own.clone()) + found(scores.transpose(), own.clone());

        let alike = faces.clone().matmul(faces.transpose()) * FACE_SCALE - own * 1e4;
        let other: Vec<i64> = (0..count as i64).map(|index| index ^ 1).collect();
        let other = Tensor::<1, Int>::from_data(TensorData::new(other, [count]), device);
        let other: Tensor<2> = other.one_hot(count).float();
        told * 0.5 + found(alike, other)
    }
}

/// The face in a picture, as a picture: a square about where it is.
pub(super) fn face(
    picture: &RgbImage,
    character: &Character,
    shot: &Shot,
    random: &mut Stream,
) -> RgbImage {
    let size = SIZE as f32;
    let found = face_box(character, shot, SIZE as u32);
    let half = found.side as f32 / 2.0;
    let mut swing = |range: f32| (2.0 * random.unit() - 1.0) * range;
    let side = (2.0 * half * (1.1 + swing(0.2))).min(size);
    let mut corner = |edge: u32| {
        let center = edge as f32 + half + swing(0.1) * side;
        (center - side / 2.0).clamp(0.0, size - side).round() as u32
    };
    let (left, top, side) = (corner(found.left), corner(found.top), side.floor() as u32);
    let face = crop_imm(picture, left, top, side, side).to_image();
    resize(&face, SIZE as u32, SIZE as u32, FilterType::CatmullRom)
}

/// Half of all pictures lose some of their detail, as those lose it that a model makes.
pub(super) fn softened(picture: &RgbImage, random: &mut Stream) -> RgbImage {
    if random.unit() < 0.5 {
        return picture.clone();
    }
    let side = (SIZE as f32 * (0.4 + 0.5 * random.unit())) as u32;
    let small = resize(picture, side, side, FilterType::Triangle);
    resize(&small, SIZE as u32, SIZE as u32, FilterType::CatmullRom)
}

/// Adds a picture's values in `[-1, 1]`, channel by channel.
pub(super) fn append(values: &mut Vec<f32>, picture: &RgbImage) {
    for channel in 0..3 {
        let bytes = picture.as_raw().iter().skip(channel).step_by(3);
        values.extend(bytes.map(|&byte| f32::from(byte) / 127.5 - 1.0));
    }
}

/// What the encoders do with characters and shots that they never saw.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Share of pictures that find their caption among 64.
    pub captions: f64,
    /// Share of faces that find another shot of the same character among 64, of 63 others.
    pub faces: f64,
}

/// Measures the encoders on the first `64 · rounds` characters that are held out.
pub fn measure(model: &Clip, tokenizer: &Tokenizer, rounds: u64, device: &Device) -> Comparison {
    const AMONG: u64 = 64;
    let (mut captions_found, mut faces_found) = (0, 0);
    for round in 0..rounds {
        let mut easel = Easel::default();
        let mut picture = RgbImage::new(SIZE as u32, SIZE as u32);
        let (mut whole, mut faces, mut captions) = (vec![], [vec![], vec![]], vec![]);
        for number in round * AMONG..(round + 1) * AMONG {
            let character = Character::from_seed(number);
            let mut random = Stream::new(0, number, "measure");
            for faces in &mut faces {
                let shot = Shot::random(random.word());
                easel.draw_into(&character, &shot, SIZE as u32, &mut picture);
                append(faces, &face(&picture, &character, &shot, &mut random));
                if captions.len() as u64 <= number - round * AMONG {
                    append(&mut whole, &picture);
                    captions.push(caption(character.sex, &shot, None));
                }
            }
        }
        let points = |values: Vec<f32>| {
            let data = TensorData::new(values, [AMONG as usize, 3, SIZE, SIZE]);
            model.pictures(Tensor::from_data(data, device))
        };
        let first = |scores: Tensor<2>| {
            let best: Vec<i64> = scores.argmax(1).into_data().iter::<i64>().collect();
            best.iter()
                .enumerate()
                .filter(|(own, best)| *own as i64 == **best)
                .count()
        };
        let words = model.texts(&captions, tokenizer, device);
        captions_found += first(points(whole).matmul(words.transpose()));
        let [one, other] = faces.map(points);
        faces_found += first(one.matmul(other.transpose()));
    }
    let all = (rounds * AMONG) as f64;
    Comparison {
        captions: captions_found as f64 / all,
        faces: faces_found as f64 / all,
    }
}
