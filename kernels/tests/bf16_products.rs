//! Products of factors rounded to bf16 against the same in f32. How products are computed holds for a whole process, so this is one of its own, with one
//! test. Where the processor has no such products it compares f32 with f32.
#![cfg(feature = "flex")]

use burn::module::{Module, Param, Reparameterizer};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, PaddingConfig2d};
use burn::tensor::{Distribution, FloatDType, Gradients, Tensor};
use parity::{device, relative_error, values};
use proptest::prop_assert;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use sd_kernels::{Float32MatmulPrecision, LowRank, LowRankStack, set_float32_matmul_precision};

/// Of results whose factors had been rounded before, which then differ by the order of sums alone.
const SAME: f64 = 2e-6;
/// Of results within which something is rounded to 8 bits.
const ROUNDED: f64 = 1e-2;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

/// Numbers that bf16 holds.
fn short<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).cast(FloatDType::BF16).cast(FloatDType::F32)
}

/// A tensor that may stand in a graph.
fn tracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor)
}

fn rounded<R>(run: impl FnOnce() -> R) -> R {
    set_float32_matmul_precision(Float32MatmulPrecision::Medium);
    let done = run();
    set_float32_matmul_precision(Float32MatmulPrecision::Highest);
    done
}

fn compare(what: &str, ours: &[Vec<f32>], theirs: &[Vec<f32>], most: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let error = relative_error(ours, theirs);
        assert!(error < most, "{what}, {index}: {error:e}");
        if sd_kernels::has_bf16_products() && most == ROUNDED {
            assert!(ours != theirs, "{what}, {index}: nothing was rounded");
        }
    }
}

fn frozen(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Linear {
    let layer = Linear {
        weight: Param::from_tensor(weight),
        bias: bias.map(Param::from_tensor),
    };
    layer.no_grad()
}

fn linear_layers() {
    for (rows, from, to) in [(300, 64, 96), (33, 320, 47), (154, 77, 768), (8, 2000, 40)] {
        let (input, grad) = (short([2, rows, from]), short([2, rows, to]));
        for turned in [false, true] {
            let weight = match turned {
                false => short([from, to]),
                true => short([to, from]).transpose(),
            };
            for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
                let layer = frozen(
                    tracked(weight.clone().cast(dtype)),
                    Some(tracked(random([to]))),
                );
                let run = || {
                    let input = tracked(input.clone()).require_grad();
                    let out = sd_kernels::linear(input.clone(), &layer);
                    let all = (out.clone() * tracked(grad.clone())).sum();
                    let grads = all.backward();
                    let of_input = input.grad(&grads).expect("a gradient");
                    [values(out.inner()), values(of_input)]
                };
                let what = format!("{rows}, {from} to {to}, {dtype:?}, turned: {turned}");
                // Both ways see the weight as f16 has it, which bf16 does not hold.
                let most = if dtype == FloatDType::F16 {
                    ROUNDED
                } else {
                    SAME
                };
                let (ours, theirs) = (rounded(run), run());
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    let error = relative_error(ours, theirs);
                    assert!(error < most, "{what}: {error:e}");
                }
            }
        }
    }
}

/// Panels that are not full, in every operand and on every side; few rows and few columns, which decide what is packed once.
fn any_size() {
    let sizes = (8usize..70, 600usize..700, 55usize..120);
    let ways = (proptest::bool::ANY, proptest::bool::ANY);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let found = TestRunner::new(config).run(
        &(sizes, ways),
        |((few, inner, many), (turned, by_columns))| {
            let (rows, columns) = if by_columns { (many, few) } else { (few, many) };
            let input = short([1, rows, inner]);
            let weight = match turned {
                false => short([inner, columns]),
                true => short([columns, inner]).transpose(),
            };
            let bias = random([columns]);
            let run = || {
                let bias = Some(bias.clone());
                values(sd_kernels::product(input.clone(), weight.clone(), bias))
            };
            let error = relative_error(&rounded(run), &run());
            prop_assert!(error < SAME, "{error:e}");
            Ok(())
        },
    );
    found.expect("products of rounded factors");
}

fn trained_weights() {
    let (input, weight, grad) = (
        random([2, 150, 64]),
        random([1, 64, 96]),
        random([2, 150, 96]),
    );
    let run = || {
        let input = tracked(input.clone()).require_grad();
        let weight = tracked(weight.clone()).require_grad();
        let out = sd_kernels::product(input.clone(), weight.clone().squeeze_dim(0), None);
        let all = (out * tracked(grad.clone())).sum();
        let grads = all.backward();
        [
            values(input.grad(&grads).unwrap()),
            values(weight.grad(&grads).unwrap()),
        ]
    };
    compare("a trained weight", &rounded(run), &run(), ROUNDED);
}

/// Puts a pair on a layer's weight.
struct PutOn(Option<LowRank>);

impl Reparameterizer for PutOn {
    type Reparam = LowRankStack;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRankStack>) {
        let pair = (path == "weight").then(|| self.0.take()).flatten();
        (param, pair.map(|pair| LowRankStack::new(vec![pair])))
    }
}

/// What few steps of training add is far less than what rounding takes from the weight that it is on.
fn low_rank_factors() {
    // Few rows and many; factors that are less than the weight, and more.
    for (rows, from, to, rank, dtype) in [
        (600, 64, 96, 16, FloatDType::F32),
        (600, 80, 130, 9, FloatDType::F16),
        (200, 640, 700, 16, FloatDType::BF16),
        (600, 64, 96, 48, FloatDType::F32),
    ] {
        let (input, grad) = (tracked(random([rows, from])), tracked(random([rows, to])));
        let weight = random([from, to]).cast(dtype);
        let layer = frozen(tracked(weight), Some(tracked(random([to]))));
        let factors = (random([rank, from]), random([to, rank]) * 1e-4);
        let what = format!("a linear layer of {rows} rows, {from} to {to}, rank {rank}");
        check_factors(&what, factors, |pair| {
            let input = input.clone().require_grad();
            let layer = layer.clone();
            let layer = layer.apply_reparameterization(PutOn(Some(pair)));
            let out = sd_kernels::linear(input.clone(), &layer);
            let grads = (out.clone() * grad.clone()).sum().backward();
            let mut found = Vec::from(of_factors(&layer.weight, &grads));
            found.push(values(input.grad(&grads).expect("a gradient")));
            (values(out.inner()), found)
        });
    }

    let (from, to, side, rank) = (48, 96, 20, 16);
    let factors = || (random([rank, 9 * from]), random([to, rank]) * 1e-4);
    for (doubled, size) in [(false, side), (true, 2 * side)] {
        let input = tracked(random([2, from, side, side]));
        let grad = tracked(random([2, to, size, size]));
        let mut layer: Conv2d = Conv2dConfig::new([from, to], [3, 3])
            .with_padding(PaddingConfig2d::Same)
            .init(&device());
        layer.weight = Param::from_tensor(tracked(random([to, from, 3, 3])));
        layer.bias = Some(Param::from_tensor(tracked(random([to]))));
        let layer = layer.no_grad();
        check_factors("a convolution", factors(), |pair| {
            let layer = layer.clone();
            let layer = layer.apply_reparameterization(PutOn(Some(pair)));
            let out = match doubled {
                true => sd_kernels::upsample_conv2d(input.clone(), &layer),
                false => sd_kernels::conv2d(input.clone(), &layer),
            };
            let grads = (out.clone() * grad.clone()).sum().backward();
            (
                values(out.inner()),
                of_factors(&layer.weight, &grads).into(),
            )
        });
    }
}

/// The gradients of `down` and `up` of the one pair on a weight.
fn of_factors<const D: usize>(weight: &Param<Tensor<D>>, grads: &Gradients) -> [Vec<f32>; 2] {
    let found = weight.reparameterization::<LowRankStack>();
    let pair = &found.expect("it was put on").layers()[0];
    [&pair.down, &pair.up].map(|factor| values(factor.val().grad(grads).expect("a gradient")))
}

/// Compares what trained factors add to a layer's output, and all gradients, with the same in f32.
fn check_factors(
    what: &str,
    (down, up): (Tensor<2>, Tensor<2>),
    run: impl Fn(LowRank) -> (Vec<f32>, Vec<Vec<f32>>),
) {
    let rank = down.dims()[0] as f64;
    let run =
        |up: Tensor<2>| run(LowRank::new(tracked(down.clone()), tracked(up), rank).trainable());
    let nothing = || run(up.clone() * 0.0).0;
    let less = |with: &[f32], without: &[f32]| -> Vec<f32> {
        with.iter()
            .zip(without)
            .map(|(with, without)| with - without)
            .collect()
    };
    let (exact, exact_grads) = run(up.clone());
    let (ours, grads) = rounded(|| run(up.clone()));
    let error = relative_error(&less(&ours, &rounded(nothing)), &less(&exact, &nothing()));
    assert!(error < 0.05, "what the factors of {what} add: {error:e}");
    for (index, (grad, exact)) in grads.iter().zip(&exact_grads).enumerate() {
        let error = relative_error(grad, exact);
        assert!(error < ROUNDED, "{what}, gradient {index}: {error:e}");
    }
    // Not all are: many factors are put on the weight, and that product is exact.
    if sd_kernels::has_bf16_products() {
        assert!(grads != exact_grads, "{what}: nothing was rounded");
    }
}

fn convolutions() {
    for (batch, from, to, height, width, kernel) in [
        (2, 40, 33, 7, 9, 3),
        (1, 64, 64, 16, 16, 3),
        (1, 31, 17, 33, 30, 3),
        (2, 96, 48, 12, 10, 1),
    ] {
        let mut layer: Conv2d = Conv2dConfig::new([from, to], [kernel, kernel])
            .with_padding(PaddingConfig2d::Same)
            .init(&device());
        for dtype in [FloatDType::F32, FloatDType::BF16] {
            layer.weight =
                Param::from_tensor(tracked(short([to, from, kernel, kernel]).cast(dtype)));
            layer.bias = Some(Param::from_tensor(tracked(random([to]))));
            let layer = layer.clone().no_grad();
            for doubled in [false, true] {
                let size = if doubled { 2 } else { 1 };
                let input = short([batch, from, height, width]);
                let grad = short([batch, to, size * height, size * width]);
                let run = || {
                    let input = tracked(input.clone()).require_grad();
                    let out = match doubled {
                        true => sd_kernels::upsample_conv2d(input.clone(), &layer),
                        false => sd_kernels::conv2d(input.clone(), &layer),
                    };
                    let grads = (out.clone() * tracked(grad.clone())).sum().backward();
                    let of_input = input.grad(&grads).expect("a gradient");
                    [values(out.inner()), values(of_input)]
                };
                let (ours, theirs) = (rounded(run), run());
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    let error = relative_error(ours, theirs);
                    let what = format!("{from} to {to}, {height}×{width}, {dtype:?}, {doubled}");
                    assert!(error < 1e-5, "{what}: {error:e}");
                }
            }
        }
    }
}

fn attention() {
    for (batch, heads, queries, keys, dim) in [
        (1, 2, 130, 300, 40),
        (2, 1, 257, 77, 80),
        (1, 1, 64, 129, 160),
        (1, 3, 300, 40, 33),
    ] {
        let q = random([batch, heads, queries, dim]);
        let inputs = [
            random([batch, heads, keys, dim]),
            random([batch, heads, keys, dim]),
        ];
        let grad = random([batch, heads, queries, dim]);
        let of_values = || {
            let q = tracked(q.clone()).require_grad();
            let [k, v] = inputs
                .each_ref()
                .map(|input| tracked(input.clone()).require_grad());
            let out = sd_kernels::attention(q.clone(), k.clone(), v.clone(), false);
            let grads = (out.clone() * tracked(grad.clone())).sum().backward();
            let mut found = vec![values(out.inner())];
            found.extend([q, k, v].map(|input| values(input.grad(&grads).expect("a gradient"))));
            found
        };
        let what = format!("{queries} over {keys} of {dim}");
        compare(&what, &rounded(of_values), &of_values(), ROUNDED);
    }
    // As in f32, what is no number stays none.
    let ones = || Tensor::<4>::ones([1, 1, 300, 100], &device());
    let broken = ones().slice_assign(
        [0..1, 0..1, 7..8, 3..4],
        Tensor::full([1, 1, 1, 1], f32::NAN, &device()),
    );
    for [q, k, v] in [
        [broken.clone(), ones(), ones()],
        [ones(), broken.clone(), ones()],
        [ones(), ones(), broken.clone()],
    ] {
        let out = values(rounded(|| sd_kernels::attention(q, k, v, false)));
        assert!(out.iter().any(|value| value.is_nan()));
    }
}

#[test]
fn rounded_products_are_those_of_rounded_factors() {
    linear_layers();
    any_size();
    trained_weights();
    low_rank_factors();
    convolutions();
    attention();
}
