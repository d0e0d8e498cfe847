use burn::module::{Module, ModuleMapper, Param, ParamGroup};
use burn::tensor::{DType, Tensor};
use lora_core::{
    Component, Factor, FactorSize, Lora, LoraError, LowRankStack, attach, factors, kohya_sizes,
    with_factors,
};
use parity::{device, relative_error, values};
use serde_json::Value;

use crate::models::*;

fn size(rank: usize, alpha: f64) -> FactorSize {
    FactorSize { rank, alpha }
}

fn attached(unet: Unet) -> Unet {
    let mut asked = Vec::new();
    let unet = attach(
        unet,
        Component::Unet,
        |path, _| (path != "conv_in").then_some(size(2, 3.0)),
        |path, fan_in, length| {
            asked.push((path.to_owned(), fan_in, length));
            noise(path.len() as u64, length)
        },
    )
    .unwrap();
    let block = "down_blocks.0.attentions.0";
    let expected = [
        (format!("{block}.proj_in"), 6, 12),
        (format!("{block}.transformer_blocks.0.attn1.to_q"), 6, 12),
        (format!("{block}.transformer_blocks.0.attn1.to_k"), 4, 8),
        (
            format!("{block}.transformer_blocks.0.attn1.to_out.0"),
            6,
            12,
        ),
        ("down_blocks.0.resnets.0.conv1".to_owned(), 27, 54),
        ("down_blocks.0.resnets.0.time_emb_proj".to_owned(), 5, 10),
    ];
    assert_eq!(asked, expected);
    unet
}

/// The factors with values in `up` too.
fn trained(model: &Unet) -> Vec<Factor> {
    let step = |mut factor: Factor| {
        let [out, rank] = factor.up.dims();
        factor.up = tensor(noise(out as u64, out * rank), [out, rank], &device());
        factor
    };
    factors(model).into_iter().map(step).collect()
}

/// A loss in which every kind of weight takes part.
fn loss(unet: &Unet) -> Tensor<1> {
    let device = unet.devices()[0].clone();
    let hidden = tensor(noise(1, 30), [1, 5, 6], &device);
    let text = tensor(noise(2, 12), [1, 3, 4], &device);
    let image = tensor(noise(3, 75), [1, 3, 5, 5], &device);
    let attention = unet.attention();
    let query = attention.to_q.forward(hidden.clone()).square().sum()
        + attention.to_k.forward(text).powi_scalar(3).sum();
    let convolved = unet.down_blocks[0].resnets[0].conv1.forward(image);
    query
        + attention.to_out[0].forward(hidden).sum()
        + unet.transformer().proj_in.forward(convolved).square().sum()
}

#[test]
fn attaching_changes_no_output_and_trains_the_factors_alone() {
    let base = Unet::new(&device().autodiff());
    let unet = attached(base.clone());
    assert_eq!(values(loss(&unet)), values(loss(&base)));

    let gradients = loss(&unet).backward();
    let query = &unet.attention().to_q;
    assert!(query.weight.base().grad(&gradients).is_none());
    assert!(
        query
            .bias
            .as_ref()
            .unwrap()
            .val()
            .grad(&gradients)
            .is_none()
    );
    assert!(unet.conv_in.weight.val().grad(&gradients).is_none());
    for factor in factors(&unet) {
        let used = !factor.path.ends_with("time_emb_proj");
        assert_eq!(
            factor.down.grad(&gradients).is_some(),
            used,
            "{}",
            factor.path
        );
        assert_eq!(
            factor.up.grad(&gradients).is_some(),
            used,
            "{}",
            factor.path
        );
    }
}

/// With G the gradient of the whole weight: ∂up = s · G · downᵀ and ∂down = s · upᵀ · G.
#[test]
fn gradients_are_those_of_the_whole_weight_through_the_factors() {
    let unet = attached(Unet::new(&device().autodiff()));
    let unet = with_factors(unet.clone(), Component::Unet, &trained(&unet)).unwrap();
    let gradients = loss(&unet).backward();
    let whole = unet.clone().materialize().set_require_grad(true);
    let whole_gradients = loss(&whole).backward();

    let attention = whole.attention();
    let linear = |weight: Tensor<2>| weight.grad(&whole_gradients).unwrap().transpose();
    let conv = |weight: Tensor<4>| weight.grad(&whole_gradients).unwrap().flatten::<2>(1, 3);
    for (end, dense) in [
        ("to_q", linear(attention.to_q.weight.val())),
        ("to_k", linear(attention.to_k.weight.val())),
        ("to_out.0", linear(attention.to_out[0].weight.val())),
        ("proj_in", conv(whole.transformer().proj_in.weight.val())),
        (
            "conv1",
            conv(whole.down_blocks[0].resnets[0].conv1.weight.val()),
        ),
    ] {
        let factor = factors(&unet)
            .into_iter()
            .find(|factor| factor.path.ends_with(end))
            .unwrap();
        let (down, up) = (factor.down.clone().inner(), factor.up.clone().inner());
        let expected_up = dense.clone().matmul(down.transpose()).mul_scalar(1.5);
        let expected_down = up.transpose().matmul(dense).mul_scalar(1.5);
        for (name, got, expected) in [
            ("up", factor.up, expected_up),
            ("down", factor.down, expected_down),
        ] {
            let error = relative_error(&values(got.grad(&gradients).unwrap()), &values(expected));
            println!("{end} {name}: {error:.1e}");
            assert!(error < 1e-5, "{end} {name}: {error:e}");
        }
    }
}

#[test]
fn factors_are_read_back_in_order_and_by_path() {
    let unet = attached(Unet::new(&device()));
    let read = factors(&unet);
    assert!(read.iter().all(|factor| factor.alpha == 3.0
        && factor.rank == 2
        && values(factor.up.clone()).iter().all(|v| *v == 0.0)));
    assert_eq!(read[4].shape, [6, 3, 3, 3]);
    assert_eq!(read[2].shape, [6, 4]);
    assert_eq!(
        values(read[4].down.clone()),
        noise(read[4].path.len() as u64, 54)
    );

    let mut given = trained(&unet);
    given.reverse();
    let resumed = with_factors(unet.clone(), Component::Unet, &given).unwrap();
    given.reverse();
    for (a, b) in factors(&resumed).into_iter().zip(&given) {
        assert_eq!(
            (a.path.as_str(), values(a.down), values(a.up)),
            (
                b.path.as_str(),
                values(b.down.clone()),
                values(b.up.clone())
            )
        );
    }
    let id = |unet: &Unet| unet.attention().to_q.weight.id;
    assert_eq!(id(&resumed), id(&unet));

    // Through a file: ΔW and the factors themselves.
    let lora = Lora::from_factors("f", [(Component::Unet, given.clone())]).unwrap();
    let bytes = lora
        .to_bytes(
            lora_core::Dialect::Kohya,
            lora_core::Precision::F32,
            &Default::default(),
        )
        .unwrap();
    let read = Lora::from_bytes("f", &bytes).unwrap();
    let again = with_factors(
        unet.clone(),
        Component::Unet,
        &read.factors(Component::Unet, &device()),
    )
    .unwrap();
    assert_eq!(
        bits(&again.attention().to_q.weight),
        bits(&resumed.attention().to_q.weight)
    );

    let mut fewer = given.clone();
    fewer.pop();
    assert!(
        with_factors(unet.clone(), Component::Unet, &fewer)
            .unwrap_err()
            .to_string()
            .contains("time_emb_proj")
    );
    let mut other = given.clone();
    other[0].alpha = 1.0;
    assert!(
        with_factors(unet.clone(), Component::Unet, &other)
            .unwrap_err()
            .to_string()
            .contains("proj_in")
    );
    let mut more = given.clone();
    more.push(Factor {
        path: "conv_in".to_owned(),
        ..given[0].clone()
    });
    assert!(
        with_factors(unet.clone(), Component::Unet, &more)
            .unwrap_err()
            .to_string()
            .contains("conv_in")
    );
    let twice = [given.clone(), given].concat();
    assert!(
        with_factors(unet, Component::Unet, &twice)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}

#[test]
fn factors_stay_trainable_through_validation_records_and_another_lora() {
    let unet = attached(Unet::new(&device().autodiff()));
    let unet = with_factors(unet.clone(), Component::Unet, &trained(&unet)).unwrap();
    let trains = |unet: &Unet| {
        let gradients = loss(unet).backward();
        let query = &unet.attention().to_q.weight;
        let stack = query.reparameterization::<LowRankStack>().unwrap();
        let all = factors(unet)
            .into_iter()
            .filter(|factor| factor.up.grad(&gradients).is_some())
            .count();
        (
            query.base().grad(&gradients).is_some(),
            stack.layers().len(),
            all,
        )
    };
    assert_eq!(trains(&unet), (false, 1, 5));
    assert_eq!(trains(&unet.valid().train()), (false, 1, 5));
    assert_eq!(values(loss(&unet.valid())), values(loss(&unet)));

    let style =
        Lora::from_bytes("style", &file(&kohya(TO_Q, &[2, 6], &[6, 2], None, 1), &[])).unwrap();
    let styled = style.apply(unet.clone(), Component::Unet, 0.5).unwrap();
    assert_eq!(trains(&styled), (false, 2, 5));

    let record = unet
        .clone()
        .into_record_group(ParamGroup::from_predicate(".lora."));
    assert_eq!(record.len(), 3 * 6);
    let fresh = attached(Unet::new(&device().autodiff())).load_record(record.allow_partial(true));
    for (a, b) in factors(&fresh).into_iter().zip(factors(&unet)) {
        assert_eq!((a.alpha, values(a.up)), (b.alpha, values(b.up)));
    }
}

#[test]
fn f32_factors_train_on_half_precision_weights() {
    struct Halve;
    impl ModuleMapper for Halve {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let param = param.set_require_grad(false);
            param.map(|tensor| tensor.cast(DType::F16))
        }
    }
    let unet = attached(Unet::new(&device().autodiff()).map(&mut Halve));
    let weight = unet.attention().to_k.weight.val();
    assert_eq!(weight.dtype(), DType::F16);
    let gradients = weight.cast(DType::F32).sum().backward();
    let factor = factors(&unet)
        .into_iter()
        .find(|factor| factor.path.ends_with("to_k"))
        .unwrap();
    // With a gradient of ones, that of up is s times the sum of down's row.
    let down = values(factor.down);
    let expected: Vec<f32> = (0..12)
        .map(|at| 1.5 * down[at % 2 * 4..][..4].iter().sum::<f32>())
        .collect();
    let gradient = factor.up.grad(&gradients).unwrap();
    assert_eq!(gradient.dtype(), DType::F32);
    assert!(relative_error(&values(gradient), &expected) < 1e-6);
}

#[test]
fn wrong_settings_are_told() {
    let zeros = |_: &str, _: usize, length: usize| vec![0.0; length];
    let all = |rank, alpha| move |_: &str, _: &[usize]| Some(size(rank, alpha));
    let unet = || Unet::new(&device());
    assert!(matches!(
        attach(unet(), Component::Unet, |_, _| None, zeros),
        Err(LoraError::NoTargets { .. })
    ));
    assert!(matches!(
        attach(unet(), Component::Unet, all(0, 1.0), zeros),
        Err(LoraError::RankAlpha { .. })
    ));
    assert!(matches!(
        attach(unet(), Component::Unet, all(1, f64::NAN), zeros),
        Err(LoraError::RankAlpha { .. })
    ));
    let short = |_: &str, _: usize, _: usize| vec![0.0; 1];
    assert!(
        attach(unet(), Component::Unet, all(1, 1.0), short)
            .unwrap_err()
            .to_string()
            .contains("conv_in")
    );
    assert!(matches!(
        attach(attached(unet()), Component::Unet, all(2, 1.0), zeros),
        Err(LoraError::AlreadyAdapted { .. })
    ));
}

/// The names that kohya's own rule gives on SD 1.5, by `reference/make_names.py`.
#[test]
fn kohya_sizes_are_of_kohyas_modules() {
    let names: Value = serde_json::from_str(include_str!("../reference/sd15_names.json")).unwrap();
    let (linear, convolution) = (size(32, 16.0), size(8, 1.0));
    for (expected, conv, unet_count, spatial) in [
        ("kohya", None, 192, 0),
        ("kohya_conv", Some(convolution), 278, 50),
    ] {
        let expected: Vec<&str> = names[expected]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let mut ours = Vec::new();
        for (component, key, count) in [
            (Component::Unet, "unet", unet_count),
            (Component::TextEncoder, "text_encoder", 72),
        ] {
            let sizes = kohya_sizes(component, linear, conv);
            let mut convolutions = 0;
            let before = ours.len();
            for (path, shape) in names[key].as_object().unwrap() {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                let Some(found) = sizes(path, &shape) else {
                    continue;
                };
                let wide = shape[2..].contains(&3);
                assert_eq!(found, if wide { convolution } else { linear }, "{path}");
                convolutions += usize::from(wide);
                ours.push(format!(
                    "{}{}",
                    component.kohya_prefix(),
                    path.replace('.', "_")
                ));
            }
            assert_eq!(ours.len() - before, count);
            assert_eq!(convolutions, if key == "unet" { spatial } else { 0 });
        }
        ours.sort();
        assert_eq!(ours, expected);
    }
    let bare = kohya_sizes(Component::TextEncoder, linear, None);
    let of = |path| bare(path, &[768, 768]);
    assert_eq!(of("encoder.layers.11.self_attn.out_proj"), Some(linear));
    assert_eq!(of("embeddings.token_embedding"), None);
    let unet = kohya_sizes(Component::Unet, linear, Some(convolution));
    assert_eq!(unet("down_blocks.0.attentions.0", &[320, 320]), None);
    assert_eq!(unet("conv_in", &[320, 4, 3, 3]), None);
}
