//! The committed examiners: they reach their figures on characters that nobody trained on, say no where a picture shows something else, and
//! judge a folder; what is given wrongly is one clear error.
#![cfg(feature = "train")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::RgbImage;
use parity::device;
use samecast_pocket::examiners::{
    ATTRIBUTES, Condition, FaceExaminer, ShotExaminer, held_out, measure_faces, measure_shots,
};
use samecast_pocket::puppet::{Character, Sex, Shot, caption, draw};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examiners")
}

fn shots() -> ShotExaminer {
    ShotExaminer::open(&folder(), &device()).expect("the committed examiner")
}

fn faces() -> FaceExaminer {
    FaceExaminer::open(&folder(), &device()).expect("the committed examiner")
}

#[test]
fn shots_are_read() {
    // Expressions are harder to read than all else: seen from above or from the side, they are few pixels.
    for (condition, rest, expression) in [
        (Condition::Drawn, 0.97, 0.92),
        (Condition::Blurred, 0.95, 0.88),
    ] {
        let shares = measure_shots(&shots(), 300, condition);
        for (&attribute, share) in ATTRIBUTES.iter().zip(shares) {
            let least = if attribute == "expression" {
                expression
            } else {
                rest
            };
            assert!(share >= least, "{condition:?}, {attribute}: {share}");
        }
    }
}

#[test]
fn a_shot_is_not_read_as_another() {
    let examples: Vec<_> = (0..128).map(held_out).collect();
    let pictures: Vec<RgbImage> = (examples.iter())
        .map(|example| draw(&example.character, &example.shot, 96))
        .collect();
    let readings = shots().read(&pictures);
    // Each reading against what the next picture shows: no more than chance, 1 of 2 for the sex and at most 1 of 5 for all else.
    let mut right = [0; 6];
    for (reading, other) in readings.iter().zip(&examples[1..]) {
        let agrees = reading.agrees(other.character.sex, &other.shot);
        for (right, agrees) in right.iter_mut().zip(agrees) {
            *right += usize::from(agrees);
        }
        assert!((0.0..=1.0001).contains(&reading.expression.probability));
    }
    assert!((40..=88).contains(&right[0]), "{right:?}");
    assert!(right[1..].iter().all(|&right| right < 45), "{right:?}");
}

#[test]
fn characters_are_found() {
    for sex in [Sex::Woman, Sex::Man] {
        let found = measure_faces(&faces(), sex, 2, Condition::Drawn);
        assert_eq!(found.pictures, 100);
        assert!(found.first >= 0.87, "{sex:?}: {found:?}");
    }
}

/// The same face in another shot is nearer than another face in the same shot.
#[test]
fn faces_are_told_by_who_it_is_and_not_by_what_the_shot_shows() {
    let mut pictures = vec![];
    for number in 0..40 {
        let example = held_out(1000 + number);
        let other = Character::with_sex(700_000 + number, example.character.sex);
        let elsewhere = Shot::random(example.shot.seed);
        pictures.push(draw(&example.character, &example.shot, 96));
        pictures.push(draw(&example.character, &elsewhere, 96));
        pictures.push(draw(&other, &example.shot, 96));
    }
    let points = faces().embed(&pictures);
    let right = (points.as_chunks::<3>().0.iter())
        .filter(|[one, same, other]| one.similarity(same) > one.similarity(other))
        .count();
    assert!(right >= 36, "{right} of 40");
}

#[test]
fn a_picture_of_another_size_is_read_too() {
    let (mira, shot) = (Character::from_seed(7), Shot::random(1));
    let sizes = [96, 192].map(|size| draw(&mira, &shot, size));
    let readings = shots().read(&sizes);
    assert!(
        readings
            .iter()
            .all(|reading| reading.agrees(mira.sex, &shot) == [true; 6]),
        "{readings:?}"
    );
    let points = faces().embed(&sizes);
    let alike = points[0].similarity(&points[1]);
    assert!(alike > 0.8, "{alike}");
    assert!((points[0].similarity(&points[0]) - 1.0).abs() < 1e-4);
}

#[test]
fn a_damaged_or_foreign_file_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let missing = ShotExaminer::open(dir.path(), &device()).expect_err("nothing there");
    assert!(
        missing.to_string().contains("shots.safetensors"),
        "{missing}"
    );

    let whole = fs::read(folder().join(FaceExaminer::FILE)).expect("the committed file");
    assert!(FaceExaminer::from_bytes(&whole, &device()).is_ok());
    let half = FaceExaminer::from_bytes(&whole[..whole.len() / 2], &device());
    let error = half.expect_err("half a file").to_string();
    assert!(
        error.contains("faces.safetensors") && error.contains("damaged"),
        "{error}"
    );
    let error = ShotExaminer::from_bytes(&whole, &device()).expect_err("the other examiner's file");
    assert!(error.to_string().contains("lacks `"), "{error}");
}

fn judge(pictures: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_examiners"))
        .arg("--folder")
        .arg(folder())
        .arg("judge")
        .arg(pictures)
        .args(more)
        .output()
        .expect("the program starts")
}

#[track_caller]
fn refused(output: &Output, told: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in told {
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
}

#[test]
fn a_folder_is_judged() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    refused(&judge(dir.path(), &[]), &["holds no pictures"]);
    refused(&judge(&dir.path().join("none"), &[]), &["none", "folder"]);

    let mira = Character::from_seed(7);
    for number in 0..4 {
        let shot = Shot::random(number);
        let path = dir.path().join(format!("{number}.png"));
        draw(&mira, &shot, 96).save(&path).expect("a picture");
        let words = caption(mira.sex, &shot, Some("mira"));
        fs::write(path.with_extension("txt"), words).expect("a caption");
    }
    let output = judge(dir.path(), &["--character", "7"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("of 4 pictures"), "{said}");
    let outfit = said.lines().find(|line| line.starts_with("outfit"));
    assert!(
        outfit.is_some_and(|line| line.ends_with("100.0 %")),
        "{said}"
    );
    // By chance one of the four is first in a run of twelve.
    let first = said.lines().find(|line| line.starts_with("first"));
    assert!(
        first.is_some_and(|line| line.ends_with("75.0 %") || line.ends_with("100.0 %")),
        "{said}"
    );

    let words = dir.path().join("2.txt");
    fs::write(&words, "a portrait of a spaceship").expect("a caption");
    refused(&judge(dir.path(), &[]), &["2.txt", "spaceship"]);
    fs::remove_file(&words).expect("removed");
    refused(&judge(dir.path(), &[]), &["2.txt", "caption"]);
    fs::write(dir.path().join("2.png"), "no picture").expect("a file");
    refused(&judge(dir.path(), &[]), &["2.png"]);
}
