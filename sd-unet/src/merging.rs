use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

/// Merges alike positions before self-attention and copies them apart after it: token merging for Stable Diffusion (Bolya and Hoffman 2023).
///
/// In every square of 2 × 2 positions the first is a destination and the others are sources. Each source is matched with the destination
/// that it points to most nearly the same way (cosine of the block's input), and the share of sources that match best, over the whole map, is
/// replaced by the mean with its destination. The paper draws the destination of each square at random; here it is the upper left one, so that
/// nothing depends on a seed.
///
/// The match is sorted on the host, so a GPU waits once for each layer that merges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenMerging {
    /// The share of all positions that is merged away, 0 to 0.75: 0 leaves everything as it is, bit for bit.
    pub ratio: f64,
    /// How many levels merge, from the finest on; the paper's choice is 1.
    pub levels: usize,
}

impl TokenMerging {
    /// The largest ratio: a destination stays in each square of four.
    pub const MAX_RATIO: f64 = 0.75;

    /// Merges this share at the finest level.
    pub fn new(ratio: f64) -> Self {
        Self { ratio, levels: 1 }
    }

    /// How many of `height × width` positions are merged away at a level.
    pub(crate) fn merged(&self, level: usize, [height, width]: [usize; 2]) -> usize {
        if level >= self.levels {
            return 0;
        }
        let positions = height * width;
        let sources = positions - (height / 2) * (width / 2);
        // Without destinations there is nothing to merge into.
        match sources == positions {
            true => 0,
            false => ((positions as f64 * self.ratio) as usize).min(sources),
        }
    }
}

/// Which positions of a batch of feature maps become one.
pub(crate) struct Matching {
    /// Rows, among all of the batch, that stay.
    kept: Tensor<1, Int>,
    /// Rows that go.
    merged: Tensor<1, Int>,
    /// Which of the rows that stay each of them goes into.
    into: Tensor<1, Int>,
    /// 1 over the number of rows that each of those that stay is the mean of, `[rows, 1]`.
    share: Tensor<2>,
    /// For each row of the batch, the one of those that stay that it is copied from.
    places: Tensor<1, Int>,
}

impl Matching {
    /// Matches `count` positions of each map with others.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, height · width, channels]`
    pub fn new(hidden: Tensor<3>, [height, width]: [usize; 2], count: usize) -> Self {
        let [batch, positions, _] = hidden.dims();
        let device = hidden.device();
        let hidden = hidden.detach();
        let dtype = hidden.dtype();
        let (mut destinations, mut sources) = (vec![], vec![]);
        for row in 0..height {
            for column in 0..width {
                // An odd last row or column has no whole square.
                let whole = row + 1 < height && column + 1 < width;
                let first = whole && row % 2 == 0 && column % 2 == 0;
                let list = if first {
                    &mut destinations
                } else {
                    &mut sources
                };
                list.push(row * width + column);
            }
        }
        let index = |rows: &[usize]| {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let shape = [rows.len()];
            Tensor::<1, Int>::from_data(TensorData::new(rows, shape), &device)
        };
        let length = hidden.clone().powi_scalar(2).sum_dim(2).sqrt();
        let unit = hidden / length.clamp_min(1e-6);
        let likeness = (unit.clone().select(1, index(&sources)))
            .matmul(unit.select(1, index(&destinations)).transpose());
        let (best, at) = likeness.max_dim_with_indices(2);
        let best: Vec<f32> = best.into_data().iter::<f32>().collect();
        let at: Vec<i64> = at.into_data().iter::<i64>().collect();

        let staying = positions - count;
        let (mut kept, mut merged, mut into) = (vec![], vec![], vec![]);
        let (mut share, mut places) = (vec![], vec![0; batch * positions]);
        for map in 0..batch {
            let (best, at) = (
                &best[map * sources.len()..][..sources.len()],
                &at[map * sources.len()..][..sources.len()],
            );
            let mut order: Vec<usize> = (0..sources.len()).collect();
            // The best first; of equals the first in the map.
            order.sort_by(|&a, &b| best[b].total_cmp(&best[a]).then(a.cmp(&b)));
            let (going, alone) = order.split_at(count);
            let (row, place) = (map * positions, map * staying);
            let mut counts = vec![1usize; staying];
            let stay = (alone.iter().map(|&source| sources[source])).chain(destinations.clone());
            for (at, position) in stay.enumerate() {
                kept.push(row + position);
                places[row + position] = place + at;
            }
            for &source in going {
                let target = alone.len() + at[source] as usize;
                counts[target] += 1;
                merged.push(row + sources[source]);
                into.push(place + target);
                places[row + sources[source]] = place + target;
            }
            share.extend(counts.iter().map(|&count| 1.0 / count as f32));
        }
        let share_shape = [batch * staying, 1];
        Self {
            kept: index(&kept),
            merged: index(&merged),
            into: index(&into),
            share: Tensor::from_data(TensorData::new(share, share_shape), (&device, dtype)),
            places: index(&places),
        }
    }

    /// The mean of what belongs together.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, height · width, channels]`
    /// - output: `[batch, height · width − count, channels]`
    pub fn merge(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, positions, channels] = hidden.dims();
        let [staying] = self.kept.dims();
        let rows = hidden.reshape([batch * positions, channels]);
        let going = rows.clone().select(0, self.merged.clone());
        let sums = rows.select(0, self.kept.clone()).select_assign(
            0,
            self.into.clone(),
            going,
            IndexingUpdateOp::Add,
        );
        (sums * self.share.clone()).reshape([batch, staying / batch, channels])
    }

    /// Each position a copy of what it was merged into.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, height · width − count, channels]`
    /// - output: `[batch, height · width, channels]`
    pub fn part(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, staying, channels] = hidden.dims();
        let [positions] = self.places.dims();
        hidden
            .reshape([batch * staying, channels])
            .select(0, self.places.clone())
            .reshape([batch, positions / batch, channels])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;
    use parity::{device, values};

    fn random(size: [usize; 2]) -> Tensor<3> {
        let shape = [2, size[0] * size[1], 8];
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
    }

    #[test]
    fn alike_positions_become_one_and_come_apart_again() {
        // Every square of four is one value, so three quarters merge without a loss.
        let (size, squares) = ([6, 8], random([3, 4]));
        let hidden = squares
            .reshape([2, 3, 1, 4, 1, 8])
            .expand([2, 3, 2, 4, 2, 8])
            .reshape([2, 48, 8]);
        let count = TokenMerging::new(0.75).merged(0, size);
        assert_eq!(count, 36);
        let matching = Matching::new(hidden.clone(), size, count);
        let merged = matching.merge(hidden.clone());
        assert_eq!(merged.dims(), [2, 12, 8]);
        let error = parity::relative_error(&values(matching.part(merged)), &values(hidden));
        assert!(error < 1e-6, "{error:.1e}");
    }

    #[test]
    fn merging_keeps_the_mean_and_the_positions_that_stay() {
        for size in [[6, 8], [5, 7], [2, 2]] {
            let hidden = random(size);
            let positions = size[0] * size[1];
            let count = TokenMerging::new(0.5).merged(0, size);
            assert_eq!(count, positions / 2);
            let matching = Matching::new(hidden.clone(), size, count);
            let merged = matching.merge(hidden.clone());
            assert_eq!(merged.dims(), [2, positions - count, 8]);
            let parted = matching.part(merged);
            let sum = |tensor: Tensor<3>| values(tensor.sum_dim(1));
            let error = parity::relative_error(&sum(parted.clone()), &sum(hidden.clone()));
            assert!(error < 1e-5, "{size:?}: {error:.1e}");
            let (before, after) = (values(hidden), values(parted));
            let same = before
                .chunks(8)
                .zip(after.chunks(8))
                .filter(|(a, b)| a == b);
            // Of each map, all that stay but the destinations that took some in.
            assert!(same.count() >= 2 * (positions - 2 * count));
        }
    }

    #[test]
    fn what_cannot_merge_does_not() {
        let all = TokenMerging::new(0.75);
        assert_eq!(all.merged(1, [8, 8]), 0);
        assert_eq!(all.merged(0, [1, 9]), 0);
        assert_eq!(TokenMerging::new(0.0).merged(0, [8, 8]), 0);
        assert_eq!(all.merged(0, [5, 5]), 18);
    }
}
