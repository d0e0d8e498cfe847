//! What multiplies panels: AMX's tiles, or AVX-512's vectors of bf16.

use std::sync::OnceLock;

use super::amx::{Amx, Tiles};
use super::panel::{DEPTH, Line, PANEL, TILE};
use super::vectors::Vectors;

/// The proof that this processor has AVX-512 F, BW and BF16, that the system lets this process use what multiplies, and that it is faster than f32.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    /// Many times faster than f32.
    Tiles(Amx),
    /// Twice as fast.
    Vectors(Vectors),
}

impl Unit {
    pub(super) fn get() -> Option<Self> {
        static FOUND: OnceLock<Option<Unit>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let vectors = Vectors::get()?;
            match Amx::get(vectors) {
                Some(amx) => Some(Self::Tiles(amx)),
                None => vectors.outrun_f32().then_some(Self::Vectors(vectors)),
            }
        })
    }

    /// What multiplies on this thread. While it is there, the thread must run no task that asks for its own: it waits for no other thread.
    pub(super) fn on_this_thread(self) -> Multiplier {
        match self {
            Self::Tiles(amx) => Multiplier::Tiles(amx.on_this_thread()),
            Self::Vectors(vectors) => Multiplier::Vectors(vectors),
        }
    }
}

/// What there is of two panels. Outside are zeros, which need not be multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
}

/// Multiplies panels on one thread.
pub(super) enum Multiplier {
    Tiles(Tiles),
    Vectors(Vectors),
}

impl Multiplier {
    /// Writes the product of two panels, or adds it to what is there: 32 rows of 32 floats each, `stride` apart. What is written outside the extent
    /// is of no use.
    ///
    /// # Panics
    /// If they are not of one length, or the rows do not fit.
    #[inline]
    pub(super) fn multiply(
        &self,
        left: [&[Line]; 2],
        right: [&[Line]; 2],
        extent: Extent,
        out: &mut [f32],
        stride: usize,
        add: bool,
    ) {
        let half = left[0].len();
        assert!(half > 0 && half.is_multiple_of(TILE) && left[1].len() == half);
        assert!(right[0].len() == half && right[1].len() == half);
        assert!(stride >= PANEL && out.len() >= (PANEL - 1) * stride + PANEL);
        assert!(extent.rows.max(extent.columns) <= PANEL && extent.inner <= half / TILE * DEPTH);
        let (left, right, out) = (
            left.map(<[Line]>::as_ptr),
            right.map(<[Line]>::as_ptr),
            out.as_mut_ptr(),
        );
        // SAFETY: all four halves are of `half / 16` whole tiles, in which the extent lies, and `out` holds the rows.
        unsafe {
            match self {
                Self::Tiles(tiles) => tiles.multiply(left, right, half / TILE, out, stride, add),
                Self::Vectors(vectors) => vectors.multiply(left, right, extent, out, stride, add),
            }
        }
    }
}
