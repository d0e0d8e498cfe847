use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clip_vision::on_white;
use image::RgbImage;
use lora_trainer::Dataset;

use crate::files::{read_picture, write_whole};
use crate::settings::{check_trigger, parse_toml, read_toml};
use crate::{Expression, Findings, LibraryError, LibrarySettings, LoraVersion, Prompts, Settings};

const MARK: &str = "library.toml";
const CHARACTERS: &str = "characters";
const EPISODES: &str = "episodes";

/// A production's characters and episodes, in a folder:
///
/// ```text
/// drama-assets/
///   library.toml
///   characters/mira/
///     lora/mira_v1.safetensors     and mira_v1.csv, its losses
///     reference/                   pictures, each with its caption in a .txt file
///     expressions/                 neutral.png, angry.png, smile.png
///     prompts.txt
///     character.toml
///   episodes/
/// ```
#[derive(Clone, Debug)]
pub struct Library {
    root: PathBuf,
    settings: LibrarySettings,
}

/// A character that is to be put into a library.
#[derive(Clone, Debug)]
pub struct NewCharacter {
    /// Its name, which is that of its folder: letters, digits, `-` and `_`.
    pub name: String,
    /// A folder with its pictures and captions.
    pub pictures: PathBuf,
    /// Its settings.
    pub settings: Settings,
    /// What its prompts are made of.
    pub prompts: Prompts,
}

/// A character of a library.
#[derive(Clone, Debug)]
pub struct Character {
    /// Its name.
    pub name: String,
    /// What `character.toml` says.
    pub settings: Settings,
    /// What `prompts.txt` says.
    pub prompts: Prompts,
    folder: PathBuf,
}

impl Library {
    /// Makes a library in a folder that does not exist or is empty.
    ///
    /// # Errors
    /// If there is something in the folder, or it cannot be written.
    pub fn init(root: impl Into<PathBuf>, settings: LibrarySettings) -> Result<Self, LibraryError> {
        let root = root.into();
        if root.join(MARK).exists() {
            return Err(LibraryError::Exists { path: root });
        }
        if root.exists()
            && fs::read_dir(&root)
                .map_err(reading(&root))?
                .next()
                .is_some()
        {
            return Err(LibraryError::NotEmpty { path: root });
        }
        for folder in [CHARACTERS, EPISODES].map(|name| root.join(name)) {
            fs::create_dir_all(&folder).map_err(writing(&folder))?;
        }
        let mark = root.join(MARK);
        let mut text = String::from("# A library of characters: see `samecast help library`.\n");
        if let Some(model) = &settings.model {
            let model = toml::Value::String(model.clone());
            text.push_str(&format!(
                "# The model of characters that name none.\nmodel = {model}\n"
            ));
        }
        // The mark comes last: a folder that has it is a whole library.
        write_whole(&mark, |file| file.write_all(text.as_bytes())).map_err(writing(&mark))?;
        Ok(Self { root, settings })
    }

    /// Opens a library.
    ///
    /// # Errors
    /// If the folder has no `library.toml`, or that has a line that is not understood.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, LibraryError> {
        let root = root.into();
        let mark = root.join(MARK);
        if !mark.is_file() {
            return Err(LibraryError::NoLibrary { path: root });
        }
        Ok(Self {
            settings: read_toml(&mark)?,
            root,
        })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `library.toml` says.
    pub fn settings(&self) -> &LibrarySettings {
        &self.settings
    }

    /// The folder of an episode, which need not exist.
    pub fn episode(&self, name: &str) -> PathBuf {
        self.root.join(EPISODES).join(name)
    }

    /// The names of its characters, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, LibraryError> {
        let folder = self.root.join(CHARACTERS);
        let mut names = vec![];
        for entry in fs::read_dir(&folder).map_err(reading(&folder))? {
            let path = entry.map_err(reading(&folder))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.join("character.toml").is_file() && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a character.
    ///
    /// # Errors
    /// If the library has none of the name, or one of its files is not understood.
    pub fn character(&self, name: &str) -> Result<Character, LibraryError> {
        check_name(name)?;
        let folder = self.root.join(CHARACTERS).join(name);
        let file = folder.join("character.toml");
        if !file.is_file() {
            return Err(LibraryError::NoCharacter {
                library: self.root.clone(),
                name: name.into(),
                known: self.names()?,
            });
        }
        Ok(Character {
            name: name.into(),
            settings: Settings::open(&file)?,
            prompts: Prompts::open(&folder.join("prompts.txt"))?,
            folder,
        })
    }

    /// Puts a character into the library, whole or not at all: its pictures and captions are copied. `progress` hears of each picture that is
    /// done and of how many there are, and may break off.
    ///
    /// # Errors
    /// If there is one of the name, a value cannot be, a picture cannot be read, or a file not be written.
    pub fn add(
        &self,
        new: &NewCharacter,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(Character, Findings), LibraryError> {
        check_name(&new.name)?;
        new.settings.check()?;
        check_trigger(&new.settings.trigger)?;
        if let Some((found, expected)) = new.prompts.fault() {
            return Err(LibraryError::Value {
                what: "a part of the prompts".into(),
                found,
                expected,
            });
        }
        let characters = self.root.join(CHARACTERS);
        let folder = characters.join(&new.name);
        if folder.exists() {
            return Err(LibraryError::CharacterExists { path: folder });
        }
        let dataset = Dataset::open(&new.pictures, &new.settings.trigger)?;
        let findings = Findings::of(&dataset, new.settings.training.resolution)?;

        fs::create_dir_all(&characters).map_err(writing(&characters))?;
        // A folder that is dropped is deleted.
        let beside = tempfile::Builder::new()
            .prefix(".new-")
            .suffix(".partial")
            .tempdir_in(&characters)
            .map_err(writing(&characters))?;
        let made = beside.path().join("made");
        let reference = made.join("reference");
        for folder in [&reference, &made.join("lora"), &made.join("expressions")] {
            fs::create_dir_all(folder).map_err(writing(folder))?;
        }
        for (at, sample) in dataset.samples.iter().enumerate() {
            if progress(at, dataset.samples.len()).is_break() {
                return Err(LibraryError::Stopped);
            }
            let to = reference.join(sample.picture.file_name().unwrap_or_default());
            let bytes = fs::read(&sample.picture).map_err(reading(&sample.picture))?;
            fs::write(&to, bytes).map_err(writing(&to))?;
            // A picture without one stays without: what is missing can then still be told.
            if sample.source != lora_trainer::CaptionSource::Trigger {
                let caption = to.with_extension("txt");
                fs::write(&caption, format!("{}\n", sample.caption)).map_err(writing(&caption))?;
            }
        }
        let files = [
            ("prompts.txt", new.prompts.to_text()),
            ("character.toml", new.settings.to_text(&new.name)),
        ];
        for (name, text) in files {
            let file = made.join(name);
            write_whole(&file, |out| out.write_all(text.as_bytes())).map_err(writing(&file))?;
        }
        fs::rename(&made, &folder).map_err(writing(&folder))?;
        Ok((self.character(&new.name)?, findings))
    }
}

impl Character {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of its pictures.
    pub fn reference_folder(&self) -> PathBuf {
        self.folder.join("reference")
    }

    /// The file of an expression.
    pub fn expression_file(&self, expression: Expression) -> PathBuf {
        let folder = self.folder.join("expressions");
        folder.join(format!("{}.png", expression.name()))
    }

    /// The number that the next LoRA gets: one more than any that is in the folder or on record.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn next_version(&self) -> Result<u32, LibraryError> {
        let folder = self.folder.join("lora");
        fs::create_dir_all(&folder).map_err(writing(&folder))?;
        let mut last = self
            .settings
            .lora
            .iter()
            .map(|lora| lora.version)
            .max()
            .unwrap_or(0);
        for entry in fs::read_dir(&folder).map_err(reading(&folder))? {
            let name = entry.map_err(reading(&folder))?.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix(&format!("{}_v", self.name));
            let number = number.and_then(|rest| rest.strip_suffix(".safetensors"));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                last = last.max(number);
            }
        }
        Ok(last + 1)
    }

    /// The file of a version of its LoRA.
    pub fn lora_file(&self, version: u32) -> PathBuf {
        let name = format!("{}_v{version}.safetensors", self.name);
        self.folder.join("lora").join(name)
    }

    /// The file of the losses of the run that made a LoRA of this name.
    pub fn log_of(&self, lora: &Path) -> PathBuf {
        lora.with_extension("csv")
    }

    /// The newest LoRA whose file is there.
    pub fn newest_lora(&self) -> Option<PathBuf> {
        let next = self.next_version().ok()?;
        let files = (1..next).rev().map(|version| self.lora_file(version));
        files.into_iter().find(|file| file.is_file())
    }

    /// Puts a LoRA on record: `character.toml` gets lines at its end, and keeps all others.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn record(&mut self, version: LoraVersion) -> Result<(), LibraryError> {
        let path = self.folder.join("character.toml");
        let mut text = fs::read_to_string(&path).map_err(reading(&path))?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&version.to_text());
        let settings = parse_toml(&text, &path)?;
        write_whole(&path, |file| file.write_all(text.as_bytes())).map_err(writing(&path))?;
        self.settings = settings;
        Ok(())
    }

    /// Reads its pictures, upright and on white, in the order of their names.
    ///
    /// # Errors
    /// If there is none, or one cannot be read.
    pub fn references(&self) -> Result<Vec<(PathBuf, RgbImage)>, LibraryError> {
        let dataset = Dataset::open(self.reference_folder(), &self.settings.trigger)?;
        let read = |sample: lora_trainer::Sample| {
            let picture =
                read_picture(&sample.picture).map_err(|source| LibraryError::Picture {
                    path: sample.picture.clone(),
                    source,
                })?;
            Ok((sample.picture, on_white(picture)))
        };
        dataset.samples.into_iter().map(read).collect()
    }
}

/// A name that every file system takes as a folder's.
fn check_name(name: &str) -> Result<(), LibraryError> {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() <= 64 && name.chars().all(known) {
        return Ok(());
    }
    Err(LibraryError::Value {
        what: "the character's name".into(),
        found: name.into(),
        expected: "a name of up to 64 letters, digits, - and _, such as mira,".into(),
    })
}

fn reading(path: &Path) -> impl Fn(std::io::Error) -> LibraryError {
    let path = path.to_path_buf();
    move |source| LibraryError::Read {
        path: path.clone(),
        source,
    }
}

fn writing(path: &Path) -> impl Fn(std::io::Error) -> LibraryError {
    let path = path.to_path_buf();
    move |source| LibraryError::Write {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn mira() -> NewCharacter {
        NewCharacter {
            name: "mira".into(),
            pictures: parity::reference().join("pictures10"),
            settings: Settings::recipe("mychar001"),
            prompts: Prompts::recipe("mychar001", 1.3),
        }
    }

    fn go_on(_: usize, _: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn a_library_has_the_recipes_layout() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("drama-assets");
        let model = Some("models/x".to_owned());
        Library::init(&root, LibrarySettings { model }).unwrap();
        let library = Library::open(&root).unwrap();
        assert_eq!(library.settings().model.as_deref(), Some("models/x"));
        let (mira, findings) = library.add(&mira(), go_on).unwrap();
        assert_eq!(findings.pictures, 10);
        assert_eq!(all(&root), ["characters", "episodes", "library.toml"]);
        let inside = [
            "character.toml",
            "expressions",
            "lora",
            "prompts.txt",
            "reference",
        ];
        assert_eq!(all(mira.folder()), inside);
        assert_eq!(all(&mira.reference_folder()).len(), 20);
        assert_eq!(mira.references().unwrap().len(), 10);
        assert_eq!(library.names().unwrap(), ["mira"]);
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::init(dir.path(), LibrarySettings::default()).unwrap();
        let again = Library::init(dir.path(), LibrarySettings::default()).unwrap_err();
        assert!(matches!(again, LibraryError::Exists { .. }), "{again}");
        library.add(&mira(), go_on).unwrap();
        let again = library.add(&mira(), go_on).unwrap_err();
        assert!(
            matches!(again, LibraryError::CharacterExists { .. }) && again.is_input(),
            "{again}"
        );
        let none = library.character("nora").unwrap_err().to_string();
        assert!(none.contains("no character `nora`; it has mira"), "{none}");
        let full = Library::init(parity::reference(), LibrarySettings::default()).unwrap_err();
        assert!(matches!(full, LibraryError::NotEmpty { .. }), "{full}");
    }

    #[test]
    fn breaking_off_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::init(dir.path(), LibrarySettings::default()).unwrap();
        let stop = |at, _| match at {
            4 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let error = library.add(&mira(), stop).unwrap_err();
        assert!(
            matches!(error, LibraryError::Stopped) && !error.is_input(),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(dir.path().join("characters")).unwrap().count(),
            0
        );
    }

    #[test]
    fn versions_go_on_from_the_last_and_remarks_stay() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::init(dir.path(), LibrarySettings::default()).unwrap();
        let (mut mira, _) = library.add(&mira(), go_on).unwrap();
        assert_eq!(
            (mira.next_version().unwrap(), mira.newest_lora()),
            (1, None)
        );
        fs::write(mira.lora_file(3), "x").unwrap();
        fs::write(mira.lora_file(9).with_extension("safetensors.state"), "x").unwrap();
        assert_eq!(mira.next_version().unwrap(), 4);
        assert_eq!(mira.newest_lora(), Some(mira.lora_file(3)));
        let file = mira.folder().join("character.toml");
        let text = fs::read_to_string(&file).unwrap() + "# my own remark";
        fs::write(&file, &text).unwrap();
        let version = LoraVersion {
            version: 4,
            file: "lora/mira_v4.safetensors".into(),
            sha256: "ab".into(),
            base_model: "tiny".into(),
            base_sha256: Some("cd".into()),
            pictures: 10,
            steps: 5,
            rank: 2,
            alpha: 1.0,
            conv_rank: None,
            conv_alpha: None,
            learning_rate: 0.01,
            batch_size: 1,
            resolution: 64,
            seed: 0,
            loss: 0.5,
        };
        mira.record(version.clone()).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with(&text));
        let again = library.character("mira").unwrap();
        assert_eq!(again.settings.lora, [version]);
        assert_eq!(again.next_version().unwrap(), 5);
    }

    #[test]
    fn names_that_are_no_folders_are_refused() {
        for bad in ["", ".", "../mira", "a/b", "-x", "mi ra", "ü"] {
            let error = check_name(bad).unwrap_err().to_string();
            assert!(error.contains("the character's name"), "{bad}: {error}");
        }
    }
}
