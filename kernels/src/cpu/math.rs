//! Functions of one number, written so that a compiler turns a loop over them into vector instructions.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use pulp::Arch;

/// 2ˣ to a unit in the last place; below -126 it is 2⁻¹²⁶, above 127 it is 2¹²⁷.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    // What is no number stays none.
    exp2_up_to_127(if x > 127.0 { 127.0 } else { x })
}

#[inline(always)]
fn exp2_up_to_127(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves the nearest integer in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = if x < -126.0 { -126.0 } else { x };
    let shifted = x + MAGIC;
    let rest = x - (shifted - MAGIC);
    let mut sum = EXP2_TERMS[0];
    for term in &EXP2_TERMS[1..] {
        sum = sum.mul_add(rest, *term);
    }
    f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// A polynomial that is 2ˣ to 2e-9 for |x| ≤ ½, from the sixth power down to 1.
pub(crate) const EXP2_TERMS: [f32; 7] = [
    1.535_336_2e-4,
    1.339_887_5e-3,
    9.618_437e-3,
    5.550_332_4e-2,
    2.402_264_8e-1,
    std::f32::consts::LN_2,
    1.0,
];

/// eˣ.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The derivative of `x · sigmoid(rate · x)`.
#[inline(always)]
pub(crate) fn swish_slope(x: f32, rate: f32) -> f32 {
    let gate = sigmoid(rate * x);
    gate * (rate * x).mul_add(1.0 - gate, 1.0)
}

/// Φ(-x) = (1 - erf(x / √2)) / 2 of x from 0 on, as 2 to a polynomial: to 1.5e-8, or in the tail to 1.5e-8 / x.
#[inline(always)]
fn tail(x: f32) -> f32 {
    const FIT: [f32; 9] = [
        -2.275_851_6e-6,
        3.296_78e-5,
        -1.572_779e-4,
        -2.024_807_3e-4,
        7.142_783_6e-3,
        -5.254_643_8e-2,
        -4.591_930_5e-1,
        -1.151_107,
        -1.0,
    ];
    let mut power = FIT[0];
    for term in &FIT[1..] {
        power = power.mul_add(x, *term);
    }
    exp2_up_to_127(power)
}

/// Φ(x).
#[inline(always)]
pub(crate) fn below(x: f32) -> f32 {
    let tail = tail(x.abs());
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// x · Φ(x), which is max(x, 0) - |x| · Φ(-|x|).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let far = x.abs();
    let whole = if x > 0.0 { x } else { 0.0 };
    (-far).mul_add(tail(far), whole)
}

/// φ(x) = exp(-x² / 2) / √(2π), the derivative of [`below`].
#[inline(always)]
pub(crate) fn bell(x: f32) -> f32 {
    exp(-0.5 * x * x) * 0.398_942_3
}

/// A float of 16 bits, all of whose values f32 has too.
pub(crate) trait Short: Copy + Sync {
    /// Writes each value as f32.
    fn widen(values: &[Self], out: &mut [f32]);
}

impl Short for f16 {
    fn widen(values: &[Self], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let Arch::V4(simd) = Arch::new() {
            return simd.vectorize(
                #[inline(always)]
                || {
                    let bits = values.reinterpret_cast();
                    let (lines, rest) = bits.as_chunks::<16>();
                    let (out, out_rest) = out.as_chunks_mut::<16>();
                    for (line, out) in lines.iter().zip(out) {
                        let wide = simd.avx512f._mm512_cvtph_ps(pulp::cast(*line));
                        *out = pulp::cast(wide);
                    }
                    for (bits, out) in rest.iter().zip(out_rest) {
                        *out = f16::from_bits(*bits).to_f32();
                    }
                },
            );
        }
        values.convert_to_f32_slice(out);
    }
}

impl Short for bf16 {
    fn widen(values: &[Self], out: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                let bits = values.reinterpret_cast();
                for (bits, out) in bits.iter().zip(out) {
                    *out = f32::from_bits(u32::from(*bits) << 16);
                }
            },
        );
    }
}

/// Runs `work` compiled for the widest vectors that this machine has. What it calls must be inlined into it.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
