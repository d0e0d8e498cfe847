//! Bytes of a file to numbers of a model, in one pass and on all cores.

use std::io;
use std::ops::Range;

use burn::tensor::Element;
use bytemuck::Zeroable;
use bytemuck::allocation::zeroed_vec;
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
pub(super) trait Weight: Element + Zeroable {
    /// Reads `out.len()` numbers of type `stored` from `bytes`, which holds exactly as many.
    fn read(bytes: &[u8], stored: StoredType, out: &mut [Self]);
}

impl Weight for f32 {
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

/// Where the bytes of a tensor are.
pub(super) trait Source: Sync {
    /// Some of the bytes, which may be read into the buffer first.
    fn piece<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]>;
}

impl Source for [u8] {
    fn piece<'a>(&'a self, range: Range<usize>, _: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        self.get(range)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The first `count` numbers, in the order of the file.
pub(super) fn in_order<T: Weight>(
    from: &(impl Source + ?Sized),
    stored: StoredType,
    count: usize,
) -> io::Result<Vec<T>> {
    let size = stored.size();
    let mut out: Vec<T> = zeroed_vec(count);
    out.par_chunks_mut(PIECE)
        .enumerate()
        .try_for_each_init(Vec::new, |buffer, (index, out)| {
            let start = index * PIECE * size;
            let bytes = from.piece(start..start + out.len() * size, buffer)?;
            T::read(bytes, stored, out);
            Ok(())
        })
        .map(|()| out)
}

/// A `[rows, columns]` matrix of the file as `[columns, rows]`.
pub(super) fn transposed<T: Weight>(
    from: &(impl Source + ?Sized),
    stored: StoredType,
    [rows, columns]: [usize; 2],
) -> io::Result<Vec<T>> {
    // Zeros by the system: `vec!` would write them for 16-bit floats, which a new page does not need.
    let mut out: Vec<T> = zeroed_vec(rows * columns);
    if out.is_empty() {
        return Ok(out);
    }
    let size = stored.size();
    // Some rows of the file, which are as many columns of the result: a piece of each of its lines.
    let high = (PIECE / columns)
        .next_multiple_of(TILE)
        .clamp(TILE, rows.max(TILE));
    let mut strips: Vec<Vec<&mut [T]>> = Vec::new();
    strips.resize_with(rows.div_ceil(high), || Vec::with_capacity(columns));
    for line in out.chunks_exact_mut(rows) {
        for (strip, piece) in strips.iter_mut().zip(line.chunks_mut(high)) {
            strip.push(piece);
        }
    }
    strips
        .into_par_iter()
        .enumerate()
        .try_for_each_init(Vec::new, |buffer, (index, mut lines)| {
            let first = index * high;
            let here = high.min(rows - first);
            let bytes = from.piece(
                first * columns * size..(first + here) * columns * size,
                buffer,
            )?;
            for (block, lines) in lines.chunks_mut(TILE).enumerate() {
                turn(&bytes[block * TILE * size..], stored, columns * size, lines);
            }
            Ok(())
        })
        .map(|()| out)
}

/// Reads lines from columns: number `j` of line `i` is the `i`-th number in row `j` of `bytes`, whose rows are `stride` bytes apart.
fn turn<T: Weight>(bytes: &[u8], stored: StoredType, stride: usize, lines: &mut [&mut [T]]) {
    let length = lines.first().map_or(0, |line| line.len());
    let width = lines.len() * stored.size();
    let mut tile = [[T::zeroed(); TILE]; TILE];
    for top in (0..length).step_by(TILE) {
        let height = TILE.min(length - top);
        for (row, to) in tile.iter_mut().take(height).enumerate() {
            let start = (top + row) * stride;
            T::read(&bytes[start..start + width], stored, &mut to[..lines.len()]);
        }
        for (column, line) in lines.iter_mut().enumerate() {
            for (to, row) in line[top..top + height].iter_mut().zip(&tile) {
                *to = row[column];
            }
        }
    }
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
                let straight = in_order::<f32>(file, stored, values.len()).unwrap();
                prop_assert_eq!(&straight, &values);
                let halves: Vec<f32> = in_order::<f16>(file, stored, values.len()).unwrap().iter().map(|h| h.to_f32()).collect();
                prop_assert_eq!(&halves, &values);
                let brains: Vec<f32> = in_order::<bf16>(file, stored, values.len()).unwrap().iter().map(|h| h.to_f32()).collect();
                prop_assert_eq!(&brains, &values);
                let turned = transposed::<f32>(file, stored, [rows, columns]).unwrap();
                for (i, value) in values.iter().enumerate() {
                    prop_assert_eq!(turned[(i % columns) * rows + i / columns], *value);
                }
            }
        }
    }
}
