use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};
use lora_core::{Component, Lora, LoraError, LowRankStack, factors};
use parity::{device, relative_error, values};
use proptest::prelude::*;

use crate::models::*;

fn lora(seed: u64) -> Lora {
    Lora::from_bytes("test.safetensors", &file(&whole(seed), &[])).unwrap()
}

#[track_caller]
fn assert_changed<const D: usize>(
    before: &Param<Tensor<D>>,
    after: &Param<Tensor<D>>,
    deltas: &[&[f64]],
) {
    let mut expected: Vec<f32> = values(before.val());
    let [rows, columns] = [before.dims()[0], before.dims()[D - 1]];
    for delta in deltas {
        for (at, value) in expected.iter_mut().enumerate() {
            // Linear weights are [in, out] in burn, ΔW is [out, in].
            let at = if D == 2 {
                at % columns * rows + at / columns
            } else {
                at
            };
            *value += delta[at] as f32;
        }
    }
    let error = relative_error(&values(after.val()), &expected);
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn weights_become_base_plus_strength_times_delta() {
    let base = Unet::new(&device());
    let kept = bits(&base.attention().to_q.weight);
    for strength in [1.0, 0.6, -0.5] {
        let styled = lora(5)
            .apply(base.clone(), Component::Unet, strength)
            .unwrap();
        let merged = lora(5)
            .merge(base.clone(), Component::Unet, strength)
            .unwrap();
        for model in [&styled, &merged] {
            assert_changed(
                &base.attention().to_q.weight,
                &model.attention().to_q.weight,
                &[&product(5, 2, 6, 6, 0.5 * strength)],
            );
            assert_changed(
                &base.attention().to_k.weight,
                &model.attention().to_k.weight,
                &[&product(6, 2, 4, 6, strength)],
            );
            assert_changed(
                &base.transformer().proj_in.weight,
                &model.transformer().proj_in.weight,
                &[&product(7, 3, 6, 6, 0.5 * strength)],
            );
            let conv = |unet: &Unet| unet.down_blocks[0].resnets[0].conv1.weight.clone();
            assert_changed(
                &conv(&base),
                &conv(model),
                &[&product(8, 2, 27, 6, 2.0 * strength)],
            );
            assert_eq!(bits(&model.conv_in.weight), bits(&base.conv_in.weight));
            assert_eq!(
                bits(&model.attention().to_out[0].weight),
                bits(&base.attention().to_out[0].weight)
            );
        }
        assert!(
            styled
                .attention()
                .to_q
                .weight
                .reparameterization::<LowRankStack>()
                .is_some()
        );
        assert!(
            merged
                .attention()
                .to_q
                .weight
                .reparameterization::<LowRankStack>()
                .is_none()
        );
    }
    assert_eq!(bits(&base.attention().to_q.weight), kept);
    assert!(
        base.attention()
            .to_q
            .weight
            .reparameterization::<LowRankStack>()
            .is_none()
    );
}

#[test]
fn a_second_lora_stacks_on_the_first() {
    let base = Unet::new(&device());
    let once = lora(5).apply(base.clone(), Component::Unet, 1.0).unwrap();
    let both = lora(50).apply(once.clone(), Component::Unet, 0.5).unwrap();
    let thrice = lora(5).apply(both.clone(), Component::Unet, -1.0).unwrap();
    let (a, b) = (product(5, 2, 6, 6, 0.5), product(50, 2, 6, 6, 0.25));
    let query = |unet: &Unet| unet.attention().to_q.weight.clone();
    assert_changed(&query(&base), &query(&once), &[&a]);
    assert_changed(&query(&base), &query(&both), &[&a, &b]);
    assert_changed(&query(&base), &query(&thrice), &[&b]);
    assert_changed(
        &query(&base),
        &query(&both.clone().materialize()),
        &[&a, &b],
    );
    assert_eq!(
        query(&thrice)
            .reparameterization::<LowRankStack>()
            .unwrap()
            .layers()
            .len(),
        3
    );
    // The stored base is the first model's, bit for bit, and the order of merging does not matter.
    assert_eq!(values(query(&thrice).base()), values(query(&base).val()));
    let merged = lora(50)
        .merge(
            lora(5).merge(base.clone(), Component::Unet, 1.0).unwrap(),
            Component::Unet,
            0.5,
        )
        .unwrap();
    assert_changed(&query(&base), &query(&merged), &[&a, &b]);
    assert_eq!(factors(&both).len(), 8);
}

#[test]
fn a_1x1_convolution_and_a_linear_layer_are_one() {
    let base = Unet::new(&device());
    let entries = [
        kohya(TO_Q, &[2, 6, 1, 1], &[6, 2, 1, 1], None, 1),
        kohya(PROJ_IN, &[2, 6], &[6, 2], None, 2),
        kohya(CONV1, &[2, 27], &[6, 2], None, 3),
    ];
    let lora = Lora::from_bytes("f", &file(&entries.concat(), &[])).unwrap();
    let model = lora.apply(base.clone(), Component::Unet, 1.0).unwrap();
    assert_changed(
        &base.attention().to_q.weight,
        &model.attention().to_q.weight,
        &[&product(1, 2, 6, 6, 1.0)],
    );
    assert_changed(
        &base.transformer().proj_in.weight,
        &model.transformer().proj_in.weight,
        &[&product(2, 2, 6, 6, 1.0)],
    );
    let conv = |unet: &Unet| unet.down_blocks[0].resnets[0].conv1.weight.clone();
    assert_changed(&conv(&base), &conv(&model), &[&product(3, 2, 27, 6, 1.0)]);
}

#[test]
fn text_encoders_of_both_ages() {
    let bare = Text::new(&device());
    let wrapped = WrappedText {
        text_model: bare.clone(),
    };
    let with_prefix = lora(5);
    let mut entries = kohya(
        "text_encoder.encoder.layers.0.mlp.fc1",
        &[2, 4],
        &[8, 2],
        Some(2.0),
        9,
    );
    for entry in &mut entries {
        entry.key = entry
            .key
            .replace("lora_down", "lora_A")
            .replace("lora_up", "lora_B");
    }
    let without_prefix = Lora::from_bytes("f", &file(&entries, &[])).unwrap();
    for lora in [&with_prefix, &without_prefix] {
        let a = lora
            .apply(bare.clone(), Component::TextEncoder, 1.0)
            .unwrap();
        let b = lora
            .apply(wrapped.clone(), Component::TextEncoder, 1.0)
            .unwrap();
        let delta = product(9, 2, 4, 8, 1.0);
        assert_changed(
            &bare.encoder.layers[0].mlp.fc1.weight,
            &a.encoder.layers[0].mlp.fc1.weight,
            &[&delta],
        );
        assert_changed(
            &bare.encoder.layers[0].mlp.fc1.weight,
            &b.text_model.encoder.layers[0].mlp.fc1.weight,
            &[&delta],
        );
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let stranger = "lora_unet_up_blocks_1_attentions_0_proj_in";
    let entries = [whole(5), kohya(stranger, &[2, 6], &[6, 2], None, 1)].concat();
    let lora = Lora::from_bytes("mira.safetensors", &file(&entries, &[])).unwrap();
    let base = Unet::new(&device());
    let error = lora.apply(base.clone(), Component::Unet, 1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "mira.safetensors: 1 of 5 UNet modules found no weight in the model: `{stranger}`; is it a LoRA for this model?"
        )
    );
    let (model, unmatched) = lora
        .apply_accepting(base.clone(), Component::Unet, 1.0)
        .unwrap();
    assert_eq!(unmatched, [stranger]);
    assert_changed(
        &base.attention().to_q.weight,
        &model.attention().to_q.weight,
        &[&product(5, 2, 6, 6, 0.5)],
    );

    // An embedding has two axes too, but is no linear layer; norms have one.
    let embedding = kohya(
        "lora_te_text_model_embeddings_token_embedding",
        &[2, 4],
        &[9, 2],
        None,
        1,
    );
    let lora = Lora::from_bytes("f", &file(&embedding, &[])).unwrap();
    assert!(matches!(
        lora.apply(Text::new(&device()), Component::TextEncoder, 1.0),
        Err(LoraError::Unmatched { count: 1, .. })
    ));

    for (module, down, up, expected) in [
        (
            TO_Q,
            &[2, 5][..],
            &[6, 2][..],
            "factors make [6, 5], the weight is [6, 6]",
        ),
        (
            TO_K,
            &[2, 4],
            &[7, 2],
            "factors make [7, 4], the weight is [6, 4]",
        ),
        (
            CONV1,
            &[2, 9, 1, 3],
            &[6, 2, 1, 1],
            "factors make [6, 9, 1, 3], the weight is [6, 3, 3, 3]",
        ),
        (
            TO_Q,
            &[2, 2, 3, 1],
            &[6, 2, 1, 1],
            "factors make [6, 2, 3, 1], the weight is [6, 6]",
        ),
    ] {
        let lora = Lora::from_bytes("f", &file(&kohya(module, down, up, None, 1), &[])).unwrap();
        let error = lora
            .apply(base.clone(), Component::Unet, 1.0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(module) && error.contains(expected),
            "{error}"
        );
        // Even at strength 0, a LoRA for another model is an error.
        assert!(lora.apply(base.clone(), Component::Unet, 0.0).is_err());
    }
    assert!(matches!(
        lora.apply(Text::new(&device()), Component::TextEncoder, f64::NAN),
        Err(LoraError::Strength { .. })
    ));
}

#[test]
fn half_precision_weights_stay_half() {
    struct Halve;
    impl ModuleMapper for Halve {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(DType::F16))
        }
    }
    let base = Unet::new(&device());
    let half = base.clone().map(&mut Halve);
    let model = lora(5).merge(half, Component::Unet, 1.0).unwrap();
    assert_eq!(model.attention().to_q.weight.val().dtype(), DType::F16);
    let full = lora(5).merge(base, Component::Unet, 1.0).unwrap();
    let error = relative_error(
        &values(model.attention().to_q.weight.val()),
        &values(full.attention().to_q.weight.val()),
    );
    assert!(error < 1e-3, "{error:e}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn strength_0_changes_no_bit(seed in any::<u64>(), zeros in prop::collection::vec(any::<bool>(), 36)) {
        let mut base = Unet::new(&device());
        let weights = noise(seed, 36).into_iter().zip(&zeros).map(|(value, &zero)| if zero { -0.0 } else { value }).collect();
        base.down_blocks[0].attentions.as_mut().unwrap()[0].transformer_blocks[0].attn1.to_q.weight =
            Param::from_tensor(tensor(weights, [6, 6], &device()));
        let model = lora(seed % 1000).apply(base.clone(), Component::Unet, 0.0).unwrap();
        prop_assert_eq!(bits(&model.attention().to_q.weight), bits(&base.attention().to_q.weight));
        prop_assert_eq!(bits(&model.transformer().proj_in.weight), bits(&base.transformer().proj_in.weight));
        // Taking a stack apart to put another on leaves the base's bits too.
        let stacked = lora(3).apply(lora(4).apply(base.clone(), Component::Unet, 1.0).unwrap(), Component::Unet, 1.0).unwrap();
        let stored: Vec<_> = values(stacked.attention().to_q.weight.base()).into_iter().map(f32::to_bits).collect();
        prop_assert_eq!(stored, bits(&base.attention().to_q.weight));
    }
}
