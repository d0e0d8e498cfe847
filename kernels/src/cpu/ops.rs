use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, DispatchTensorKind, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::{Bytes, DType, FloatDType, Shape, Tensor, f16};

use super::attention::{self, Heads};
use super::bf16::{self, Factor, Kernels, Numbers};
use super::convolution;
use super::gemm::{self, Matrix};
use super::memory;
use super::norm::{self, Groups};
use super::pointwise;
use super::tile::Rows;
use super::turn::Turn;

/// Whether all tensors are f32 and on the CPU backend.
pub(crate) fn all_fused<const N: usize>(tensors: [&dyn Fused; N]) -> bool {
    tensors.iter().all(|tensor| tensor.fused())
}

/// Whether a tensor lies on the CPU backend.
pub(crate) fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    match tensor.clone().into_dispatch().kind {
        DispatchTensorKind::Flex(_) => true,
        DispatchTensorKind::Autodiff(inner) => matches!(*inner, DispatchTensorKind::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// A tensor that the fused paths can take, or not.
pub(crate) trait Fused {
    fn fused(&self) -> bool;
}

impl<const D: usize> Fused for Tensor<D> {
    fn fused(&self) -> bool {
        self.dtype() == DType::F32 && on_cpu(self)
    }
}

/// A weight of a product, which takes it in 16 bits too.
pub(crate) struct Factored<'a, const D: usize>(pub &'a Tensor<D>);

impl<const D: usize> Fused for Factored<'_, D> {
    fn fused(&self) -> bool {
        self.0.fused() || is_short(self.0)
    }
}

/// Whether products round their factors to bf16.
pub(crate) fn rounds_products() -> bool {
    bf16::used()
}

/// Whether a weight need not be widened for a product, which rounds it.
pub(crate) fn stays_short<const D: usize>(weight: &Tensor<D>) -> bool {
    rounds_products() && is_short(weight)
}

/// Whether a weight is of 16-bit floats on the CPU.
pub(crate) fn is_short<const D: usize>(weight: &Tensor<D>) -> bool {
    matches!(weight.dtype(), DType::F16 | DType::BF16) && on_cpu(weight)
}

/// The fused operations. Each takes f32 tensors, and weights of products in 16 bits; what they compute is said at the public functions of this crate.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait CpuOps: Backend {
    /// 16-bit floats to f32.
    fn fused_widen(input: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Two of one shape.
    fn fused_add(first: FloatTensor<Self>, second: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `[batch, heads, positions, dim]` each.
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self>;
    /// `x · sigmoid(rate · x)`.
    fn fused_swish(input: FloatTensor<Self>, rate: f64) -> FloatTensor<Self>;
    /// `x · Φ(x)`.
    fn fused_gelu(input: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `[.., 2 · channels]` to `[.., channels]`.
    fn fused_geglu(input: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `[batch, channels, ..]`.
    fn fused_group_norm(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// `[.., channels]`.
    fn fused_layer_norm(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// `[.., in]` by `[in, out]`.
    fn fused_product(input: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `[.., in]` by `[in, out]`, plus `[out]`.
    fn fused_linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `[.., in]` by `[in, out] + downᵀ upᵀ`, plus `[out]`, where `down: [rank, in]` and `up: [out, rank]`. The weight and the bias have no
    /// gradient.
    fn fused_adapted(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `[batch, in, height, width]` by `[out, in, 3, 3]` or `[out, in, 1, 1]`, plus `[out]`; height and width stay, or are those of the input with
    /// each cell doubled both ways.
    fn fused_convolution(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        doubled: bool,
    ) -> FloatTensor<Self>;
}

/// A tensor of the CPU backend with its place in the graph.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// A contiguous tensor of these values.
fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("the tensor was made contiguous, and is f32")
}

/// Runs on the values of tensors, made contiguous.
fn on_slices<const N: usize, R>(tensors: [FlexTensor; N], run: impl FnOnce([&[f32]; N]) -> R) -> R {
    let tensors = tensors.map(contiguous);
    run(std::array::from_fn(|i| slice(&tensors[i])))
}

/// 16-bit floats to f32, in the order in which they lie.
fn widen(input: FlexTensor) -> FlexTensor {
    // All that is stored is widened, so that the layout still holds; a part of a larger tensor is copied first.
    let part = input.bytes().len() > 2 * input.layout().num_elements();
    let input = if part { input.to_contiguous() } else { input };
    let values = match input.dtype() {
        DType::F16 => memory::widen(input.storage::<f16>()),
        DType::BF16 => memory::widen(input.storage::<burn::tensor::bf16>()),
        other => unreachable!("{other:?} is no 16-bit float"),
    };
    let layout = input.layout().clone();
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

#[derive(Debug)]
struct Widening;

impl Backward<Flex, 1> for Widening {
    type State = FloatDType;

    fn backward(self, ops: Ops<FloatDType, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        if let [Some(parent)] = ops.parents {
            grads.register::<Flex>(parent.id, Flex::float_cast(grad, ops.state));
        }
    }
}

/// A tensor whose elements lie one after the other. Matrices that are turned over, as a picture is between convolutions and attention, are copied by
/// squares on all threads.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let (shape, layout) = (tensor.shape(), tensor.layout());
    let strides = layout.strides();
    if layout.is_contiguous() || strides.len() != 3 || strides[1] != 1 || strides[0] < 0 {
        return tensor.to_contiguous();
    }
    let [batch, rows, columns] = shape.dims();
    if batch * rows * columns == 0 || strides[2] < rows as isize {
        return tensor.to_contiguous();
    }
    let from = &tensor.storage::<f32>()[layout.start_offset()..];
    let (member, stride) = (strides[0] as usize, strides[2] as usize);
    // Rows of a task, which are all of one matrix.
    let most = 64.min(rows);
    let high = (1..=most).rev().find(|high| rows.is_multiple_of(*high));
    let high = high.unwrap_or(1);
    let values = memory::build(batch * rows * columns, high * columns, |index, out| {
        let (at, row) = (index * high / rows, index * high % rows);
        let turn = Turn {
            from: Rows {
                data: &from[at * member + row..],
                stride,
            },
            rows: columns,
            columns: high,
            scale: 1.0,
        };
        let out = memory::fill(out, |_| 0.0);
        turn.write(out, columns);
        out
    });
    self::tensor(values, shape)
}

// --- Sum

/// Written over one of the two, where nothing else holds that.
fn add(first: FlexTensor, second: FlexTensor) -> FlexTensor {
    let (mut first, mut second) = (contiguous(first), contiguous(second));
    let whole = |tensor: &FlexTensor| {
        tensor.is_unique() && tensor.bytes().len() == 4 * tensor.layout().num_elements()
    };
    if whole(&first) {
        pointwise::add_to(first.storage_mut(), slice(&second));
        return first;
    }
    if whole(&second) {
        pointwise::add_to(second.storage_mut(), slice(&first));
        return second;
    }
    let shape = first.shape();
    tensor(pointwise::sum_of(slice(&first), slice(&second)), shape)
}

#[derive(Debug)]
struct AddBackward;

impl Backward<Flex, 2> for AddBackward {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        for parent in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(parent.id, grad.clone());
        }
    }
}

// --- Attention

/// A tensor whose last axis lies element by element, with no negative stride.
fn headed(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    if layout.strides()[3] == 1 && layout.has_positive_strides() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn heads(tensor: &FlexTensor) -> Heads<'_> {
    let [batch, heads, positions, dim] = tensor.shape().dims();
    let layout = tensor.layout();
    let stride = |axis: usize| layout.strides()[axis] as usize;
    Heads {
        data: &tensor.storage::<f32>()[layout.start_offset()..],
        batch,
        heads,
        positions,
        dim,
        strides: [stride(0), stride(1), stride(2)],
    }
}

/// `[batch, heads, positions, dim]` over `[batch, positions, heads, dim]` in memory, as the layers around attention have it.
fn interleaved(values: Vec<f32>, [batch, heads, positions, dim]: [usize; 4]) -> FlexTensor {
    let strides = [positions * heads * dim, dim, heads * dim, 1].map(|stride| stride as isize);
    let layout = Layout::new(
        Shape::new([batch, heads, positions, dim]),
        strides.to_vec(),
        0,
    );
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

/// The output, and of each query the logarithm of its sum.
fn attend([q, k, v]: [&FlexTensor; 3], causal: bool) -> (FlexTensor, Vec<f32>) {
    let (q, k, v) = (heads(q), heads(k), heads(v));
    let (out, sums) = attention::forward(q, k, v, causal);
    (
        interleaved(out, [q.batch, q.heads, q.positions, q.dim]),
        sums,
    )
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct Attended {
    inputs: [FlexTensor; 3],
    out: FlexTensor,
    sums: Vec<f32>,
    causal: bool,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = Attended;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = headed(grads.consume::<Flex>(&ops.node));
        let Attended {
            inputs: [q, k, v],
            out,
            sums,
            causal,
        } = ops.state;
        let all = attention::backward([&q, &k, &v, &out, &grad].map(heads), &sums, causal);
        for (parent, (values, like)) in
            ops.parents
                .into_iter()
                .zip([(all.q, q), (all.k, k), (all.v, v)])
        {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, interleaved(values, like.shape().dims()));
            }
        }
    }
}

// --- Pointwise

/// An activation of which the input is all that its gradient needs.
#[derive(Clone, Copy, Debug)]
enum Activation {
    Swish(f32),
    Gelu,
    Geglu,
}

impl Activation {
    fn forward(self, input: FlexTensor) -> FlexTensor {
        let shape = input.shape();
        on_slices([input], |[x]| match self {
            Self::Swish(rate) => tensor(pointwise::swish(x, rate), shape),
            Self::Gelu => tensor(pointwise::gelu(x), shape),
            Self::Geglu => {
                let mut shape = shape;
                let last = shape.num_dims() - 1;
                shape[last] /= 2;
                tensor(pointwise::geglu(x, shape[last]), shape)
            }
        })
    }

    fn gradient(self, input: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let shape = input.shape();
        on_slices([input, grad], |[x, grad]| {
            let values = match self {
                Self::Swish(rate) => pointwise::swish_backward(x, grad, rate),
                Self::Gelu => pointwise::gelu_backward(x, grad),
                Self::Geglu => pointwise::geglu_backward(x, grad, shape[shape.num_dims() - 1] / 2),
            };
            tensor(values, shape)
        })
    }

    fn tracked<C: CheckpointStrategy>(self, input: Tracked) -> Tracked {
        match self.prepare::<C>([input.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&input);
                prep.finish(state, self.forward(input.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(self.forward(input.into_primitive())),
        }
    }
}

impl Backward<Flex, 1> for Activation {
    type State = NodeId;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<Flex>(&ops.node);
        let input = checkpointer.retrieve_node_output::<FlexTensor>(ops.state);
        if let [Some(parent)] = ops.parents {
            grads.register::<Flex>(parent.id, self.gradient(input, grad));
        }
    }
}

// --- Norms

/// A norm with its weight and bias.
#[derive(Clone, Copy, Debug)]
enum Norm {
    Group {
        groups: usize,
        epsilon: f32,
        silu: bool,
    },
    Layer {
        epsilon: f32,
    },
}

impl Norm {
    fn groups(shape: &Shape, groups: usize, epsilon: f32, silu: bool) -> Groups {
        let cells = (2..shape.num_dims()).map(|axis| shape[axis]).product();
        Groups {
            channels: shape[1],
            cells,
            groups,
            epsilon,
            silu,
        }
    }

    fn forward(self, [input, weight, bias]: [FlexTensor; 3]) -> FlexTensor {
        let shape = input.shape();
        on_slices([input, weight, bias], |[x, weight, bias]| {
            let values = match self {
                Self::Group {
                    groups,
                    epsilon,
                    silu,
                } => norm::group_norm(x, weight, bias, Self::groups(&shape, groups, epsilon, silu)),
                Self::Layer { epsilon } => norm::layer_norm(x, weight, bias, epsilon),
            };
            tensor(values, shape)
        })
    }

    fn tracked<C: CheckpointStrategy>(self, inputs: [Tracked; 3]) -> Tracked {
        match self
            .prepare::<C>(inputs.each_ref().map(Tracked::node))
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = inputs.each_ref().map(|input| prep.checkpoint(input));
                prep.finish(state, self.forward(inputs.map(Tracked::into_primitive)))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(self.forward(inputs.map(Tracked::into_primitive)))
            }
        }
    }
}

impl Backward<Flex, 3> for Norm {
    type State = [NodeId; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<Flex>(&ops.node);
        let [input, weight, bias] = ops
            .state
            .map(|node| checkpointer.retrieve_node_output::<FlexTensor>(node));
        let (shape, channels) = (input.shape(), weight.shape());
        let trained = ops.parents[1..].iter().any(Option::is_some);
        let (dx, dweight, dbias) = on_slices(
            [input, weight, bias, grad],
            |[x, weight, bias, grad]| match self {
                Self::Group {
                    groups,
                    epsilon,
                    silu,
                } => norm::group_norm_backward(
                    x,
                    weight,
                    bias,
                    grad,
                    Self::groups(&shape, groups, epsilon, silu),
                ),
                Self::Layer { epsilon } => {
                    norm::layer_norm_backward(x, weight, grad, epsilon, trained)
                }
            },
        );
        let values = [(dx, shape), (dweight, channels.clone()), (dbias, channels)];
        for (parent, (values, shape)) in ops.parents.into_iter().zip(values) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(values, shape));
            }
        }
    }
}

// --- Linear

/// A weight `[in, out]` in whatever order it lies.
fn matrix(weight: &FlexTensor) -> Factor<'_> {
    let ([rows, columns], layout) = (weight.shape().dims(), weight.layout());
    Factor {
        numbers: numbers(weight),
        rows,
        columns,
        strides: [layout.strides()[0] as usize, layout.strides()[1] as usize],
    }
}

/// What is stored from a tensor's first element on.
fn numbers(tensor: &FlexTensor) -> Numbers<'_> {
    let first = tensor.layout().start_offset();
    match tensor.dtype() {
        DType::F16 => Numbers::F16(&tensor.storage()[first..]),
        DType::BF16 => Numbers::Bf16(&tensor.storage()[first..]),
        _ => Numbers::F32(&tensor.storage()[first..]),
    }
}

/// `A · B`, `[rows of A, columns of B]`, with a bias added to every row.
fn product(a: Matrix<'_>, b: Factor<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    bf16::product(a.into(), b, bias).unwrap_or_else(|| exact_product(a, b, bias))
}

/// The same, never rounded.
fn exact_product(a: Matrix<'_>, b: Factor<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let widened;
    let data = match b.numbers {
        Numbers::F32(numbers) => numbers,
        Numbers::F16(numbers) => {
            widened = memory::widen(numbers);
            &widened
        }
        Numbers::Bf16(numbers) => {
            widened = memory::widen(numbers);
            &widened
        }
    };
    let Factor {
        rows,
        columns,
        strides,
        ..
    } = b;
    let b = Matrix {
        data,
        rows,
        columns,
        strides,
    };
    gemm::product(a, b, bias)
}

/// A tensor of 16-bit floats as f32, any other as it is.
fn in_f32(tensor: FlexTensor) -> FlexTensor {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => widen(tensor),
        _ => tensor,
    }
}

/// A tensor without negative strides.
fn forwards(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().has_positive_strides() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn multiply(input: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    let (input, weight) = (contiguous(input), forwards(weight));
    let bias = bias.map(|bias| bias.to_contiguous());
    let (mut shape, weight) = (input.shape(), matrix(&weight));
    let last = shape.num_dims() - 1;
    shape[last] = weight.columns;
    let x = slice(&input);
    let rows = x.len() / weight.rows;
    let x = Matrix::new(x, rows, weight.rows);
    tensor(product(x, weight, bias.as_ref().map(slice)), shape)
}

/// What the gradient of a product needs: the input where the weight is trained, the weight where the input has a gradient.
#[derive(Clone, Debug)]
struct Factors {
    input: Option<NodeId>,
    weight: Option<NodeId>,
    input_shape: Shape,
    weight_type: FloatDType,
}

/// The gradients of `[.., in]` and `[in, out]`.
fn register_factors(
    [input, weight]: [Option<NodeId>; 2],
    factors: Factors,
    grad: &[f32],
    columns: usize,
    grads: &mut Gradients,
    checkpointer: &mut Checkpointer,
) {
    let grad = Matrix::new(grad, grad.len() / columns, columns);
    if let (Some(id), Some(node)) = (input, factors.weight) {
        let weight = forwards(checkpointer.retrieve_node_output::<FlexTensor>(node));
        let values = product(grad, matrix(&weight).transposed(), None);
        grads.register::<Flex>(id, tensor(values, factors.input_shape));
    }
    if let (Some(id), Some(node)) = (weight, factors.input) {
        let input = checkpointer
            .retrieve_node_output::<FlexTensor>(node)
            .to_contiguous();
        let x = slice(&input);
        let inner = x.len() / grad.rows;
        let x = Matrix::new(x, grad.rows, inner).transposed();
        let values = tensor(product(x, grad.into(), None), Shape::new([inner, columns]));
        grads.register::<Flex>(id, Flex::float_cast(values, factors.weight_type));
    }
}

#[derive(Debug)]
struct ProductBackward;

impl Backward<Flex, 2> for ProductBackward {
    type State = Factors;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let columns = grad.shape()[grad.shape().num_dims() - 1];
        register_factors(
            ops.parents.map(|parent| parent.map(|node| node.id)),
            ops.state,
            slice(&grad),
            columns,
            grads,
            checkpointer,
        );
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 3> for LinearBackward {
    type State = Factors;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let columns = grad.shape()[grad.shape().num_dims() - 1];
        let [input, weight, bias] = ops.parents;
        if let Some(parent) = bias {
            grads.register::<Flex>(
                parent.id,
                tensor(gemm::sum_rows(slice(&grad), columns), Shape::new([columns])),
            );
        }
        let parents = [input, weight].map(|parent| parent.map(|node| node.id));
        register_factors(
            parents,
            ops.state,
            slice(&grad),
            columns,
            grads,
            checkpointer,
        );
    }
}

/// `[in, out] + downᵀ upᵀ`, as the weight lies.
fn with_factors(weight: &FlexTensor, down: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let weight = &in_f32(weight.clone());
    let [rows, columns] = weight.shape().dims();
    let rank = down.shape()[0];
    let strides = weight.layout().strides();
    let turned = strides[0] == 1 && strides[1] == rows as isize;
    let weight = if turned {
        weight.clone()
    } else {
        weight.to_contiguous()
    };
    let first = weight.layout().start_offset();
    let mut values = weight.storage::<f32>()[first..][..rows * columns].to_vec();
    let (down, up) = (down.to_contiguous(), up.to_contiguous());
    let down = Matrix::new(slice(&down), rank, rows);
    let up = Matrix::new(slice(&up), columns, rank);
    let layout = if turned {
        gemm::accumulate_rows(&mut values, up, down);
        Layout::new(Shape::new([rows, columns]), vec![1, rows as isize], 0)
    } else {
        gemm::accumulate_rows(&mut values, down.transposed(), up.transposed());
        Layout::contiguous(Shape::new([rows, columns]))
    };
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

/// A linear layer with factors on its weight: its input, weight, `down` and `up`.
#[derive(Clone, Debug)]
struct Adapted([FlexTensor; 4]);

impl Adapted {
    /// Of few rows the factors are applied to the activations; of many they are put on the weight first. Either takes as many multiplications
    /// for each of the factors' ranks: `rows · (in + out)`, or `in · out`. A weight that they are on is not rounded to bf16's 8 bits, of which they
    /// might change none; where the product is rounded, theirs is one beside it.
    fn forward(&self, bias: FlexTensor) -> FlexTensor {
        let Self([input, weight, down, up]) = self;
        let [from, out] = weight.shape().dims();
        let rank = down.shape()[0];
        let rows = input.layout().num_elements() / from.max(1);
        let mut shape = input.shape();
        let last = shape.num_dims() - 1;
        shape[last] = out;
        let [input, down, up, bias] =
            [input, down, up, &bias].map(|tensor| contiguous(tensor.clone()));
        let x = Matrix::new(slice(&input), rows, from);
        let (low, high) = (
            Matrix::new(slice(&down), rank, from),
            Matrix::new(slice(&up), out, rank),
        );
        let bias = Some(slice(&bias));
        if rows * (from + out) >= from * out && !factors_beside(rank, [from, out]) {
            let weight = with_factors(weight, &down, &up);
            return tensor(exact_product(x, matrix(&weight), bias), shape);
        }
        let weight = forwards(weight.clone());
        let seen = product(x, low.transposed().into(), None);
        let seen = Matrix::new(&seen, rows, rank);
        let values = product_and_more([x, seen], matrix(&weight), high.transposed(), bias);
        tensor(values, shape)
    }
}

/// Whether the factors of a weight `[in, out]` are multiplied beside it, however many rows there are, for products are rounded.
fn factors_beside(rank: usize, [from, out]: [usize; 2]) -> bool {
    bf16::used() && rank * (from + out) <= from * out
}

/// `A · B + C · D`, with a bias added to every row.
fn product_and_more(
    [a, c]: [Matrix<'_>; 2],
    b: Factor<'_>,
    d: Matrix<'_>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let pairs = [[a.into(), b], [c.into(), d.into()]];
    bf16::sum_of_products(&pairs, bias).unwrap_or_else(|| {
        let mut values = exact_product(a, b, bias);
        gemm::accumulate_rows(&mut values, c, d);
        values
    })
}

#[derive(Debug)]
struct AdaptedBackward;

impl Backward<Flex, 3> for AdaptedBackward {
    type State = Adapted;

    /// With G the output's gradient: that of `down` is (G up)ᵀ x, that of `up` is Gᵀ (x downᵀ), and that of x is G Wᵀ + (G up) down, whose second
    /// part is in the weight where there are many rows.
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let Adapted([input, weight, down, up]) = ops.state;
        let shape = input.shape();
        let [from, out] = weight.shape().dims();
        let [x, down, up] = [input, down, up].map(|tensor| tensor.to_contiguous());
        let rank = down.shape()[0];
        let g = slice(&grad);
        let g = Matrix::new(g, g.len() / out, out);
        let x = Matrix::new(slice(&x), g.rows, from);
        let (low, high) = (
            Matrix::new(slice(&down), rank, from),
            Matrix::new(slice(&up), out, rank),
        );
        let [to_input, to_down, to_up] = ops.parents;
        let pulled = product(g, high.into(), None);
        let pulled = Matrix::new(&pulled, g.rows, rank);
        if let Some(parent) = to_input {
            let values = if g.rows >= out && !factors_beside(rank, [from, out]) {
                let weight = with_factors(&weight, &down, &up);
                exact_product(g, matrix(&weight).transposed(), None)
            } else {
                let weight = forwards(weight);
                product_and_more([g, pulled], matrix(&weight).transposed(), low, None)
            };
            grads.register::<Flex>(parent.id, tensor(values, shape));
        }
        if let Some(parent) = to_down {
            let values = product(pulled.transposed(), x.into(), None);
            grads.register::<Flex>(parent.id, tensor(values, Shape::new([rank, from])));
        }
        if let Some(parent) = to_up {
            let seen = product(x, low.transposed().into(), None);
            let seen = Matrix::new(&seen, g.rows, rank);
            let values = product(g.transposed(), seen.into(), None);
            grads.register::<Flex>(parent.id, tensor(values, Shape::new([out, rank])));
        }
    }
}

// --- Convolution

/// What a convolution is computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The input.
    Input,
    /// The input with each cell doubled both ways.
    Doubled,
    /// A gradient, with the weight's transpose.
    Gradient,
}

fn convolve(
    input: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    over: Over,
) -> FlexTensor {
    let (input, weight) = (input.to_contiguous(), weight.to_contiguous());
    let bias = bias.map(|bias| bias.to_contiguous());
    let [batch, channels_in, height, width] = input.shape().dims();
    let backward = over == Over::Gradient;
    let size = if over == Over::Doubled { 2 } else { 1 };
    let shape = convolution::Shape {
        batch,
        channels_in,
        channels_out: weight.shape()[usize::from(backward)],
        height: size * height,
        width: size * width,
        doubled: over == Over::Doubled,
    };
    let x = slice(&input);
    let cells = shape.height * shape.width;
    let values = if weight.shape()[2] == 3 {
        let bias = bias.as_ref().map(slice);
        let kernels = Kernels {
            numbers: numbers(&weight),
            backward,
        };
        bf16::convolve(x, kernels, bias, shape)
            .unwrap_or_else(|| convolution::convolve(x, kernels, bias, shape))
    } else {
        let weight = in_f32(weight);
        let kernel = Matrix::new(slice(&weight), weight.shape()[0], weight.shape()[1]);
        let kernel = if backward {
            kernel.transposed()
        } else {
            kernel
        };
        let member = |member: usize| {
            let from = &x[member * channels_in * cells..][..channels_in * cells];
            Matrix::new(from, channels_in, cells)
        };
        let rounded: Option<Vec<Vec<f32>>> = (0..batch)
            .map(|index| bf16::product(kernel.into(), member(index).into(), None))
            .collect();
        let mut values = match rounded {
            Some(values) => values.concat(),
            None => gemm::products(batch, [shape.channels_out, cells], |index| {
                (kernel, member(index))
            }),
        };
        if let Some(bias) = &bias {
            pointwise::add_channels(&mut values, slice(bias), cells);
        }
        values
    };
    let shape = [batch, shape.channels_out, shape.height, shape.width];
    tensor(values, Shape::new(shape))
}

/// The gradient of a convolution's weight.
fn weight_gradient(
    input: FlexTensor,
    weight: &FlexTensor,
    grad: FlexTensor,
    doubled: bool,
) -> FlexTensor {
    let [batch, channels_out, height, width] = grad.shape().dims();
    let channels_in = input.shape()[1];
    let shape = convolution::Shape {
        batch,
        channels_in,
        channels_out,
        height,
        width,
        doubled,
    };
    let cells = height * width;
    let values = on_slices([input, grad], |[x, grad]| {
        if weight.shape()[2] == 3 {
            return convolution::weight_gradient(x, grad, shape);
        }
        let mut values = vec![0.0; channels_out * channels_in];
        for (x, grad) in x
            .chunks_exact(channels_in * cells)
            .zip(grad.chunks_exact(channels_out * cells))
        {
            let grad = Matrix::new(grad, channels_out, cells);
            let x = Matrix::new(x, channels_in, cells);
            gemm::accumulate(&mut values, grad, x.transposed());
        }
        values
    });
    tensor(values, weight.shape())
}

/// The sum of each cell's four: the transpose of doubling each cell.
fn halve(input: FlexTensor) -> FlexTensor {
    let [batch, channels, height, width] = input.shape().dims();
    let values = on_slices([input], |[x]| pointwise::halve(x, width));
    let shape = [batch, channels, height / 2, width / 2];
    tensor(values, Shape::new(shape))
}

#[derive(Debug)]
struct ConvolutionBackward {
    doubled: bool,
}

impl Backward<Flex, 3> for ConvolutionBackward {
    type State = Factors;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<Flex>(&ops.node);
        let [input, weight, bias] = ops.parents;
        if let Some(parent) = bias {
            let [_, channels, height, width] = grad.shape().dims();
            let sums = on_slices([grad.clone()], |[grad]| {
                pointwise::sum_channels(grad, channels, height * width)
            });
            grads.register::<Flex>(parent.id, tensor(sums, Shape::new([channels])));
        }
        let kernel = ops
            .state
            .weight
            .map(|node| checkpointer.retrieve_node_output::<FlexTensor>(node));
        if let (Some(parent), Some(kernel)) = (input, &kernel) {
            let gradient = convolve(grad.clone(), kernel.clone(), None, Over::Gradient);
            let gradient = if self.doubled {
                halve(gradient)
            } else {
                gradient
            };
            grads.register::<Flex>(parent.id, gradient);
        }
        if let (Some(parent), Some(node), Some(kernel)) = (weight, ops.state.input, kernel) {
            let input = checkpointer.retrieve_node_output::<FlexTensor>(node);
            let gradient = weight_gradient(input, &kernel, grad, self.doubled);
            let gradient = Flex::float_cast(gradient, ops.state.weight_type);
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

// --- The backends

impl CpuOps for Flex {
    fn fused_widen(input: FlexTensor) -> FlexTensor {
        widen(input)
    }

    fn fused_add(first: FlexTensor, second: FlexTensor) -> FlexTensor {
        add(first, second)
    }

    fn fused_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        causal: bool,
    ) -> FlexTensor {
        let [q, k, v] = [query, key, value].map(headed);
        attend([&q, &k, &v], causal).0
    }

    fn fused_swish(input: FlexTensor, rate: f64) -> FlexTensor {
        Activation::Swish(rate as f32).forward(input)
    }

    fn fused_gelu(input: FlexTensor) -> FlexTensor {
        Activation::Gelu.forward(input)
    }

    fn fused_geglu(input: FlexTensor) -> FlexTensor {
        Activation::Geglu.forward(input)
    }

    fn fused_group_norm(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        epsilon: f64,
        silu: bool,
    ) -> FlexTensor {
        Norm::Group {
            groups,
            epsilon: epsilon as f32,
            silu,
        }
        .forward([input, weight, bias])
    }

    fn fused_layer_norm(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        Norm::Layer {
            epsilon: epsilon as f32,
        }
        .forward([input, weight, bias])
    }

    fn fused_product(input: FlexTensor, weight: FlexTensor) -> FlexTensor {
        multiply(input, weight, None)
    }

    fn fused_linear(input: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        multiply(input, weight, Some(bias))
    }

    fn fused_adapted(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        down: FlexTensor,
        up: FlexTensor,
    ) -> FlexTensor {
        Adapted([input, weight, down, up]).forward(bias)
    }

    fn fused_convolution(
        input: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        doubled: bool,
    ) -> FlexTensor {
        let over = if doubled { Over::Doubled } else { Over::Input };
        convolve(input, weight, Some(bias), over)
    }
}

/// Keeps of a product's factors what the tracked ones' gradients need.
macro_rules! factors {
    ($prep:ident, $input:expr, $weight:expr) => {
        Factors {
            input: $weight.is_tracked().then(|| $prep.checkpoint(&$input)),
            weight: Some($prep.checkpoint(&$weight)),
            input_shape: $input.primitive().shape(),
            weight_type: FloatDType::from($weight.primitive().dtype()),
        }
    };
}

impl<C: CheckpointStrategy> CpuOps for Autodiff<Flex, C> {
    fn fused_widen(input: Tracked) -> Tracked {
        let dtype = FloatDType::from(input.dtype());
        let prepared = Widening.prepare::<C>([input.node()]);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(dtype, widen(input.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(widen(input.into_primitive())),
        }
    }

    fn fused_add(first: Tracked, second: Tracked) -> Tracked {
        let prepared = AddBackward.prepare::<C>([first.node(), second.node()]);
        let out = add(first.into_primitive(), second.into_primitive());
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn fused_attention(query: Tracked, key: Tracked, value: Tracked, causal: bool) -> Tracked {
        let inputs = [query, key, value];
        let prepared = AttentionBackward
            .prepare::<C>(inputs.each_ref().map(Tracked::node))
            .compute_bound()
            .stateful();
        let inputs = inputs.map(|input| headed(input.into_primitive()));
        let (out, sums) = attend(inputs.each_ref(), causal);
        match prepared {
            OpsKind::Tracked(prep) => prep.finish(
                Attended {
                    inputs,
                    out: out.clone(),
                    sums,
                    causal,
                },
                out,
            ),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn fused_swish(input: Tracked, rate: f64) -> Tracked {
        Activation::Swish(rate as f32).tracked::<C>(input)
    }

    fn fused_gelu(input: Tracked) -> Tracked {
        Activation::Gelu.tracked::<C>(input)
    }

    fn fused_geglu(input: Tracked) -> Tracked {
        Activation::Geglu.tracked::<C>(input)
    }

    fn fused_group_norm(
        input: Tracked,
        weight: Tracked,
        bias: Tracked,
        groups: usize,
        epsilon: f64,
        silu: bool,
    ) -> Tracked {
        Norm::Group {
            groups,
            epsilon: epsilon as f32,
            silu,
        }
        .tracked::<C>([input, weight, bias])
    }

    fn fused_layer_norm(input: Tracked, weight: Tracked, bias: Tracked, epsilon: f64) -> Tracked {
        Norm::Layer {
            epsilon: epsilon as f32,
        }
        .tracked::<C>([input, weight, bias])
    }

    fn fused_product(input: Tracked, weight: Tracked) -> Tracked {
        match ProductBackward
            .prepare::<C>([input.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = factors!(prep, input, weight);
                prep.finish(
                    state,
                    multiply(input.into_primitive(), weight.into_primitive(), None),
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(multiply(
                input.into_primitive(),
                weight.into_primitive(),
                None,
            )),
        }
    }

    fn fused_linear(input: Tracked, weight: Tracked, bias: Tracked) -> Tracked {
        let run = |input: Tracked, weight: Tracked, bias: Tracked| {
            multiply(
                input.into_primitive(),
                weight.into_primitive(),
                Some(bias.into_primitive()),
            )
        };
        match LinearBackward
            .prepare::<C>([input.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = factors!(prep, input, weight);
                prep.finish(state, run(input, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(run(input, weight, bias)),
        }
    }

    fn fused_adapted(
        input: Tracked,
        weight: Tracked,
        bias: Tracked,
        down: Tracked,
        up: Tracked,
    ) -> Tracked {
        let prepared = AdaptedBackward
            .prepare::<C>([input.node(), down.node(), up.node()])
            .compute_bound()
            .stateful();
        let adapted = Adapted([input, weight, down, up].map(Tracked::into_primitive));
        let out = adapted.forward(bias.into_primitive());
        match prepared {
            OpsKind::Tracked(prep) => prep.finish(adapted, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn fused_convolution(input: Tracked, weight: Tracked, bias: Tracked, doubled: bool) -> Tracked {
        let run = |input: Tracked, weight: Tracked, bias: Tracked| {
            let [input, weight, bias] = [input, weight, bias].map(Tracked::into_primitive);
            <Flex as CpuOps>::fused_convolution(input, weight, bias, doubled)
        };
        match (ConvolutionBackward { doubled })
            .prepare::<C>([input.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = factors!(prep, input, weight);
                prep.finish(state, run(input, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(run(input, weight, bias)),
        }
    }
}
