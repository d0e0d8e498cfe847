//! Preprocessing against transformers, and what holds of it whatever the picture.

use std::path::PathBuf;

use clip_vision::{ClipImageProcessor, ClipVisionConfig, Fit, Resize, on_white};
use image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage};
use parity::Fixture;
use proptest::prelude::*;
use serde_json::Value;

fn reference(name: &str) -> PathBuf {
    parity::reference().join("clip-vision").join(name)
}

/// The pictures of the script that made the reference.
fn picture(kind: &str, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|c: u32| {
            let waves = |c: u32| (3 * x * x + 5 * y * y + 7 * x * y + 85 * c) / 16;
            let value = match kind {
                "waves" => waves(c),
                "grey" => waves(0),
                "noise" => {
                    let mixed = x.wrapping_mul(2_654_435_761)
                        ^ y.wrapping_mul(2_246_822_519)
                        ^ (c + 1).wrapping_mul(3_266_489_917);
                    mixed >> 11
                }
                "steps" => 255 * ((x / 5 + y / 3 + c) % 2),
                other => panic!("no such picture: {other}"),
            };
            value as u8
        }))
    })
}

fn fnv1a(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// Asserts that our bytes are the reference's: those that it holds, and the hash of all.
#[track_caller]
fn assert_bytes<const D: usize>(name: &str, ours: &[u8], file: &Fixture, hash: &Value) {
    let theirs: Vec<u8> = file.ints::<D>(name).into_data().iter().collect();
    let ours_of_these: Vec<u8> = match theirs.len() == ours.len() {
        true => ours.to_vec(),
        false => ours.iter().copied().step_by(997).collect(),
    };
    assert_eq!(ours_of_these.len(), theirs.len(), "{name}");
    let pairs = ours_of_these.iter().zip(&theirs);
    let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max();
    assert_eq!(worst, Some(0), "{name}: the largest difference, of 255");
    assert_eq!(*hash, fnv1a(ours), "{name}");
}

#[test]
fn pixels_are_transformers_to_the_bit() {
    let file = Fixture::open(reference("pictures.safetensors"));
    let told: Value =
        serde_json::from_str(&std::fs::read_to_string(reference("pictures.json")).unwrap())
            .unwrap();
    let cases = told["cases"].as_array().unwrap();
    for (number, case) in cases.iter().enumerate() {
        let size = |key: &str| case[key].as_u64().unwrap() as u32;
        let given = picture(
            case["kind"].as_str().unwrap(),
            size("width"),
            size("height"),
        );
        let processor = ClipImageProcessor::from_json(&case["settings"].to_string()).unwrap();
        assert_eq!(processor.side as u32, size("side"));
        let ours = processor.fit(&given, Fit::Crop);
        assert_eq!(ours.dimensions(), (size("side"), size("side")));
        match ours.as_raw().len() < 10_000 {
            true => assert_bytes::<3>(&number.to_string(), &ours, &file, &case["fnv1a"]),
            false => assert_bytes::<1>(&number.to_string(), &ours, &file, &case["fnv1a"]),
        }
    }
    assert!(cases.len() >= 20);
}

#[test]
fn normalized_values_are_transformers_to_the_bit() {
    let file = Fixture::open(reference("pictures.safetensors"));
    let ours = ClipImageProcessor::of_side(24).preprocess(&picture("waves", 70, 50), Fit::Crop);
    let (shape, theirs) = file.float("normalized");
    assert_eq!(ours.shape().as_slice(), shape);
    assert_eq!(ours.try_to_vec::<f32>().unwrap(), theirs);
}

#[test]
fn what_shows_through_is_white_as_in_transformers() {
    let file = Fixture::open(reference("pictures.safetensors"));
    let told: Value =
        serde_json::from_str(&std::fs::read_to_string(reference("pictures.json")).unwrap())
            .unwrap();
    let all = RgbaImage::from_fn(256, 256, |x, y| Rgba([x as u8, x as u8, x as u8, y as u8]));
    let ours = on_white(DynamicImage::ImageRgba8(all));
    assert_eq!(told["transparency"]["fnv1a"], fnv1a(&ours));
    let theirs: Vec<u8> = file.ints::<2>("transparency").into_data().iter().collect();
    for (index, &value) in theirs.iter().enumerate() {
        let [x, y] = [index % 16 * 17, index / 16 * 17].map(|at| at as u32);
        assert_eq!(ours.get_pixel(x, y).0, [value; 3], "{x} at opacity {y}");
    }
    // Grey and 16 bits.
    let grey = DynamicImage::ImageLumaA8(image::GrayAlphaImage::from_pixel(
        2,
        1,
        image::LumaA([0, 51]),
    ));
    assert_eq!(on_white(grey).get_pixel(1, 0).0, [204; 3]);
    let opaque = picture("noise", 9, 4);
    assert_eq!(on_white(DynamicImage::ImageRgb8(opaque.clone())), opaque);
}

#[test]
fn a_preprocessor_config_is_read() {
    let text = |name: &str| std::fs::read_to_string(reference(name)).unwrap();
    let processor = ClipImageProcessor::from_json(&text("gelu/preprocessor_config.json")).unwrap();
    assert_eq!(processor, ClipImageProcessor::of_side(41));
    let config = ClipVisionConfig::from_json(&text("gelu/config.json")).unwrap();
    processor.check(&config).unwrap();
    let error = ClipImageProcessor::default().check(&config).unwrap_err();
    assert!(error.to_string().contains("224×224"), "{error}");

    let read = |text: &str| ClipImageProcessor::from_json(text).unwrap();
    let default = ClipImageProcessor::default();
    assert_eq!(read("{}"), default);
    // transformers before 4.26.
    let old = r#"{"crop_size": 224, "do_center_crop": true, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224}"#;
    assert_eq!(read(old), default);
    // transformers 5 beside a whole CLIP.
    let whole = r#"{"image_processor": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}}"#;
    assert_eq!(read(whole), ClipImageProcessor::of_side(336));
    let bare = r#"{"do_resize": false, "do_rescale": false, "do_normalize": false, "image_std": [2, 2, 2]}"#;
    let expected = ClipImageProcessor {
        resize: Resize::Never,
        rescale_factor: 1.0,
        image_mean: [0.0; 3],
        image_std: [1.0; 3],
        ..default
    };
    assert_eq!(read(bare), expected);
}

#[test]
fn wrong_preprocessor_configs_are_told() {
    for (text, told) in [
        ("{", "expected the settings of CLIP's image processor"),
        ("7", "expected the settings"),
        (
            r#"{"image_processor_type": "ViTImageProcessor"}"#,
            "`image_processor_type` is \"ViTImageProcessor\"",
        ),
        (r#"{"resample": 2}"#, "`resample` is 2, expected 3"),
        (r#"{"do_pad": true}"#, "`do_pad` is true"),
        (
            r#"{"do_rescale": 1}"#,
            "`do_rescale` is 1, expected true or false",
        ),
        (
            r#"{"size": {"longest_edge": 224}}"#,
            "`size` is {\"longest_edge\":224}",
        ),
        (
            r#"{"size": {"shortest_edge": 224, "longest_edge": 300}}"#,
            "`size` is",
        ),
        (
            r#"{"size": {"shortest_edge": 0}}"#,
            "`size.shortest_edge` is 0",
        ),
        (r#"{"size": [224, 224]}"#, "`size` is [224,224]"),
        (r#"{"size": 1e9}"#, "`size` is"),
        (
            r#"{"crop_size": {"height": 224, "width": 200}}"#,
            "expected a square",
        ),
        (r#"{"crop_size": "all"}"#, "`crop_size` is \"all\""),
        (r#"{"do_center_crop": false}"#, "`do_center_crop` is false"),
        (
            r#"{"image_mean": [0.5, 0.5]}"#,
            "`image_mean` is [0.5,0.5], expected three numbers",
        ),
        (r#"{"image_mean": 0.5}"#, "`image_mean` is 0.5"),
        (
            r#"{"image_std": [0.5, 0, 0.5]}"#,
            "`image_std` is [0.5,0,0.5]",
        ),
        (r#"{"rescale_factor": -1}"#, "`rescale_factor` is -1"),
    ] {
        let error = ClipImageProcessor::from_json(text).unwrap_err().to_string();
        assert!(error.contains(told), "`{told}` in `{error}` of {text}");
    }
}

#[test]
fn squash_keeps_the_ends_and_pad_the_proportions() {
    let processor = ClipImageProcessor::of_side(30);
    // Red, green and blue thirds, side by side.
    let thirds = RgbImage::from_fn(90, 30, |x, _| {
        let mut colour = [0; 3];
        colour[(x / 30) as usize] = 255;
        Rgb(colour)
    });
    let at = |fit, x, y| processor.fit(&thirds, fit).get_pixel(x, y).0;
    assert_eq!(at(Fit::Crop, 2, 15), [0, 255, 0]);
    assert_eq!(at(Fit::Squash, 2, 1), [255, 0, 0]);
    assert_eq!(at(Fit::Squash, 27, 28), [0, 0, 255]);
    let pad = Fit::Pad(Rgb([9, 8, 7]));
    for (x, y, colour) in [
        (2, 2, [9, 8, 7]),
        (27, 27, [9, 8, 7]),
        (2, 15, [255, 0, 0]),
        (15, 15, [0, 255, 0]),
        (27, 15, [0, 0, 255]),
    ] {
        assert_eq!(at(pad, x, y), colour, "{x} {y}");
    }
}

#[test]
fn a_sliver_is_not_blown_up_on_the_way() {
    // The whole of it scaled would be 4 gigabytes.
    let sliver = picture("noise", 30_000, 1);
    let processor = ClipImageProcessor::default();
    let middle = processor.fit(&sliver, Fit::Crop);
    // What is left is less than the middle 3 pixels.
    let near = image::imageops::crop_imm(&sliver, 14_990, 0, 20, 1).to_image();
    assert_eq!(middle, processor.fit(&near, Fit::Crop));
}

#[test]
fn unconditional_pictures_are_mean_grey_and_black() {
    let processor = ClipImageProcessor::of_side(8);
    let device = parity::device();
    assert_eq!(parity::values(processor.mean_grey(&device)), [0.0; 192]);
    let black = processor.preprocess(&RgbImage::new(31, 17), Fit::Crop);
    let ours = processor.black(&device).into_data();
    assert_eq!(
        ours.try_to_vec::<f32>().unwrap(),
        black.try_to_vec::<f32>().unwrap()
    );
    let red: f32 = black.iter().next().unwrap();
    assert!((red - -0.481_454_66 / 0.268_629_54).abs() < 1e-6, "{red}");
}

#[test]
#[should_panic(expected = "a picture of 0×3 pixels")]
fn an_empty_picture_panics() {
    ClipImageProcessor::default().fit(&RgbImage::new(0, 3), Fit::Crop);
}

fn any_picture(sides: std::ops::Range<u32>) -> impl Strategy<Value = RgbImage> {
    (sides.clone(), sides).prop_flat_map(|(width, height)| {
        proptest::collection::vec(any::<u8>(), 3 * (width * height) as usize)
            .prop_map(move |raw| RgbImage::from_raw(width, height, raw).unwrap())
    })
}

proptest! {
    #[test]
    fn of_a_square_every_fit_is_the_same(side in 1usize..40, picture in any_picture(1..40)) {
        let edge = picture.width().min(picture.height());
        let square = image::imageops::crop_imm(&picture, 0, 0, edge, edge).to_image();
        let processor = ClipImageProcessor::of_side(side);
        let cropped = processor.fit(&square, Fit::Crop);
        prop_assert_eq!(&cropped, &processor.fit(&square, Fit::Squash));
        prop_assert_eq!(&cropped, &processor.fit(&square, Fit::Pad(Rgb([1, 2, 3]))));
    }

    #[test]
    fn a_picture_of_the_right_size_is_left_as_it_is(picture in any_picture(1..30)) {
        let edge = picture.width().min(picture.height());
        let square = image::imageops::crop_imm(&picture, 0, 0, edge, edge).to_image();
        prop_assert_eq!(&ClipImageProcessor::of_side(edge as usize).fit(&square, Fit::Squash), &square);
    }

    #[test]
    fn flat_stays_flat(
        width in 1u32..300, height in 1u32..300, side in 1usize..50, colour in any::<[u8; 3]>(),
    ) {
        let flat = RgbImage::from_pixel(width, height, Rgb(colour));
        for fit in [Fit::Crop, Fit::Squash, Fit::Pad(Rgb(colour))] {
            let seen = ClipImageProcessor::of_side(side).fit(&flat, fit);
            prop_assert_eq!(seen.dimensions(), (side as u32, side as u32));
            prop_assert!(seen.pixels().all(|pixel| pixel.0 == colour));
        }
    }
}
