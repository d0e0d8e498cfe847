//! Low-rank weights on burn's reparameterization seam.

use burn::module::{Module, Param, Reparameterization};
use burn::tensor::{DType, Tensor, TensorData};

/// One pair of factors (Hu et al. 2021): ΔW = (alpha / rank) · up · down.
#[derive(Module, Debug)]
pub struct LowRank {
    /// `[rank, fan_in]`; a convolution's fan-in is `channels · height · width`, in that order.
    pub down: Param<Tensor<2>>,
    /// `[fan_out, rank]`.
    pub up: Param<Tensor<2>>,
    /// `[1]`: alpha times the strength. It is a frozen tensor and not a number, since burn's visitors and records see nothing else. A pair
    /// whose alpha has another shape counts as taken off.
    pub alpha: Param<Tensor<1>>,
}

impl LowRank {
    /// A frozen pair: `down: [rank, fan_in]`, `up: [fan_out, rank]`.
    ///
    /// # Panics
    /// If the ranks differ.
    pub fn new(down: Tensor<2>, up: Tensor<2>, alpha: f64) -> Self {
        assert_eq!(
            down.dims()[0],
            up.dims()[1],
            "down is [rank, fan_in], up is [fan_out, rank]"
        );
        let alpha = Tensor::from_data(
            TensorData::new(vec![alpha as f32], [1]),
            (&down.device(), DType::F32),
        );
        let frozen = |tensor| Param::from_tensor(tensor).set_require_grad(false);
        Self {
            down: frozen(down),
            up: frozen(up),
            alpha: Param::from_tensor(alpha).set_require_grad(false),
        }
    }

    /// The same pair with gradients for `down` and `up`.
    pub fn trainable(self) -> Self {
        Self {
            down: self.down.set_require_grad(true),
            up: self.up.set_require_grad(true),
            alpha: self.alpha,
        }
    }

    /// The number of rows of `down`.
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }

    /// ΔW in the reference's order, `[fan_out, fan_in]`.
    pub fn delta(&self) -> Tensor<2> {
        self.scaled_up().matmul(self.down.val())
    }

    /// ΔW in burn's order for linear layers, `[fan_in, fan_out]`.
    fn delta_transposed(&self) -> Tensor<2> {
        self.down
            .val()
            .transpose()
            .matmul(self.scaled_up().transpose())
    }

    /// `up` is smaller than ΔW, so the scale goes there.
    pub(crate) fn scaled_up(&self) -> Tensor<2> {
        let up = self.up.val();
        let scale = self
            .alpha
            .val()
            .div_scalar(self.rank() as f64)
            .cast(up.dtype());
        up * scale.reshape([1, 1])
    }

    fn is_detached(&self) -> bool {
        self.alpha.dims()[0] != 1
    }
}

/// The low-rank pairs on one weight: W = base + Σ ΔW, in the base's number type.
///
/// A weight of two axes is burn's linear `[fan_in, fan_out]`; of four axes, a convolution's `[fan_out, channels, height, width]`.
#[derive(Module, Debug)]
pub struct LowRankStack {
    layers: Vec<LowRank>,
}

impl LowRankStack {
    /// Pairs, to be added in this order.
    pub fn new(layers: Vec<LowRank>) -> Self {
        Self { layers }
    }

    /// The pairs, in the order in which they were put on.
    pub fn layers(&self) -> &[LowRank] {
        &self.layers
    }

    /// The pairs that are not taken off.
    pub(crate) fn live(&self) -> impl Iterator<Item = &LowRank> {
        self.layers.iter().filter(|layer| !layer.is_detached())
    }

    /// Whether a pair has gradients.
    pub(crate) fn is_trained(&self) -> bool {
        self.live().any(|pair| pair.up.val().is_require_grad())
    }

    /// The pair, if there is but one.
    #[cfg(feature = "flex")]
    pub(crate) fn single(&self) -> Option<&LowRank> {
        let mut live = self.live();
        live.next().filter(|_| live.next().is_none())
    }
}

impl Reparameterization for LowRankStack {
    const NAME: &'static str = "lora";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        self.live().fold(base, |weight, layer| {
            let delta = if D == 2 {
                layer.delta_transposed()
            } else {
                layer.delta()
            };
            let (shape, dtype) = (weight.shape(), weight.dtype());
            let delta = delta.reshape(shape);
            weight
                + if delta.dtype() == dtype {
                    delta
                } else {
                    delta.cast(dtype)
                }
        })
    }
}
