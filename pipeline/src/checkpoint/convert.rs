//! Bytes of a file to numbers of a model, in one pass and on all cores.

use burn::tensor::Element;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Element type of a tensor in a file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredType {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// Integers, booleans, 8-bit floats: by the name that the file's format gives them. No weight of a model has such a type.
    Other(&'static str),
}

impl StoredType {
    /// Bytes of one number; zero for a type that is not read.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Other(_) => 0,
        }
    }
}

impl std::fmt::Display for StoredType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Other(name) => name,
        })
    }
}

/// Numbers that a core converts before it fetches the next piece of work.
const PIECE: usize = 1 << 16;
/// Numbers that fit the first-level cache on their way from one type to another.
const BLOCK: usize = 1024;
/// Side of a tile of a transposition.
const TILE: usize = 64;

/// An element type that a model's weights may have.
pub(super) trait Weight: Element {
    const ZERO: Self;
    /// Reads `out.len()` numbers of type `stored` from `bytes`, which holds exactly as many.
    fn read(bytes: &[u8], stored: StoredType, out: &mut [Self]);
}

impl Weight for f32 {
    const ZERO: Self = 0.0;

    fn read(bytes: &[u8], stored: StoredType, out: &mut [Self]) {
        match stored {
            StoredType::F32 => each(bytes, out, f32::from_le_bytes),
            StoredType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            StoredType::F16 => halves(bytes, out, f16::ZERO, f16::from_le_bytes, |half, out| {
                half.convert_to_f32_slice(out);
            }),
            StoredType::BF16 => halves(bytes, out, bf16::ZERO, bf16::from_le_bytes, |half, out| {
                half.convert_to_f32_slice(out);
            }),
            StoredType::Other(_) => {}
        }
    }
}

impl Weight for f16 {
    const ZERO: Self = f16::ZERO;

    fn read(bytes: &[u8], stored: StoredType, out: &mut [Self]) {
        match stored {
            StoredType::F16 => each(bytes, out, f16::from_le_bytes),
            _ => through_f32(bytes, stored, out, |f32s, out| {
                out.convert_from_f32_slice(f32s)
            }),
        }
    }
}

impl Weight for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn read(bytes: &[u8], stored: StoredType, out: &mut [Self]) {
        match stored {
            StoredType::BF16 => each(bytes, out, bf16::from_le_bytes),
            _ => through_f32(bytes, stored, out, |f32s, out| {
                out.convert_from_f32_slice(f32s)
            }),
        }
    }
}

fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], read: impl Fn([u8; N]) -> T) {
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = read(bytes);
    }
}

/// Halves need not be aligned in a file, so they are copied, a block at a time, to where they are.
fn halves<H: Copy>(
    bytes: &[u8],
    out: &mut [f32],
    zero: H,
    read: impl Fn([u8; 2]) -> H,
    convert: impl Fn(&[H], &mut [f32]),
) {
    let mut block = [zero; BLOCK];
    for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
        each(bytes, &mut block, &read);
        convert(&block[..out.len()], out);
    }
}

fn through_f32<T>(
    bytes: &[u8],
    stored: StoredType,
    out: &mut [T],
    convert: impl Fn(&[f32], &mut [T]),
) {
    let mut block = [0.0; BLOCK];
    for (bytes, out) in bytes
        .chunks(stored.size().max(1) * BLOCK)
        .zip(out.chunks_mut(BLOCK))
    {
        let block = &mut block[..out.len()];
        f32::read(bytes, stored, block);
        convert(block, out);
    }
}

/// The numbers in the order of the file.
pub(super) fn in_order<T: Weight>(bytes: &[u8], stored: StoredType) -> Vec<T> {
    let size = stored.size().max(1);
    let mut out = vec![T::ZERO; bytes.len() / size];
    out.par_chunks_mut(PIECE)
        .zip(bytes.par_chunks(PIECE * size))
        .for_each(|(out, bytes)| T::read(bytes, stored, out));
    out
}

/// A `[rows, columns]` matrix of the file as `[columns, rows]`.
pub(super) fn transposed<T: Weight>(
    bytes: &[u8],
    stored: StoredType,
    [rows, columns]: [usize; 2],
) -> Vec<T> {
    let size = stored.size();
    let mut out = vec![T::ZERO; rows * columns];
    if out.is_empty() {
        return out;
    }
    // A strip is `TILE` columns of the file, which are consecutive rows of the result.
    out.par_chunks_mut(TILE * rows)
        .enumerate()
        .for_each(|(strip, out)| {
            let first = strip * TILE;
            let width = TILE.min(columns - first);
            let mut tile = [T::ZERO; TILE * TILE];
            for top in (0..rows).step_by(TILE) {
                let height = TILE.min(rows - top);
                for (row, piece) in tile.chunks_exact_mut(TILE).take(height).enumerate() {
                    let start = ((top + row) * columns + first) * size;
                    T::read(
                        &bytes[start..start + width * size],
                        stored,
                        &mut piece[..width],
                    );
                }
                for (column, line) in out.chunks_exact_mut(rows).enumerate() {
                    let line = &mut line[top..top + height];
                    for (number, from) in line.iter_mut().zip(tile[column..].iter().step_by(TILE)) {
                        *number = *from;
                    }
                }
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(values: &[f32], stored: StoredType) -> Vec<u8> {
        let each = values.iter().copied();
        match stored {
            StoredType::F64 => each.flat_map(|v| f64::from(v).to_le_bytes()).collect(),
            StoredType::F16 => each.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            StoredType::BF16 => each.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => each.flat_map(f32::to_le_bytes).collect(),
        }
    }

    proptest! {
        #[test]
        fn every_type_reads_as_every_type_in_both_orders(rows in 1usize..150, columns in 1usize..150, shift in 0usize..2) {
            // Eighths up to 16 are exact in every type.
            let values: Vec<f32> = (0..rows * columns).map(|i| (i % 128) as f32 / 8.0).collect();
            for stored in [StoredType::F64, StoredType::F32, StoredType::F16, StoredType::BF16] {
                // An odd address, since nothing aligns the tensors of a file.
                let mut file = vec![0; shift];
                file.extend(bytes(&values, stored));
                let file = &file[shift..];
                let straight = in_order::<f32>(file, stored);
                prop_assert_eq!(&straight, &values);
                let halves: Vec<f32> = in_order::<f16>(file, stored).iter().map(|h| h.to_f32()).collect();
                prop_assert_eq!(&halves, &values);
                let brains: Vec<f32> = in_order::<bf16>(file, stored).iter().map(|h| h.to_f32()).collect();
                prop_assert_eq!(&brains, &values);
                let turned = transposed::<f32>(file, stored, [rows, columns]);
                for (i, value) in values.iter().enumerate() {
                    prop_assert_eq!(turned[(i % columns) * rows + i / columns], *value);
                }
            }
        }
    }
}
