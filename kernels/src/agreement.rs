//! Every fused path against the portable body of the same operation: results and gradients, over shapes, strides and odd sizes.

use burn::backend::Dispatch;
use burn::module::{Module, Param, Reparameterization as _, Reparameterizer};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    GroupNorm, GroupNormConfig, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d,
};
use burn::tensor::{FloatDType, Gradients, Tensor, TensorData};
use parity::{device, relative_error, values};
use proptest::prelude::*;

use crate::recomputed::Recomputed;
use crate::{LowRank, LowRankStack, portable};

/// Puts a stack on a layer's weight.
struct PutOn(Option<LowRankStack>);

impl Reparameterizer for PutOn {
    type Reparam = LowRankStack;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRankStack>) {
        let on = (path == "weight").then(|| self.0.take()).flatten();
        (param, on)
    }
}

/// Normal-looking numbers, the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count)
        .map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 1.7 - 3.4)
        .collect()
}

/// A leaf of the graph.
fn leaf<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let data = TensorData::new(numbers(shape.iter().product(), seed), shape);
    Tensor::from_data(data, &device().autodiff()).require_grad()
}

/// What has no gradient, on the device of the graph.
fn constant<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    Tensor::from_inner(leaf(shape, seed).inner())
}

/// A result, and the gradients of a weighted sum of it.
fn result<const D: usize>(
    out: Tensor<D>,
    gradients: impl FnOnce(&Gradients) -> Vec<Vec<f32>>,
) -> Vec<Vec<f32>> {
    let weight = leaf(out.dims(), 99).detach();
    let grads = (out.clone() * weight).sum().backward();
    let mut all = gradients(&grads);
    all.push(values(out));
    all
}

fn gradient<const D: usize>(leaf: &Tensor<D>, grads: &Gradients) -> Vec<f32> {
    values(leaf.grad(grads).expect("each leaf has a gradient"))
}

/// The gradients of every pair's factors.
fn of_factors(stack: &LowRankStack, grads: &Gradients) -> Vec<Vec<f32>> {
    let pairs = stack.layers().iter();
    let factors = pairs.flat_map(|pair| [&pair.down, &pair.up]);
    factors
        .map(|factor| gradient(&factor.val(), grads))
        .collect()
}

/// The largest relative error of a result and its gradients.
fn apart(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(ours, theirs)| relative_error(ours, theirs))
        .fold(0.0, f64::max)
}

/// How far `ours` is from `theirs`, and each gradient, of the leaves that both are given.
fn disagreement<const D: usize, const N: usize>(
    leaves: [Tensor<D>; N],
    ours: impl Fn([Tensor<D>; N]) -> Tensor<D>,
    theirs: impl Fn([Tensor<D>; N]) -> Tensor<D>,
) -> f64 {
    let gradients = |grads: &Gradients| leaves.iter().map(|leaf| gradient(leaf, grads)).collect();
    apart(
        &result(ours(leaves.clone()), gradients),
        &result(theirs(leaves.clone()), gradients),
    )
}

fn enlarge(input: Tensor<4>, doubled: bool) -> Tensor<4> {
    if doubled {
        portable::double(input)
    } else {
        input
    }
}

/// As the layers around attention hand heads over: `[batch, positions, heads · dim]` in memory.
fn split(tensor: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, positions, channels] = tensor.dims();
    tensor
        .reshape([batch, positions, heads, channels / heads])
        .swap_dims(1, 2)
}

/// Attention as it is where no fused path takes it.
fn recomputed(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, causal: bool) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::recomputed_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        causal,
    ))
}

/// How far a product and its gradients are from the portable ones.
fn linear_apart(
    [batch, rows, from]: [usize; 3],
    to: usize,
    turned: bool,
    biased: bool,
    seed: u64,
) -> f64 {
    let (x, b) = (leaf([batch, rows, from], seed), leaf([to], seed + 2));
    let w = leaf(if turned { [to, from] } else { [from, to] }, seed + 1);
    let weight = || {
        if turned {
            w.clone().transpose()
        } else {
            w.clone()
        }
    };
    let bias = || biased.then(|| b.clone());
    let gradients = |grads: &Gradients| {
        let mut all = vec![gradient(&x, grads), gradient(&w, grads)];
        all.extend(biased.then(|| gradient(&b, grads)));
        all
    };
    apart(
        &result(crate::product(x.clone(), weight(), bias()), gradients),
        &result(portable::linear(x.clone(), weight(), bias()), gradients),
    )
}

/// `gemm` gets blocks of 256 along the output's contiguous axis, which is the one of rows where few of them are multiplied by a turned weight.
#[test]
fn linear_of_several_blocks_agrees() {
    for (rows, from, to) in [
        (700, 20, 610),
        (610, 9, 257),
        (20, 610, 513),
        (300, 950, 530),
    ] {
        for (turned, biased) in [(false, true), (true, true), (true, false)] {
            let error = linear_apart([1, rows, from], to, turned, biased, 7);
            assert!(
                error < 1e-5,
                "{rows}, {from} to {to}, turned: {turned}: {error:e}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sums_agree(batch in 1usize..3, rows in 1usize..150, columns in 1usize..90, turned: bool, fresh: bool, seed in 0u64..1000) {
        let first = if turned { [batch, columns, rows] } else { [batch, rows, columns] };
        let leaves = [leaf(first, seed), leaf([batch, rows, columns], seed + 1)];
        let (a, b) = (leaves[0].clone(), leaves[1].clone());
        // What nothing else holds may be written over, and what a caller holds may not.
        let place = |tensor: Tensor<3>| {
            let tensor = if turned { tensor.swap_dims(1, 2) } else { tensor };
            if fresh { tensor * 2.0 } else { tensor }
        };
        let error = disagreement(
            leaves,
            |[a, b]| crate::add(b.clone(), crate::add(place(a), b)),
            |[a, b]| b.clone() + (place(a) + b),
        );
        prop_assert!(error < 1e-6, "{error:e}");
        prop_assert_eq!(values(a.inner()), numbers(batch * rows * columns, seed));
        prop_assert_eq!(values(b.inner()), numbers(batch * rows * columns, seed + 1));
    }

    #[test]
    fn products_of_what_is_turned_over_agree(batch in 1usize..3, rows in 1usize..150, inner in 1usize..70, columns in 1usize..40, seed in 0u64..1000) {
        let weight = constant([inner, columns], seed + 1);
        let error = disagreement(
            [leaf([batch, inner, rows], seed)],
            |[x]| crate::product(x.swap_dims(1, 2), weight.clone(), None),
            |[x]| portable::linear(x.swap_dims(1, 2), weight.clone(), None),
        );
        prop_assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn attention_agrees(batch in 1usize..3, heads in 1usize..4, positions in 1usize..140, tokens in 2usize..210, dim in 1usize..90, seed in 0u64..1000) {
        let leaves = [
            leaf([batch, positions, heads * dim], seed),
            leaf([batch, tokens, heads * dim], seed + 1),
            leaf([batch, tokens, heads * dim], seed + 2),
        ];
        let join = |out: Tensor<4>| out.swap_dims(1, 2).reshape([batch, positions, heads * dim]);
        let error = disagreement(
            leaves,
            |[q, k, v]| join(crate::attention(split(q, heads), split(k, heads), split(v, heads), false)),
            |[q, k, v]| join(portable::attention(split(q, heads), split(k, heads), split(v, heads), false)),
        );
        prop_assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn causal_attention_agrees(heads in 1usize..4, positions in 2usize..140, dim in 1usize..70, seed in 0u64..1000) {
        let leaves = [0, 1, 2].map(|i| leaf([2, heads, positions, dim], seed + i));
        let error = disagreement(
            leaves,
            |[q, k, v]| crate::attention(q, k, v, true),
            |[q, k, v]| portable::attention(q, k, v, true),
        );
        prop_assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn recomputed_attention_agrees(heads in 1usize..3, positions in 2usize..70, tokens in 2usize..90, dim in 1usize..50, causal: bool, seed in 0u64..1000) {
        let tokens = if causal { positions } else { tokens };
        let leaves = || {
            let of = |positions, seed| leaf([2, heads, positions, dim], seed);
            [of(positions, seed), of(tokens, seed + 1), of(tokens, seed + 2)]
        };
        let theirs = |[q, k, v]: [Tensor<4>; 3]| portable::attention(q, k, v, causal);
        let error = disagreement(leaves(), |[q, k, v]| recomputed(q, k, v, causal), theirs);
        prop_assert!(error < 1e-5, "{error:e}");
        for (dtype, most) in [(FloatDType::F16, 0.01), (FloatDType::BF16, 0.06)] {
            // As every model's attention takes it where its numbers have 16 bits.
            let narrow = |[q, k, v]: [Tensor<4>; 3]| {
                let [q, k, v] = [q, k, v].map(|tensor| tensor.cast(dtype));
                crate::attention(q, k, v, causal).cast(FloatDType::F32)
            };
            let error = disagreement(leaves(), narrow, theirs);
            prop_assert!(error < most, "{dtype:?}: {error:e}");
        }
    }

    #[test]
    fn large_scores_keep_their_softmax(scale in 1f64..20.0, seed in 0u64..1000) {
        let leaves = [0, 1, 2].map(|i| leaf([1, 1, 33, 40], seed + i));
        let error = disagreement(
            leaves,
            |[q, k, v]| crate::attention(q * scale, k, v, false),
            |[q, k, v]| portable::attention(q * scale, k, v, false),
        );
        // A difference of scores loses digits as they grow.
        prop_assert!(error < 1e-5 * (1.0 + scale), "{error:e}");
    }

    #[test]
    fn activations_agree(rows in 1usize..50, half in 1usize..40, spread in 0.1f64..20.0, seed in 0u64..1000) {
        let input = || [leaf([rows, 2 * half], seed)];
        let spread = |x: Tensor<2>| x * spread;
        let errors = [
            disagreement(input(), |[x]| crate::silu(spread(x)), |[x]| portable::silu(spread(x))),
            disagreement(input(), |[x]| crate::gelu(spread(x)), |[x]| portable::gelu(spread(x))),
            disagreement(input(), |[x]| crate::geglu(spread(x)), |[x]| portable::geglu(spread(x))),
            disagreement(input(), |[x]| crate::quick_gelu(spread(x)), |[x]| portable::quick_gelu(spread(x))),
            // Lies column by column.
            disagreement(input(), |[x]| crate::silu(spread(x).transpose()), |[x]| portable::silu(spread(x).transpose())),
        ];
        prop_assert!(errors.iter().all(|error| *error < 1e-5), "{errors:?}");
    }

    #[test]
    fn group_norm_agrees(batch in 1usize..3, groups in 1usize..5, each in 1usize..5, height in 2usize..20, width in 3usize..20, offset in -3f64..3.0, seed in 0u64..1000) {
        let channels = groups * each;
        let norm = GroupNorm {
            gamma: Some(Param::from_tensor(leaf([channels], seed + 1))),
            beta: Some(Param::from_tensor(leaf([channels], seed + 2))),
            ..GroupNormConfig::new(groups, channels).init(&device())
        };
        let input = leaf([batch, channels, height, width], seed);
        for silu in [false, true] {
            let error = disagreement(
                [input.clone()],
                |[x]| crate::normalize(x + offset, &norm, silu),
                |[x]| portable::group_norm(x + offset, &norm, silu),
            );
            prop_assert!(error < 1e-5, "silu {silu}: {error:e}");
        }
    }

    #[test]
    fn linear_agrees(batch in 1usize..3, rows in 1usize..300, from in 1usize..70, to in 1usize..300, turned in any::<bool>(), biased in any::<bool>(), seed in 0u64..1000) {
        let error = linear_apart([batch, rows, from], to, turned, biased, seed);
        prop_assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn adapted_linear_agrees(rows in 1usize..300, from in 1usize..70, to in 1usize..300, rank in 1usize..9, count in 1usize..3, turned in any::<bool>(), biased in any::<bool>(), short in any::<bool>(), seed in 0u64..1000) {
        let (x, b) = (leaf([2, rows, from], seed), constant([to], seed + 2));
        let base = constant(if turned { [to, from] } else { [from, to] }, seed + 1);
        let base = if turned { base.transpose() } else { base };
        let base = if short { base.cast(FloatDType::F16) } else { base };
        let pair = |seed| LowRank::new(constant([rank, from], seed), constant([to, rank], seed + 1), 3.0).trainable();
        let pairs = (0..count as u64).map(|index| pair(seed + 3 + 2 * index)).collect();
        let layer = Linear { weight: Param::from_tensor(base).set_require_grad(false), bias: biased.then(|| Param::from_tensor(b).set_require_grad(false)) };
        let layer = layer.apply_reparameterization(PutOn(Some(LowRankStack::new(pairs))));
        let found = layer.weight.reparameterization::<LowRankStack>().expect("it was put on");
        let gradients = |grads: &Gradients| [vec![gradient(&x, grads)], of_factors(found, grads)].concat();
        let bias = || layer.bias.as_ref().map(Param::val);
        let weight = found.apply(layer.weight.base().cast(FloatDType::F32));
        let error = apart(
            &result(crate::linear(x.clone(), &layer), gradients),
            &result(portable::linear(x.clone(), weight, bias()), gradients),
        );
        prop_assert!(error < 1e-5, "{error:e}");
    }

    #[test]
    fn adapted_convolution_agrees(from in 1usize..20, to in 1usize..30, height in 1usize..20, width in 1usize..20, rank in 1usize..9, count in 1usize..3, doubled in any::<bool>(), trained in any::<bool>(), short in any::<bool>(), seed in 0u64..1000) {
        let (x, base, b) = (leaf([2, from, height, width], seed), constant([to, from, 3, 3], seed + 1), constant([to], seed + 2));
        let base = if short { base.cast(FloatDType::F16) } else { base };
        let pair = |seed| LowRank::new(constant([rank, 9 * from], seed), constant([to, rank], seed + 1), 3.0);
        let pairs = (0..count as u64).map(|index| pair(seed + 3 + 2 * index));
        let pairs = pairs.map(|pair| if trained { pair.trainable() } else { pair }).collect();
        let mut layer = Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(&x.device());
        layer.weight = Param::from_tensor(base);
        layer.bias = Some(Param::from_tensor(b));
        let layer = layer.no_grad().apply_reparameterization(PutOn(Some(LowRankStack::new(pairs))));
        let found = layer.weight.reparameterization::<LowRankStack>().expect("it was put on");
        let gradients = |grads: &Gradients| {
            let factors = if trained { of_factors(found, grads) } else { vec![] };
            [vec![gradient(&x, grads)], factors].concat()
        };
        let weight = found.apply(layer.weight.base().cast(FloatDType::F32));
        let bias = layer.bias.as_ref().expect("it has one").val();
        let ours = if doubled { crate::upsample_conv2d(x.clone(), &layer) } else { crate::conv2d(x.clone(), &layer) };
        let error = apart(
            &result(ours, gradients),
            &result(portable::convolve(enlarge(x.clone(), doubled), weight, bias), gradients),
        );
        prop_assert!(error < 1e-4, "{error:e}");
    }

    #[test]
    fn convolution_agrees(batch in 1usize..3, from in 1usize..20, to in 1usize..30, height in 1usize..40, width in 1usize..70, three in any::<bool>(), doubled in any::<bool>(), seed in 0u64..1000) {
        let doubled = doubled && three;
        let side = if three { 3 } else { 1 };
        let (x, w, b) = (leaf([batch, from, height, width], seed), leaf([to, from, side, side], seed + 1), leaf([to], seed + 2));
        let gradients = |grads: &Gradients| vec![gradient(&x, grads), gradient(&w, grads), gradient(&b, grads)];
        let error = apart(
            &result(crate::convolve_by(x.clone(), w.clone(), b.clone(), doubled), gradients),
            &result(portable::convolve(enlarge(x.clone(), doubled), w.clone(), b.clone()), gradients),
        );
        prop_assert!(error < if three { 1e-4 } else { 1e-5 }, "{error:e}");
    }
}

#[test]
fn wide_convolutions_agree() {
    // Whole vectors of tiles in a row, and a block of the input at a time.
    for (batch, from, to, height, width, doubled) in [
        (2, 20, 40, 64, 64, false),
        (1, 70, 13, 256, 128, false),
        (1, 3, 8, 30, 131, false),
        (2, 9, 20, 32, 64, true),
        // Rows shared out over several tasks, one of which ends a picture and begins the next.
        (2, 4, 20, 136, 72, false),
        // Few tiles of many channels, whose sums go on from some channels to the next; rows of tiles that divide no vector.
        (2, 150, 100, 16, 16, false),
        (2, 130, 50, 8, 8, false),
        (1, 70, 61, 24, 24, false),
        (1, 65, 13, 12, 6, true),
    ] {
        let (x, w, b) = (
            leaf([batch, from, height, width], 1),
            leaf([to, from, 3, 3], 2),
            leaf([to], 3),
        );
        let gradients = |grads: &Gradients| {
            vec![
                gradient(&x, grads),
                gradient(&w, grads),
                gradient(&b, grads),
            ]
        };
        let error = apart(
            &result(
                crate::convolve_by(x.clone(), w.clone(), b.clone(), doubled),
                gradients,
            ),
            &result(
                portable::convolve(enlarge(x.clone(), doubled), w.clone(), b.clone()),
                gradients,
            ),
        );
        let case = format!("{batch}×{from}×{height}×{width} to {to}");
        assert!(error < 1e-4, "{case}: {error:e}");

        let of_input = |grads: &Gradients| vec![gradient(&x, grads)];
        for short in [FloatDType::F16, FloatDType::BF16] {
            let short = w.clone().inner().cast(short);
            let wide = Tensor::from_inner(short.clone().cast(FloatDType::F32));
            let short = Tensor::from_inner(short);
            let error = apart(
                &result(
                    crate::convolve_by(x.clone(), short, b.clone(), doubled),
                    of_input,
                ),
                &result(
                    crate::convolve_by(x.clone(), wide, b.clone(), doubled),
                    of_input,
                ),
            );
            assert!(error == 0.0, "{case} over 16 bits: {error:e}");
        }
    }
}

#[test]
fn layers_take_the_paths_of_their_shapes() {
    let device = device();
    let x = leaf([2, 6, 9, 12], 1).inner();
    let layer = |side, padding| Conv2dConfig::new([6, 5], [side, side]).with_padding(padding);
    for config in [
        layer(3, PaddingConfig2d::Explicit(1, 1, 1, 1)),
        layer(3, PaddingConfig2d::Same),
        layer(1, PaddingConfig2d::Valid),
        layer(3, PaddingConfig2d::Valid),
        layer(3, PaddingConfig2d::Explicit(0, 1, 0, 1)).with_stride([2, 2]),
        layer(3, PaddingConfig2d::Explicit(1, 1, 1, 1)).with_stride([2, 2]),
        layer(3, PaddingConfig2d::Explicit(1, 1, 1, 1)).with_bias(false),
        layer(5, PaddingConfig2d::Same),
    ] {
        let layer = config.init(&device);
        let (ours, theirs) = (crate::conv2d(x.clone(), &layer), layer.forward(x.clone()));
        assert_eq!(ours.dims(), theirs.dims(), "{config}");
        let error = relative_error(&values(ours), &values(theirs));
        assert!(error < 1e-5, "{config}: {error:e}");
    }
    let layer = LinearConfig::new(12, 7).init(&device);
    let error = relative_error(
        &values(crate::linear(x.clone(), &layer)),
        &values(layer.forward(x)),
    );
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn layer_norm_agrees() {
    for (rows, channels) in [(1, 8), (7, 33), (130, 320), (3, 1280)] {
        let norm = LayerNormConfig::new(channels).init(&device().autodiff());
        for norm in [norm.clone(), norm.no_grad()] {
            let error = disagreement(
                [leaf([2, rows, channels], 5)],
                |[x]| crate::layer_norm(x + 1.0, &norm, 1e-5),
                |[x]| norm.forward(x + 1.0),
            );
            assert!(error < 1e-5, "{rows}×{channels}: {error:e}");
        }
    }
}

#[test]
fn norms_train_their_weights() {
    let device = device().autodiff();
    let weighted = |channels: usize| {
        let values = |seed| {
            Param::from_tensor(
                Tensor::<1>::from_data(
                    TensorData::new(numbers(channels, seed), [channels]),
                    &device,
                )
                .require_grad(),
            )
        };
        (values(1), values(2))
    };
    let (gamma, beta) = weighted(12);
    let norm = GroupNorm {
        gamma: Some(gamma.clone()),
        beta: Some(beta.clone()),
        ..GroupNormConfig::new(3, 12).init(&device)
    };
    let input = leaf([2, 12, 5, 9], 3).detach();
    let weights = leaf([2, 12, 5, 9], 4).detach();
    let gradients = |out: Tensor<4>| {
        let grads = (out * weights.clone()).sum().backward();
        [&gamma, &beta].map(|param| {
            values(
                param
                    .val()
                    .grad(&grads)
                    .expect("a trained parameter has a gradient"),
            )
        })
    };
    let ours = gradients(crate::group_norm_silu(input.clone(), &norm));
    let theirs = gradients(portable::group_norm(input, &norm, true));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(relative_error(ours, theirs) < 1e-5);
    }

    let mut norm = LayerNormConfig::new(12).init(&device);
    (norm.gamma, norm.beta) = (gamma.clone(), Some(beta.clone()));
    let input = leaf([2, 7, 3, 12], 5).detach();
    let weights = leaf([2, 7, 3, 12], 6).detach();
    let gradients = |out: Tensor<4>| {
        let grads = (out * weights.clone()).sum().backward();
        [&gamma, &beta].map(|param| {
            values(
                param
                    .val()
                    .grad(&grads)
                    .expect("a trained parameter has a gradient"),
            )
        })
    };
    let (ours, theirs) = (
        gradients(crate::layer_norm(input.clone(), &norm, 1e-5)),
        gradients(norm.forward(input)),
    );
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!(relative_error(ours, theirs) < 1e-5);
    }
}

#[test]
fn a_result_does_not_depend_on_the_number_of_threads() {
    let run = || {
        let device = device();
        let random = |shape: [usize; 4], seed| {
            Tensor::<4>::from_data(
                TensorData::new(numbers(shape.iter().product(), seed), shape),
                &device,
            )
        };
        let q = random([1, 2, 200, 40], 1);
        let attended = crate::attention(q.clone(), q.clone() * 0.5, q, false);
        let conv = Conv2d {
            weight: Param::from_tensor(random([40, 16, 3, 3], 2)),
            bias: Some(Param::from_tensor(random([1, 1, 1, 40], 3).reshape([40]))),
            ..Conv2dConfig::new([16, 40], [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .init(&device)
        };
        [
            values(attended),
            values(crate::conv2d(random([2, 16, 32, 64], 4), &conv)),
        ]
    };
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool of one thread")
        .install(run);
    let many = rayon::ThreadPoolBuilder::new()
        .num_threads(5)
        .build()
        .expect("a pool of five threads")
        .install(run);
    assert_eq!(alone, many);
}

#[test]
fn work_is_done_on_a_thread_that_computes() {
    assert_eq!(rayon::current_thread_index(), None);
    let thread = crate::on_workers(rayon::current_thread_index);
    assert!(thread.is_some());
}

#[test]
fn sixteen_bit_weights_have_gradients_too() {
    let x = leaf([3, 12], 1);
    let gradients = |widened: bool| {
        let weight = leaf::<2>([12, 7], 2).inner().cast(FloatDType::BF16);
        let weight = Tensor::from_inner(weight).require_grad();
        let used = match widened {
            true => weight.clone().cast(FloatDType::F32),
            false => weight.clone(),
        };
        let out = crate::product(x.clone(), used, None);
        let grads = out.square().sum().backward();
        let of_weight = weight.grad(&grads).expect("it asks for one");
        assert_eq!(FloatDType::from(of_weight.dtype()), FloatDType::BF16);
        [values(of_weight), gradient(&x, &grads)]
    };
    assert_eq!(gradients(false), gradients(true));
}

#[test]
fn sixteen_bit_weights_give_what_their_f32_values_give() {
    let device = device();
    let x = leaf([2, 6, 8, 12], 1).inner();
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let linear = LinearConfig::new(12, 7).init(&device);
        let mut halved = linear.clone();
        halved.weight = Param::from_tensor(linear.weight.val().cast(dtype));
        let mut rounded = linear;
        rounded.weight = Param::from_tensor(halved.weight.val().cast(FloatDType::F32));
        let (ours, theirs) = (
            crate::linear(x.clone(), &halved),
            crate::linear(x.clone(), &rounded),
        );
        assert_eq!(values(ours), values(theirs));
        let turned = halved.weight.val().transpose().cast(FloatDType::F32);
        let product = crate::product(
            x.clone().narrow(3, 0, 7),
            halved.weight.val().transpose(),
            None,
        );
        let wanted = crate::product(x.clone().narrow(3, 0, 7), turned, None);
        assert_eq!(values(product), values(wanted));

        for (side, stride) in [(3, 1), (1, 1), (3, 2)] {
            let config = Conv2dConfig::new([6, 5], [side, side]).with_stride([stride; 2]);
            let padding = side / 2;
            let config = config.with_padding(PaddingConfig2d::Explicit(
                padding, padding, padding, padding,
            ));
            let conv = config.init(&device);
            let mut halved = conv.clone();
            halved.weight = Param::from_tensor(conv.weight.val().cast(dtype));
            let mut rounded = conv;
            rounded.weight = Param::from_tensor(halved.weight.val().cast(FloatDType::F32));
            let (ours, theirs) = (
                crate::conv2d(x.clone(), &halved),
                crate::conv2d(x.clone(), &rounded),
            );
            assert_eq!(
                values(ours),
                values(theirs),
                "{side}×{side}, stride {stride}"
            );
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let device = device();
    let ones = || Tensor::<4>::ones([1, 1, 40, 8], &device);
    let broken = |tensor: Tensor<4>| {
        tensor.slice_assign(
            [0..1, 0..1, 7..8, 3..4],
            Tensor::full([1, 1, 1, 1], f32::NAN, &device),
        )
    };
    for [q, k, v] in [
        [broken(ones()), ones(), ones()],
        [ones(), broken(ones()), ones()],
        [ones(), ones(), broken(ones())],
    ] {
        let out = values(crate::attention(q, k, v, false));
        assert!(out.iter().any(|value| value.is_nan()));
    }
    let out = [
        crate::silu(broken(ones())),
        crate::gelu(broken(ones())),
        crate::geglu(broken(ones())),
        crate::quick_gelu(broken(ones())),
    ];
    assert!(
        out.into_iter()
            .all(|out| values(out).iter().any(|value| value.is_nan()))
    );
}
