use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::puppet::{Character, Easel, Shot, TRAINING};

/// A random stream that depends on a seed, a number and a purpose alone.
#[derive(Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of sample `number` of a run.
    pub fn new(seed: u64, number: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&number.to_le_bytes());
        for (place, byte) in key[16..].iter_mut().zip(purpose.bytes()) {
            *place = byte;
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.word()) * end as u128) >> 64) as usize
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 24) as f32
    }

    /// `count` values of the standard normal distribution.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        StandardNormal
            .sample_iter(&mut self.0)
            .take(count)
            .collect()
    }
}

/// A drawn picture and what it shows.
#[derive(Clone, Debug)]
pub struct Example {
    /// Who.
    pub character: Character,
    /// How.
    pub shot: Shot,
}

impl Example {
    /// Sample `number` of a run: some character of those that training may use, in any shot.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Stream::new(seed, number, "example");
        Self {
            character: Self::character(&mut random),
            shot: Shot::random(random.word()),
        }
    }

    /// Some character of those that training may use.
    pub fn character(random: &mut Stream) -> Character {
        // Training seeds have no end; some billions are enough.
        Character::from_seed(TRAINING.start + (random.word() >> 24))
    }
}

/// Draws pictures, a square of `crop` pixels out of `size` each, at a place that `corners` gives.
///
/// Returns `[batch, 3, crop, crop]`, values in `[-1, 1]`.
///
/// # Panics
/// If the crop is larger than the picture.
pub fn pictures(
    examples: &[Example],
    size: usize,
    crop: usize,
    corners: impl Fn(usize) -> [usize; 2],
    device: &Device,
) -> Tensor<4> {
    let mut easel = Easel::default();
    let mut bytes = vec![0; size * size * 3];
    let mut values = Vec::with_capacity(examples.len() * 3 * crop * crop);
    for (index, example) in examples.iter().enumerate() {
        easel.draw_into(&example.character, &example.shot, size as u32, &mut bytes);
        let [top, left] = corners(index);
        assert!(top + crop <= size && left + crop <= size, "a crop within");
        for channel in 0..3 {
            for row in bytes.chunks_exact(size * 3).skip(top).take(crop) {
                let row = row[left * 3..(left + crop) * 3].iter();
                let row = row.skip(channel).step_by(3);
                values.extend(row.map(|&byte| f32::from(byte) / 127.5 - 1.0));
            }
        }
    }
    Tensor::from_data(
        TensorData::new(values, [examples.len(), 3, crop, crop]),
        device,
    )
}
