//! Attention on any backend, whose gradient computes the scores again instead of keeping them, a part of the queries at a time.
//!
//! burn's own attention is one kernel on a GPU without a graph, and with one it keeps every score: 0.5 GB a layer at 512 pixels.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
#[cfg(feature = "cube")]
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DispatchTensorKind, TensorMetadata, backend_extension};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, FloatDType, Slice, Tensor, TensorData};

/// Scores that are held at once: 256 MB of them in f32.
const SCORES: usize = if cfg!(test) { 1 << 10 } else { 1 << 26 };

/// Whether a tensor has a graph on a backend that is listed here, or lies on a GPU.
pub(crate) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.clone().into_dispatch().kind {
        #[cfg(feature = "cube")]
        DispatchTensorKind::Cube(_) => true,
        DispatchTensorKind::Autodiff(inner) => match *inner {
            #[cfg(feature = "flex")]
            DispatchTensorKind::Flex(_) => true,
            #[cfg(feature = "cube")]
            DispatchTensorKind::Cube(_) => true,
            #[allow(unreachable_patterns)]
            _ => false,
        },
        _ => false,
    }
}

/// `softmax(Q Kᵀ / √dim) V` by each backend's own kernel.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait Recomputed: Backend {
    /// `[batch, heads, positions, dim]` each.
    fn recomputed_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        attended_in_fragments::<Self>([query, key, value], causal)
    }
}

/// Numbers of a head that tensor cores multiply at once.
const FRAGMENT: usize = 16;

/// By the backend's own kernel, with heads filled up with zeros to whole fragments. burn's kernel that keeps no scores takes only such on a GPU;
/// Stable Diffusion's finest layers have heads of 40, whose scores of a batch take half a gigabyte.
fn attended_in_fragments<B: Backend>(
    [query, key, value]: [FloatTensor<B>; 3],
    causal: bool,
) -> FloatTensor<B> {
    let options = AttentionModuleOptions {
        is_causal: causal,
        ..Default::default()
    };
    let dim = query.shape()[3];
    let wide = dim.next_multiple_of(FRAGMENT);
    if wide == dim {
        return B::attention(query, key, value, None, None, options);
    }
    // The scores of a wider head are divided by its own width's root.
    let query = B::float_mul_scalar(query, (wide as f64 / dim as f64).sqrt().into());
    let filled = |tensor: FloatTensor<B>| {
        let mut shape = tensor.shape();
        shape[3] = wide - dim;
        let dtype = FloatDType::from(tensor.dtype());
        let zeros = B::float_zeros(shape, &tensor.device(), dtype);
        B::float_cat(vec![tensor, zeros], 3)
    };
    let (query, key, value) = (filled(query), filled(key), filled(value));
    let out = B::attention(query, key, value, None, None, options);
    let all = Slice::full();
    B::float_slice(out, &[all, all, all, Slice::from(0..dim)])
}

#[cfg(feature = "flex")]
impl Recomputed for burn::backend::Flex {}
#[cfg(feature = "cube")]
impl Recomputed for burn::backend::Cube {
    /// burn's kernel that keeps no scores multiplies f16, and of 16-bit numbers takes no others. Queries, keys and values lie well within f16's range,
    /// and the sums over them are f32.
    fn recomputed_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        if query.dtype() != DType::BF16 {
            return attended_in_fragments::<Self>([query, key, value], causal);
        }
        let inputs = [query, key, value].map(|input| Self::float_cast(input, FloatDType::F16));
        let out = attended_in_fragments::<Self>(inputs, causal);
        Self::float_cast(out, FloatDType::BF16)
    }
}

impl<B: Backend + Recomputed, C: CheckpointStrategy> Recomputed for Autodiff<B, C> {
    fn recomputed_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value];
        let prepared = AttentionBackward
            .prepare::<C>(inputs.each_ref().map(|input| input.node()))
            .compute_bound()
            .stateful();
        let [query, key, value] = inputs.map(|input| input.into_primitive());
        let out = B::recomputed_attention(query.clone(), key.clone(), value.clone(), causal);
        match prepared {
            OpsKind::Tracked(prep) => prep.finish(
                Attended {
                    query,
                    key,
                    value,
                    out: out.clone(),
                    causal,
                },
                out,
            ),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct Attended<B: Backend> {
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    out: FloatTensor<B>,
    causal: bool,
}

impl<B: Backend> Backward<B, 3> for AttentionBackward {
    type State = Attended<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let all = ops.state.gradients(grad);
        for (parent, gradient) in ops.parents.into_iter().zip(all) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: Backend> Attended<B> {
    /// Those of query, key and value (Dao et al. 2022, algorithm 4, without its tiles of keys). Scores and sums are f32 where tensors are
    /// narrower.
    fn gradients(self, grad: FloatTensor<B>) -> [FloatTensor<B>; 3] {
        let [batch, heads, positions, _] = self.query.shape().dims();
        let tokens = self.key.shape()[2];
        let rows = (SCORES / (batch * heads * tokens)).clamp(1, positions);
        let narrow = FloatDType::from(self.query.dtype());
        let key = B::float_swap_dims(self.key.clone(), 2, 3);
        let value = B::float_swap_dims(self.value.clone(), 2, 3);

        let mut of_query = Vec::new();
        let (mut of_key, mut of_value) = (None, None);
        for start in (0..positions).step_by(rows) {
            let part = start..(start + rows).min(positions);
            let slice = |tensor: &FloatTensor<B>| {
                let [all, part] = [Slice::full(), Slice::from(part.clone())];
                B::float_slice(tensor.clone(), &[all, all, part, all])
            };
            let (query, grad) = (slice(&self.query), slice(&grad));
            // P = softmax(Q Kᵀ / √dim)
            let weights = self.weights(query.clone(), key.clone(), part.start);
            // dP − Σ dO ∘ O, of which P ∘ makes the scores' gradient
            let dots = B::float_mul(wide::<B>(grad.clone()), wide::<B>(slice(&self.out)));
            let of_weights = wide::<B>(B::float_matmul(grad.clone(), value.clone()));
            let centred = B::float_sub(of_weights, B::float_sum_dim(dots, 3));
            let of_scores = B::float_mul(weights.clone(), centred);
            let of_scores = B::float_mul_scalar(of_scores, self.scale().into());
            let (weights, of_scores) = (
                B::float_cast(weights, narrow),
                B::float_cast(of_scores, narrow),
            );

            of_query.push(B::float_matmul(of_scores.clone(), self.key.clone()));
            add::<B>(&mut of_key, transposed_matmul::<B>(of_scores, query));
            add::<B>(&mut of_value, transposed_matmul::<B>(weights, grad));
        }
        let of_query = match of_query.len() {
            1 => of_query.remove(0),
            _ => B::float_cat(of_query, 2),
        };
        let [of_key, of_value] = [of_key, of_value].map(|sum| {
            let sum = sum.expect("a query at least");
            B::float_cast(sum, narrow)
        });
        [of_query, of_key, of_value]
    }

    fn scale(&self) -> f64 {
        1.0 / (self.query.shape()[3] as f64).sqrt()
    }

    /// The softmax of some queries' scores, of which the first is query `start`.
    fn weights(&self, query: FloatTensor<B>, key: FloatTensor<B>, start: usize) -> FloatTensor<B> {
        // Scaled before the product, which in f16 might not hold the sum.
        let query = B::float_mul_scalar(query, self.scale().into());
        let scores = wide::<B>(B::float_matmul(query, key));
        let scores = match self.causal {
            true => {
                let [_, _, rows, tokens] = scores.shape().dims();
                let seen = |i: usize| {
                    if i % tokens <= start + i / tokens {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                };
                let values: Vec<f32> = (0..rows * tokens).map(seen).collect();
                let mask = TensorData::new(values, [1, 1, rows, tokens]);
                let mask = mask.convert_dtype(scores.dtype());
                let mask = B::float_from_data(mask, &scores.device());
                B::float_add(scores, mask)
            }
            false => scores,
        };
        let most = B::float_max_dim(scores.clone(), 3);
        let powers = B::float_exp(B::float_sub(scores, most));
        let sums = B::float_sum_dim(powers.clone(), 3);
        B::float_div(powers, sums)
    }
}

/// In f32 what is narrower.
fn wide<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => B::float_cast(tensor, FloatDType::F32),
        _ => tensor,
    }
}

/// Aᵀ B over the last two axes.
fn transposed_matmul<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(B::float_swap_dims(a, 2, 3), b)
}

/// Adds up in f32 at least.
fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, term: FloatTensor<B>) {
    let term = wide::<B>(term);
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, term),
        None => term,
    });
}
