//! `samecast bench`, at sizes that take a moment.

mod common;

use common::samecast;

#[test]
fn kernels_are_told_as_a_share_of_the_machine_s_own_peak() {
    let told = samecast(["bench", "--quick", "--size", "64", "--json", "--quiet"]).done();
    assert!(told.stderr.is_empty(), "{}", told.stderr);
    let told = told.json();
    assert_eq!(told["size"], 64);
    let peak = told["peak_flops"].as_f64().expect("a peak");
    let parts = told["parts"].as_array().expect("parts");
    assert_eq!(parts.len(), 1 + 2 + 3 + 3);
    for part in parts {
        let seconds = part["seconds"].as_f64().expect("seconds");
        assert!(seconds > 0.0, "{part}");
        if let Some(flops) = part["flops"].as_f64() {
            let share = part["share_of_peak"].as_f64().expect("a share");
            assert!(
                (share - flops / seconds / peak).abs() < 1e-9 * share,
                "{part}"
            );
        }
    }
    assert_eq!(parts[0]["share_of_peak"], 1.0);
}

#[test]
fn a_model_is_timed_without_any_file() {
    let told = samecast(["bench", "--quick", "--size", "64", "--part", "vae-decode"]).done();
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", told.stdout);
    assert!(lines[2].starts_with("VAE decode") && lines[2].ends_with('%'));
    assert!(told.stderr.contains("timing vae-decode"), "{}", told.stderr);
}

#[test]
fn what_cannot_be_timed_is_refused() {
    samecast(["bench", "--size", "100"]).refused(&["--size 100", "multiple of 64"]);
    samecast(["bench", "--part", "everything"]).refused(&["everything"]);
    samecast(["bench", "--quick", "--device", "cuda:77"]).refused(&["cuda"]);
    if cfg!(target_os = "linux") {
        samecast(["bench", "--size", "16384", "--part", "vae-decode"]).refused(&[
            "--part vae-decode",
            "GB are free",
            "would fit",
        ]);
    }
}
