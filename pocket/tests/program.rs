//! The program `puppet`: what it writes, and that what is given wrongly is one clear error with exit status 2 that changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use samecast_pocket::puppet::{Character, draw, read, shots};
use tempfile::TempDir;

fn puppet<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puppet"));
    command
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// Runs `puppet`, whose last argument is a path.
fn run(arguments: &str, path: &Path) -> Output {
    let path = path.to_str().expect("a path in UTF-8");
    puppet(words(arguments).into_iter().chain([path]))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort();
    names
}

#[track_caller]
fn done(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The program refused it with exit status 2, and said all this.
#[track_caller]
fn refused(output: &Output, told: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.matches("error").count(), 1, "{stderr}");
    for part in told {
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn a_training_folder_has_pictures_with_captions() {
    let dir = folder();
    let out = dir.path().join("new").join("mira");
    done(&run(
        "draw --character 7 --shots 20 --seed 3 --size 64 --trigger mira",
        &out,
    ));
    let names = names(&out);
    assert_eq!(names.len(), 40);
    assert_eq!(names[..2], ["001.png", "001.txt"]);
    assert_eq!(names[39], "020.txt");
    let character = Character::from_seed(7);
    for (i, shot) in shots(20, 3).iter().enumerate() {
        let file = |ending: &str| out.join(format!("{:03}.{ending}", i + 1));
        let picture = image::open(file("png")).expect("a picture").to_rgb8();
        assert_eq!(picture, draw(&character, shot, 64));
        let words = fs::read_to_string(file("txt")).expect("a caption");
        let told = read(words.trim_end()).expect("a caption of the language");
        assert_eq!(told.shot(shot.seed), *shot);
        assert_eq!(
            (told.sex, told.trigger.as_deref()),
            (character.sex, Some("mira"))
        );
    }
    assert_eq!(
        self::names(dir.path()),
        ["new"],
        "nothing is left beside it"
    );
}

#[test]
fn a_folder_that_is_not_empty_asks_for_force() {
    let dir = folder();
    let out = dir.path().join("mira");
    let draw = "draw --character 7 --size 64 --shots";
    done(&run(&format!("{draw} 4"), &out));
    let before = fs::read(out.join("001.png")).expect("a picture");
    refused(
        &run(&format!("{draw} 2 --seed 9"), &out),
        &["mira", "not empty", "--force"],
    );
    assert_eq!(fs::read(out.join("001.png")).expect("a picture"), before);
    assert_eq!(names(&out).len(), 8);

    done(&run(&format!("{draw} 2 --seed 9 --force"), &out));
    assert_eq!(names(&out), ["001.png", "001.txt", "002.png", "002.txt"]);
    assert_ne!(fs::read(out.join("001.png")).expect("a picture"), before);

    // What was not drawn here is never deleted.
    fs::write(out.join("notes.md"), "mine").expect("a file");
    refused(
        &run(&format!("{draw} 2 --force"), &out),
        &["notes.md", "another folder"],
    );
    assert_eq!(names(&out).len(), 5);
    assert_eq!(names(dir.path()), ["mira"]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    done(&run(&format!("{draw} 1"), &empty));
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("a file");
    refused(&run(&format!("{draw} 1"), &file), &["a folder is expected"]);
    refused(
        &run(&format!("{draw} 1"), &file.join("mira")),
        &["a folder is expected"],
    );
}

#[test]
fn what_cannot_be_drawn_is_refused_before_anything_is_written() {
    let dir = folder();
    let out = dir.path().join("mira");
    for (arguments, told) in [
        ("draw --character 7 --shots 0", ["--shots", "1..=999"]),
        ("draw --character 7 --shots 1000", ["--shots", "1..=999"]),
        ("draw --character 7 --size 63", ["--size", "64..=512"]),
        ("draw --character 7 --size 1024", ["--size", "64..=512"]),
        ("draw --character mira", ["--character", "mira"]),
        ("draw --character -1", ["-1", "error"]),
        ("draw --shots 3", ["--character", "error"]),
        ("draw --character 7 --trigger a,b", ["a,b", "mychar001"]),
        (
            "draw --character 7 --trigger portrait",
            ["portrait", "mychar001"],
        ),
        ("draw --character 7 --seed many", ["--seed", "many"]),
        ("sheet --characters 0", ["--characters", "1..=64"]),
        ("sheet --shots 0", ["--shots", "1..=64"]),
        ("sheet --size 7", ["--size", "64..=512"]),
        (
            "sheet --first 18446744073709551615",
            ["--first", "18446744073709551615"],
        ),
    ] {
        let out = if arguments.starts_with("sheet") {
            out.with_extension("png")
        } else {
            out.clone()
        };
        refused(&run(arguments, &out), &told);
        assert!(names(dir.path()).is_empty(), "{arguments}");
    }
}

#[test]
fn a_sheet_is_a_picture_of_all() {
    let dir = folder();
    let out = dir.path().join("sheet.png");
    let arguments = "sheet --characters 2 --first 5 --shots 3 --size 64";
    done(&run(arguments, &out));
    let sheet = image::open(&out).expect("a picture").to_rgb8();
    assert_eq!(sheet.dimensions(), (3 * 64, 2 * 64));
    let last = draw(&Character::from_seed(6), &shots(3, 0)[2], 64);
    let corner = image::imageops::crop_imm(&sheet, 128, 64, 64, 64).to_image();
    assert_eq!(corner, last);

    refused(&run(arguments, &out), &["sheet.png", "exists", "--force"]);
    done(&run(&format!("{arguments} --force"), &out));
    refused(
        &run(arguments, &dir.path().join("sheet.jpg")),
        &["sheet.jpg", ".png"],
    );
    refused(
        &run(arguments, &dir.path().join("no").join("sheet.png")),
        &["does not exist"],
    );
    assert_eq!(names(dir.path()), ["sheet.png"]);
}

#[test]
fn captions_are_printed_and_read() {
    let printed = done(&puppet(words(
        "caption --character 7 --shots 5 --trigger mira",
    )));
    assert_eq!(printed.lines().count(), 5);
    for line in printed.lines() {
        assert!(line.starts_with("mira, "), "{line}");
        let told = done(&puppet(["caption", "--read", line]));
        assert!(
            told.contains("expression: ") && told.contains("mira"),
            "{told}"
        );
    }
    let vocabulary = done(&puppet(["caption", "--vocabulary"]));
    assert!(
        vocabulary.lines().any(|word| word == "portrait"),
        "{vocabulary}"
    );
    refused(
        &puppet(["caption", "--read", "a man in a park"]),
        &["does not tell the angle"],
    );
    refused(&puppet(["caption", "--trigger", ""]), &["trigger"]);
}

#[test]
fn the_speed_is_told() {
    let told = done(&puppet(words("speed --size 64 --pictures 3")));
    assert!(told.contains("pictures a second at 64 pixels"), "{told}");
}
