//! `samecast lora info` on the LoRAs that the peers wrote.

mod common;

use common::{lora, samecast, text};
use serde_json::{Value, json};

/// Dialects, numbers of UNet and text encoder modules, ranks of the UNet's.
const FILES: [(&str, &[&str], u64, u64, &str); 6] = [
    ("kohya", &["kohya"], 192, 18, "4"),
    ("kohya_te1_int64", &["kohya"], 24, 18, "4"),
    ("locon", &["kohya"], 130, 0, "2"),
    ("peft", &["PEFT"], 192, 18, "2"),
    ("diffusers_scripts", &["diffusers"], 128, 12, "2"),
    ("mixed", &["PEFT", "diffusers"], 84, 18, "2"),
];

#[test]
fn what_loras_hold_is_told_as_json() {
    let files = FILES.map(|(name, ..)| lora(name));
    let mut arguments = vec!["lora", "info", "--json"];
    arguments.extend(files.iter().map(|file| text(file)));
    let run = samecast(arguments).done();
    assert_eq!(run.stderr, "");
    let told = run.json();
    let all = told["files"].as_array().expect("a list");
    assert_eq!(all.len(), FILES.len());
    for (info, (name, dialects, unet, text_encoder, rank)) in all.iter().zip(FILES) {
        assert_eq!(info["file"], text(&lora(name)));
        assert_eq!(info["dialects"], json!(dialects), "{name}");
        assert_eq!(info["dtypes"], json!(["F16"]), "{name}");
        let components = &info["components"];
        assert_eq!(components["UNet"]["modules"], unet, "{name}");
        assert_eq!(components["UNet"]["ranks"], json!({ rank: unet }), "{name}");
        let modules = components["text encoder"]["modules"].as_u64();
        assert_eq!(modules.unwrap_or_default(), text_encoder, "{name}");
        for hash in ["sha256", "sshs_model_hash"] {
            assert_eq!(info["hashes"][hash].as_str().map(str::len), Some(64));
        }
    }
    assert_eq!(all[0]["components"]["UNet"]["alphas"], json!([[3.0, 192]]));
    assert_eq!(all[0]["components"]["UNet"]["convolutions"], 32);
    assert_eq!(all[0]["metadata"], json!({}));
    assert_ne!(all[3]["metadata"], Value::Null);
}

#[test]
fn what_a_lora_holds_is_told_in_words() {
    let (kohya, peft) = (lora("kohya"), lora("peft"));
    let run = samecast(["lora", "info", text(&kohya), text(&peft)]).done();
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], text(&kohya));
    for line in [
        "  dialect        kohya",
        "  UNet           192 modules, 32 of them convolutions; rank 4, alpha 3",
        "  text encoder   18 modules; rank 4, alpha 3",
        text(&peft),
        "  dialect        PEFT",
    ] {
        assert!(lines.contains(&line), "`{line}` in {}", run.stdout);
    }
    assert_eq!(run.stderr, "");
}

#[test]
fn one_bad_file_among_good_ones_is_named() {
    let (kohya, missing) = (lora("kohya"), lora("nowhere"));
    let run = samecast(["lora", "info", "--json", text(&kohya), text(&missing)]);
    run.refused(&[text(&missing)]);
    assert_eq!(run.json()["status"], 2);
}
