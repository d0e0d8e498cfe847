use std::collections::BTreeMap;
use std::fs;

use lora_core::{Component, Dialect, Factor, FactorSize, Lora, LoraError, Precision, Spelling};
use parity::{device, relative_error, values};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::models::*;

const PATHS: [(Component, &str); 5] = [
    (
        Component::Unet,
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ),
    (
        Component::Unet,
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
    ),
    (Component::Unet, "down_blocks.0.attentions.0.proj_in"),
    (Component::Unet, "down_blocks.0.resnets.0.conv1"),
    (
        Component::TextEncoder,
        "text_model.encoder.layers.0.mlp.fc1",
    ),
];

fn lora() -> Lora {
    Lora::from_bytes("test", &file(&whole(5), &[])).unwrap()
}

fn none() -> BTreeMap<String, String> {
    BTreeMap::new()
}

/// The largest relative error of any module's ΔW, and the largest absolute one.
fn distance(a: &Lora, b: &Lora) -> (f64, f32) {
    let mut worst = (0f64, 0f32);
    for (component, path) in PATHS {
        let delta = |lora: &Lora| values(lora.delta(component, path, &device()).unwrap());
        let (a, b) = (delta(a), delta(b));
        worst.0 = worst.0.max(relative_error(&a, &b));
        worst.1 = a
            .iter()
            .zip(&b)
            .fold(worst.1, |worst, (a, b)| worst.max((a - b).abs()));
    }
    worst
}

#[test]
fn kohya_and_peft_and_back() {
    let first = lora(); // alpha / rank: 1/2, 1, 1/2, 2, 1
    let again = |lora: &Lora, dialect| {
        Lora::from_bytes(
            "again",
            &lora.to_bytes(dialect, Precision::F32, &none()).unwrap(),
        )
        .unwrap()
    };
    let peft = again(&first, Dialect::Peft);
    let kohya_again = again(&peft, Dialect::Kohya);
    assert_eq!(distance(&again(&first, Dialect::Kohya), &first), (0.0, 0.0));
    assert_eq!(distance(&peft, &first), (0.0, 0.0));
    assert_eq!(distance(&kohya_again, &first), (0.0, 0.0));
    assert!(
        peft.summary().spellings.contains(&Spelling::Peft)
            && kohya_again.summary().spellings.contains(&Spelling::Kohya)
    );

    let mut entries = whole(5);
    for entry in entries
        .iter_mut()
        .filter(|entry| entry.key.ends_with(".alpha"))
    {
        entry.data = 0.7f32.to_le_bytes().to_vec();
    }
    let odd = Lora::from_bytes("odd", &file(&entries, &[])).unwrap();
    let error = distance(&again(&again(&odd, Dialect::Peft), Dialect::Kohya), &odd).0;
    assert!(error < 1e-6, "{error:e}");
}

#[test]
fn keys_shapes_and_types_of_both_dialects() {
    let bytes = lora()
        .to_bytes(Dialect::Kohya, Precision::F16, &none())
        .unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let shape = |key: &str| tensors.tensor(key).unwrap().shape().to_vec();
    assert_eq!(shape(&format!("{CONV1}.lora_down.weight")), [2, 3, 3, 3]);
    assert_eq!(shape(&format!("{CONV1}.lora_up.weight")), [6, 2, 1, 1]);
    assert_eq!(shape(&format!("{TO_K}.lora_down.weight")), [2, 4]);
    assert_eq!(shape(&format!("{FC1}.alpha")), [0usize; 0]);
    assert!(tensors.iter().all(|(_, view)| view.dtype() == Dtype::F16));
    assert_eq!(tensors.len(), 15);

    let bytes = lora()
        .to_bytes(Dialect::Peft, Precision::Bf16, &none())
        .unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 10);
    assert_eq!(
        tensors
            .tensor("unet.down_blocks.0.resnets.0.conv1.lora_A.weight")
            .unwrap()
            .shape(),
        [2, 3, 3, 3]
    );
    let view = tensors
        .tensor("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_B.weight")
        .unwrap();
    assert_eq!((view.dtype(), view.shape()), (Dtype::BF16, &[8, 2][..]));

    // An alpha that f16 would change is written in f32.
    let mut entries = whole(5);
    entries[2].data = 0.7f32.to_le_bytes().to_vec();
    let odd = Lora::from_bytes("odd", &file(&entries, &[]))
        .unwrap()
        .to_bytes(Dialect::Kohya, Precision::F16, &none())
        .unwrap();
    let tensors = SafeTensors::deserialize(&odd).unwrap();
    assert_eq!(
        tensors.tensor(&format!("{TO_Q}.alpha")).unwrap().dtype(),
        Dtype::F32
    );
}

#[test]
fn equal_input_gives_equal_bytes_in_safetensors_own_order() {
    let metadata: BTreeMap<String, String> = [
        ("ss_network_dim", "2"),
        ("modelspec.title", "\"Mira\" é"),
        ("lora_adapter_metadata", "{}"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let bytes = lora()
        .to_bytes(Dialect::Kohya, Precision::F16, &metadata)
        .unwrap();
    assert_eq!(
        bytes,
        lora()
            .to_bytes(Dialect::Kohya, Precision::F16, &metadata)
            .unwrap()
    );

    let (header, parsed) = SafeTensors::read_metadata(&bytes).unwrap();
    let told = parsed.metadata().clone().unwrap();
    assert_eq!(told["modelspec.title"], "\"Mira\" é");
    assert!(!told.contains_key("lora_adapter_metadata"));
    let data = &bytes[8 + header..];
    let hex = |bytes: &[u8]| {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    assert_eq!(told["sshs_model_hash"], hex(data));
    // Less than a mebibyte: nothing is left to hash.
    assert_eq!(told["sshs_legacy_hash"], hex(b"")[..8]);
    assert_eq!(
        Lora::from_bytes("f", &bytes)
            .unwrap()
            .summary()
            .hashes
            .unwrap()
            .model_hash,
        told["sshs_model_hash"]
    );

    let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
    let order: Vec<String> = serde_json::from_str::<Value>(text)
        .unwrap()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert!(
        order[0] == "__metadata__"
            && order[1..].is_sorted()
            && header % 8 == 0
            && !text.contains(": ")
    );
    // safetensors' own writer lays the same tensors out alike, and so does kohya's.
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let theirs = safetensors::serialize(tensors.iter(), None).unwrap();
    assert_eq!(&theirs[theirs.len() - data.len()..], data);
}

/// The full set of SD 1.5 at rank 32 in f16, as `reference/make_names.py` lists its modules.
#[test]
fn full_size_file_has_kohyas_size_and_hashes() {
    let names: Value = serde_json::from_str(include_str!("../reference/sd15_names.json")).unwrap();
    let mut parts = Vec::new();
    for (component, key) in [
        (Component::Unet, "unet"),
        (Component::TextEncoder, "text_encoder"),
    ] {
        let size = FactorSize {
            rank: 32,
            alpha: 16.0,
        };
        let sizes = lora_core::kohya_sizes(component, size, None);
        let modules = names[key]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(path, _)| sizes(path, &[]).is_some());
        let factors = modules.map(|(path, shape)| {
            let shape: Vec<usize> = shape
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect();
            let fan_in: usize = shape[1..].iter().product();
            let ones =
                |rows, columns| tensor(vec![1.0; rows * columns], [rows, columns], &device());
            Factor {
                path: path.clone(),
                down: ones(32, fan_in),
                up: ones(shape[0], 32),
                alpha: 16.0,
                rank: 32,
                shape,
            }
        });
        parts.push((component, factors.collect()));
    }
    let lora = Lora::from_factors("mira", parts).unwrap();
    let metadata: BTreeMap<_, _> = [("ss_network_dim".to_owned(), "32".to_owned())].into();
    let bytes = lora
        .to_bytes(Dialect::Kohya, Precision::F16, &metadata)
        .unwrap();
    let (header, parsed) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(bytes.len() - 8 - header, 2 * (18_874_368 + 264));
    let told = parsed.metadata().as_ref().unwrap();
    // As long as safetensors makes the same tensors without metadata, but for the metadata itself and the padding.
    let metadata = serde_json::to_string(told).unwrap().len() + "\"__metadata__\":,".len();
    let length = (bytes.len() - metadata).next_multiple_of(8);
    let expected = include_str!("../reference/full_size.txt");
    assert_eq!(
        format!(
            "{}\n{}\n{length}\n",
            told["sshs_model_hash"], told["sshs_legacy_hash"]
        ),
        expected
    );
    assert_eq!(
        Lora::from_bytes("f", &bytes).unwrap().summary().parameters,
        18_874_368
    );
}

#[test]
fn dead_files_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mira.safetensors");
    let factor = |down: Vec<f32>, up: Vec<f32>| Factor {
        path: "mid_block.attentions.0.proj_in".to_owned(),
        down: tensor(down, [1, 2], &device()),
        up: tensor(up, [2, 1], &device()),
        alpha: 1.0,
        rank: 1,
        shape: vec![2, 2],
    };
    let made = |down, up| Lora::from_factors("f", [(Component::Unet, vec![factor(down, up)])]);
    assert!(matches!(
        made(vec![1.0, f32::NAN], vec![1.0, 1.0]),
        Err(LoraError::NonFinite { .. })
    ));
    let twice = Lora::from_factors(
        "f",
        [(Component::Unet, vec![factor(vec![1.0; 2], vec![1.0; 2]); 2])],
    );
    assert!(matches!(twice, Err(LoraError::Duplicate { .. })));
    let misshapen = Factor {
        shape: vec![3, 2],
        ..factor(vec![1.0; 2], vec![1.0; 2])
    };
    assert!(matches!(
        Lora::from_factors("f", [(Component::Unet, vec![misshapen])]),
        Err(LoraError::Factor { .. })
    ));

    let save = |lora: Lora, precision| lora.save(&path, Dialect::Kohya, precision, &none());
    assert!(matches!(
        save(made(vec![1.0; 2], vec![0.0; 2]).unwrap(), Precision::F32),
        Err(LoraError::Untrained { .. })
    ));
    let error = save(made(vec![1e6, 1.0], vec![1.0; 2]).unwrap(), Precision::F16).unwrap_err();
    assert!(
        error.to_string().contains("proj_in.lora_down.weight"),
        "{error}"
    );
    assert!(matches!(
        save(made(vec![1.0; 2], vec![1e-12; 2]).unwrap(), Precision::F16),
        Err(LoraError::Untrained { .. })
    ));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    save(made(vec![1.0; 2], vec![1e-12; 2]).unwrap(), Precision::F32).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(save(made(vec![1.0; 2], vec![0.0; 2]).unwrap(), Precision::F32).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    save(made(vec![1.0; 2], vec![1.0; 2]).unwrap(), Precision::F32).unwrap();
    assert_ne!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = made(vec![1.0; 2], vec![1.0; 2]).unwrap().save(
        folder.path().join("no/such/folder.safetensors"),
        Dialect::Kohya,
        Precision::F32,
        &none(),
    );
    assert!(matches!(nowhere, Err(LoraError::Io { .. })));
    // A folder of that name is in the way: the error is told and nothing is left behind.
    let taken = folder.path().join("taken");
    fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(
        made(vec![1.0; 2], vec![1.0; 2])
            .unwrap()
            .save(&taken, Dialect::Kohya, Precision::F32, &none())
            .is_err()
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

    let nameless = Lora::from_bytes(
        "f",
        &file(
            &kohya("lora_unet_some_layer", &[1, 2], &[2, 1], None, 1),
            &[],
        ),
    )
    .unwrap();
    assert!(matches!(
        nameless.to_bytes(Dialect::Peft, Precision::F32, &none()),
        Err(LoraError::Unspeakable { .. })
    ));
    nameless
        .to_bytes(Dialect::Kohya, Precision::F32, &none())
        .unwrap();
}
