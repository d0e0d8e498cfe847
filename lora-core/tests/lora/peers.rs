//! Files that the peers wrote, and names that their code makes.

use std::collections::BTreeMap;
use std::path::Path;

use lora_core::{Component, Dialect, Lora, Precision, Spelling};
use parity::{Fixture, device, relative_error, values};
use serde_json::Value;

/// ΔW of every module of `name` that `deltas.safetensors` knows, times `scale`; gives how many were compared, and the worst error.
fn compare(lora: &Lora, name: &str, scale: f32) -> (usize, f64) {
    let deltas = Fixture::open(parity::reference().join("lora/deltas.safetensors"));
    let (mut count, mut worst) = (0, 0f64);
    for key in deltas.names() {
        let Some(path) = key
            .strip_prefix(&format!("{name}|"))
            .and_then(|key| key.strip_suffix(".weight"))
        else {
            continue;
        };
        let (component, path) = match (
            path.strip_prefix("unet."),
            path.strip_prefix("text_encoder."),
        ) {
            (Some(path), _) => (Component::Unet, path),
            (_, Some(path)) => (Component::TextEncoder, path),
            _ => panic!("{key}"),
        };
        let Some(delta) = lora.delta(component, path, &device()) else {
            continue;
        };
        let theirs: Vec<f32> = deltas
            .float(key)
            .1
            .iter()
            .map(|value| value * scale)
            .collect();
        worst = worst.max(relative_error(&values(delta), &theirs));
        count += 1;
    }
    (count, worst)
}

#[test]
fn every_dialect_gives_the_peers_weights() {
    use Spelling::{Diffusers, DiffusersProcessor, Kohya, Peft};
    // File, the file whose ΔW it repeats and by which factor; how many of these are known; modules of UNet and text encoder.
    type Case<'a> = (&'a str, &'a str, f32, usize, [usize; 2], &'a [Spelling]);
    let cases: [Case<'_>; 8] = [
        ("kohya", "kohya", 1.0, 7, [192, 18], &[Kohya]),
        ("kohya_te1_int64", "kohya", 1.0, 2, [24, 18], &[Kohya]),
        ("locon", "locon", 1.0, 7, [130, 0], &[Kohya]),
        ("peft", "peft", 1.0, 7, [192, 18], &[Peft]),
        ("peft_metadata", "peft", 1.5, 4, [128, 12], &[Peft]),
        (
            "diffusers_old",
            "peft",
            1.0,
            4,
            [128, 12],
            &[DiffusersProcessor],
        ),
        ("diffusers_scripts", "peft", 1.0, 4, [128, 12], &[Diffusers]),
        ("mixed", "peft", 1.0, 4, [84, 18], &[Peft, Diffusers]),
    ];
    for (name, deltas, scale, count, modules, spellings) in cases {
        let lora =
            Lora::open(parity::reference().join(format!("lora/{name}.safetensors"))).unwrap();
        assert_eq!(
            [
                lora.modules(Component::Unet),
                lora.modules(Component::TextEncoder)
            ],
            modules,
            "{name}"
        );
        assert_eq!(
            lora.summary().spellings.into_iter().collect::<Vec<_>>(),
            spellings,
            "{name}"
        );
        let (compared, error) = compare(&lora, deltas, scale);
        println!("{name}: {compared} modules, relative error of ΔW at most {error:.1e}");
        assert_eq!(compared, count, "{name}");
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

/// Also leaves what it wrote in the build folder, for `reference/check_written.py` to load into diffusers.
#[test]
fn what_is_written_reads_back_as_the_peers_weights() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lora-core-written");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["kohya", "locon", "peft"] {
        let lora =
            Lora::open(parity::reference().join(format!("lora/{name}.safetensors"))).unwrap();
        for (dialect, tag) in [(Dialect::Kohya, "kohya"), (Dialect::Peft, "peft")] {
            let path = folder.join(format!("{name}.{tag}.safetensors"));
            lora.save(&path, dialect, Precision::F32, &BTreeMap::new())
                .unwrap();
            let again = Lora::open(&path).unwrap();
            let (compared, error) = compare(&again, name, 1.0);
            assert!(
                compared >= 7 && error < 1e-6,
                "{name} {tag}: {compared} modules, {error:e}"
            );
            assert_eq!(
                again.modules(Component::Unet),
                lora.modules(Component::Unet)
            );
            assert_eq!(
                again.modules(Component::TextEncoder),
                lora.modules(Component::TextEncoder)
            );
        }
    }
}

/// All 282 and 72 linear and convolution layers, by `reference/make_names.py`.
#[test]
fn names_survive_the_round_trip_through_every_spelling() {
    let names: Value = serde_json::from_str(include_str!("../reference/sd15_names.json")).unwrap();
    let read = |stem: &str, ends: [&str; 2]| {
        let pair = [
            crate::models::f32s(&format!("{stem}.{}", ends[0]), &[1, 2], &[1.0; 2]),
            crate::models::f32s(&format!("{stem}.{}", ends[1]), &[2, 1], &[1.0; 2]),
        ];
        Lora::from_bytes(stem, &crate::models::file(&pair, &[]))
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let (kohya, peft) = (
        ["lora_down.weight", "lora_up.weight"],
        ["lora_A.weight", "lora_B.weight"],
    );
    let path_of = |lora: &Lora, component| lora.factors(component, &device())[0].path.clone();
    for (component, key) in [
        (Component::Unet, "unet"),
        (Component::TextEncoder, "text_encoder"),
    ] {
        for path in names[key].as_object().unwrap().keys() {
            let bare = path.strip_prefix("text_model.").unwrap_or(path);
            let under = read(
                &format!("{}{}", component.kohya_prefix(), path.replace('.', "_")),
                kohya,
            );
            assert_eq!(path_of(&under, component), bare);
            let dotted = read(&format!("{}{path}", component.peft_prefix()), peft);
            assert_eq!(path_of(&dotted, component), *path);
            for lora in [&under, &dotted] {
                for (dialect, expected) in [
                    (
                        Dialect::Kohya,
                        format!(
                            "\"{}{}.lora_down.weight\"",
                            component.kohya_prefix(),
                            path.replace('.', "_")
                        ),
                    ),
                    (
                        Dialect::Peft,
                        format!("\"{}{path}.lora_A.weight\"", component.peft_prefix()),
                    ),
                ] {
                    let bytes = lora
                        .to_bytes(dialect, Precision::F32, &BTreeMap::new())
                        .unwrap();
                    assert!(
                        String::from_utf8_lossy(&bytes).contains(&expected),
                        "{path}: no {expected}"
                    );
                }
            }
        }
    }
    for (ldm, diffusers) in names["ldm"].as_object().unwrap() {
        let lora = read(&format!("lora_unet_{}", ldm.replace('.', "_")), kohya);
        assert_eq!(
            path_of(&lora, Component::Unet),
            diffusers.as_str().unwrap(),
            "{ldm}"
        );
    }
}
