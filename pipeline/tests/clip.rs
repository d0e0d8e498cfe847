//! Pictures and texts in CLIP's space, against transformers.

use std::path::PathBuf;

use burn::tensor::FloatDType;
use clip_vision::Fit;
use image::RgbImage;
use parity::Fixture;
use sd_pipeline::Clip;
use serde_json::Value;

fn reference(name: &str) -> PathBuf {
    parity::reference().join("clip").join(name)
}

fn open(name: &str) -> Clip {
    Clip::open(reference(name), FloatDType::F32, &parity::device()).unwrap()
}

/// The texts and the pictures that transformers was given.
fn given() -> (Vec<String>, Vec<RgbImage>) {
    let told = std::fs::read(reference("expected.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    let list = |key: &str| -> Vec<String> {
        let list = told[key].as_array().unwrap().iter();
        list.map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let folder = parity::reference().join("pictures10");
    let read = |name: &String| image::open(folder.join(name)).unwrap().into_rgb8();
    (list("texts"), list("pictures").iter().map(read).collect())
}

#[test]
fn embeddings_and_their_agreement_are_transformers() {
    let expected = Fixture::open(reference("expected.safetensors"));
    let (texts, pictures) = given();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pictures: Vec<&RgbImage> = pictures.iter().collect();
    for name in ["quick_gelu", "gelu"] {
        let clip = open(name);
        let told = clip.embed_texts(&texts).expect("a whole CLIP");
        let seen = clip.embed_pictures(&pictures, Fit::Crop);
        for (part, ours) in [("text_embeds", &told), ("image_embeds", &seen)] {
            let (_, theirs) = expected.float(&format!("{name}.{part}"));
            let error = parity::relative_error(&ours.concat(), theirs);
            assert!(error < 5e-6, "{name}.{part}: {error:e}");
        }
        let (_, theirs) = expected.float(&format!("{name}.cosine"));
        let ours = told
            .iter()
            .flat_map(|text| seen.iter().map(move |picture| dot(text, picture)));
        for (ours, theirs) in ours.zip(theirs) {
            assert!((ours - theirs).abs() < 1e-5, "{name}: {ours} and {theirs}");
        }
    }
}

#[test]
fn a_text_ends_at_its_first_end_token_whatever_the_file_calls_it() {
    for (name, end) in [("quick_gelu", 913), ("gelu", 2)] {
        let tower = open(name).texts.expect("a whole CLIP");
        assert_eq!(tower.config.eos_token_id, end);
        let tokens = tower.tokenizer.encode_padded("a girl");
        let place = tower.config.end(&tokens);
        assert_eq!(tokens[place], 913);
        assert!(!tokens[..place].contains(&913));
    }
}

#[test]
fn an_image_encoder_alone_has_no_texts() {
    let folder = parity::reference().join("clip-vision").join("gelu");
    let clip = Clip::open(folder, FloatDType::F32, &parity::device()).unwrap();
    assert!(clip.embed_texts(&["a girl"]).is_none());
}

#[test]
fn a_text_encoder_needs_its_projection_and_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let from = reference("gelu");
    let copy = |name: &str| std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ] {
        copy(name);
    }
    let open = || Clip::open(dir.path(), FloatDType::F32, &parity::device());
    let told = open().unwrap_err().to_string();
    assert!(told.contains("tokenizer.json"), "{told}");
    copy("vocab.json");
    copy("merges.txt");
    open().unwrap();

    let file = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.tensors().into_iter();
    let kept: Vec<_> = kept
        .filter(|(name, _)| name != "text_projection.weight")
        .collect();
    let bytes = safetensors::serialize(kept, None).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let told = open().unwrap_err().to_string();
    assert!(told.contains("text_projection.weight"), "{told}");
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
