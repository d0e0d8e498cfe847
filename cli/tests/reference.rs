//! `samecast reference check` on drawn pictures: sharp, blurred, enlarged, tiny, wide, dark, and none at all.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{folder, samecast, text};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, blur, resize};
use image::{ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::json;
use tempfile::TempDir;

/// A face in front of a chequered wall, with outlines and strands of hair.
fn drawing(width: u32, height: u32) -> RgbImage {
    let side = f64::from(width.min(height));
    RgbImage::from_fn(width, height, |x, y| {
        let from_middle = |at: u32, of: u32| (f64::from(at) + 0.5 - f64::from(of) / 2.0) / side;
        let (x, y) = (from_middle(x, width), from_middle(y, height));
        let face = x.hypot(1.2 * y);
        let eye = (x.abs() - 0.13).hypot(y + 0.05);
        Rgb(if eye < 0.02 {
            [20, 20, 30]
        } else if eye < 0.05 {
            [250, 250, 250]
        } else if (face - 0.32).abs() < 0.006 {
            [60, 30, 20]
        } else if face < 0.32 {
            [235, 190, 160]
        } else if face < 0.42 && y < 0.1 {
            match (60.0 * y.atan2(x)).sin() > 0.0 {
                true => [120, 70, 30],
                false => [80, 40, 20],
            }
        } else {
            match ((x * 23.0).floor() + (y * 31.0).floor()) as i32 % 2 == 0 {
                true => [120, 160, 120],
                false => [140, 170, 190],
            }
        })
    })
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(folder())
    }

    fn picture(&self, name: &str, picture: &RgbImage) -> PathBuf {
        let path = self.0.path().join(name);
        picture.save(&path).expect("a picture");
        path
    }
}

#[test]
fn a_sharp_square_portrait_is_good() {
    let bench = Bench::new();
    let path = bench.picture("mira.png", &drawing(640, 640));
    let run = samecast(["reference", "check", text(&path)]).done();
    assert_eq!(run.stderr, "");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], format!("{}: good", text(&path)));
    for (line, start) in lines[1..].iter().zip([
        "  size    good    640 × 640 pixels",
        "  clear   good    detail of about 5",
        "  square  good    a cut to the square takes 0 %",
        "  light   good    from ",
        "look for yourself:",
        "  is the face seen from the front",
        "  is it drawn in the style that you want",
    ]) {
        assert!(line.starts_with(start), "`{start}`: {line}");
    }
    let quiet = samecast(["reference", "check", "--quiet", text(&path)]).done();
    assert!(!quiet.stdout.contains("look for yourself"));
    assert_eq!(quiet.stdout.lines().count(), 5);
}

#[test]
fn scripts_are_told_in_json() {
    let bench = Bench::new();
    let good = bench.picture("good.png", &drawing(512, 512));
    let wide = bench.picture("wide.png", &drawing(1000, 500));
    let run = samecast(["reference", "check", "--json", text(&good), text(&wide)]).done();
    assert_eq!(run.stderr, "");
    let told = run.json();
    assert_eq!(told["usable"], true);
    assert_eq!(told["error"], json!(null));
    assert_eq!(told["look_for_yourself"].as_array().map(Vec::len), Some(3));
    let [one, other] = [&told["files"][0], &told["files"][1]];
    assert_eq!(one["file"], text(&good));
    assert_eq!(one["grade"], "good");
    assert_eq!(one["advice"], json!([]));
    assert_eq!([&one["width"], &one["height"]], [512, 512]);
    assert_eq!(one["clear"]["grade"], "good");
    assert!(one["clear"]["sharpness"].as_f64() > Some(0.1), "{one}");
    assert_eq!(other["grade"], "usable");
    assert_eq!(
        other["size"],
        json!({ "grade": "usable", "shorter_side": 500 })
    );
    assert_eq!(other["square"], json!({ "grade": "usable", "lost": 0.5 }));
    let advice = other["advice"].to_string();
    for words in ["50 % of its width", "left and right", "--ip-fit pad"] {
        assert!(advice.contains(words), "`{words}` in {advice}");
    }
}

#[test]
fn what_will_not_do_is_status_1_with_the_whole_report() {
    let bench = Bench::new();
    let sharp = drawing(600, 600);
    let enlarge = |side: u32| {
        let small = resize(&sharp, side, side, FilterType::CatmullRom);
        resize(&small, 768, 768, FilterType::CatmullRom)
    };
    let mut dim = sharp.clone();
    dim.iter_mut().for_each(|value| *value = 100 + *value / 64);
    for (name, picture, aspect, told) in [
        ("tiny.png", drawing(100, 100), "size", "too small"),
        ("blurred.png", blur(&sharp, 6.0), "clear", "out of focus"),
        ("enlarged.png", enlarge(48), "clear", "enlarged about 1"),
        ("flat.png", dim, "light", "next to nothing"),
    ] {
        let path = bench.picture(name, &picture);
        let run = samecast(["reference", "check", "--json", text(&path)]);
        run.failed(1, &[text(&path), "will not do as a reference"]);
        let report = run.json();
        assert_eq!(report["status"], 1, "{name}");
        assert_eq!(report["usable"], false, "{name}");
        let file = &report["files"][0];
        assert_eq!(file["grade"], "poor", "{name}");
        assert_eq!(file[aspect]["grade"], "poor", "{file}");
        let advice = file["advice"].to_string();
        assert!(advice.contains(told), "{name}: `{told}` in {advice}");
    }
    // In words, all are told before one is found to be bad.
    let good = bench.picture("good.png", &sharp);
    let tiny = bench.0.path().join("tiny.png");
    let run = samecast(["reference", "check", text(&tiny), text(&good)]);
    run.failed(1, &[text(&tiny)]);
    assert!(!run.stderr.contains("good.png"), "{}", run.stderr);
    assert!(run.stdout.contains("tiny.png: poor"), "{}", run.stdout);
    assert!(run.stdout.contains("good.png: good"), "{}", run.stdout);
}

#[test]
fn what_will_do_gets_advice() {
    let bench = Bench::new();
    let sharp = drawing(512, 512);
    let mut dark = sharp.clone();
    dark.iter_mut().for_each(|value| *value /= 4);
    let soft = resize(&sharp, 130, 130, FilterType::CatmullRom);
    let soft = resize(&soft, 512, 512, FilterType::CatmullRom);
    for (name, picture, told) in [
        ("dark.png", dark, "very dark"),
        ("soft.png", soft, "enlarged about"),
        ("small.jpg", drawing(300, 300), "512 pixels or more"),
        ("tall.bmp", drawing(512, 600), "--ip-fit squash"),
    ] {
        let path = bench.picture(name, &picture);
        let run = samecast(["reference", "check", text(&path)]).done();
        assert!(run.stdout.contains(": usable\n"), "{}", run.stdout);
        let advice: Vec<&str> = run.stdout.lines().filter(|l| l.contains('→')).collect();
        assert_eq!(advice.len(), 1, "{}", run.stdout);
        assert!(advice[0].contains(told), "{name}: {}", advice[0]);
    }
}

#[test]
fn what_shows_through_is_white() {
    let bench = Bench::new();
    let path = bench.0.path().join("cut-out.png");
    let hidden = drawing(512, 512);
    let picture = RgbaImage::from_fn(512, 512, |x, y| {
        let [red, green, blue] = hidden.get_pixel(x, y).0;
        Rgba([red, green, blue, 0])
    });
    picture.save(&path).expect("a picture");
    let run = samecast(["reference", "check", "--json", text(&path)]);
    run.failed(1, &[text(&path)]);
    let light = &run.json()["files"][0]["light"];
    assert_eq!([&light["dark"], &light["bright"]], [255.0, 255.0]);
}

#[test]
fn a_picture_taken_sideways_is_seen_upright() {
    let bench = Bench::new();
    let path = bench.0.path().join("phone.jpg");
    // Orientation 6: the top is at the right.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut encoder = JpegEncoder::new(fs::File::create(&path).expect("a file"));
    encoder.set_exif_metadata(exif.to_vec()).expect("EXIF");
    encoder.encode_image(&drawing(600, 520)).expect("a picture");
    let told = samecast(["reference", "check", "--json", text(&path)])
        .done()
        .json();
    let file = &told["files"][0];
    assert_eq!([&file["width"], &file["height"]], [520, 600]);
}

#[test]
fn what_is_no_picture_is_one_error() {
    let bench = Bench::new();
    let good = bench.picture("good.png", &drawing(512, 512));
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let cut = fs::read(&good).expect("a file");
    let page = write("page.png", b"<!DOCTYPE html><html></html>");
    let empty = write("empty.png", b"");
    let cut = write("cut.png", &cut[..cut.len() / 2]);
    let nowhere = bench.0.path().join("nowhere.png");
    for bad in [&page, &empty, &cut, &nowhere, bench.0.path()] {
        let refused = |arguments: &[&str]| {
            let run = samecast([&["reference", "check"], arguments].concat());
            run.refused(&[text(bad), "is no picture that can be read"]);
            run
        };
        assert_eq!(refused(&[text(bad)]).stdout, "");
        // A good one before it is not told of either: nobody would see the error below.
        assert_eq!(refused(&[text(&good), text(bad)]).stdout, "");
        let told = refused(&["--json", text(&good), text(bad)]).json();
        assert_eq!(told["status"], 2);
    }
    samecast(["reference", "check"]).refused(&["<PNG>..."]);
}
