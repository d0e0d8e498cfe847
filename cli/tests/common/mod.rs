//! Runs the program, and judges what it says and leaves behind.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::RgbImage;
use parity::reference;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// What the program did.
#[derive(Debug)]
pub struct Run {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output in UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("standard error in UTF-8"),
        }
    }
}

/// The program, ready to be given arguments.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_samecast"));
    // Whoever asks for traces must not see them in place of an error.
    command.env("RUST_BACKTRACE", "1");
    // What is kept for later is kept away from the caches of whoever runs the tests.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Runs the program to its end.
pub fn samecast<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    let output = program().args(arguments).output();
    output.expect("the program starts").into()
}

/// What Ctrl-C does to a program.
#[cfg(unix)]
pub fn interrupt(child: &std::process::Child) {
    let mut kill = Command::new("kill");
    let status = kill.args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

impl Run {
    /// The work was done.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        let value: Value = serde_json::from_str(&self.stdout).expect("JSON on standard output");
        assert!(value.is_object(), "{value}");
        value
    }

    /// The arguments or the inputs were refused: status 2 and one line of error, which has all of `names`.
    #[track_caller]
    pub fn refused(&self, names: &[&str]) {
        self.failed(2, names);
    }

    /// As [`Run::refused`], with another exit status.
    #[track_caller]
    pub fn failed(&self, status: i32, names: &[&str]) {
        let told = &self.stderr;
        assert_eq!(self.status, Some(status), "{names:?}: {self:?}");
        assert_eq!(told.matches("error: ").count(), 1, "{told}");
        for fault in ["panicked", "a fault in samecast", "backtrace"] {
            assert!(!told.contains(fault), "{told}");
        }
        let mut lines = told.lines().skip_while(|line| !line.starts_with("error: "));
        let error: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        // Errors of the command line may list what is possible, and end with the usage; all others are one line.
        for line in &error[1..] {
            assert!(line.starts_with("  "), "{told}");
        }
        for line in lines.filter(|line| !line.is_empty()) {
            let advice = ["Usage: ", "For more", "  tip: "];
            assert!(advice.iter().any(|start| line.starts_with(start)), "{told}");
        }
        for name in names {
            assert!(
                error.iter().any(|line| line.contains(name)),
                "`{name}` in {told}"
            );
        }
    }
}

/// The small reference model.
pub fn tiny() -> PathBuf {
    reference().join("tiny-sd")
}

/// A LoRA for it, made by the peers.
pub fn lora(name: &str) -> PathBuf {
    reference().join("lora").join(format!("{name}.safetensors"))
}

/// Ten pictures of a character.
pub fn pictures() -> PathBuf {
    reference().join("pictures10")
}

/// A temporary folder.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The names of what is in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A copy of a folder, to be spoiled.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let (path, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .expect("an entry");
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => fs::write(to.join(name), fs::read(&path).expect("a file")).expect("a copy"),
        }
    }
}

/// Arguments that draw one picture of 64 × 64 with one step.
pub fn quick(model: &Path, out: &Path) -> Vec<String> {
    let fixed = "--prompt girl --sampler ddim --steps 1 --seed 1 --width 64 --height 64 --quiet";
    let mut arguments = vec!["generate".to_string()];
    arguments.extend(fixed.split(' ').map(str::to_string));
    arguments.extend(["--model", text(model), "--out", text(out)].map(str::to_string));
    arguments
}

/// Arguments with some options in place of those that are there.
pub fn with(mut arguments: Vec<String>, options: &[&str]) -> Vec<String> {
    let mut rest = options.iter().peekable();
    while let Some(option) = rest.next() {
        let value = rest.next_if(|value| !value.starts_with("--"));
        let place = arguments.iter().position(|argument| argument == option);
        match (place, value) {
            (Some(place), Some(value)) => arguments[place + 1] = (*value).to_string(),
            (Some(_), None) => {}
            (None, value) => {
                arguments.push((*option).to_string());
                arguments.extend(value.map(|value| (*value).to_string()));
            }
        }
    }
    arguments
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A picture's pixels.
#[track_caller]
pub fn pixels(path: &Path) -> RgbImage {
    match image::open(path) {
        Ok(picture) => picture.into_rgb8(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Mean and 99th percentile of the difference of two pictures' values, of 255.
#[track_caller]
pub fn difference(ours: &RgbImage, theirs: &RgbImage) -> (f64, u8) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let pairs = ours.as_raw().iter().zip(theirs.as_raw());
    let mut each: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
    each.sort_unstable();
    let sum: f64 = each.iter().copied().map(f64::from).sum();
    (sum / each.len() as f64, each[each.len() * 99 / 100])
}

/// A tensor of a safetensors file.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The tensors of a safetensors file.
pub fn tensors(file: &Path) -> BTreeMap<String, Stored> {
    let bytes = fs::read(file).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, stored(view)))
        .collect()
}

/// The metadata of a safetensors file.
pub fn metadata(file: &Path) -> std::collections::HashMap<String, String> {
    let bytes = fs::read(file).expect("a file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    header.metadata().clone().unwrap_or_default()
}

/// Changes the tensors of a safetensors file.
pub fn change(file: &Path, change: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    let mut tensors = tensors(file);
    change(&mut tensors);
    let views = tensors.iter().map(|(name, stored)| {
        let view = TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes);
        (name, view.expect("as many bytes as the shape asks for"))
    });
    let bytes = safetensors::serialize(views, None).expect("a safetensors file");
    fs::write(file, bytes).expect("a file");
}

/// Changes a JSON file.
pub fn change_json(file: &Path, change: impl FnOnce(&mut Value)) {
    let text = fs::read(file).expect("a file");
    let mut value = serde_json::from_slice(&text).expect("a JSON file");
    change(&mut value);
    fs::write(file, value.to_string()).expect("a file");
}
