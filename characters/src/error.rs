use std::io;
use std::path::PathBuf;

/// Why a library or a character of it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// There is something where a library is to be made.
    #[error("{}: the folder is not empty; name a new one", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// There is a library already.
    #[error("{}: is a library already; `samecast character new` puts a character into it", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a library's mark.
    #[error("{}: is no library, for it has no library.toml; make one by `samecast library init`, or name another by --library", path.display())]
    NoLibrary {
        /// The folder.
        path: PathBuf,
    },
    /// A character that the library does not have.
    #[error("{}: has no character `{name}`; it has {}", library.display(), listed(known))]
    NoCharacter {
        /// The library.
        library: PathBuf,
        /// The name asked for.
        name: String,
        /// The names that it has.
        known: Vec<String>,
    },
    /// A character that the library has already.
    #[error("{}: exists already; give the new character another name", path.display())]
    CharacterExists {
        /// The character's folder.
        path: PathBuf,
    },
    /// A value that cannot be.
    #[error("{what} is {found:?}; {expected} is expected")]
    Value {
        /// Which value.
        what: String,
        /// What was found.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A settings file that cannot be understood.
    #[error("{}: line {line}, `{text}`: {reason}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no picture.
    #[error("{}: is no picture that can be read ({source}); a PNG, JPEG, WebP or BMP file is expected", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// The pictures of the character.
    #[error(transparent)]
    Pictures(#[from] lora_trainer::TrainError),
    /// The caller broke off.
    #[error("stopped; nothing was changed")]
    Stopped,
}

impl LibraryError {
    /// Whether the caller gave something wrong, and not the machine.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Stopped)
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none yet".into(),
        names => names.join(", "),
    }
}
