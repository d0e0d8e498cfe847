//! The model within the program: it draws, and what it learns of a character shows.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{program, samecast};
use serde_json::Value;

/// Numbers of two men.
const OWN: &str = "8";
const OTHER: &str = "10";

#[test]
fn the_model_within_draws_wherever_the_program_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let caches = tempfile::tempdir().expect("a temporary folder");
    let picture = |name: &str| {
        let path = folder.path().join(name);
        let output = program()
            .env("XDG_CACHE_HOME", caches.path())
            .args(["generate", "--model", "pocket", "--steps", "2", "--prompt"])
            .args(["a portrait of a woman", "--seed", "7"])
            .arg("--out")
            .arg(&path)
            .output();
        let output = output.expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        image::open(&path).expect("a picture").to_rgb8()
    };
    let first = picture("1.png");
    assert_eq!(first.dimensions(), (96, 96), "its own size");

    // What was unpacked before is mended where it was changed.
    let unpacked = fs::read_dir(caches.path().join("samecast"))
        .expect("the unpacked model")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("model_index.json").is_file())
        .expect("a folder of the model");
    fs::write(unpacked.join("unet/config.json"), "{}").expect("changed");
    assert!(picture("2.png") == first, "another picture");
}

/// The folder is one that diffusers opens, and the same seed gives its picture.
#[test]
fn the_model_within_draws_what_diffusers_draws_with_it() {
    let reference = parity::reference();
    let told = fs::read_to_string(reference.join("pocket.json")).expect("the reference");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let sums = concat!(env!("CARGO_MANIFEST_DIR"), "/../pocket/model/SHA256SUMS");
    let sums = fs::read(sums).expect("the model's sums");
    assert_eq!(
        told["weights"].as_str(),
        Some(samecast_pocket::model::sha256(&sums).as_str()),
        "the model was trained on: run parity/reference/draw_pocket.py again"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    for case in told["cases"].as_array().expect("cases") {
        let word = |key: &str| match &case[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let name = format!("{}.png", word("name"));
        let path = folder.path().join(&name);
        let run = samecast([
            "generate",
            "--model",
            "pocket",
            "--device",
            "cpu",
            "--quiet",
            "--width",
            "96",
            "--height",
            "96",
            "--prompt",
            &word("prompt"),
            "--seed",
            &word("seed"),
            "--sampler",
            &word("sampler"),
            "--steps",
            &word("steps"),
            "--cfg",
            &word("cfg"),
            "--out",
            path.to_str().expect("a path in UTF-8"),
        ]);
        assert_eq!(run.status, Some(0), "{}", run.stderr);
        let open = |path| image::open(path).expect("a picture").to_rgb8();
        let (ours, theirs) = (open(path), open(reference.join("pocket").join(&name)));
        let pairs = ours.iter().zip(theirs.iter());
        let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let mean = sum / ours.len() as f64;
        assert!(mean < 0.1, "{name}: {mean} of 255");
    }
}

/// What `samecast demo` leaves for a character, and its exit status.
fn demo(folder: &Path, character: &str, steps: &str, seeds: &str) -> (Value, Option<i32>) {
    let run = samecast([
        "demo",
        "--character",
        character,
        "--steps",
        steps,
        "--seeds",
        seeds,
        "--device",
        "cpu",
        "--quiet",
        "--out",
        folder.to_str().expect("a path in UTF-8"),
    ]);
    let report = folder.join("drama-assets/episodes/demo/verify.json");
    let report = fs::read_to_string(report).unwrap_or_else(|_| panic!("{}", run.stderr));
    (serde_json::from_str(&report).expect("JSON"), run.status)
}

/// Ten pictures with the LoRA are more like the character than the same ten without it, by more than twice what chance explains, and
/// so much that the character counts as consistent; another person's LoRA does not make it so.
#[test]
fn training_makes_pictures_like_the_character_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let (report, status) = demo(&own, OWN, "600", "2");
    let number = |report: &Value, key: &str| report[key].as_f64().expect("a number");
    assert!(number(&report, "gain") > 0.1, "{report}");
    assert!(number(&report, "certainty") > 2.0, "{report}");
    assert_eq!(report["consistent"], true, "{report}");
    assert_eq!(status, Some(0));

    demo(&other, OTHER, "200", "1");
    let path = |path: PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
    let run = samecast([
        "character",
        "verify",
        "mira",
        "--library",
        &path(own.join("drama-assets")),
        "--lora",
        &path(other.join("drama-assets/characters/mira/lora/mira_v1.safetensors")),
        "--seeds",
        "2",
        "--device",
        "cpu",
        "--quiet",
        "--json",
        "--out",
        &path(folder.path().join("verify")),
    ]);
    assert_eq!(run.status, Some(1), "{}", run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(report["consistent"], false, "{report}");
}
