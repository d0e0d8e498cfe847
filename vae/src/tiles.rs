use burn::tensor::Tensor;

use crate::{AutoencoderKL, Posterior};

/// The share of a tile that lies over its neighbour, as in diffusers: a quarter.
const OVERLAP: usize = 4;

impl AutoencoderKL {
    /// Encodes in square tiles of `cells` latent cells a side that overlap by a quarter and fade into each other there, as diffusers'
    /// `tiled_encode` does: a large picture takes the memory of a tile. A picture that fits a tile is encoded whole.
    ///
    /// # Shapes
    /// As [`encode`](Self::encode)'s.
    ///
    /// # Panics
    /// If `cells` is no multiple of 4 above 0, or the image has not the model's channels or sides that are multiples of
    /// [`pixels_per_cell`](crate::VaeConfig::pixels_per_cell).
    pub fn encode_tiled(&self, image: Tensor<4>, cells: usize) -> Posterior {
        let cell = self.config().pixels_per_cell();
        let [_, _, height, width] = image.dims();
        assert!(
            height.is_multiple_of(cell) && width.is_multiple_of(cell),
            "{width} x {height} pixels; multiples of {cell} are expected"
        );
        let sides = [cells * cell, cells];
        self.posterior(tiled(image, sides, |tile| self.moments(tile)))
    }

    /// Decodes in square tiles of `cells` latent cells a side that overlap by a quarter and fade into each other there, as diffusers'
    /// `tiled_decode` does: a large picture takes the memory of a tile. The tiles do not see each other's group norms, so colours may differ
    /// a little from [`decode`](Self::decode)'s. A latent that fits a tile is decoded whole.
    ///
    /// # Shapes
    /// - `latent`: `[batch, latent_channels, height, width]`, in the UNet's units
    /// - output: `[batch, 3, pixels · height, pixels · width]` with [`pixels_per_cell`](crate::VaeConfig::pixels_per_cell), values about
    ///   `[-1, 1]`, not clamped
    ///
    /// # Panics
    /// If `cells` is no multiple of 4 above 0, or the latent has not the model's channels.
    pub fn decode_tiled(&self, latent: Tensor<4>, cells: usize) -> Tensor<4> {
        let sides = [cells, cells * self.config().pixels_per_cell()];
        tiled(latent, sides, |tile| self.decode(tile))
    }
}

/// What `map` makes of `whole`, tile by tile. A tile's side is the first of `sides` before, and the second after.
fn tiled(whole: Tensor<4>, sides: [usize; 2], map: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let cells = sides[0].min(sides[1]);
    assert!(
        cells > 0 && cells.is_multiple_of(OVERLAP),
        "tiles of {cells} cells; a multiple of {OVERLAP} is expected"
    );
    let [side, side_after] = sides;
    let [batch, channels, height, width] = whole.dims();
    if height <= side && width <= side {
        return map(whole);
    }
    let (stride, fade) = (side - side / OVERLAP, side_after / OVERLAP);
    let mut above: Vec<Tensor<4>> = vec![];
    let mut rows = vec![];
    for top in (0..height).step_by(stride) {
        let mut row: Vec<Tensor<4>> = vec![];
        for (column, left) in (0..width).step_by(stride).enumerate() {
            let (bottom, right) = ((top + side).min(height), (left + side).min(width));
            let tile = whole
                .clone()
                .slice([0..batch, 0..channels, top..bottom, left..right]);
            let mut tile = map(tile);
            if let Some(above) = above.get(column) {
                tile = faded(above.clone(), tile, 2, fade);
            }
            if let Some(before) = row.last() {
                tile = faded(before.clone(), tile, 3, fade);
            }
            row.push(tile);
        }
        let kept = row.iter().map(|tile| {
            let [_, _, high, wide] = tile.dims();
            let tile = tile.clone().narrow(2, 0, high.min(side_after - fade));
            tile.narrow(3, 0, wide.min(side_after - fade))
        });
        rows.push(Tensor::cat(kept.collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// `tile`, whose first lines along an axis come out of the last ones of the tile before it.
fn faded(before: Tensor<4>, tile: Tensor<4>, axis: usize, fade: usize) -> Tensor<4> {
    let (length, own) = (before.dims()[axis], tile.dims()[axis]);
    let fade = fade.min(length).min(own);
    let shares: Vec<f32> = (0..fade).map(|line| line as f32 / fade as f32).collect();
    let shares = Tensor::<1>::from_floats(shares.as_slice(), &tile.device());
    let shape = std::array::from_fn::<_, 4, _>(|at| if at == axis { fade } else { 1 });
    let shares = shares.reshape(shape);
    let old = before.narrow(axis, length - fade, fade);
    let new = tile.clone().narrow(axis, 0, fade);
    let mixed = old * (-shares.clone() + 1.0) + new * shares;
    if fade == own {
        return mixed;
    }
    Tensor::cat(vec![mixed, tile.narrow(axis, fade, own - fade)], axis)
}
