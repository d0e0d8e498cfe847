//! `samecast library`, `character` and `demo`: a character from its pictures to the verdict, on the small reference model.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{copy, folder, metadata, names, pictures, pixels, samecast, text, tiny, with};
use parity::reference;
use serde_json::Value;
use tempfile::TempDir;

fn clip() -> PathBuf {
    reference().join("clip").join("quick_gelu")
}

/// Arguments of a command line.
fn line(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_string).collect()
}

/// `samecast character COMMAND mira` in a library.
fn character(command: &str, library: &Path) -> Vec<String> {
    let mut arguments = line(&format!("character {command} mira --quiet --library"));
    arguments.push(text(library).into());
    arguments
}

/// A library, and in it a character from the reference pictures, without a LoRA.
fn library(dir: &Path) -> PathBuf {
    let library = dir.join("drama-assets");
    samecast(["library", "init", text(&library), "--model", text(&tiny())]).done();
    samecast(new(&library)).done();
    library
}

fn new(library: &Path) -> Vec<String> {
    let (clip, images) = (clip(), pictures());
    let options = [
        "--trigger mychar001 --class girl --resolution 64 --train-steps 12 --learning-rate 1e-2 --rank 2 --steps 3".to_string(),
        format!("--from {} --clip {}", text(&images), text(&clip)),
    ];
    let mut arguments = character("new", library);
    arguments.extend(options.iter().flat_map(|words| line(words)));
    arguments
}

/// A library whose character has a LoRA. Tests look at it, and change copies.
fn trained() -> PathBuf {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = folder();
        let library = library(dir.path());
        samecast(with(
            character("train", &library),
            &["--seed", "3", "--batch-size", "1"],
        ))
        .done();
        dir
    });
    dir.path().join("drama-assets")
}

/// A copy of it.
fn trained_copy(dir: &Path) -> PathBuf {
    let library = dir.join("drama-assets");
    copy(&trained(), &library);
    library
}

fn verify(library: &Path) -> Vec<String> {
    with(character("verify", library), &["--seeds", "2"])
}

fn mira(library: &Path) -> PathBuf {
    library.join("characters").join("mira")
}

/// Puts lines in place of some of a settings file.
fn change(file: &Path, changes: &[(&str, &str)]) {
    let mut text = fs::read_to_string(file).expect("settings");
    for (from, to) in changes {
        assert!(text.contains(from), "`{from}` in {text}");
        text = text.replace(from, to);
    }
    fs::write(file, text).expect("settings");
}

#[test]
fn the_layout_is_the_recipes() {
    let library = trained();
    assert_eq!(names(&library), ["characters", "episodes", "library.toml"]);
    let parts = [
        "character.toml",
        "expressions",
        "lora",
        "prompts.txt",
        "reference",
    ];
    assert_eq!(names(&mira(&library)), parts);
    assert_eq!(
        names(&mira(&library).join("lora")),
        ["mira_v1.csv", "mira_v1.safetensors"]
    );
    assert_eq!(names(&mira(&library).join("reference")).len(), 20);
    let prompts = fs::read_to_string(mira(&library).join("prompts.txt")).expect("prompts");
    for line in [
        "trigger: (mychar001:1.3)\n",
        "anchors: identical face, same hairstyle,",
        "negative: different person, character change,",
    ] {
        assert!(prompts.contains(line), "{prompts}");
    }
    assert_eq!(prompts.matches("\nscene: ").count(), 5);
}

#[test]
fn what_was_trained_stands_on_record() {
    let library = trained();
    let lora = mira(&library).join("lora").join("mira_v1.safetensors");
    let said = metadata(&lora);
    for (key, value) in [
        ("ss_output_name", "mira_v1"),
        ("ss_network_dim", "2"),
        ("ss_steps", "12"),
        ("ss_seed", "3"),
        ("ss_batch_size_per_device", "1"),
        ("ss_resolution", "(64, 64)"),
        ("modelspec.trigger_phrase", "mychar001"),
    ] {
        assert_eq!(said.get(key).map(String::as_str), Some(value), "{key}");
    }
    let settings = fs::read_to_string(mira(&library).join("character.toml")).expect("settings");
    let settings: toml::Table = settings.parse().expect("TOML");
    let version = &settings["lora"][0];
    assert_eq!(version["file"].as_str(), Some("lora/mira_v1.safetensors"));
    assert_eq!(version["base_model"].as_str(), Some("tiny-sd"));
    assert_eq!(version["steps"].as_integer(), Some(12));
    assert_eq!(version["seed"].as_integer(), Some(3));
    let info = samecast(["lora", "info", "--json", text(&lora)])
        .done()
        .json();
    let sha256 = version["sha256"].as_str();
    assert!(sha256.is_some_and(|hash| hash.len() == 64), "{info}");
    assert!(
        version["base_sha256"]
            .as_str()
            .is_some_and(|hash| hash.len() == 64)
    );
    let log = fs::read_to_string(lora.with_extension("csv")).expect("a log");
    assert_eq!(log.lines().count(), 13);
}

#[test]
fn the_next_lora_is_another_version() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let loras = mira(&library).join("lora");
    let first = fs::read(loras.join("mira_v1.safetensors")).expect("a LoRA");
    let options = ["--steps", "2", "--json"];
    let told = samecast(with(character("train", &library), &options))
        .done()
        .json();
    assert_eq!(told["version"], 2);
    let all = [
        "mira_v1.csv",
        "mira_v1.safetensors",
        "mira_v2.csv",
        "mira_v2.safetensors",
    ];
    assert_eq!(names(&loras), all);
    assert!(first == fs::read(loras.join("mira_v1.safetensors")).expect("a LoRA"));
    let settings = fs::read_to_string(mira(&library).join("character.toml")).expect("settings");
    let settings: toml::Table = settings.parse().expect("TOML");
    assert_eq!(settings["lora"].as_array().map(Vec::len), Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on_with_its_log() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let dir = folder();
    let library = library(dir.path());
    let loras = mira(&library).join("lora");
    let state = loras.join("mira_v1.safetensors.state");
    let options = [
        "--steps",
        "40",
        "--batch-size",
        "1",
        "--save-state-every",
        "1",
    ];
    let arguments = with(character("train", &library), &options);
    let child = common::program()
        .args(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    while !state.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no state was saved"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    common::interrupt(&child);
    let run = common::Run::from(child.wait_with_output().expect("the program ends"));
    run.failed(1, &["stopped after step", "--resume"]);
    assert_eq!(names(&loras), ["mira_v1.csv", "mira_v1.safetensors.state"]);
    samecast(arguments.clone()).refused(&["--resume", "--force"]);
    samecast(with(arguments.clone(), &["--resume"])).done();
    assert_eq!(names(&loras), ["mira_v1.csv", "mira_v1.safetensors"]);

    // The very same as without an interruption.
    let other = folder();
    let whole = self::library(other.path());
    samecast(with(character("train", &whole), &options)).done();
    for name in ["mira_v1.csv", "mira_v1.safetensors"] {
        let [one, another] = [&library, &whole]
            .map(|library| fs::read(mira(library).join("lora").join(name)).expect("a file"));
        assert!(one == another, "{name} differs");
    }
}

#[test]
fn three_expressions_are_drawn_with_the_lora() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let expressions = mira(&library).join("expressions");
    samecast(character("sheet", &library)).done();
    assert_eq!(
        names(&expressions),
        ["angry.png", "neutral.png", "smile.png"]
    );
    let [angry, smile] = ["angry.png", "smile.png"].map(|name| pixels(&expressions.join(name)));
    assert_eq!(angry.dimensions(), (64, 64));
    assert!(angry != smile, "the expression has no effect");
    samecast(character("sheet", &library)).refused(&["neutral.png", "--force"]);
    // The trigger, the expression and the anchors are the prompt; the same picture by `generate`.
    let lora = mira(&library).join("lora").join("mira_v1.safetensors");
    let again = dir.path().join("angry.png");
    let settings = fs::read_to_string(mira(&library).join("prompts.txt")).expect("prompts");
    let of = |key: &str| {
        let line = settings
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .expect("a line");
        line.trim().to_string()
    };
    let portrait = of("portrait:")
        .replace("{class}", "girl")
        .replace("{expression}", "angry expression");
    let prompt = format!("{}, {portrait}, {}", of("trigger:"), of("anchors:"));
    let fixed = "--sampler dpmpp-2m --schedule karras --steps 3 --cfg 7 --seed 1 --width 64 --height 64 --quiet";
    let mut arguments = line(&format!("generate {fixed} --lora {}:0.8", text(&lora)));
    for (option, value) in [
        ("--model", text(&tiny())),
        ("--prompt", &prompt),
        ("--negative", &of("negative:")),
        ("--out", text(&again)),
    ] {
        arguments.extend([option.to_string(), value.to_string()]);
    }
    samecast(arguments).done();
    assert!(angry == pixels(&again), "generate draws another picture");
    samecast(with(
        character("sheet", &library),
        &["--force", "--seed", "2"],
    ))
    .done();
    assert!(
        angry != pixels(&expressions.join("angry.png")),
        "--force replaces nothing"
    );
}

#[test]
fn a_verification_scores_and_shows_everything() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let adapter = reference().join("ip-adapter");
    let (file, encoder) = (
        adapter.join("ip-adapter.safetensors"),
        adapter.join("image_encoder"),
    );
    let options = [
        "--ip-adapter",
        text(&file),
        "--image-encoder",
        text(&encoder),
        "--no-ip-cache",
    ];
    // Nothing is asked of the LoRA, so that the verdict hangs on no number.
    let settings = mira(&library).join("character.toml");
    let lenient = [
        ("margin = 0.5", "margin = 0.0"),
        ("share = 0.6", "share = 0.0"),
        ("certainty = 2.0", "certainty = 0.0"),
    ];
    change(&settings, &lenient);
    let run = samecast(with(with(verify(&library), &options), &["--json"]));
    let told = run.json();
    let out = library.join("episodes").join("mira-verify");
    assert_eq!(told["page"], text(&out.join("index.html")));
    let ways = ["without", "lora", "reference", "both"];
    let mut expected = vec![
        "index.html".to_string(),
        "sheet.png".into(),
        "verify.json".into(),
    ];
    for way in ways {
        expected.extend(
            (1..=5).flat_map(|scene| [1, 2].map(|seed| format!("{way}-{scene}-{seed}.png"))),
        );
    }
    expected.sort();
    assert_eq!(names(&out), expected);

    // The numbers belong to each other.
    let rows = told["rows"].as_array().expect("rows");
    let number = |value: &Value| value.as_f64().expect("a number");
    let mut mean = vec![];
    for (row, way) in rows.iter().zip(ways) {
        assert_eq!(row["way"], way);
        let each: Vec<f64> = row["pictures"]
            .as_array()
            .expect("pictures")
            .iter()
            .map(|one| number(&one["clip_i"]))
            .collect();
        assert_eq!(each.len(), 10);
        let sum: f64 = each.iter().sum();
        assert!((sum / 10.0 - number(&row["clip_i"])).abs() < 1e-9);
        assert!((-1.0..=1.0).contains(&number(&row["clip_t"])) && number(&row["spread"]) > 0.0);
        mean.push(number(&row["clip_i"]));
    }
    assert!((mean[1] - mean[0] - number(&told["gain"])).abs() < 1e-9);
    let consistent = told["consistent"].as_bool().expect("a verdict");
    assert_eq!(run.status, Some(if consistent { 0 } else { 1 }));
    // With nothing asked, all that is left of the rule is that there is a gap, and a gain.
    let gap = number(&told["references"]["agreement"]) - mean[0];
    assert_eq!(
        consistent,
        gap > 0.0 && number(&told["gain"]) >= 0.0,
        "{told}"
    );
    assert_eq!(told["closed"].is_null(), gap <= 0.0);

    // Every way draws other pictures, and a picture says how it came about.
    let first = ways.map(|way| pixels(&out.join(format!("{way}-1-1.png"))));
    for (at, one) in first.iter().enumerate() {
        assert!(first[..at].iter().all(|other| other != one), "{}", ways[at]);
    }
    let both = image_texts(&out.join("both-1-1.png"));
    assert!(
        both.contains("(mychar001:1.3), portrait of a girl") && both.contains("<lora:mira_v1:0.8>"),
        "{both}"
    );
    assert!(both.contains("ip-adapter-auto"), "{both}");
    let without = image_texts(&out.join("without-1-1.png"));
    assert!(
        without.starts_with("portrait of a girl") && !without.contains("mychar001"),
        "{without}"
    );
    let page = fs::read_to_string(out.join("index.html")).expect("a page");
    assert_eq!(
        page.matches("src=\"data:image/png;base64,").count(),
        40 + 10
    );
    assert!(page.contains("<svg") && !page.contains("src=\"http"));
    assert!(pixels(&out.join("sheet.png")).width() > 1000);
}

/// The `parameters` text of a PNG.
fn image_texts(file: &Path) -> String {
    let decoder = png::Decoder::new(std::io::BufReader::new(
        fs::File::open(file).expect("a file"),
    ));
    let reader = decoder.read_info().expect("a PNG");
    let info = reader.info();
    let text = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == "parameters");
    text.expect("parameters").text.clone()
}

#[test]
fn a_character_passes_with_its_own_lora_and_fails_with_anothers() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let own = mira(&library).join("lora").join("mira_v1.safetensors");
    // Whom the LoRA draws is whom the new character's pictures show.
    let drawn = dir.path().join("drawn");
    let same = ["--seeds", "2", "--seed", "50", "--lora-scale", "2"];
    samecast(with(
        with(verify(&library), &same),
        &["--out", text(&drawn)],
    ));
    let pictures = dir.path().join("pictures");
    fs::create_dir(&pictures).expect("a folder");
    for name in names(&drawn)
        .iter()
        .filter(|name| name.starts_with("lora-"))
    {
        fs::copy(drawn.join(name), pictures.join(name)).expect("a copy");
    }
    let nora = |mut arguments: Vec<String>, options: &[&str]| {
        arguments[2] = "nora".into();
        samecast(with(arguments, options))
    };
    nora(new(&library), &["--from", text(&pictures)]).done();
    let verify = with(verify(&library), &same);
    let run = nora(verify.clone(), &["--lora", text(&own)]).done();
    assert!(
        run.stdout.contains("nora: consistent: closes"),
        "{}",
        run.stdout
    );
    let other = common::lora("kohya");
    let run = nora(verify, &["--lora", text(&other), "--force"]);
    run.failed(1, &["nora: not consistent: it closes"]);
}

#[test]
fn the_verdict_is_the_exit_status() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let settings = mira(&library).join("character.toml");
    // More than any LoRA can do: the references' own agreement in full, and all of the gap.
    change(
        &settings,
        &[
            ("margin = 0.5", "margin = 1.0"),
            ("share = 0.6", "share = 1.0"),
            ("certainty = 2.0", "certainty = 10.0"),
        ],
    );
    let quick = ["--seeds", "1", "--steps", "1", "--json"];
    let run = samecast(with(verify(&library), &quick));
    run.failed(1, &["mira: not consistent"]);
    let told = run.json();
    assert_eq!(
        (&told["consistent"], &told["status"]),
        (&false.into(), &1.into())
    );
    assert!(!told["reasons"].as_array().expect("reasons").is_empty());

    // What was written is not overwritten unasked, and by force alone what was written so.
    samecast(with(verify(&library), &quick)).refused(&["mira-verify", "--force"]);
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("mine.txt"), "x").expect("a file");
    let into = ["--out", text(&out), "--force"];
    samecast(with(with(verify(&library), &quick), &into))
        .refused(&["verify.json", "another folder"]);
    assert_eq!(names(&out), ["mine.txt"]);
    samecast(with(with(verify(&library), &quick), &["--force"])).failed(1, &["not consistent"]);
    assert_eq!(names(&library.join("episodes")), ["mira-verify"]);
}

#[test]
fn an_image_encoder_alone_gives_no_agreement_with_the_words() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let encoder = reference().join("clip-vision").join("gelu");
    let options = [
        "--seeds",
        "1",
        "--steps",
        "1",
        "--json",
        "--clip",
        text(&encoder),
        "--face",
        "0.25,0,0.5",
    ];
    let told = samecast(with(verify(&library), &options)).json();
    assert!(
        told["rows"][0]["clip_t"].is_null() && told["rows"][0]["clip_i"].is_f64(),
        "{told}"
    );
    assert_eq!(told["face"], serde_json::json!([0.25, 0.0, 0.5]));
    assert_eq!(told["rows"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let dir = folder();
    let library = library(dir.path());
    let nowhere = dir.path().join("nowhere");
    samecast(["library", "init", text(&library)]).refused(&["is a library already"]);
    samecast(["library", "init", text(&pictures())]).refused(&["not empty"]);
    samecast(["library", "init", text(&nowhere), "--model", "no-model"])
        .refused(&["--model no-model"]);
    samecast(character("train", &nowhere)).refused(&["library.toml", "library init"]);
    samecast(new(&library)).refused(&["mira", "exists already"]);
    samecast(character("verify", &library)).refused(&["no LoRA yet", "character train mira"]);
    samecast(character("sheet", &library)).refused(&["no LoRA yet"]);
    let nora = |options: &[&str]| {
        let mut arguments = with(new(&library), options);
        arguments[2] = "nora".into();
        samecast(arguments)
    };
    nora(&["--from", text(&nowhere)]).refused(&["nowhere"]);
    nora(&["--trigger", "a,b"]).refused(&["trigger is", "mychar001"]);
    nora(&["--face", "0.5,0.5,0.9"]).refused(&["face is"]);
    nora(&["--portrait", "a portrait"]).refused(&["{expression}"]);
    nora(&["--scene", "a girl <lora:x:1>"]).refused(&["--lora FILE:SCALE"]);
    nora(&["--trigger-weight", "9"]).refused(&["--trigger-weight is 9"]);
    nora(&["--rank", "0"]).refused(&["--rank is 0"]);
    nora(&["--clip", "no-clip"]).refused(&["--clip no-clip"]);
    let mut bad = character("train", &library);
    bad[2] = "../mira".into();
    samecast(bad.clone()).refused(&["the character's name"]);
    bad[2] = "nora".into();
    samecast(bad).refused(&["no character `nora`; it has mira"]);
    assert_eq!(names(&library.join("characters")), ["mira"]);

    let settings = mira(&library).join("character.toml");
    let good = fs::read_to_string(&settings).expect("settings");
    change(&settings, &[("rank = 2", "rank = two")]);
    samecast(character("train", &library)).refused(&["character.toml: line", "rank = two"]);
    fs::write(&settings, good).expect("settings");
    let prompts = mira(&library).join("prompts.txt");
    change(&prompts, &[("anchors:", "anker:")]);
    samecast(character("train", &library)).refused(&["prompts.txt: line", "anker:"]);
}

#[test]
fn a_damaged_or_missing_file_stops_a_verification_before_the_drawing() {
    let dir = folder();
    let library = trained_copy(dir.path());
    let nowhere = dir.path().join("nowhere");
    let all = |options: &[&str]| samecast(with(verify(&library), options));
    all(&["--clip", text(&nowhere)]).refused(&["--clip", "nowhere"]);
    all(&["--clip", text(&tiny())]).refused(&["--clip", "tiny-sd"]);
    all(&["--lora", text(&nowhere)]).refused(&["nowhere"]);
    all(&["--lora-scale", "nan"]).refused(&["--lora-scale is"]);
    all(&["--seeds", "0"]).refused(&["--seeds is 0"]);
    all(&["--sampler", "magic"]).refused(&["magic"]);
    all(&["--width", "60"]).refused(&["--width is 60"]);
    all(&["--out", text(&nowhere.join("a"))]).refused(&["--out", "does not exist"]);
    let adapter = reference()
        .join("ip-adapter")
        .join("ip-adapter.safetensors");
    all(&["--ip-adapter", text(&adapter)]).refused(&["--image-encoder"]);
    fs::write(
        mira(&library).join("reference").join("04.png"),
        "no picture",
    )
    .expect("a file");
    all(&[]).refused(&["04.png", "no picture"]);
    assert!(
        names(&library.join("episodes")).is_empty(),
        "{:?}",
        names(&library.join("episodes"))
    );
}

fn demo(out: &Path) -> Vec<String> {
    let adapter = reference().join("ip-adapter");
    let mut arguments =
        line("demo --size 64 --pictures 16 --steps 2 --draw-steps 1 --seeds 2 --quiet --out");
    arguments.push(text(out).into());
    for (option, path) in [
        ("--model", tiny()),
        ("--clip", clip()),
        ("--ip-adapter", adapter.join("ip-adapter.safetensors")),
        ("--image-encoder", adapter.join("image_encoder")),
    ] {
        arguments.extend([option.to_string(), text(&path).to_string()]);
    }
    arguments
}

#[test]
fn the_demo_is_the_commands_in_a_row() {
    let dir = folder();
    let out = dir.path().join("demo");
    let run = samecast(with(demo(&out), &["--json"]));
    let told = run.json();
    let verdict = told["verify"]["consistent"].as_bool().expect("a verdict");
    assert_eq!(
        run.status,
        Some(if verdict { 0 } else { 1 }),
        "{}",
        run.stderr
    );
    assert_eq!(names(&out), ["drama-assets", "pictures"]);
    assert_eq!(names(&out.join("pictures")).len(), 32);
    let library = out.join("drama-assets");
    let parts = [
        "character.toml",
        "expressions",
        "lora",
        "prompts.txt",
        "reference",
    ];
    assert_eq!(names(&mira(&library)), parts);
    assert_eq!(
        names(&mira(&library).join("expressions")),
        ["angry.png", "neutral.png", "smile.png"]
    );
    assert_eq!(names(&library.join("episodes")), ["demo"]);
    let episode = names(&library.join("episodes").join("demo"));
    assert_eq!(episode.len(), 4 * 5 * 2 + 3);
    assert_eq!(told["new"]["pictures"], 16);
    assert_eq!(told["train"]["steps"], 2);
    assert_eq!(told["sheet"]["files"].as_array().map(Vec::len), Some(3));
    assert_eq!(told["verify"]["rows"].as_array().map(Vec::len), Some(4));

    // What is there stays there, unless an earlier demo left it.
    samecast(demo(&out)).refused(&["not empty", "--force"]);
    let first = fs::read(mira(&library).join("lora").join("mira_v1.safetensors")).expect("a LoRA");
    fs::write(out.join("mine.txt"), "x").expect("a file");
    samecast(with(demo(&out), &["--force"])).refused(&["mine.txt", "another folder"]);
    fs::remove_file(out.join("mine.txt")).expect("a file");
    let again = samecast(with(demo(&out), &["--force", "--json"]));
    assert_eq!(again.status, run.status, "{}", again.stderr);
    let second = fs::read(mira(&library).join("lora").join("mira_v1.safetensors")).expect("a LoRA");
    assert!(first == second, "one seed gives two LoRAs");
}

#[test]
fn a_demo_that_cannot_be_is_refused() {
    let dir = folder();
    let out = dir.path().join("demo");
    let all = |options: &[&str]| samecast(with(demo(&out), options));
    all(&["--character", "1000000"]).refused(&["--character is 1000000"]);
    all(&["--size", "65"]).refused(&["--size is 65"]);
    all(&["--steps", "0"]).refused(&["--steps is 0"]);
    all(&["--model", "no-model"]).refused(&["no-model"]);
    all(&["--out", text(&dir.path().join("a").join("b"))]).refused(&["does not exist"]);
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("a file");
    all(&["--out", text(&file)]).refused(&["a folder is expected"]);
}
