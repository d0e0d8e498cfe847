use std::fs;
use std::io::{self, Cursor};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use thiserror::Error;

use super::{Character, Easel, Shot, caption, is_trigger};

/// A training folder in kohya's layout: `001.png` with its caption in `001.txt`, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// Whom it shows.
    pub character: &'a Character,
    /// Its pictures, 999 at most.
    pub shots: &'a [Shot],
    /// Their side in pixels.
    pub size: u32,
    /// The word that stands in front of each caption.
    pub trigger: Option<&'a str>,
    /// Whether it may take the place of a folder that was written so before.
    pub force: bool,
}

/// Why a folder was not written.
#[derive(Debug, Error)]
pub enum FolderError {
    /// There is something in the folder.
    #[error("{}: the folder is not empty; --force replaces pictures that were drawn there before", .folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// There is something in the folder that was not written by [`Folder::write`].
    #[error("{}: the folder holds {name}, which is no picture or caption of this program; choose another folder", .folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        name: String,
    },
    /// It is no folder.
    #[error("{}: a folder is expected, and this is a file", .path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
    },
    /// The trigger cannot be told from the caption.
    #[error(
        "the trigger `{trigger}` cannot be told from the caption behind it; a word such as mychar001 is expected"
    )]
    Trigger {
        /// The trigger.
        trigger: String,
    },
    /// It was asked to stop; nothing was changed.
    #[error("stopped; {} was left as it was", .folder.display())]
    Stopped {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: cannot be {what}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl FolderError {
    /// Whether the caller gave something wrong, and not the machine.
    pub fn is_input(&self) -> bool {
        match self {
            Self::NotEmpty { .. }
            | Self::Foreign { .. }
            | Self::NoFolder { .. }
            | Self::Trigger { .. } => true,
            Self::Stopped { .. } | Self::Io { .. } => false,
        }
    }
}

impl Folder<'_> {
    /// Writes the folder whole, or leaves everything as it was: all is written beside it first, and then renamed.
    ///
    /// `go_on` is asked before each picture, with the number of those that are done.
    ///
    /// # Errors
    /// If there is something at `path` already, the trigger is no word, `go_on` breaks, or a file cannot be written.
    ///
    /// # Panics
    /// If the size is not within [`SIZES`](super::SIZES), or there are more than 999 shots.
    pub fn write(
        &self,
        path: &Path,
        mut go_on: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), FolderError> {
        assert!(
            self.shots.len() <= 999,
            "{} shots; a name has three digits",
            self.shots.len()
        );
        if let Some(trigger) = self.trigger
            && !is_trigger(trigger)
        {
            return Err(FolderError::Trigger {
                trigger: trigger.into(),
            });
        }
        let replaced = self.room(path)?;

        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |path: &Path, what| {
            let path = path.to_path_buf();
            move |source| FolderError::Io { path, what, source }
        };
        fs::create_dir_all(parent).map_err(failed(parent, "made"))?;
        // A folder that is dropped is deleted.
        let beside = tempfile::Builder::new()
            .prefix(".puppet-")
            .suffix(".partial")
            .tempdir_in(parent)
            .map_err(failed(parent, "written into"))?;
        let new = beside.path().join("new");
        fs::create_dir(&new).map_err(failed(&new, "made"))?;

        let mut easel = Easel::default();
        let mut picture = RgbImage::new(self.size, self.size);
        for (i, shot) in self.shots.iter().enumerate() {
            if go_on(i).is_break() {
                return Err(FolderError::Stopped {
                    folder: path.to_path_buf(),
                });
            }
            easel.draw_into(self.character, shot, self.size, &mut picture);
            let name = |ending: &str| new.join(format!("{:03}.{ending}", i + 1));
            let mut words = caption(self.character.sex, shot, self.trigger);
            words.push('\n');
            let (png, txt) = (name("png"), name("txt"));
            fs::write(&png, encoded(&picture)).map_err(failed(&png, "written"))?;
            fs::write(&txt, words).map_err(failed(&txt, "written"))?;
        }

        if replaced {
            let old = beside.path().join("old");
            fs::rename(path, &old).map_err(failed(path, "replaced"))?;
            if let Err(source) = fs::rename(&new, path) {
                // Back to how it was; the first error is the one to tell.
                let _ = fs::rename(&old, path);
                return Err(failed(path, "replaced")(source));
            }
            return Ok(());
        }
        fs::rename(&new, path).map_err(failed(path, "made"))
    }

    /// Whether there is a folder to replace.
    fn room(&self, path: &Path) -> Result<bool, FolderError> {
        let failed = |source| FolderError::Io {
            path: path.to_path_buf(),
            what: "read",
            source,
        };
        // The nearest that exists, on the way up from the path.
        let found = path.ancestors().find(|part| part.exists());
        match found {
            Some(file) if !file.is_dir() => {
                return Err(FolderError::NoFolder {
                    path: file.to_path_buf(),
                });
            }
            Some(found) if found == path => {}
            _ => return Ok(false),
        }
        for entry in fs::read_dir(path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !self.force {
                return Err(FolderError::NotEmpty {
                    folder: path.to_path_buf(),
                });
            }
            let name = name.to_string_lossy();
            if !is_ours(&name) {
                return Err(FolderError::Foreign {
                    folder: path.to_path_buf(),
                    name: name.into(),
                });
            }
        }
        Ok(true)
    }
}

/// Whether [`Folder::write`] gives files such names.
fn is_ours(name: &str) -> bool {
    match name.split_once('.') {
        Some((number, "png" | "txt")) => {
            number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    }
}

/// A picture as a PNG file.
fn encoded(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("a PNG in memory can be written");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::super::shots;
    use super::*;

    #[test]
    fn a_run_that_is_stopped_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let out = dir.path().join("mira");
        let character = Character::from_seed(3);
        let shots = shots(5, 0);
        let folder = Folder {
            character: &character,
            shots: &shots,
            size: 64,
            trigger: None,
            force: true,
        };
        let stop_at = |stop| {
            move |done| match done == stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let names = |folder: &Path| fs::read_dir(folder).expect("a folder").count();
        let error = folder.write(&out, stop_at(3)).expect_err("stopped");
        assert!(
            matches!(error, FolderError::Stopped { .. }) && !error.is_input(),
            "{error}"
        );
        assert_eq!(names(dir.path()), 0);

        folder.write(&out, stop_at(9)).expect("five pictures");
        let before = fs::metadata(out.join("001.png"))
            .expect("a picture")
            .modified()
            .expect("a time");
        folder.write(&out, stop_at(4)).expect_err("stopped");
        assert_eq!((names(dir.path()), names(&out)), (1, 10));
        let after = fs::metadata(out.join("001.png"))
            .expect("a picture")
            .modified()
            .expect("a time");
        assert_eq!(before, after);
    }

    #[test]
    fn a_trigger_that_cannot_be_told_apart_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let character = Character::from_seed(3);
        for trigger in ["", " ", "a, b", "a\nb", "a portrait"] {
            let folder = Folder {
                character: &character,
                shots: &[],
                size: 64,
                trigger: Some(trigger),
                force: false,
            };
            let error = folder
                .write(&dir.path().join("mira"), |_| ControlFlow::Continue(()))
                .expect_err("no trigger");
            assert!(
                error.is_input() && error.to_string().contains("mychar001"),
                "{error}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
