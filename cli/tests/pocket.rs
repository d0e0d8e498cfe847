//! The model within the program: it draws, and what it learns of a character shows.

mod common;

use std::fs;

use common::{program, samecast};
use serde_json::Value;

#[test]
fn the_model_within_draws_wherever_the_program_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let caches = tempfile::tempdir().expect("a temporary folder");
    let picture = |name: &str| {
        let path = folder.path().join(name);
        let output = program()
            .env("XDG_CACHE_HOME", caches.path())
            .args(["generate", "--model", "pocket", "--steps", "2", "--prompt"])
            .args([
                "a portrait of a woman",
                "--width",
                "96",
                "--height",
                "96",
                "--seed",
                "7",
            ])
            .arg("--out")
            .arg(&path)
            .output();
        let output = output.expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        image::open(&path).expect("a picture").to_rgb8()
    };
    let first = picture("1.png");
    assert_eq!(first.dimensions(), (96, 96));

    // What was unpacked before is mended where it was changed.
    let unpacked = fs::read_dir(caches.path().join("samecast"))
        .expect("the unpacked model")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("model_index.json").is_file())
        .expect("a folder of the model");
    fs::write(unpacked.join("unet/config.json"), "{}").expect("changed");
    assert!(picture("2.png") == first, "another picture");
}

/// Twenty pictures with the LoRA are more like the character than the same twenty without it, by more than twice what chance explains.
#[test]
fn training_makes_pictures_more_like_the_character() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("demo");
    let run = samecast([
        "demo",
        "--steps",
        "300",
        "--seeds",
        "4",
        "--quiet",
        "--out",
        out.to_str().expect("a path in UTF-8"),
    ]);
    let report = out.join("drama-assets/episodes/demo/verify.json");
    let report = fs::read_to_string(report).unwrap_or_else(|_| panic!("{}", run.stderr));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let number = |key: &str| report[key].as_f64().expect("a number");
    assert!(number("gain") > 0.1, "{report}");
    assert!(number("certainty") > 2.0, "{report}");
}
