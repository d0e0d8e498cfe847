use std::f64::consts::TAU;

use crate::Noise;

/// torch's CPU generator: the values of `torch.Generator().manual_seed(seed)`, with which diffusers and ComfyUI make their noise.
///
/// Uniform values are equal to the bit. Normal values differ from torch's in the last digit or two (below 1e-6), because torch takes
/// logarithm, sine and cosine from vector code that is not rounded correctly; here they are, so that every platform gives the same.
///
/// ```
/// use sd_diffusion::{Noise, TorchRng};
///
/// let noise = TorchRng::new(0).normal(3); // torch.randn(3, generator=torch.manual_seed(0))
/// assert!((noise[0] - 1.5409961).abs() < 1e-6);
/// ```
#[derive(Debug, Clone)]
pub struct TorchRng {
    engine: Mt19937,
    /// The second value of the last Box-Muller pair of the scalar path. It waits there across calls, even of other kinds.
    spare: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator().manual_seed(seed)`; like torch, it uses the low 32 bits.
    pub fn new(seed: u64) -> Self {
        Self {
            engine: Mt19937::new(seed as u32),
            spare: None,
        }
    }

    /// `torch.rand(count)`: values of 24 bits in `[0, 1)`.
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform_f32()).collect()
    }

    fn uniform_f32(&mut self) -> f32 {
        (self.engine.next() & 0xff_ffff) as f32 / (1 << 24) as f32
    }

    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.engine.next()), u64::from(self.engine.next()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// One value of the scalar path (Box-Muller in f64).
    fn normal_f64(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (turn, length) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-length).ln_1p()).sqrt();
        let (sine, cosine) = (TAU * turn).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }
}

impl Noise for TorchRng {
    /// `torch.randn(count)`.
    fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values = self.uniform(count);
        for block in values.as_chunks_mut::<16>().0 {
            box_muller(block);
        }
        // A rest that fills no block is drawn anew, together with the values before it.
        if !count.is_multiple_of(16)
            && let Some(last) = values.last_chunk_mut::<16>()
        {
            last.fill_with(|| self.uniform_f32());
            box_muller(last);
        }
        values
    }
}

/// Eight pairs of uniform values become eight pairs of normal values: the cosines, then the sines.
fn box_muller(block: &mut [f32; 16]) {
    for i in 0..8 {
        let (length, turn) = (1.0 - block[i], block[i + 8]);
        // The steps are rounded to f32 where torch's are.
        let radius = (-2.0 * f64::from(length).ln() as f32).sqrt();
        let (sine, cosine) = f64::from(TAU as f32 * turn).sin_cos();
        block[i] = radius * cosine as f32;
        block[i + 8] = radius * sine as f32;
    }
}

/// The Mersenne twister (Matsumoto and Nishimura 1998).
#[derive(Debug, Clone)]
struct Mt19937 {
    state: Box<[u32; Self::WORDS]>,
    next: usize,
}

impl Mt19937 {
    const WORDS: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; Self::WORDS]);
        for i in 1..Self::WORDS {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self {
            state,
            next: Self::WORDS,
        }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let (high, low) = (self.state[i], self.state[(i + 1) % Self::WORDS]);
            let joined = (high & 0x8000_0000) | (low & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::SHIFT) % Self::WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }
}
