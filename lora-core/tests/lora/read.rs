use lora_core::{Component, Lora, LoraError, Spelling};
use parity::{device, values};
use proptest::prelude::*;
use safetensors::Dtype;

use crate::models::*;

fn read(entries: &[Entry]) -> Result<Lora, LoraError> {
    Lora::from_bytes("test.safetensors", &file(entries, &[]))
}

fn message(entries: &[Entry]) -> String {
    read(entries)
        .expect_err("this file cannot be read")
        .to_string()
}

#[track_caller]
fn assert_tells(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{message}` does not tell `{word}`");
    }
}

/// The scale that a file gives its module, by ΔW's first value.
fn scale(lora: &Lora, path: &str, seed: u64) -> f64 {
    let delta = values(lora.delta(Component::Unet, path, &device()).unwrap());
    f64::from(delta[0]) / product(seed, 2, 6, 6, 1.0)[0]
}

const PATH: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";

#[test]
fn alpha_of_every_type_and_shape() {
    let half = half::f16::from_f32(3.0).to_le_bytes();
    let brain = half::bf16::from_f32(3.0).to_le_bytes();
    let alphas = [
        (Dtype::F32, 3f32.to_le_bytes().to_vec(), 1.5),
        (Dtype::F16, half.to_vec(), 1.5),
        (Dtype::BF16, brain.to_vec(), 1.5),
        (Dtype::F64, 3f64.to_le_bytes().to_vec(), 1.5),
        (Dtype::I64, 3i64.to_le_bytes().to_vec(), 1.5),
        (Dtype::I32, 3i32.to_le_bytes().to_vec(), 1.5),
        (Dtype::F32, 0f32.to_le_bytes().to_vec(), 1.0),
        (Dtype::I64, 0i64.to_le_bytes().to_vec(), 1.0),
    ];
    for (dtype, data, expected) in alphas {
        for shape in [&[][..], &[1]] {
            let mut entries = kohya(TO_Q, &[2, 6], &[6, 2], None, 7);
            entries.push(raw(&format!("{TO_Q}.alpha"), dtype, shape, &data));
            let lora = read(&entries).unwrap();
            assert!(
                (scale(&lora, PATH, 7) - expected).abs() < 1e-6,
                "{dtype:?} {shape:?}"
            );
        }
    }
    assert!(
        (scale(
            &read(&kohya(TO_Q, &[2, 6], &[6, 2], None, 7)).unwrap(),
            PATH,
            7
        ) - 1.0)
            .abs()
            < 1e-6
    );
}

#[test]
fn mixed_spellings_in_one_file() {
    let path =
        |end: &str| format!("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.{end}");
    let entries = [
        f32s(&path("to_q.lora.down.weight"), &[2, 6], &noise(1, 12)),
        f32s(&path("to_q.lora.up.weight"), &[6, 2], &noise(2, 12)),
        f32s(
            &path("processor.to_out_lora.down.weight"),
            &[2, 6],
            &noise(1, 12),
        ),
        f32s(
            &path("processor.to_out_lora.up.weight"),
            &[6, 2],
            &noise(2, 12),
        ),
        f32s(&path("to_k.lora_A.default.weight"), &[2, 4], &noise(1, 8)),
        f32s(&path("to_k.lora_B.default.weight"), &[6, 2], &noise(2, 12)),
        f32s(
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
            &[2, 4],
            &noise(1, 8),
        ),
        f32s(
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
            &[8, 2],
            &noise(2, 16),
        ),
        f32s(
            "text_encoder.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
            &[2, 4],
            &noise(1, 8),
        ),
        f32s(
            "text_encoder.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            &[4, 2],
            &noise(2, 8),
        ),
    ];
    let lora = read(&entries).unwrap();
    assert_eq!(
        (
            lora.modules(Component::Unet),
            lora.modules(Component::TextEncoder)
        ),
        (3, 2)
    );
    let spellings: Vec<_> = lora.summary().spellings.into_iter().collect();
    assert_eq!(
        spellings,
        [
            Spelling::Kohya,
            Spelling::Peft,
            Spelling::Diffusers,
            Spelling::DiffusersProcessor
        ]
    );
    lora.apply(Unet::new(&device()), Component::Unet, 1.0)
        .unwrap();
    lora.apply(Text::new(&device()), Component::TextEncoder, 1.0)
        .unwrap();
}

#[test]
fn peft_settings_scale_factors_that_have_no_alpha() {
    let key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let entries = [
        f32s(&format!("{key}.lora_A.weight"), &[2, 6], &noise(7, 12)),
        f32s(&format!("{key}.lora_B.weight"), &[6, 2], &noise(1007, 12)),
    ];
    let open = |settings: &str| {
        Lora::from_bytes(
            "test",
            &file(&entries, &[("lora_adapter_metadata", settings)]),
        )
    };
    let told = |settings: &str| scale(&open(settings).unwrap(), PATH, 7);
    assert!((told(r#"{"unet.r": 2, "unet.lora_alpha": 5}"#) - 2.5).abs() < 1e-6);
    assert!(
        (told(r#"{"unet.lora_alpha": 5, "unet.alpha_pattern": {"attn1.to_q": 1}}"#) - 0.5).abs()
            < 1e-6
    );
    assert!(
        (told(r#"{"unet.r": 8, "unet.rank_pattern": {"to_q": 2}, "unet.lora_alpha": 2}"#) - 1.0)
            .abs()
            < 1e-6
    );
    assert!(
        (told(r#"{"unet.r": 2, "unet.lora_alpha": 2, "unet.use_rslora": true}"#) - 2f64.sqrt())
            .abs()
            < 1e-6
    );
    assert!((told(r#"{"text_encoder.lora_alpha": 5}"#) - 1.0).abs() < 1e-6);
    for bad in [
        r#"{"unet.r": 3, "unet.lora_alpha": 5}"#,
        r#"{"unet.lora_alpha": "much"}"#,
        "not json",
        "[]",
    ] {
        assert_tells(
            &open(bad).unwrap_err().to_string(),
            &["test", "lora_adapter_metadata"],
        );
    }
}

#[test]
fn plain_peft_takes_alpha_from_the_config_beside_it() {
    let key = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let entries = [
        f32s(&format!("{key}.lora_A.weight"), &[2, 6], &noise(7, 12)),
        f32s(&format!("{key}.lora_B.weight"), &[6, 2], &noise(1007, 12)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    std::fs::write(&path, file(&entries, &[])).unwrap();
    assert!((scale(&Lora::open(&path).unwrap(), PATH, 7) - 1.0).abs() < 1e-6);
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["to_q"], "alpha_pattern": {}}"#;
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    assert!((scale(&Lora::open(&path).unwrap(), PATH, 7) - 3.0).abs() < 1e-6);
    std::fs::write(folder.path().join("adapter_config.json"), [0xff, 0]).unwrap();
    assert_tells(
        &Lora::open(&path).unwrap_err().to_string(),
        &["adapter_config.json"],
    );
    // A kohya file in the same folder has nothing to do with it.
    let other = folder.path().join("mira.safetensors");
    std::fs::write(&other, file(&whole(1), &[])).unwrap();
    Lora::open(&other).unwrap();
}

#[test]
fn errors_name_file_and_key() {
    let pair = kohya(TO_Q, &[2, 6], &[6, 2], Some(1.0), 1);
    assert_tells(&message(&pair[..1]), &["test.safetensors", TO_Q, "up"]);
    assert_tells(&message(&pair[1..]), &[TO_Q, "down"]);
    let lonely = [
        kohya(TO_K, &[2, 4], &[6, 2], None, 1),
        vec![f32s(&format!("{TO_Q}.alpha"), &[], &[1.0])],
    ]
    .concat();
    assert_tells(&message(&lonely), &[TO_Q, "down and up"]);
    assert_tells(
        &message(&kohya(TO_Q, &[2, 6], &[6, 3], None, 1)),
        &[TO_Q, "[2, 6]", "[6, 3]"],
    );
    assert_tells(
        &message(&kohya(TO_Q, &[0, 6], &[6, 0], None, 1)),
        &[TO_Q, "[0, 6]"],
    );
    assert_tells(
        &message(&kohya(TO_Q, &[2, 6, 1], &[6, 2, 1], None, 1)),
        &[TO_Q, "[2, 6, 1]"],
    );
    assert_tells(
        &message(&kohya(CONV1, &[2, 3, 1, 1], &[6, 2, 3, 3], None, 1)),
        &[CONV1],
    );

    let mut bad = pair.clone();
    bad[1].data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_tells(&message(&bad), &[TO_Q, "not finite"]);
    bad = pair.clone();
    bad[2].data.copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_tells(&message(&bad), &[TO_Q, "alpha", "not finite"]);
    bad = pair.clone();
    bad[2] = f32s(&format!("{TO_Q}.alpha"), &[2], &[1.0, 2.0]);
    assert_tells(&message(&bad), &[TO_Q, "one number", "[2]"]);
    bad = pair.clone();
    bad[0] = raw(
        &format!("{TO_Q}.lora_down.weight"),
        Dtype::I8,
        &[2, 6],
        &[1; 12],
    );
    assert_tells(&message(&bad), &[TO_Q, "I8"]);

    let peft = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
    let twice = [pair.clone(), vec![f32s(peft, &[2, 6], &noise(1, 12))]].concat();
    assert_tells(&message(&twice), &[TO_Q, "unet.down_blocks", "same"]);
    let stranger = [
        pair.clone(),
        vec![f32s("bundle_emb.mira.string_to_param.*", &[1], &[1.0])],
    ]
    .concat();
    assert_tells(&message(&stranger), &["bundle_emb.mira", "1 keys"]);
    let other = [
        pair,
        kohya(
            "lora_unet_mid_block_attentions_0_proj_in",
            &[2, 3],
            &[3, 2],
            None,
            1,
        ),
        vec![f32s(&format!("{TO_K}.hada_w1_a"), &[1], &[1.0])],
    ]
    .concat();
    assert_tells(&message(&other), &[TO_K, "LoHa", "not supported"]);
}

#[test]
fn what_is_no_sd_15_lora_is_refused_in_one_sentence() {
    let checkpoint = [
        f32s("down_blocks.0.conv.weight", &[1], &[1.0]),
        f32s("x.alpha", &[1], &[1.0]),
    ];
    assert_tells(
        &message(&checkpoint),
        &["no LoRA", "down_blocks.0.conv.weight"],
    );
    assert_tells(&message(&[]), &["no LoRA"]);
    let te2 = kohya(
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        &[1, 2],
        &[2, 1],
        None,
        1,
    );
    assert_tells(
        &message(&[whole(1), te2].concat()),
        &["Stable Diffusion XL", "lora_te2_"],
    );
    let wide = kohya(
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        &[1, 2048],
        &[2, 1],
        None,
        1,
    );
    assert_tells(
        &message(&wide),
        &["Stable Diffusion XL", "attn2_to_k", "2048"],
    );
    let told = Lora::from_bytes(
        "f",
        &file(&whole(1), &[("ss_base_model_version", "sdxl_base_v1-0")]),
    )
    .unwrap_err();
    assert_tells(
        &told.to_string(),
        &["Stable Diffusion XL", "sdxl_base_v1-0"],
    );
    assert_tells(
        &message(&kohya(
            "lora_unet_double_blocks_0_img_attn_qkv",
            &[1, 2],
            &[2, 1],
            None,
            1,
        )),
        &["transformer"],
    );
}

#[test]
fn broken_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = file(&whole(1), &[]);
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("short", &bytes[..5]),
        ("cut-header", &bytes[..60]),
        ("cut-data", &bytes[..bytes.len() - 1]),
        ("pickle", b"PK\x03\x04 and so on, longer than eight bytes"),
        ("huge-header", &[0xff; 64]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Lora::open(&path).unwrap_err();
        assert!(
            matches!(error, LoraError::Malformed { .. }),
            "{name}: {error}"
        );
        assert_tells(&error.to_string(), &[name, "safetensors"]);
    }
    assert_tells(
        &Lora::open(folder.path().join("absent"))
            .unwrap_err()
            .to_string(),
        &["absent"],
    );
    assert!(Lora::open(folder.path()).is_err());
}

#[test]
fn a_large_file_that_is_no_lora_is_refused_by_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    // The data that the header tells of is not even there.
    let header = br#"{"unet.conv_in.weight":{"dtype":"F16","shape":[1000000000],"data_offsets":[0,2000000000]}} "#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    std::fs::write(&path, [bytes, vec![0; 100]].concat()).unwrap();
    assert!(matches!(
        Lora::open(&path),
        Err(LoraError::NotALora { count: 1, .. })
    ));
}

#[test]
fn summary_tells_what_is_there() {
    let bytes = file(&whole(1), &[("ss_output_name", "mira")]);
    let summary = Lora::from_bytes("f", &bytes).unwrap().summary();
    let unet = &summary.components[&Component::Unet];
    assert_eq!((unet.modules, unet.convolutions), (4, 2));
    assert_eq!(
        unet.ranks.iter().map(|(r, n)| (*r, *n)).collect::<Vec<_>>(),
        [(2, 3), (3, 1)]
    );
    assert_eq!(unet.alphas, [(1.0, 1), (1.5, 1), (2.0, 1), (4.0, 1)]);
    assert_eq!(summary.components[&Component::TextEncoder].modules, 1);
    assert_eq!(summary.dtypes.iter().collect::<Vec<_>>(), ["F32"]);
    assert_eq!(summary.parameters, 24 + 20 + 36 + 66 + 24);
    assert_eq!(summary.metadata["ss_output_name"], "mira");
    let hashes = summary.hashes.unwrap();
    assert!(
        hashes.sha256.len() == 64
            && hashes.model_hash.len() == 64
            && hashes.sha256 != hashes.model_hash
    );
}

/// Keys built of the pieces that keys are made of.
fn keys() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "lora_unet_",
        "lora_te_",
        "lora_te1_",
        "unet.",
        "text_encoder.",
        "base_model.model.",
        "diffusion_model.",
        "input_blocks_",
        "output_blocks.",
        "middle_block_",
        "down_blocks_0_",
        "attentions",
        "_",
        ".",
        "0",
        "11",
        "4294967296999999999999",
        "transformer_blocks_0",
        "_lora",
        ".lora",
        ".processor",
        "to_out",
        "to_q",
        ".lora_A",
        ".lora_down",
        ".down",
        ".up",
        ".default",
        ".weight",
        ".alpha",
        "time_embed_0",
        "out_2",
        "é",
        "",
    ]);
    prop::collection::vec(pieces, 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Lora::from_bytes("f", &bytes);
    }

    #[test]
    fn no_changed_file_panics(cut in 0usize..3000, at in prop::collection::vec((0usize..3000, any::<u8>()), 0..6)) {
        let mut bytes = file(&whole(1), &[("lora_adapter_metadata", r#"{"unet.r": 2, "unet.lora_alpha": 5}"#)]);
        for (at, byte) in at {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if cut < bytes.len() && cut % 4 == 0 {
            bytes.truncate(cut);
        }
        if let Ok(lora) = Lora::from_bytes("f", &bytes) {
            let _ = lora.apply_accepting(Unet::new(&device()), Component::Unet, 1.0);
            let _ = lora.summary();
        }
    }

    #[test]
    fn no_header_panics(
        keys in prop::collection::vec(keys(), 1..5),
        shape in prop::collection::vec(prop::sample::select(vec![0usize, 1, 2, 3, 1 << 40, usize::MAX]), 0..5),
        dtype in prop::sample::select(vec!["F32", "F16", "I64", "BOOL", "F8_E4M3", "?"]),
        length in prop::sample::select(vec![0usize, 2, 4, 8, 24]),
    ) {
        let entries: Vec<_> = keys.iter().enumerate().map(|(i, key)| {
            let (start, end) = (i * length, (i + 1) * length);
            let key = serde_json::Value::from(key.as_str());
            format!("{key}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}")
        }).collect();
        let header = format!("{{{}}}", entries.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0x3c; length * keys.len()]);
        if let Ok(lora) = Lora::from_bytes("f", &bytes) {
            let _ = lora.apply_accepting(Unet::new(&device()), Component::Unet, 1.0);
            let _ = lora.to_bytes(lora_core::Dialect::Peft, lora_core::Precision::F16, &Default::default());
        }
    }
}
