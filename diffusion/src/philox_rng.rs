use crate::Noise;

/// The noise of A1111's default generator, which imitates `torch.randn` on a CUDA device for tensors that one launch covers.
///
/// Philox4x32-10 (Salmon et al. 2011): the key is the seed, the counter is the number of the call and the place in the tensor.
///
/// ```
/// use sd_diffusion::{Noise, PhiloxRng};
///
/// let noise = PhiloxRng::new(0).normal(12);
/// assert!((noise[0] - -0.92466259).abs() < 1e-6);
/// ```
#[derive(Debug, Clone)]
pub struct PhiloxRng {
    seed: u64,
    calls: u32,
}

impl PhiloxRng {
    /// A generator at its start.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: 0 }
    }
}

impl Noise for PhiloxRng {
    fn normal(&mut self, count: usize) -> Vec<f32> {
        let calls = self.calls;
        self.calls = calls.wrapping_add(1);
        (0..count)
            .map(|place| {
                let [length, turn, ..] = philox([calls, 0, place as u32, 0], self.seed);
                box_muller(length, turn)
            })
            .collect()
    }
}

fn philox(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let (mut key_low, mut key_high) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let first = u64::from(a) * 0xd251_1f53;
        let second = u64::from(c) * 0xcd9e_8d57;
        counter = [
            (second >> 32) as u32 ^ b ^ key_low,
            second as u32,
            (first >> 32) as u32 ^ d ^ key_high,
            first as u32,
        ];
        key_low = key_low.wrapping_add(0x9e37_79b9);
        key_high = key_high.wrapping_add(0xbb67_ae85);
    }
    counter
}

/// The sine half of Box-Muller, with CUDA's constants (rounded to f32) and A1111's f64 arithmetic.
fn box_muller(length: u32, turn: u32) -> f32 {
    const UNIT: f64 = 2.328_306_4e-10_f32 as f64;
    const TURN: f64 = (2.328_306_4e-10 * 6.283_185_5) as f32 as f64;
    let length = f64::from(length) * UNIT + UNIT / 2.0;
    let angle = f64::from(turn) * TURN + TURN / 2.0;
    ((-2.0 * length.ln()).sqrt() * angle.sin()) as f32
}
