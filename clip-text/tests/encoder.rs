//! The text encoder and weighted prompts against transformers.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_text::{
    ClipTextConfig, ClipTextModel, EncodeOptions, HiddenAct, Prompt, Tokenizer, encode,
};
use parity::Fixture;
use proptest::prelude::*;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tiny")
        .join(name)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_files(tiny("vocab.json"), tiny("merges.txt")).unwrap()
}

fn model(name: &str) -> (ClipTextModel, Fixture) {
    let config = ClipTextConfig::open(tiny(&format!("{name}.json"))).unwrap();
    let weights = tiny(&format!("{name}.safetensors"));
    let expected = Fixture::open(tiny(&format!("{name}.expected.safetensors")));
    (
        parity::load(config.init(&parity::device()), weights),
        expected,
    )
}

#[test]
fn hidden_states_are_transformers() {
    for name in ["quick_gelu", "gelu"] {
        let (model, expected) = model(name);
        assert_eq!(model.layers(), 3);
        expected.assert_close("skip1", model.forward(expected.ints("tokens")), 2e-6);
        for skip in 1..=3 {
            let hidden = model.forward_skip(expected.ints("tokens"), skip);
            expected.assert_close(&format!("skip{skip}"), hidden, 2e-6);
        }
        expected.assert_close("short1", model.forward(expected.ints("short")), 2e-6);
    }
}

#[test]
fn weighted_prompts_are_a1111s() {
    let text = std::fs::read_to_string(tiny("prompts.json")).unwrap();
    let prompts: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let prompts: Vec<Prompt> = prompts
        .iter()
        .map(|prompt| Prompt::parse(prompt["text"].as_str().unwrap()))
        .collect();
    let tokenizer = tokenizer();
    for name in ["quick_gelu", "gelu"] {
        let (model, expected) = model(name);
        let mut compared = 0;
        for (i, prompt) in prompts.iter().enumerate() {
            let key = format!("prompt{i}");
            if expected.names().contains(&key.as_str()) {
                let ours = encode(&model, &tokenizer, &[prompt], &EncodeOptions::default());
                expected.assert_close(&key, ours.hidden, 1e-5);
                assert_eq!(ours.cut, [""]);
                compared += 1;
            }
        }
        assert!(compared >= 3);
        let options = EncodeOptions {
            clip_skip: 2,
            ..Default::default()
        };
        let pair = [&prompts[0], &prompts[13], &prompts[2]];
        let ours = encode(&model, &tokenizer, &pair, &options);
        assert!(ours.chunks > 1);
        expected.assert_close("pair2", ours.hidden, 1e-5);
    }
}

#[test]
fn a_plain_prompt_is_the_text_encoders_output_to_the_bit() {
    let (model, _) = model("quick_gelu");
    let tokenizer = tokenizer();
    let plain = Prompt::parse("a cat under the red tree");
    let tokens: Vec<i64> = tokenizer
        .encode_padded("a cat under the red tree")
        .into_iter()
        .map(i64::from)
        .collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, 77]), &parity::device());
    let alone = model.forward(tokens).into_data();
    let options = EncodeOptions::default();
    let ours = encode(&model, &tokenizer, &[&plain], &options);
    ours.hidden.into_data().assert_eq(&alone, true);

    // Nor does a weighted neighbour change it.
    let weighted = Prompt::parse("a (cat:1.4)");
    let ours = encode(&model, &tokenizer, &[&weighted, &plain], &options);
    ours.hidden
        .narrow(0, 1, 1)
        .into_data()
        .assert_eq(&alone, true);
}

#[test]
fn prompts_are_filled_up_to_the_chunks_asked_for() {
    let (model, _) = model("quick_gelu");
    let tokenizer = tokenizer();
    let options = EncodeOptions {
        min_chunks: 3,
        ..Default::default()
    };
    let three = encode(&model, &tokenizer, &[&Prompt::parse("a BREAK")], &options);
    assert_eq!((three.chunks, three.hidden.dims()), (3, [1, 231, 32]));
    let empty = encode(
        &model,
        &tokenizer,
        &[&Prompt::parse("")],
        &EncodeOptions::default(),
    );
    let last = three.hidden.narrow(1, 154, 77);
    last.into_data().assert_eq(&empty.hidden.into_data(), true);
}

#[test]
fn stable_diffusions_text_encoder_has_its_size() {
    let config = ClipTextConfig::default();
    assert_eq!(config.hidden_act, HiddenAct::QuickGelu);
    // Weights are made when first used: this makes none.
    let model = config.init(&Device::flex());
    assert_eq!(model.num_params(), 123_060_480);
    assert_eq!((model.layers(), model.positions()), (12, 77));
}

#[test]
fn a_missing_key_is_transformers_default() {
    let config = ClipTextConfig::from_json("{}", "config.json").unwrap();
    assert_eq!((config.hidden_size, config.num_attention_heads), (512, 8));
    let config = ClipTextConfig::from_json(
        r#"{"hidden_act": "gelu", "layer_norm_eps": null, "architectures": ["CLIPTextModel"]}"#,
        "config.json",
    );
    assert_eq!(config.unwrap().hidden_act, HiddenAct::Gelu);
}

#[test]
fn wrong_configs_are_told() {
    for (text, wanted) in [
        ("", "expected the sizes"),
        ("[]", "expected the sizes"),
        (r#"{"model_type": "t5"}"#, "`model_type` is \"t5\""),
        (
            r#"{"text_config": {"model_type": "bert"}}"#,
            "`model_type` is \"bert\"",
        ),
        (r#"{"hidden_size": 0}"#, "`hidden_size` is 0"),
        (
            r#"{"hidden_size": 100}"#,
            "a multiple of `num_attention_heads`, 8",
        ),
        (
            r#"{"num_hidden_layers": 1000000000}"#,
            "`num_hidden_layers` is 1000000000",
        ),
        (
            r#"{"max_position_embeddings": 2}"#,
            "`max_position_embeddings` is 2",
        ),
        (r#"{"layer_norm_eps": -1}"#, "`layer_norm_eps` is -1"),
        (r#"{"hidden_act": "relu"}"#, "expected the sizes"),
        (r#"{"vocab_size": -1}"#, "expected the sizes"),
    ] {
        let error = ClipTextConfig::from_json(text, "config.json")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(wanted) && error.contains("config.json"),
            "{text}: {error}"
        );
    }
}

#[test]
#[should_panic(expected = "clip skip is 1 to 3, not 4")]
fn skipping_every_layer_panics() {
    let (model, expected) = model("quick_gelu");
    model.forward_skip(expected.ints("short"), 4);
}

proptest! {
    #[test]
    fn garbled_configs_are_no_panic(place in any::<prop::sample::Index>(), bytes in any::<Vec<u8>>(), cut in any::<bool>()) {
        for name in ["quick_gelu.json", "gelu.json"] {
            let mut text = std::fs::read(tiny(name)).unwrap().trim_ascii().to_vec();
            let start = place.index(text.len());
            if cut {
                text.truncate(start);
            } else {
                let end = text.len().min(start + bytes.len());
                text.splice(start..end, bytes.iter().copied());
            }
            let parsed = ClipTextConfig::from_json(&String::from_utf8_lossy(&text), "config.json");
            prop_assert!(!cut || parsed.is_err());
            if let Ok(config) = parsed {
                config.init(&Device::flex()).num_params();
            }
        }
    }
}
