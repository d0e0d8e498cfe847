//! The image encoder against transformers.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use clip_vision::{ClipVisionConfig, ClipVisionModelWithProjection, HiddenAct};
use parity::Fixture;
use serde_json::{Value, json};

fn reference(name: &str) -> PathBuf {
    parity::reference().join("clip-vision").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(reference(name)).unwrap()
}

fn model(name: &str) -> ClipVisionModelWithProjection {
    let config = ClipVisionConfig::from_json(&text(&format!("{name}/config.json"))).unwrap();
    let weights = reference(name).join("model.safetensors");
    parity::load(config.init(&parity::device()), weights)
}

#[test]
fn embeddings_and_hidden_states_are_transformers() {
    let expected = Fixture::open(reference("expected.safetensors"));
    for name in ["quick_gelu", "gelu"] {
        let out = model(name).forward(expected.tensor(&format!("{name}.pixels")));
        expected.assert_close(&format!("{name}.image_embeds"), out.image_embeds, 2e-6);
        expected.assert_close(&format!("{name}.penultimate"), out.penultimate, 2e-6);
        expected.assert_close(&format!("{name}.last"), out.last, 2e-6);
    }
}

#[test]
fn pictures_of_a_batch_do_not_see_each_other() {
    let expected = Fixture::open(reference("expected.safetensors"));
    let model = model("gelu");
    let second = expected.tensor::<4>("gelu.pixels").narrow(0, 1, 1);
    let alone = parity::values(model.forward(second).image_embeds);
    let both = expected.tensor::<2>("gelu.image_embeds").narrow(0, 1, 1);
    assert!(parity::relative_error(&alone, &parity::values(both)) < 2e-6);
}

#[test]
fn the_activation_is_the_configurations() {
    let expected = Fixture::open(reference("expected.safetensors"));
    let config = ClipVisionConfig::from_json(&text("gelu/config.json")).unwrap();
    let other = ClipVisionConfig {
        hidden_act: HiddenAct::QuickGelu,
        ..config
    };
    let weights = reference("gelu/model.safetensors");
    let model: ClipVisionModelWithProjection = parity::load(other.init(&parity::device()), weights);
    let ours = model.forward(expected.tensor("gelu.pixels")).image_embeds;
    let (_, theirs) = expected.float("gelu.image_embeds");
    assert!(parity::relative_error(&parity::values(ours), theirs) > 1e-4);
}

#[test]
fn an_encoder_in_f16_takes_pixels_in_f32() {
    let expected = Fixture::open(reference("expected.safetensors"));
    let mut half = Half;
    let out = model("quick_gelu")
        .map(&mut half)
        .forward(expected.tensor("quick_gelu.pixels"));
    assert_eq!(out.image_embeds.dtype(), DType::F16);
    expected.assert_close("quick_gelu.image_embeds", out.image_embeds, 5e-3);
}

struct Half;

impl burn::module::ModuleMapper for Half {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.cast(DType::F16))
    }
}

/// Keys and shapes of a module, as PyTorch would save them.
#[derive(Default)]
struct Shapes {
    path: Vec<(String, String)>,
    shapes: serde_json::Map<String, Value>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.to_owned(), container.to_owned()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let names: Vec<&str> = self
            .path
            .iter()
            .map(|(name, _)| match name.as_str() {
                "gamma" => "weight",
                "beta" => "bias",
                name => name,
            })
            .collect();
        let mut shape = param.lazy_shape().to_vec();
        if self.path.last().unwrap().1 == "Struct:Linear" {
            shape.reverse();
        }
        self.shapes.insert(names.join("."), json!(shape));
    }
}

#[test]
fn published_sizes_have_transformers_keys_and_shapes() {
    let told: Value = serde_json::from_str(&text("shapes.json")).unwrap();
    for (name, config) in [
        ("vit-l-14", ClipVisionConfig::vit_l_14()),
        ("vit-h-14", ClipVisionConfig::default()),
        ("vit-bigg-14", ClipVisionConfig::vit_bigg_14()),
    ] {
        let theirs = &told[name];
        let read = ClipVisionConfig::from_value(&theirs["config"]).unwrap();
        assert_eq!(read, config, "{name}");
        assert_eq!(config.positions(), 257);
        // Weights are made when first used: this makes none.
        let model = config.init(&parity::device());
        assert_eq!(theirs["parameters"], model.num_params(), "{name}");
        let mut ours = Shapes::default();
        model.visit(&mut ours);
        assert_eq!(theirs["tensors"], ours.shapes.len(), "{name}");
        let mut wanted = theirs["rest"].as_object().unwrap().clone();
        for layer in 0..config.num_hidden_layers {
            for (key, shape) in theirs["layer"].as_object().unwrap() {
                let key = format!("vision_model.encoder.layers.{layer}.{key}");
                wanted.insert(key, shape.clone());
            }
        }
        assert_eq!(ours.shapes, wanted, "{name}");
    }
}

#[test]
fn a_whole_clips_vision_config_is_read_with_the_whole_ones_projection() {
    let own: Value = serde_json::from_str(&text("gelu/config.json")).unwrap();
    let alone = ClipVisionConfig::from_value(&own).unwrap();
    let mut inner = own.clone();
    // What transformers wrote there for OpenCLIP's models: its default.
    inner["projection_dim"] = json!(512);
    let whole = json!({
        "model_type": "clip", "projection_dim": 24, "vision_config": inner, "text_config": { "hidden_size": 7 },
    });
    assert_eq!(ClipVisionConfig::from_value(&whole).unwrap(), alone);
}

#[test]
fn a_missing_key_is_transformers_default() {
    let config = ClipVisionConfig::from_json(r#"{"hidden_act": null}"#).unwrap();
    let vit_b_32 = ClipVisionConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        projection_dim: 512,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        patch_size: 32,
        ..ClipVisionConfig::vit_l_14()
    };
    assert_eq!(config, vit_b_32);
}

#[test]
fn wrong_configurations_are_told() {
    for (text, told) in [
        ("", "expected the sizes of a CLIP image encoder"),
        ("[]", "expected the sizes"),
        (
            r#"{"hidden_size": "wide"}"#,
            "`hidden_size` is \"wide\", expected a whole number",
        ),
        (r#"{"hidden_size": 0}"#, "`hidden_size` is 0"),
        (
            r#"{"hidden_size": 770}"#,
            "`hidden_size` is 770, expected a multiple of `num_attention_heads`, 12",
        ),
        (r#"{"num_hidden_layers": -1}"#, "`num_hidden_layers` is -1"),
        (r#"{"image_size": [224, 224]}"#, "`image_size` is [224,224]"),
        (
            r#"{"patch_size": 225}"#,
            "`patch_size` is 225, expected at most `image_size`, 224",
        ),
        (r#"{"num_channels": 4}"#, "`num_channels` is 4, expected 3"),
        (
            r#"{"hidden_act": "relu"}"#,
            "`hidden_act` is \"relu\", expected \"gelu\" or \"quick_gelu\"",
        ),
        (r#"{"layer_norm_eps": 0}"#, "`layer_norm_eps` is 0"),
        (
            r#"{"model_type": "siglip_vision_model"}"#,
            "`model_type` is \"siglip_vision_model\", expected",
        ),
        (r#"{"model_type": "clip"}"#, "`vision_config` is null"),
        (
            r#"{"vision_config": 1}"#,
            "`vision_config` is 1, expected an object",
        ),
        (
            r#"{"model_type": "clip", "vision_config": {"hidden_act": 7}}"#,
            "`vision_config.hidden_act` is 7",
        ),
        (
            r#"{"vision_config": {"model_type": "dinov2"}}"#,
            "`vision_config.model_type` is \"dinov2\"",
        ),
    ] {
        let error = ClipVisionConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(told), "`{told}` in `{error}` of {text}");
    }
}

#[test]
#[should_panic(expected = "the image encoder takes [batch, 3, 56, 56], not [1, 3, 56, 55]")]
fn pixels_of_another_size_panic() {
    let pixels = Tensor::zeros([1, 3, 56, 55], &parity::device());
    model("quick_gelu").forward(pixels);
}
